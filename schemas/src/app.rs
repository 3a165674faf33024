//! Apps: one deployable thing with a name, a source and settings.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    AppSlug, DeploymentRef, DomainName, EnvironmentName, ProjectSlug, Timestamp, Untrusted,
    deployment::DeploymentState, job::JobHandle,
};

/// How a source becomes a release.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Builder {
    /// Look at the source and decide.
    #[default]
    Auto,
    /// Build the Dockerfile.
    Dockerfile,
    /// Serve the files; no container.
    Static,
    /// Node.js with a generated Dockerfile.
    Node,
    /// Python with a generated Dockerfile.
    Python,
}

/// What a person can configure about an app. A field that is absent has its default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AppSettings {
    /// Git repository to deploy from when a deployment names no source (https or ssh URL).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git_url: Option<String>,
    /// Branch, tag or commit to deploy. Default: the repository's default branch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git_ref: Option<String>,
    /// Image to deploy when a deployment names no source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Folder of the source that holds the app, relative to its top.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_directory: Option<String>,
    /// How to build. Default: auto.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub builder: Option<Builder>,
    /// Path of the Dockerfile, relative to the root directory. Default: Dockerfile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dockerfile: Option<String>,
    /// Command that builds the app inside the image, for generated Dockerfiles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_command: Option<String>,
    /// Command that starts the app, instead of the image's or the detected one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_command: Option<String>,
    /// Folder with the finished files of a static release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_directory: Option<String>,
    /// Port that the app listens on, also given to it as PORT. Default: the image's EXPOSE, else 8080.
    #[schemars(range(min = 1, max = 65535))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Path that must answer 2xx or 3xx before the release gets traffic. Default: / with any status below
    /// 500, or an open port where the app speaks no HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_path: Option<String>,
    /// Seconds to wait for health. Default 120, at most 300.
    #[schemars(range(min = 1, max = 300))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_timeout_s: Option<u32>,
    /// Seconds between health checks. Default 1.
    #[schemars(range(min = 1, max = 60))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_interval_s: Option<u32>,
    /// Seconds that old requests may take after a switch. Default 30.
    #[schemars(range(min = 0, max = 3600))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_timeout_s: Option<u32>,
    /// Seconds after a switch in which a dying release is rolled back. Default 30.
    #[schemars(range(min = 0, max = 3600))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watch_window_s: Option<u32>,
    /// Percent of 5xx answers in it that rolls back, too. Default 50.
    #[schemars(range(min = 0, max = 100))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_rollback_percent: Option<u8>,
    /// Seconds that a build may take. Default 1800.
    #[schemars(range(min = 10, max = 14400))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_timeout_s: Option<u32>,
    /// Memory limit of each replica in MiB. Default 512.
    #[schemars(range(min = 16, max = 1048576))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u32>,
    /// CPU limit of each replica, in cores. Default: none.
    #[schemars(range(min = 0.05, max = 256.0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// Earlier releases kept for instant rollback. Default 3.
    #[schemars(range(min = 0, max = 50))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_releases: Option<u32>,
    /// More places where the app answers, as host or host/path-prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<String>>,
    /// Path at which the app is asked with ?domain=<host> whether an unknown host is its own; 2xx: it leads there and
    /// gets a certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_demand_ask: Option<String>,
    /// Hosts approved so in a day. Default 50.
    #[schemars(range(min = 1, max = 10000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_demand_limit: Option<u32>,
    /// Variables that must be set before a deployment starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub required_variables: Option<Vec<String>>,
    /// What gets a preview environment. Default: off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previews: Option<Previews>,
    /// Most previews at once. Default 10.
    #[schemars(range(min = 1, max = 200))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preview_limit: Option<u32>,
    /// Hours that a preview stays after its last push; 0 for ever. Default 168.
    #[schemars(range(min = 0, max = 8760))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preview_ttl_hours: Option<u32>,
    /// Seconds without a request until a preview sleeps; 0 never. Default 1800.
    #[schemars(range(min = 0, max = 604800))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preview_sleep_s: Option<u32>,
    /// Static releases: answer unknown paths with index.html, for apps that route in the browser.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spa_fallback: Option<bool>,
}

impl AppSettings {
    /// The hosts of all routes, which the world may know. One that is no domain name gets no certificate.
    pub fn route_hosts(&self) -> impl Iterator<Item = DomainName> {
        self.routes.iter().flatten().filter_map(|route| route.split('/').next()?.parse().ok())
    }
}

/// What gets a preview: an environment of its own, which goes with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Previews {
    /// Nothing.
    #[default]
    Off,
    /// Each branch that no environment has.
    Branches,
    /// Each pull request.
    PullRequests,
}

impl Previews {
    /// Its name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Branches => "branches",
            Self::PullRequests => "pull_requests",
        }
    }
}

/// Whether an app runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum AppState {
    /// Nothing was deployed yet.
    Empty,
    /// Serving, all replicas healthy.
    Running,
    /// Serving, but fewer replicas than wanted answer.
    Degraded,
    /// Should serve, but no replica answers.
    Down,
    /// A preview that nobody used; it wakes when somebody comes.
    Sleeping,
    /// Stopped by request.
    Stopped,
    /// Requests wait until traffic_resume.
    Paused,
    /// Visitors get a maintenance page until traffic_resume.
    Maintenance,
}

/// An app in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AppSummary {
    /// Its name.
    pub name: AppSlug,
    /// The project it belongs to.
    pub project: ProjectSlug,
    /// Whether it runs.
    pub state: AppState,
    /// Where it answers.
    pub url: String,
    /// The deployment that serves, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<DeploymentRef>,
    /// State of the newest deployment, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<LatestDeployment>,
}

