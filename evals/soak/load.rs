//! The load: visitors at a steady, bounded pace, in every way that a browser or a program may come.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{future::join_all, stream};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{Method, Response, body::Frame, body::Incoming};
use tokio::{task::JoinSet, time::MissedTickBehavior};

use crate::{
    clients::{self, Connection, Door, Protocol, Sent, Upload},
    ledger::Ledgers,
    tally::{Failure, Kind, Tally},
    wire,
};

/// Time for a request with its answer.
const LIMIT: Duration = Duration::from_secs(15);
/// How often a request that was not touched is sent again.
const SENDS: usize = 4;
/// Visitors of each way.
const EACH: u32 = 2;
/// Requests of a burst, half of them POSTs.
const BURST: usize = 8;

/// How a visitor comes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    protocol: Protocol,
    post: bool,
    /// Whether the connection is used again.
    kept: bool,
}

impl Way {
    fn all() -> impl Iterator<Item = Self> {
        Protocol::ALL.into_iter().flat_map(|protocol| {
            [(false, true), (false, false), (true, true), (true, false)].map(|(post, kept)| Self {
                protocol,
                post,
                kept,
            })
        })
    }

    fn name(self) -> String {
        let method = if self.post { "POST" } else { "GET" };
        let connection = if self.kept { "kept" } else { "fresh" };
        format!("{method} {}, {connection}", self.protocol.name())
    }
}

/// What a visitor needs: where to go, and where to tell what came of it.
#[derive(Debug, Clone)]
pub(crate) struct Visit {
    pub(crate) door: Door,
    pub(crate) tally: Arc<Tally>,
    pub(crate) ledgers: Arc<Ledgers>,
}

/// Visitors until the tally says stop.
#[derive(Debug)]
pub(crate) struct Visitors {
    tally: Arc<Tally>,
    tasks: JoinSet<()>,
}

impl Visitors {
    /// `rate` requests a second over all ways, and bursts at an app whose connections are just about to be closed.
    pub(crate) fn start(visit: &Visit, patient: &Visit, rate: u32) -> Self {
        let ways: Vec<Way> = Way::all().collect();
        let visitors = ways.len() as u32 * EACH;
        let pace = Duration::from_secs(1) * visitors / rate.max(1);
        let mut tasks = JoinSet::new();
        for (n, way) in ways.iter().flat_map(|way| (0..EACH).map(move |_| *way)).enumerate() {
            let visit = visit.clone();
            let offset = pace * n as u32 / visitors;
            tasks.spawn(async move { visit.steadily(way, n, pace, offset).await });
        }
        let patient = patient.clone();
        tasks.spawn(async move { patient.in_bursts().await });
        Self { tally: Arc::clone(&visit.tally), tasks }
    }

    /// Ends each after the request that it is at.
    pub(crate) async fn stop(self) {
        self.tally.stop();
        self.tasks.join_all().await;
    }
}

