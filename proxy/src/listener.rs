//! Listening sockets: bound here, or handed over by whoever starts the daemon (a supervisor, an older process).

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use crate::error::ProxyError;

/// Connections that may wait to be accepted: enough for a burst while a core is busy, and for the moment of a
/// hand-over.
const BACKLOG: i32 = 4096;

/// Where to listen.
#[derive(Debug)]
pub enum ListenOn {
    /// Bind this address. Port 0 takes a free one; [`crate::ProxyServer::local_addrs`] tells which.
    Addr(SocketAddr),
    /// Take this listener, which is bound and listening already.
    Bound(StdListener),
}

impl From<SocketAddr> for ListenOn {
    fn from(addr: SocketAddr) -> Self {
        Self::Addr(addr)
    }
}

impl From<StdListener> for ListenOn {
    fn from(listener: StdListener) -> Self {
        Self::Bound(listener)
    }
}

impl ListenOn {
    pub(crate) fn listen(self) -> Result<TcpListener, ProxyError> {
        let listener = match self {
            Self::Addr(addr) => bind(addr).map_err(|source| ProxyError::Bind { addr, source })?,
            Self::Bound(listener) => listener,
        };
        listener.set_nonblocking(true).map_err(ProxyError::Listener)?;
        TcpListener::from_std(listener).map_err(ProxyError::Listener)
    }
}

/// Binds an address and listens, as all listeners of the platform do.
///
/// # Errors
/// When the address is taken or may not be listened on.
pub fn bind(addr: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Inherited by accepted sockets: small responses leave at once.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether accepting failed for want of resources, so that trying at once again would spin.
pub(crate) fn is_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    error
        .raw_os_error()
        .map(Errno::from_raw_os_error)
        .is_some_and(|errno| matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}