/// The newest deployment in short.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LatestDeployment {
    /// Which.
    pub deployment: DeploymentRef,
    /// Its state.
    pub state: DeploymentState,
    /// When it was asked for.
    pub created_at: Timestamp,
}

/// One running container of the live release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Replica {
    /// Number within the release, from 1.
    pub replica: i64,
    /// Short container id.
    #[schemars(extend("x-detail" = true))]
    pub container: String,
    /// Docker's word for its state, such as "running" or "exited".
    pub state: String,
    /// How often Docker restarted it.
    pub restarts: i64,
    /// Since when it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// How it ended, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
}

/// An app in full.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AppDetail {
    /// Its name.
    pub name: AppSlug,
    /// The project it belongs to.
    pub project: ProjectSlug,
    /// Numeric id, for programs that want one.
    #[schemars(extend("x-detail" = true))]
    pub id: i64,
    /// UUID, for programs that want one.
    #[schemars(extend("x-detail" = true))]
    pub uuid: String,
    /// The environment that the rest speaks of.
    pub environment: EnvironmentName,
    /// The environments that it has, production first.
    pub environments: Vec<EnvironmentName>,
    /// Whether it runs.
    pub state: AppState,
    /// Where it answers, the main URL first.
    pub urls: Vec<String>,
    /// The git remote to push to (`git push <git_remote> main`); a token is the password.
    pub git_remote: String,
    /// What was configured; absent fields have their default.
    pub settings: AppSettings,
    /// How many replicas there should be.
    pub replicas_wanted: i64,
    /// The replicas there are.
    pub replicas: Vec<Replica>,
    /// What keeps it from serving well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Untrusted>,
    /// The deployment that serves, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<DeploymentRef>,
    /// The newest deployment, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<LatestDeployment>,
    /// Names of the variables that are set.
    pub variables: Vec<String>,
    /// Settings or variables changed after the live release was made; a redeploy applies them.
    pub changes_pending: bool,
    /// When it was made.
    #[schemars(extend("x-detail" = true))]
    pub created_at: Timestamp,
}

/// Input of `app_list`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AppList {
    /// Only apps of this project.
    pub project: Option<ProjectSlug>,
    /// Default 20.
    pub limit: Option<u32>,
    /// Cursor of the page before.
    pub cursor: Option<String>,
}

/// Output of `app_list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AppPage {
    /// The apps, by name.
    pub apps: Vec<AppSummary>,
    /// How many there are in all.
    pub total: i64,
    /// Pass as `cursor` for the next page; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Input of `app_get` and `app_start`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AppRef {
    /// The app's name.
    pub app: AppSlug,
    /// Default: production.
    #[serde(default)]
    pub environment: Option<EnvironmentName>,
}

/// Input of `app_create`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AppCreate {
    /// Name of the new app; it becomes the first part of its host name.
    pub name: AppSlug,
    /// The project it belongs to. Default: default.
    #[serde(default)]
    pub project: Option<ProjectSlug>,
    /// Settings that differ from the defaults.
    #[serde(default)]
    pub settings: AppSettings,
}

/// Input of `app_update`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AppUpdate {
    /// The app's name.
    pub app: AppSlug,
    /// Settings to change; those not named stay.
    #[serde(default)]
    pub settings: AppSettings,
    /// Names of settings to set back to their default.
    #[serde(default)]
    pub unset: Vec<String>,
}

/// Output of `app_update`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AppUpdated {
    /// The settings as they are now.
    pub settings: AppSettings,
    /// Which settings changed.
    pub changed: Vec<String>,
    /// How the change takes effect.
    pub applies: String,
}

/// Input of `app_delete`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AppDelete {
    /// The app's name.
    pub app: AppSlug,
    /// The app's name again, as confirmation.
    #[serde(default)]
    pub confirm: Option<String>,
    /// Only say what would be deleted.
    #[serde(default)]
    pub dry_run: bool,
}

/// Output of `app_delete`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AppDeleted {
    /// The app.
    pub app: AppSlug,
    /// What goes with it, in words.
    pub removes: Vec<String>,
    /// Whether the deletion has begun; false for a dry run.
    pub deleting: bool,
    /// The job that does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobHandle>,
}

/// Input of `app_stop`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AppStop {
    /// The app's name.
    pub app: AppSlug,
    /// Default: production.
    #[serde(default)]
    pub environment: Option<EnvironmentName>,
    /// The app's name again, as confirmation: visitors get a "stopped" page until it is started.
    #[serde(default)]
    pub confirm: Option<String>,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// Output of `app_stop`, `app_start` and `app_scale`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AppChanged {
    /// The app.
    pub app: AppSlug,
    /// The environment.
    pub environment: EnvironmentName,
    /// What happens, in words.
    pub effect: String,
    /// The job that does it; absent for a dry run or when there is nothing to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobHandle>,
}

/// Input of `app_scale`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AppScale {
    /// The app's name.
    pub app: AppSlug,
    /// Default: production.
    #[serde(default)]
    pub environment: Option<EnvironmentName>,
    /// How many replicas there should be, 1 to 50.
    #[schemars(range(min = 1, max = 50))]
    pub replicas: u32,
}

/// Input of `app_restart`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AppRestart {
    /// The app's name.
    pub app: AppSlug,
    /// Default: production.
    #[serde(default)]
    pub environment: Option<EnvironmentName>,
    /// Wait up to this many seconds for the end, at most 50. Default 0.
    #[schemars(range(min = 0, max = 50))]
    #[serde(default)]
    pub wait_s: Option<u32>,
    /// The same key within a day returns the same deployment instead of a second one.
    #[serde(default)]
    pub idempotency_key: Option<String>,
}
