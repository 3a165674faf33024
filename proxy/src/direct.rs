//! The direct way for requests with a small body or none, which most are.
//!
//! Pingora's general proxying runs the client's and the app's half as two futures with channels between them,
//! because bodies may flow both ways at once; and its connection pool starts a task per idle connection. For a
//! request whose body is here already neither is needed: it is sent, and then data flows one way. The protocol work
//! (parsing, framing, validation) is still Pingora's own sessions on both sides; only the pumping between them
//! is here, and it is where most of the proxy's CPU time per request went.
//!
//! Only a request that may be repeated goes on a connection that was used before: the app may be closing it. All
//! others get one of their own, and say so (`Connection: close`).
//!
//! An upgrade begins here, too (see [`crate::tunnel`]). Everything else (large uploads, odd targets) goes Pingora's
//! general way, by the same rules.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use http::{HeaderName, HeaderValue, Method, Version, header};
use pingora::{
    Error, ErrorType, OkOrErr, Result,
    http::{RequestHeader, ResponseHeader},
    protocols::http::{HttpTask, v1::client::HttpSession},
    proxy::Session,
};

use crate::{
    connections::ConnectionState,
    enforce,
    events::{self, EventTracker},
    exchange::Exchange,
    forwarded,
    gateway::MAX_TRIES,
    header_rules::is_hop_by_hop,
    tunnel,
    upstream::Upstream,
};

/// Pieces of a response that are written together.
const BATCH: usize = 4;

/// Bodies up to this size are read before the app is asked.
const SMALL_BODY: usize = 64 << 10;

/// How long an event that is half told may take to be completed when its stream is to end; less than what a
/// drain grants for farewells.
const EVENT_END: Duration = Duration::from_secs(1);

/// Whether a request can go the direct way.
pub(crate) fn suits(session: &mut Session) -> bool {
    let bodyless = session.is_body_empty();
    let request = session.req_header();
    if !bodyless && !request.headers.get(header::CONTENT_LENGTH).is_some_and(is_small) {
        return false;
    }
    let upgrade = session.is_upgrade_req();
    let plain_connection = !request.headers.contains_key(header::UPGRADE)
        && request.headers.get(header::CONNECTION).is_none_or(|value| {
            value.as_bytes().eq_ignore_ascii_case(b"keep-alive")
                || value.as_bytes().eq_ignore_ascii_case(b"close")
        });
    let has_host = request.headers.contains_key(header::HOST) || request.uri.authority().is_some();
    (plain_connection || upgrade && bodyless)
        && has_host
        && request.raw_path().starts_with(b"/")
        && request.method != Method::CONNECT
        && !request.headers.contains_key(header::EXPECT)
}

fn is_small(length: &HeaderValue) -> bool {
    length.to_str().ok().and_then(|length| length.parse::<usize>().ok()).is_some_and(|n| n <= SMALL_BODY)
}

/// How a try ended.
enum Tried {
    Done,
    /// Nothing reached the app, or a reused connection was closed before an idempotent request was answered.
    Again(Box<Error>),
    Failed(Box<Error>),
}

/// Whether a request was carried to its end.
pub(crate) enum Forwarded {
    Done,
    /// Nothing was sent, and the release was removed meanwhile: it must be routed anew.
    Removed,
}

/// Sends the request to the app and its answer to the client. `body` is what was read of it so far: all, after
/// the first call.
pub(crate) async fn forward(
    session: &mut Session,
    exchange: &mut Exchange,
    body: &mut Option<Bytes>,
) -> Result<Forwarded> {
    let body = match body {
        Some(body) => &*body,
        None => body.insert(read_body(session).await?),
    };
    loop {
        match one_try(session, exchange, body).await {
            Tried::Done => return Ok(Forwarded::Done),
            Tried::Again(_) if exchange.tries() < MAX_TRIES => {
                exchange.count_retry();
                if exchange.target().is_none_or(|target| target.is_removed()) {
                    return Ok(Forwarded::Removed);
                }
            }
            Tried::Again(error) | Tried::Failed(error) => return Err(error),
        }
    }
}

async fn read_body(session: &mut Session) -> Result<Bytes> {
    if session.is_body_empty() {
        return Ok(Bytes::new());
    }
    let mut body = BytesMut::new();
    while let Some(piece) = session.read_request_body().await.map_err(Error::into_down)? {
        body.extend_from_slice(&piece);
    }
    Ok(body.freeze())
}

