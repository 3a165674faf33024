//! One client connection: its socket as Pingora sees it, and its place in the list of all connections.
//!
//! The list is what timeouts, limits, drain and shutdown work on. Instead of a timer per request, every
//! connection says in one relaxed store which phase it is in and since when; a sweep each half second ends those
//! that overstayed. To end a connection its task is aborted: dropping the request's future gives back every
//! count and lease it holds.
//!
//! Two kinds are ended politely: the list raises `closing`, and a WebSocket's stream itself writes a close frame
//! between two frames of the app (see [`crate::websocket`]); an event stream's request completes the answer after
//! an event (see [`crate::events`]).

use std::{
    collections::HashMap,
    fmt, io,
    net::SocketAddr,
    os::fd::AsRawFd,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{FutureExt as _, future, task::AtomicWaker};
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, raw_connect::ProxyDigest,
};
use rustix::net::RecvFlags;
use tokio::sync::Notify;
use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use crate::websocket::{CLOSE_SERVICE_RESTART, FrameTracker};

/// How long a client may take to answer the close frame.
const CLOSE_LINGER: Duration = Duration::from_secs(1);

/// Between two looks at whether the client of a request that is held is still there.
const LOOK_FOR_CLIENT: Duration = Duration::from_millis(100);

/// Up to so many bytes are held back until a flush; larger writes go out at once.
const PENDING_MAX: usize = 16 << 10;

/// What a connection is doing; how long it may is the sweep's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Before or in the TLS handshake.
    Handshake = 0,
    /// Open, with no request.
    Idle = 1,
    /// The first byte of a request is there, its head is not complete.
    Head = 2,
    /// A request is being handled.
    Request = 3,
    /// An HTTP/2 connection: its streams have phases of their own.
    Multiplexed = 4,
}

/// What is to be aborted: a connection's task, or the future of one stream, whose task is Pingora's.
#[derive(Debug)]
pub(crate) enum Running {
    Connection(tokio::task::AbortHandle),
    Stream(future::AbortHandle),
}

/// The shared half of a connection (or of one HTTP/2 stream): seen by its task, its request and the list.
pub(crate) struct ConnectionState {
    pub(crate) peer: SocketAddr,
    pub(crate) tls: bool,
    pub(crate) http2: bool,
    phase: AtomicU8,
    since: AtomicU32,
    /// Generation of the target its request is in flight on, or 0.
    target: AtomicU64,
    websocket: AtomicBool,
    event_stream: AtomicBool,
    closing: AtomicBool,
    cut: AtomicBool,
    reader: AtomicWaker,
    task: Mutex<Option<Running>>,
    clock: Arc<Clock>,
}

/// Seconds since the server started, moved on by the sweep: exact enough for timeouts, and free to read.
#[derive(Debug, Default)]
pub(crate) struct Clock(AtomicU32);

impl Clock {
    fn now(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, seconds: u32) {
        self.0.store(seconds, Ordering::Relaxed);
    }
}

impl ConnectionState {
    pub(crate) fn enter(&self, phase: Phase) {
        self.since.store(self.clock.now(), Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub(crate) fn is_in(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::Relaxed) == phase as u8
    }

    fn age(&self) -> u32 {
        self.clock.now().saturating_sub(self.since.load(Ordering::Relaxed))
    }

    pub(crate) fn set_target(&self, generation: u64) {
        self.target.store(generation, Ordering::SeqCst);
    }

    /// From here on the stream carries WebSocket frames (after the head that is about to be written).
    pub(crate) fn set_websocket(&self) {
        self.websocket.store(true, Ordering::Release);
    }

    /// From here on the answer is an event stream, whose request watches [`Self::asked_to_end`].
    pub(crate) fn set_event_stream(&self) {
        self.event_stream.store(true, Ordering::Release);
    }

    pub(crate) fn is_asked_to_end(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Returns when the event stream is to end.
    pub(crate) async fn asked_to_end(&self) {
        std::future::poll_fn(|cx| {
            self.reader.register(cx.waker());
            if self.is_asked_to_end() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Its request is over. After an event stream that was ended the connection lives on, for others.
    pub(crate) fn request_over(&self) {
        self.set_target(0);
        if self.event_stream.swap(false, Ordering::AcqRel) {
            self.closing.store(false, Ordering::Release);
            self.cut.store(false, Ordering::Release);
        }
    }

    /// Whether the platform, not the client or the app, ended it.
    pub(crate) fn was_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    pub(crate) fn set_task(&self, task: Running) {
        *lock(&self.task) = Some(task);
    }

    /// Ends it: a WebSocket with a close frame, an event stream after an event, everything else at once.
    fn end(&self) {
        self.cut.store(true, Ordering::Release);
        if self.websocket.load(Ordering::Acquire) || self.event_stream.load(Ordering::Acquire) {
            self.closing.store(true, Ordering::Release);
            self.reader.wake();
        } else {
            self.abort();
        }
    }

    fn abort(&self) {
        match &*lock(&self.task) {
            Some(Running::Connection(task)) => task.abort(),
            Some(Running::Stream(future)) => future.abort(),
            None => {}
        }
    }
}

impl fmt::Debug for ConnectionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionState").field("peer", &self.peer).field("phase", &self.phase).finish()
    }
}

/// How long each phase may last, in seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PhaseLimits {
    pub(crate) handshake: u32,
    pub(crate) idle: u32,
    pub(crate) head: u32,
}

/// All connections and HTTP/2 streams.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    list: Mutex<HashMap<u64, Arc<ConnectionState>>>,
    next: AtomicU64,
    sockets: AtomicUsize,
    /// Whoever has no request is to leave.
    no_idle: AtomicBool,
    leave: Notify,
    clock: Arc<Clock>,
}

/// A place in the list, left when dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    key: u64,
    socket: bool,
    state: Arc<ConnectionState>,
    list: Arc<Connections>,
}

