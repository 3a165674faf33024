-- Clients that registered themselves with the authorization server. redirects: JSON.
CREATE TABLE oauth_clients (
    id          TEXT   NOT NULL PRIMARY KEY,
    name        TEXT   NOT NULL,
    redirects   TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    used_at     BIGINT
);
CREATE INDEX oauth_clients_by_age ON oauth_clients (created_at);

-- What a person allowed a client to do, out of what that person's token may. scopes: JSON. projects: JSON of their ids,
-- NULL for those of the token.
CREATE TABLE grants (
    id          TEXT   NOT NULL PRIMARY KEY,
    token_id    BIGINT NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
    client_id   TEXT   NOT NULL,
    client_name TEXT   NOT NULL,
    redirect    TEXT   NOT NULL,
    resource    TEXT   NOT NULL,
    scopes      TEXT   NOT NULL,
    projects    TEXT,
    created_at  BIGINT NOT NULL,
    expires_at  BIGINT NOT NULL,
    used_at     BIGINT
);
CREATE INDEX grants_by_client ON grants (client_id);
CREATE INDEX grants_by_token ON grants (token_id);

-- Access and refresh tokens of grants by their hashes. A refresh token that was used stays, so that a second use is
-- noticed.
CREATE TABLE grant_secrets (
    hash        TEXT   NOT NULL PRIMARY KEY,
    grant_id    TEXT   NOT NULL REFERENCES grants (id) ON DELETE CASCADE,
    kind        TEXT   NOT NULL,
    expires_at  BIGINT NOT NULL,
    used_at     BIGINT
);
CREATE INDEX grant_secrets_by_grant ON grant_secrets (grant_id);
CREATE INDEX grant_secrets_by_expiry ON grant_secrets (expires_at);

-- Authorization codes by their hashes, with what was approved (JSON), and the grant that one became.
CREATE TABLE grant_codes (
    hash        TEXT   NOT NULL PRIMARY KEY,
    token_id    BIGINT NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
    approved    TEXT   NOT NULL,
    expires_at  BIGINT NOT NULL,
    grant_id    TEXT   REFERENCES grants (id) ON DELETE CASCADE
);
CREATE INDEX grant_codes_by_token ON grant_codes (token_id);
CREATE INDEX grant_codes_by_grant ON grant_codes (grant_id);
