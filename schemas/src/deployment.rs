//! Deployments: attempts to bring a source into an environment.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    AppSlug, DeploymentRef, EnvironmentName, Problem, ProjectSlug, Timestamp, Untrusted, ids::UploadId,
};

/// Where a deployment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum DeploymentState {
    /// Waits for its turn.
    Queued,
    /// The source is being fetched.
    Fetching,
    /// The release is being built.
    Building,
    /// Its containers are being started.
    Starting,
    /// Its health is being checked.
    Checking,
    /// Healthy; gets a part of the traffic until it is promoted or aborted.
    RollingOut,
    /// Traffic is being switched to it.
    Switching,
    /// It has the traffic; requests to the release before it are finishing.
    Draining,
    /// It serves.
    Live,
    /// It did not become live.
    Failed,
    /// It was cancelled.
    Cancelled,
    /// Another deployment took its place before it was live: a newer one, or the live one, which brings the same.
    Superseded,
    /// It was live, died soon after, and the release before it serves again.
    RolledBack,
    /// It was live and a newer one serves now.
    Retired,
}

impl DeploymentState {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 14] = [
        Self::Queued,
        Self::Fetching,
        Self::Building,
        Self::Starting,
        Self::Checking,
        Self::RollingOut,
        Self::Switching,
        Self::Draining,
        Self::Live,
        Self::Failed,
        Self::Cancelled,
        Self::Superseded,
        Self::RolledBack,
        Self::Retired,
    ];

    /// Its name on the wire and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Fetching => "fetching",
            Self::Building => "building",
            Self::Starting => "starting",
            Self::Checking => "checking",
            Self::RollingOut => "rolling_out",
            Self::Switching => "switching",
            Self::Draining => "draining",
            Self::Live => "live",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Superseded => "superseded",
            Self::RolledBack => "rolled_back",
            Self::Retired => "retired",
        }
    }

    /// The state with this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }

    /// Whether the attempt is over: it is live, or it never will be.
    #[must_use]
    pub fn is_settled(self) -> bool {
        matches!(
            self,
            Self::Live | Self::Failed | Self::Cancelled | Self::Superseded | Self::RolledBack | Self::Retired
        )
    }

    /// Whether nothing follows this state.
    #[must_use]
    pub fn is_final(self) -> bool {
        self.is_settled() && self != Self::Live
    }

    /// Whether work is going on: between `fetching` and `draining`.
    #[must_use]
    pub fn is_active(self) -> bool {
        !self.is_settled() && self != Self::Queued
    }

    /// Whether it can still be cancelled: traffic has not been switched to it.
    #[must_use]
    pub fn is_cancellable(self) -> bool {
        matches!(
            self,
            Self::Queued
                | Self::Fetching
                | Self::Building
                | Self::Starting
                | Self::Checking
                | Self::RollingOut
        )
    }

    /// Whether a deployment may go from this state to `next`. The one place that knows the life of a
    /// deployment.
    #[must_use]
    pub fn can_become(self, next: Self) -> bool {
        use DeploymentState as S;
        match self {
            S::Queued => matches!(
                next,
                S::Fetching
                    | S::Starting
                    | S::RollingOut
                    | S::Switching
                    | S::Failed
                    | S::Cancelled
                    | S::Superseded
            ),
            // A restart of the daemon puts unfinished work back in the queue.
            S::Fetching | S::Building | S::Starting | S::Checking => {
                matches!(next, S::Failed | S::Cancelled | S::Superseded | S::Queued)
                    || matches!(
                        (self, next),
                        (S::Fetching, S::Building | S::Starting | S::RollingOut | S::Switching)
                            | (S::Building, S::Starting | S::RollingOut | S::Switching)
                            | (S::Starting, S::Checking)
                            | (S::Checking, S::RollingOut | S::Switching)
                    )
            }
            // Not back in the queue: a restart takes it up where it was.
            S::RollingOut => matches!(next, S::Switching | S::Failed | S::Cancelled | S::Superseded),
            S::Switching => matches!(next, S::Draining | S::Live | S::Failed | S::Queued),
            S::Draining => matches!(next, S::Live | S::RolledBack | S::Retired),
            S::Live => matches!(next, S::RolledBack | S::Retired),
            // A rollback takes a retired release into service by a new deployment, so nothing follows.
            S::Failed | S::Cancelled | S::Superseded | S::RolledBack | S::Retired => false,
        }
    }
}

