//! What a route points to: one generation of a release, and the count of what is in flight on it.
//!
//! A target is made once per release *generation* and never reused: a restarted or redeployed release is a new
//! target, so its counts, its connection pools and its health start from nothing. Scaling or a changed address
//! is no new generation: [`ReleaseTarget::set_replicas`] keeps the replicas that stayed.
//!
//! Counting is what makes a switch lossless. A request is counted in the instant it is routed, and then looks
//! again whether the target was removed meanwhile; if so it gives the count back and asks the newest table.
//! With both in sequentially consistent order, a drain that reads zero after it set `removed` knows that
//! nobody can come any more.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

use crate::{
    error::ProxyError,
    replica::{RemovedReplicas, ReplicaAddr, ReplicaSet},
    static_site::{StaticFiles, StaticSite},
};

static NEXT_GENERATION: AtomicU64 = AtomicU64::new(1);

/// Who a release is, for records, counters and pages.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ReleaseLabel {
    /// Slug of the project.
    pub project: String,
    /// Slug of the app.
    pub app: String,
    /// Name of the environment, such as `production`.
    pub environment: String,
    /// Number of the deployment that made the release.
    pub release: i64,
}

/// How the proxy talks to the containers of a release.
#[derive(Debug, Clone, Copy)]
pub struct TargetOptions {
    /// How long a TCP connection to a replica may take to open.
    pub connect_timeout: Duration,
    /// How long the app may stay silent: before its response starts, and between two pieces of it. Upgraded
    /// connections (WebSocket) have no such limit.
    pub response_timeout: Duration,
    /// How long an unused connection to a replica is kept. Below the 5 s after which Node's HTTP server closes
    /// idle connections, so that the proxy lets go first.
    pub idle_timeout: Duration,
    /// Whether source maps of scripts (`*.js.map`) are answered with 404, as if there were none. The app is not asked.
    pub private_maps: bool,
}

impl Default for TargetOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            response_timeout: Duration::from_secs(120),
            idle_timeout: Duration::from_secs(4),
            private_maps: false,
        }
    }
}

/// One generation of a release that requests can be routed to.
#[derive(Debug)]
pub struct ReleaseTarget {
    generation: u64,
    label: Arc<ReleaseLabel>,
    backend: Backend,
    in_flight: AtomicUsize,
    finished: AtomicU64,
    answers: AtomicU64,
    server_errors: AtomicU64,
    removed: AtomicBool,
    idle: Notify,
}

/// What an app answered on one target. Not counted: the platform's own pages, and requests whose client left
/// before there was an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Answers {
    /// Requests that were answered, or should have been. An upgrade to WebSocket is an answer.
    pub total: u64,
    /// Of these, answers with a status of 5xx, and requests that got no complete answer: the app could not be
    /// reached, closed the connection, or was silent for too long.
    pub server_errors: u64,
}

#[derive(Debug)]
pub(crate) enum Backend {
    Containers(ReplicaSet),
    Static(StaticFiles),
}

impl ReleaseTarget {
    /// A release that runs in containers. Without replicas its requests are answered with the "unhealthy" page.
    #[must_use]
    pub fn containers(label: ReleaseLabel, replicas: Vec<ReplicaAddr>, options: TargetOptions) -> Arc<Self> {
        Self::new(label, Backend::Containers(ReplicaSet::new(replicas, options)))
    }

    /// A release that is a directory of files.
    ///
    /// # Errors
    /// When the directory cannot be opened: it is held open from here on, so that renames do not matter.
    pub fn static_files(label: ReleaseLabel, site: StaticSite) -> Result<Arc<Self>, ProxyError> {
        Ok(Self::new(label, Backend::Static(StaticFiles::open(site)?)))
    }

    fn new(label: ReleaseLabel, backend: Backend) -> Arc<Self> {
        Arc::new(Self {
            generation: NEXT_GENERATION.fetch_add(1, Ordering::Relaxed),
            label: Arc::new(label),
            backend,
            in_flight: AtomicUsize::new(0),
            finished: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            server_errors: AtomicU64::new(0),
            removed: AtomicBool::new(false),
            idle: Notify::new(),
        })
    }

    /// Who this release is.
    #[must_use]
    pub fn label(&self) -> &Arc<ReleaseLabel> {
        &self.label
    }

