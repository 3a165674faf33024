//! What ends a command with an error: shown on standard error, told to scripts by the exit code.

use std::process::ExitCode;

use berth_schemas::{Code, Problem};

use super::term;

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// The daemon said no. Exit code 1, or 4 where it is about the token.
    Problem(Box<Problem>),
    /// Something on this side failed. Exit code 1.
    Local {
        /// What.
        text: String,
        /// What to do.
        hint: Option<String>,
    },
    /// The arguments make no sense. Exit code 2.
    Usage(String),
    /// The daemon cannot be reached. Exit code 3.
    Unreachable {
        /// What was tried and how it failed.
        text: String,
        /// What to do.
        hint: String,
    },
    /// Everything was said already. Exit code 1.
    Said,
}

impl Failure {
    /// A usage error.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    /// A failure on this side.
    pub fn local(text: impl Into<String>) -> Self {
        Self::Local { text: text.into(), hint: None }
    }

    /// Adds what to do, where the kind of failure has room for it.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        match self {
            Self::Local { text, .. } => Self::Local { text, hint: Some(hint.into()) },
            other => other,
        }
    }

    /// Exit code for scripts.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Problem(p) if matches!(p.code, Code::Unauthenticated | Code::Forbidden) => 4,
            Self::Problem(_) | Self::Local { .. } | Self::Said => 1,
            Self::Usage(_) => 2,
            Self::Unreachable { .. } => 3,
        })
    }

    /// Says it on standard error; as one JSON object if `json`.
    pub fn print(&self, json: bool) {
        if json {
            if let Some(problem) = self.as_problem() {
                eprintln!("{}", serde_json::to_string(&problem).unwrap_or_default());
            }
            return;
        }
        match self {
            Self::Problem(problem) => print_problem(problem),
            Self::Local { text, hint } => say(text, hint.as_deref()),
            Self::Usage(text) => say(text, Some("--help shows what the command takes.")),
            Self::Unreachable { text, hint } => say(text, Some(hint)),
            Self::Said => {}
        }
    }

    /// The same as callers elsewhere see it; none if everything was said already.
    #[must_use]
    pub fn as_problem(&self) -> Option<Problem> {
        match self {
            Self::Problem(problem) => Some((**problem).clone()),
            Self::Local { text, hint } => {
                Some(Problem { hint: hint.clone(), ..Problem::new(Code::Internal, text) })
            }
            Self::Usage(text) => Some(Problem::new(Code::InvalidInput, text)),
            Self::Unreachable { text, hint } => Some(Problem::new(Code::Unavailable, text).hint(hint)),
            Self::Said => None,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.as_problem() {
            Some(problem) => problem.fmt(f),
            None => f.write_str("failed"),
        }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::local(error.to_string())
    }
}

fn say(text: &str, hint: Option<&str>) {
    anstream::eprintln!("{}error:{:#} {}", term::BAD, term::BAD, term::safe(text));
    if let Some(hint) = hint {
        anstream::eprintln!("{}hint:{:#} {}", term::HINT, term::HINT, term::safe(hint));
    }
}

/// A problem in full: the failing step and its last lines first, then what it means and what to do.
pub fn print_problem(problem: &Problem) {
    if !problem.log_tail.is_empty() {
        for line in &problem.log_tail {
            anstream::eprintln!("{}  │ {}{:#}", term::MUTED, term::safe(&line.0), term::MUTED);
        }
    }
    if let Some(step) = &problem.step {
        anstream::eprintln!("{}step:{:#} {}", term::BAD, term::BAD, term::safe(step));
    }
    say(&problem.detail, problem.hint.as_deref());
    let in_hint = |c: &String| problem.hint.as_ref().is_some_and(|h| h.contains(c.as_str()));
    if !problem.candidates.is_empty() && !problem.candidates.iter().all(in_hint) {
        anstream::eprintln!(
            "{}known:{:#} {}",
            term::HINT,
            term::HINT,
            term::safe(&problem.candidates.join(", "))
        );
    }
}
