-- The repository of an app on a forge. id is part of the webhook's URL. Sealed: credentials (JSON of Credentials) and
-- secret. seen: JSON of what each branch and tag pointed to at the last look; NULL before the first. Problems and
-- last_*: JSON.

CREATE TABLE repositories (
    id              TEXT   NOT NULL PRIMARY KEY,
    app_id          BIGINT NOT NULL UNIQUE REFERENCES apps (id) ON DELETE CASCADE,
    url             TEXT   NOT NULL,
    forge           TEXT   NOT NULL,
    full_name       TEXT   NOT NULL,
    remote_id       TEXT,
    branch          TEXT,
    auth            TEXT   NOT NULL,
    credentials     TEXT   NOT NULL,
    public_key      TEXT,
    secret          TEXT   NOT NULL,
    forge_hook      TEXT,
    report          BIGINT NOT NULL,
    report_problem  TEXT,
    poll_minutes    BIGINT NOT NULL,
    poll_at         BIGINT NOT NULL,
    polled_at       BIGINT,
    poll_failures   BIGINT NOT NULL DEFAULT 0,
    poll_problem    TEXT,
    seen            TEXT,
    last_delivery   TEXT,
    last_refusal    TEXT,
    created_at      BIGINT NOT NULL,
    created_by      TEXT   NOT NULL
);
CREATE INDEX repositories_by_poll ON repositories (poll_at);

-- Webhooks that were accepted, so that none counts twice: by the forge's id, and by content where that is signed and
-- the id is not.
CREATE TABLE hook_deliveries (
    repository_id   TEXT   NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
    delivery        TEXT   NOT NULL,
    digest          TEXT,
    received_at     BIGINT NOT NULL,
    PRIMARY KEY (repository_id, delivery)
);
CREATE INDEX hook_deliveries_by_digest ON hook_deliveries (repository_id, digest);
CREATE INDEX hook_deliveries_by_age ON hook_deliveries (received_at);

-- What forges are to be told, one row per thing that is told about: wanted is the newest, of which sent has arrived.
-- remote: what the forge calls it (the id of a comment, a deployment).
CREATE TABLE forge_reports (
    id              ROW_ID,
    repository_id   TEXT   NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
    subject         TEXT   NOT NULL,
    body            TEXT   NOT NULL,
    wanted          BIGINT NOT NULL,
    sent            BIGINT NOT NULL DEFAULT 0,
    remote          TEXT,
    attempts        BIGINT NOT NULL DEFAULT 0,
    try_at          BIGINT NOT NULL,
    UNIQUE (repository_id, subject)
);
CREATE INDEX forge_reports_by_time ON forge_reports (try_at);

-- How far readers of the event log have come.
CREATE TABLE event_cursors (
    name    TEXT   NOT NULL PRIMARY KEY,
    event   BIGINT NOT NULL
);
