//! One client connection as Pingora reads and writes it: a socket, plain or through TLS, that holds back small writes
//! and says goodbye for a WebSocket between two frames of the app (see [`crate::websocket`]).

use std::{
    fmt, io,
    os::fd::AsRawFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, raw_connect::ProxyDigest,
};
use rustix::net::RecvFlags;
use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use crate::{
    connections::ConnectionState,
    websocket::{CLOSE_SERVICE_RESTART, FrameTracker},
};

/// How long a client may take to answer the close frame.
const CLOSE_LINGER: Duration = Duration::from_secs(1);

/// Between two looks at whether the client of a request that is held is still there.
const LOOK_FOR_CLIENT: Duration = Duration::from_millis(100);

/// Up to so many bytes are held back until a flush; larger writes go out at once.
const PENDING_MAX: usize = 16 << 10;

/// A client's byte stream, plain or through TLS.
#[derive(Debug)]
pub(crate) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// The stream half of a connection, as Pingora reads and writes it.
pub(crate) struct Connection {
    transport: Transport,
    state: Arc<ConnectionState>,
    /// Written, not flushed: a response's head waits here for the start of its body, so that both leave in one
    /// call, and through TLS in one record.
    pending: Vec<u8>,
    /// Nothing has been read yet.
    fresh: bool,
    frames: Option<Box<FrameTracker>>,
    farewell: Farewell,
}

#[derive(Debug)]
enum Farewell {
    /// So many bytes of the close frame are written.
    Writing(usize),
    /// The frame is out; the client's answer is awaited, so that a reset does not overtake the frame.
    Lingering(Pin<Box<tokio::time::Sleep>>),
    Done,
}

impl Connection {
    pub(crate) fn new(transport: Transport, state: Arc<ConnectionState>) -> Self {
        Self {
            transport,
            state,
            pending: Vec::new(),
            fresh: true,
            frames: None,
            farewell: Farewell::Writing(0),
        }
    }

    pub(crate) fn state(&self) -> &Arc<ConnectionState> {
        &self.state
    }

    /// Whether something has come in that was not read yet, by the kernel's word: the runtime learns of it a moment
    /// later.
    pub(crate) fn has_input(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        rustix::net::recv(self.socket(), &mut [0_u8], flags).is_ok_and(|(_, n)| n > 0)
    }

    /// Waits for the first byte of the next request, without taking it: while a connection is idle it owns no
    /// buffers but those of TLS. `false` when the client is gone.
    pub(crate) async fn readable(&mut self) -> bool {
        self.pending = Vec::new();
        match &mut self.transport {
            // Tokio takes a new socket for readable until a read has shown otherwise.
            Transport::Plain(tcp) if std::mem::take(&mut self.fresh) => {
                tcp.peek(&mut [0]).await.is_ok_and(|n| n > 0)
            }
            Transport::Plain(tcp) => tcp.readable().await.is_ok(),
            Transport::Tls(tls) => {
                let filled = std::future::poll_fn(|cx| {
                    Pin::new(&mut **tls).poll_fill_buf(cx).map_ok(|buf| !buf.is_empty())
                });
                filled.await.unwrap_or(false)
            }
        }
    }

    /// Returns when the client has closed its side. Takes nothing of what it sent: while a request is held, an
    /// upload stays in the kernel's buffers, so a read cannot tell.
    pub(crate) async fn left(&self) {
        loop {
            let known = self.socket().ready(Interest::READABLE).now_or_never();
            if known.is_some_and(|ready| ready.map_or(true, |ready| ready.is_read_closed())) {
                return;
            }
            tokio::time::sleep(LOOK_FOR_CLIENT).await;
        }
    }

    fn socket(&self) -> &TcpStream {
        match &self.transport {
            Transport::Plain(tcp) => tcp,
            Transport::Tls(tls) => tls.get_ref().0,
        }
    }

