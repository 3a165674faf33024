//! Uploaded source archives.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Timestamp, ids::UploadId};

/// Answer of `POST /v1/uploads`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Upload {
    /// Id to pass to `deployment_create` as `upload`.
    pub upload: UploadId,
    /// Bytes received.
    pub bytes: i64,
    /// SHA-256 of what was received, in hex.
    pub sha256: String,
    /// When it is removed if no deployment uses it and no proposal that waits names it.
    pub expires_at: Timestamp,
}
