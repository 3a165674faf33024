-- Variables that refer to others. What was set before means what it says, so it keeps 0.
ALTER TABLE variables ADD COLUMN refers BIGINT NOT NULL DEFAULT 0;
ALTER TABLE group_variables ADD COLUMN refers BIGINT NOT NULL DEFAULT 0;
ALTER TABLE variable_versions ADD COLUMN refers BIGINT NOT NULL DEFAULT 0;
