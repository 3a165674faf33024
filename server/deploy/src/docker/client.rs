//! The connection to a Docker engine: made when first needed, its API version negotiated, every call bounded in
//! time, every failure translated.
//!
//! The daemon must start without Docker and survive its restart, or its upgrade to an engine that speaks another
//! API version: so the negotiated client is kept only as long as calls reach the engine.

use std::error::Error as _;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::errors::Error as BollardError;
use tokio::time::timeout;

use super::engine::EngineInfo;
use super::error::{EngineError, Unavailability};
use super::host::EngineHost;
use super::labels::InstanceId;
use crate::room::Room;

/// Limit of calls that only look.
pub(super) const QUICK: Duration = Duration::from_secs(15);
/// Limit of calls that make the engine work: create, start, remove.
pub(super) const SLOW: Duration = Duration::from_secs(60);
/// bollard's own limit on the wait for response headers; ours are all shorter, but a stop takes its grace first.
const HEADER_LIMIT_SECS: u64 = 600;

/// Where the engine is, and whose things in it are ours.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// `unix:///path` or `tcp://host:port`; `None` is Docker's default socket.
    pub host: Option<String>,
    /// This daemon.
    pub instance: InstanceId,
}

/// A Docker engine, as one Berth instance uses it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Docker {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    host: Result<EngineHost, EngineError>,
    instance: InstanceId,
    client: Mutex<Option<bollard::Docker>>,
    /// Held while a network is looked for and made: the engine lets two have the same name.
    networks: tokio::sync::Mutex<()>,
}

impl Docker {
    /// Makes the handle; nothing is connected yet, and a wrong host shows in the first call.
    pub fn connect(config: DockerConfig) -> Self {
        let host = EngineHost::parse(config.host.as_deref());
        Self {
            inner: Arc::new(Inner {
                host,
                instance: config.instance,
                client: Mutex::new(None),
                networks: tokio::sync::Mutex::default(),
            }),
        }
    }

    pub(super) fn networks(&self) -> &tokio::sync::Mutex<()> {
        &self.inner.networks
    }

    /// The instance that this handle acts for.
    pub fn instance(&self) -> InstanceId {
        self.inner.instance
    }

    pub(super) fn host(&self) -> Result<&EngineHost, EngineError> {
        self.inner.host.as_ref().map_err(Clone::clone)
    }

    /// The negotiated client, made now if there is none.
    pub(super) async fn client(&self) -> Result<bollard::Docker, EngineError> {
        if let Some(client) = self.lock().clone() {
            return Ok(client);
        }
        let host = self.host()?;
        let version = bollard::API_DEFAULT_VERSION;
        let client = match host {
            EngineHost::Unix(path) => {
                bollard::Docker::connect_with_unix(&path.to_string_lossy(), HEADER_LIMIT_SECS, version)
            }
            EngineHost::Tcp(address) => {
                bollard::Docker::connect_with_http(address, HEADER_LIMIT_SECS, version)
            }
        };
        let Ok(client) = client else { return Err(host.diagnose().await) };
        match timeout(QUICK, client.negotiate_version()).await {
            Ok(Ok(client)) => {
                *self.lock() = Some(client.clone());
                Ok(client)
            }
            Ok(Err(_)) | Err(_) => Err(host.diagnose().await),
        }
    }

    /// Runs one call within `limit`. `what` names it in errors, as in `creating container web-1`.
    pub(super) async fn call<T, F, Fut>(&self, what: &str, limit: Duration, call: F) -> Result<T, EngineError>
    where
        F: FnOnce(bollard::Docker) -> Fut + Send,
        Fut: Future<Output = Result<T, BollardError>> + Send,
        T: Send,
    {
        let client = self.client().await?;
        match timeout(limit, call(client)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(self.translate(what, error).await),
            Err(_) => Err(EngineError::TimedOut { what: what.to_owned(), after: limit }),
        }
    }

    /// Turns a failure into our terms; when the engine could not be reached, finds out why and forgets the client.
    pub(super) async fn translate(&self, what: &str, error: BollardError) -> EngineError {
        match classify(what, &error) {
            Some(known) => known,
            None => self.unreachable().await,
        }
    }

    /// The engine went away: the next call negotiates anew.
    pub(super) async fn unreachable(&self) -> EngineError {
        *self.lock() = None;
        let host = match self.host() {
            Ok(host) => host,
            Err(error) => return error,
        };
        match host.diagnose().await {
            // It can be connected to again by now: what failed was the connection we had.
            EngineError::Unavailable { why: Unavailability::NotAnswering, .. } => EngineError::Unavailable {
                why: Unavailability::ConnectionLost,
                hint: "Docker closed the connection in the middle of a call, most likely because it restarted: try \
                       again"
                    .to_owned(),
            },
            other => other,
        }
    }

