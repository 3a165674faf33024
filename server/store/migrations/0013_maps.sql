-- Source maps of apps, as caches below maps/, and what waits for one.
CREATE TABLE error_maps (
    id ROW_ID,
    app_id BIGINT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    -- By one of these an event names its map: a debug id, or a release and a file of it.
    debug_id TEXT,
    release_name TEXT,
    url TEXT NOT NULL,
    file TEXT NOT NULL,
    bytes BIGINT NOT NULL,
    at BIGINT NOT NULL
);
CREATE INDEX error_maps_debug ON error_maps (app_id, debug_id);
CREATE INDEX error_maps_release ON error_maps (app_id, release_name, url);

CREATE TABLE error_unmapped (
    event_row BIGINT NOT NULL REFERENCES error_events (id) ON DELETE CASCADE,
    app_id BIGINT NOT NULL,
    debug_id TEXT NOT NULL,
    release_name TEXT NOT NULL,
    url TEXT NOT NULL,
    PRIMARY KEY (event_row, debug_id, url)
);
CREATE INDEX error_unmapped_debug ON error_unmapped (app_id, debug_id);

-- What clients of the release API tell of a release: its commits as JSON, newest first.
ALTER TABLE error_releases ADD COLUMN commits TEXT;
ALTER TABLE error_releases ADD COLUMN released_at BIGINT;
