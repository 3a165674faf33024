//! Guests: long visits that begin before a switch and are still there when it happens.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    Method,
    body::{Frame, Incoming},
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use crate::{
    clients::{self, Connection, Protocol, Sent, Upload},
    load::{Visit, bad_status},
    socket,
    tally::{Failure, Kind},
    wire,
};

/// Bytes of an upload that are sent at once.
const PIECE: usize = 256 << 10;

/// A switch, as the load saw it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Switch {
    pub(crate) at: Instant,
}

/// Tells guests of the switch that they wait for; none so far.
pub(crate) type Switched = watch::Receiver<Option<Switch>>;

/// What guests are sized by.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Sizes {
    pub(crate) slow_s: u64,
    pub(crate) upload_mb: u64,
    /// For how long the old release (or the old process) is drained: when open streams are to end.
    pub(crate) drain_s: u64,
    /// Whether who comes back finds another release: not after an upgrade of Berth itself.
    pub(crate) new_release: bool,
}

impl Sizes {
    fn upload_pieces(self) -> usize {
        (self.upload_mb << 20) as usize / PIECE
    }

    /// What the app must say of an upload. Hashing takes seconds where nothing is optimized, so it is done once, and
    /// called before the load begins, lest guests come late.
    pub(crate) fn upload_answer(self) -> &'static str {
        static ANSWER: OnceLock<String> = OnceLock::new();
        ANSWER.get_or_init(|| {
            let (piece, pieces) = (wire::fill("upload", PIECE), self.upload_pieces());
            let mut hash = Sha256::new();
            (0..pieces).for_each(|_| hash.update(&piece));
            format!("{} {}", pieces * PIECE, hex::encode(hash.finalize()))
        })
    }

    /// Wants who came back to be where visitors belong now.
    pub(crate) fn check_release(self, old: &str, new: &str) -> Result<(), Failure> {
        match (self.new_release, new == old) {
            (true, true) => {
                Err(Failure::new(Kind::Changed, format!("reconnected to {old}, which was drained")))
            }
            (false, false) => {
                Err(Failure::new(Kind::Changed, format!("reconnected to {new} instead of {old}")))
            }
            _ => Ok(()),
        }
    }
}

/// What became of one guest.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Outcome {
    pub(crate) guest: String,
    pub(crate) deployment: usize,
    /// Whether the switch happened during the visit: else it shows nothing.
    pub(crate) spanned: bool,
    /// Why it was not as it should be.
    pub(crate) failure: Option<String>,
    /// What was measured.
    pub(crate) detail: String,
}

/// A visit's begin, end and what was wrong.
pub(crate) struct Ended {
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    pub(crate) result: Result<String, Failure>,
}

impl Ended {
    pub(crate) fn now(began: Instant, result: Result<String, Failure>) -> Self {
        Self { began, ended: Instant::now(), result }
    }

    pub(crate) fn outcome(self, guest: impl Into<String>, deployment: usize, switched: &Switched) -> Outcome {
        let at = switched.borrow().as_ref().map(|switch| switch.at);
        let spanned = at.is_some_and(|at| self.began < at && at < self.ended);
        let (failure, detail) = match self.result {
            Ok(detail) => (None, detail),
            Err(f) => {
                let after = at.map(|at| self.ended.saturating_duration_since(at).as_secs_f64());
                let when =
                    after.map_or("no switch was seen".to_owned(), |s| format!("{s:.1} s after the switch"));
                (Some(format!("{}: {} ({when})", f.kind.name(), f.detail)), String::new())
            }
        };
        Outcome { guest: guest.into(), deployment, spanned, failure, detail }
    }
}

/// All guests of one deployment. They begin now; the slow ones follow each other until the switch is seen, so that
/// one at least is in the midst of its answer.
pub(crate) async fn receive(
    visit: Visit,
    sizes: Sizes,
    deployment: usize,
    switched: Switched,
) -> Vec<Outcome> {
    let (mut uploads, mut events, mut sockets) = (Vec::new(), Vec::new(), Vec::new());
    for protocol in [Protocol::Http1, Protocol::Http2] {
        uploads.push(upload(&visit, sizes, protocol, deployment, &switched));
        events.push(watch_events(&visit, sizes, protocol, deployment, &switched));
    }
    for tls in [false, true] {
        sockets.push(socket::hold(&visit, sizes, tls, deployment, &switched));
    }
    let (slow, uploads, events, sockets) = tokio::join!(
        slow(&visit, sizes, deployment, &switched),
        futures_util::future::join_all(uploads),
        futures_util::future::join_all(events),
        futures_util::future::join_all(sockets),
    );
    [slow, uploads, events, sockets].concat()
}

