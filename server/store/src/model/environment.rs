//! Environments and previews as the rest of the daemon sees them.

use berth_schemas::{EnvironmentName, Timestamp, environment::EnvironmentKind, traffic::TrafficMode};
use serde::{Deserialize, Serialize};

use super::{AppRow, DeploymentSource, EnvironmentId, ReleaseId};

/// An environment of an app.
#[derive(Debug, Clone, PartialEq)]
pub struct EnvironmentRow {
    /// Row id.
    pub id: EnvironmentId,
    /// Name.
    pub name: EnvironmentName,
    /// What it is for.
    pub kind: EnvironmentKind,
    /// The branch that deploys there.
    pub branch: Option<String>,
    /// The release that has the traffic: the one pointer that says what is live.
    pub live: Option<ReleaseId>,
    /// Stopped by request.
    pub stopped: bool,
    /// How many replicas there should be.
    pub replicas: i64,
    /// What visitors meet besides the live release.
    pub traffic: TrafficMode,
    /// When it was made.
    pub created_at: Timestamp,
    /// It goes away, alone or with its app.
    pub deleting: bool,
    /// What only a preview has.
    pub preview: Option<PreviewRow>,
}

impl EnvironmentRow {
    /// Asleep: it has a release, whose containers are stopped until a visitor comes.
    #[must_use]
    pub fn sleeping(&self) -> bool {
        self.preview.as_ref().is_some_and(|p| p.sleeping)
    }

    /// Whether it runs code of another repository, which must see no secrets.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.preview.as_ref().is_some_and(|p| p.fork)
    }
}

/// What only a preview has.
#[derive(Debug, Clone, PartialEq)]
pub struct PreviewRow {
    /// The branch that it shows, as the repository names it.
    pub head: String,
    /// The pull request that it is for.
    pub pull: Option<i64>,
    /// The pull request comes from another repository.
    pub fork: bool,
    /// What was offered last.
    pub offer: Option<Offer>,
    /// The commit of a fork that somebody allowed to run.
    pub approved: Option<String>,
    /// When it is removed.
    pub expires_at: Option<Timestamp>,
    /// When it was last used: by a visitor, or by a deployment.
    pub last_request_at: Timestamp,
    /// Its containers are stopped until a visitor comes.
    pub sleeping: bool,
}

impl PreviewRow {
    /// Whether this commit may be deployed: a fork's only once somebody has approved exactly it.
    #[must_use]
    pub fn may_deploy(&self, commit: &str) -> bool {
        !self.fork || self.approved.as_deref() == Some(commit)
    }
}

/// What a branch or a pull request offers to its preview.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// The exact commit.
    pub commit: String,
    /// How it is deployed.
    pub source: DeploymentSource,
    /// What it is, in a line.
    #[serde(default)]
    pub message: Option<String>,
}

/// An environment to be made or changed by a person.
#[derive(Debug, Clone)]
pub struct NewEnvironment {
    /// Its name.
    pub name: EnvironmentName,
    /// The branch that deploys there.
    pub branch: Option<String>,
    /// How many replicas there should be.
    pub replicas: i64,
}

/// The preview that a branch or a pull request wants.
#[derive(Debug, Clone)]
pub struct NewPreview {
    /// Name of the environment, should it be new.
    pub name: EnvironmentName,
    /// Its name where another environment has that one.
    pub otherwise: EnvironmentName,
    /// The branch that it shows.
    pub head: String,
    /// The pull request that it is for; none for a branch.
    pub pull: Option<i64>,
    /// The pull request comes from another repository.
    pub fork: bool,
    /// What it offers.
    pub offer: Option<Offer>,
    /// When it is to be removed.
    pub expires_at: Option<Timestamp>,
    /// Most previews that the app may have.
    pub limit: i64,
}

/// What became of a wish for a preview.
#[derive(Debug, Clone, PartialEq)]
pub struct Ensured {
    /// The app as seen in it.
    pub app: AppRow,
    /// It is new.
    pub made: bool,
    /// The preview that is being deleted for it.
    pub makes_room: Option<AppRow>,
}
