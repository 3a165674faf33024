//! What can go wrong in the store, and how it is told to callers.
//!
//! Causes that name files, SQL or drivers go to the trace only; a caller gets the code, a sentence and a hint.

use std::path::PathBuf;

use berth_schemas::{Code, Problem, deployment::DeploymentState, job::JobState, push::PushState};

/// An error of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The name is in use.
    #[error("the {kind} name {name:?} is taken")]
    Taken {
        /// What has the name: app, project, token.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// What was named does not exist, or is not visible to the caller.
    #[error("there is no {kind} {name:?}")]
    NotFound {
        /// What was looked for.
        kind: &'static str,
        /// Its name or id.
        name: String,
        /// Names that do exist and that the caller may see.
        known: Vec<String>,
    },
    /// The state of things does not allow it.
    #[error("{detail}")]
    Conflict {
        /// What stands in the way.
        detail: String,
        /// What to do.
        hint: String,
    },
    /// The caller may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// A deployment cannot go from one state to the other.
    #[error("a deployment that is {} cannot become {}", from.as_str(), to.as_str())]
    IllegalTransition {
        /// Where it stands.
        from: DeploymentState,
        /// Where it was to go.
        to: DeploymentState,
    },
    /// A job cannot go from one state to the other.
    #[error("a job that is {} cannot become {}", from.as_str(), to.as_str())]
    IllegalJobTransition {
        /// Where it stands.
        from: JobState,
        /// Where it was to go.
        to: JobState,
    },
    /// A push cannot go from one state to the other.
    #[error("a push that is {} cannot become {}", from.as_str(), to.as_str())]
    IllegalPushTransition {
        /// Where it stands.
        from: PushState,
        /// Where it was to go.
        to: PushState,
    },
    /// Somebody else changed it first; read it again and decide anew.
    #[error("{what} is {found} by now, not {expected}")]
    Stale {
        /// Which thing.
        what: String,
        /// The state that the caller believed it to have.
        expected: String,
        /// The state that it has.
        found: String,
    },
    /// A call with the same idempotency key is still at work.
    #[error("a call with the same idempotency key is still running")]
    InProgress,
    /// The database stayed locked for longer than the busy timeout.
    #[error("the database is busy")]
    Busy(#[source] sqlx::Error),
    /// No space is left for the database.
    #[error("no disk space is left for the database")]
    DiskFull(#[source] sqlx::Error),
    /// Another daemon works on this data.
    #[error("another daemon is using {0}")]
    Locked(String),
    /// The database was written by a newer version.
    #[error("the database has schema {found}, but this version of Berth knows only up to {known}")]
    Newer {
        /// Schema version in the database.
        found: i64,
        /// Newest that this binary knows.
        known: i64,
    },
    /// A migration that was applied differs from the one in this binary.
    #[error("migration {version} was applied in another form than this version of Berth has")]
    MigrationChanged {
        /// Which migration.
        version: i64,
    },
    /// A migration did not work.
    #[error("migration {version} ({name}) failed: {source}")]
    MigrationFailed {
        /// Which migration.
        version: i64,
        /// Its name.
        name: &'static str,
        /// Why.
        source: sqlx::Error,
    },
    /// The PostgreSQL server is too old.
    #[error("PostgreSQL {0} is too old; Berth needs 15 or newer")]
    OldServer(String),
    /// The database URL is none that Berth can use.
    #[error("the database URL is not usable: {0}")]
    BadUrl(String),
    /// The secret key is missing, weak, exposed or wrong.
    #[error(transparent)]
    Key(#[from] crate::key::KeyError),
    /// A sealed value does not open: it was changed, moved to another row, or sealed with another key.
    #[error("a sealed value of {0} does not open")]
    Unsealable(&'static str),
    /// A stored value makes no sense.
    #[error("{table}.{column} holds an unreadable value: {value:?}")]
    Corrupt {
        /// Table.
        table: &'static str,
        /// Column.
        column: &'static str,
        /// The value, cut short.
        value: String,
    },
    /// A file of the data directory could not be used.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried: create, lock, copy.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Anything else that the database said.
    #[error("the database failed: {0}")]
    Database(#[source] sqlx::Error),
}

/// Result of the store.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

impl StoreError {
    pub(crate) fn not_found(kind: &'static str, name: impl ToString) -> Self {
        Self::NotFound { kind, name: name.to_string(), known: Vec::new() }
    }

    pub(crate) fn conflict(detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Conflict { detail: detail.into(), hint: hint.into() }
    }

    pub(crate) fn corrupt(table: &'static str, column: &'static str, value: &str) -> Self {
        Self::Corrupt { table, column, value: value.chars().take(80).collect() }
    }

    /// Turns a violated UNIQUE constraint into "taken", and leaves everything else.
    pub(crate) fn taken(error: sqlx::Error, kind: &'static str, name: &str) -> Self {
        match &error {
            sqlx::Error::Database(e) if e.is_unique_violation() => {
                Self::Taken { kind, name: name.to_owned() }
            }
            _ => error.into(),
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let code = match &error {
            sqlx::Error::Database(e) => e.code().map(|c| c.into_owned()),
            sqlx::Error::PoolTimedOut => return Self::Busy(error),
            _ => None,
        };
        match code.as_deref() {
            Some("53100") => Self::DiskFull(error),
            Some("55P03" | "57014") => Self::Busy(error),
            // SQLite puts the primary code into the low byte of the extended one: 13 is FULL, 5 BUSY, 6 LOCKED.
            Some(code) if code.len() < 5 => match code.parse::<u32>().map(|c| c & 0xff) {
                Ok(13) => Self::DiskFull(error),
                Ok(5 | 6) => Self::Busy(error),
                _ => Self::Database(error),
            },
            _ => Self::Database(error),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        use StoreError as E;
        let detail = sentence(&error.to_string());
        match error {
            E::Taken { kind, .. } => Problem::new(Code::AlreadyExists, detail)
                .hint(format!("Choose another name, or use the {kind} that has it.")),
            E::NotFound { kind, name, known } => Problem::not_found(kind, &name, &known),
            E::Conflict { hint, .. } => Problem::new(Code::Conflict, detail).hint(hint),
            E::Forbidden(_) => Problem::new(Code::Forbidden, detail),
            E::IllegalTransition { .. }
            | E::IllegalJobTransition { .. }
            | E::IllegalPushTransition { .. }
            | E::Stale { .. } => {
                Problem::new(Code::Conflict, detail).hint("Look at its present state and decide again.")
            }
            E::InProgress => Problem::new(Code::Conflict, detail)
                .hint("Wait for the first call to end, then repeat with the same key to get its result."),
            E::Busy(cause) => {
                tracing::warn!(%cause, "the database stayed busy");
                Problem::new(Code::Unavailable, detail).hint("Try again in a few seconds.")
            }
            E::DiskFull(cause) => {
                tracing::error!(%cause, "the database's disk is full");
                Problem::new(Code::OutOfDisk, detail)
                    .hint("Free space on the disk that holds the data directory, then try again: platform_cleanup lists what Berth can remove.")
            }
            E::Locked(_) => Problem::new(Code::Unavailable, detail)
                .hint("Stop that one first, or use another data directory. To replace its program: berth upgrade."),
            E::Newer { known, .. } => Problem::new(Code::Unavailable, detail).hint(format!(
                "A downgrade cannot undo a schema change. Install the newer version again; or, with SQLite, stop Berth, move berth.db, berth.db-wal and berth.db-shm away and rename berth.db.before-{:04}, the copy from before the change, to berth.db: what was done since is not in it. With PostgreSQL, restore a dump from before.",
                known + 1
            )),
            E::MigrationChanged { .. } => Problem::new(Code::Unavailable, detail)
                .hint("The database was written by another build of Berth; use that one."),
            cause => {
                tracing::error!(%cause, "the store failed");
                Problem::new(Code::Internal, "Berth could not read or write its data.")
                    .hint("The daemon's log says why.")
            }
        }
    }
}

/// Makes an error's text a sentence.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().collect::<String>()).unwrap_or_default();
    format!("{first}{}.", chars.as_str().trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_stay_inside() {
        let problem: Problem = StoreError::Database(sqlx::Error::WorkerCrashed).into();
        assert_eq!(problem.code, Code::Internal);
        assert!(!problem.to_string().contains("worker"), "{problem}");
    }

    #[test]
    fn a_downgrade_is_told_what_cannot_be_done_and_what_can() {
        let problem: Problem = StoreError::Newer { found: 3, known: 2 }.into();
        let said = problem.to_string();
        assert!(said.contains("schema 3") && said.contains("up to 2"), "{said}");
        assert!(said.contains("berth.db.before-0003"), "{said}");
    }

    #[test]
    fn a_taken_name_says_what_to_do() {
        let problem: Problem = StoreError::Taken { kind: "app", name: "web".into() }.into();
        assert_eq!(problem.code, Code::AlreadyExists);
        assert_eq!(problem.detail, "The app name \"web\" is taken.");
        assert!(problem.hint.is_some());
    }
}