/// Responses that take long, one begun each second until the switch. All must come from the release that began.
async fn slow(visit: &Visit, sizes: Sizes, deployment: usize, switched: &Switched) -> Vec<Outcome> {
    let mut visits = Vec::new();
    let begun = Instant::now();
    while switched.borrow().is_none() && begun.elapsed() < Duration::from_secs(60) {
        let protocol = Protocol::ALL[visits.len() % Protocol::ALL.len()];
        let (visit, mut seen) = (visit.clone(), switched.clone());
        visits.push((protocol, tokio::spawn(async move { one_slow(&visit, sizes.slow_s, protocol).await })));
        // The next one begins in a second, unless the switch comes first.
        let _ = tokio::time::timeout(Duration::from_secs(1), seen.wait_for(Option::is_some)).await;
    }
    let mut outcomes = Vec::new();
    for (protocol, visit) in visits {
        if let Ok(ended) = visit.await {
            outcomes.push(ended.outcome(format!("slow response, {}", protocol.name()), deployment, switched));
        }
    }
    outcomes
}

async fn one_slow(visit: &Visit, seconds: u64, protocol: Protocol) -> Ended {
    let began = Instant::now();
    let read = async {
        let path = format!("/slow?seconds={seconds}");
        // Kept whole: with its connection the answer would end.
        let begun = get(visit, protocol, &path).await?;
        let (release, body) = (begun.release, clients::read_all(begun.body).await?);
        let text = String::from_utf8_lossy(&body).into_owned();
        let Some(lines) = text.strip_suffix(wire::SLOW_END) else {
            return Err(Failure::new(Kind::Truncated, "the last line is missing"));
        };
        if lines.lines().any(|line| line != release) {
            return Err(Failure::new(Kind::Changed, format!("begun by {release}, but: {lines}")));
        }
        Ok(format!("{} pieces", lines.lines().count() + 1))
    };
    let result = limited(Duration::from_secs(seconds + 20), read).await;
    Ended::now(began, result)
}

/// An upload, paced so that it takes about as long as a slow response. The app must have got every byte.
async fn upload(
    visit: &Visit,
    sizes: Sizes,
    protocol: Protocol,
    deployment: usize,
    switched: &Switched,
) -> Outcome {
    let began = Instant::now();
    let pieces = sizes.upload_pieces();
    let pause = Duration::from_secs(sizes.slow_s) / pieces.max(1) as u32;
    let piece = Bytes::from(wire::fill("upload", PIECE));
    let expected = sizes.upload_answer();
    let due = tokio::time::Instant::now();
    let body = StreamBody::new(stream::unfold(0, move |n| {
        let piece = piece.clone();
        async move {
            tokio::time::sleep_until(due + pause * n).await;
            ((n as usize) < pieces).then(|| (Ok(Frame::data(piece)), n + 1))
        }
    }));
    let send = async {
        let begun = ask(visit, protocol, Method::POST, "/upload", body.boxed_unsync()).await?;
        let answer = clients::read_all(begun.body).await?;
        let answer = String::from_utf8_lossy(&answer).trim().to_owned();
        if answer != expected {
            return Err(Failure::new(Kind::Changed, format!("{expected} was sent, {answer} arrived")));
        }
        Ok(format!("{} MiB arrived whole", sizes.upload_mb))
    };
    let result = limited(Duration::from_secs(sizes.slow_s + 60), send).await;
    let name = format!("upload of {} MiB, {}", sizes.upload_mb, protocol.name());
    Ended::now(began, result).outcome(name, deployment, switched)
}

