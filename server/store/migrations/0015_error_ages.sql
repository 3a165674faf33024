-- Each app keeps its events for a time of its own.
CREATE INDEX error_events_at ON error_events (app_id, at);

-- Maps that came with a deployment: events find them also by the place of the file alone.
ALTER TABLE error_maps ADD COLUMN deployed BIGINT NOT NULL DEFAULT 0;
CREATE INDEX error_maps_deployed ON error_maps (app_id, deployed, url);
