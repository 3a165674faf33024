//! A socket between a daemon and Docker that can be cut: to the daemon, Docker is then gone.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use tokio::{
    io::copy_bidirectional,
    net::{UnixListener, UnixStream},
    task::{AbortHandle, JoinSet},
};

/// A relay to the engine's socket.
pub(crate) struct Relay {
    path: PathBuf,
    task: Mutex<Option<AbortHandle>>,
}

impl Relay {
    /// Opens the socket at `path`.
    pub(crate) fn open(path: &Path) -> Arc<Self> {
        let relay = Arc::new(Self { path: path.to_owned(), task: Mutex::default() });
        relay.mend();
        relay
    }

    /// How the daemon is told of it.
    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// Ends all connections and takes the socket away.
    pub(crate) fn cut(&self) {
        if let Some(task) = self.task.lock().unwrap().take() {
            // The connections' tasks belong to this one and end with it.
            task.abort();
        }
        let _ = std::fs::remove_file(&self.path);
    }

    /// Is there again.
    pub(crate) fn mend(&self) {
        let listener = UnixListener::bind(&self.path).unwrap();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((mut near, _)) = listener.accept().await else { return };
                connections.spawn(async move {
                    if let Ok(mut far) = UnixStream::connect("/var/run/docker.sock").await {
                        let _ = copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
        *self.task.lock().unwrap() = Some(task.abort_handle());
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.cut();
    }
}
