//! The one trait through which Berth uses a container engine, and the values that cross it.
//!
//! The pipeline, the reconciler and the log shipper see only this. An engine is bound to one instance: it adds the
//! instance's labels to what it makes, and lists, watches and removes only what carries them; callers cannot
//! forget it. Times are microseconds since the Unix epoch, in UTC, where the name does not say otherwise.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::build::{BuildEvent, BuildRequest, BuiltImage};
use super::error::EngineError;
use super::image::{ImageInfo, ImageRef, ImageSummary, PullEvent, RegistryAuth};
use super::labels::Labels;
use crate::probe::Listening;

/// Lines of a container's log.
pub type LogStream = BoxStream<'static, Result<LogLine, EngineError>>;
/// Events of this instance's containers.
pub type EventStream = BoxStream<'static, Result<EngineEvent, EngineError>>;
/// A tar stream: of a build context, or out of a container.
pub type ContextStream = BoxStream<'static, std::io::Result<Bytes>>;

/// A container engine, seen by one Berth instance.
///
/// Every call has a time limit and fails with [`EngineError::Unavailable`] when there is no engine to talk to;
/// no call needs a connection to have been made before.
#[async_trait]
pub trait Engine: Send + Sync {
    /// Whether the engine answers; if not, the error's hint says what is missing.
    async fn ping(&self) -> Result<(), EngineError>;
    /// Version, capacity and storage of the engine.
    async fn info(&self) -> Result<EngineInfo, EngineError>;

    /// Builds an image. Events go to `sink` in order; a receiver that went away does not stop the build. When
    /// `cancel` fires or the request's time limit passes, the build is stopped inside the engine too.
    async fn build(
        &self,
        request: BuildRequest,
        sink: mpsc::Sender<BuildEvent>,
        cancel: CancellationToken,
    ) -> Result<BuiltImage, EngineError>;
    /// Pulls an image from its registry.
    async fn pull(
        &self,
        image: &ImageRef,
        auth: Option<RegistryAuth>,
        sink: mpsc::Sender<PullEvent>,
        cancel: CancellationToken,
    ) -> Result<ImageInfo, EngineError>;
    /// Looks at an image that the engine has, by name or id. `None` if it has none such.
    async fn inspect_image(&self, image: &str) -> Result<Option<ImageInfo>, EngineError>;
    /// Gives an image another name; `tag` must be one of this instance's ([`super::InstanceId::image_tag`]).
    async fn tag_image(&self, image: &str, tag: &str) -> Result<(), EngineError>;
    /// Removes one of this instance's tags, or an image that carries its labels, by id. Returns whether there was
    /// one. Refuses everything else, and images in use ([`EngineError::Conflict`]).
    async fn remove_image(&self, image: &str) -> Result<bool, EngineError>;
    /// This instance's images.
    async fn list_images(&self) -> Result<Vec<ImageSummary>, EngineError>;

    /// Makes sure that a private bridge network of this name exists. A network of that name that belongs to
    /// someone else is an error.
    async fn ensure_network(&self, name: &str, labels: Labels) -> Result<(), EngineError>;
    /// Removes a network of this instance. Returns whether there was one.
    async fn remove_network(&self, name: &str) -> Result<bool, EngineError>;
    /// This instance's networks.
    async fn list_networks(&self) -> Result<Vec<NetworkSummary>, EngineError>;