async fn one_try(session: &mut Session, exchange: &mut Exchange, body: &Bytes) -> Tried {
    let upgrade = session.is_upgrade_req();
    let repeatable = !upgrade && body.is_empty() && session.req_header().method.is_idempotent();
    // A second try gets a connection of its own: others of the same age may be closed too.
    let reuse = repeatable && !exchange.is_retry();
    let Some(replica) = exchange.next_replica() else {
        return Tried::Failed(Error::explain(ErrorType::HTTPStatus(503), "no replica can be reached"));
    };
    let timeout = replica.options().response_timeout;
    let idle = reuse.then(|| replica.take_idle()).flatten();
    let reused = idle.is_some();
    let upstream = match idle {
        Some(upstream) => upstream,
        None => match Upstream::connect(replica.addr(), replica.options().connect_timeout).await {
            Ok(upstream) => {
                replica.reached();
                upstream
            }
            Err(error) => {
                exchange.connect_failed();
                return Tried::Again(error.into_up());
            }
        },
    };
    let mut app = HttpSession::new(upstream);
    app.read_timeout = Some(timeout);
    app.write_timeout = Some(timeout);
    let mut request = match upstream_request(session.req_header(), exchange) {
        Ok(request) => Box::new(request),
        Err(error) => return Tried::Failed(error),
    };
    if upgrade {
        keep_upgrade(session.req_header(), &mut request);
    } else if !repeatable {
        // Inserting a valid value into a map of valid values does not fail.
        let _ = request.insert_header(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let first = match ask(session, &mut app, request, body).await {
        Ok(first) => first,
        Err(error) => {
            let closed = matches!(
                error.etype(),
                ErrorType::ConnectionClosed | ErrorType::WriteError | ErrorType::ReadError
            );
            let from_app = matches!(error.esource(), pingora::ErrorSource::Upstream);
            return if reused && closed && from_app { Tried::Again(error) } else { Tried::Failed(error) };
        }
    };
    match answer(session, exchange, &mut app, first).await {
        Ok(()) => {
            if repeatable {
                app.respect_keepalive();
                if let Some(stream) = app.reuse().await
                    && let Ok(upstream) = stream.into_any().downcast()
                {
                    exchange.keep(upstream);
                }
            } else if upgrade {
                // The last frames must not be lost to a reset.
            } else if let Some(upstream) = app.stream().as_any().downcast_ref::<Upstream>() {
                upstream.close_without_trace();
            }
            Tried::Done
        }
        Err(error) => Tried::Failed(error),
    }
}

/// Sends the request, and waits for the first of the answer.
async fn ask(
    session: &mut Session,
    app: &mut HttpSession,
    request: Box<RequestHeader>,
    body: &Bytes,
) -> Result<HttpTask> {
    app.write_request_header(request).await.map_err(Error::into_up)?;
    if !body.is_empty() {
        // An app that refuses a body closes before it has taken all; its answer tells why.
        let _ = app.write_body(body).await;
        let _ = app.finish_body().await;
    }
    next(session, app).await
}

/// The next piece of the answer, unless the client leaves first.
async fn next(session: &mut Session, app: &mut HttpSession) -> Result<HttpTask> {
    tokio::select! {
        biased;
        task = app.read_response_task() => task.map_err(Error::into_up),
        gone = session.downstream_session.read_body_or_idle(true) => match gone {
            Err(error) => Err(error.into_down()),
            Ok(_) => Err(Error::explain(ErrorType::ConnectionClosed, "a body where none was announced").into_down()),
        },
    }
}

/// As [`next`], or `None` when the event stream is to end.
async fn next_event(
    session: &mut Session,
    app: &mut HttpSession,
    connection: &ConnectionState,
    between_events: bool,
) -> Result<Option<HttpTask>> {
    let to_end = async {
        connection.asked_to_end().await;
        if !between_events {
            tokio::time::sleep(EVENT_END).await;
        }
    };
    tokio::select! {
        biased;
        () = to_end => Ok(None),
        task = next(session, app) => task.map(Some),
    }
}

async fn answer(
    session: &mut Session,
    exchange: &mut Exchange,
    app: &mut HttpSession,
    first: HttpTask,
) -> Result<()> {
    if tunnel::begins(session, app, &first)
        && let HttpTask::Header(head, _) = first
    {
        return tunnel::run(session, exchange, app, head).await;
    }
    let mut first = Some(first);
    let mut events: Option<EventTracker> = None;
    loop {
        let task = match (first.take(), &events) {
            (Some(task), _) => task,
            (None, None) => next(session, app).await?,
            (None, Some(events)) => {
                let connection = Arc::clone(exchange.connection());
                match next_event(session, app, &connection, events.is_between()).await? {
                    Some(task) => task,
                    // Complete for the client, so that it connects again.
                    None => HttpTask::Done,
                }
            }
        };
        let mut tasks = Vec::with_capacity(BATCH);
        let mut ended = task.is_end();
        tasks.push(task);
        while !ended && tasks.len() < BATCH {
            // What has come in already goes out in the same write.
            match app.read_response_task().now_or_never() {
                Some(task) => {
                    let task = task.map_err(Error::into_up)?;
                    ended = task.is_end();
                    tasks.push(task);
                }
                None => break,
            }
        }
        let mut complete = None;
        for (at, task) in tasks.iter_mut().enumerate() {
            match task {
                HttpTask::Header(head, ended) => {
                    finish_head(head, *ended, session.req_header(), exchange)?;
                    if !*ended && events::is_event_stream(head) {
                        // May be silent for as long as it likes.
                        app.read_timeout = None;
                        if !head.headers.contains_key(header::CONTENT_LENGTH) {
                            exchange.connection().set_event_stream();
                            events = Some(EventTracker::default());
                        }
                    }
                }
                HttpTask::Body(Some(piece), ended) => {
                    let told = events.as_mut().and_then(|events| events.passed(piece));
                    if let Some(told) = told
                        && exchange.connection().is_asked_to_end()
                    {
                        piece.truncate(told);
                        *ended = false;
                        complete = Some(at);
                        break;
                    }
                }
                _ => {}
            }
        }
        if let Some(last) = complete {
            tasks.truncate(last + 1);
            tasks.push(HttpTask::Done);
        }
        if session.write_response_tasks(tasks).await.map_err(Error::into_down)? {
            return Ok(());
        }
    }
}

/// What the client gets beyond what the app said.
fn finish_head(
    head: &mut ResponseHeader,
    ended: bool,
    request: &RequestHeader,
    exchange: &mut Exchange,
) -> Result<()> {
    if head.status == http::StatusCode::SWITCHING_PROTOCOLS {
        return Err(
            Error::explain(ErrorType::InvalidHTTPHeader, "a switch of protocols nobody asked for").into_up()
        );
    }
    if !head.status.is_informational() {
        exchange.answered(head.status);
        let bodyless = ended || request.method == Method::HEAD || matches!(head.status.as_u16(), 204 | 304);
        if request.version == Version::HTTP_10 {
            // Knows no chunks: the end of the connection ends the body.
            head.remove_header(&header::TRANSFER_ENCODING);
        } else if !bodyless
            && !head.headers.contains_key(header::TRANSFER_ENCODING)
            && !head.headers.contains_key(header::CONTENT_LENGTH)
        {
            // A body that ends with its connection, made chunked, so that the client's connection lives on.
            head.set_version(Version::HTTP_11);
            head.insert_header(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
        }
    }
    head.remove_header("x-berth-error");
    exchange.stamp().mark_apps(head)
}

/// Hop-by-hop headers stay behind, but these two ask the app itself.
fn keep_upgrade(request: &RequestHeader, upstream: &mut RequestHeader) {
    if let Some(protocol) = request.headers.get(header::UPGRADE) {
        // Inserting a valid value into a map of valid values does not fail.
        let _ = upstream.insert_header(header::UPGRADE, protocol.clone());
        let _ = upstream.insert_header(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// The request as the app gets it: HTTP/1.1, with a host, without hop-by-hop and forged headers.
fn upstream_request(request: &RequestHeader, exchange: &Exchange) -> Result<RequestHeader> {
    let mut upstream = request.clone();
    upstream.set_version(Version::HTTP_11);
    if !upstream.headers.contains_key(header::HOST) {
        let authority =
            request.uri.authority().or_err(ErrorType::InvalidHTTPHeader, "a request without a host")?;
        let host = HeaderValue::from_str(authority.as_str())
            .map_err(|error| Error::because(ErrorType::InvalidHTTPHeader, "the authority", error))?;
        upstream.insert_header(header::HOST, host)?;
    }
    let hops: Vec<HeaderName> = upstream.headers.keys().filter(|name| is_hop_by_hop(name)).cloned().collect();
    for name in &hops {
        upstream.remove_header(name);
    }
    let host = upstream.headers.get(header::HOST).cloned();
    forwarded::rewrite(&mut upstream, exchange.origin, exchange.record.request_id, host)?;
    enforce::change_request(&mut upstream, exchange)?;
    Ok(upstream)
}
