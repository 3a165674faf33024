-- Keys of DSNs, where one took the place of another: a key itself is kept nowhere, as it follows from its number and the
-- installation's key. The first one of an environment has the number 0, and no row until it is replaced.
CREATE TABLE error_keys (
    environment_id BIGINT NOT NULL REFERENCES environments (id) ON DELETE CASCADE,
    number BIGINT NOT NULL,
    made_at BIGINT,
    ends_at BIGINT,
    shown_at BIGINT,
    PRIMARY KEY (environment_id, number)
) KEYED;
