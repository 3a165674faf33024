-- What visitors meet besides the live release (traffic: JSON of TrafficMode), gradual rollouts, what makes two
-- deployments the same, cancelling jobs, and which records of the engine's build cache came from Berth's builds.

ALTER TABLE environments ADD COLUMN traffic TEXT NOT NULL DEFAULT '{"mode":"open"}';

-- rollout: JSON of the rule by which a release gets a part of the traffic; NULL for a deployment that takes all.
ALTER TABLE deployments ADD COLUMN rollout TEXT;
ALTER TABLE deployments ADD COLUMN promote_requested BIGINT NOT NULL DEFAULT 0;
-- Names what it brings: the commit, the source's hash, the image. NULL where nothing can be compared.
ALTER TABLE deployments ADD COLUMN source_key TEXT;

ALTER TABLE jobs ADD COLUMN cancel_requested BIGINT NOT NULL DEFAULT 0;

CREATE TABLE build_cache (
    record      TEXT   NOT NULL PRIMARY KEY,
    seen_at     BIGINT NOT NULL
);
