-- Errors of apps: what was accepted and waits, issues, their events, and what belongs to them.
CREATE TABLE error_intake (
    id ROW_ID,
    environment_id BIGINT NOT NULL,
    app_id BIGINT NOT NULL,
    received_at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    event_id TEXT,
    name TEXT,
    body BYTES NOT NULL
);

CREATE TABLE error_issues (
    id ROW_ID,
    app_id BIGINT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    number BIGINT NOT NULL,
    state TEXT NOT NULL,
    regressed BIGINT NOT NULL DEFAULT 0,
    kind TEXT NOT NULL,
    value TEXT NOT NULL,
    culprit TEXT,
    level TEXT NOT NULL,
    platform TEXT NOT NULL,
    handled BIGINT,
    events BIGINT NOT NULL,
    users BIGINT NOT NULL,
    first_seen BIGINT NOT NULL,
    last_seen BIGINT NOT NULL,
    first_release TEXT,
    assignee TEXT,
    reasons TEXT NOT NULL,
    -- What ends the state: the newest release there was when it was resolved; a time, events or users for what is ignored.
    resolved_at BIGINT,
    resolved_release BIGINT,
    in_next_release BIGINT NOT NULL DEFAULT 0,
    ignored_until BIGINT,
    ignored_events BIGINT,
    ignored_users BIGINT,
    UNIQUE (app_id, number)
);
CREATE INDEX error_issues_seen ON error_issues (app_id, last_seen);

CREATE TABLE error_groupings (
    grouping_key TEXT NOT NULL PRIMARY KEY,
    issue_id BIGINT NOT NULL REFERENCES error_issues (id) ON DELETE CASCADE
);
CREATE INDEX error_groupings_issue ON error_groupings (issue_id);

CREATE TABLE error_events (
    id ROW_ID,
    app_id BIGINT NOT NULL,
    environment_id BIGINT NOT NULL REFERENCES environments (id) ON DELETE CASCADE,
    issue_id BIGINT NOT NULL REFERENCES error_issues (id) ON DELETE CASCADE,
    event_id TEXT NOT NULL,
    at BIGINT NOT NULL,
    release_id BIGINT,
    grouping_key TEXT NOT NULL,
    user_key TEXT,
    body BYTES NOT NULL,
    UNIQUE (app_id, event_id)
);
CREATE INDEX error_events_issue ON error_events (issue_id, id);
CREATE INDEX error_events_user ON error_events (app_id, user_key);
CREATE INDEX error_events_release ON error_events (app_id, release_id);

CREATE TABLE error_hours (
    issue_id BIGINT NOT NULL REFERENCES error_issues (id) ON DELETE CASCADE,
    environment_id BIGINT NOT NULL,
    hour BIGINT NOT NULL,
    events BIGINT NOT NULL,
    PRIMARY KEY (issue_id, environment_id, hour)
);

CREATE TABLE error_users (
    issue_id BIGINT NOT NULL REFERENCES error_issues (id) ON DELETE CASCADE,
    user_key TEXT NOT NULL,
    PRIMARY KEY (issue_id, user_key)
);

-- Releases as clients name them, in the order in which they were first seen.
CREATE TABLE error_releases (
    id ROW_ID,
    app_id BIGINT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    first_seen BIGINT NOT NULL,
    UNIQUE (app_id, name)
);

CREATE TABLE error_attachments (
    id ROW_ID,
    app_id BIGINT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    event_id TEXT NOT NULL,
    name TEXT NOT NULL,
    bytes BIGINT NOT NULL,
    at BIGINT NOT NULL,
    body BYTES NOT NULL
);
CREATE INDEX error_attachments_event ON error_attachments (app_id, event_id);

CREATE TABLE error_feedback (
    id ROW_ID,
    app_id BIGINT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    event_id TEXT,
    at BIGINT NOT NULL,
    name TEXT,
    email TEXT,
    message TEXT NOT NULL
);
CREATE INDEX error_feedback_event ON error_feedback (app_id, event_id);

-- What other parts will own, as it came: sessions, spans, logs, metrics, check-ins, replays, profiles.
CREATE TABLE telemetry (
    id ROW_ID,
    app_id BIGINT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    environment_id BIGINT NOT NULL,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    event_id TEXT,
    body BYTES NOT NULL
);
CREATE INDEX telemetry_kind ON telemetry (app_id, kind, id);

CREATE TABLE error_counts (
    environment_id BIGINT NOT NULL,
    hour BIGINT NOT NULL,
    category TEXT NOT NULL,
    reason TEXT NOT NULL,
    count BIGINT NOT NULL,
    PRIMARY KEY (environment_id, hour, category, reason)
);

-- The last number that an issue of an app got; none is given twice.
CREATE TABLE error_numbers (
    app_id BIGINT NOT NULL PRIMARY KEY REFERENCES apps (id) ON DELETE CASCADE,
    last BIGINT NOT NULL
);

CREATE TABLE error_settings (
    app_id BIGINT NOT NULL PRIMARY KEY REFERENCES apps (id) ON DELETE CASCADE,
    settings TEXT NOT NULL
);
