//! The daemon from its start to its end.
//!
//! The order is the point: key before store, so that no data is opened without it; the pipeline before the
//! proxy listens, so that the first visitor finds his app; the control plane last, so that nobody gives orders
//! to a daemon that is not whole. The end goes the other way.

use std::{
    io::{IsTerminal as _, Write as _},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use berth_deploy::{
    Pipeline, PipelineConfig,
    docker::{Docker, DockerConfig, Engine, InstanceId},
};
use berth_mcp::McpConfig;
use berth_observe::{
    CollectorConfig, LogCollector, RecorderConfig, RequestRecorder, Retention, RetentionConfig,
};
use berth_schemas::Timestamp;
use berth_store::{MasterKey, Store, StoreConfig};
use berth_tools::{Addresses, Context};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::{
    cli::failure::Failure,
    config::{Config, LogFormat},
    data_plane, notify,
    presence::Presence,
    rest::{self, Control, Limits, host::AllowedHosts, listener, throttle::Throttle, uploads},
    signals::Signals,
    supervise::Supervisor,
};

/// Bytes that a source may unpack to, for each byte that an upload may have.
const SOURCE_RATIO: u64 = 4;

/// What the daemon is started with.
#[derive(Debug)]
pub struct Start {
    /// The configuration.
    pub config: Config,
    /// Where the admin token of the first start is written instead of being printed.
    pub token_file: Option<PathBuf>,
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// When it cannot start, with what to do.
pub fn run(start: Start) -> Result<ExitCode, Failure> {
    log(&start.config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("berth").build()?;
    let outcome = runtime.block_on(serve(start));
    // Blocking work that ignores the shutdown must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(2));
    outcome
}

fn log(config: &Config) -> Result<(), Failure> {
    // A bare level means Berth; libraries speak up when something is wrong.
    let level = match config.log_level.as_str() {
        level if level.contains(['=', ',']) => level.to_owned(),
        level => format!("{level},rmcp=warn,pingora=warn,hyper=warn,h2=warn,sqlx=warn,bollard=warn"),
    };
    let filter = EnvFilter::try_new(level)
        .map_err(|e| Failure::local(format!("log_level {:?} is not valid: {e}", config.log_level)))?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match config.log_format {
        LogFormat::Text => subscriber.with_target(false).compact().init(),
        LogFormat::Json => subscriber.json().init(),
    }
    Ok(())
}

async fn serve(start: Start) -> Result<ExitCode, Failure> {
    let Start { config, token_file } = start;
    let mut signals = Signals::listen()?;
    let started_at = Timestamp::now();
    let shutdown = CancellationToken::new();
    let mut supervisor = Supervisor::new(shutdown.clone());

    let store = open_store(&config).await?;
    uploads::prepare(&config.data_dir).map_err(|e| file_failure("prepare", &config.data_dir, &e))?;
    let control_listener = bind("control_addr", config.control_addr)?;
    let control_addr = control_listener.local_addr()?;
    let control_url =
        config.public_url.clone().unwrap_or_else(|| format!("http://{}", reachable(control_addr)));
    let plane = data_plane::bind(&config)?;
    let http_addr = plane.http;
    let addresses = addresses(&config, http_addr);
    let instance =
        store.instance().parse().map_err(|_| Failure::local("the installation's id is damaged"))?;
    let instance = InstanceId::new(instance);
    let engine: Arc<dyn Engine> =
        Arc::new(Docker::connect(DockerConfig { host: config.docker_host.clone(), instance }));
    let output = Arc::new(berth_deploy::EngineOutput(Arc::clone(&engine)));
    let collector =
        LogCollector::start(store.clone(), output, CollectorConfig::default(), shutdown.child_token());
    let pipeline = Pipeline::open(
        store.clone(),
        engine,
        instance,
        plane.handle.clone(),
        collector.clone(),
        pipeline_config(&config, &addresses),
        shutdown.child_token(),
    )
    .await?;
    let context = Arc::new(Context {
        store: store.clone(),
        pipeline: pipeline.clone(),
        addresses,
        data_dir: config.data_dir.clone(),
        allow_local_sources: config.allow_local_sources,
        started_at,
        version: env!("CARGO_PKG_VERSION"),
    });
    // The recorder ends after the data plane, so that the last requests are recorded too.
    let (served, recording) = (CancellationToken::new(), CancellationToken::new());
    let recorder = RequestRecorder::start(store.clone(), RecorderConfig::default(), recording.clone());
    let records =
        tokio::spawn(data_plane::record(plane.records, store.clone(), recorder.clone(), served.clone()));
    supervisor.start_once("data plane", data_plane::run(plane.server, shutdown.child_token()));
    let retention = Retention::start(store.clone(), retention_config(&config), shutdown.child_token());

    let registry = Arc::new(berth_tools::registry());
    let mcp = berth_mcp::service(
        Arc::clone(&registry),
        Arc::clone(&context),
        McpConfig {
            allowed_hosts: config.control_hosts.clone(),
            allowed_origins: config.public_url.iter().cloned().collect(),
            ct: shutdown.child_token(),
        },
    );
    let control = Arc::new(Control {
        registry,
        context: Arc::clone(&context),
        hosts: AllowedHosts::new(config.control_hosts.clone()),
        limits: Limits { upload_max: config.upload_max, min_free_disk: config.min_free_disk },
        throttle: Throttle::default(),
        shutdown: shutdown.clone(),
    });
    let router = rest::router(&control, Some(axum::Router::new().fallback_service(mcp)));
    supervisor.start_once(
        "control",
        listener::serve(control_listener, router, shutdown.clone(), config.shutdown_timeout),
    );

    // Whoever finds the daemon by its file must find the token, too.
    first_start(&store, token_file.as_deref(), &control_url).await?;
    let presence = Presence {
        pid: std::process::id(),
        control_url: format!("http://{}", reachable(control_addr)),
        http_url: format!("http://{}", reachable(http_addr)),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instance: store.instance().to_owned(),
    };
    presence
        .write(&config.data_dir)
        .map_err(|e| file_failure("write daemon.json in", &config.data_dir, &e))?;
    tracing::info!(version = presence.version, data = %config.data_dir.display(), store = store.kind(), "berth has started");
    tracing::info!("control plane: {control_url} (page /, API /docs, MCP /mcp)");
    notify::tell("READY=1");

    let clean = until_told(&mut signals, &supervisor).await;
    notify::tell("STOPPING=1");
    let limit = config.shutdown_timeout + Duration::from_secs(5);
    let stopping = async {
        supervisor.stop(limit).await;
        pipeline.stopped().await;
        collector.stopped().await;
        retention.stopped().await;
        served.cancel();
        let _ = records.await;
        recording.cancel();
        recorder.stopped().await;
        store.close().await;
    };
    tokio::select! {
        () = stopping => tracing::info!("berth has stopped"),
        signal = signals.next() => tracing::warn!("{signal} again: berth ends at once"),
    }
    Presence::remove(&config.data_dir);
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Waits for a signal, or for the end of something essential; true if it was a signal.
async fn until_told(signals: &mut Signals, supervisor: &Supervisor) -> bool {
    tokio::select! {
        signal = signals.next() => {
            tracing::info!("{signal}: finishing what is under way; a second signal ends at once");
            true
        }
        () = supervisor.failure() => false,
    }
}

async fn open_store(config: &Config) -> Result<Store, Failure> {
    let dir = config.data_dir.clone();
    let key = tokio::task::spawn_blocking(move || MasterKey::load_or_create(&dir))
        .await
        .map_err(|e| Failure::local(e.to_string()))?
        .map_err(|e| Failure::from(berth_schemas::Problem::from(berth_store::StoreError::from(e))))?;
    let store = StoreConfig { data_dir: config.data_dir.clone(), database_url: config.database_url.clone() };
    Store::open(store, key).await.map_err(|e| {
        let problem: berth_schemas::Problem = e.into();
        problem.into()
    })
}

fn pipeline_config(config: &Config, addresses: &Addresses) -> PipelineConfig {
    PipelineConfig {
        data_dir: config.data_dir.clone(),
        addresses: addresses.clone(),
        concurrent_builds: config.concurrent_builds,
        min_free_bytes: config.min_free_disk,
        build_cache_bytes: config.build_cache,
        allow_private_sources: config.allow_private_sources,
        allow_local_sources: config.allow_local_sources,
        git_ssh_key: config.git_ssh_key.clone(),
        max_source_bytes: config.upload_max.saturating_mul(SOURCE_RATIO),
    }
}

fn retention_config(config: &Config) -> RetentionConfig {
    RetentionConfig {
        log_age: config.log_retention,
        log_bytes: config.log_max_bytes,
        request_age: config.request_retention,
        ..RetentionConfig::default()
    }
}

fn bind(setting: &'static str, addr: SocketAddr) -> Result<TcpListener, Failure> {
    listener::bind(addr).map_err(|e| {
        Failure::local(format!("cannot listen on {addr} ({setting}): {e}")).hint(format!(
            "Is something else listening there? Choose another address with --{}.",
            setting.replace('_', "-")
        ))
    })
}

fn file_failure(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::local(format!("cannot {what} {}: {error}", path.display()))
}

/// An address that can be connected to from this machine: the wildcard is none.
fn reachable(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(a) if a.ip().is_unspecified() => (std::net::Ipv4Addr::LOCALHOST, a.port()).into(),
        SocketAddr::V6(a) if a.ip().is_unspecified() => (std::net::Ipv6Addr::LOCALHOST, a.port()).into(),
        other => other,
    }
}

fn addresses(config: &Config, http: SocketAddr) -> Addresses {
    let (scheme, port, usual) = match &config.https {
        Some((https, _)) => ("https", https.port(), 443),
        None => ("http", http.port(), 80),
    };
    Addresses { base_domain: config.base_domain.clone(), scheme, port: (port != usual).then_some(port) }
}

/// At the first start, gives the admin token to whoever started the daemon, once.
async fn first_start(store: &Store, token_file: Option<&Path>, url: &str) -> Result<(), Failure> {
    let made =
        store.tokens().ensure_admin().await.map_err(|e| Failure::from(berth_schemas::Problem::from(e)))?;
    let Some(token) = made else { return Ok(()) };
    let mut out = std::io::stdout().lock();
    let shown = match token_file {
        Some(path) => {
            write_secret(path, &token).map_err(|e| file_failure("write the admin token to", path, &e))?;
            writeln!(out, "The admin token is in {} (shown nowhere else).", path.display())?;
            format!("$(cat {})", path.display())
        }
        None => {
            writeln!(out, "\nAdmin token, shown only now:\n\n  {token}\n")?;
            token
        }
    };
    writeln!(out, "Command line:  berth login {url}")?;
    writeln!(
        out,
        "Claude Code:   claude mcp add --transport http berth {url}/mcp --header \"Authorization: Bearer {shown}\""
    )?;
    writeln!(out, "      or:      claude mcp add berth -- berth mcp\n")?;
    out.flush()?;
    Ok(())
}

fn write_secret(path: &Path, secret: &str) -> std::io::Result<()> {
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    // An existing file keeps its mode on opening.
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    writeln!(file, "{secret}")?;
    file.sync_all()
}
