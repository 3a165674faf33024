//! Deployments, and what is asked of them.

use berth_schemas::{
    AppSlug, DeploymentRef, EnvironmentName, Problem, Timestamp,
    deployment::{BuildLineKind, DeploymentState, SourceShown},
    ids::UploadId,
    traffic::RolloutRule,
};
use serde::{Deserialize, Serialize};

use super::{AppId, DeploymentId, EnvironmentId, ReleaseId};

/// What a deployment is to bring into service, as the pipeline needs it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum DeploymentSource {
    /// An uploaded archive.
    Upload {
        /// The upload.
        upload: UploadId,
        /// Its size in bytes.
        bytes: i64,
    },
    /// Files given in the call, kept as an archive like an upload.
    Files {
        /// The upload that holds them.
        upload: UploadId,
        /// How many files.
        files: i64,
    },
    /// A git repository.
    Git {
        /// URL without credentials.
        url: String,
        /// Branch, tag or commit.
        git_ref: Option<String>,
        /// Exactly this commit, wherever `git_ref` points by then.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        commit: Option<String>,
    },
    /// A commit in Berth's own repository of the app.
    Pushed {
        /// Branch or tag.
        git_ref: String,
        /// The commit.
        commit: String,
    },
    /// A ready image.
    Image {
        /// Its reference.
        image: String,
    },
    /// An earlier release as it was.
    Rollback {
        /// The release.
        release: ReleaseId,
        /// The deployment that made it.
        to: DeploymentRef,
    },
    /// A release of whichever environment of the app, with the settings and variables of where it goes.
    Promote {
        /// The release.
        release: ReleaseId,
        /// The deployment that made it.
        of: DeploymentRef,
    },
    /// A release with today's settings and variables.
    Redeploy {
        /// The release.
        release: ReleaseId,
        /// The deployment that made it.
        of: DeploymentRef,
    },
}

impl DeploymentSource {
    /// Whether it comes from outside: no release that there is already.
    #[must_use]
    pub fn is_new(&self) -> bool {
        !matches!(self, Self::Rollback { .. } | Self::Promote { .. } | Self::Redeploy { .. })
    }

    /// The commit, where it is exactly one.
    #[must_use]
    pub fn commit(&self) -> Option<&str> {
        match self {
            Self::Git { commit, .. } => commit.as_deref(),
            Self::Pushed { commit, .. } => Some(commit),
            _ => None,
        }
    }

    /// The source as it is shown.
    #[must_use]
    pub fn shown(&self) -> SourceShown {
        match self.clone() {
            Self::Upload { bytes, .. } => SourceShown::Upload { bytes },
            Self::Files { files, .. } => SourceShown::Files { files },
            Self::Git { url, git_ref, commit } => SourceShown::Git { url, git_ref, commit },
            Self::Pushed { git_ref, commit } => SourceShown::Pushed { git_ref, commit },
            Self::Image { image } => SourceShown::Image { image },
            Self::Rollback { to, .. } => SourceShown::Rollback { to },
            Self::Promote { of, .. } => SourceShown::Promote { of },
            Self::Redeploy { of, .. } => SourceShown::Redeploy { of },
        }
    }
}

/// Names what a deployment brings, so that two can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceKey {
    /// Exactly this content: the hash of an archive, a commit, an image's id.
    Exact(String),
    /// What is there when it is fetched: a branch, an image's tag. It may mean something else a moment later.
    Wish(String),
}

/// What became of a request to deploy.
#[derive(Debug, Clone, PartialEq)]
pub enum Enqueued {
    /// It is a new deployment.
    New(DeploymentRow),
    /// This deployment, live or on its way, brings the same: there is no second one.
    Same(DeploymentRow),
}

impl Enqueued {
    /// The deployment that the request led to.
    #[must_use]
    pub fn row(&self) -> &DeploymentRow {
        match self {
            Self::New(row) | Self::Same(row) => row,
        }
    }

    /// The deployment that the request led to.
    #[must_use]
    pub fn into_row(self) -> DeploymentRow {
        match self {
            Self::New(row) | Self::Same(row) => row,
        }
    }
}

/// A deployment to be enqueued.
#[derive(Debug, Clone)]
pub struct NewDeployment {
    /// The app.
    pub app: AppId,
    /// The environment.
    pub environment: EnvironmentId,
    /// What it brings.
    pub source: DeploymentSource,
    /// The name of what it brings; none where nothing can be compared.
    pub key: Option<SourceKey>,
    /// Who asked for it.
    pub by: String,
    /// What it is, in a line.
    pub message: Option<String>,
    /// Build without cache.
    pub no_cache: bool,
    /// By which rule it gets a part of the traffic first; None for one that takes all.
    pub rollout: Option<RolloutRule>,
}

/// A deployment.
#[derive(Debug, Clone, PartialEq)]
pub struct DeploymentRow {
    /// Row id.
    pub id: DeploymentId,
    /// The app.
    pub app_id: AppId,
    /// Name of the app.
    pub app: AppSlug,
    /// The environment.
    pub environment_id: EnvironmentId,
    /// Name of the environment.
    pub environment: EnvironmentName,
    /// Number within the app, from 1.
    pub number: i64,
    /// Where it stands.
    pub state: DeploymentState,
    /// What it brings.
    pub source: DeploymentSource,
    /// The release that it made.
    pub release: Option<ReleaseId>,
    /// The commit, where there is one.
    pub commit: Option<String>,
    /// First line of the commit's message or what the caller said.
    pub message: Option<String>,
    /// Who asked for it.
    pub by: String,
    /// Build without cache.
    pub no_cache: bool,
    /// The build plan as JSON, once detection has decided.
    pub plan: Option<serde_json::Value>,
    /// Why it failed.
    pub problem: Option<Problem>,
    /// Things that should be known.
    pub warnings: Vec<String>,
    /// Cancellation was asked for.
    pub cancel_requested: bool,
    /// By which rule it gets a part of the traffic first.
    pub rollout: Option<RolloutRule>,
    /// It is to take all traffic, not a part.
    pub promote_requested: bool,
    /// How often it was begun; more than once after a restart of the daemon.
    pub attempt: i64,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it settled.
    pub finished_at: Option<Timestamp>,
}

impl DeploymentRow {
    /// Its name for people.
    #[must_use]
    pub fn reference(&self) -> DeploymentRef {
        DeploymentRef::new(self.app.clone(), self.number)
    }

    /// Whether nothing more happens by itself: it is over, or has its part of the traffic and nobody has decided.
    #[must_use]
    pub fn rests(&self) -> bool {
        self.state.is_settled()
            || self.state == DeploymentState::RollingOut && !self.promote_requested && !self.cancel_requested
    }
}

/// What a change of a deployment's state carries with it, all committed together.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// Why, where that needs saying.
    pub reason: Option<String>,
    /// Sets the problem.
    pub problem: Option<Problem>,
}

/// A line of a deployment's log to be kept.
#[derive(Debug, Clone)]
pub struct NewBuildLine {
    /// When.
    pub at: Timestamp,
    /// The deployment's state at that time.
    pub state: DeploymentState,
    /// What kind of line it is.
    pub kind: BuildLineKind,
    /// The build step.
    pub step: Option<String>,
    /// The text, at most 4 KiB.
    pub text: String,
}
