//! What happens to a request, in Pingora's order: admit, route, count, pick a replica, rewrite, retry, record.
//!
//! What may be tried again: a connection that could not be opened, for any method, because nothing was sent.
//! Beyond that only an idempotent request without a body whose *reused* connection turned out to be closed. A
//! request whose bytes the app may have seen is never sent twice; and because an app may close an idle
//! connection at the very moment a request arrives on it, a request that could not be repeated always gets a
//! connection of its own.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::{StatusCode, header};
use pingora::{
    Error, ErrorSource, ErrorType, OkOrErr, Result,
    http::{RequestHeader, ResponseHeader},
    modules::http::HttpModules,
    protocols::{Digest, http::ServerSession},
    proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session},
    upstreams::peer::HttpPeer,
};

use crate::{
    access::{AccessFault, Protocol},
    admission,
    connection::Connection,
    connections::{ConnectionState, Phase},
    direct::{self, Forwarded},
    enforce,
    exchange::Exchange,
    forwarded::{self, TrustedPeers},
    handle::Shared,
    hold::{Hold, Waited},
    page::Notice,
    router::{Destination, Route},
    target::{Backend, ReleaseTarget},
};

/// The error of a request whose body turned out to be longer than its host's rules allow.
const BODY_TOO_LARGE: &str = "body too large";

/// Tries per request, the first included.
pub(crate) const MAX_TRIES: usize = 4;

tokio::task_local! {
    /// The stream a request came on, for HTTP/2, where the session does not lead to it.
    pub(crate) static STREAM: Arc<ConnectionState>;
}

#[derive(Debug)]
pub(crate) struct GatewayOptions {
    pub(crate) trusted_peers: TrustedPeers,
    pub(crate) body_timeout: Duration,
    pub(crate) public_https_port: Option<u16>,
}

pub(crate) struct Gateway {
    pub(crate) shared: Arc<Shared>,
    pub(crate) options: GatewayOptions,
}

/// What became of routing.
enum Routed {
    /// Counted in on a release; the rest of the request goes there.
    Release(Arc<ReleaseTarget>),
    Hold(Arc<Hold>),
    Notice(Notice),
    Redirect(String),
}

/// Answers that no container is asked for.
pub(crate) enum Own {
    Files(Arc<ReleaseTarget>),
    Notice(Notice),
    Redirect(StatusCode, String),
    /// Nothing, as if it were not there.
    Hidden,
}

/// Who answers a request, once it waits for nothing any more.
enum Answerer {
    /// A release in containers, on which it is counted in.
    Containers,
    Own(Own),
}

impl Gateway {
    pub(crate) fn new(shared: Arc<Shared>, options: GatewayOptions) -> Self {
        Self { shared, options }
    }

    /// Finds the release and counts the request in. Asks again when the release was removed in between, which
    /// only happens when a newer table is there already.
    fn route(&self, exchange: &mut Exchange, request: &RequestHeader) -> Routed {
        for _ in 0..8 {
            let routes = self.shared.routes.load();
            let Some(route) = routes.find(exchange.host(), request.uri.path()) else {
                return Routed::Notice(Notice::no_such_app(exchange.host()));
            };
            match self.enter(exchange, route, request) {
                Some(routed) => return routed,
                None => std::hint::spin_loop(),
            }
        }
        Routed::Notice(Notice::unhealthy(exchange.host()))
    }

    fn enter(&self, exchange: &mut Exchange, route: &Route, request: &RequestHeader) -> Option<Routed> {
        match &route.destination {
            Destination::Release(target) => {
                exchange.enter(target.admit()?);
                Some(Routed::Release(Arc::clone(target)))
            }
            Destination::Split(split) => {
                let place = split.admit(exchange.origin.ip, &request.headers)?;
                let target = Arc::clone(place.target());
                exchange.enter(place);
                Some(Routed::Release(target))
            }
            Destination::Hold(hold) => Some(Routed::Hold(Arc::clone(hold))),
            Destination::Page(page) => Some(Routed::Notice(Notice::of(page))),
            Destination::Redirect { host } => {
                let scheme = if exchange.origin.tls { "https" } else { "http" };
                Some(Routed::Redirect(format!("{scheme}://{host}{}", path_and_query(request))))
            }
        }
    }

