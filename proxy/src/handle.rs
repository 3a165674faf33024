//! The control plane's hand on the data plane: tables in, counters out, and drain.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use crate::{
    access::AccessSink,
    basic_auth::Logins,
    challenge::ChallengeTable,
    connections::Connections,
    on_demand::{CertificateSource, OnDemand},
    router::RouteTable,
    target::ReleaseTarget,
    tls::{CertificateResolver, CertificateTable},
};

/// How long WebSockets may take to say goodbye after a drain's deadline.
const FAREWELL: Duration = Duration::from_secs(2);

/// What requests and the control plane share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) routes: ArcSwap<RouteTable>,
    pub(crate) challenges: ArcSwap<ChallengeTable>,
    pub(crate) certificates: Arc<CertificateResolver>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) logins: Logins,
    pub(crate) on_demand: OnDemand,
    pub(crate) access: AccessSink,
    pub(crate) counts: Counts,
    /// The server is about to end: who waits for something is told to come again.
    pub(crate) stopping: CancellationToken,
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) accepted: AtomicU64,
    pub(crate) shed: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) faults: AtomicU64,
    pub(crate) retries: AtomicU64,
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Steers a running [`crate::ProxyServer`]; cheap to clone.
#[derive(Debug, Clone)]
pub struct ProxyHandle {
    pub(crate) shared: Arc<Shared>,
}

/// How a drain went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainReport {
    /// How long it took until nothing was in flight.
    pub waited: Duration,
    /// Requests that ended while it waited (without those that were cut).
    pub finished: u64,
    /// Requests and upgraded connections that were still in flight at the deadline and were ended.
    pub cut: usize,
}

/// What the data plane has done since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProxyCounters {
    /// Client connections that are open now.
    pub connections: usize,
    /// Client connections accepted.
    pub accepted: u64,
    /// Idle client connections closed to make room.
    pub shed: u64,
    /// Requests that ended.
    pub requests: u64,
    /// Requests that the platform answered or ended, rather than the app.
    pub faults: u64,
    /// Tries beyond the first.
    pub retries: u64,
    /// Access records lost because their reader was behind.
    pub access_dropped: u64,
}

impl ProxyHandle {
    /// Replaces all routes; the next request sees them.
    pub fn set_routes(&self, routes: RouteTable) {
        self.shared.routes.store(Arc::new(routes));
    }

    /// The routes as they are.
    #[must_use]
    pub fn routes(&self) -> Arc<RouteTable> {
        self.shared.routes.load_full()
    }

    /// Replaces all certificates; the next handshake sees them.
    pub fn set_certificates(&self, certificates: CertificateTable) {
        self.shared.certificates.table.store(Arc::new(certificates));
    }

    /// Changes some certificates; the next handshake sees it. The others are shared with the table before, so that one
    /// name of thousands costs well under a millisecond. When two change at once `change` may be called again.
    pub fn update_certificates(&self, mut change: impl FnMut(&mut CertificateTable)) {
        self.shared.certificates.table.rcu(|table| {
            let mut table = CertificateTable::clone(table);
            change(&mut table);
            table
        });
    }

    /// Where certificates are got from while a client waits, for names that the table has none of; `None` for nowhere.
    pub fn set_certificate_source(&self, source: Option<Arc<dyn CertificateSource>>) {
        self.shared.on_demand.set_source(source);
    }

    /// Replaces the answers to HTTP-01 challenges.
    pub fn set_challenges(&self, challenges: ChallengeTable) {
        self.shared.challenges.store(Arc::new(challenges));
    }

    /// What has been done so far.
    #[must_use]
    pub fn counters(&self) -> ProxyCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = &self.shared.counts;
        ProxyCounters {
            connections: self.shared.connections.sockets(),
            accepted: read(&counts.accepted),
            shed: read(&counts.shed),
            requests: read(&counts.requests),
            faults: read(&counts.faults),
            retries: read(&counts.retries),
            access_dropped: self.shared.access.dropped(),
        }
    }

    /// Takes a target out of service and waits until nothing is in flight on it. Call it *after* a
    /// [`Self::set_routes`] that no longer leads there; from then on nothing new is routed to it.
    ///
    /// What is still in flight at the deadline is ended: a WebSocket with a close frame (1012, "service
    /// restart"), an event stream by completing it after an event, everything else by closing its connection or
    /// resetting its stream.
    pub async fn drain(&self, target: &Arc<ReleaseTarget>, deadline: Duration) -> DrainReport {
        let begun = Instant::now();
        let finished_before = target.finished();
        target.mark_removed();
        let mut cut = 0;
        if !target.wait_idle(deadline).await {
            cut = target.in_flight();
            let connections = &self.shared.connections;
            connections.end(Some(target.generation()));
            if !target.wait_idle(FAREWELL).await {
                connections.abort(Some(target.generation()));
                // Aborted tasks are dropped at their next turn; one that does not come to it hangs in no request.
                target.wait_idle(FAREWELL).await;
            }
        }
        target.close_idle();
        let finished = target.finished().saturating_sub(finished_before).saturating_sub(cut as u64);
        DrainReport { waited: begun.elapsed(), finished, cut }
    }
}