    /// Requests (and upgraded connections) that were routed here and have not ended.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Requests that were routed here and have ended, since the target was made.
    #[must_use]
    pub fn finished(&self) -> u64 {
        self.finished.load(Ordering::Relaxed)
    }

    /// What the app answered here since the target was made.
    #[must_use]
    pub fn answers(&self) -> Answers {
        // Errors first: read in between, an answer is missing from both rather than an error from the total.
        let server_errors = self.server_errors.load(Ordering::Relaxed);
        Answers { total: self.answers.load(Ordering::Relaxed).max(server_errors), server_errors }
    }

    pub(crate) fn count_answer(&self) {
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_server_error(&self) {
        self.server_errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a drain has begun: nothing is routed here any more.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::SeqCst)
    }

    /// Replaces the replicas: a scale, or a container that came back with another address. A replica whose id
    /// and address stayed keeps its connections and its health. Does nothing for static files. Returns those
    /// that are gone, to wait for.
    pub fn set_replicas(&self, replicas: Vec<ReplicaAddr>) -> RemovedReplicas {
        match &self.backend {
            Backend::Containers(set) => set.replace(replicas),
            Backend::Static(_) => RemovedReplicas::default(),
        }
    }

    /// The replicas as they are now, with whether each is taken for healthy.
    #[must_use]
    pub fn replicas(&self) -> Vec<(String, SocketAddr, bool)> {
        match &self.backend {
            Backend::Containers(set) => set.describe(),
            Backend::Static(_) => Vec::new(),
        }
    }

    pub(crate) fn backend(&self) -> &Backend {
        &self.backend
    }

    /// A number no other target of this process has.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Counts a request in, unless the target was removed: then the caller must ask the newest table again.
    pub(crate) fn admit(self: &Arc<Self>) -> Option<InFlight> {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        let counted = InFlight { target: Arc::clone(self) };
        if self.removed.load(Ordering::SeqCst) { None } else { Some(counted) }
    }

    /// Lets go of connections to replicas that have been idle for too long.
    pub(crate) fn close_idle(&self) {
        if let Backend::Containers(set) = &self.backend {
            set.close_idle(self.is_removed());
        }
    }

    pub(crate) fn mark_removed(&self) {
        self.removed.store(true, Ordering::SeqCst);
    }

    /// Waits until nothing is in flight; `false` if `limit` passed first.
    pub(crate) async fn wait_idle(&self, limit: Duration) -> bool {
        let idle = async {
            loop {
                let notified = self.idle.notified();
                tokio::pin!(notified);
                notified.as_mut().enable();
                if self.in_flight() == 0 {
                    return;
                }
                notified.await;
            }
        };
        tokio::time::timeout(limit, idle).await.is_ok()
    }
}

/// The count of one request; given back when dropped, however the request ended.
#[derive(Debug)]
pub(crate) struct InFlight {
    target: Arc<ReleaseTarget>,
}

impl InFlight {
    pub(crate) fn target(&self) -> &Arc<ReleaseTarget> {
        &self.target
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.target.finished.fetch_add(1, Ordering::Relaxed);
        if self.target.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 && self.target.is_removed() {
            self.target.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Arc<ReleaseTarget> {
        let label = ReleaseLabel {
            project: "default".into(),
            app: "web".into(),
            environment: "production".into(),
            release: 1,
        };
        ReleaseTarget::containers(label, vec![], TargetOptions::default())
    }

    #[test]
    fn a_removed_target_admits_nobody_and_keeps_its_count() {
        let web = target();
        let first = web.admit().expect("not removed yet");
        web.mark_removed();
        assert!(web.admit().is_none());
        assert_eq!(web.in_flight(), 1);
        drop(first);
        assert_eq!(web.in_flight(), 0);
    }

    #[tokio::test]
    async fn waiting_ends_when_the_last_request_ends() {
        let web = target();
        let request = web.admit().expect("not removed yet");
        web.mark_removed();
        assert!(!web.wait_idle(Duration::from_millis(20)).await);
        let waiting = tokio::spawn({
            let web = Arc::clone(&web);
            async move { web.wait_idle(Duration::from_secs(5)).await }
        });
        tokio::task::yield_now().await;
        drop(request);
        assert!(waiting.await.expect("no panic"));
    }
}
