//! What can go wrong between Berth and a container engine, in the terms of the caller: which thing, why, and what
//! to do next. Docker's own status codes and messages are translated here and in `client`, and nowhere else.

use std::time::Duration;

/// Why the engine cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unavailability {
    /// No socket at the configured path.
    #[error("its socket does not exist")]
    SocketMissing,
    /// The socket is there, but this user may not open it.
    #[error("permission to its socket is denied")]
    PermissionDenied,
    /// The socket or port is there, but nothing listens on it.
    #[error("nothing listens on its socket")]
    NotListening,
    /// A connection was made, but no answer came in time.
    #[error("it accepts connections but does not answer")]
    NotAnswering,
    /// The connection broke in the middle of a call.
    #[error("the connection to it was lost")]
    ConnectionLost,
    /// The configured host is of no known form.
    #[error("its address is not understood")]
    BadAddress,
}

/// An operation of the container engine failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EngineError {
    /// The engine cannot be reached at all.
    #[error("Docker is not available: {why}")]
    Unavailable {
        /// The kind of failure.
        why: Unavailability,
        /// What the operator can do about it.
        hint: String,
    },
    /// The container, image or network does not exist.
    #[error("{what} does not exist in Docker")]
    NotFound {
        /// The thing asked for.
        what: String,
    },
    /// The state of the thing forbids the operation, or its name is taken.
    #[error("{what}: {why}")]
    Conflict {
        /// The operation.
        what: String,
        /// Docker's reason.
        why: String,
    },
    /// The object exists, but was not made by this instance, and is therefore left alone.
    #[error("{what} was not made by this Berth instance and is left alone")]
    NotOurs {
        /// The thing refused.
        what: String,
    },
    /// A value of the request cannot be used.
    #[error("{what} is not valid: {why}")]
    Invalid {
        /// The value.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A step of the build failed.
    #[error("the build failed{}{}: {reason}", step.as_ref().map(|s| format!(" at {s}")).unwrap_or_default(),
        exit_code.map(|c| format!(" with exit code {c}")).unwrap_or_default())]
    BuildFailed {
        /// Name of the failing step, as in `[3/7] RUN npm ci`.
        step: Option<String>,
        /// Exit code of its command.
        exit_code: Option<i32>,
        /// The last lines that the step printed.
        tail: Vec<String>,
        /// BuildKit's own sentence.
        reason: String,
    },
    /// The Dockerfile could not be parsed.
    #[error("the Dockerfile is not valid{}: {reason}", line.map(|l| format!(" (line {l})")).unwrap_or_default())]
    DockerfileInvalid {
        /// Line number, from 1, where BuildKit tells it.
        line: Option<u32>,
        /// What is wrong.
        reason: String,
    },
    /// The registry answered that there is no such image.
    #[error("image {image} was not found")]
    ImageNotFound {
        /// The image as asked for.
        image: String,
    },
    /// The registry wants (other) credentials.
    #[error("the registry denied access to image {image}: {why}")]
    PullDenied {
        /// The image as asked for.
        image: String,
        /// The registry's reason.
        why: String,
    },
    /// The registry could not be reached.
    #[error("the registry of image {image} cannot be reached: {why}")]
    RegistryUnreachable {
        /// The image as asked for.
        image: String,
        /// The network error.
        why: String,
    },
    /// The disk of the engine is full.
    #[error("no space left on Docker's disk during {what}")]
    OutOfDisk {
        /// The operation.
        what: String,
    },
    /// The operation took longer than it may.
    #[error("{what} did not finish within {}", humane(*after))]
    TimedOut {
        /// The operation.
        what: String,
        /// Its limit.
        after: Duration,
    },
    /// The caller cancelled the operation.
    #[error("{what} was cancelled")]
    Cancelled {
        /// The operation.
        what: String,
    },
    /// Anything else that Docker says.
    #[error("{what} failed: {why}")]
    Other {
        /// The operation.
        what: String,
        /// Docker's message.
        why: String,
    },
}

impl EngineError {
    /// Stable, public code of the variant.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "docker_unavailable",
            Self::NotFound { .. } => "docker_not_found",
            Self::Conflict { .. } => "docker_conflict",
            Self::NotOurs { .. } => "docker_not_ours",
            Self::Invalid { .. } => "docker_invalid",
            // BuildKit says so of a file that COPY or ADD does not find.
            Self::BuildFailed { .. } => "build_failed",
            Self::DockerfileInvalid { .. } => "dockerfile_invalid",
            Self::ImageNotFound { .. } => "image_not_found",
            Self::PullDenied { .. } => "pull_denied",
            Self::RegistryUnreachable { .. } => "registry_unreachable",
            Self::OutOfDisk { .. } => "out_of_disk",
            Self::TimedOut { .. } => "timed_out",
            Self::Cancelled { .. } => "cancelled",
            Self::Other { .. } => "docker_error",
        }
    }

    /// What to do next, where there is something to do.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Unavailable { hint, .. } => return Some(hint.clone()),
            Self::BuildFailed { exit_code: Some(137), .. } => {
                "exit code 137 means that the command was killed, most often for lack of memory: give the machine \
                 more memory or make the build need less"
            }
            // BuildKit says so of a file that COPY or ADD does not find.
            Self::BuildFailed { reason, .. } if reason.ends_with("\" not found: not found") => {
                "the file is not in the source that was built: check its path, and whether an ignore file leaves it out"
            }
            Self::BuildFailed { .. } => {
                "the last lines of the failing step say why; the whole build log is kept"
            }
            Self::DockerfileInvalid { .. } => "correct the Dockerfile at that line and deploy again",
            Self::ImageNotFound { .. } => "check the image's name and tag",
            Self::PullDenied { .. } => "add credentials for this registry, or check the image's name",
            Self::RegistryUnreachable { .. } => {
                "check this machine's network and DNS, or use an image that the engine already has"
            }
            Self::OutOfDisk { .. } => {
                "free disk space, or lower what Berth keeps of releases and build cache"
            }
            Self::TimedOut { .. } => "raise the limit, or find out what hangs",
            _ => return None,
        };
        Some(text.to_owned())
    }

    /// Whether trying again later may succeed without anybody changing the request.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::RegistryUnreachable { .. } | Self::TimedOut { .. })
    }

    /// Whether the thing asked for is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    pub(crate) fn other(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::Other { what: what.into(), why: why.to_string() }
    }

    pub(crate) fn invalid(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), why: why.into() }
    }
}

/// Seconds where that is exact enough, milliseconds below one second.
fn humane(duration: Duration) -> String {
    match duration.as_millis() {
        ms if ms < 1000 => format!("{ms} ms"),
        ms => format!("{} s", ms / 1000),
    }
}
