//! All client connections: what each is doing, and the list of them.
//!
//! The list is what timeouts, limits, drain and shutdown work on. Instead of a timer per request, every
//! connection says in one relaxed store which phase it is in and since when; a sweep each half second ends those
//! that overstayed. To end a connection its task is aborted: dropping the request's future gives back every
//! count and lease it holds.
//!
//! Two kinds are ended politely: the list raises `closing`, and a WebSocket's stream itself writes a close frame
//! between two frames of the app (see [`crate::connection`]); an event stream's request completes the answer after
//! an event (see [`crate::events`]).

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Poll, Waker},
};

use futures_util::{future, task::AtomicWaker};
use tokio::sync::Notify;

use crate::lock::lock;

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
    /// The TLS handshake stands still until a certificate was got, which has a limit of its own.
    Certificate = 5,
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
    waiter: AtomicWaker,
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

    pub(crate) fn is_websocket(&self) -> bool {
        self.websocket.load(Ordering::Acquire)
    }

    /// From here on the answer is an event stream, whose request watches [`Self::asked_to_end`].
    pub(crate) fn set_event_stream(&self) {
        self.event_stream.store(true, Ordering::Release);
    }

    pub(crate) fn is_asked_to_end(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Has a task woken when it is to end.
    pub(crate) fn wake_when_asked(&self, waker: &Waker) {
        self.waiter.register(waker);
    }

    /// Wakes the task that waits to be asked to end.
    pub(crate) fn wake_waiter(&self) {
        self.waiter.wake();
    }

    /// Returns when the event stream is to end.
    pub(crate) async fn asked_to_end(&self) {
        std::future::poll_fn(|cx| {
            self.wake_when_asked(cx.waker());
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
        if self.is_websocket() || self.event_stream.load(Ordering::Acquire) {
            self.closing.store(true, Ordering::Release);
            self.wake_waiter();
        } else {
            self.abort();
        }
    }

    fn matches(&self, target: Option<u64>) -> bool {
        target.is_none_or(|generation| self.target.load(Ordering::SeqCst) == generation)
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
            waiter: AtomicWaker::new(),
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
