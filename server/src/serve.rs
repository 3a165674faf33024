//! The daemon from its start to its end.
//!
//! The order is the point: the routes of apps before the proxy listens, so that the first visitor finds his app; then
//! the word that it is ready. The end goes the other way, or hands everything to the process after this one.

use std::{
    io::{IsTerminal as _, Write as _},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use berth_deploy::Arrival;
use berth_schemas::{Problem, Timestamp};
use berth_store::{MasterKey, Store, StoreError, model::Principal};
use berth_tools::Addresses;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::{
    certificates,
    cli::failure::Failure,
    config::{Config, LogFormat},
    control::{ControlPlane, Daemon, store_config},
    data_plane, notify,
    presence::Presence,
    signals::{Asked, Signals},
    sockets::Sockets,
    supervise::Supervisor,
    takeover::{Given, Offer, Predecessor, Program, Role, Taken},
    visits,
};

/// Calls to the control plane that are under way at an upgrade have so long to end.
const CALLS_END: Duration = Duration::from_secs(10);
/// Between tries to start the control plane again after an upgrade that came to nothing.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// Beyond the shutdown's limit, for what has to be written.
const SLACK: Duration = Duration::from_secs(5);

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

/// The whole process, once it runs.
struct Running {
    daemon: Daemon,
    control: ControlPlane,
    program: Program,
    signals: Signals,
    /// The data plane.
    supervisor: Supervisor,
    upgrades: mpsc::Receiver<oneshot::Sender<Problem>>,
    pump: JoinHandle<()>,
    pump_done: CancellationToken,
}

/// Why the process stops doing what it does.
enum Told {
    /// A signal, or the end of something essential (then false).
    Stop(bool),
    Upgrade(oneshot::Sender<Problem>),
}

async fn serve(start: Start) -> Result<ExitCode, Failure> {
    let Start { config, token_file } = start;
    let signals = Signals::listen()?;
    let program = Program::of_this_process()?;
    let (mut predecessor, taken) = match Predecessor::greet().await? {
        Some((predecessor, taken)) => (Some(predecessor), taken),
        None => (None, Taken::default()),
    };
    match begin(config, program, signals, &mut predecessor, taken).await {
        Ok(running) => running.announce(predecessor, token_file.as_deref()).await?.run().await,
        Err(failure) => match (predecessor, failure.as_problem()) {
            (Some(mut predecessor), Some(problem)) => Err(predecessor.refuse(problem).await),
            _ => Err(failure),
        },
    }
}

/// Brings everything up to the point where visitors could be served.
async fn begin(
    config: Config,
    program: Program,
    signals: Signals,
    predecessor: &mut Option<Predecessor>,
    taken: Taken,
) -> Result<Running, Failure> {
    let started_at = Timestamp::now();
    let sockets = Sockets::open(&config, taken)?;
    let plane = data_plane::open(&config, &sockets)?;
    let control_addr = sockets.addr(Role::Control).unwrap_or(config.control_addr);
    let control_url =
        config.public_url.clone().unwrap_or_else(|| format!("http://{}", reachable(control_addr)));
    let addresses = addresses(&config, plane.http);
    let key = load_key(&config).await?;
    // Up to here nothing was changed; what does not work is a reason to let the process before go on.
    let mut arrival = Arrival::Started;
    let alone = CancellationToken::new();
    match predecessor {
        Some(predecessor) => {
            predecessor.prepare(&store_config(&config)).await?;
            let (from, serving) = (predecessor.version.clone(), predecessor.serving.clone());
            arrival = Arrival::TookOver { from, serving };
        }
        None => alone.cancel(),
    }
    let (outlet, present) = watch::channel(None);
    let pump_done = CancellationToken::new();
    let pump = tokio::spawn(visits::pump(plane.records, present, pump_done.clone()));
    let (upgrade, upgrades) = mpsc::channel(1);
    let daemon = Daemon {
        config,
        sockets,
        key,
        plane: plane.handle,
        fallback: plane.fallback,
        outlet,
        addresses,
        control_url,
        started_at,
        upgrade,
    };
    let control = ControlPlane::start(&daemon, arrival, alone.clone()).await?;
    if let Some(predecessor) = predecessor {
        predecessor.alone = Some(alone);
    }
    let shutdown = CancellationToken::new();
    let mut supervisor = Supervisor::new(shutdown.clone());
    supervisor.start_once("data plane", data_plane::run(plane.server, shutdown));
    Ok(Running { daemon, control, program, signals, supervisor, upgrades, pump, pump_done })
}

impl Running {
    /// Tells everybody that this process serves.
    async fn announce(
        self,
        predecessor: Option<Predecessor>,
        token_file: Option<&Path>,
    ) -> Result<Self, Failure> {
        // Whoever finds the daemon by its file must find the token, too.
        first_start(self.control.store(), token_file, &self.daemon.control_url).await?;
        let presence = self.presence()?;
        tracing::info!(version = presence.version, data = %self.daemon.config.data_dir.display(), store = self.control.store().kind(), "berth has started");
        tracing::info!("control plane: {} (page /, API /docs, MCP /mcp)", self.daemon.control_url);
        match predecessor {
            Some(predecessor) => {
                let visits = self.daemon.outlet.borrow().clone();
                let visits = visits.ok_or_else(|| Failure::local("nothing records requests"))?;
                predecessor.serving(visits).await;
            }
            None => {
                notify::tell("READY=1");
                notify::keep(&self.daemon.sockets.handles().1);
            }
        }
        Ok(self)
    }

    fn presence(&self) -> Result<Presence, Failure> {
        let daemon = &self.daemon;
        let url = |role, configured| {
            format!("http://{}", reachable(daemon.sockets.addr(role).unwrap_or(configured)))
        };
        let presence = Presence {
            pid: std::process::id(),
            control_url: url(Role::Control, daemon.config.control_addr),
            http_url: url(Role::Http, daemon.config.http_addr),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.control.store().instance().to_owned(),
        };
        let dir = &daemon.config.data_dir;
        presence.write(dir).map_err(|e| file_failure("write daemon.json in", dir, &e))?;
        Ok(presence)
    }

    /// Serves until it is told to stop, or until another process has taken over.
    async fn run(mut self) -> Result<ExitCode, Failure> {
        loop {
            match self.until_told().await {
                Told::Stop(clean) => return Ok(self.stop(clean).await),
                Told::Upgrade(answer) => {
                    let drain = self.daemon.config.shutdown_timeout;
                    match Offer::make(&self.program, &self.daemon.sockets, drain).await {
                        Err(problem) => {
                            tracing::warn!(%problem, "the new version does not take over; this one goes on");
                            let _ = answer.send(problem);
                        }
                        Ok(offer) => match self.hand_over(offer).await {
                            Ok((rest, given)) => return Ok(rest.leave(given).await),
                            Err(running) => self = running,
                        },
                    }
                }
            }
        }
    }

    async fn until_told(&mut self) -> Told {
        loop {
            tokio::select! {
                asked = self.signals.next() => match asked {
                    Asked::Stop(signal) => {
                        tracing::info!("{signal}: finishing what is under way; a second signal ends at once");
                        return Told::Stop(true);
                    }
                    Asked::Upgrade => {
                        tracing::info!("SIGUSR2: handing over to the program that is installed now");
                        if let Err(problem) = self.control.pipeline.upgrade(&Principal::daemon()).await {
                            tracing::error!(%problem, "the upgrade could not begin");
                        }
                    }
                },
                Some(answer) = self.upgrades.recv() => return Told::Upgrade(answer),
                () = self.supervisor.failure() => return Told::Stop(false),
                () = self.control.failure() => return Told::Stop(false),
            }
        }
    }

    /// Ends the control plane, gives everything away, and either is left with open requests, or goes on because the
    /// new process failed.
    async fn hand_over(self, offer: Offer) -> Result<(Leaving, Given), Self> {
        let Self { daemon, control, program, signals, supervisor, mut upgrades, pump, pump_done } = self;
        let began = SystemTime::now();
        tracing::info!(to = offer.version, "handing over");
        let limit = CALLS_END.min(daemon.config.shutdown_timeout);
        // From here on records wait until somebody takes them.
        daemon.outlet.send_replace(None);
        control.end_work(limit).await.close().await;
        // The one that asked is gone with the pipeline; its job is ended by whoever goes on.
        while upgrades.try_recv().is_ok() {}
        let problem = match offer.give().await {
            Ok(given) => return Ok((Leaving { daemon, signals, supervisor, pump, pump_done }, given)),
            Err(problem) => problem,
        };
        tracing::error!(%problem, "the new version did not take over; this one goes on");
        let control = go_on(&daemon, &problem, began).await;
        let running = Self { daemon, control, program, signals, supervisor, upgrades, pump, pump_done };
        if let Err(failure) = running.presence() {
            tracing::warn!(?failure, "daemon.json was not written again");
        }
        Err(running)
    }

    /// The orderly end.
    async fn stop(mut self, clean: bool) -> ExitCode {
        notify::tell("STOPPING=1");
        let limit = self.daemon.config.shutdown_timeout + SLACK;
        let stopping = async {
            let ((), remains) = tokio::join!(self.supervisor.stop(limit), self.control.end_work(limit));
            self.pump_done.cancel();
            let _ = self.pump.await;
            remains.close().await;
        };
        tokio::select! {
            () = stopping => tracing::info!("berth has stopped"),
            signal = self.signals.stop() => tracing::warn!("{signal} again: berth ends at once"),
        }
        Presence::remove(&self.daemon.config.data_dir);
        if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Starts the control plane again after an upgrade that came to nothing, as often as it takes: visitors are served
/// meanwhile.
async fn go_on(daemon: &Daemon, problem: &Problem, began: SystemTime) -> ControlPlane {
    // The routes are made anew. What is in flight by the old ones has its time before a container is stopped.
    let alone = CancellationToken::new();
    let (plane, done, limit) = (daemon.plane.clone(), alone.clone(), daemon.config.shutdown_timeout);
    let before = plane.routes();
    loop {
        put_back(daemon, began).await;
        let arrival = Arrival::Stayed(problem.clone());
        match ControlPlane::start(daemon, arrival, alone.clone()).await {
            Ok(control) => {
                tokio::spawn(async move {
                    let _done = done.drop_guard();
                    let drains = before.targets().map(|target| plane.drain(target, limit));
                    futures_util::future::join_all(drains).await;
                });
                return control;
            }
            Err(failure) => {
                tracing::error!(?failure, "the control plane could not be started again; trying again");
                tokio::time::sleep(TRY_AGAIN).await;
            }
        }
    }
}

/// Puts the database back if the new version has brought it forward.
async fn put_back(daemon: &Daemon, began: SystemTime) {
    if !matches!(berth_store::preview(&daemon.store_config()).await, Err(StoreError::Newer { .. })) {
        return;
    }
    let dir = daemon.config.data_dir.clone();
    // The clock of the file system may be a little behind.
    let since = began - Duration::from_secs(2);
    match tokio::task::spawn_blocking(move || berth_store::put_back(&dir, since)).await {
        Ok(Ok(Some(copy))) => {
            tracing::warn!(copy = %copy.display(), "the database is as it was before the new version changed it");
        }
        Ok(Ok(None)) => {
            tracing::error!("the new version changed the database, and there is no copy to put back");
        }
        Ok(Err(error)) => tracing::error!(%error, "the database could not be put back"),
        Err(error) => tracing::error!(%error, "the database could not be put back"),
    }
}

/// A process that another has taken over from, with visitors whose requests are not over.
struct Leaving {
    daemon: Daemon,
    signals: Signals,
    supervisor: Supervisor,
    pump: JoinHandle<()>,
    pump_done: CancellationToken,
}

impl Leaving {
    /// Lets open requests end, and tells the other process of them.
    async fn leave(mut self, mut given: Given) -> ExitCode {
        if let Some(pid) = given.pid {
            notify::tell(&format!("MAINPID={pid}"));
        }
        tracing::info!(pid = given.pid, "the new version serves; letting open requests end");
        let (sender, mut receiver) = mpsc::channel(visits::QUEUE);
        self.daemon.outlet.send_replace(Some(sender));
        let telling = tokio::spawn(async move {
            while let Some(visit) = receiver.recv().await {
                if given.tell(visit).await.is_err() {
                    return;
                }
            }
        });
        let leaving = async {
            self.supervisor.stop(self.daemon.config.shutdown_timeout + SLACK).await;
            self.pump_done.cancel();
            let _ = self.pump.await;
            // The last sender goes, and with it what is told.
            self.daemon.outlet.send_replace(None);
            let _ = telling.await;
        };
        tokio::select! {
            () = leaving => tracing::info!("the process before has ended its last request"),
            signal = self.signals.stop() => tracing::warn!("{signal}: the rest is cut"),
        }
        ExitCode::SUCCESS
    }
}

async fn load_key(config: &Config) -> Result<MasterKey, Failure> {
    let dir = config.data_dir.clone();
    let key = tokio::task::spawn_blocking(move || MasterKey::load_or_create(&dir)).await;
    let key = key.map_err(|e| Failure::local(e.to_string()))?;
    key.map_err(|e| Problem::from(StoreError::from(e)).into())
}

pub(crate) fn file_failure(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::local(format!("cannot {what} {}: {error}", path.display()))
}

/// An address that can be connected to from this machine: the wildcard is none.
pub(crate) fn reachable(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(a) if a.ip().is_unspecified() => (std::net::Ipv4Addr::LOCALHOST, a.port()).into(),
        SocketAddr::V6(a) if a.ip().is_unspecified() => (std::net::Ipv6Addr::LOCALHOST, a.port()).into(),
        other => other,
    }
}

fn addresses(config: &Config, http: SocketAddr) -> Addresses {
    // An app's own name has a certificate if there is one for all names, or one is ordered for it.
    let certified = config.default_certificate.is_some() || certificates::orders_for_apps(config);
    let (scheme, port, usual) = match config.https {
        Some(https) if certified => ("https", https.port(), 443),
        _ => ("http", http.port(), 80),
    };
    Addresses {
        base_domain: config.base_domain.clone(),
        scheme,
        port: (port != usual).then_some(port),
        https: config.https.map(|addr| addr.port()),
    }
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
