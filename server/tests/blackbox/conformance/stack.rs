//! Two ways to a server for the suite, which sends no token: an outer layer adds the header that a person would have
//! configured. Everything behind it is the product's, the check of the token among it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::Response,
};
use berth::oauth::{OAuth, OAuthConfig};
use berth::rest::{self, Control, Limits, hooks::Hooks, host::AllowedHosts, listener, throttle::Throttle};
use berth_certs::{Certs, CertsConfig, dns};
use berth_deploy::{
    EngineOutput, Pipeline, PipelineConfig,
    docker::{Docker, DockerConfig, Engine, InstanceId},
};
use berth_forge::{ForgeConfig, Forges, Intake};
use berth_mcp::McpConfig;
use berth_observe::{
    CollectorConfig, LogCollector,
    errors::{ErrorIndex, Ingest, Maps},
};
use berth_proxy::{AccessSink, ListenOn, ProxyConfig, ProxyServer};
use berth_schemas::Timestamp;
use berth_store::{MasterKey, Store, StoreConfig};
use berth_tools::{Addresses, Brake, Context};
use http::{HeaderValue, header};
use rmcp::transport::streamable_http_server::{StreamableHttpService, session::local::LocalSessionManager};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::fixture::Fixture;

/// A listener that serves until it is dropped.
pub(super) struct Serving {
    /// Where.
    addr: SocketAddr,
    _end: DropGuard,
    _data: Option<tempfile::TempDir>,
}

impl Serving {
    /// The MCP endpoint's URL.
    pub(super) fn url(&self) -> String {
        format!("http://{}/mcp", self.addr)
    }

    async fn start(router: Router, shutdown: CancellationToken, data: Option<tempfile::TempDir>) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = socket.local_addr().expect("its address");
        tokio::spawn(listener::serve(socket, router, shutdown.clone(), Duration::from_secs(1)));
        Self { addr, _end: shutdown.drop_guard(), _data: data }
    }
}

/// The fixture behind the product's listener, router, layers and check of tokens.
pub(super) async fn fixture() -> Serving {
    let data = tempfile::tempdir().expect("a directory");
    let shutdown = CancellationToken::new();
    let context = context(data.path(), &shutdown).await;
    let token = context.store.tokens().ensure_admin().await.expect("a token").expect("the first one");
    // The old era can only be asked something (sampling, elicitation) in a session; Berth itself has none.
    let transport =
        McpConfig { allowed_hosts: Vec::new(), allowed_origins: Vec::new(), ct: shutdown.child_token() }
            .transport()
            .with_legacy_session_mode(true);
    let fixture = Fixture::new();
    let mcp = StreamableHttpService::new(
        move || Ok(fixture.clone()),
        Arc::new(LocalSessionManager::default()),
        transport,
    );
    let control = Arc::new(Control {
        registry: Arc::new(berth_tools::registry()),
        hooks: Hooks::new(Intake::new(Arc::clone(&context.forges))),
        ingest: context.ingest.clone(),
        context,
        hosts: AllowedHosts::new(Vec::new()),
        limits: Limits { upload_max: 1 << 20, min_free_disk: 0 },
        oauth: Arc::new(OAuth::new(OAuthConfig::default())),
        throttle: Throttle::default(),
        shutdown: shutdown.clone(),
    });
    let router = rest::router(&control, Some(Router::new().fallback_service(mcp)));
    let value = HeaderValue::try_from(format!("Bearer {token}")).expect("a header");
    Serving::start(router.layer(from_fn_with_state(value, add_token)), shutdown, Some(data)).await
}

async fn add_token(State(value): State<HeaderValue>, mut request: Request, next: Next) -> Response {
    request.headers_mut().entry(header::AUTHORIZATION).or_insert(value);
    next.run(request).await
}

/// A relay to a running daemon that adds its admin's token and passes on everything else as it is, the Host among it.
pub(super) async fn relay_to(daemon: &crate::harness::Berth) -> Serving {
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let to = (http, daemon.control_url.clone(), daemon.token.clone());
    let router = Router::new().fallback(pass_on).with_state(to);
    Serving::start(router, CancellationToken::new(), None).await
}

