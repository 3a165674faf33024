-- Apps with several environments: production, named ones, and previews of branches and pull requests.

ALTER TABLE environments ADD COLUMN kind TEXT NOT NULL DEFAULT 'production';
-- The branch that deploys there. Of two environments of an app at most one has it.
ALTER TABLE environments ADD COLUMN branch TEXT;
ALTER TABLE environments ADD COLUMN created_at BIGINT NOT NULL DEFAULT 0;
-- When its own variables last changed; what all environments share is noted with the app.
ALTER TABLE environments ADD COLUMN configured_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE environments ADD COLUMN deleting BIGINT NOT NULL DEFAULT 0;
UPDATE environments SET created_at = (SELECT a.created_at FROM apps a WHERE a.id = environments.app_id);
CREATE UNIQUE INDEX environments_by_branch ON environments (app_id, branch);

-- What only a preview has. offer: JSON of what was offered last (commit, source, message); approved: the commit of
-- a fork that somebody allowed to run.
CREATE TABLE previews (
    environment_id  BIGINT NOT NULL PRIMARY KEY REFERENCES environments (id) ON DELETE CASCADE,
    app_id          BIGINT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    head            TEXT   NOT NULL,
    pull            BIGINT,
    fork            BIGINT NOT NULL,
    offer           TEXT,
    approved        TEXT,
    expires_at      BIGINT,
    last_request_at BIGINT NOT NULL,
    sleeping        BIGINT NOT NULL DEFAULT 0,
    UNIQUE (app_id, pull)
);

-- The environment that a job works on; NULL where it works on the app as a whole, or on none.
ALTER TABLE jobs ADD COLUMN environment_id BIGINT;
ALTER TABLE jobs ADD COLUMN environment TEXT;

-- Variables that all environments of an app share, or all of its previews (scope). An environment's own go before the
-- previews', and those before the shared ones.
CREATE TABLE group_variables (
    app_id      BIGINT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    scope       TEXT   NOT NULL,
    name        TEXT   NOT NULL,
    sealed      TEXT   NOT NULL,
    secret      BIGINT NOT NULL,
    build       BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL,
    updated_by  TEXT   NOT NULL,
    PRIMARY KEY (app_id, scope, name)
);

-- Each value that a variable had. holder: which environment or group of which app; sealed: NULL where it was deleted.
CREATE TABLE variable_versions (
    app_id          BIGINT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    environment_id  BIGINT REFERENCES environments (id) ON DELETE CASCADE,
    holder          TEXT   NOT NULL,
    name            TEXT   NOT NULL,
    version         BIGINT NOT NULL,
    sealed          TEXT,
    secret          BIGINT NOT NULL,
    build           BIGINT NOT NULL,
    at              BIGINT NOT NULL,
    by_whom         TEXT   NOT NULL,
    PRIMARY KEY (holder, name, version)
);
CREATE INDEX variable_versions_by_app ON variable_versions (app_id);
CREATE INDEX variable_versions_by_environment ON variable_versions (environment_id);
