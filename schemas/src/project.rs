//! Projects: groups of apps and the unit of isolation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ProjectSlug, Timestamp};

/// A project.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Project {
    /// Its name.
    pub name: ProjectSlug,
    /// How many apps it holds.
    pub apps: i64,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Input of `project_list`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProjectList {}

/// Output of `project_list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProjectPage {
    /// The projects, by name.
    pub projects: Vec<Project>,
}

/// Input of `project_create`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProjectCreate {
    /// Name of the new project, such as "shop".
    pub name: ProjectSlug,
}

/// Input of `project_delete`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProjectDelete {
    /// The project; it must have no apps.
    pub project: ProjectSlug,
    /// The project's name again, as confirmation.
    #[serde(default)]
    pub confirm: Option<String>,
    /// Only say what would be deleted.
    #[serde(default)]
    pub dry_run: bool,
}

/// Output of `project_delete`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProjectDeleted {
    /// The project.
    pub project: ProjectSlug,
    /// Whether it is gone; false for a dry run.
    pub deleted: bool,
}
