-- The upload that a proposed call is about: it is kept as long as the proposal can be approved.
ALTER TABLE proposals ADD COLUMN upload_id TEXT;
CREATE INDEX proposals_by_upload ON proposals (upload_id);