    /// Writes what is pending.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let n = ready!(self.transport.poll_write(cx, &self.pending))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.pending.drain(..n);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut self.farewell {
                Farewell::Writing(written) => {
                    let said_by_app = self.frames.as_ref().is_some_and(|frames| frames.is_closed());
                    while !said_by_app && *written < CLOSE_SERVICE_RESTART.len() {
                        let rest = &CLOSE_SERVICE_RESTART[*written..];
                        match ready!(self.transport.poll_write(cx, rest)) {
                            Ok(n) if n > 0 => *written += n,
                            _ => break,
                        }
                    }
                    if ready!(self.transport.poll_flush(cx)).is_err()
                        || ready!(self.transport.poll_shutdown(cx)).is_err()
                    {
                        self.farewell = Farewell::Done;
                        continue;
                    }
                    self.farewell = Farewell::Lingering(Box::pin(tokio::time::sleep(CLOSE_LINGER)));
                }
                Farewell::Lingering(limit) => {
                    let mut scratch = [0; 512];
                    let mut scratch = ReadBuf::new(&mut scratch);
                    while limit.as_mut().poll(cx).is_pending() {
                        scratch.clear();
                        match ready!(self.transport.poll_read(cx, &mut scratch)) {
                            Ok(()) if !scratch.filled().is_empty() => {}
                            _ => break,
                        }
                    }
                    self.farewell = Farewell::Done;
                }
                Farewell::Done => return Poll::Ready(()),
            }
        }
    }

    fn is_closing(&self) -> bool {
        self.frames.is_some() && self.state.is_asked_to_end()
    }

    /// Follows frames, and stops at the boundary once the connection is to be closed.
    fn poll_write_frames(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let closing = self.is_closing();
        let Some(frames) = &mut self.frames else {
            return self.transport.poll_write(cx, buf);
        };
        let allowed = if closing { frames.until_boundary(buf) } else { buf.len() };
        if closing && allowed == 0 {
            // The app's further frames have no place to go. The error ends the request, so the goodbye is said before.
            ready!(self.poll_farewell(cx));
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let written = ready!(self.transport.poll_write(cx, &buf[..allowed]))?;
        if let Some(frames) = &mut self.frames {
            frames.passed(&buf[..written]);
            if closing && frames.at_boundary() {
                // The reading side waited for this to say goodbye.
                self.state.wake_waiter();
            }
        }
        Poll::Ready(Ok(written))
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.state).finish()
    }
}

impl Transport {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_read(cx, buf),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_write(cx, buf),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.frames.is_some() {
            this.state.wake_when_asked(cx.waker());
            if this.is_closing() && this.frames.as_ref().is_some_and(|f| f.at_boundary() || f.is_closed()) {
                return this.poll_farewell(cx).map(Ok);
            }
        } else if !this.pending.is_empty() {
            // Who waits for the client has nothing more to write for now. A failure will be seen by a write.
            let _ = Pin::new(&mut *this).poll_flush(cx);
        }
        this.transport.poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.frames.is_none() && self.state.is_websocket() {
            self.frames = Some(Box::default());
        }
        if self.frames.is_some() {
            ready!(self.poll_drain(cx))?;
            return self.poll_write_frames(cx, buf);
        }
        if self.pending.len() + buf.len() <= PENDING_MAX {
            self.pending.extend_from_slice(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        ready!(self.poll_drain(cx))?;
        self.transport.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        self.transport.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        if self.frames.as_ref().is_some_and(|frames| frames.at_boundary()) {
            // The app has gone, mostly without a word: its client is to come again, and not to find a broken stream.
            return self.poll_farewell(cx).map(Ok);
        }
        self.transport.poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Connection {
    async fn shutdown(&mut self) {
        // The client may be gone already; there is nobody to tell.
        let _ = std::future::poll_fn(|cx| Pin::new(&mut *self).poll_shutdown(cx)).await;
    }
}

impl UniqueID for Connection {
    fn id(&self) -> i32 {
        self.socket().as_raw_fd()
    }
}

impl Ssl for Connection {
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        match &self.transport {
            Transport::Tls(tls) if tls.get_ref().1.alpn_protocol() == Some(b"h2") => Some(ALPN::H2),
            _ => Some(ALPN::H1),
        }
    }
}

impl Peek for Connection {}

impl GetTimingDigest for Connection {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Connection {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Connection {
    /// Not kept: the peer's address is in [`ConnectionState`].
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}
