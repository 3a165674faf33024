-- The first schema. ROW_ID stands for an identity column: it is the only word that SQLite and PostgreSQL
-- spell differently. Times are microseconds UTC, truth values 0 or 1, JSON and sealed values TEXT.

CREATE TABLE installation (
    id          BIGINT NOT NULL PRIMARY KEY,
    instance    TEXT   NOT NULL,
    canary      TEXT   NOT NULL,
    created_at  BIGINT NOT NULL
);

CREATE TABLE projects (
    id          ROW_ID,
    slug        TEXT   NOT NULL UNIQUE,
    created_at  BIGINT NOT NULL
);

CREATE TABLE apps (
    id              ROW_ID,
    uuid            TEXT   NOT NULL UNIQUE,
    project_id      BIGINT NOT NULL REFERENCES projects (id),
    slug            TEXT   NOT NULL UNIQUE,
    settings        TEXT   NOT NULL,
    deleting        BIGINT NOT NULL DEFAULT 0,
    last_number     BIGINT NOT NULL DEFAULT 0,
    created_at      BIGINT NOT NULL,
    configured_at   BIGINT NOT NULL
);
CREATE INDEX apps_by_project ON apps (project_id, slug);

CREATE TABLE environments (
    id          ROW_ID,
    app_id      BIGINT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    name        TEXT   NOT NULL,
    live_id     BIGINT,
    stopped     BIGINT NOT NULL DEFAULT 0,
    replicas    BIGINT NOT NULL DEFAULT 1,
    UNIQUE (app_id, name)
);

CREATE TABLE variables (
    environment_id  BIGINT NOT NULL REFERENCES environments (id) ON DELETE CASCADE,
    name            TEXT   NOT NULL,
    sealed          TEXT   NOT NULL,
    secret          BIGINT NOT NULL,
    build           BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    updated_by      TEXT   NOT NULL,
    PRIMARY KEY (environment_id, name)
);

CREATE TABLE deployments (
    id                  ROW_ID,
    app_id              BIGINT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    environment_id      BIGINT NOT NULL REFERENCES environments (id) ON DELETE CASCADE,
    number              BIGINT NOT NULL,
    state               TEXT   NOT NULL,
    source              TEXT   NOT NULL,
    upload_id           TEXT,
    release_id          BIGINT,
    commit_sha          TEXT,
    message             TEXT,
    requested_by        TEXT   NOT NULL,
    no_cache            BIGINT NOT NULL,
    build_plan          TEXT,
    problem             TEXT,
    warnings            TEXT   NOT NULL DEFAULT '[]',
    cancel_requested    BIGINT NOT NULL DEFAULT 0,
    attempt             BIGINT NOT NULL DEFAULT 0,
    last_line           BIGINT NOT NULL DEFAULT 0,
    created_at          BIGINT NOT NULL,
    finished_at         BIGINT,
    UNIQUE (app_id, number)
);
CREATE INDEX deployments_by_state ON deployments (state);
CREATE INDEX deployments_by_environment ON deployments (environment_id, id);
CREATE INDEX deployments_by_upload ON deployments (upload_id);

CREATE TABLE transitions (
    id              ROW_ID,
    deployment_id   BIGINT NOT NULL REFERENCES deployments (id) ON DELETE CASCADE,
    state           TEXT   NOT NULL,
    reason          TEXT,
    at              BIGINT NOT NULL
);
CREATE INDEX transitions_by_deployment ON transitions (deployment_id, id);

CREATE TABLE build_lines (
    deployment_id   BIGINT NOT NULL REFERENCES deployments (id) ON DELETE CASCADE,
    line            BIGINT NOT NULL,
    at              BIGINT NOT NULL,
    state           TEXT   NOT NULL,
    kind            TEXT   NOT NULL,
    step            TEXT,
    text            TEXT   NOT NULL,
    PRIMARY KEY (deployment_id, line)
);

CREATE TABLE releases (
    id              ROW_ID,
    app_id          BIGINT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    environment_id  BIGINT NOT NULL REFERENCES environments (id) ON DELETE CASCADE,
    deployment_id   BIGINT NOT NULL UNIQUE REFERENCES deployments (id) ON DELETE CASCADE,
    artifact        TEXT   NOT NULL,
    settings        TEXT   NOT NULL,
    variables       TEXT   NOT NULL,
    bytes           BIGINT NOT NULL,
    removed         BIGINT NOT NULL DEFAULT 0,
    created_at      BIGINT NOT NULL,
    live_at         BIGINT
);
CREATE INDEX releases_by_environment ON releases (environment_id, id);
CREATE INDEX releases_by_app ON releases (app_id);

