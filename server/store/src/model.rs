//! Rows as the rest of the daemon sees them: typed, parsed, with secrets opened only where asked for.

use berth_schemas::{
    AppSlug, EnvironmentName, Problem, ProjectSlug, Scope, Timestamp,
    app::AppSettings,
    environment::EnvironmentKind,
    ids::{GrantId, JobId, TokenName, UploadId},
    job::{JobKind, JobState},
    token::TokenMode,
};
use serde::{Deserialize, Serialize};

mod deployment;
mod environment;
mod variable;

pub use deployment::*;
pub use environment::*;
pub use variable::*;

/// Makes a row id type, so that an app's id cannot be passed where a release's is wanted.
macro_rules! row_id {
    ($($(#[$meta:meta])* $type:ident),* $(,)?) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $type(pub i64);
    )*};
}

row_id!(
    /// Row id of a project.
    ProjectId,
    /// Row id of an app.
    AppId,
    /// Row id of an environment.
    EnvironmentId,
    /// Row id of a deployment.
    DeploymentId,
    /// Row id of a release.
    ReleaseId,
    /// Row id of a push, also the number that is shown.
    PushId,
);

/// Which projects a caller may see. Every query for something that belongs to a project takes one, so that
/// none can forget it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visible {
    /// All projects: an unrestricted token, or the daemon itself.
    All,
    /// Only these.
    Projects(Vec<ProjectId>),
}

impl Visible {
    /// Whether `project` may be seen.
    #[must_use]
    pub fn allows(&self, project: ProjectId) -> bool {
        match self {
            Self::All => true,
            Self::Projects(ids) => ids.contains(&project),
        }
    }
}

/// A project.
#[derive(Debug, Clone, PartialEq)]
pub struct ProjectRow {
    /// Row id.
    pub id: ProjectId,
    /// Name.
    pub slug: ProjectSlug,
    /// Apps in it.
    pub apps: i64,
    /// When it was made.
    pub created_at: Timestamp,
}

/// An app as seen in one of its environments.
#[derive(Debug, Clone, PartialEq)]
pub struct AppRow {
    /// Row id, also the numeric id that is shown.
    pub id: AppId,
    /// UUID that is shown.
    pub uuid: String,
    /// Its project.
    pub project_id: ProjectId,
    /// Name of its project.
    pub project: ProjectSlug,
    /// Its name.
    pub slug: AppSlug,
    /// What was configured.
    pub settings: AppSettings,
    /// The app or the environment is being deleted: takes no new work.
    pub deleting: bool,
    /// The environment that it is seen in.
    pub environment: EnvironmentRow,
    /// When it was made.
    pub created_at: Timestamp,
    /// When settings or variables that count in this environment last changed.
    pub configured_at: Timestamp,
}

impl AppRow {
    /// Whether this is the app in production.
    #[must_use]
    pub fn is_production(&self) -> bool {
        self.environment.kind == EnvironmentKind::Production
    }

    /// Its name for people: `web` in production, `web (staging)` elsewhere.
    #[must_use]
    pub fn title(&self) -> String {
        match self.is_production() {
            true => self.slug.to_string(),
            false => format!("{} ({})", self.slug, self.environment.name),
        }
    }
}

/// What a release consists of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Artifact {
    /// A container image.
    Image {
        /// Id in the engine (sha256:…).
        image_id: String,
        /// What it was called when it was deployed.
        reference: String,
        /// Port that the app is expected on.
        port: u16,
        /// Whether the image was built by Berth and may be removed by it.
        built: bool,
        /// Arguments to start it with; none for the image's own.
        #[serde(default)]
        command: Option<Vec<String>>,
        /// Whether the data plane keeps the source maps in it from visitors.
        #[serde(default)]
        private_maps: bool,
    },
    /// Files served by the data plane.
    Static {
        /// Directory below the data directory's `releases/`.
        path: String,
    },
}

/// A release to be recorded.
#[derive(Clone)]
pub struct NewRelease {
    /// The deployment that made it.
    pub deployment: DeploymentId,
    /// What it consists of.
    pub artifact: Artifact,
    /// Settings it runs with.
    pub settings: AppSettings,
    /// Variables it runs with, in clear; sealed by the store.
    pub variables: Snapshot,
    /// Size on disk in bytes.
    pub bytes: i64,
    /// What its errors call it, if its image is to be searched for source maps.
    pub maps_of: Option<String>,
}

/// A release.
#[derive(Debug, Clone, PartialEq)]
pub struct ReleaseRow {
    /// Row id.
    pub id: ReleaseId,
    /// The app.
    pub app_id: AppId,
    /// The environment.
    pub environment_id: EnvironmentId,
    /// The deployment that made it.
    pub deployment_id: DeploymentId,
    /// Number of that deployment, by which people know the release.
    pub number: i64,
    /// What it consists of.
    pub artifact: Artifact,
    /// Settings it runs with.
    pub settings: AppSettings,
    /// The commit, where there is one.
    pub commit: Option<String>,
    /// What it is, in a line.
    pub message: Option<String>,
    /// Size on disk in bytes.
    pub bytes: i64,
    /// Its artifact was removed by cleanup.
    pub removed: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last got traffic.
    pub live_at: Option<Timestamp>,
}