/// What a deployment brings into service, as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SourceShown {
    /// An uploaded archive.
    Upload {
        /// Bytes of the archive.
        bytes: i64,
    },
    /// Files given in the call.
    Files {
        /// How many.
        files: i64,
    },
    /// A git repository.
    Git {
        /// Its URL, without credentials.
        #[schemars(extend("x-untrusted" = true))]
        url: String,
        /// The branch, tag or commit asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(extend("x-untrusted" = true))]
        git_ref: Option<String>,
        /// The commit of it that was pushed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        commit: Option<String>,
    },
    /// A commit in Berth's own repository of the app.
    Pushed {
        /// The branch or tag.
        #[schemars(extend("x-untrusted" = true))]
        git_ref: String,
        /// The commit.
        commit: String,
    },
    /// A ready image.
    Image {
        /// Its reference.
        image: String,
    },
    /// An earlier release, as it was: a rollback.
    Rollback {
        /// The deployment that made it.
        to: DeploymentRef,
    },
    /// A release of another environment, or an earlier one, with the settings and variables of now; without a build.
    Promote {
        /// The deployment that made it.
        of: DeploymentRef,
    },
    /// The live release with today's settings and variables, not built again.
    Redeploy {
        /// The deployment that made it.
        of: DeploymentRef,
    },
}

/// One state that a deployment went through.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Transition {
    /// The state it entered.
    pub state: DeploymentState,
    /// When.
    pub at: Timestamp,
    /// How long it stayed there, in milliseconds; absent while it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ms: Option<i64>,
    /// Why, where that needs saying.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Untrusted>,
}

/// A deployment in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeploymentSummary {
    /// Which, such as web#42.
    pub deployment: DeploymentRef,
    /// The environment that it is for.
    pub environment: EnvironmentName,
    /// Where it stands.
    pub state: DeploymentState,
    /// What it brings.
    pub source: SourceShown,
    /// The commit, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// First line of the commit's message or what the caller said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Untrusted>,
    /// Who asked for it.
    pub by: String,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Why it failed, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Untrusted>,
}

/// A deployment in full.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeploymentDetail {
    /// Which, such as web#42.
    pub deployment: DeploymentRef,
    /// The environment it goes to.
    pub environment: EnvironmentName,
    /// Where it stands.
    pub state: DeploymentState,
    /// Whether it is over.
    pub settled: bool,
    /// What it brings.
    pub source: SourceShown,
    /// The commit, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// First line of the commit's message or what the caller said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Untrusted>,
    /// Who asked for it.
    pub by: String,
    /// Where the app answers.
    pub url: String,
    /// What detection decided, with its evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-detail" = true))]
    pub plan: Option<PlanShown>,
    /// The states it went through, with their times.
    #[schemars(extend("x-detail" = true))]
    pub steps: Vec<Transition>,
    /// What it waits for, while it is queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// Why it failed, with the failing step, its last lines and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// Things that did not stop it but should be known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Untrusted>,
    /// Nothing was deployed for this request: a deployment with the same source is live or on its way.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nothing_new: bool,
    /// What to do next.
    pub next: String,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
}

/// A build plan as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlanShown {
    /// dockerfile, static, node, python or image.
    pub builder: String,
    /// Why, one fact a line.
    pub evidence: Vec<Untrusted>,
    /// The generated Dockerfile, where one was generated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dockerfile: Option<Untrusted>,
    /// The port that the app is expected on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// Input of `deployment_create`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeploymentCreate {
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
    /// Source: a folder on the caller's machine; only through the command line or `berth mcp`, which upload it.
    #[serde(default)]
    pub folder: Option<String>,
    /// Source: a few files, path → text. For a whole repository use git_url or folder.
    #[serde(default)]
    pub files: Option<BTreeMap<String, String>>,
    /// Create the app with this call if it does not exist.
    #[serde(default)]
    pub create_app: bool,
    /// Project of a new app. Default: default.
    #[serde(default)]
    pub project: Option<ProjectSlug>,
    /// What this deployment is, in a line.
    #[serde(default)]
    pub message: Option<String>,
    /// Build without the cache of earlier builds.
    #[serde(default)]
    pub no_cache: bool,
    /// Wait up to this many seconds for the end, at most 50. Default 0.
    #[schemars(range(min = 0, max = 50))]
    #[serde(default)]
    pub wait_s: Option<u32>,
    /// The same key within a day returns the same deployment instead of a second one.
    #[serde(default)]
    pub idempotency_key: Option<String>,
}