-- Jobs and events outlive the app that they are about, so they name it instead of referring to it.
CREATE TABLE jobs (
    id          TEXT   NOT NULL PRIMARY KEY,
    kind        TEXT   NOT NULL,
    app_id      BIGINT,
    app         TEXT,
    project_id  BIGINT,
    input       TEXT   NOT NULL,
    state       TEXT   NOT NULL,
    message     TEXT,
    problem     TEXT,
    requested_by TEXT  NOT NULL,
    created_at  BIGINT NOT NULL,
    started_at  BIGINT,
    finished_at BIGINT
);
CREATE INDEX jobs_by_state ON jobs (state, created_at);

CREATE TABLE events (
    id          ROW_ID,
    at          BIGINT NOT NULL,
    kind        TEXT   NOT NULL,
    caused_by   TEXT   NOT NULL,
    app_id      BIGINT,
    app         TEXT,
    project_id  BIGINT,
    summary     TEXT   NOT NULL,
    data        TEXT   NOT NULL
);
CREATE INDEX events_by_app ON events (app, id);
CREATE INDEX events_by_project ON events (project_id, id);

CREATE TABLE tokens (
    id              ROW_ID,
    name            TEXT   NOT NULL UNIQUE,
    hash            TEXT   NOT NULL UNIQUE,
    prefix          TEXT   NOT NULL,
    scopes          TEXT   NOT NULL,
    restricted      BIGINT NOT NULL,
    created_at      BIGINT NOT NULL,
    expires_at      BIGINT,
    last_used_at    BIGINT
);

CREATE TABLE token_projects (
    token_id    BIGINT NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
    project_id  BIGINT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    PRIMARY KEY (token_id, project_id)
);
CREATE INDEX token_projects_by_project ON token_projects (project_id);

CREATE TABLE uploads (
    id          TEXT   NOT NULL PRIMARY KEY,
    bytes       BIGINT NOT NULL,
    sha256      TEXT   NOT NULL,
    sent_by     TEXT   NOT NULL,
    created_at  BIGINT NOT NULL
);
CREATE INDEX uploads_by_age ON uploads (created_at);

CREATE TABLE idempotency (
    principal   TEXT   NOT NULL,
    tool        TEXT   NOT NULL,
    call_key    TEXT   NOT NULL,
    result      TEXT,
    created_at  BIGINT NOT NULL,
    PRIMARY KEY (principal, tool, call_key)
);
CREATE INDEX idempotency_by_age ON idempotency (created_at);

-- What apps print and visitors ask arrives in batches that may name an app that was deleted a moment ago:
-- no foreign keys here. `bytes` is what a row counts for when space is limited.
CREATE TABLE log_lines (
    id              ROW_ID,
    app_id          BIGINT NOT NULL,
    release_number  BIGINT NOT NULL,
    replica         BIGINT NOT NULL,
    stream          BIGINT NOT NULL,
    level           BIGINT NOT NULL,
    at              BIGINT NOT NULL,
    bytes           BIGINT NOT NULL,
    text            TEXT   NOT NULL
);
CREATE INDEX log_lines_by_app ON log_lines (app_id, id);

-- How far each output stream of each container was read.
CREATE TABLE log_positions (
    container   TEXT   NOT NULL,
    stream      BIGINT NOT NULL,
    app_id      BIGINT NOT NULL,
    at_nanos    BIGINT NOT NULL,
    repeats     BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL,
    PRIMARY KEY (container, stream)
);

CREATE TABLE requests (
    id              ROW_ID,
    app_id          BIGINT NOT NULL,
    at              BIGINT NOT NULL,
    request_id      TEXT   NOT NULL,
    method          TEXT   NOT NULL,
    host            TEXT   NOT NULL,
    path            TEXT   NOT NULL,
    status          BIGINT NOT NULL,
    bytes_in        BIGINT NOT NULL,
    bytes_out       BIGINT NOT NULL,
    micros          BIGINT NOT NULL,
    app_micros      BIGINT,
    release_number  BIGINT,
    error           TEXT,
    bytes           BIGINT NOT NULL
);
CREATE INDEX requests_by_app ON requests (app_id, at);

-- How many rows and bytes the tables that are limited by size hold.
CREATE TABLE volumes (
    name    TEXT   NOT NULL PRIMARY KEY,
    entries BIGINT NOT NULL,
    bytes   BIGINT NOT NULL
);
INSERT INTO volumes (name, entries, bytes) VALUES ('log_lines', 0, 0), ('requests', 0, 0);
