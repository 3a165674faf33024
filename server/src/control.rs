//! Everything of the daemon but its data plane: the store, the pipeline, what collects and prunes, and the control
//! plane's server. It is one thing that is started and stopped as a whole, because an upgrade ends it while the data
//! plane goes on, and starts it again if the upgrade comes to nothing.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use berth_certs::{
    Certs, Fallback,
    dns::{Dns, DnsConfig, own},
};
use berth_deploy::{
    Arrival, ControlRoute, ErrorsRoute, GitAccess, Pipeline, PipelineConfig, Successor,
    docker::{Docker, DockerConfig, Engine, InstanceId},
    source::guard::{HostPolicy, forbidden_kind},
};
use berth_forge::{ForgeConfig, Forges, Intake};
use berth_mcp::McpConfig;
use berth_observe::{
    CollectorConfig, LogCollector, RecorderConfig, RequestRecorder, Retention, RetentionConfig,
    errors::{Digester, Eraser, ErrorIndex, Ingest, Maps},
};
use berth_proxy::ProxyHandle;
use berth_schemas::{Problem, Timestamp};
use berth_store::{MasterKey, Store, StoreConfig};
use berth_tools::{Addresses, Brake, Context};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    certificates,
    cli::failure::Failure,
    config::Config,
    oauth::{OAuth, OAuthConfig},
    rest::{self, Control, Limits, hooks::Hooks, host::AllowedHosts, listener, throttle::Throttle, uploads},
    serve::file_failure,
    sockets::Sockets,
    supervise::{Rule, Supervisor},
    takeover::Role,
    visits::{self, Outlet},
};

/// Bytes that a source may unpack to, for each byte that an upload may have.
const SOURCE_RATIO: u64 = 4;

/// What lives as long as the process, as the control plane needs it.
pub struct Daemon {
    /// The configuration.
    pub config: Config,
    /// The listening sockets.
    pub sockets: Sockets,
    /// Opens the store, also if its file is no longer what it was.
    pub key: MasterKey,
    /// Steers the data plane.
    pub plane: ProxyHandle,
    /// The certificate for names that have none.
    pub fallback: Option<Fallback>,
    /// Where access records go.
    pub outlet: Outlet,
    /// How apps are reached.
    pub addresses: Addresses,
    /// URL of the control plane for people.
    pub control_url: String,
    /// Since when the process runs.
    pub started_at: Timestamp,
    /// Asks for an upgrade; the answer says why it came to nothing.
    pub upgrade: mpsc::Sender<oneshot::Sender<Problem>>,
}

impl Daemon {
    /// Where the data is.
    #[must_use]
    pub fn store_config(&self) -> StoreConfig {
        store_config(&self.config)
    }
}

/// Where a configuration says the data is.
#[must_use]
pub fn store_config(config: &Config) -> StoreConfig {
    StoreConfig { data_dir: config.data_dir.clone(), database_url: config.database_url.clone() }
}

/// The running control plane.
pub struct ControlPlane {
    /// The pipeline.
    pub pipeline: Pipeline,
    certs: Certs,
    collector: LogCollector,
    retention: Retention,
    ingest: Ingest,
    index: ErrorIndex,
    maps: Maps,
    digester: Digester,
    supervisor: Supervisor,
    remains: Remains,
}

impl ControlPlane {
    /// Starts it: key before store, so that no data is opened without it; routes before orders, so that nobody
    /// gives orders to a daemon that is not whole.
    ///
    /// # Errors
    /// When it cannot start, with what to do.
    pub async fn start(daemon: &Daemon, arrival: Arrival, alone: CancellationToken) -> Result<Self, Failure> {
        let store =
            Store::open(store_config(&daemon.config), daemon.key.clone()).await.map_err(Problem::from)?;
        let shutdown = CancellationToken::new();
        let started = Self::start_with(daemon, store.clone(), arrival, alone, shutdown.clone()).await;
        if started.is_err() {
            // Whoever tries again needs the store for himself, and nobody else waits for what was begun.
            shutdown.cancel();
            store.close().await;
        }
        started
    }

