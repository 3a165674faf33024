//! What can go wrong when the data plane is set up. What goes wrong with a request is an
//! [`AccessFault`](crate::AccessFault) and a page, never an error to the control plane.

use std::{io, net::SocketAddr, path::PathBuf};

/// The data plane could not be set up as asked.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// An address could not be listened on.
    #[error(
        "cannot listen on {addr}: {source} (is another server on this port? ports below 1024 need root or CAP_NET_BIND_SERVICE)"
    )]
    Bind {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A listener that was handed over is unusable.
    #[error("the listener that was handed over cannot be used: {0}")]
    Listener(#[source] io::Error),
    /// The TLS side could not be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    Randomness,
    /// A static release's directory could not be opened.
    #[error("the release directory {path} cannot be opened: {source}", path = .path.display())]
    StaticRoot {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