/// A job.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRow {
    /// Its id.
    pub id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// The app it works on.
    pub app_id: Option<AppId>,
    /// Name of that app.
    pub app: Option<AppSlug>,
    /// Project of that app, for visibility.
    pub project_id: Option<ProjectId>,
    /// The environment that it works on.
    pub environment_id: Option<EnvironmentId>,
    /// Name of that environment.
    pub environment: Option<EnvironmentName>,
    /// Parameters, by kind.
    pub input: serde_json::Value,
    /// Where it stands.
    pub state: JobState,
    /// What it is doing or did last.
    pub message: Option<String>,
    /// Why it failed.
    pub problem: Option<Problem>,
    /// Who asked for it.
    pub by: String,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

impl JobRow {
    /// What it works on, for people: `web`, or `web (staging)`.
    #[must_use]
    pub fn title(&self) -> Option<String> {
        let app = self.app.as_ref()?;
        Some(match self.environment.as_ref().filter(|e| **e != EnvironmentName::production()) {
            Some(environment) => format!("{app} ({environment})"),
            None => app.to_string(),
        })
    }
}

/// Who calls, as found from a token.
#[derive(Debug, Clone, PartialEq)]
pub struct Principal {
    /// The token's name, as the audit trail shows it.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// What it may see.
    pub visible: Visible,
    /// How far it goes.
    pub mode: TokenMode,
    /// Tools that it may use, by name or group; empty means all.
    pub tools: Vec<String>,
    /// The grant by which a client calls for the token's owner; none when the token itself is used.
    pub grant: Option<ByGrant>,
}

/// A client that acts for whoever has a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByGrant {
    /// The grant.
    pub id: GrantId,
    /// What the client calls itself.
    pub client: String,
    /// The one URL that the access token is good for.
    pub resource: String,
}

impl Principal {
    /// The owner of a token.
    #[must_use]
    pub fn new(name: impl Into<String>, scopes: Vec<Scope>, visible: Visible) -> Self {
        Self { name: name.into(), scopes, visible, mode: TokenMode::Full, tools: Vec::new(), grant: None }
    }

    /// The daemon itself.
    #[must_use]
    pub fn daemon() -> Self {
        Self::new("berth", vec![Scope::Admin], Visible::All)
    }

    /// The name of the token, also when a client uses it by a grant.
    #[must_use]
    pub fn token(&self) -> &str {
        self.name.split('/').next().unwrap_or_default()
    }

    /// Whether nothing but its scopes and projects limits it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.mode == TokenMode::Full && self.tools.is_empty()
    }

    /// Whether it holds a scope that covers `needed`.
    #[must_use]
    pub fn may(&self, needed: Scope) -> bool {
        self.scopes.iter().any(|s| s.covers(needed))
    }
}

/// A token to be made.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// Name.
    pub name: TokenName,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// The projects it may touch; empty means all.
    pub projects: Vec<ProjectSlug>,
    /// How far it goes.
    pub mode: TokenMode,
    /// Tools that it may use, by name or group; empty means all.
    pub tools: Vec<String>,
    /// When it stops working.
    pub expires_at: Option<Timestamp>,
}

/// An uploaded archive.
#[derive(Debug, Clone, PartialEq)]
pub struct UploadRow {
    /// Its id.
    pub id: UploadId,
    /// Size in bytes.
    pub bytes: i64,
    /// SHA-256 in hex.
    pub sha256: String,
    /// Who sent it.
    pub by: String,
    /// When it came.
    pub created_at: Timestamp,
}

/// An entry of the event log to be written with the change it speaks of.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// What, such as "app.created".
    pub kind: &'static str,
    /// Who caused it.
    pub by: String,
    /// The app it is about.
    pub app: Option<AppId>,
    /// In a sentence.
    pub summary: String,
    /// Details.
    pub data: serde_json::Value,
}

/// A committed entry of the event log with what decides who may see it.
#[derive(Debug, Clone, PartialEq)]
pub struct EventRow {
    /// The entry.
    pub event: berth_schemas::event::Event,
    /// The app it is about, if one.
    pub app_id: Option<AppId>,
    /// The project it belongs to; entries without one are for those who see everything.
    pub project_id: Option<ProjectId>,
}

impl EventRow {
    /// Whether a caller with this view may see it.
    #[must_use]
    pub fn visible_to(&self, visible: &Visible) -> bool {
        match (visible, self.project_id) {
            (Visible::All, _) => true,
            (visible, Some(project)) => visible.allows(project),
            (_, None) => false,
        }
    }
}
