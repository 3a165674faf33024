-- Calls of tools. outcome is NULL while a call runs, and stays so if the daemon ends before. No argument is kept but
-- the names of what a call is about (target).
CREATE TABLE calls (
    id          ROW_ID,
    at          BIGINT NOT NULL,
    principal   TEXT   NOT NULL,
    grant_id    TEXT,
    client      TEXT,
    surface     TEXT   NOT NULL,
    tool        TEXT   NOT NULL,
    target      TEXT,
    outcome     TEXT,
    duration    BIGINT,
    request_id  TEXT
);
CREATE INDEX calls_by_time ON calls (at);
CREATE INDEX calls_by_tool ON calls (tool, id);
CREATE INDEX calls_by_principal ON calls (principal, id);