    /// Routes a request, and again after each hold that it had to wait in. The limit counts from its first.
    async fn find_answerer(&self, session: &mut ServerSession, exchange: &mut Exchange) -> Result<Answerer> {
        let mut held_since = None;
        loop {
            let hold = match self.route(exchange, session.req_header()) {
                Routed::Release(target) => {
                    return Ok(match target.backend() {
                        Backend::Containers(replicas) if replicas.hides(session.req_header().uri.path()) => {
                            Answerer::Own(Own::Hidden)
                        }
                        Backend::Containers(_) => Answerer::Containers,
                        Backend::Static(_) => Answerer::Own(Own::Files(target)),
                    });
                }
                Routed::Notice(notice) => return Ok(Answerer::Own(Own::Notice(notice))),
                Routed::Redirect(to) => {
                    return Ok(Answerer::Own(Own::Redirect(StatusCode::PERMANENT_REDIRECT, to)));
                }
                Routed::Hold(hold) => hold,
            };
            let since = *held_since.get_or_insert_with(tokio::time::Instant::now);
            match hold.wait(session, since, &self.shared.stopping).await? {
                Waited::Released => {}
                Waited::TurnedAway => {
                    return Ok(Answerer::Own(Own::Notice(Notice::paused(hold.app()))));
                }
            }
        }
    }

    /// Always `true`, as Pingora wants it for "answered".
    async fn answer_own(
        &self,
        session: &mut ServerSession,
        exchange: &mut Exchange,
        answer: Own,
    ) -> Result<bool> {
        match answer {
            Own::Notice(notice) => self.answer(session, exchange, &notice).await,
            Own::Redirect(status, to) => redirect(session, exchange, status, &to).await,
            Own::Hidden => not_found(session, exchange).await,
            Own::Files(target) => {
                if let Backend::Static(files) = target.backend() {
                    files.serve(session, &exchange.stamp()).await?;
                    exchange.count_answer(false);
                }
                Ok(true)
            }
        }
    }

    async fn answer(
        &self,
        session: &mut ServerSession,
        exchange: &mut Exchange,
        notice: &Notice,
    ) -> Result<bool> {
        exchange.record.fault = Some(notice.fault);
        // The rest of an upload that nobody wants is not waited for.
        session.set_total_drain_timeout(Some(Duration::from_secs(5)));
        notice.send(session, &exchange.stamp()).await?;
        Ok(true)
    }
}

pub(crate) fn path_and_query(request: &RequestHeader) -> &str {
    request.uri.path_and_query().map_or("/", |target| target.as_str())
}

async fn redirect(
    session: &mut ServerSession,
    exchange: &Exchange,
    status: StatusCode,
    to: &str,
) -> Result<bool> {
    let mut head = ResponseHeader::build(status, Some(4))?;
    head.insert_header(header::LOCATION, to)?;
    head.insert_header(header::CONTENT_LENGTH, 0)?;
    exchange.stamp().mark(&mut head)?;
    session.write_response_header(Box::new(head)).await?;
    Ok(true)
}

async fn not_found(session: &mut ServerSession, exchange: &Exchange) -> Result<bool> {
    let mut head = ResponseHeader::build(StatusCode::NOT_FOUND, Some(4))?;
    head.insert_header(header::CONTENT_LENGTH, 0)?;
    exchange.stamp().mark(&mut head)?;
    session.set_total_drain_timeout(Some(Duration::from_secs(5)));
    session.write_response_header(Box::new(head)).await?;
    Ok(true)
}

async fn plain_text(session: &mut ServerSession, text: &str) -> Result<bool> {
    let mut head = ResponseHeader::build(StatusCode::OK, Some(4))?;
    head.insert_header(header::CONTENT_TYPE, "text/plain")?;
    head.insert_header(header::CONTENT_LENGTH, text.len())?;
    session.write_response_header(Box::new(head)).await?;
    session.write_response_body(text.to_owned().into(), true).await?;
    Ok(true)
}

