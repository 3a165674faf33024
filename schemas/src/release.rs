//! Releases: what deployments made, kept for rollback.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AppSlug, DeploymentRef, EnvironmentName, Timestamp, Untrusted};

/// A kept release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Release {
    /// The deployment that made it, and its name.
    pub release: DeploymentRef,
    /// Whether it serves now.
    pub live: bool,
    /// container or static.
    pub kind: String,
    /// The commit, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// First line of the commit's message or what the caller said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Untrusted>,
    /// Image id of a container release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Size on disk in bytes.
    pub bytes: i64,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Input of `release_list`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseList {
    /// The app's name.
    pub app: AppSlug,
    /// Default: production.
    #[serde(default)]
    pub environment: Option<EnvironmentName>,
}

/// Output of `release_list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReleasePage {
    /// The releases that can be rolled back to, newest first, the live one among them.
    pub releases: Vec<Release>,
}

/// Input of `release_rollback`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRollback {
    /// The app's name.
    pub app: AppSlug,
    /// Default: production.
    #[serde(default)]
    pub environment: Option<EnvironmentName>,
    /// Number of the release to go back to, such as 41. Default: the one that served before.
    #[serde(default)]
    pub to: Option<i64>,
    /// Wait up to this many seconds for the end, at most 50. Default 10.
    #[schemars(range(min = 0, max = 50))]
    #[serde(default)]
    pub wait_s: Option<u32>,
    /// The same key within a day returns the same deployment instead of a second one.
    #[serde(default)]
    pub idempotency_key: Option<String>,
}