impl Registration {
    pub(crate) fn state(&self) -> &Arc<ConnectionState> {
        &self.state
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        lock(&self.list.list).remove(&self.key);
        if self.socket {
            self.list.sockets.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Connections {
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Open sockets (HTTP/2 streams are not counted).
    pub(crate) fn sockets(&self) -> usize {
        self.sockets.load(Ordering::Relaxed)
    }

    pub(crate) fn register_socket(self: &Arc<Self>, peer: SocketAddr, tls: bool) -> Registration {
        self.sockets.fetch_add(1, Ordering::Relaxed);
        self.register(peer, tls, false, true, Phase::Handshake)
    }

    pub(crate) fn register_stream(self: &Arc<Self>, peer: SocketAddr, tls: bool) -> Registration {
        self.register(peer, tls, true, false, Phase::Request)
    }

    fn register(
        self: &Arc<Self>,
        peer: SocketAddr,
        tls: bool,
        http2: bool,
        socket: bool,
        phase: Phase,
    ) -> Registration {
        let state = Arc::new(ConnectionState {
            peer,
            tls,
            http2,
            phase: AtomicU8::new(phase as u8),
            since: AtomicU32::new(self.clock.now()),
            target: AtomicU64::new(0),
            websocket: AtomicBool::new(false),
            event_stream: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            task: Mutex::new(None),
            clock: Arc::clone(&self.clock),
        });
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.list).insert(key, Arc::clone(&state));
        Registration { key, socket, state, list: Arc::clone(self) }
    }

    /// Ends what overstayed its phase.
    pub(crate) fn sweep(&self, limits: PhaseLimits) {
        for state in lock(&self.list).values() {
            let limit = match state.phase.load(Ordering::Relaxed) {
                p if p == Phase::Handshake as u8 => limits.handshake,
                p if p == Phase::Idle as u8 => limits.idle,
                p if p == Phase::Head as u8 => limits.head,
                _ => continue,
            };
            if state.age() > limit {
                state.abort();
            }
        }
    }

    /// Makes room: ends up to `n` connections that have been idle longest. Says how many.
    pub(crate) fn shed_idle(&self, n: usize) -> usize {
        let list = lock(&self.list);
        let mut idle: Vec<_> = list.values().filter(|s| s.is_in(Phase::Idle)).collect();
        idle.sort_unstable_by_key(|state| std::cmp::Reverse(state.age()));
        idle.truncate(n);
        idle.iter().for_each(|state| state.abort());
        idle.len()
    }

    /// Has every connection that waits for a next request leave, now and from now on. One whose request has begun to
    /// come in, were it but in the kernel's buffer, is served first.
    pub(crate) fn end_idle(&self) {
        self.no_idle.store(true, Ordering::SeqCst);
        self.leave.notify_waiters();
    }

    /// Returns when idle connections are to leave.
    pub(crate) async fn leave(&self) {
        let leave = self.leave.notified();
        tokio::pin!(leave);
        leave.as_mut().enable();
        if !self.no_idle.load(Ordering::SeqCst) {
            leave.await;
        }
    }

    /// Ends what is in flight on a target, or everything; politely first. An HTTP/2 connection ends by itself
    /// when its streams have.
    pub(crate) fn end(&self, target: Option<u64>) {
        for state in lock(&self.list).values().filter(|s| s.matches(target) && !s.is_in(Phase::Multiplexed)) {
            state.end();
        }
    }

    /// As [`Self::end`], but at once.
    pub(crate) fn abort(&self, target: Option<u64>) {
        for state in lock(&self.list).values().filter(|s| s.matches(target)) {
            state.cut.store(true, Ordering::Release);
            state.abort();
        }
    }
}

impl ConnectionState {
    fn matches(&self, target: Option<u64>) -> bool {
        target.is_none_or(|generation| self.target.load(Ordering::SeqCst) == generation)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

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
        self.frames.is_some() && self.state.closing.load(Ordering::Acquire)
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
                self.state.reader.wake();
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
            this.state.reader.register(cx.waker());
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
        if self.frames.is_none() && self.state.websocket.load(Ordering::Acquire) {
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
