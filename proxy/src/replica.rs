//! The replicas of a release: which one gets the next request, and which is out for now.
//!
//! Health here is passive: a replica is taken out when a connection to it cannot be opened, and comes back by
//! itself, by a single probing request after a back-off that doubles. The daemon's own health checks decide
//! whether a release gets traffic at all; this module only keeps requests away from a replica that just died.
//!
//! The pick is "least in flight", and round robin among equals: with slow and fast requests mixed it stays
//! fair, and for an idle release it is plain round robin.

use std::{
    net::SocketAddr,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use pingora::{ErrorType, OrErr as _, upstreams::peer::HttpPeer};

use crate::{
    maps::is_script_map,
    target::TargetOptions,
    upstream::{IdleUpstreams, Upstream},
};

/// First back-off after a replica could not be reached; it doubles up to [`BACK_OFF_MAX`].
const BACK_OFF_MIN: Duration = Duration::from_millis(500);
const BACK_OFF_MAX: Duration = Duration::from_secs(16);

/// Between looks at whether removed replicas are idle.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

static NEXT_GROUP: AtomicU64 = AtomicU64::new(1);
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Where one replica listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaAddr {
    /// The container's id, or another name that is unique within the release.
    pub id: String,
    /// Its address. Always literal: the data plane resolves no names.
    pub addr: SocketAddr,
}

#[derive(Debug)]
pub(crate) struct Replica {
    id: Arc<str>,
    addr: SocketAddr,
    /// What Pingora wants to know for a connection.
    peer: HttpPeer,
    options: TargetOptions,
    /// Kept for requests that go the direct way.
    idle: IdleUpstreams,
    in_flight: AtomicUsize,
    removed: AtomicBool,
    failures: AtomicU32,
    /// Milliseconds after [`START`] until which the replica is out; 0 when it is in.
    out_until: AtomicU64,
}

impl Replica {
    fn new(at: &ReplicaAddr, options: &TargetOptions) -> Self {
        let mut peer = HttpPeer::new(at.addr, false, String::new());
        peer.options.connection_timeout = Some(options.connect_timeout);
        peer.options.total_connection_timeout = Some(options.connect_timeout);
        peer.options.read_timeout = Some(options.response_timeout);
        // Closed by us, a connection's local port would be taken for a minute: 28,000 requests later none is left.
        peer.options.upstream_tcp_sock_tweak_hook = Some(Arc::new(|socket| {
            socket.set_zero_linger().or_err(ErrorType::InternalError, "setting up a connection to a replica")
        }));
        // Put aside after its request, it is closed at once: nobody has its key.
        peer.options.idle_timeout = Some(Duration::ZERO);
        Self {
            id: at.id.as_str().into(),
            addr: at.addr,
            peer,
            options: *options,
            idle: IdleUpstreams::default(),
            in_flight: AtomicUsize::new(0),
            removed: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            out_until: AtomicU64::new(0),
        }
    }

    fn is_same(&self, at: &ReplicaAddr) -> bool {
        *self.id == at.id && self.addr == at.addr
    }

    pub(crate) fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// No longer among its release's replicas.
    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::SeqCst)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// For one request that goes the general way, on a connection of its own: Pingora takes a pooled one only
    /// under the same key, and this key is given out once.
    pub(crate) fn peer(&self) -> HttpPeer {
        let mut peer = self.peer.clone();
        peer.group_key = NEXT_GROUP.fetch_add(1, Ordering::Relaxed);
        peer
    }

    pub(crate) fn options(&self) -> &TargetOptions {
        &self.options
    }

    pub(crate) fn take_idle(&self) -> Option<Box<Upstream>> {
        self.idle.take(self.options.idle_timeout)
    }

    pub(crate) fn keep(&self, upstream: Box<Upstream>) {
        self.idle.keep(upstream);
    }

    /// A connection was open: whatever was held against the replica is forgotten.
    pub(crate) fn reached(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.out_until.store(0, Ordering::Relaxed);
        }
    }

    /// A connection could not be opened: out for a while, longer each time.
    pub(crate) fn unreachable(&self) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).min(10);
        let pause = BACK_OFF_MIN.saturating_mul(1 << failures).min(BACK_OFF_MAX);
        self.out_until.store(now_ms() + pause.as_millis() as u64, Ordering::Relaxed);
    }

    /// In, or out for long enough that this very request may probe it (and only this one).
    fn takes_request(&self, now: u64) -> bool {
        let until = self.out_until.load(Ordering::Relaxed);
        until == 0
            || (until <= now
                && self
                    .out_until
                    .compare_exchange(
                        until,
                        now + BACK_OFF_MAX.as_millis() as u64,
                        Ordering::Relaxed,
                        Ordering::Relaxed,
                    )
                    .is_ok())
    }

    fn is_in(&self) -> bool {
        self.out_until.load(Ordering::Relaxed) == 0
    }
}