    async fn start_with(
        daemon: &Daemon,
        store: Store,
        arrival: Arrival,
        alone: CancellationToken,
        shutdown: CancellationToken,
    ) -> Result<Self, Failure> {
        let config = &daemon.config;
        let mut supervisor = Supervisor::new(shutdown.clone());
        store.proposals().interrupt().await.map_err(berth_schemas::Problem::from)?;
        uploads::prepare(&config.data_dir).map_err(|e| file_failure("prepare", &config.data_dir, &e))?;
        let instance =
            store.instance().parse().map_err(|_| Failure::local("the installation's id is damaged"))?;
        let instance = InstanceId::new(instance);
        let engine: Arc<dyn Engine> =
            Arc::new(Docker::connect(DockerConfig { host: config.docker_host.clone(), instance }));
        let output = Arc::new(berth_deploy::EngineOutput(Arc::clone(&engine)));
        let collector =
            LogCollector::start(store.clone(), output, CollectorConfig::default(), shutdown.child_token());
        let dns = Dns::new(store.clone(), dns_config(config));
        let certs = Certs::open(
            store.clone(),
            daemon.plane.clone(),
            dns.clone(),
            certificates::config(daemon)?,
            shutdown.child_token(),
        )
        .await?;
        let forges = Arc::new(Forges::new(store.clone(), forge_config(daemon)));
        let index = daemon.config.data_dir.join("index").join("errors");
        let index = ErrorIndex::start(store.clone(), Some(&index), shutdown.child_token())
            .map_err(|e| Failure::local(e.to_string()))?;
        let maps = config.data_dir.join("maps");
        let maps = Maps::start(store.clone(), maps, index.clone(), shutdown.child_token());
        let pipeline = Pipeline::open(
            store.clone(),
            engine,
            instance,
            daemon.plane.clone(),
            collector.clone(),
            PipelineConfig {
                maps: Some(maps.clone()),
                eraser: Some(Eraser::new(store.clone(), index.clone())),
                ..pipeline_config(daemon, &forges, arrival, alone)
            },
            shutdown.child_token(),
        )
        .await?;
        certs.approve_by(Arc::new(certificates::Asks(pipeline.clone())));
        let remains = Remains::start(store.clone(), &daemon.outlet);
        let retention = Retention::start(
            store.clone(),
            index.clone(),
            maps.clone(),
            retention_config(config),
            shutdown.child_token(),
        );
        let ingest = Ingest::start(store.clone(), shutdown.child_token());
        let digester = Digester::start(
            store.clone(),
            ingest.clone(),
            index.clone(),
            maps.clone(),
            shutdown.child_token(),
        );
        let listening = daemon.sockets.duplicate(Role::Control)?;
        let listening = listening.ok_or_else(|| Failure::local("the control plane has no socket"))?;
        let router =
            router(daemon, &store, &pipeline, (&certs, dns), &forges, (&ingest, &index, &maps), &shutdown);
        supervisor.start_once(
            "control",
            listener::serve(
                TcpListener::from_std(listening)?,
                router,
                shutdown.clone(),
                config.shutdown_timeout,
            ),
        );
        follow_forges(&mut supervisor, daemon, &forges, &pipeline);
        let (of, sending, url) = (store.clone(), sender(config), daemon.control_url.clone());
        supervisor.start("alerts", Rule::Restarted, move |shutdown| {
            berth_monitor::alert(of.clone(), sending.clone(), url.clone(), shutdown)
        });
        Ok(Self { pipeline, certs, collector, retention, ingest, index, maps, digester, supervisor, remains })
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.remains.store
    }

    /// Resolves when an essential part has ended by itself.
    pub async fn failure(&self) {
        self.supervisor.failure().await;
    }

