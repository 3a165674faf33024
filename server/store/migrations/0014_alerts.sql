-- Who is told of errors, and what was sent.
CREATE TABLE channels (
    name TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    sealed TEXT NOT NULL,
    shown TEXT NOT NULL,
    updated_at BIGINT NOT NULL,
    updated_by TEXT NOT NULL
);

CREATE TABLE alert_rules (
    name TEXT NOT NULL PRIMARY KEY,
    app_id BIGINT REFERENCES apps (id) ON DELETE CASCADE,
    rule TEXT NOT NULL
);

CREATE TABLE alert_quiet (
    rule_name TEXT NOT NULL REFERENCES alert_rules (name) ON DELETE CASCADE,
    issue_id BIGINT NOT NULL REFERENCES error_issues (id) ON DELETE CASCADE,
    until BIGINT NOT NULL,
    PRIMARY KEY (rule_name, issue_id)
);

CREATE TABLE alert_deliveries (
    id ROW_ID,
    rule_name TEXT NOT NULL,
    channel TEXT NOT NULL,
    issues TEXT NOT NULL,
    message TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts BIGINT NOT NULL DEFAULT 0,
    try_at BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    error TEXT
);
CREATE INDEX alert_deliveries_due ON alert_deliveries (state, try_at);