/// One request's hold on a replica.
#[derive(Debug)]
pub(crate) struct ReplicaLease(Arc<Replica>);

impl ReplicaLease {
    fn new(replica: &Arc<Replica>) -> Self {
        replica.in_flight.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(replica))
    }
}

impl std::ops::Deref for ReplicaLease {
    type Target = Replica;

    fn deref(&self) -> &Replica {
        &self.0
    }
}

impl Drop for ReplicaLease {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Replicas that get no new requests, and may still have some open.
#[derive(Debug, Default)]
#[must_use = "their containers may be stopped only when nothing is open on them"]
pub struct RemovedReplicas(Vec<Arc<Replica>>);

impl RemovedReplicas {
    /// Waits until no request is open on any of them, at most for `limit`. Returns whether that is so.
    pub async fn idle(self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.0.iter().any(|r| r.in_flight.load(Ordering::SeqCst) > 0) {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        true
    }
}

#[derive(Debug)]
pub(crate) struct ReplicaSet {
    replicas: ArcSwap<Vec<Arc<Replica>>>,
    options: TargetOptions,
    turn: AtomicUsize,
}

impl ReplicaSet {
    /// Whether visitors are not to see what lies at this path.
    pub(crate) fn hides(&self, path: &str) -> bool {
        self.options.private_maps && is_script_map(path)
    }

    pub(crate) fn new(replicas: Vec<ReplicaAddr>, options: TargetOptions) -> Self {
        let replicas: Vec<_> = replicas.iter().map(|at| Arc::new(Replica::new(at, &options))).collect();
        Self { replicas: ArcSwap::from_pointee(replicas), options, turn: AtomicUsize::new(0) }
    }

    pub(crate) fn replace(&self, wanted: Vec<ReplicaAddr>) -> RemovedReplicas {
        let old = self.replicas.load_full();
        let new = wanted
            .iter()
            .map(|at| match old.iter().find(|replica| replica.is_same(at)) {
                Some(kept) => Arc::clone(kept),
                None => Arc::new(Replica::new(at, &self.options)),
            })
            .collect::<Vec<_>>();
        let removed: Vec<_> =
            old.iter().filter(|r| !new.iter().any(|n| Arc::ptr_eq(n, r))).cloned().collect();
        self.replicas.store(Arc::new(new));
        // After the store: who finds itself on a removed replica finds the new list.
        for replica in &removed {
            replica.removed.store(true, Ordering::SeqCst);
            replica.idle.close_older_than(Duration::ZERO);
        }
        RemovedReplicas(removed)
    }

    /// Closes connections that have been idle for too long, or all idle ones.
    pub(crate) fn close_idle(&self, all: bool) {
        let max_age = if all { Duration::ZERO } else { self.options.idle_timeout };
        for replica in self.replicas.load().iter() {
            replica.idle.close_older_than(max_age);
        }
    }

    pub(crate) fn describe(&self) -> Vec<(String, SocketAddr, bool)> {
        self.replicas.load().iter().map(|r| (r.id.to_string(), r.addr, r.is_in())).collect()
    }

