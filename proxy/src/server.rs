//! The server: accepts, watches over connections, and stops without cutting anyone off.
//!
//! Stopping: no more accepts; for a second every answer says `Connection: close`, so that busy clients leave by
//! themselves; then idle connections are closed, and what is in flight may finish until a deadline.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use pingora::{apps::HttpServerOptions, proxy::http_proxy, server::configuration::ServerConf};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    access::AccessSink,
    basic_auth::Logins,
    challenge::ChallengeTable,
    connections::{Connections, PhaseLimits, Running},
    error::ProxyError,
    forwarded::TrustedPeers,
    front::Front,
    gateway::{Gateway, GatewayOptions},
    handle::{Counts, ProxyHandle, Shared, count},
    handshake::Handshakes,
    listener::{self, ListenOn},
    on_demand::OnDemand,
    router::RouteTable,
};

/// How often overdue connections are looked for.
const SWEEP: Duration = Duration::from_millis(500);
/// Pause after accepting failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// For how long a stopping server asks busy clients to leave before it closes idle connections.
const LINGER: Duration = Duration::from_secs(1);
/// How many upstream connections are kept for reuse, over all replicas.
const UPSTREAM_POOL: usize = 1024;

/// How the data plane listens and how patient it is.
#[derive(Debug)]
pub struct ProxyConfig {
    /// Plain HTTP listeners.
    pub http: Vec<ListenOn>,
    /// TLS listeners (HTTP/1.1 and HTTP/2).
    pub https: Vec<ListenOn>,
    /// The port that redirects to HTTPS name; `None` means 443, which is left out.
    pub public_https_port: Option<u16>,
    /// Client connections that may be open at once. At the limit, the longest idle ones make room.
    pub connection_limit: usize,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// How long a handshake waits for a certificate that is got on demand.
    pub on_demand_timeout: Duration,
    /// How long a request's head may take, from its first byte.
    pub head_timeout: Duration,
    /// How long a connection is kept between requests.
    pub idle_timeout: Duration,
    /// How long a client may pause within a request's body, or leave a response unread.
    pub body_timeout: Duration,
    /// How long requests may go on after a stop was asked for.
    pub shutdown_timeout: Duration,
    /// Peers whose forwarding headers are believed.
    pub trusted_peers: TrustedPeers,
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            http: Vec::new(),
            https: Vec::new(),
            public_https_port: None,
            connection_limit: 10_000,
            handshake_timeout: Duration::from_secs(10),
            on_demand_timeout: Duration::from_secs(20),
            head_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(60),
            shutdown_timeout: Duration::from_secs(30),
            trusted_peers: TrustedPeers::none(),
        }
    }
}

/// The data plane, bound and ready to run.
#[derive(Debug)]
pub struct ProxyServer {
    http: Vec<TcpListener>,
    https: Vec<TcpListener>,
    limits: PhaseLimits,
    connection_limit: usize,
    shutdown_timeout: Duration,
    gateway: GatewayOptions,
    tls: Arc<Handshakes>,
    shared: Arc<Shared>,
}

impl ProxyServer {
    /// Binds the listeners; connections queue from here on, and are served once [`Self::run`] runs. Must be
    /// called within a Tokio runtime.
    ///
    /// # Errors
    /// When an address cannot be listened on.
    pub fn bind(config: ProxyConfig, access: AccessSink) -> Result<(Self, ProxyHandle), ProxyError> {
        let listen = |on: Vec<ListenOn>| on.into_iter().map(ListenOn::listen).collect::<Result<Vec<_>, _>>();
        let seconds = |limit: Duration| u32::try_from(limit.as_secs()).unwrap_or(u32::MAX);
        let shared = Arc::new(Shared {
            routes: ArcSwap::from_pointee(RouteTable::default()),
            challenges: ArcSwap::from_pointee(ChallengeTable::default()),
            certificates: Arc::default(),
            connections: Arc::default(),
            on_demand: OnDemand::new(config.on_demand_timeout),
            logins: Logins::new().ok_or(ProxyError::Randomness)?,
            access,
            counts: Counts::default(),
            stopping: CancellationToken::new(),
        });
        let server = Self {
            http: listen(config.http)?,
            https: listen(config.https)?,
            limits: PhaseLimits {
                handshake: seconds(config.handshake_timeout),
                idle: seconds(config.idle_timeout),
                head: seconds(config.head_timeout),
            },
            connection_limit: config.connection_limit.max(1),
            shutdown_timeout: config.shutdown_timeout,
            gateway: GatewayOptions {
                trusted_peers: config.trusted_peers,
                body_timeout: config.body_timeout,
                public_https_port: config.public_https_port,
            },
            tls: Arc::new(Handshakes::new(Arc::clone(&shared))?),
            shared: Arc::clone(&shared),
        };
        Ok((server, ProxyHandle { shared }))
    }

