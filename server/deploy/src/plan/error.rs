//! Why there is no plan, said so that the next attempt can be right.

/// Why a source cannot be built as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No preset knows what this is.
    #[error(
        "nothing here is recognised as an app{}; looked for {}; found {}{}",
        within(root),
        joined(looked_for, "; "),
        joined(found, ", "),
        nearly(nearest)
    )]
    NothingRecognised {
        /// The folder that was looked at; empty for the source's top.
        root: String,
        /// What would have been recognised.
        looked_for: Vec<String>,
        /// What is there instead: names at the top, at most 30.
        found: Vec<String>,
        /// What comes nearest, and what it lacks.
        nearest: Vec<String>,
    },
    /// A setting's value is not possible.
    #[error("the setting {setting} cannot be {given:?}: {why}")]
    BadSetting {
        /// Its name.
        setting: &'static str,
        /// Its value, shortened.
        given: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A setting names something that is not in the source.
    #[error("the setting {setting} names {path:?}, which is not in the source{}", there(candidates))]
    Missing {
        /// Its name.
        setting: &'static str,
        /// What it names.
        path: String,
        /// What could be meant instead.
        candidates: Vec<String>,
    },
    /// A file that detection rests on cannot be understood.
    #[error("{path} cannot be understood: {why}")]
    BadFile {
        /// Its path.
        path: String,
        /// What is wrong with it.
        why: String,
    },
}

impl PlanError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NothingRecognised { .. } => {
                "Add a Dockerfile, an index.html, or a start script; or say how with the settings builder, \
                 root_directory and start_command."
            }
            Self::BadSetting { .. } => "Change the setting.",
            Self::Missing { .. } => "Change the setting to something that is there, or add it to the source.",
            Self::BadFile { .. } => "Repair the file.",
        }
    }

    pub(super) fn missing(setting: &'static str, path: &str, candidates: &[String]) -> Self {
        let candidates = candidates.iter().take(10).cloned().collect();
        Self::Missing { setting, path: path.to_owned(), candidates }
    }

    pub(super) fn bad_file(path: &str, why: impl std::fmt::Display) -> Self {
        Self::BadFile { path: path.to_owned(), why: why.to_string().chars().take(300).collect() }
    }
}

fn within(root: &str) -> String {
    if root.is_empty() { String::new() } else { format!(" in {root:?}") }
}

fn joined(list: &[String], separator: &str) -> String {
    if list.is_empty() { "nothing".to_owned() } else { list.join(separator) }
}

fn nearly(nearest: &[String]) -> String {
    if nearest.is_empty() { String::new() } else { format!(". Nearest: {}", nearest.join("; ")) }
}

fn there(candidates: &[String]) -> String {
    if candidates.is_empty() { String::new() } else { format!("; there are {}", candidates.join(", ")) }
}
