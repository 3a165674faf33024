//! From an accepted socket to requests: TLS, the keep-alive loop of HTTP/1, the streams of HTTP/2.
//!
//! Pingora would run the keep-alive loop itself, but it allocates a session with its buffers *before* it waits
//! for the next request. Here the wait comes first, so that an idle connection costs little more than its
//! socket, and the phases that the sweep watches are exact.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::Abortable;
use pingora::{
    apps::{HttpPersistentSettings, HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp},
    protocols::{
        Stream,
        http::{ServerSession, v2::server::H2Options},
    },
    proxy::HttpProxy,
    server::ShutdownWatch,
};
use tokio::net::TcpStream;

use crate::{
    connection::{Connection, Transport},
    connections::{ConnectionState, Connections, Phase, Registration, Running},
    gateway::{Gateway, STREAM},
    handshake::Handshakes,
};

/// Time for a request that has begun to come to a server that is stopping.
const LAST_REQUEST: Duration = Duration::from_secs(5);
/// Time for the first request of a connection to such a server.
const FIRST_REQUEST: Duration = Duration::from_millis(300);

/// What every connection needs.
pub(crate) struct Front {
    pub(crate) proxy: Arc<HttpProxy<Gateway>>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) shutdown: ShutdownWatch,
}

impl Front {
    /// Serves one connection to its end. The registration ends with it.
    pub(crate) async fn serve(
        self: Arc<Self>,
        tcp: TcpStream,
        tls: Option<Arc<Handshakes>>,
        place: Registration,
    ) {
        let state = Arc::clone(place.state());
        let transport = match tls {
            None => Transport::Plain(tcp),
            // A failed handshake is the client's loss; there is nobody to tell.
            Some(tls) => match tls.accept(tcp, &state).await {
                Ok(stream) => Transport::Tls(Box::new(stream)),
                Err(error) => return tracing::debug!(peer = %state.peer, %error, "TLS handshake failed"),
            },
        };
        let protocol = match &transport {
            Transport::Plain(_) => None,
            Transport::Tls(tls) => tls.get_ref().1.alpn_protocol().map(<[u8]>::to_vec),
        };
        let connection = Box::new(Connection::new(transport, Arc::clone(&state)));
        match protocol.as_deref() {
            Some(b"h2") => self.serve_http2(connection, &state).await,
            // The handshake was the answer to the certificate authority.
            Some(protocol) if protocol == crate::tls::ACME_TLS_ALPN => {}
            _ => self.serve_http1(connection, &state).await,
        }
    }

    async fn serve_http1(&self, first: Box<Connection>, state: &ConnectionState) {
        let mut stream: Box<Connection> = first;
        let mut settings: Option<HttpPersistentSettings> = None;
        loop {
            state.enter(Phase::Idle);
            if !self.next_request(&mut stream, settings.is_none()).await {
                return;
            }
            state.enter(Phase::Head);
            let mut session = ServerSession::new_http1(stream);
            // No limit here: the sweep watches the head phase.
            session.set_keepalive(Some(0));
            if let Some(settings) = settings.take() {
                settings.apply_to_session(&mut session);
            }
            let Some(reused) = self.proxy.process_new_http(session, &self.shutdown).await else { return };
            let (back, kept) = reused.consume();
            settings = kept;
            state.set_target(0);
            match back.into_any().downcast() {
                Ok(connection) => stream = connection,
                Err(_) => return,
            }
        }
    }

    /// Waits for the next request; false when there is none. A server that is stopping waits only for one that has
    /// begun to come in, and a moment for the first one of a connection, whose handshake may just be over.
    async fn next_request(&self, stream: &mut Connection, first: bool) -> bool {
        tokio::select! {
            biased;
            readable = stream.readable() => return readable,
            () = self.connections.leave() => {}
        }
        let limit = match (stream.has_input(), first) {
            (true, _) => LAST_REQUEST,
            (false, true) => FIRST_REQUEST,
            (false, false) => return false,
        };
        tokio::time::timeout(limit, stream.readable()).await.unwrap_or(false)
    }

    async fn serve_http2(&self, stream: Stream, state: &ConnectionState) {
        state.enter(Phase::Multiplexed);
        let streams = Arc::new(Streams {
            proxy: Arc::clone(&self.proxy),
            connections: Arc::clone(&self.connections),
            peer: state.peer,
            tls: state.tls,
        });
        streams.process_new(stream, &self.shutdown).await;
    }
}

/// The streams of one HTTP/2 connection, each with a place of its own in the list.
struct Streams {
    proxy: Arc<HttpProxy<Gateway>>,
    connections: Arc<Connections>,
    peer: SocketAddr,
    tls: bool,
}

#[async_trait]
impl HttpServerApp for Streams {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let place = self.connections.register_stream(self.peer, self.tls);
        let (abort, registration) = futures_util::future::AbortHandle::new_pair();
        place.state().set_task(Running::Stream(abort));
        let request = STREAM.scope(Arc::clone(place.state()), self.proxy.process_new_http(session, shutdown));
        Abortable::new(request, registration).await.ok().flatten()
    }

    fn h2_options(&self) -> Option<H2Options> {
        let mut options = H2Options::new();
        options
            .max_concurrent_streams(128)
            .initial_window_size(256 << 10)
            .initial_connection_window_size(1 << 20)
            .max_header_list_size(64 << 10)
            .max_send_buffer_size(256 << 10);
        Some(options)
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.proxy.server_options.as_ref()
    }
}
