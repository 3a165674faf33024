//! How failures of the parts become the one problem that a deployment or a caller gets.

use berth_schemas::{Code, Problem, deployment::DeploymentState};
use berth_store::StoreError;

use crate::{
    docker::EngineError,
    probe::{HealthFailure, HealthFailureKind},
};

/// Why an attempt ended without the deployment being live.
#[derive(Debug)]
pub(crate) enum Halt {
    /// It failed.
    Failed(Problem),
    /// It was cancelled by somebody.
    Cancelled,
    /// A newer deployment took its place.
    Superseded {
        /// Which, such as "web#43".
        by: String,
    },
    /// What it brings is live already.
    Same {
        /// By which deployment, such as "web#41".
        of: String,
    },
    /// The daemon is going down; the next start decides.
    Shutdown,
}

impl From<Problem> for Halt {
    fn from(problem: Problem) -> Self {
        Self::Failed(problem)
    }
}

impl From<StoreError> for Halt {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<EngineError> for Halt {
    fn from(error: EngineError) -> Self {
        Self::Failed(engine_problem(&error))
    }
}

/// An engine's failure as callers see it.
pub(crate) fn engine_problem(error: &EngineError) -> Problem {
    let code = match error {
        EngineError::Unavailable { .. } => Code::DockerUnavailable,
        EngineError::BuildFailed { .. } | EngineError::DockerfileInvalid { .. } => Code::BuildFailed,
        EngineError::ImageNotFound { .. }
        | EngineError::PullDenied { .. }
        | EngineError::RegistryUnreachable { .. } => Code::ImageUnavailable,
        EngineError::OutOfDisk { .. } => Code::OutOfDisk,
        EngineError::TimedOut { .. } => Code::TimedOut,
        EngineError::Cancelled { .. } => Code::Cancelled,
        EngineError::Invalid { .. } => Code::InvalidInput,
        EngineError::NotFound { .. } | EngineError::Conflict { .. } | EngineError::NotOurs { .. } => {
            Code::Conflict
        }
        EngineError::Other { .. } => Code::Internal,
    };
    let mut problem = Problem::new(code, sentence(&error.to_string()));
    // Docker's own words, which name what a Dockerfile or an image says.
    if matches!(error, EngineError::Invalid { .. } | EngineError::Conflict { .. } | EngineError::Other { .. })
    {
        problem = problem.quoting();
    }
    if let Some(hint) = error.hint() {
        problem = problem.hint(sentence(&hint));
    }
    if let EngineError::BuildFailed { tail, .. } = error {
        problem = problem.log_tail(tail.iter().map(String::as_str));
    }
    problem
}

/// Why a release is not healthy, with the last lines it printed.
pub(crate) fn health_problem(failure: &HealthFailure, path: Option<&str>, tail: Vec<String>) -> Problem {
    use HealthFailureKind as Kind;
    let code = match &failure.kind {
        Kind::Exited { .. } => Code::ContainerExited,
        Kind::NeverOpened { .. } => Code::PortNotOpen,
        Kind::BadStatus { .. } | Kind::TimedOut { .. } => Code::HealthCheckFailed,
        Kind::Cancelled => Code::Cancelled,
    };
    let mut detail = sentence(&failure.to_string());
    if let Kind::BadStatus { body_head, .. } = &failure.kind {
        detail.push_str(&format!(" The path was {}.", path.unwrap_or("/")));
        if let Some(said) = body_head.lines().find(|l| !l.trim().is_empty()) {
            detail.push_str(&format!(" It said: {}", said.chars().take(200).collect::<String>()));
        }
    }
    let mut hint = failure.kind.hint().map(|h| sentence(&h)).unwrap_or_default();
    match &failure.kind {
        Kind::NeverOpened { listening, .. } if listening.iter().any(|l| !l.is_loopback_only()) => {
            hint.push_str(" The port is set with app_update (settings.port).");
        }
        Kind::BadStatus { .. } => hint.push_str(" The path is set with app_update (settings.health_path)."),
        Kind::TimedOut { .. } => {
            hint.push_str(" The time is set with app_update (settings.health_timeout_s).")
        }
        _ => {}
    }
    Problem::new(code, detail).hint(hint.trim()).step(DeploymentState::Checking.as_str()).log_tail(tail)
}

/// A fragment as a sentence: capital first letter, full stop.
pub(crate) fn sentence(text: &str) -> String {
    let text = text.trim();
    let mut chars = text.chars();
    let mut out: String = match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    };
    if !out.ends_with(['.', '!', '?']) {
        out.push('.');
    }
    out
}