    pub(super) async fn ping_engine(&self) -> Result<(), EngineError> {
        // Negotiates each time, so that an upgraded engine is noticed.
        *self.lock() = None;
        self.client().await.map(drop)
    }

    pub(super) async fn engine_info(&self) -> Result<EngineInfo, EngineError> {
        let client = self.client().await?;
        let info = self.call("reading Docker's state", QUICK, |c| async move { c.info().await }).await?;
        let root_dir = std::path::PathBuf::from(info.docker_root_dir.unwrap_or_default());
        let space = if self.host()?.is_local() { disk_space(root_dir.clone()).await } else { None };
        let count = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok()).unwrap_or_default();
        Ok(EngineInfo {
            version: info.server_version.unwrap_or_default(),
            api_version: client.client_version().to_string(),
            containers: count(info.containers),
            images: count(info.images),
            root_dir,
            disk_free_bytes: space.map(|(free, _)| free),
            disk_total_bytes: space.map(|(_, total)| total),
            storage_driver: info.driver.unwrap_or_default(),
            cpus: u32::try_from(count(info.ncpu)).unwrap_or_default(),
            memory_bytes: count(info.mem_total),
            platform: format!(
                "{}, {}",
                info.operating_system.unwrap_or_default(),
                info.architecture.unwrap_or_default()
            ),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<bollard::Docker>> {
        self.inner.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Free and total bytes of the disk that holds `path`.
async fn disk_space(path: std::path::PathBuf) -> Option<(u64, u64)> {
    let room = tokio::task::spawn_blocking(move || Room::of(&path)).await.ok()?.ok()?;
    Some((room.free, room.total))
}

/// Our terms for a failure of bollard; `None` if the engine could not be reached.
fn classify(what: &str, error: &BollardError) -> Option<EngineError> {
    let what = what.to_owned();
    match error {
        BollardError::DockerResponseServerError { status_code, message } => {
            Some(from_status(what, *status_code, message))
        }
        BollardError::DockerStreamError { error } if is_out_of_disk(error) => {
            Some(EngineError::OutOfDisk { what })
        }
        BollardError::DockerStreamError { error } => Some(EngineError::other(what, error)),
        BollardError::RequestTimeoutError => {
            Some(EngineError::TimedOut { what, after: Duration::from_secs(HEADER_LIMIT_SECS) })
        }
        BollardError::HyperLegacyError { .. }
        | BollardError::HyperResponseError { .. }
        | BollardError::IOError { .. }
        | BollardError::SocketNotFoundError(_) => None,
        other => {
            let cause = other.source().map(|s| format!(": {s}")).unwrap_or_default();
            Some(EngineError::other(what, format!("{other}{cause}")))
        }
    }
}

/// Our terms for an HTTP status of the engine.
pub(super) fn from_status(what: String, status: u16, message: &str) -> EngineError {
    match status {
        _ if is_out_of_disk(message) => EngineError::OutOfDisk { what },
        404 => EngineError::NotFound { what },
        409 => EngineError::Conflict { what, why: message.to_owned() },
        400 => EngineError::Invalid { what, why: message.to_owned() },
        _ => EngineError::other(what, message),
    }
}

/// Whether a message of the engine, or of a program inside a build, says that the disk is full.
pub(super) fn is_out_of_disk(message: &str) -> bool {
    // The C library begins it with a capital, Go and Node with a small letter.
    message.contains("o space left on device") || message.contains("isk quota exceeded")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(status_code: u16, message: &str) -> BollardError {
        BollardError::DockerResponseServerError { status_code, message: message.into() }
    }

    #[test]
    fn the_status_decides_what_a_failure_is() {
        let code = |error| classify("x", &error).map(|e| e.code());
        assert_eq!(code(server(404, "no such container")), Some("docker_not_found"));
        assert_eq!(code(server(409, "name in use")), Some("docker_conflict"));
        assert_eq!(
            code(server(500, "write /var/lib/docker/x: no space left on device")),
            Some("out_of_disk")
        );
        assert_eq!(code(server(500, "boom")), Some("docker_error"));
        let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert_eq!(code(BollardError::IOError { err: broken }), None);
    }

    #[tokio::test]
    async fn without_an_engine_every_call_says_what_is_missing() {
        let docker = Docker::connect(DockerConfig {
            host: Some("unix:///nonexistent/docker.sock".into()),
            instance: InstanceId::new(uuid::Uuid::from_u128(1)),
        });
        let error = docker.ping_engine().await.unwrap_err();
        assert!(
            matches!(error, EngineError::Unavailable { why: Unavailability::SocketMissing, .. }),
            "{error:?}"
        );
        assert!(error.hint().unwrap().contains("/nonexistent/docker.sock"));
    }
}