    /// The addresses listened on: plain HTTP first, then TLS, in the order they were configured.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.http.iter().chain(&self.https).filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Serves until `shutdown` becomes true (or its sender is gone), then stops gracefully. Returns when the last
    /// connection has ended.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let connections = Arc::clone(&self.shared.connections);
        // Whatever ends this future ends its connections too.
        let _abort_rest = AbortRest(Arc::clone(&connections));
        // Pingora reads it per request, to say `Connection: close` from then on.
        let (stopping, stop_seen) = watch::channel(false);
        let mut proxy =
            http_proxy(&Arc::new(server_conf()), Gateway::new(Arc::clone(&self.shared), self.gateway));
        let mut options = HttpServerOptions::default();
        options.h2_idle_timeout = Some(Duration::from_secs(u64::from(self.limits.idle)));
        proxy.server_options = Some(options);
        let proxy = Arc::new(proxy);
        let front = Arc::new(Front {
            proxy: Arc::clone(&proxy),
            connections: Arc::clone(&connections),
            shutdown: stop_seen,
        });

        let tasks = TaskTracker::new();
        let mut loops = JoinSet::new();
        let plain = self.http.into_iter().map(|listener| (listener, None));
        let secure = self.https.into_iter().map(|listener| (listener, Some(Arc::clone(&self.tls))));
        for (listener, tls) in plain.chain(secure) {
            let acceptor = Acceptor {
                listener,
                tls,
                front: Arc::clone(&front),
                shared: Arc::clone(&self.shared),
                limit: self.connection_limit,
                tasks: tasks.clone(),
            };
            loops.spawn(acceptor.run());
        }
        loops.spawn(sweep(Arc::clone(&self.shared), self.limits));

        // An error means that the sender is gone: there is nobody left to serve for.
        let _ = shutdown.wait_for(|stop| *stop).await;
        let begun = Instant::now();
        loops.shutdown().await;
        // Nobody but this future holds a receiver that could be gone.
        let _ = stopping.send(true);
        self.shared.stopping.cancel();
        tasks.close();
        let wait = |limit: Duration| tokio::time::timeout(limit, tasks.wait());
        if wait(LINGER).await.is_ok() {
            return;
        }
        connections.end_idle();
        if wait(self.shutdown_timeout.saturating_sub(begun.elapsed())).await.is_err() {
            connections.end(None);
            if wait(LINGER).await.is_err() {
                connections.abort(None);
                tasks.wait().await;
            }
        }
    }
}

fn server_conf() -> ServerConf {
    ServerConf {
        upstream_keepalive_pool_size: UPSTREAM_POOL,
        threads: 1,
        max_retries: crate::gateway::MAX_TRIES,
        ..ServerConf::default()
    }
}

struct AbortRest(Arc<Connections>);

impl Drop for AbortRest {
    fn drop(&mut self) {
        self.0.abort(None);
    }
}

async fn sweep(shared: Arc<Shared>, limits: PhaseLimits) {
    let begun = Instant::now();
    let mut tick = tokio::time::interval(SWEEP);
    loop {
        tick.tick().await;
        shared.connections.clock().set(begun.elapsed().as_secs() as u32);
        shared.connections.sweep(limits);
        shared.routes.load().targets().for_each(|target| target.close_idle());
    }
}

struct Acceptor {
    listener: TcpListener,
    tls: Option<Arc<Handshakes>>,
    front: Arc<Front>,
    shared: Arc<Shared>,
    limit: usize,
    tasks: TaskTracker,
}

impl Acceptor {
    async fn run(self) {
        loop {
            self.make_room().await;
            let (socket, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) if listener::is_exhausted(&error) => {
                    tracing::warn!(%error, "cannot accept connections; closing idle ones");
                    self.shed(64);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
                // The client left between connecting and being accepted.
                Err(_) => continue,
            };
            count(&self.shared.counts.accepted);
            // Inherited from the listener, unless that was handed over; a socket that is gone needs none.
            let _ = socket.set_nodelay(true);
            let place = self.shared.connections.register_socket(peer, self.tls.is_some());
            let state = Arc::clone(place.state());
            let serving = Arc::clone(&self.front).serve(socket, self.tls.clone(), place);
            state.set_task(Running::Connection(self.tasks.spawn(serving).abort_handle()));
        }
    }

    async fn make_room(&self) {
        while self.shared.connections.sockets() >= self.limit {
            if self.shed(16) == 0 {
                tokio::time::sleep(ACCEPT_PAUSE).await;
            } else {
                tokio::task::yield_now().await;
            }
        }
    }

    fn shed(&self, n: usize) -> usize {
        let ended = self.shared.connections.shed_idle(n);
        for _ in 0..ended {
            count(&self.shared.counts.shed);
        }
        ended
    }
}
