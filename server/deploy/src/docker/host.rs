//! Where the engine listens, and what is wrong when it does not answer.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::error::{EngineError, Unavailability};

const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Address of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineHost {
    /// A Unix socket on this machine.
    Unix(PathBuf),
    /// `host:port`, plain HTTP: only for networks that nobody else reaches.
    Tcp(String),
}

impl EngineHost {
    /// Parses `unix:///path` or `tcp://host:port`; `None` is Docker's default socket.
    pub fn parse(host: Option<&str>) -> Result<Self, EngineError> {
        let Some(host) = host else { return Ok(Self::Unix(DEFAULT_SOCKET.into())) };
        let wrong = || EngineError::Unavailable {
            why: Unavailability::BadAddress,
            hint: format!(
                "the Docker host is {host:?}; write unix:///var/run/docker.sock or tcp://host:port"
            ),
        };
        match host.split_once("://") {
            Some(("unix", path)) if Path::new(path).is_absolute() => Ok(Self::Unix(path.into())),
            Some(("tcp", address)) => match address.rsplit_once(':') {
                Some((name, port))
                    if !name.is_empty() && !name.contains('/') && port.parse::<u16>().is_ok() =>
                {
                    Ok(Self::Tcp(address.to_owned()))
                }
                _ => Err(wrong()),
            },
            _ => Err(wrong()),
        }
    }

    /// Whether the engine's processes and files are those of this machine.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    /// Finds out why the engine does not answer, by trying.
    pub(super) async fn diagnose(&self) -> EngineError {
        let (why, hint) = match self {
            Self::Unix(path) => diagnose_socket(path).await,
            Self::Tcp(address) => diagnose_tcp(address).await,
        };
        EngineError::Unavailable { why, hint }
    }
}

async fn diagnose_socket(path: &Path) -> (Unavailability, String) {
    let shown = path.display();
    match timeout(CONNECT_LIMIT, UnixStream::connect(path)).await {
        Err(_) | Ok(Ok(_)) => (
            Unavailability::NotAnswering,
            format!(
                "Docker accepts connections on {shown} but does not answer: look at `journalctl -u docker`"
            ),
        ),
        Ok(Err(error)) => match error.kind() {
            ErrorKind::NotFound => (
                Unavailability::SocketMissing,
                format!(
                    "there is no socket at {shown}: install Docker Engine, or start it with `systemctl start docker`, \
                     or set the Docker host to where it listens"
                ),
            ),
            ErrorKind::PermissionDenied => (
                Unavailability::PermissionDenied,
                format!(
                    "this user may not open {shown}: add it to the group docker (`usermod -aG docker USER`) and \
                     start Berth again"
                ),
            ),
            _ => (
                Unavailability::NotListening,
                format!(
                    "{shown} is there but nothing listens on it: start Docker with `systemctl start docker`"
                ),
            ),
        },
    }
}

async fn diagnose_tcp(address: &str) -> (Unavailability, String) {
    match timeout(CONNECT_LIMIT, TcpStream::connect(address)).await {
        Ok(Err(error)) => (
            Unavailability::NotListening,
            format!(
                "cannot connect to {address} ({error}): check the Docker host and that Docker listens there"
            ),
        ),
        Err(_) | Ok(Ok(_)) => (
            Unavailability::NotAnswering,
            format!("{address} does not answer as Docker: check the Docker host"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(error: EngineError) -> (Unavailability, String) {
        match error {
            EngineError::Unavailable { why, hint } => (why, hint),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn hosts_are_sockets_or_addresses() {
        assert_eq!(EngineHost::parse(None).unwrap(), EngineHost::Unix(DEFAULT_SOCKET.into()));
        assert_eq!(
            EngineHost::parse(Some("unix:///run/d.sock")).unwrap(),
            EngineHost::Unix("/run/d.sock".into())
        );
        assert_eq!(
            EngineHost::parse(Some("tcp://10.0.0.2:2375")).unwrap(),
            EngineHost::Tcp("10.0.0.2:2375".into())
        );
        for bad in ["", "/run/d.sock", "unix://d.sock", "tcp://host", "tcp://:1", "ssh://host", "tcp://a/b:1"]
        {
            assert_eq!(why(EngineHost::parse(Some(bad)).unwrap_err()).0, Unavailability::BadAddress, "{bad}");
        }
    }

    #[tokio::test]
    async fn each_kind_of_absence_has_its_own_hint() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("none.sock");
        let (reason, hint) = why(EngineHost::Unix(missing).diagnose().await);
        assert_eq!(reason, Unavailability::SocketMissing);
        assert!(hint.contains("install Docker"), "{hint}");

        let dead = dir.path().join("dead.sock");
        drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
        let (reason, hint) = why(EngineHost::Unix(dead).diagnose().await);
        assert_eq!(reason, Unavailability::NotListening);
        assert!(hint.contains("systemctl start docker"), "{hint}");

        let mute = dir.path().join("mute.sock");
        let _listener = tokio::net::UnixListener::bind(&mute).unwrap();
        assert_eq!(why(EngineHost::Unix(mute).diagnose().await).0, Unavailability::NotAnswering);
    }
}
