-- Domains with the rules that the data plane enforces, their certificates, and what is asked of certificate
-- authorities.

CREATE TABLE domains (
    id              ROW_ID,
    name            TEXT   NOT NULL UNIQUE,
    app_id          BIGINT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    environment_id  BIGINT NOT NULL REFERENCES environments (id) ON DELETE CASCADE,
    redirect_to     TEXT,
    challenge       TEXT,
    rules           TEXT   NOT NULL DEFAULT '{}',
    created_at      BIGINT NOT NULL,
    created_by      TEXT   NOT NULL
);
CREATE INDEX domains_by_app ON domains (app_id, name);
CREATE INDEX domains_by_environment ON domains (environment_id);

-- One per name that wants one, which need not be a domain: apps have names of their own. names: JSON of all names
-- that the certificate is for. own: somebody attached it.
CREATE TABLE certificates (
    name            TEXT   NOT NULL PRIMARY KEY,
    names           TEXT   NOT NULL,
    chain           TEXT   NOT NULL,
    sealed_key      TEXT   NOT NULL,
    issuer          TEXT   NOT NULL,
    fingerprint     TEXT   NOT NULL,
    own             BIGINT NOT NULL,
    directory       TEXT,
    not_before      BIGINT NOT NULL,
    not_after       BIGINT NOT NULL,
    renew_at        BIGINT,
    asked_at        BIGINT,
    created_at      BIGINT NOT NULL
);

-- url: where the order lives at the authority. sealed_key: the key of the certificate that was asked for.
CREATE TABLE orders (
    id              ROW_ID,
    name            TEXT   NOT NULL,
    directory       TEXT   NOT NULL,
    challenge       TEXT   NOT NULL,
    renewal         BIGINT NOT NULL,
    state           TEXT   NOT NULL,
    url             TEXT,
    sealed_key      TEXT,
    trouble         TEXT,
    fault           TEXT,
    next_try_at     BIGINT,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL
);
CREATE INDEX orders_by_name ON orders (name, id);
CREATE INDEX orders_by_state ON orders (state);
CREATE INDEX orders_by_age ON orders (directory, created_at);

CREATE TABLE acme_accounts (
    directory       TEXT   NOT NULL PRIMARY KEY,
    sealed          TEXT   NOT NULL,
    created_at      BIGINT NOT NULL
);

-- sealed: credentials as JSON. zones: JSON of names. found: all zones that the credentials reach are meant, and zones
-- are those found so far.
CREATE TABLE dns_providers (
    name            TEXT   NOT NULL PRIMARY KEY,
    kind            TEXT   NOT NULL,
    sealed          TEXT   NOT NULL,
    zones           TEXT   NOT NULL,
    found           BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    updated_by      TEXT   NOT NULL
);