/// Server-sent events. They must end cleanly when the drain does, and begin again at the new release. Over h2, other
/// requests go on meanwhile on the same connection, as a browser's do, and none may suffer.
async fn watch_events(
    visit: &Visit,
    sizes: Sizes,
    protocol: Protocol,
    deployment: usize,
    switched: &Switched,
) -> Outcome {
    let began = Instant::now();
    let watch = async {
        let Begun { connection, release: old, body } = get(visit, protocol, "/events").await?;
        let beside = connection.another();
        let read = clients::read_all(body);
        let ended = match beside {
            None => read.await,
            Some(another) => {
                let id = format!("beside{deployment}");
                let others = visit.beside(another, protocol, "GET h2 TLS, beside events", &id);
                tokio::select! { ended = read => ended, () = others => unreachable_end() }
            }
        };
        let text = ended?;
        if !text.ends_with(b"\n\n") {
            return Err(Failure::new(Kind::Truncated, "the last event is cut"));
        }
        let after = at_deadline(switched, sizes)?;
        reconnect(visit, sizes, protocol, &old).await?;
        Ok(format!("ended {after:.1} s after the switch, reconnected"))
    };
    let result = limited(Duration::from_secs(sizes.drain_s + 90), watch).await;
    Ended::now(began, result).outcome(
        format!("server-sent events, {}", protocol.name()),
        deployment,
        switched,
    )
}

fn unreachable_end() -> Result<Bytes, Failure> {
    Err(Failure::new(Kind::Protocol, "the requests beside the events ended first"))
}

/// Seconds since the switch; an error if that is not about when the drain ends.
pub(crate) fn at_deadline(switched: &Switched, sizes: Sizes) -> Result<f64, Failure> {
    let Some(switch) = *switched.borrow() else {
        return Err(Failure::new(Kind::ClosedEarly, "it ended before there was a switch"));
    };
    let after = switch.at.elapsed().as_secs_f64();
    // The load notices a switch a moment late, so the time is a little short.
    let expected = sizes.drain_s as f64;
    if after < expected - 1.5 || after > expected + 5.0 {
        return Err(Failure::new(Kind::ClosedEarly, format!("ended not at the deadline of {expected} s")));
    }
    Ok(after)
}

/// Events again: from another release, at once.
async fn reconnect(visit: &Visit, sizes: Sizes, protocol: Protocol, old: &str) -> Result<(), Failure> {
    let mut begun = get(visit, protocol, "/events").await?;
    sizes.check_release(old, &begun.release)?;
    match tokio::time::timeout(Duration::from_secs(5), begun.body.frame()).await {
        Ok(Some(Ok(_))) => Ok(()),
        Ok(Some(Err(error))) => Err(clients::failure(&error, true)),
        Ok(None) => Err(Failure::new(Kind::Truncated, "no event after the reconnect")),
        Err(_) => Err(Failure::new(Kind::Timeout, "no event after the reconnect")),
    }
}

/// A good answer that has begun.
struct Begun {
    /// The answer ends with it.
    connection: Connection,
    release: String,
    body: Incoming,
}

async fn get(visit: &Visit, protocol: Protocol, path: &str) -> Result<Begun, Failure> {
    ask(visit, protocol, Method::GET, path, clients::whole(Vec::new())).await
}

/// Sends a guest's request on a connection of its own, and wants a good answer of a release to begin.
async fn ask(
    visit: &Visit,
    protocol: Protocol,
    method: Method,
    path: &str,
    body: Upload,
) -> Result<Begun, Failure> {
    let mut connection = visit.door.connect(protocol).await?;
    let request = visit.door.request(protocol, method, path, &guest_id(), body)?;
    match connection.send(request).await {
        Sent::Answered(response) if response.status().is_success() => {
            let release = visit.release_of(&response)?;
            Ok(Begun { connection, release, body: response.into_body() })
        }
        Sent::Answered(response) => Err(bad_status(response).await),
        Sent::Failed(failure) => Err(failure),
        Sent::Untouched => Err(Failure::new(Kind::ClosedEarly, "the connection was closed at once")),
    }
}

/// An id of its own for each guest.
fn guest_id() -> String {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    format!("guest-{}", NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
}

async fn limited<T>(limit: Duration, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let done = tokio::time::timeout(limit, work).await;
    done.unwrap_or_else(|_| Err(Failure::new(Kind::Timeout, format!("not over after {limit:?}"))))
}