/// The state of the connection a session came on.
fn connection_of(session: &ServerSession) -> Option<Arc<ConnectionState>> {
    match session.stream() {
        Some(stream) => stream.as_any().downcast_ref::<Connection>().map(|c| Arc::clone(c.state())),
        None => STREAM.try_with(Arc::clone).ok(),
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Option<Box<Exchange>>;

    fn new_ctx(&self) -> Self::CTX {
        None
    }

    fn init_downstream_modules(&self, _modules: &mut HttpModules) {
        // None: compression and gRPC-web cost every request, and compression holds event streams back.
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Self::CTX) -> Result<bool> {
        let connection =
            connection_of(session).or_err(ErrorType::InternalError, "a session of no connection")?;
        connection.enter(Phase::Request);
        session.set_read_timeout(Some(self.options.body_timeout));
        session.set_write_timeout(Some(self.options.body_timeout));
        let exchange = ctx.insert(Box::new(Exchange::begin(
            Arc::clone(&self.shared),
            connection,
            session.req_header(),
            &self.options.trusted_peers,
        )));
        let admitted = admission::admit(session);
        if admitted.is_err() {
            // Where the next request would begin is not known.
            session.set_keepalive(None);
        }
        let challenges = self.shared.challenges.load();
        if let Some(answer) = challenges.answer(session.req_header().uri.path()) {
            exchange.record.host = admitted.unwrap_or_default();
            return plain_text(session, answer).await;
        }
        match admitted {
            Ok(host) => exchange.record.host = host,
            Err(refusal) => {
                return self.answer(session, exchange, &Notice::bad_request(&refusal.to_string())).await;
            }
        }
        if let Some(answer) = self.enforce(session, exchange).await {
            return self.answer_own(session, exchange, answer).await;
        }
        let mut body = None;
        loop {
            match self.find_answerer(session, exchange).await? {
                Answerer::Own(answer) => return self.answer_own(session, exchange, answer).await,
                Answerer::Containers if !direct::suits(session) => return Ok(false),
                Answerer::Containers => match direct::forward(session, exchange, &mut body).await? {
                    Forwarded::Done => return Ok(true),
                    Forwarded::Removed => exchange.leave(),
                },
            }
        }
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        let exchange = exchange(ctx)?;
        if exchange.is_retry() {
            exchange.count_retry();
            // The release may have been replaced since; what was not sent goes to the newest one.
            if exchange.target().is_none_or(|target| target.is_removed()) {
                exchange.leave();
                if let Answerer::Own(answer) = self.find_answerer(session, exchange).await? {
                    exchange.instead = Some(answer);
                    return Error::e_explain(
                        ErrorType::InternalError,
                        "no container is to be asked any more",
                    );
                }
            }
        }
        let Some(replica) = exchange.next_replica() else {
            return Error::e_explain(ErrorType::HTTPStatus(503), "no replica can be reached");
        };
        let mut peer = Box::new(replica.peer());
        if session.is_upgrade_req() {
            // May be silent for ever, and its last frames must not be lost to a reset.
            peer.options.read_timeout = None;
            peer.options.upstream_tcp_sock_tweak_hook = None;
        } else if wants_events(session.req_header()) {
            peer.options.read_timeout = None;
        }
        Ok(peer)
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Self::CTX,
        mut error: Box<Error>,
    ) -> Box<Error> {
        if let Some(exchange) = ctx {
            exchange.connect_failed();
        }
        error.set_retry(true);
        error
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        reused: bool,
        _peer: &HttpPeer,
        _fd: std::os::fd::RawFd,
        _digest: Option<&Digest>,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        if !reused && let Some(exchange) = ctx {
            exchange.connected();
        }
        Ok(())
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        _session: &mut Session,
        mut error: Box<Error>,
        _ctx: &mut Self::CTX,
        _reused: bool,
    ) -> Box<Error> {
        // The connection was a new one, so the app may have seen the request.
        error.set_retry(false);
        error
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        let exchange = exchange(ctx)?;
        if !session.is_upgrade_req() {
            request.insert_header(header::CONNECTION, "close")?;
        }
        let host = request.headers.get(header::HOST).cloned();
        forwarded::rewrite(request, exchange.origin, exchange.record.request_id, host)?;
        enforce::change_request(request, exchange)
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end: bool,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        let Some(body) = body else { return Ok(()) };
        exchange(ctx)?.count_body(body.len()).map_err(|most| {
            Error::explain(ErrorType::Custom(BODY_TOO_LARGE), format!("more than {most} bytes")).into_down()
        })
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        let exchange = exchange(ctx)?;
        let upgraded = response.status == StatusCode::SWITCHING_PROTOCOLS && session.is_upgrade_req();
        if upgraded {
            exchange.upgraded();
        }
        if upgraded || !response.status.is_informational() {
            exchange.answered(response.status);
        }
        // The platform alone says this; an app's copy would make its errors look like the platform's.
        response.remove_header("x-berth-error");
        exchange.stamp().mark_apps(response)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Self::CTX) -> FailToProxy {
        let failed = |code| FailToProxy { error_code: code, can_reuse_downstream: false };
        let Some(exchange) = ctx else {
            return failed(500);
        };
        if let Some(answer) = exchange.instead.take() {
            session.set_keepalive(None);
            let sent = self.answer_own(session, exchange, answer).await;
            let status = session.response_written().map_or(500, |head| head.status.as_u16());
            return failed(if sent.is_ok() { status } else { 0 });
        }
        let Some(notice) = notice_for(error, exchange) else {
            exchange.record.fault = Some(AccessFault::ClientGone);
            return failed(0);
        };
        exchange.record.fault = Some(notice.fault);
        if matches!(notice.fault, AccessFault::NoAnswer | AccessFault::Timeout | AccessFault::Unhealthy) {
            exchange.app_failed();
        }
        let is_answer =
            |status: StatusCode| status == StatusCode::SWITCHING_PROTOCOLS || !status.is_informational();
        if session.response_written().is_some_and(|head| is_answer(head.status)) {
            // Too late for a page: the broken end must be seen as one.
            return failed(0);
        }
        session.set_keepalive(None);
        let sent = notice.send(session, &exchange.stamp()).await;
        failed(if sent.is_ok() { notice.status.as_u16() } else { 0 })
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, ctx: &mut Self::CTX) {
        if let Some(exchange) = ctx.take() {
            let websocket = exchange.record.protocol == Protocol::WebSocket;
            exchange.end(session);
            if websocket {
                // Pingora drops a session that ended with an error as it is; the stream knows how to say goodbye.
                session.as_downstream_mut().shutdown().await;
            }
        }
    }

    fn suppress_error_log(&self, _session: &Session, _ctx: &Self::CTX, _error: &Error) -> bool {
        // The access record tells.
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _ctx: &Self::CTX,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}

/// Pingora's general way has one timeout for the head of an answer and the rest, so it must be known before.
fn wants_events(request: &RequestHeader) -> bool {
    request
        .headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|accept| accept.to_str().is_ok_and(|accept| accept.contains("text/event-stream")))
}

fn exchange(ctx: &mut Option<Box<Exchange>>) -> Result<&mut Exchange> {
    ctx.as_deref_mut().or_err(ErrorType::InternalError, "a request that never began")
}

/// The page for an error, or `None` when the client is gone.
fn notice_for(error: &Error, exchange: &Exchange) -> Option<Notice> {
    let app = exchange.target().map_or(exchange.host(), |target| target.label().app.as_str());
    Some(match (error.etype(), error.esource()) {
        (ErrorType::HTTPStatus(503), _) => Notice::unhealthy(app),
        (
            ErrorType::ConnectTimedout
            | ErrorType::ConnectRefused
            | ErrorType::ConnectNoRoute
            | ErrorType::ConnectError,
            _,
        ) => Notice::unhealthy(app),
        (ErrorType::InvalidHTTPHeader, ErrorSource::Downstream) => {
            Notice::bad_request("The request's headers contradict each other.")
        }
        (ErrorType::Custom(BODY_TOO_LARGE), _) => {
            let most = exchange.rules.as_ref().and_then(|rules| rules.max_body);
            Notice::body_too_large(most.unwrap_or_default())
        }
        (_, ErrorSource::Downstream) => return None,
        (ErrorType::ReadTimedout | ErrorType::WriteTimedout, _) => Notice::timeout(app),
        (_, ErrorSource::Upstream) => Notice::no_answer(app),
        _ => Notice::internal(),
    })
}