async fn pass_on(
    State((http, url, token)): State<(reqwest::Client, String, String)>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    let mut onward = http.request(parts.method, format!("{url}{path}")).headers(parts.headers);
    onward = onward.bearer_auth(token).body(reqwest::Body::wrap_stream(body.into_data_stream()));
    let answer = onward.send().await.expect("the daemon to answer");
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    *response.headers_mut() = answer.headers().clone();
    response.headers_mut().remove(header::TRANSFER_ENCODING);
    *response.body_mut() = Body::from_stream(answer.bytes_stream());
    response
}

/// A platform without Docker, as the daemon makes it.
async fn context(data_dir: &std::path::Path, shutdown: &CancellationToken) -> Arc<Context> {
    let key = MasterKey::load_or_create(data_dir).expect("a key");
    let config = StoreConfig { data_dir: data_dir.to_path_buf(), database_url: None };
    let store = Store::open(config, key).await.expect("a store");
    let instance = InstanceId::new(store.instance().parse().expect("an id"));
    let host = Some("unix:///nonexistent/docker.sock".to_owned());
    let engine: Arc<dyn Engine> = Arc::new(Docker::connect(DockerConfig { host, instance }));
    let listen =
        ProxyConfig { http: vec![ListenOn::Addr(([127, 0, 0, 1], 0).into())], ..ProxyConfig::default() };
    let (_, proxy) = ProxyServer::bind(listen, AccessSink::channel(64).0).expect("a data plane");
    let output = Arc::new(EngineOutput(Arc::clone(&engine)));
    let collector =
        LogCollector::start(store.clone(), output, CollectorConfig::default(), shutdown.child_token());
    let dns = dns::Dns::new(store.clone(), dns::DnsConfig::new(Vec::new(), |_| true));
    let certificates =
        CertsConfig { https: false, acme: None, fallback: None, own: None, control_host: None };
    let certs = Certs::open(store.clone(), proxy.clone(), dns.clone(), certificates, shutdown.child_token());
    let certs = certs.await.expect("certificates");
    let addresses =
        Addresses { base_domain: "localhost".into(), scheme: "http", port: Some(8080), https: None };
    let alone = CancellationToken::new();
    alone.cancel();
    let config = PipelineConfig {
        data_dir: data_dir.to_path_buf(),
        addresses: addresses.clone(),
        concurrent_builds: 1,
        min_free_bytes: 0,
        build_cache_bytes: 1 << 30,
        allow_private_sources: false,
        allow_local_sources: false,
        git_ssh_key: None,
        git_access: None,
        max_source_bytes: 1 << 20,
        arrival: berth_deploy::Arrival::Started,
        alone,
        successor: None,
        control: None,
        errors: None,
        maps: None,
        eraser: None,
    };
    let pipeline =
        Pipeline::open(store.clone(), engine, instance, proxy, collector, config, shutdown.child_token());
    let pipeline = pipeline.await.expect("a pipeline");
    let forge =
        ForgeConfig { public_url: "http://localhost".into(), allow_private: false, allow_local: false };
    let index = ErrorIndex::start(store.clone(), None, shutdown.child_token()).expect("an index");
    Arc::new(Context {
        ingest: Ingest::start(store.clone(), shutdown.child_token()),
        maps: Maps::start(store.clone(), data_dir.join("maps"), index.clone(), shutdown.child_token()),
        error_index: index,
        sender: berth_monitor::Sender { policy: berth_deploy::source::guard::HostPolicy::default() },
        control_url: "http://localhost".into(),
        forges: Arc::new(Forges::new(store.clone(), forge)),
        store,
        pipeline,
        dns,
        certs,
        addresses,
        control_hosts: Vec::new(),
        data_dir: data_dir.to_path_buf(),
        allow_local_sources: false,
        started_at: Timestamp::now(),
        brake: Brake::new(10),
        version: "test",
    })
}
