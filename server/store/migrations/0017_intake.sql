-- How far the intake, a file of its own, was read. The table of before is emptied at the next start.
CREATE TABLE error_intake_done (
    id BIGINT NOT NULL PRIMARY KEY,
    through BIGINT NOT NULL
);
INSERT INTO error_intake_done (id, through) VALUES (1, 0);

-- What is told of releases, summed up as events come: an index over all events would be written to at random places.
CREATE TABLE error_issue_releases (
    issue_id BIGINT NOT NULL REFERENCES error_issues (id) ON DELETE CASCADE,
    release_id BIGINT NOT NULL REFERENCES error_releases (id) ON DELETE CASCADE,
    events BIGINT NOT NULL,
    PRIMARY KEY (issue_id, release_id)
) KEYED;
CREATE INDEX error_issue_releases_release ON error_issue_releases (release_id);
INSERT INTO error_issue_releases (issue_id, release_id, events)
    SELECT e.issue_id, e.release_id, COUNT(*) FROM error_events e JOIN error_releases r ON r.id = e.release_id
    GROUP BY e.issue_id, e.release_id;
CREATE TABLE error_release_users (
    release_id BIGINT NOT NULL REFERENCES error_releases (id) ON DELETE CASCADE,
    user_key TEXT NOT NULL,
    PRIMARY KEY (release_id, user_key)
) KEYED;
INSERT INTO error_release_users (release_id, user_key)
    SELECT DISTINCT e.release_id, e.user_key FROM error_events e JOIN error_releases r ON r.id = e.release_id
    WHERE e.user_key IS NOT NULL;
DROP INDEX error_events_issue_release;
DROP INDEX error_events_release;

-- One tree, not two.
CREATE TABLE error_users_keyed (
    issue_id BIGINT NOT NULL REFERENCES error_issues (id) ON DELETE CASCADE,
    user_key TEXT NOT NULL,
    PRIMARY KEY (issue_id, user_key)
) KEYED;
INSERT INTO error_users_keyed (issue_id, user_key) SELECT issue_id, user_key FROM error_users;
DROP TABLE error_users;
ALTER TABLE error_users_keyed RENAME TO error_users;

-- Each app keeps its own for a time of its own, and looking for what is old must not read all.
CREATE INDEX error_attachments_at ON error_attachments (app_id, at);
CREATE INDEX error_feedback_at ON error_feedback (app_id, at);
CREATE INDEX telemetry_at ON telemetry (app_id, at);