    /// Ends all work but that on access records: those of requests under way may still come. Calls under way have
    /// `limit` to end.
    pub async fn end_work(self, limit: Duration) -> Remains {
        self.supervisor.stop(limit).await;
        self.pipeline.stopped().await;
        self.certs.stopped().await;
        self.collector.stopped().await;
        self.retention.stopped().await;
        self.ingest.stopped().await;
        self.digester.stopped().await;
        self.maps.stopped().await;
        self.index.stopped().await;
        self.remains
    }
}

/// What is left when the work has ended: the store and what writes access records to it. It ends after the data
/// plane, so that the last requests are recorded too.
pub struct Remains {
    store: Store,
    recorder: RequestRecorder,
    records: JoinHandle<()>,
    served: CancellationToken,
    recording: CancellationToken,
}

impl Remains {
    fn start(store: Store, outlet: &Outlet) -> Self {
        let (served, recording) = (CancellationToken::new(), CancellationToken::new());
        let recorder = RequestRecorder::start(store.clone(), RecorderConfig::default(), recording.clone());
        let (sender, receiver) = mpsc::channel(visits::QUEUE);
        let records = tokio::spawn(visits::record(receiver, store.clone(), recorder.clone(), served.clone()));
        outlet.send_replace(Some(sender));
        Self { store, recorder, records, served, recording }
    }

    /// Writes the records that have come, and closes the store: from here on another process may open it.
    pub async fn close(self) {
        self.served.cancel();
        let _ = self.records.await;
        self.recording.cancel();
        self.recorder.stopped().await;
        self.store.close().await;
    }
}

fn router(
    daemon: &Daemon,
    store: &Store,
    pipeline: &Pipeline,
    (certs, dns): (&Certs, Dns),
    forges: &Arc<Forges>,
    (ingest, index, maps): (&Ingest, &ErrorIndex, &Maps),
    shutdown: &CancellationToken,
) -> axum::Router {
    let config = &daemon.config;
    let context = Arc::new(Context {
        store: store.clone(),
        forges: Arc::clone(forges),
        pipeline: pipeline.clone(),
        dns,
        certs: certs.clone(),
        ingest: ingest.clone(),
        error_index: index.clone(),
        maps: maps.clone(),
        sender: sender(config),
        control_url: daemon.control_url.trim_end_matches('/').to_owned(),
        addresses: daemon.addresses.clone(),
        control_hosts: config.control_hosts.clone(),
        data_dir: config.data_dir.clone(),
        allow_local_sources: config.allow_local_sources,
        started_at: daemon.started_at,
        brake: Brake::new(config.destructive_per_minute),
        version: env!("CARGO_PKG_VERSION"),
    });
    let registry = Arc::new(berth_tools::registry());
    let mcp = berth_mcp::service(
        Arc::clone(&registry),
        Arc::clone(&context),
        McpConfig {
            // `rest::host` has looked at it, and knows more names: those below localhost, and the connection's own.
            allowed_hosts: vec![berth_mcp::ANY_HOST.into()],
            allowed_origins: config.public_url.iter().cloned().collect(),
            ct: shutdown.child_token(),
        },
    );
    let control = Arc::new(Control {
        registry,
        context,
        hosts: AllowedHosts::new(config.control_hosts.clone()),
        limits: Limits { upload_max: config.upload_max, min_free_disk: config.min_free_disk },
        hooks: Hooks::new(Intake::new(Arc::clone(forges))),
        ingest: ingest.clone(),
        oauth: Arc::new(OAuth::new(oauth_config(daemon))),
        throttle: Throttle::default(),
        shutdown: shutdown.clone(),
    });
    rest::router(&control, Some(axum::Router::new().fallback_service(mcp)))
}

/// Looks for pushes that no webhook told, and tells forges how deployments go.
fn follow_forges(supervisor: &mut Supervisor, daemon: &Daemon, forges: &Arc<Forges>, pipeline: &Pipeline) {
    let (of, pipeline) = (Arc::clone(forges), pipeline.clone());
    supervisor.start("polling", Rule::Restarted, move |shutdown| {
        berth_forge::poll(Arc::clone(&of), pipeline.clone(), shutdown)
    });
    let (of, addresses) = (Arc::clone(forges), daemon.addresses.clone());
    supervisor.start("reports", Rule::Restarted, move |shutdown| {
        let addresses = addresses.clone();
        berth_forge::report(Arc::clone(&of), move |row| addresses.url(&row.app, &row.environment), shutdown)
    });
}