impl Visit {
    async fn steadily(&self, way: Way, visitor: usize, pace: Duration, offset: Duration) {
        tokio::time::sleep(offset).await;
        let mut due = tokio::time::interval(pace);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut connection, name) = (None, way.name());
        for n in 0_usize.. {
            due.tick().await;
            if !self.tally.goes_on() {
                return;
            }
            self.count(way, &name, &mut connection, &format!("{visitor}-{n}")).await;
            if !way.kept {
                connection = None;
            }
        }
    }

    /// All at once, then nothing for just about as long as the app keeps a connection: each burst reuses connections
    /// at the moment at which the app closes them.
    async fn in_bursts(&self) {
        let mut connections: Vec<Option<Connection>> = (0..BURST).map(|_| None).collect();
        for n in 0_u64.. {
            if !self.tally.goes_on() {
                return;
            }
            let asked = connections.iter_mut().enumerate().map(|(i, connection)| async move {
                let protocol = Protocol::ALL[i / 2 % Protocol::ALL.len()];
                let way = Way { protocol, post: i % 2 == 1, kept: true };
                let name = format!("{}, after 1 s", way.name());
                self.count(way, &name, connection, &format!("burst{i}-{n}")).await;
            });
            join_all(asked).await;
            // The app counts from its last byte, which was a moment ago: 994 to 1001 ms.
            tokio::time::sleep(Duration::from_millis(994 + n % 8)).await;
        }
    }

    /// GETs one after the other on a connection that something else happens on too, until `stop` says so.
    pub(crate) async fn beside(&self, connection: Connection, protocol: Protocol, name: &str, seed: &str) {
        let way = Way { protocol, post: false, kept: true };
        let mut connection = Some(connection);
        for n in 0_usize.. {
            self.count(way, name, &mut connection, &format!("{seed}-{n}")).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Sends one request and counts what came of it.
    async fn count(&self, way: Way, name: &str, connection: &mut Option<Connection>, id: &str) {
        let began = Instant::now();
        let outcome = tokio::time::timeout(LIMIT, self.once(way, connection, id)).await;
        let outcome =
            outcome.unwrap_or_else(|_| Err(Failure::new(Kind::Timeout, format!("after {LIMIT:?}"))));
        match outcome {
            Ok(release) => {
                self.tally.answered(name, &release, began.elapsed());
                if way.post {
                    self.ledgers.answered(id);
                }
            }
            Err(failure) => {
                *connection = None;
                self.tally.failed(name, failure);
            }
        }
    }

    async fn once(&self, way: Way, slot: &mut Option<Connection>, id: &str) -> Result<String, Failure> {
        let parity = id.bytes().next_back().unwrap_or(0).is_multiple_of(2);
        // From a few bytes to beyond one read, different for each request.
        let bytes = 100 + usize::from(wire::fill(id, 1).first().copied().unwrap_or(0)) * 64;
        for _ in 0..SENDS {
            if let Some(connection) = slot
                && !connection.is_usable().await
            {
                // Closed by the other side while nothing was asked: any client opens another one.
                *slot = None;
            }
            let connection = match slot {
                Some(connection) => connection,
                None => slot.insert(self.door.connect(way.protocol).await?),
            };
            let (method, path, body) = match (way.post, parity) {
                (true, true) => (Method::POST, "/echo".to_owned(), clients::whole(wire::fill(id, bytes))),
                (true, false) => (Method::POST, "/echo".to_owned(), in_pieces(wire::fill(id, bytes))),
                (false, true) => (Method::GET, format!("/page?bytes={bytes}"), clients::whole(Vec::new())),
                (false, false) => (Method::GET, format!("/pieces?bytes={bytes}"), clients::whole(Vec::new())),
            };
            let request = self.door.request(way.protocol, method, &path, id, body)?;
            match connection.send(request).await {
                Sent::Answered(response) => return self.check(response, &wire::fill(id, bytes)).await,
                Sent::Failed(failure) => return Err(failure),
                Sent::Untouched => {
                    self.tally.resent();
                    *slot = None;
                }
            }
        }
        Err(Failure::new(Kind::Protocol, format!("not taken {SENDS} times in a row")))
    }

    /// Wants the answer to be the app's and its body to be exactly this; says which release answered.
    async fn check(&self, response: Response<Incoming>, expected: &[u8]) -> Result<String, Failure> {
        let release = self.release_of(&response)?;
        match response {
            response if response.status().is_success() => {
                let body = clients::read_all(response.into_body()).await?;
                match body.len() {
                    n if n < expected.len() => {
                        Err(Failure::new(Kind::Truncated, format!("{n} of {} bytes", expected.len())))
                    }
                    _ if body != expected => {
                        Err(Failure::new(Kind::Changed, format!("answered by {release}")))
                    }
                    _ => Ok(release),
                }
            }
            response => Err(bad_status(response).await),
        }
    }

    /// Which release answered; its ledger is listened to from then on.
    pub(crate) fn release_of(&self, response: &Response<Incoming>) -> Result<String, Failure> {
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
        match (header(wire::RELEASE), header(wire::LEDGER)) {
            (Some(release), Some(ledger)) => {
                self.ledgers.met(release, ledger);
                Ok(release.to_owned())
            }
            _ if response.status().is_success() => {
                Err(Failure::new(Kind::Changed, "the answer is not the app's".to_owned()))
            }
            _ => Ok(String::new()),
        }
    }
}

/// Status, the platform's word for it, and the beginning of the page.
pub(crate) async fn bad_status(response: Response<Incoming>) -> Failure {
    let status = response.status().as_u16();
    let code = response.headers().get("x-berth-error").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let code = code.map(|code| format!(", x-berth-error: {code}")).unwrap_or_default();
    let body = clients::read_all(response.into_body()).await.unwrap_or_default();
    let page: String = String::from_utf8_lossy(&body).chars().take(160).collect();
    Failure::new(Kind::Status, format!("{status}{code}: {}", page.replace(['\n', '\r'], " ")))
}

/// A body without a length.
fn in_pieces(bytes: Vec<u8>) -> Upload {
    let bytes = Bytes::from(bytes);
    let pieces: Vec<_> = (0..bytes.len())
        .step_by(3000)
        .map(|at| Ok(Frame::data(bytes.slice(at..bytes.len().min(at + 3000)))))
        .collect();
    StreamBody::new(stream::iter(pieces)).boxed_unsync()
}
