//! Errors of releases, side by side.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::IssueSummary;
use crate::{AppSlug, Timestamp, Untrusted};

/// Input of `error_release_compare`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorReleaseCompare {
    /// The app.
    pub app: AppSlug,
    /// The release in question, as clients name it; default the newest that was seen.
    #[serde(default)]
    pub release: Option<String>,
    /// The release to compare with; default the one seen before it.
    #[serde(default)]
    pub with: Option<String>,
}

/// A commit of a release, as a client of the release API told it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReleaseCommit {
    /// Its id.
    pub id: Untrusted,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<Untrusted>,
    /// The first line of its message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Untrusted>,
    /// When, as the client says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Untrusted>,
}

/// Errors of a release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReleaseErrors {
    /// The release.
    pub release: Untrusted,
    /// When it was first seen.
    pub first_seen: Timestamp,
    /// Events while it was the newest release, or until now.
    pub events: i64,
    /// Hours of that time.
    pub hours: f64,
    /// Events an hour.
    pub per_hour: f64,
    /// Issues that were seen.
    pub issues: i64,
    /// Users that had one.
    pub users: i64,
}

/// Output of `error_release_compare`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReleaseComparison {
    /// The release in question.
    pub release: ReleaseErrors,
    /// The one it is compared with, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with: Option<ReleaseErrors>,
    /// Whether it is worse: new or returned issues, or clearly more events an hour.
    pub worse: bool,
    /// Why, in words.
    pub why: Vec<String>,
    /// Commits of the release in question, if a client told them, the newest first; at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commits: Vec<ReleaseCommit>,
    /// How many commits it was told to have.
    #[serde(default)]
    pub commit_count: usize,
    /// Issues that it brought or brought back.
    pub new_issues: Vec<IssueSummary>,
}
