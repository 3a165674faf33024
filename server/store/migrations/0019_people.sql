-- Where feedback was given, so that it is found without an event.
ALTER TABLE error_feedback ADD COLUMN environment_id BIGINT;
ALTER TABLE error_feedback ADD COLUMN url TEXT;
-- Its own id, by which its files name it; event_id is what it is about.
ALTER TABLE error_feedback ADD COLUMN own_id TEXT;
UPDATE error_feedback SET environment_id = (SELECT e.environment_id FROM error_events e
    WHERE e.app_id = error_feedback.app_id AND e.event_id = error_feedback.event_id);

-- What an attachment is by its bytes, as no client's word is taken for it; none for those from before.
ALTER TABLE error_attachments ADD COLUMN media_type TEXT;
