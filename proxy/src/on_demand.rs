//! Certificates that are got while a client waits for its handshake, for names that the control plane approves.
//!
//! Whoever scans names must not be able to make a queue of it: a name is asked for once at a time, so many names at
//! once, so many new names per address, and a refusal is remembered for a while.

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared, WeakShared},
};
use rustls::sign::CertifiedKey;
use tokio::sync::Semaphore;

use crate::{generations::Generations, lock::lock, place::Place, rate_limit::RateLimiter};

/// Names that the source is asked for at once; others wait for their turn.
const AT_ONCE: usize = 8;
/// Names that are asked for or wait for it, and handshakes that wait for all of them.
const MOST_NAMES: usize = 64;
const MOST_WAITING: usize = 256;
/// New names that one address may ask for per minute, and at once.
const NAMES_PER_MINUTE: u32 = 20;
const NAMES_AT_ONCE: u32 = 20;
/// How long a refusal is remembered, and for how many names at least.
const REMEMBERED: Duration = Duration::from_secs(30);
const MOST_REMEMBERED: usize = 4096;

/// Where certificates come from that the table has not.
#[async_trait]
pub trait CertificateSource: Send + Sync {
    /// A certificate for a host name (lower case) that a client has just asked for, or `None` when the name is not
    /// approved or none can be had. The client waits, for at most [`crate::ProxyConfig::on_demand_timeout`]; then this
    /// is dropped. Called for one name once at a time.
    async fn certificate(&self, name: &str) -> Option<Arc<CertifiedKey>>;
}

type Asking = Shared<BoxFuture<'static, Option<Arc<CertifiedKey>>>>;

pub(crate) struct OnDemand {
    source: ArcSwapOption<Arc<dyn CertificateSource>>,
    names: Mutex<Names>,
    waiting: AtomicUsize,
    turns: Arc<Semaphore>,
    per_address: RateLimiter,
    limit: Duration,
}

struct Names {
    /// Whose future is gone when nobody waits for it any more.
    asked: HashMap<String, WeakShared<BoxFuture<'static, Option<Arc<CertifiedKey>>>>>,
    refused: Generations<String, Instant>,
}

impl fmt::Debug for OnDemand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnDemand").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

impl OnDemand {
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            source: ArcSwapOption::empty(),
            names: Mutex::new(Names { asked: HashMap::new(), refused: Generations::new(MOST_REMEMBERED) }),
            waiting: AtomicUsize::new(0),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            per_address: RateLimiter::new(NAMES_PER_MINUTE, Duration::from_secs(60), NAMES_AT_ONCE),
            limit,
        }
    }

    pub(crate) fn set_source(&self, source: Option<Arc<dyn CertificateSource>>) {
        self.source.store(source.map(Arc::new));
    }

    /// A certificate for a name, if one can be had in time.
    pub(crate) async fn certificate(&self, name: &str, ip: IpAddr) -> Option<Arc<CertifiedKey>> {
        let source = self.source.load_full()?;
        let _place = Place::take(&self.waiting, MOST_WAITING)?;
        let asking = self.ask(name, ip, &source)?;
        // It has a limit of its own; this one is for those who wait for their turn.
        let had = tokio::time::timeout(self.limit, asking).await.ok().flatten();
        if had.is_none() {
            lock(&self.names).refused.set(name.to_owned(), Instant::now());
        }
        had
    }

    /// Joins those who wait for a name, or asks for it.
    fn ask(&self, name: &str, ip: IpAddr, source: &Arc<dyn CertificateSource>) -> Option<Asking> {
        let mut names = lock(&self.names);
        if names.refused.get(name).is_some_and(|at| at.elapsed() < REMEMBERED) {
            return None;
        }
        if let Some(asking) = names.asked.get(name).and_then(WeakShared::upgrade) {
            return Some(asking);
        }
        names.asked.retain(|_, asked| asked.upgrade().is_some_and(|asked| asked.peek().is_none()));
        if names.asked.len() >= MOST_NAMES || self.per_address.admit(ip).is_err() {
            return None;
        }
        let asking = self.answer(name.to_owned(), Arc::clone(source));
        names.asked.insert(name.to_owned(), asking.downgrade()?);
        Some(asking)
    }

    fn answer(&self, name: String, source: Arc<dyn CertificateSource>) -> Asking {
        let (turns, limit) = (Arc::clone(&self.turns), self.limit);
        async move {
            let _turn = turns.acquire().await.ok()?;
            tokio::time::timeout(limit, source.certificate(&name)).await.ok().flatten()
        }
        .boxed()
        .shared()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    /// Approves nothing, slowly, and counts how it is asked.
    #[derive(Default)]
    struct Slow {
        asked: AtomicUsize,
        now: AtomicUsize,
        most: AtomicUsize,
    }

    #[async_trait]
    impl CertificateSource for Slow {
        async fn certificate(&self, _: &str) -> Option<Arc<CertifiedKey>> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(100)).await;
            self.now.fetch_sub(1, Ordering::SeqCst);
            None
        }
    }

    fn ip(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(n).into()
    }

    #[tokio::test(start_paused = true)]
    async fn who_scans_names_is_bounded_in_every_way() {
        let on_demand = OnDemand::new(Duration::from_secs(20));
        assert!(on_demand.certificate("a.example.com", ip(1)).await.is_none(), "there is no source");
        let source = Arc::new(Slow::default());
        let asked = || source.asked.load(Ordering::SeqCst);
        on_demand.set_source(Some(source.clone()));
        // One name from many addresses is asked for once, and then the refusal is remembered.
        futures_util::future::join_all((0..50).map(|n| on_demand.certificate("a.example.com", ip(n)))).await;
        on_demand.certificate("a.example.com", ip(99)).await;
        assert_eq!(asked(), 1);
        // Many names from one address.
        let names: Vec<String> = (0..500).map(|n| format!("n{n}.example.com")).collect();
        futures_util::future::join_all(names.iter().map(|name| on_demand.certificate(name, ip(1)))).await;
        assert!(asked() <= 1 + NAMES_AT_ONCE as usize, "{}", asked());
        // Many names from many addresses.
        let before = asked();
        let names: Vec<String> = (0..500).map(|n| format!("m{n}.example.com")).collect();
        let all = names.iter().zip(1000..).map(|(name, n)| on_demand.certificate(name, ip(n)));
        futures_util::future::join_all(all).await;
        assert!(asked() - before <= MOST_NAMES, "{}", asked() - before);
        assert!(source.most.load(Ordering::SeqCst) <= AT_ONCE);
        assert_eq!(on_demand.waiting.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn when_nobody_waits_any_more_the_source_is_let_go_and_may_be_asked_again() {
        let on_demand = OnDemand::new(Duration::from_secs(20));
        let source = Arc::new(Slow::default());
        on_demand.set_source(Some(source.clone()));
        for _ in 0..3 {
            let left = on_demand.certificate("a.example.com", ip(1));
            assert!(tokio::time::timeout(Duration::from_millis(10), left).await.is_err());
        }
        assert_eq!(source.asked.load(Ordering::SeqCst), 3);
        assert!(on_demand.certificate("a.example.com", ip(1)).await.is_none());
        assert_eq!(source.asked.load(Ordering::SeqCst), 4);
    }
}
