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
pub struct ProjectList {
    /// Default: all that fit.
    #[schemars(range(min = 1, max = 500))]
    #[serde(default)]
    pub limit: Option<u32>,
    /// Cursor of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
}

/// Output of `project_list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProjectPage {
    /// The projects, by name.
    pub projects: Vec<Project>,
    /// Pass as `cursor` for the next page; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
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
