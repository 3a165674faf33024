//! Jobs: durable units of work other than deployments.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AppSlug, EnvironmentName, Problem, Timestamp, ids::JobId};

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum JobState {
    /// Waits for its turn.
    Queued,
    /// Is being worked on.
    Running,
    /// Did what it was for.
    Succeeded,
    /// Ended with an error.
    Failed,
    /// Was cancelled.
    Cancelled,
}

impl JobState {
    /// Its name on the wire and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state with this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Queued, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled]
            .into_iter()
            .find(|s| s.as_str() == text)
    }

    /// Whether nothing follows this state.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// Whether a job may go from this state to `next`.
    #[must_use]
    pub fn can_become(self, next: Self) -> bool {
        match self {
            Self::Queued => matches!(next, Self::Running | Self::Cancelled | Self::Failed),
            // A restart of the daemon puts running work back in the queue.
            Self::Running => next.is_final() || next == Self::Queued,
            Self::Succeeded | Self::Failed | Self::Cancelled => false,
        }
    }
}

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum JobKind {
    /// Stop an app.
    Stop,
    /// Start a stopped app.
    Start,
    /// Change the number of replicas.
    Scale,
    /// Delete an app and what belongs to it.
    DeleteApp,
    /// Delete an environment and what belongs to it.
    DeleteEnvironment,
    /// Delete what an app's clients sent about a person.
    EraseUser,
    /// Remove what is no longer needed.
    Cleanup,
    /// Hand over to the program that is installed now.
    Upgrade,
}

impl JobKind {
    /// Its name on the wire and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Start => "start",
            Self::Scale => "scale",
            Self::DeleteApp => "delete_app",
            Self::DeleteEnvironment => "delete_environment",
            Self::EraseUser => "erase_user",
            Self::Cleanup => "cleanup",
            Self::Upgrade => "upgrade",
        }
    }

    /// The kind with this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [
            Self::Stop,
            Self::Start,
            Self::Scale,
            Self::DeleteApp,
            Self::DeleteEnvironment,
            Self::EraseUser,
            Self::Cleanup,
            Self::Upgrade,
        ]
        .into_iter()
        .find(|k| k.as_str() == text)
    }
}

/// What a tool returns that started a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobHandle {
    /// Id of the job; `job_get` tells where it stands.
    pub job: JobId,
    /// What it does.
    pub kind: JobKind,
    /// Where it stands.
    pub state: JobState,
}

/// A job in full.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobDetail {
    /// Its id.
    pub job: JobId,
    /// What it does.
    pub kind: JobKind,
    /// The app it works on, if one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppSlug>,
    /// The environment it works on, if one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<EnvironmentName>,
    /// Where it stands.
    pub state: JobState,
    /// What it waits for, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// What it is doing or did last, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// Who asked for it.
    #[schemars(extend("x-detail" = true))]
    pub by: String,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
}

/// Input of `job_cancel`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JobCancel {
    /// The job's id.
    pub job: JobId,
}

/// Input of `job_get`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JobGet {
    /// The job's id.
    pub job: JobId,
    /// Wait up to this many seconds for it to end, at most 50.
    #[schemars(range(min = 0, max = 50))]
    #[serde(default)]
    pub wait_s: Option<u32>,
}
