//! Building an image with BuildKit through the Docker API.
//!
//! The engine's `/build` endpoint runs BuildKit when asked for builder version 2, streams the context from the
//! request's body and its progress back as protobuf messages. Secrets reach BuildKit through a *session*: a second
//! connection, upgraded to HTTP/2, over which BuildKit asks us for a secret when a step mounts it. The client
//! library opens sessions without secrets only, hence our own (`session`) over our own connection (`wire`).
//! Secrets are in no layer, no build argument and no history, and are masked in the log.
//!
//! A build is cut off by the engine's cancel call and by closing both connections; then whatever it may have tagged
//! in the last moment is removed.

mod failure;
mod progress;
mod redact;
mod run;
mod session;

pub(super) use failure::registry_error;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::io::AsyncRead;

use super::engine::{ContextStream, OutputStream};
use super::image::RegistryAuth;
use super::labels::Labels;

/// What to build.
pub struct BuildRequest {
    /// Name that the image gets: [`super::InstanceId::image_tag`].
    pub tag: String,
    /// The context as a tar stream, plain or gzipped.
    pub context: ContextStream,
    /// Path of the Dockerfile within the context.
    pub dockerfile: String,
    /// Stage to build; the last one if `None`.
    pub target: Option<String>,
    /// Build arguments. They are visible in the image's history: never secrets.
    pub args: BTreeMap<String, String>,
    /// Secrets for `RUN --mount=type=secret,id=…`.
    pub secrets: Vec<BuildSecret>,
    /// Labels of the image beside those of the instance.
    pub labels: Labels,
    /// Credentials for the registries of base images.
    pub registries: Vec<RegistryAuth>,
    /// Build every step anew.
    pub no_cache: bool,
    /// Ask the registry for newer base images, even if the engine has them.
    pub pull: bool,
    /// What the build may take.
    pub limits: BuildLimits,
}

impl BuildRequest {
    /// A build of `context` with its `Dockerfile`, tagged `tag`, all else as by default.
    pub fn new(tag: impl Into<String>, context: ContextStream) -> Self {
        Self {
            tag: tag.into(),
            context,
            dockerfile: "Dockerfile".to_owned(),
            target: None,
            args: BTreeMap::new(),
            secrets: Vec::new(),
            labels: Labels::new(),
            registries: Vec::new(),
            no_cache: false,
            pull: false,
            limits: BuildLimits::default(),
        }
    }
}

impl fmt::Debug for BuildRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuildRequest")
            .field("tag", &self.tag)
            .field("dockerfile", &self.dockerfile)
            .field("target", &self.target)
            .field("args", &self.args)
            .field("secrets", &self.secrets)
            .finish_non_exhaustive()
    }
}

/// What a build may take.
///
/// The API's parameters for memory and CPU are of the builder before BuildKit, which ignores them (tried with 20.10:
/// a step sees no limit), so they are not offered. All builds of an engine together have the CPU weight of one
/// container, because BuildKit runs its steps in one control group beside those of the containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildLimits {
    /// Time for the whole build.
    pub time: Duration,
}

impl Default for BuildLimits {
    fn default() -> Self {
        Self { time: Duration::from_secs(30 * 60) }
    }
}

/// A value that build steps may mount and that stays out of the image.
#[derive(Clone, PartialEq, Eq)]
pub struct BuildSecret {
    /// The `id` of the mount.
    pub id: String,
    /// The value, at most 500 KiB; never in the `Debug` form.
    pub value: Vec<u8>,
}

impl fmt::Debug for BuildSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuildSecret").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The image that came out.
#[derive(Debug, Clone, PartialEq)]
pub struct BuiltImage {
    /// Id (`sha256:…`).
    pub image_id: String,
    /// Bytes of all its layers.
    pub size_bytes: u64,
    /// TCP ports that it declares, ascending.
    pub exposed_ports: Vec<u16>,
    /// When it was made (microseconds since the epoch).
    pub created_at: Option<i64>,
}

/// Number of a step within its build, from 1, in the order in which steps became known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepId(pub u32);

/// Where a step is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepState {
    /// It runs.
    Started,
    /// Its result was in the cache.
    Cached,
    /// It finished.
    Done,
    /// It failed, or was cancelled.
    Failed {
        /// BuildKit's sentence.
        error: String,
    },
}

/// Progress of a build.
#[derive(Debug, Clone, PartialEq)]
pub enum BuildEvent {
    /// A step changed its state.
    Step {
        /// Which step.
        step: StepId,
        /// Its name, as in `[3/7] RUN npm ci`.
        name: String,
        /// Whether it is BuildKit's own, such as loading the context.
        internal: bool,
        /// Its new state.
        state: StepState,
        /// Its duration, once it ended.
        duration: Option<Duration>,
    },
    /// A step printed a line.
    Log {
        /// Which step.
        step: StepId,
        /// Where to.
        stream: OutputStream,
        /// The line without its end, at most 16 KiB, secrets masked.
        text: String,
    },
    /// Bytes are moving: a base image is pulled, or the context is sent. At most one per tenth.
    Transfer {
        /// Which step.
        step: StepId,
        /// What moves, as in a layer's digest.
        what: String,
        /// Bytes so far.
        current: u64,
        /// Bytes in all; 0 if not known.
        total: u64,
    },
    /// BuildKit warns about the Dockerfile.
    Warning {
        /// The warning.
        text: String,
    },
}

/// The context stream of something that reads a tar.
pub fn context_from_reader(reader: impl AsyncRead + Send + 'static) -> ContextStream {
    tokio_util::io::ReaderStream::with_capacity(reader, 64 << 10).boxed()
}
