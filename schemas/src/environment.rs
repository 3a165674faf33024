//! Environments of an app: production, named ones, and previews of branches and pull requests.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AppSlug, DeploymentRef, EnvironmentName, Timestamp, Untrusted, app::AppState, job::JobHandle};

/// What an environment is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum EnvironmentKind {
    /// The one that every app has.
    Production,
    /// One that somebody made, such as staging.
    Named,
    /// Shows a branch or a pull request; comes and goes with it.
    Preview,
}

impl EnvironmentKind {
    /// Its name on the wire and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Production => "production",
            Self::Named => "named",
            Self::Preview => "preview",
        }
    }

    /// The kind with this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Production, Self::Named, Self::Preview].into_iter().find(|k| k.as_str() == text)
    }
}

/// What only a preview has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PreviewShown {
    /// The branch that it shows.
    pub head: Untrusted,
    /// The pull request that it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull: Option<i64>,
    /// It comes from another repository: it gets no secrets, and each commit waits for preview_approve.
    pub fork: bool,
    /// The commit that waits for preview_approve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for_approval: Option<String>,
    /// Its containers are stopped until a visitor comes.
    pub sleeping: bool,
    /// When it was last used.
    pub last_request_at: Timestamp,
    /// When it is removed, unless it gets something new before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// An environment in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EnvironmentSummary {
    /// Its name.
    pub name: EnvironmentName,
    /// What it is for.
    pub kind: EnvironmentKind,
    /// Whether it runs.
    pub state: AppState,
    /// Where it answers.
    pub url: String,
    /// The branch that deploys there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<Untrusted>,
    /// The deployment that serves, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<DeploymentRef>,
    /// What only a preview has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<PreviewShown>,
}

/// An environment in full.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EnvironmentDetail {
    /// The app.
    pub app: AppSlug,
    /// The environment in short.
    #[serde(flatten)]
    pub environment: EnvironmentSummary,
    /// How many replicas there should be.
    pub replicas_wanted: i64,
    /// Names of the variables that count there.
    pub variables: Vec<String>,
    /// Settings or variables changed after the live release was made; a redeploy applies them.
    pub changes_pending: bool,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Input of `environment_list`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentList {
    /// The app's name.
    pub app: AppSlug,
    /// Only environments of this kind.
    #[serde(default)]
    pub kind: Option<EnvironmentKind>,
    /// Page size, 1 to 100. Default 20.
    #[schemars(range(min = 1, max = 100))]
    #[serde(default)]
    pub limit: Option<u32>,
    /// Cursor of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
}

/// Output of `environment_list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EnvironmentPage {
    /// The environments, production first, then in the order in which they were made.
    pub environments: Vec<EnvironmentSummary>,
    /// How many there are in all.
    pub total: i64,
    /// Pass as `cursor` for the next page; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Input of `environment_get`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentGet {
    /// The app's name.
    pub app: AppSlug,
    /// The environment's name, such as production or staging.
    pub environment: EnvironmentName,
}

/// Input of `environment_create`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentCreate {
    /// The app's name.
    pub app: AppSlug,
    /// Name of the new environment; it answers at <name>--<app>.<base domain>.
    pub environment: EnvironmentName,
    /// Branch whose pushes are deployed there.
    #[serde(default)]
    pub branch: Option<String>,
    /// How many replicas it is to have, 1 to 50. Default 1.
    #[schemars(range(min = 1, max = 50))]
    #[serde(default)]
    pub replicas: Option<u32>,
}

/// Input of `environment_update`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentUpdate {
    /// The app's name.
    pub app: AppSlug,
    /// The environment's name.
    pub environment: EnvironmentName,
    /// Branch whose pushes are deployed there. An empty text means none.
    #[serde(default)]
    pub branch: Option<String>,
}

/// Input of `preview_approve`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PreviewApprove {
    /// The app's name.
    pub app: AppSlug,
    /// The preview's environment, such as pr-7.
    pub environment: EnvironmentName,
    /// The commit that you have looked at and that waits, in full, as environment_get shows it.
    pub commit: String,
    /// The same key within a day returns the same deployment instead of a second one.
    #[serde(default)]
    pub idempotency_key: Option<String>,
}

/// Input of `environment_delete`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentDelete {
    /// The app's name.
    pub app: AppSlug,
    /// The environment's name; production goes only with the app.
    pub environment: EnvironmentName,
    /// The environment's name again, as confirmation.
    #[serde(default)]
    pub confirm: Option<String>,
    /// Only say what would be deleted.
    #[serde(default)]
    pub dry_run: bool,
}

/// Output of `environment_delete`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EnvironmentDeleted {
    /// The app.
    pub app: AppSlug,
    /// The environment.
    pub environment: EnvironmentName,
    /// What goes with it, in words.
    pub removes: Vec<String>,
    /// Whether the deletion has begun; false for a dry run.
    pub deleting: bool,
    /// The job that does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobHandle>,
}