/// Input of `deployment_get`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeploymentGet {
    /// Which, such as web#42; the app's name alone means its newest.
    pub deployment: DeploymentRef,
    /// Wait up to this many seconds for the end, at most 50. Default 0.
    #[schemars(range(min = 0, max = 50))]
    #[serde(default)]
    pub wait_s: Option<u32>,
}

/// Input of `deployment_list`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeploymentList {
    /// The app's name.
    pub app: AppSlug,
    /// Only of this environment. Default: of all.
    #[serde(default)]
    pub environment: Option<EnvironmentName>,
    /// Only deployments in this state.
    #[serde(default)]
    pub state: Option<DeploymentState>,
    /// Default 10.
    #[serde(default)]
    pub limit: Option<u32>,
    /// Cursor of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
}

/// Output of `deployment_list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeploymentPage {
    /// The deployments, newest first.
    pub deployments: Vec<DeploymentSummary>,
    /// Pass as `cursor` for the next page; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Input of `deployment_cancel`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeploymentCancel {
    /// Which, such as web#42.
    pub deployment: DeploymentRef,
}

/// Where a build log line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum BuildLineKind {
    /// A step began.
    Step,
    /// A step was taken from the cache.
    Cached,
    /// A step ended; the text tells how long it took.
    Done,
    /// A step failed.
    Failed,
    /// Output of a step.
    Output,
    /// Berth's own remark.
    Note,
    /// A warning.
    Warning,
}

impl BuildLineKind {
    /// Its name on the wire and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Cached => "cached",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Output => "output",
            Self::Note => "note",
            Self::Warning => "warning",
        }
    }

    /// The kind with this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Step, Self::Cached, Self::Done, Self::Failed, Self::Output, Self::Note, Self::Warning]
            .into_iter()
            .find(|k| k.as_str() == text)
    }
}

/// A line of a deployment's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BuildLine {
    /// Number within the deployment, from 1.
    pub line: i64,
    /// When.
    #[schemars(extend("x-detail" = true))]
    pub at: Timestamp,
    /// The deployment's state at that time.
    #[schemars(extend("x-detail" = true))]
    pub state: DeploymentState,
    /// What kind of line it is.
    pub kind: BuildLineKind,
    /// The build step it belongs to, such as "3/7".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Untrusted>,
    /// The text.
    pub text: Untrusted,
}

/// Input of `deployment_log`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeploymentLog {
    /// Which, such as web#42; the app's name alone means its newest.
    pub deployment: DeploymentRef,
    /// Only lines that contain this text, case-insensitive.
    #[serde(default)]
    pub contains: Option<String>,
    /// Only lines after this line number. Without it, the last lines are returned.
    #[serde(default)]
    pub after: Option<i64>,
    /// Default 100.
    #[schemars(range(min = 1, max = 1000))]
    #[serde(default)]
    pub limit: Option<u32>,
    /// If there is nothing after `after` yet, wait up to this many seconds, at most 50.
    #[schemars(range(min = 0, max = 50))]
    #[serde(default)]
    pub wait_s: Option<u32>,
}

/// Output of `deployment_log`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeploymentLogPage {
    /// Which deployment.
    pub deployment: DeploymentRef,
    /// Where it stands.
    pub state: DeploymentState,
    /// The lines, oldest first.
    pub lines: Vec<BuildLine>,
    /// Lines in all.
    pub total: i64,
    /// Pass as `after` for what follows.
    pub next_after: i64,
    /// Whether matching lines were left out: older ones, or newer ones if `after` was given.
    pub truncated: bool,
}
