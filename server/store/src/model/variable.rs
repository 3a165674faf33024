//! Variables as the rest of the daemon sees them.

use berth_schemas::{Timestamp, VariableName, variable::VariableScope};
use serde::{Deserialize, Serialize};

/// A variable to be set.
#[derive(Clone, PartialEq, Eq)]
pub struct NewVariable {
    /// Name.
    pub name: VariableName,
    /// Value in clear.
    pub value: String,
    /// Whether it is shown masked.
    pub secret: bool,
    /// Whether builds get it.
    pub build: bool,
    /// Whether `${NAME}` in it stands for another variable.
    pub refers: bool,
}

impl NewVariable {
    /// A variable in whose value `${NAME}` is a reference.
    #[must_use]
    pub fn new(name: VariableName, value: String, secret: bool, build: bool) -> Self {
        let refers = value.contains("${");
        Self { name, value, secret, build, refers }
    }

    /// Whether a variable is so already.
    #[must_use]
    pub fn is(&self, row: &VariableRow) -> bool {
        (&self.name, &self.value) == (&row.name, &row.value)
            && (self.secret, self.build, self.refers) == (row.secret, row.build, row.refers)
    }
}

impl std::fmt::Debug for NewVariable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewVariable").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A variable with its value opened.
#[derive(Clone, PartialEq)]
pub struct VariableRow {
    /// Name.
    pub name: VariableName,
    /// Value in clear.
    pub value: String,
    /// Who has it: the environment alone, all previews, or all environments.
    pub scope: VariableScope,
    /// Whether it is shown masked.
    pub secret: bool,
    /// Whether builds get it.
    pub build: bool,
    /// Whether `${NAME}` in it stands for another variable. Not so in what was set before there were references.
    pub refers: bool,
    /// Number of the value among its versions; 0 where it was set before versions were kept.
    pub version: i64,
    /// When it was set.
    pub updated_at: Timestamp,
    /// Who set it.
    pub updated_by: String,
}

impl std::fmt::Debug for VariableRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VariableRow")
            .field("name", &self.name)
            .field("secret", &self.secret)
            .finish_non_exhaustive()
    }
}

/// A value that a variable had, without the value.
#[derive(Debug, Clone, PartialEq)]
pub struct VariableVersion {
    /// Name.
    pub name: VariableName,
    /// Number among the versions of this variable, from 1.
    pub version: i64,
    /// It was deleted.
    pub deleted: bool,
    /// Whether it was a secret.
    pub secret: bool,
    /// Whether builds got it.
    pub build: bool,
    /// When.
    pub at: Timestamp,
    /// Who did it.
    pub by: String,
}

/// What a release runs with besides its artifact and settings, as it was when the release was made.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The branch or tag that it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Where it sends its errors, unless its variables say otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dsn: Option<String>,
    /// Its variables, with no references left in them.
    pub variables: Vec<SnapshotVariable>,
}

/// A variable of a release.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct SnapshotVariable {
    /// Name.
    pub name: VariableName,
    /// The value that its processes get.
    pub value: String,
    /// It was a secret, or referred to one. What a release of an earlier Berth has counts as one: that was not noted.
    pub secret: bool,
    /// Who had it.
    pub scope: VariableScope,
    /// Which of its versions it was; 0 where that is not known.
    pub version: i64,
}

impl std::fmt::Debug for SnapshotVariable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotVariable")
            .field("name", &self.name)
            .field("secret", &self.secret)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}
