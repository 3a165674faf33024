//! A world to tell stories in: one app, an engine, a store, a data plane, and a pipeline that can be killed.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use berth_deploy::{
    Addresses, Arrival, EngineOutput, EnqueueOptions, Pipeline, PipelineConfig,
    docker::{
        ContainerId, ContainerPhase, ContainerSummary, Engine, ImageRef, InstanceId, Workload,
        fake::{Behaviour, FakeEngine, Serve},
    },
};
use berth_observe::{CollectorConfig, LogCollector};
use berth_proxy::{AccessSink, ProxyConfig, ProxyHandle, ProxyServer, RouteTable};
use berth_schemas::{DeploymentRef, Problem, app::AppSettings, deployment::DeploymentState};
use berth_store::{
    MasterKey, Store, StoreConfig,
    model::{AppRow, DeploymentId, DeploymentRow, DeploymentSource, Enqueued, JobRow, Principal, Visible},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

/// Longest wait for anything in these stories.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) engine: FakeEngine,
    proxy: ProxyHandle,
    pub(crate) addr: SocketAddr,
    run: Option<Run>,
    pub(crate) dir: tempfile::TempDir,
    stop_proxy: tokio::sync::watch::Sender<bool>,
}

/// One life of the daemon, on a runtime of its own, so that it can be cut off between any two steps.
struct Run {
    runtime: tokio::runtime::Runtime,
    pipeline: Pipeline,
    shutdown: CancellationToken,
}

/// No earlier process serves beside this one.
fn alone() -> CancellationToken {
    let alone = CancellationToken::new();
    alone.cancel();
    alone
}

/// Quick to fail, to drain and to be trusted.
pub(crate) fn quick() -> AppSettings {
    AppSettings {
        health_timeout_s: Some(2),
        health_interval_s: Some(1),
        drain_timeout_s: Some(1),
        watch_window_s: Some(0),
        keep_releases: Some(3),
        ..AppSettings::default()
    }
}

/// Answers with its name.
pub(crate) fn answering(body: &str) -> Behaviour {
    Behaviour {
        serve: Serve::Http { status: 200, body: body.into(), takes: Duration::ZERO },
        ..Behaviour::default()
    }
}

/// Ends before it opened its port.
pub(crate) fn failing() -> Behaviour {
    Behaviour {
        listen_after: Duration::from_secs(600),
        exit: Some((Duration::from_millis(30), 3, false)),
        ..Behaviour::default()
    }
}

