//! Environment variables and secrets of an app.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AppSlug, DeploymentRef, EnvironmentName, Timestamp, VariableName};

/// Who has a variable. What is nearer wins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum VariableScope {
    /// The environment alone.
    #[default]
    Environment,
    /// All previews of the app.
    Previews,
    /// All environments of the app.
    Shared,
}

impl VariableScope {
    /// Its name on the wire and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Environment => "environment",
            Self::Previews => "previews",
            Self::Shared => "shared",
        }
    }
}

/// A variable as it is shown: the value of a secret never is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Variable {
    /// Its name.
    pub name: VariableName,
    /// Its value as it was set, references and all, or a mask if it is a secret.
    pub value: String,
    /// What the app gets, where that was asked for: references replaced, masked if one leads to a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<String>,
    /// The variables that it refers to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refers_to: Vec<VariableName>,
    /// It refers to a secret, directly or through others: what the app gets is treated as one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refers_to_secret: bool,
    /// A ${ in it stands for itself: it was set before there were references. Set anew, it would be one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub as_it_stands: bool,
    /// The environment does not get it: a fork's preview gets neither secrets nor what refers to one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withheld: bool,
    /// Why it has no value there; a deployment would fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Whether it is a secret.
    pub secret: bool,
    /// Who has it: the environment alone, all previews, or all environments.
    pub scope: VariableScope,
    /// Whether builds see it (as a build secret, never in the image).
    pub build: bool,
    /// When it was set.
    pub updated_at: Timestamp,
    /// Who set it.
    pub updated_by: String,
}

/// Input of `variable_list`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VariableList {
    /// The app's name.
    pub app: AppSlug,
    /// Default: production.
    #[serde(default)]
    pub environment: Option<EnvironmentName>,
    /// Also replace references.
    #[serde(default)]
    pub resolved: bool,
    /// Default: all that fit.
    #[schemars(range(min = 1, max = 500))]
    #[serde(default)]
    pub limit: Option<u32>,
    /// Cursor of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
}

/// Output of `variable_list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VariablePage {
    /// The variables, by name.
    pub variables: Vec<Variable>,
    /// Whether the live release runs with other values than these.
    pub changes_pending: bool,
    /// Pass as `cursor` for the next page; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Input of `variable_set`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VariableSet {
    /// The app's name.
    pub app: AppSlug,
    /// Default: production.
    #[serde(default)]
    pub environment: Option<EnvironmentName>,
    /// Whose: of the environment, of all previews, or shared by all.
    #[serde(default)]
    pub scope: VariableScope,
    /// Plain variables to set, name → value. ${NAME} refers to another; $${ is the text ${.
    #[serde(default)]
    pub variables: BTreeMap<VariableName, String>,
    /// Secrets to set, name → value; sealed, and shown masked from then on.
    #[serde(default)]
    pub secrets: BTreeMap<VariableName, String>,
    /// Also give these to builds.
    #[serde(default)]
    pub build: bool,
    /// Apply now by redeploying the live release without a build. Default: with the next deployment.
    #[serde(default)]
    pub redeploy: bool,
}

/// Input of `variable_delete`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VariableDelete {
    /// The app's name.
    pub app: AppSlug,
    /// Default: production.
    #[serde(default)]
    pub environment: Option<EnvironmentName>,
    /// Whose: of the environment, of all previews, or shared by all.
    #[serde(default)]
    pub scope: VariableScope,
    /// The variable.
    pub name: VariableName,
    /// Apply now by redeploying the live release without a build.
    #[serde(default)]
    pub redeploy: bool,
}

/// Output of `variable_set` and `variable_delete`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VariablesChanged {
    /// The names that changed.
    pub changed: Vec<VariableName>,
    /// How the change takes effect.
    pub applies: String,
    /// Environments in which something refers to what is not set there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The redeploy, if one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<DeploymentRef>,
}