    /// Creates a container, not started.
    async fn create_container(&self, spec: ContainerSpec) -> Result<ContainerId, EngineError>;
    /// Starts a container; fine if it runs already.
    async fn start_container(&self, id: &ContainerId) -> Result<(), EngineError>;
    /// Sends the stop signal, and kills after `grace` (at most 300 s). Fine if it is stopped already.
    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError>;
    /// Sends a signal (as in `SIGKILL`).
    async fn kill_container(&self, id: &ContainerId, signal: &str) -> Result<(), EngineError>;
    /// Removes a container with its anonymous volumes, killing it if it runs. Returns whether there was one.
    async fn remove_container(&self, id: &ContainerId) -> Result<bool, EngineError>;
    /// Lets a container that somebody froze run on. Fine if it is not frozen.
    async fn unpause_container(&self, id: &ContainerId) -> Result<(), EngineError>;
    /// Connects a container to a private network of this instance, under these names. Fine if it is connected.
    async fn connect_network(
        &self,
        id: &ContainerId,
        network: &str,
        aliases: Vec<String>,
    ) -> Result<(), EngineError>;
    /// Gives a container another name.
    async fn rename_container(&self, id: &ContainerId, name: &str) -> Result<(), EngineError>;
    /// Looks at a container, by id. [`EngineError::NotFound`] if there is none, or none of this instance.
    async fn inspect_container(&self, id: &ContainerId) -> Result<ContainerState, EngineError>;
    /// Waits until the container is not running (at once, if it is not). There is no time limit: drop the future.
    /// A container that its restart policy starts again does not count as ended: its [`Engine::events`] tell.
    async fn wait_exit(&self, id: &ContainerId) -> Result<ContainerExit, EngineError>;
    /// Changes what happens when the container's process ends.
    async fn set_restart_policy(&self, id: &ContainerId, policy: RestartPolicy) -> Result<(), EngineError>;
    /// What lies at `path` in a container, running or not, as a tar archive in which the last part of the path is the
    /// first of all names. `None` if nothing lies there.
    async fn copy_out(&self, id: &ContainerId, path: &str) -> Result<Option<ContextStream>, EngineError>;
    /// This instance's containers, running or not.
    async fn list_containers(&self) -> Result<Vec<ContainerSummary>, EngineError>;
    /// Where the proxy reaches `port` of a running container.
    async fn address(&self, id: &ContainerId, port: u16) -> Result<SocketAddr, EngineError>;
    /// The sockets that listen inside a container; empty where this cannot be seen (an engine on another machine).
    async fn listening(&self, id: &ContainerId) -> Result<Vec<Listening>, EngineError>;

    /// The container's output, oldest first.
    fn logs(&self, id: &ContainerId, options: LogOptions) -> LogStream;
    /// What happens to this instance's containers from now on, or since a moment (nanoseconds since the epoch).
    /// The stream ends with an error when the engine goes away; open it anew with the last event's time.
    fn events(&self, since_nanos: Option<i64>) -> EventStream;

    /// What a running container uses now. Takes about a second: the engine measures CPU over that time.
    async fn stats(&self, id: &ContainerId) -> Result<ContainerStats, EngineError>;
    /// What this instance's things take on the engine's disk.
    async fn disk_usage(&self) -> Result<DiskUsage, EngineError>;
    /// The records of the engine's build cache: of all its users, for the engine notes no owner.
    async fn build_cache(&self) -> Result<Vec<CacheRecord>, EngineError>;
    /// Drops these records of the build cache; returns the bytes freed. Those that a build uses, or that others are
    /// made from which stay, stay too.
    async fn prune_build_cache(&self, ids: &[String]) -> Result<u64, EngineError>;
}

/// Full id of a container.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(String);

