-- The release whose source maps are still to be taken out of its image, as its errors name it; none once that is done.
ALTER TABLE releases ADD COLUMN maps_of TEXT;
ALTER TABLE releases ADD COLUMN maps_tries BIGINT NOT NULL DEFAULT 0;
CREATE INDEX releases_maps ON releases (app_id) WHERE maps_of IS NOT NULL;

-- What people decided about an issue binds what source maps say of it.
ALTER TABLE error_issues ADD COLUMN merged_by_hand BIGINT NOT NULL DEFAULT 0;
ALTER TABLE error_issues ADD COLUMN split_by_hand BIGINT NOT NULL DEFAULT 0;
