//! Sends envelopes over connections that stay open, and notes how long each answer took.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use berth_evals::wire::{Connection, quantile};

use crate::events;

/// Milliseconds below which a share of times lies; of sorted times.
pub(crate) fn ms(times: &[Duration], share: f64) -> f64 {
    quantile(times, share).as_secs_f64() * 1e3
}

/// Where errors go.
#[derive(Debug, Clone)]
pub(crate) struct Sink {
    pub(crate) addr: SocketAddr,
    /// Project of the DSN.
    pub(crate) project: String,
    /// Key of the DSN.
    pub(crate) key: String,
}

impl Sink {
    /// Reads a DSN, `http://KEY@host:port/ID`; sent to `addr`.
    pub(crate) fn of_dsn(dsn: &str, addr: SocketAddr) -> Result<Self> {
        let rest = dsn.split_once("://").context("a scheme")?.1;
        let (key, place) = rest.split_once('@').context("a key")?;
        let project = place.rsplit_once('/').context("a project")?.1;
        Ok(Self { addr, project: project.to_owned(), key: key.to_owned() })
    }

    fn request(&self, body: &[u8]) -> Vec<u8> {
        let head = format!(
            "POST /api/{}/envelope/ HTTP/1.1\r\nHost: {}\r\nUser-Agent: sentry.python/2.75.0\r\n\
             Content-Type: application/x-sentry-envelope\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\
             X-Sentry-Auth: Sentry sentry_version=7, sentry_client=sentry.python/2.75.0, sentry_key={}\r\n\r\n",
            self.project,
            self.addr,
            body.len(),
            self.key
        );
        [head.as_bytes(), body].concat()
    }
}

/// What a load was like.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) times: Vec<Duration>,
    pub(crate) statuses: BTreeMap<u16, usize>,
    pub(crate) took: Duration,
}

impl Told {
    pub(crate) fn accepted(&self) -> usize {
        self.statuses.get(&200).copied().unwrap_or(0)
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.accepted() as f64 / self.took.as_secs_f64().max(1e-9)
    }

    /// Milliseconds below which a share of the answers came.
    pub(crate) fn ms(&self, share: f64) -> f64 {
        ms(&self.times, share)
    }
}

/// Requests with events, made before they are sent: making them costs no measurement anything.
#[derive(Debug, Clone)]
pub(crate) struct Requests(Arc<Vec<Vec<u8>>>);

impl Requests {
    /// Makes events `from..to` of a load.
    pub(crate) fn make(sink: &Sink, load: u64, (from, to): (u64, u64)) -> Self {
        let middle = from + (to - from) / 2;
        let make = |from: u64, to: u64| -> Vec<Vec<u8>> {
            (from..to).map(|n| sink.request(&events::envelope(load, n))).collect()
        };
        // Two threads, for a store of a million.
        std::thread::scope(|scope| {
            let second = scope.spawn(|| make(middle, to));
            let mut all = make(from, middle);
            all.extend(second.join().unwrap_or_default());
            Self(Arc::new(all))
        })
    }
}

/// Sends the requests of a range over so many connections, as fast as the answers come.
pub(crate) async fn burst(
    sink: &Sink,
    Requests(requests): &Requests,
    (from, to): (u64, u64),
    connections: usize,
) -> Result<Told> {
    let (next, to) = (Arc::new(AtomicU64::new(from)), to as usize);
    let begun = Instant::now();
    let mut workers = Vec::new();
    for _ in 0..connections {
        let (sink, requests, next) = (sink.clone(), Arc::clone(requests), Arc::clone(&next));
        workers.push(tokio::spawn(async move {
            let mut told = Told::default();
            let mut connection = Connection::new(sink.addr);
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed) as usize;
                let Some(request) = requests.get(n).filter(|_| n < to) else { break };
                let begun = Instant::now();
                let status = connection.exchange(request).await?.status;
                told.times.push(begun.elapsed());
                *told.statuses.entry(status).or_default() += 1;
            }
            Ok::<_, anyhow::Error>(told)
        }));
    }
    let mut all = Told::default();
    for worker in workers {
        let told = worker.await??;
        all.times.extend(told.times);
        for (status, count) in told.statuses {
            *all.statuses.entry(status).or_default() += count;
        }
    }
    all.took = begun.elapsed();
    all.times.sort();
    Ok(all)
}

/// Sends one event.
pub(crate) async fn one(sink: &Sink, load: u64, n: u64) -> Result<u16> {
    Ok(Connection::new(sink.addr).exchange(&sink.request(&events::envelope(load, n))).await?.status)
}