/// Input of `variable_history`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VariableHistory {
    /// The app's name.
    pub app: AppSlug,
    /// Default: production.
    #[serde(default)]
    pub environment: Option<EnvironmentName>,
    /// Whose: of the environment, of all previews, or shared by all.
    #[serde(default)]
    pub scope: VariableScope,
    /// Only this variable.
    #[serde(default)]
    pub name: Option<VariableName>,
    /// At most this many, 1 to 200. Default 50.
    #[schemars(range(min = 1, max = 200))]
    #[serde(default)]
    pub limit: Option<u32>,
    /// Cursor of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
}

/// A change of a variable; never its value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VariableChange {
    /// The variable.
    pub name: VariableName,
    /// Number among its versions, from 1.
    pub version: i64,
    /// It was deleted.
    pub deleted: bool,
    /// Whether it was a secret.
    pub secret: bool,
    /// When.
    pub at: Timestamp,
    /// Who did it.
    pub by: String,
}

/// Output of `variable_history`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VariableChanges {
    /// The changes, newest first.
    pub changes: Vec<VariableChange>,
    /// Pass as `cursor` for the next page; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Input of `variable_restore`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VariableRestore {
    /// The app's name.
    pub app: AppSlug,
    /// Default: production.
    #[serde(default)]
    pub environment: Option<EnvironmentName>,
    /// Whose: of the environment, of all previews, or shared by all.
    #[serde(default)]
    pub scope: VariableScope,
    /// The variable.
    pub name: VariableName,
    /// Its version, as variable_history shows it.
    pub version: i64,
    /// Apply now by redeploying the live release without a build.
    #[serde(default)]
    pub redeploy: bool,
}

/// Input of `variable_import`.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VariableImport {
    /// The app's name.
    pub app: AppSlug,
    /// Default: production.
    #[serde(default)]
    pub environment: Option<EnvironmentName>,
    /// Whose: of the environment, of all previews, or shared by all.
    #[serde(default)]
    pub scope: VariableScope,
    /// The text of a .env file, at most 256 KiB.
    pub text: String,
    /// Keep the values as plain variables instead of secrets.
    #[serde(default)]
    pub plain: bool,
    /// Also give these to builds.
    #[serde(default)]
    pub build: bool,
    /// Only say what would change.
    #[serde(default)]
    pub dry_run: bool,
}

impl std::fmt::Debug for VariableImport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VariableImport").field("app", &self.app).finish_non_exhaustive()
    }
}

/// Output of `variable_import`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VariablesImported {
    /// Names that are new.
    pub added: Vec<VariableName>,
    /// Names whose value or kind changes.
    pub changed: Vec<VariableName>,
    /// How many stay as they are.
    pub unchanged: i64,
    /// Environments in which something refers to what is not set there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Whether it was done; false for a dry run.
    pub done: bool,
}

/// Input of `variable_export`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VariableExport {
    /// The app's name.
    pub app: AppSlug,
    /// Default: production.
    #[serde(default)]
    pub environment: Option<EnvironmentName>,
}

/// Output of `variable_export`.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VariablesExported {
    /// The text of a .env file with all variables that count in the environment, secrets in clear, references kept.
    pub text: String,
}

impl std::fmt::Debug for VariablesExported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VariablesExported").finish_non_exhaustive()
    }
}

/// Input of `variable_reveal`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VariableReveal {
    /// The app's name.
    pub app: AppSlug,
    /// Default: production.
    #[serde(default)]
    pub environment: Option<EnvironmentName>,
    /// The variable.
    pub name: VariableName,
}

/// Output of `variable_reveal`.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VariableRevealed {
    /// The variable.
    pub name: VariableName,
    /// Its value in clear, as it was set.
    pub value: String,
    /// What the app gets, where the value refers to others and they are set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<String>,
}

impl std::fmt::Debug for VariableRevealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VariableRevealed").field("name", &self.name).finish_non_exhaustive()
    }
}