fn oauth_config(daemon: &Daemon) -> OAuthConfig {
    OAuthConfig {
        public_url: daemon.config.public_url.clone(),
        policy: host_policy(&daemon.config),
        allow_local: daemon.config.allow_local_sources,
    }
}

/// Sends alerts, to hosts that anybody may reach, or as the administrator allows.
fn sender(config: &Config) -> berth_monitor::Sender {
    berth_monitor::Sender { policy: host_policy(config) }
}

/// Which hosts a user may make the daemon talk to.
fn host_policy(config: &Config) -> HostPolicy {
    HostPolicy { allow_private: config.allow_private_sources, allow_hosts: Vec::new() }
}

fn forge_config(daemon: &Daemon) -> ForgeConfig {
    ForgeConfig {
        public_url: daemon.control_url.clone(),
        allow_private: daemon.config.allow_private_sources,
        allow_local: daemon.config.allow_local_sources,
    }
}

fn pipeline_config(
    daemon: &Daemon,
    forges: &Arc<Forges>,
    arrival: Arrival,
    alone: CancellationToken,
) -> PipelineConfig {
    let config = &daemon.config;
    PipelineConfig {
        data_dir: config.data_dir.clone(),
        addresses: daemon.addresses.clone(),
        concurrent_builds: config.concurrent_builds,
        min_free_bytes: config.min_free_disk,
        build_cache_bytes: config.build_cache,
        allow_private_sources: config.allow_private_sources,
        allow_local_sources: config.allow_local_sources,
        git_ssh_key: config.git_ssh_key.clone(),
        git_access: Some(Arc::clone(forges) as Arc<dyn GitAccess>),
        max_source_bytes: config.upload_max.saturating_mul(SOURCE_RATIO),
        arrival,
        alone,
        successor: Some(Arc::new(Asks(daemon.upgrade.clone()))),
        maps: None,
        eraser: None,
        errors: Some(ErrorsRoute {
            addr: crate::serve::reachable(daemon.sockets.addr(Role::Control).unwrap_or(config.control_addr)),
            public_url: config.public_url.clone(),
        }),
        control: certificates::control_host(config).map(|host| ControlRoute {
            host: host.to_string(),
            addr: crate::serve::reachable(daemon.sockets.addr(Role::Control).unwrap_or(config.control_addr)),
        }),
    }
}

fn dns_config(config: &Config) -> DnsConfig {
    let anywhere = config.allow_private_sources;
    let told = config.public_addresses.clone();
    let own = move || match told.is_empty() {
        true => own::addresses(|ip| forbidden_kind(ip).is_none()),
        false => told.clone(),
    };
    DnsConfig {
        own: Arc::new(own),
        ..DnsConfig::new(config.dns_resolvers.clone(), move |ip| anywhere || forbidden_kind(ip).is_none())
    }
}

fn retention_config(config: &Config) -> RetentionConfig {
    RetentionConfig {
        log_age: config.log_retention,
        log_bytes: config.log_max_bytes,
        request_age: config.request_retention,
        call_age: config.audit_retention,
        calls: config.audit_calls,
        error_age: config.error_retention,
        error_events: config.error_max_events,
        map_age: config.map_retention,
        map_releases: config.map_releases,
        ..RetentionConfig::default()
    }
}

/// Asks the process for an upgrade.
#[derive(Debug)]
struct Asks(mpsc::Sender<oneshot::Sender<Problem>>);

#[async_trait]
impl Successor for Asks {
    async fn hand_over(&self) -> Problem {
        let (answer, answered) = oneshot::channel();
        if self.0.send(answer).await.is_ok()
            && let Ok(problem) = answered.await
        {
            return problem;
        }
        // It is being done: this run is about to be shut down, and whoever waits here with it.
        std::future::pending().await
    }
}
