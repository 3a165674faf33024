//! Traffic controls: what an app's visitors meet besides the live release, and releases that get a part of them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AppSlug, DeploymentRef, EnvironmentName, Timestamp, ids::UploadId};

/// What visitors of an app meet.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum TrafficMode {
    /// The app.
    #[default]
    Open,
    /// New requests wait.
    Paused {
        /// Seconds that a request waits at most; then it gets 503.
        hold_s: u32,
        /// Who paused it.
        by: String,
        /// When.
        since: Timestamp,
    },
    /// A page that says that the app is being worked on, with status 503.
    Maintenance {
        /// What the page says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
        /// After how many seconds visitors are told to come again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_s: Option<u32>,
        /// Who turned it on.
        by: String,
        /// When.
        since: Timestamp,
    },
}

impl TrafficMode {
    /// Its name on the wire.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Paused { .. } => "paused",
            Self::Maintenance { .. } => "maintenance",
        }
    }
}

/// A header or cookie that is looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct TrafficMatch {
    /// Its name.
    pub name: String,
    /// Its exact value. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// Which requests a release on trial gets.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct RolloutRule {
    /// How many of a hundred visitors, each of whom stays on one side.
    #[schemars(range(min = 0, max = 100))]
    pub percent: u8,
    /// Requests with this header, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<TrafficMatch>,
    /// Requests with this cookie, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<TrafficMatch>,
}

/// What a release answered since the rollout began, or the daemon started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct AnswersShown {
    /// Answers.
    pub total: u64,
    /// Of these with a status of 5xx or incomplete.
    pub server_errors: u64,
}

/// A rollout that goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RolloutShown {
    /// The deployment on trial.
    pub deployment: DeploymentRef,
    /// Which requests it gets.
    pub rule: RolloutRule,
    /// Promotion was asked for and is on its way.
    pub promoting: bool,
    /// What it answered.
    pub candidate: AnswersShown,
    /// What the live release answered meanwhile.
    pub live: AnswersShown,
}

/// How an app's traffic goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrafficDetail {
    /// The app.
    pub app: AppSlug,
    /// The environment.
    pub environment: EnvironmentName,
    /// What its visitors meet.
    pub traffic: TrafficMode,
    /// Stopped by app_stop, whatever the mode.
    pub stopped: bool,
    /// Requests that wait now.
    pub waiting: u64,
    /// The rollout that goes on, if one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutShown>,
    /// What to do next.
    pub next: String,
}

/// Input of `traffic_get`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrafficGet {
    /// The app's name.
    pub app: AppSlug,
    /// Default: production.
    #[serde(default)]
    pub environment: Option<EnvironmentName>,
}

/// Input of `traffic_pause`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrafficPause {
    /// The app's name.
    pub app: AppSlug,
    /// Default: production.
    #[serde(default)]
    pub environment: Option<EnvironmentName>,
    /// Seconds that a request waits at most before it gets 503. Default 30.
    #[schemars(range(min = 1, max = 300))]
    #[serde(default)]
    pub hold_s: Option<u32>,
}

/// Input of `traffic_resume`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrafficResume {
    /// The app's name.
    pub app: AppSlug,
    /// Default: production.
    #[serde(default)]
    pub environment: Option<EnvironmentName>,
}

/// Input of `traffic_maintenance`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrafficMaintenance {
    /// The app's name.
    pub app: AppSlug,
    /// Default: production.
    #[serde(default)]
    pub environment: Option<EnvironmentName>,
    /// What the page says, as plain text of at most 500 characters.
    #[serde(default)]
    pub message: Option<String>,
    /// After how many seconds visitors are told to come again.
    #[schemars(range(min = 1, max = 86400))]
    #[serde(default)]
    pub retry_after_s: Option<u32>,
    /// The app's name again, as confirmation: visitors get the page until traffic_resume.
    #[serde(default)]
    pub confirm: Option<String>,
}

/// Input of `rollout_start`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RolloutStart {
    /// The app's name.
    pub app: AppSlug,
    /// Default: production.
    #[serde(default)]
    pub environment: Option<EnvironmentName>,
    /// Source: git repository (https or ssh URL).
    #[serde(default)]
    pub git_url: Option<String>,
    /// Branch, tag or commit of git_url. Default: its default branch.
    #[serde(default)]
    pub git_ref: Option<String>,
    /// Source: an image from a registry or the local engine.
    #[serde(default)]
    pub image: Option<String>,
    /// Source: an archive uploaded by POST /v1/uploads.
    #[serde(default)]
    pub upload: Option<UploadId>,
    /// Source: a few files, path → text.
    #[serde(default)]
    pub files: Option<BTreeMap<String, String>>,
    /// How many of a hundred visitors get the new release. Default 10.
    #[schemars(range(min = 0, max = 100))]
    #[serde(default)]
    pub percent: Option<u8>,
    /// Requests with this header get it, too.
    #[serde(default)]
    pub header: Option<TrafficMatch>,
    /// Requests with this cookie get it, too.
    #[serde(default)]
    pub cookie: Option<TrafficMatch>,
    /// What this deployment is, in a line.
    #[serde(default)]
    pub message: Option<String>,
    /// Build without the cache of earlier builds.
    #[serde(default)]
    pub no_cache: bool,
    /// Wait up to this many seconds until it gets traffic or fails, at most 50. Default 0.
    #[schemars(range(min = 0, max = 50))]
    #[serde(default)]
    pub wait_s: Option<u32>,
    /// The same key within a day returns the same deployment instead of a second one.
    #[serde(default)]
    pub idempotency_key: Option<String>,
}

/// Input of `rollout_set`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RolloutSet {
    /// The app's name.
    pub app: AppSlug,
    /// Default: production.
    #[serde(default)]
    pub environment: Option<EnvironmentName>,
    /// How many of a hundred visitors get the new release. Default: as before.
    #[schemars(range(min = 0, max = 100))]
    #[serde(default)]
    pub percent: Option<u8>,
    /// Requests with this header get it, too. Default: as before.
    #[serde(default)]
    pub header: Option<TrafficMatch>,
    /// Requests with this cookie get it, too. Default: as before.
    #[serde(default)]
    pub cookie: Option<TrafficMatch>,
    /// Rules to drop: header, cookie.
    #[serde(default)]
    pub unset: Vec<String>,
}

/// Input of `rollout_promote` and `rollout_abort`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RolloutEnd {
    /// The app's name.
    pub app: AppSlug,
    /// Default: production.
    #[serde(default)]
    pub environment: Option<EnvironmentName>,
    /// Wait up to this many seconds for the end, at most 50. Default 10.
    #[schemars(range(min = 0, max = 50))]
    #[serde(default)]
    pub wait_s: Option<u32>,
}
