//! Errors of releases, side by side.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{IssueRef, IssueSummary};
use crate::{AppSlug, DeploymentRef, EnvironmentName, Timestamp, Untrusted};

/// Input of `error_release_compare`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorReleaseCompare {
    /// The app.
    pub app: AppSlug,
    /// In which environment. Default production.
    #[serde(default)]
    pub environment: Option<EnvironmentName>,
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

/// Errors of a release in an environment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReleaseErrors {
    /// The release.
    pub release: Untrusted,
    /// When it was first seen there.
    pub first_seen: Timestamp,
    /// The time that is compared begins here,
    pub from: Timestamp,
    /// and ends here.
    pub to: Timestamp,
    /// Events in that time.
    pub events: i64,
    /// Hours of that time.
    pub hours: f64,
    /// Events an hour.
    pub per_hour: f64,
    /// Issues that were seen.
    pub issues: i64,
    /// Users that had one.
    pub users: i64,
    /// Events of this release at any time, in all environments.
    pub events_in_all: i64,
    /// Requests that it answered in that time, as far as the request log goes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<i64>,
    /// Events per 1,000 of these requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_1000_requests: Option<f64>,
    /// Of these requests, how many percent were answered with 5xx.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_error_percent: Option<f64>,
    /// Sessions that clients reported in that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<i64>,
    /// How many percent of them did not crash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crash_free_percent: Option<f64>,
}

/// How a release compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum ReleaseVerdict {
    /// New or returned issues of some weight, or rates that have clearly risen.
    Worse,
    /// Something is new or back, but there is little of it.
    LowVolume,
    /// Nothing is new, and no rate has clearly risen.
    NotWorse,
    /// Nothing is new, and there are clearly fewer events.
    Better,
    /// It was observed too shortly, or answered too little.
    TooLittleData,
    /// There is no release to compare it with.
    NothingBefore,
}

/// In which way an issue speaks against a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum WorseBy {
    /// It was first seen in it.
    New,
    /// It was resolved, and came back in it.
    Back,
    /// Its rate has clearly risen.
    Grew,
}

/// An issue that speaks against a release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReleaseIssue {
    /// The issue.
    pub issue: IssueRef,
    /// In which way.
    pub by: WorseBy,
    /// Events in the time that is compared.
    pub events: i64,
    /// Users that had it then.
    pub users: i64,
    /// Events an hour.
    pub per_hour: f64,
    /// Events an hour in the release that it is compared with.
    pub before_per_hour: f64,
    /// There is too little of it to call the release worse.
    pub low_volume: bool,
}

/// Output of `error_release_compare`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReleaseComparison {
    /// The environment.
    pub environment: EnvironmentName,
    /// The release in question.
    pub release: ReleaseErrors,
    /// The one it is compared with, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with: Option<ReleaseErrors>,
    /// How it compares.
    pub verdict: ReleaseVerdict,
    /// Whether the verdict is worse.
    pub worse: bool,
    /// The verdict in a sentence.
    pub reason: String,
    /// How many times the event rate of before it has: per request where both are known well enough, else per hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// All that speaks against it, in words.
    pub why: Vec<String>,
    /// Commits of the release in question, if a client told them, the newest first; at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commits: Vec<ReleaseCommit>,
    /// How many commits it was told to have.
    #[serde(default)]
    pub commit_count: usize,
    /// Issues that speak against it, those with weight first, at most 20.
    pub issues: Vec<ReleaseIssue>,
    /// Those of them that it brought or brought back, with what is known of them in all.
    pub new_issues: Vec<IssueSummary>,
}

/// What a release is called in its errors, unless the app says otherwise: its commit, or `web@42`.
#[must_use]
pub fn error_release(deployment: &DeploymentRef, commit: Option<&str>) -> String {
    match commit {
        Some(commit) => commit.to_owned(),
        None => format!("{}@{}", deployment.app, deployment.number.unwrap_or_default()),
    }
}