impl ContainerId {
    /// Wraps an id as the engine gave it, or as the store kept it. Only hex digits are an id: a name or a path
    /// would reach another endpoint of the API.
    pub fn parse(id: &str) -> Result<Self, EngineError> {
        let fits = (12..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_hexdigit());
        match fits {
            true => Ok(Self(id.to_owned())),
            false => {
                Err(EngineError::invalid(format!("container id {id:?}"), "it must be 12 to 64 hex digits"))
            }
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve digits, as people know ids.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The engine and the machine that it runs on.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineInfo {
    /// Version of the engine.
    pub version: String,
    /// API version in use between the engine and Berth.
    pub api_version: String,
    /// Number of all containers, of anybody.
    pub containers: u64,
    /// Number of all images, of anybody.
    pub images: u64,
    /// Directory where the engine keeps its data.
    pub root_dir: PathBuf,
    /// Bytes free on the disk of that directory; `None` where it cannot be seen.
    pub disk_free_bytes: Option<u64>,
    /// Bytes in all on that disk.
    pub disk_total_bytes: Option<u64>,
    /// Storage driver, as in `overlay2`.
    pub storage_driver: String,
    /// Number of CPUs.
    pub cpus: u32,
    /// Memory of the machine, in bytes.
    pub memory_bytes: u64,
    /// Operating system and architecture, as in `Debian GNU/Linux 12 (bookworm), x86_64`.
    pub platform: String,
}

/// What a container may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceLimits {
    /// Memory in bytes, swap included.
    pub memory_bytes: u64,
    /// Relative weight against other containers (1024 is the norm).
    pub cpu_shares: Option<u32>,
    /// Hard limit in thousandths of a CPU.
    pub cpu_millis: Option<u32>,
    /// Processes and threads.
    pub pids: u32,
}

impl Default for ResourceLimits {
    fn default() -> Self {
        Self { memory_bytes: 512 << 20, cpu_shares: None, cpu_millis: None, pids: 512 }
    }
}

/// What the engine does when a container's process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RestartPolicy {
    /// Nothing: while a release is being checked, its end is the answer.
    #[default]
    No,
    /// Start it again, unless it was stopped on purpose; also after a restart of the engine.
    UnlessStopped,
}

/// A container to create. What is not here is fixed: dropped capabilities, no new privileges, an init, rotated
/// logs, no published ports, no host namespaces, no volumes.
#[derive(Clone, PartialEq)]
pub struct ContainerSpec {
    /// Name; unique in the engine.
    pub name: String,
    /// Image, by id or name; it must be in the engine already.
    pub image: String,
    /// Environment variables. Their values may be secret: the `Debug` form does not show them.
    pub env: BTreeMap<String, String>,
    /// Arguments instead of the image's `CMD`.
    pub command: Option<Vec<String>>,
    /// Labels beside those of the instance ([`super::Workload::labels`]).
    pub labels: Labels,
    /// Private network of the project.
    pub network: String,
    /// Names by which other containers of that network find this one.
    pub aliases: Vec<String>,
    /// Limits.
    pub limits: ResourceLimits,
    /// What happens at its end.
    pub restart: RestartPolicy,
    /// Signal that asks it to stop; the image's own, or SIGTERM, if `None`.
    pub stop_signal: Option<String>,
    /// Time between that signal and SIGKILL, when the engine itself stops it.
    pub stop_timeout: Duration,
}

impl ContainerSpec {
    /// A container of `image` named `name` in `network`, all else as by default.
    pub fn new(name: impl Into<String>, image: impl Into<String>, network: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            image: image.into(),
            env: BTreeMap::new(),
            command: None,
            labels: Labels::new(),
            network: network.into(),
            aliases: Vec::new(),
            limits: ResourceLimits::default(),
            restart: RestartPolicy::No,
            stop_signal: None,
            stop_timeout: Duration::from_secs(10),
        }
    }
}

impl fmt::Debug for ContainerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContainerSpec")
            .field("name", &self.name)
            .field("image", &self.image)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("command", &self.command)
            .field("labels", &self.labels)
            .field("network", &self.network)
            .field("aliases", &self.aliases)
            .field("limits", &self.limits)
            .field("restart", &self.restart)
            .finish_non_exhaustive()
    }
}

/// A container as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerState {
    /// Full id.
    pub id: ContainerId,
    /// Name, without Docker's leading slash.
    pub name: String,
    /// Id of its image.
    pub image_id: String,
    /// Whether its process runs.
    pub running: bool,
    /// Whether the engine is about to start it again.
    pub restarting: bool,
    /// Exit code of the last run; `None` while it runs or if it never ran.
    pub exit_code: Option<i64>,
    /// Whether the kernel killed it for its memory limit.
    pub oom_killed: bool,
    /// Why it could not be started, as the engine says.
    pub error: Option<String>,
    /// Process id on the engine's machine, while it runs.
    pub pid: Option<u32>,
    /// Its addresses by network name, while it runs.
    pub addresses: BTreeMap<String, std::net::IpAddr>,
    /// Start of the last run.
    pub started_at: Option<i64>,
    /// End of the last run.
    pub finished_at: Option<i64>,
    /// How often the engine restarted it.
    pub restart_count: u32,
    /// All labels.
    pub labels: Labels,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerExit {
    /// Exit code; 128 + n for signal n.
    pub code: i64,
    /// Whether the kernel killed it for its memory limit.
    pub oom_killed: bool,
    /// Why it could not be started, as the engine says.
    pub error: Option<String>,
}

