-- Where releases were seen: comparing two asks for one environment, and maps of what is seen nowhere any more can go.
CREATE TABLE error_release_places (
    release_id BIGINT NOT NULL REFERENCES error_releases (id) ON DELETE CASCADE,
    environment_id BIGINT NOT NULL REFERENCES environments (id) ON DELETE CASCADE,
    first_seen BIGINT NOT NULL,
    last_seen BIGINT NOT NULL,
    PRIMARY KEY (release_id, environment_id)
) KEYED;
INSERT INTO error_release_places (release_id, environment_id, first_seen, last_seen)
    SELECT e.release_id, e.environment_id, MIN(e.at), MAX(e.at) FROM error_events e
    JOIN error_releases r ON r.id = e.release_id GROUP BY e.release_id, e.environment_id;

-- Messages of a channel are limited by the hour; since when one waits for that.
ALTER TABLE channels ADD COLUMN max_per_hour BIGINT NOT NULL DEFAULT 30;
ALTER TABLE alert_deliveries ADD COLUMN held_since BIGINT;
CREATE INDEX alert_deliveries_rule ON alert_deliveries (rule_name, channel, id);
CREATE INDEX alert_deliveries_channel ON alert_deliveries (channel, state, try_at);

-- When a map was last read, noted about once a day.
ALTER TABLE error_maps ADD COLUMN used_at BIGINT;