    /// The replica for the next try, avoiding those in `tried`. When all are out it is better to ask one that
    /// failed lately than to refuse: a refused connection costs nothing, and the app may be back.
    pub(crate) fn pick(&self, tried: &[Arc<str>]) -> Option<ReplicaLease> {
        loop {
            let lease = self.pick_once(tried)?;
            // Counted first, looked second, as on targets: a wait that read zero is never overtaken.
            if !lease.is_removed() {
                return Some(lease);
            }
        }
    }

    fn pick_once(&self, tried: &[Arc<str>]) -> Option<ReplicaLease> {
        let replicas = self.replicas.load();
        if let [only] = replicas.as_slice() {
            return (!tried.contains(&only.id)).then(|| ReplicaLease::new(only));
        }
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = || {
            (0..replicas.len())
                .map(|i| &replicas[(first.wrapping_add(i)) % replicas.len()])
                .filter(|r| !tried.contains(&r.id))
        };
        let now = if in_turn().all(|r| r.is_in()) { 0 } else { now_ms() };
        in_turn()
            .filter(|r| r.takes_request(now))
            .min_by_key(|r| r.in_flight.load(Ordering::Relaxed))
            .or_else(|| in_turn().min_by_key(|r| r.out_until.load(Ordering::Relaxed)))
            .map(ReplicaLease::new)
    }
}

fn now_ms() -> u64 {
    // Never 0, which means "in".
    START.elapsed().as_millis() as u64 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(id: &str, port: u16) -> ReplicaAddr {
        ReplicaAddr { id: id.into(), addr: ([127, 0, 0, 1], port).into() }
    }

    fn set(replicas: Vec<ReplicaAddr>) -> ReplicaSet {
        ReplicaSet::new(replicas, TargetOptions::default())
    }

    #[test]
    fn idle_replicas_take_turns() {
        let set = set(vec![at("a", 1), at("b", 2)]);
        let ids: Vec<_> = (0..4).filter_map(|_| set.pick(&[]).map(|r| r.id().to_string())).collect();
        assert_eq!(ids, ["a", "b", "a", "b"]);
    }

    #[test]
    fn the_least_busy_replica_is_picked() {
        let set = set(vec![at("a", 1), at("b", 2)]);
        let held = set.pick(&[]).expect("two replicas");
        for _ in 0..3 {
            assert_ne!(set.pick(&[]).expect("two replicas").id(), held.id());
        }
    }

    #[test]
    fn a_dead_replica_is_out_until_its_back_off_ends_and_then_probed_once() {
        let set = set(vec![at("a", 1), at("b", 2)]);
        let a = Arc::clone(&set.replicas.load()[0]);
        a.unreachable();
        for _ in 0..4 {
            assert_eq!(&**set.pick(&[]).expect("b is in").id(), "b");
        }
        a.out_until.store(1, Ordering::Relaxed);
        assert!(a.takes_request(now_ms() + 1));
        assert!(!a.takes_request(now_ms() + 1), "one probe at a time");
        a.reached();
        assert!(a.is_in());
    }

    #[test]
    fn a_replica_that_was_tried_is_not_tried_again() {
        let set = set(vec![at("a", 1)]);
        assert!(set.pick(&["a".into()]).is_none());
    }

    #[test]
    fn replacing_keeps_those_that_stayed_and_renews_those_that_moved() {
        let set = set(vec![at("a", 1), at("b", 2)]);
        let before = set.replicas.load_full();
        let removed = set.replace(vec![at("a", 1), at("b", 3), at("c", 4)]);
        assert_eq!(removed.0.len(), 1);
        let after = set.replicas.load_full();
        assert!(Arc::ptr_eq(&before[0], &after[0]));
        assert!(!after.iter().any(|replica| Arc::ptr_eq(&before[1], replica)));
        assert_eq!(after.len(), 3);
    }
}
