-- What was pushed, and the deployments that it led to. `moved` names what moved (refs/heads/main, refs/pull/3) and
-- `towards` where to, so that the same thing told twice is one row; JSON of GitChange, GitCommits, PushSource and
-- PushWishes. held_before: the branch waits at this commit until the deployments are live.

CREATE TABLE pushes (
    id              ROW_ID,
    app_id          BIGINT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    origin          TEXT   NOT NULL,
    delivery        TEXT,
    moved           TEXT   NOT NULL,
    towards         TEXT   NOT NULL,
    git_change      TEXT   NOT NULL,
    commits         TEXT   NOT NULL,
    source          TEXT   NOT NULL,
    wishes          TEXT   NOT NULL,
    default_branch  TEXT,
    held_before     TEXT,
    requested_by    TEXT   NOT NULL,
    state           TEXT   NOT NULL,
    outcome         TEXT,
    attempts        BIGINT NOT NULL DEFAULT 0,
    try_at          BIGINT NOT NULL,
    received_at     BIGINT NOT NULL,
    settled_at      BIGINT,
    UNIQUE (app_id, delivery)
);
CREATE INDEX pushes_by_app ON pushes (app_id, id);
CREATE INDEX pushes_by_moved ON pushes (app_id, moved, id);
CREATE INDEX pushes_by_state ON pushes (state, id);

CREATE TABLE push_deployments (
    push_id         BIGINT NOT NULL REFERENCES pushes (id) ON DELETE CASCADE,
    deployment_id   BIGINT NOT NULL REFERENCES deployments (id) ON DELETE CASCADE,
    PRIMARY KEY (push_id, deployment_id)
);
CREATE INDEX push_deployments_by_deployment ON push_deployments (deployment_id);

-- JSON of PushRules; they are no part of a release, so they stand beside the app's settings.
CREATE TABLE push_rules (
    app_id  BIGINT NOT NULL PRIMARY KEY REFERENCES apps (id) ON DELETE CASCADE,
    rules   TEXT   NOT NULL
);