impl World {
    /// A world with the app "web" in it, never deployed.
    pub(crate) async fn new(settings: AppSettings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = MasterKey::load_or_create(dir.path()).unwrap();
        let config = StoreConfig { data_dir: dir.path().to_owned(), database_url: None };
        let store = Store::open(config, key).await.unwrap();
        let project = store.projects().list(&Visible::All).await.unwrap()[0].id;
        let name = "web".parse().unwrap();
        store.apps().create(&Principal::daemon(), project, name, settings).await.unwrap();
        let engine = FakeEngine::new(InstanceId::new(store.instance().parse().unwrap()));
        let listen = vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()];
        let config = ProxyConfig {
            http: listen,
            shutdown_timeout: Duration::from_millis(100),
            ..ProxyConfig::default()
        };
        let (server, proxy) = ProxyServer::bind(config, AccessSink::discard()).unwrap();
        let addr = server.local_addrs()[0];
        let (stop_proxy, stopped) = tokio::sync::watch::channel(false);
        tokio::spawn(server.run(stopped));
        let mut world = Self { store, engine, proxy, addr, run: None, dir, stop_proxy };
        world.start().await;
        world
    }

    /// Starts the daemon.
    pub(crate) async fn start(&mut self) {
        assert!(self.run.is_none());
        self.proxy.set_routes(RouteTable::default());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let shutdown = CancellationToken::new();
        let engine: Arc<dyn Engine> = Arc::new(self.engine.clone());
        let (store, proxy, stop) = (self.store.clone(), self.proxy.clone(), shutdown.clone());
        let instance = self.engine.instance();
        let config = PipelineConfig {
            data_dir: self.dir.path().to_owned(),
            addresses: Addresses {
                base_domain: "localhost".into(),
                scheme: "http",
                port: Some(8080),
                https: None,
            },
            concurrent_builds: 2,
            min_free_bytes: 0,
            build_cache_bytes: 10 << 30,
            allow_private_sources: true,
            allow_local_sources: true,
            git_ssh_key: None,
            git_access: None,
            max_source_bytes: 1 << 20,
            arrival: Arrival::Started,
            alone: alone(),
            successor: None,
            control: None,
            errors: None,
            maps: None,
            eraser: None,
        };
        let opening = runtime.spawn(async move {
            let output = Arc::new(EngineOutput(Arc::clone(&engine)));
            let collector =
                LogCollector::start(store.clone(), output, CollectorConfig::default(), stop.clone());
            Pipeline::open(store, engine, instance, proxy, collector, config, stop).await.unwrap()
        });
        let pipeline = opening.await.unwrap();
        self.run = Some(Run { runtime, pipeline, shutdown });
    }

    /// Ends the daemon as a SIGTERM does.
    pub(crate) async fn stop(&mut self) {
        let Run { runtime, pipeline, shutdown } = self.run.take().unwrap();
        shutdown.cancel();
        let stopped = runtime.spawn(async move { pipeline.stopped().await });
        tokio::time::timeout(PATIENCE, stopped).await.expect("the pipeline does not stop").unwrap();
        runtime.shutdown_background();
    }

    /// Ends the daemon as a SIGKILL does: whatever it was about to do does not happen.
    pub(crate) async fn kill(&mut self) {
        let Run { runtime, pipeline, .. } = self.run.take().unwrap();
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(5))).await.unwrap();
        drop(pipeline);
        // A real kill ends the database's thread as well; here a commit that was handed to it is let through first.
        let nobody = uuid::Uuid::nil().to_string().parse().unwrap();
        self.store.jobs().set_message(&nobody, "").await.unwrap();
    }

    /// Calls the daemon, on its own runtime.
    pub(crate) async fn call<T, F>(&self, call: impl FnOnce(Pipeline) -> F) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let run = self.run.as_ref().unwrap();
        run.runtime.spawn(call(run.pipeline.clone())).await.unwrap()
    }

    pub(crate) fn pipeline(&self) -> Pipeline {
        self.run.as_ref().unwrap().pipeline.clone()
    }

    pub(crate) async fn app(&self) -> AppRow {
        self.store.apps().by_slug(&Visible::All, &"web".parse().unwrap()).await.unwrap().unwrap()
    }

    /// Puts an image into the engine; `body` is also its name.
    pub(crate) fn image(&self, name: &str, behaviour: Behaviour) -> String {
        self.engine.add_image(&ImageRef::parse(name).unwrap().to_string(), behaviour)
    }

    pub(crate) async fn enqueue(&self, source: DeploymentSource) -> Result<DeploymentRow, Problem> {
        Ok(self.ask(source).await?.into_row())
    }

    pub(crate) async fn ask(&self, source: DeploymentSource) -> Result<Enqueued, Problem> {
        self.ask_in(self.app().await, source).await
    }

    /// Deploys an answering image to an environment and waits for the end.
    pub(crate) async fn deploy_in(&self, app: &AppRow, image: &str) -> DeploymentRow {
        self.image(image, answering(image));
        let source = DeploymentSource::Image { image: image.into() };
        let row = self.ask_in(app.clone(), source).await.unwrap().into_row();
        let row = self.end(row.id).await;
        assert_eq!(row.state, DeploymentState::Live, "{:?}", row.problem);
        row
    }

    pub(crate) async fn ask_in(&self, app: AppRow, source: DeploymentSource) -> Result<Enqueued, Problem> {
        self.call(|p| async move {
            p.enqueue(&Principal::daemon(), &app, source, EnqueueOptions::default()).await
        })
        .await
    }

    /// Begins to deploy an image.
    pub(crate) async fn begin(&self, image: &str) -> DeploymentRow {
        self.enqueue(DeploymentSource::Image { image: image.into() }).await.unwrap()
    }

    /// Deploys an image and waits for the end.
    pub(crate) async fn deploy(&self, image: &str) -> DeploymentRow {
        let row = self.begin(image).await;
        self.end(row.id).await
    }

    /// Puts an answering image there and deploys it.
    pub(crate) async fn deploy_new(&self, image: &str) -> DeploymentRow {
        self.image(image, answering(image));
        let row = self.deploy(image).await;
        assert_eq!(row.state, DeploymentState::Live, "{:?}", row.problem);
        row
    }

    pub(crate) async fn rollback(&self, to: &DeploymentRow) -> DeploymentRow {
        let source = DeploymentSource::Rollback { release: to.release.unwrap(), to: to.reference() };
        self.enqueue(source).await.unwrap()
    }

    pub(crate) async fn redeploy(&self) -> Result<DeploymentRow, Problem> {
        let release = self.app().await.environment.live.unwrap();
        let number = self.store.releases().get(release).await.unwrap().unwrap().number;
        let of = DeploymentRef::new("web".parse().unwrap(), number);
        self.enqueue(DeploymentSource::Redeploy { release, of }).await
    }

    pub(crate) async fn cancel(&self, row: &DeploymentRow) -> Result<DeploymentRow, Problem> {
        let row = self.row(row.id).await;
        self.call(|p| async move { p.cancel(&Principal::daemon(), &row).await }).await
    }

    pub(crate) async fn row(&self, id: DeploymentId) -> DeploymentRow {
        self.store.deployments().get(id).await.unwrap().unwrap()
    }

    /// The deployment when it has settled.
    pub(crate) async fn end(&self, id: DeploymentId) -> DeploymentRow {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut row = self.call(|p| async move { p.wait(id, PATIENCE).await }).await.unwrap();
        // A rollout rests where it is until somebody decides, or it is found to be broken.
        while !row.state.is_settled() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
            row = self.row(id).await;
        }
        assert!(row.state.is_settled(), "{} stays {}", row.reference(), row.state.as_str());
        row
    }

    /// Waits until a deployment is in this state, or past it.
    pub(crate) async fn reaches(&self, id: DeploymentId, state: DeploymentState) {
        self.until("the state is reached", async || {
            let steps = self.store.deployments().transitions(id).await.unwrap();
            steps.iter().any(|s| s.state == state)
        })
        .await;
    }

    pub(crate) async fn job<F>(&self, ask: impl FnOnce(Pipeline, AppRow) -> F) -> JobRow
    where
        F: Future<Output = Result<JobRow, Problem>> + Send + 'static,
    {
        let app = self.app().await;
        let job = self.call(|p| ask(p, app)).await.unwrap();
        self.job_end(&job).await
    }

    pub(crate) async fn job_end(&self, job: &JobRow) -> JobRow {
        let id = job.id.clone();
        let job = self.call(|p| async move { p.wait_job(&id, PATIENCE).await }).await.unwrap();
        assert!(job.state.is_final(), "the job {} stays {:?}", job.kind.as_str(), job.state);
        job
    }

    pub(crate) async fn containers(&self) -> Vec<ContainerSummary> {
        // Past the switch that takes the engine away, and past the journal of calls.
        self.engine.list_containers().await.unwrap_or_default()
    }

    /// Containers that run, with the number of the release that they belong to.
    pub(crate) async fn running(&self) -> Vec<(ContainerId, i64)> {
        let all = self.containers().await.into_iter().filter(|c| c.phase == ContainerPhase::Running);
        all.map(|c| (c.id, Workload::from_labels(&c.labels).unwrap().deployment)).collect()
    }

    /// What a visitor gets: status and body.
    pub(crate) async fn visit(&self) -> (u16, String) {
        visit(self.addr).await.unwrap_or((0, String::new()))
    }

    /// Waits until a visitor gets this body.
    pub(crate) async fn serves(&self, body: &str) {
        self.until(&format!("{body} serves"), async || self.visit().await == (200, body.to_owned())).await;
    }

    pub(crate) async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !holds().await {
            if tokio::time::Instant::now() > deadline {
                let rows = self.store.deployments().list(self.app().await.id, None, None, 50).await.unwrap();
                let rows: Vec<_> = rows.iter().map(|r| (r.number, r.state, &r.problem)).collect();
                panic!("it never comes to this: {what}\n{rows:#?}\n{:#?}", self.containers().await);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.stop_proxy.send(true);
        if let Some(run) = self.run.take() {
            run.shutdown.cancel();
            run.runtime.shutdown_background();
        }
    }
}

/// The same of any host.
pub(crate) async fn visit_host(addr: SocketAddr, host: &str) -> std::io::Result<(u16, String)> {
    ask(addr, host, "").await
}

/// One request on a connection of its own.
pub(crate) async fn visit(addr: SocketAddr) -> std::io::Result<(u16, String)> {
    visit_as(addr, "").await
}

/// The same with more headers.
pub(crate) async fn visit_as(addr: SocketAddr, headers: &str) -> std::io::Result<(u16, String)> {
    ask(addr, "web.localhost", headers).await
}

async fn ask(addr: SocketAddr, host: &str, headers: &str) -> std::io::Result<(u16, String)> {
    let mut stream = tokio::net::TcpStream::connect(addr).await?;
    let head = format!("GET / HTTP/1.1\r\nhost: {host}\r\n{headers}connection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await??;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}
