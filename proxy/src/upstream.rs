//! Connections to replicas that the proxy keeps itself: a socket, and a small stack of idle ones per replica.
//!
//! The stack belongs to its replica, so what a removed replica had open goes with it, and a container that comes
//! back at an old address can never be given an old socket. The connection used last is taken first: the others
//! age and are closed before the app's own idle limit.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    os::fd::AsRawFd,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use pingora::{
    Error, ErrorType, OrErr, Result,
    protocols::{
        GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
        UniqueID, raw_connect::ProxyDigest,
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
};

use crate::lock::lock;

/// Idle connections kept per replica.
const KEPT: usize = 256;

/// A connection to a replica.
#[derive(Debug)]
pub(crate) struct Upstream(TcpStream);

impl Upstream {
    pub(crate) async fn connect(addr: SocketAddr, limit: Duration) -> Result<Box<Self>> {
        let socket = match tokio::time::timeout(limit, TcpStream::connect(addr)).await {
            Ok(connected) => connected.or_err(ErrorType::ConnectError, "connecting to a replica")?,
            Err(_) => return Error::e_explain(ErrorType::ConnectTimedout, "connecting to a replica"),
        };
        socket.set_nodelay(true).or_err(ErrorType::ConnectError, "setting up a connection to a replica")?;
        Ok(Box::new(Self(socket)))
    }

    /// It carried its one request: when dropped, it leaves no trace that would keep its local port from being
    /// used again for a minute.
    pub(crate) fn close_without_trace(&self) {
        // A socket that is gone needs none.
        let _ = self.0.set_zero_linger();
    }

    /// Open as far as is known, and silent, as an idle connection must be. Asks the system only when something
    /// has come in.
    fn is_fresh(&self) -> bool {
        matches!(self.0.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// The idle connections of one replica.
#[derive(Debug, Default)]
pub(crate) struct IdleUpstreams(Mutex<Vec<(Box<Upstream>, Instant)>>);

impl IdleUpstreams {
    pub(crate) fn take(&self, max_age: Duration) -> Option<Box<Upstream>> {
        let mut idle = self.lock();
        while let Some((upstream, since)) = idle.pop() {
            if since.elapsed() >= max_age {
                // So are all below it.
                idle.clear();
                return None;
            }
            if upstream.is_fresh() {
                return Some(upstream);
            }
        }
        None
    }

    pub(crate) fn keep(&self, upstream: Box<Upstream>) {
        let mut idle = self.lock();
        if idle.len() < KEPT {
            idle.push((upstream, Instant::now()));
        }
    }

    pub(crate) fn close_older_than(&self, max_age: Duration) {
        let now = Instant::now();
        self.lock().retain(|(upstream, since)| now.duration_since(*since) < max_age && upstream.is_fresh());
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Box<Upstream>, Instant)>> {
        lock(&self.0)
    }
}

impl AsyncRead for Upstream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Upstream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Upstream {
    async fn shutdown(&mut self) {
        // The app may have closed already; there is nobody to tell.
        let _ = self.0.shutdown().await;
    }
}

impl UniqueID for Upstream {
    fn id(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

impl Ssl for Upstream {}

impl Peek for Upstream {}

impl GetTimingDigest for Upstream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Upstream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Upstream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}
