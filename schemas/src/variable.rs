//! Environment variables and secrets of an app.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AppSlug, DeploymentRef, EnvironmentName, Timestamp, VariableName};

/// A variable as it is shown: the value of a secret never is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Variable {
    /// Its name.
    pub name: VariableName,
    /// Its value, or a mask if it is a secret.
    pub value: String,
    /// Whether it is a secret.
    pub secret: bool,
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
}

/// Output of `variable_list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VariablePage {
    /// The variables, by name.
    pub variables: Vec<Variable>,
    /// Whether the live release runs with other values than these.
    pub changes_pending: bool,
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
    /// Plain variables to set, name → value.
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
    /// The redeploy, if one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<DeploymentRef>,
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
    /// Its value in clear.
    pub value: String,
}

impl std::fmt::Debug for VariableRevealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VariableRevealed").field("name", &self.name).finish_non_exhaustive()
    }
}