/// Phase of a container's life, as in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerPhase {
    /// Created, never started.
    Created,
    /// Its process runs.
    Running,
    /// Its process ended and will be started again.
    Restarting,
    /// Frozen by an operator.
    Paused,
    /// Its process ended.
    Exited,
    /// Being removed, or stuck in that.
    Dead,
}

/// One row of the list of containers.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerSummary {
    /// Full id.
    pub id: ContainerId,
    /// Name, without Docker's leading slash.
    pub name: String,
    /// Id of its image.
    pub image_id: String,
    /// Phase.
    pub phase: ContainerPhase,
    /// When it was created.
    pub created_at: i64,
    /// All labels.
    pub labels: Labels,
}

/// One row of the list of networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSummary {
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
    /// All labels.
    pub labels: Labels,
}

/// Which part of a log to read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogOptions {
    /// Only lines after this moment (nanoseconds since the epoch).
    pub since_nanos: Option<i64>,
    /// Keep the stream open for lines to come.
    pub follow: bool,
    /// Only the last so many lines.
    pub tail: Option<u32>,
}

/// Which of a process's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When it was written (nanoseconds since the epoch); 0 if the engine did not say.
    pub at_nanos: i64,
    /// Where it was written to.
    pub stream: OutputStream,
    /// The text without its line end, at most 16 KiB; bytes that are not UTF-8 are replaced.
    pub text: String,
    /// Whether the line goes on in the next one (the engine cuts lines at 16 KiB).
    pub partial: bool,
}

/// What happened to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineEventKind {
    /// Created.
    Create,
    /// Started.
    Start,
    /// Its process ended.
    Die {
        /// Exit code.
        exit_code: i64,
    },
    /// The kernel killed a process of it for the memory limit.
    Oom,
    /// Stopped on request.
    Stop,
    /// A signal was sent.
    Kill {
        /// Number of the signal.
        signal: i32,
    },
    /// Removed.
    Destroy,
    /// Renamed.
    Rename,
    /// Frozen, which only an operator does.
    Pause,
    /// Taken off a network of this instance. The event has no labels; it comes at each stop, too.
    Disconnect,
    /// Anything else, by Docker's name for it.
    Other(String),
}

/// An event of one of this instance's containers.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineEvent {
    /// What happened.
    pub kind: EngineEventKind,
    /// To which container.
    pub container: ContainerId,
    /// Its labels.
    pub labels: Labels,
    /// When (nanoseconds since the epoch).
    pub at_nanos: i64,
}

/// What a container uses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ContainerStats {
    /// Percent of one CPU: 200 is two busy CPUs.
    pub cpu_percent: f64,
    /// CPU time used in all, in nanoseconds.
    pub cpu_total_nanos: u64,
    /// Memory in use without the page cache that can be dropped, in bytes.
    pub memory_bytes: u64,
    /// Its limit, in bytes.
    pub memory_limit_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Bytes received on all its networks.
    pub network_rx_bytes: u64,
    /// Bytes sent on all its networks.
    pub network_tx_bytes: u64,
}

/// A record of the engine's build cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheRecord {
    /// Its id: letters and digits.
    pub id: String,
    /// Bytes that it takes.
    pub bytes: u64,
    /// Whether a build uses it now.
    pub in_use: bool,
    /// Whether it is a layer of an image, too: dropped, it frees nothing while the image is there.
    pub shared: bool,
    /// When it was made.
    pub created_at: i64,
    /// When a build used it the last time.
    pub last_used_at: i64,
    /// What made it, in the builder's words.
    pub description: String,
}

/// What is on the engine's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskUsage {
    /// Bytes of this instance's images; layers that images share are counted in each.
    pub images_bytes: u64,
    /// Number of this instance's images.
    pub images: u64,
    /// Bytes that this instance's containers wrote into their own layer.
    pub containers_bytes: u64,
    /// Number of this instance's containers.
    pub containers: u64,
    /// Bytes of the engine's build cache, of all its users.
    pub build_cache_bytes: u64,
}
