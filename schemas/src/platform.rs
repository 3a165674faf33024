//! The platform itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Timestamp, job::JobHandle};

/// Input of `platform_status`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlatformStatusGet {}

/// Output of `platform_status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlatformStatus {
    /// Whether nothing needs attention.
    pub healthy: bool,
    /// What needs attention, one sentence each with what to do.
    pub attention: Vec<String>,
    /// Version of Berth.
    pub version: String,
    /// Since when the daemon runs.
    pub started_at: Timestamp,
    /// Docker, if it answers.
    pub docker: DockerStatus,
    /// The disk of the data directory.
    pub disk: DiskStatus,
    /// sqlite or postgresql.
    pub store: String,
    /// Resident memory of the daemon in bytes.
    pub memory_bytes: i64,
    /// Apps by state.
    pub apps: AppCounts,
    /// Deployments that wait or are being worked on.
    pub deployments_in_progress: i64,
    /// URL under which apps answer, with <app> in place of the name.
    pub app_url_pattern: String,
}

/// Docker Engine as the daemon sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DockerStatus {
    /// Whether it answers.
    pub available: bool,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Why it does not answer and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Disk space.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DiskStatus {
    /// Bytes free for Berth.
    pub free_bytes: i64,
    /// Bytes in all.
    pub total_bytes: i64,
    /// Bytes that Berth's data directory takes.
    pub data_bytes: i64,
}

/// Apps by state.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AppCounts {
    /// All apps.
    pub total: i64,
    /// Serving.
    pub running: i64,
    /// Names of those that should serve but do not, or not fully.
    pub unhealthy: Vec<String>,
    /// Stopped by request.
    pub stopped: i64,
}

/// Input of `platform_cleanup`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PlatformCleanup {
    /// Only list what would be removed. Default true: pass false to remove it.
    pub dry_run: Option<bool>,
    /// "cleanup", as confirmation, when dry_run is false.
    pub confirm: Option<String>,
}

/// Input of `platform_upgrade`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlatformUpgrade {}

/// Output of `platform_upgrade`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlatformUpgrading {
    /// Version of the daemon that hands over, until it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The job; the daemon that has taken over ends it.
    pub job: JobHandle,
    /// What came of it, with both versions, once it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<String>,
}

/// Something that cleanup removes or keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Removable {
    /// release, image, release_files, work_files, upload, build_cache.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Bytes it takes.
    pub bytes: i64,
    /// Why it is not needed, or why it stays.
    pub why: String,
}

/// Output of `platform_cleanup`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CleanupPlan {
    /// What would be or is being removed; empty once that is done.
    pub items: Vec<Removable>,
    /// Bytes in all.
    pub bytes: i64,
    /// What stays, in short.
    #[serde(default)]
    pub kept: Vec<Removable>,
    /// The job that removes it; absent for a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobHandle>,
    /// What was removed, once it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<String>,
}
