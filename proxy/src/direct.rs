//! The direct way for requests without a body, which most are.
//!
//! Pingora's general proxying runs the client's and the app's half as two futures with channels between them,
//! because bodies may flow both ways at once; and its connection pool starts a task per idle connection. For a
//! request that has no body neither is needed: the head is sent, and then data flows one way. The protocol work
//! (parsing, framing, validation) is still Pingora's own sessions on both sides; only the pumping between them
//! is here, and it is where most of the proxy's CPU time per request went.
//!
//! Everything else (uploads, upgrades, odd targets) goes Pingora's general way, by the same rules.

use futures_util::FutureExt as _;
use http::{HeaderName, HeaderValue, Method, Version, header};
use pingora::{
    Error, ErrorType, OkOrErr, Result,
    http::{RequestHeader, ResponseHeader},
    protocols::http::{HttpTask, v1::client::HttpSession},
    proxy::Session,
};

use crate::{
    exchange::Exchange,
    forwarded::{self, X_REQUEST_ID, id_value},
    gateway::MAX_TRIES,
    upstream::Upstream,
};

/// Pieces of a response that are written together.
const BATCH: usize = 4;

/// Whether a request can go the direct way.
pub(crate) fn suits(session: &mut Session) -> bool {
    if !session.is_body_empty() {
        return false;
    }
    let request = session.req_header();
    let plain_connection = request.headers.get(header::CONNECTION).is_none_or(|value| {
        value.as_bytes().eq_ignore_ascii_case(b"keep-alive")
            || value.as_bytes().eq_ignore_ascii_case(b"close")
    });
    let has_host = request.headers.contains_key(header::HOST) || request.uri.authority().is_some();
    plain_connection
        && has_host
        && request.raw_path().starts_with(b"/")
        && request.method != Method::CONNECT
        && !request.headers.contains_key(header::UPGRADE)
        && !request.headers.contains_key(header::EXPECT)
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

/// Sends the request to the app and its answer to the client.
pub(crate) async fn forward(session: &mut Session, exchange: &mut Exchange) -> Result<Forwarded> {
    loop {
        match one_try(session, exchange).await {
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

async fn one_try(session: &mut Session, exchange: &mut Exchange) -> Tried {
    // A second try gets a connection of its own: others of the same age may be closed too.
    let reuse = !exchange.is_retry();
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
    let request = match upstream_request(session.req_header(), exchange) {
        Ok(request) => Box::new(request),
        Err(error) => return Tried::Failed(error),
    };
    let first = match ask(session, &mut app, request).await {
        Ok(first) => first,
        Err(error) => {
            let closed = matches!(
                error.etype(),
                ErrorType::ConnectionClosed | ErrorType::WriteError | ErrorType::ReadError
            );
            let from_app = matches!(error.esource(), pingora::ErrorSource::Upstream);
            return if reused && closed && from_app && session.req_header().method.is_idempotent() {
                Tried::Again(error)
            } else {
                Tried::Failed(error)
            };
        }
    };
    match answer(session, exchange, &mut app, first).await {
        Ok(()) => {
            app.respect_keepalive();
            if let Some(stream) = app.reuse().await
                && let Ok(upstream) = stream.into_any().downcast()
            {
                exchange.keep(upstream);
            }
            Tried::Done
        }
        Err(error) => Tried::Failed(error),
    }
}

/// Sends the head, and waits for the first of the answer.
async fn ask(session: &mut Session, app: &mut HttpSession, request: Box<RequestHeader>) -> Result<HttpTask> {
    app.write_request_header(request).await.map_err(Error::into_up)?;
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

async fn answer(
    session: &mut Session,
    exchange: &mut Exchange,
    app: &mut HttpSession,
    first: HttpTask,
) -> Result<()> {
    let mut first = Some(first);
    loop {
        let task = match first.take() {
            Some(task) => task,
            None => next(session, app).await?,
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
        for task in &mut tasks {
            if let HttpTask::Header(head, ended) = task {
                finish_head(head, *ended, session.req_header(), exchange)?;
            }
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
    head.insert_header(X_REQUEST_ID, id_value(exchange.record.request_id))
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
    Ok(upstream)
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    *name == header::CONNECTION
        || *name == header::TE
        || *name == header::TRAILER
        || *name == header::TRANSFER_ENCODING
        || *name == header::PROXY_AUTHENTICATE
        || *name == header::PROXY_AUTHORIZATION
        || matches!(name.as_str(), "keep-alive" | "proxy-connection" | "http2-settings")
}
