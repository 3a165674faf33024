//! Visitors: a bounded loop of requests that remembers each one that was not answered as it should be.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinSet;

use super::daemon::Berth;

/// Failures that are kept word by word.
const MOST_FAILURES: usize = 20;

#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    requests: AtomicUsize,
    failed: AtomicUsize,
    failures: Mutex<Vec<String>>,
    versions: Mutex<BTreeSet<String>>,
}

/// What came of a loop of requests.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) requests: usize,
    pub(crate) failed: usize,
    pub(crate) failures: Vec<String>,
    /// Versions of the app that answered.
    pub(crate) versions: BTreeSet<String>,
}

impl Report {
    /// Wants every request answered well, and enough of them to mean something.
    pub(crate) fn assert_flawless(&self, at_least: usize) {
        assert_eq!(
            self.failed, 0,
            "{} of {} requests failed: {:#?}",
            self.failed, self.requests, self.failures
        );
        assert!(self.requests >= at_least, "only {} requests were made", self.requests);
    }
}

/// Visitors of an app, until they are told to stop.
pub(crate) struct Visitors {
    tally: Arc<Tally>,
    tasks: JoinSet<()>,
}

impl Visitors {
    /// Half of the visitors GET the page on connections that are kept, every fourth POSTs a body that must come
    /// back whole, the others open a connection for each request.
    pub(crate) fn of(berth: &Berth, app: &str, count: usize) -> Self {
        let tally = Arc::new(Tally::default());
        let mut tasks = JoinSet::new();
        for n in 0..count {
            let visitor =
                Visitor { http: berth.http, host: format!("{app}.localhost"), tally: Arc::clone(&tally) };
            tasks.spawn(async move {
                match n % 4 {
                    0 | 2 => visitor.gets(client(true)).await,
                    1 => visitor.posts(client(true), n).await,
                    _ => visitor.gets(client(false)).await,
                }
            });
        }
        Self { tally, tasks }
    }

    /// Requests so far.
    pub(crate) fn so_far(&self) -> usize {
        self.tally.requests.load(Ordering::Relaxed)
    }

    /// Stops them after the request that each is at.
    pub(crate) async fn stop(mut self) -> Report {
        self.tally.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        let t = &self.tally;
        Report {
            requests: t.requests.load(Ordering::Relaxed),
            failed: t.failed.load(Ordering::Relaxed),
            failures: t.failures.lock().unwrap().clone(),
            versions: t.versions.lock().unwrap().clone(),
        }
    }
}

fn client(keep: bool) -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .pool_max_idle_per_host(if keep { 4 } else { 0 })
        .timeout(Duration::from_secs(20))
        .build()
        .unwrap()
}

struct Visitor {
    http: SocketAddr,
    host: String,
    tally: Arc<Tally>,
}

impl Visitor {
    fn goes_on(&self) -> bool {
        !self.tally.stop.load(Ordering::Relaxed)
    }

    async fn gets(&self, client: reqwest::Client) {
        while self.goes_on() {
            let request = client.get(format!("http://{}/", self.http)).header("host", &self.host);
            self.count("GET", request, None).await;
        }
    }

    async fn posts(&self, client: reqwest::Client, n: usize) {
        let body = format!("{n}:").repeat(2000);
        while self.goes_on() {
            let request = client
                .post(format!("http://{}/echo", self.http))
                .header("host", &self.host)
                .body(body.clone());
            self.count("POST", request, Some(&body)).await;
        }
    }

    async fn count(&self, what: &str, request: reqwest::RequestBuilder, body: Option<&str>) {
        let outcome = async {
            let response = request.send().await.map_err(|e| format!("{e:?}"))?;
            let status = response.status();
            let text = response.text().await.map_err(|e| format!("{status}, then {e:?}"))?;
            if status != 200 {
                return Err(format!("{status}: {}", text.chars().take(300).collect::<String>()));
            }
            let said: serde_json::Value = serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))?;
            if body.is_some_and(|b| said["body"] != b) {
                return Err("the body came back changed".to_owned());
            }
            Ok(said["version"].as_str().unwrap_or_default().to_owned())
        };
        let outcome = outcome.await;
        self.tally.requests.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Ok(version) => {
                self.tally.versions.lock().unwrap().insert(version);
            }
            Err(why) => {
                self.tally.failed.fetch_add(1, Ordering::Relaxed);
                let mut failures = self.tally.failures.lock().unwrap();
                if failures.len() < MOST_FAILURES {
                    failures.push(format!("{what}: {why}"));
                }
            }
        }
        // A pause keeps the load bounded: this is about what is lost, not about speed.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
