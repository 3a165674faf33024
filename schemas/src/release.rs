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
    #[schemars(extend("x-detail" = true))]
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
    /// Default: all that fit.
    #[schemars(range(min = 1, max = 500))]
    #[serde(default)]
    pub limit: Option<u32>,
    /// Cursor of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
}

/// Output of `release_list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReleasePage {
    /// The releases that can be rolled back to, newest first, the live one among them.
    pub releases: Vec<Release>,
    /// Pass as `cursor` for the next page; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Which variables a release that is brought back runs with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum RollbackVariables {
    /// Those that it had.
    #[default]
    AsThen,
    /// Those of now, and the settings of now.
    Today,
}

/// Input of `release_promote`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleasePromote {
    /// The app's name.
    pub app: AppSlug,
    /// The environment that has the release, such as a preview.
    pub from: EnvironmentName,
    /// The environment that gets it. Default: production.
    #[serde(default)]
    pub to: Option<EnvironmentName>,
    /// Number of the release, such as 41. Default: the one that serves there.
    #[serde(default)]
    pub release: Option<i64>,
    /// Wait up to this many seconds for the end, at most 50. Default 10.
    #[schemars(range(min = 0, max = 50))]
    #[serde(default)]
    pub wait_s: Option<u32>,
    /// The same key within a day returns the same deployment instead of a second one.
    #[serde(default)]
    pub idempotency_key: Option<String>,
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
    /// Variables it runs with. Default: as_then.
    #[serde(default)]
    pub variables: RollbackVariables,
    /// Wait up to this many seconds for the end, at most 50. Default 10.
    #[schemars(range(min = 0, max = 50))]
    #[serde(default)]
    pub wait_s: Option<u32>,
    /// The same key within a day returns the same deployment instead of a second one.
    #[serde(default)]
    pub idempotency_key: Option<String>,
}
