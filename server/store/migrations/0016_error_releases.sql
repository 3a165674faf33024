-- Releases of an issue are counted without its events' bodies, and so are events, issues and users of a release.
CREATE INDEX error_events_issue_release ON error_events (issue_id, release_id);
DROP INDEX error_events_release;
CREATE INDEX error_events_release ON error_events (app_id, release_id, issue_id, user_key);
