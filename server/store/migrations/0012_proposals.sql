-- How far a token or grant goes: mode is full, read_only or propose; tools is JSON of names and groups, empty for all.
ALTER TABLE tokens ADD COLUMN mode TEXT NOT NULL DEFAULT 'full';
ALTER TABLE tokens ADD COLUMN tools TEXT NOT NULL DEFAULT '[]';
ALTER TABLE grants ADD COLUMN mode TEXT NOT NULL DEFAULT 'full';

-- Calls that wait for a person. sealed: the arguments, bound to uuid. problem: JSON.
CREATE TABLE proposals (
    id          ROW_ID,
    uuid        TEXT   NOT NULL UNIQUE,
    token_id    BIGINT REFERENCES tokens (id) ON DELETE SET NULL,
    principal   TEXT   NOT NULL,
    client      TEXT,
    tool        TEXT   NOT NULL,
    target      TEXT,
    sealed      TEXT   NOT NULL,
    state       TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    decided_by  TEXT,
    decided_at  BIGINT,
    reason      TEXT,
    problem     TEXT
);
CREATE INDEX proposals_by_state ON proposals (state, id);
CREATE INDEX proposals_by_token ON proposals (token_id);
