//! Making the world agree with the store: at start, when the engine reports something, and every half minute.
//!
//! What is true is read from the engine and the files, never guessed. Only things that carry this instance's
//! labels are touched.

use std::{collections::HashSet, sync::Arc, time::Duration};

use berth_schemas::{Code, Problem, Timestamp, app::Replica, deployment::DeploymentState};
use berth_store::model::{
    AppId, AppRow, Artifact, Change, DeploymentRow, EnvironmentId, NewEvent, ReleaseId, ReleaseRow, Visible,
};
use futures_util::StreamExt;
use tokio::sync::mpsc;

use crate::{
    attempt::{io_problem, remove_dir},
    docker::{ContainerPhase, ContainerSummary, EngineEvent, EngineEventKind, Workload},
    fault::engine_problem,
    pipeline::Inner,
    probe::HealthPolicy,
    routes::replica_addrs,
    start::{Running, replica_of},
};

/// Everything is looked at this often, whatever the engine reports.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// Longest wait for the engine before the first routes are set without it.
const BOOT_PATIENCE: Duration = Duration::from_millis(700);
/// A deployment that was begun this often and never ended is given up.
const MAX_ATTEMPTS: i64 = 3;
/// Time that a container, started again, has to open its port before it is routed.
const REOPEN_LIMIT: Duration = Duration::from_secs(60);

impl Inner {
    /// Brings what the last run left to a true state and sets the first routes.
    pub(crate) async fn boot(self: &Arc<Self>) -> Result<(), Problem> {
        let work = self.config.data_dir.join("work");
        remove_dir(&work).await.map_err(|e| io_problem("clearing the work directory", &e))?;
        tokio::fs::create_dir_all(&work).await.map_err(|e| io_problem("making the work directory", &e))?;
        for row in self.store.deployments().unsettled().await? {
            self.take_up(row).await?;
        }
        let containers = match tokio::time::timeout(BOOT_PATIENCE, self.engine.list_containers()).await {
            Ok(Ok(containers)) => Some(containers),
            Ok(Err(error)) => {
                tracing::warn!(%error, "Docker does not answer; containers are routed when it does");
                None
            }
            Err(_) => {
                tracing::warn!("Docker is slow to answer; containers are routed when it does");
                None
            }
        };
        for app in self.store.apps().all(&Visible::All).await? {
            if let Err(problem) = self.first_route(&app, containers.as_deref()).await {
                tracing::error!(app = %app.slug, %problem, "an app could not be routed at start");
            }
        }
        self.resume_jobs().await?;
        Ok(())
    }

    /// A deployment that the last run did not end.
    async fn take_up(self: &Arc<Self>, row: DeploymentRow) -> Result<(), Problem> {
        let restarted = || Change { reason: Some("the daemon was restarted".into()), problem: None };
        match row.state {
            DeploymentState::Queued => {}
            // The pointer moved with the state, so it has the traffic; what it replaced is stopped below.
            DeploymentState::Draining => {
                self.store.deployments().finish_live(row.id).await?;
            }
            _ => {
                self.drop_unused_release(&row).await;
                let (to, change) = if row.cancel_requested {
                    (DeploymentState::Cancelled, Change { reason: Some("cancelled".into()), problem: None })
                } else if row.attempt >= MAX_ATTEMPTS {
                    let problem = Problem::new(
                        Code::Interrupted,
                        format!("The daemon was restarted {} times during this deployment, which was then given up.", row.attempt),
                    )
                    .hint("Deploy again.")
                    .step(row.state.as_str());
                    (
                        DeploymentState::Failed,
                        Change { reason: Some(problem.detail.clone()), problem: Some(problem) },
                    )
                } else {
                    (DeploymentState::Queued, restarted())
                };
                self.store.deployments().transition(row.id, row.state, to, change).await?;
            }
        }
        Ok(())
    }

    /// Routes an app by what is there now; what is missing is healed behind.
    async fn first_route(
        self: &Arc<Self>,
        app: &AppRow,
        containers: Option<&[ContainerSummary]>,
    ) -> Result<(), Problem> {
        let Some(live) = app.environment.live else {
            self.routes.nothing(app);
            return Ok(());
        };
        if app.environment.stopped {
            self.routes.stopped(app);
            return Ok(());
        }
        let Some(release) = self.store.releases().get(live).await? else {
            self.routes.nothing(app);
            return Ok(());
        };
        if let Artifact::Static { .. } = release.artifact {
            self.routes.serve(app, &release, self.target(app, &release, None)?);
            return Ok(());
        }
        let mut running = Vec::new();
        for container in containers.unwrap_or_default() {
            let ours = Workload::from_labels(&container.labels)
                .is_some_and(|w| w.release == release.id.0.to_string());
            if ours && container.phase == ContainerPhase::Running {
                if let Some(up) = self.running(&release, container).await {
                    running.push(up);
                }
            }
        }
        if running.is_empty() {
            self.routes.starting(app, release.id);
        } else {
            self.routes.serve(app, &release, self.target(app, &release, Some(&running))?);
            self.collect_logs(app, &release, &running);
        }
        Ok(())
    }

    /// Looks at environments that were reported, and at all of them from time to time.
    pub(crate) async fn reconcile(self: Arc<Self>, mut looks: mpsc::Receiver<EnvironmentId>) {
        self.remove_orphans().await;
        self.look_at_all().await;
        let mut interval = tokio::time::interval(LOOK_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        interval.tick().await;
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                _ = interval.tick() => self.look_at_all().await,
                Some(environment) = looks.recv() => {
                    let mut due = HashSet::from([environment]);
                    while let Ok(more) = looks.try_recv() {
                        due.insert(more);
                    }
                    for environment in due {
                        self.look_at(environment);
                    }
                }
            }
        }
    }

    async fn look_at_all(self: &Arc<Self>) {
        match self.store.apps().all(&Visible::All).await {
            Ok(apps) => {
                for app in apps.into_iter().filter(|a| !a.deleting && a.environment.live.is_some()) {
                    self.look_at(app.environment.id);
                }
            }
            Err(error) => tracing::error!(%error, "apps could not be read; looking again later"),
        }
    }

    fn look_at(self: &Arc<Self>, environment: EnvironmentId) {
        let inner = Arc::clone(self);
        self.spawn(async move {
            let lock = inner.traffic_lock(environment);
            // Somebody is changing it; the next look sees what came of it.
            let Ok(_held) = lock.try_lock() else { return };
            if let Err(problem) = inner.heal(environment).await {
                tracing::warn!(environment = environment.0, %problem, "an environment could not be put right; trying again");
            }
        });
    }

    /// Makes the containers of an environment's live release what they should be. The caller holds the traffic
    /// lock.
    pub(crate) async fn heal(self: &Arc<Self>, environment: EnvironmentId) -> Result<(), Problem> {
        let Some(app) = self.store.apps().by_environment(environment).await? else { return Ok(()) };
        let (Some(live), false) = (app.environment.live, app.deleting) else { return Ok(()) };
        if app.environment.stopped {
            self.routes.stopped(&app);
            self.stop_release(live).await;
            return Ok(());
        }
        let Some(release) = self.store.releases().get(live).await? else { return Ok(()) };
        let Artifact::Image { .. } = release.artifact else {
            if self.routes.serves(environment) != Some(release.id) {
                self.routes.serve(&app, &release, self.target(&app, &release, None)?);
            }
            return Ok(());
        };
        let wanted = app.environment.replicas.max(1);
        let containers = self.containers_of(release.id).await.map_err(|e| engine_problem(&e))?;
        let mut up = Vec::new();
        let mut dead_exit = None;
        for container in containers.iter().filter(|c| replica_of(c).is_some_and(|n| n <= wanted)) {
            match container.phase {
                ContainerPhase::Running => up.extend(self.running(&release, container).await),
                ContainerPhase::Exited => {
                    let state = self.engine.inspect_container(&container.id).await.ok();
                    dead_exit = state.and_then(|s| s.exit_code);
                }
                _ => {}
            }
        }
        if up.is_empty() && self.roll_back_dead(&app, &release, dead_exit).await? {
            return Ok(());
        }
        // Those that run are routed before the slow part.
        self.route_running(&app, &release, &up)?;
        let missing: Vec<i64> = (1..=wanted).filter(|n| !up.iter().any(|u| u.replica == *n)).collect();
        let restarting = |n: i64| {
            containers.iter().any(|c| replica_of(c) == Some(n) && c.phase == ContainerPhase::Restarting)
        };
        for replica in missing.into_iter().filter(|n| !restarting(*n)) {
            let started = self.run_replicas(&app, &release, replica..=replica).await?;
            self.wait_open(&app, &release, &started).await?;
            tracing::info!(app = %app.slug, replica, "a container that should run was started");
            up.extend(started);
            self.route_running(&app, &release, &up)?;
        }
        let window_over = release.live_at.is_some_and(|at| {
            Timestamp::now().millis_since(at)
                > i64::try_from(crate::switch::watch_window(&app).as_millis()).unwrap_or(i64::MAX)
        });
        if window_over {
            self.let_engine_restart(release.id).await;
        }
        Ok(())
    }

    /// Points the route at the containers that run, without a new generation where the release stays the same.
    fn route_running(
        self: &Arc<Self>,
        app: &AppRow,
        release: &ReleaseRow,
        up: &[Running],
    ) -> Result<(), Problem> {
        if up.is_empty() {
            // The data plane says that no replica answers.
            if let Some(target) = self.routes.serving_target(app.environment.id) {
                drop(target.set_replicas(Vec::new()));
            }
            return Ok(());
        }
        match self.routes.serving_target(app.environment.id) {
            Some(target) if self.routes.serves(app.environment.id) == Some(release.id) => {
                drop(target.set_replicas(replica_addrs(up)));
            }
            _ => {
                self.routes.serve(app, release, self.target(app, release, Some(up))?);
            }
        }
        self.collect_logs(app, release, up);
        Ok(())
    }

    /// A running container with its address; none if it has none (any more).
    pub(crate) async fn running(
        &self,
        release: &ReleaseRow,
        container: &ContainerSummary,
    ) -> Option<Running> {
        let Artifact::Image { port, .. } = release.artifact else { return None };
        let addr = self.engine.address(&container.id, port).await.ok()?;
        Some(Running { id: container.id.clone(), replica: replica_of(container)?, addr })
    }

    /// Waits until containers that were started again answer as their health check wants.
    pub(crate) async fn wait_open(
        &self,
        app: &AppRow,
        release: &ReleaseRow,
        started: &[Running],
    ) -> Result<(), Problem> {
        let policy = HealthPolicy { total: REOPEN_LIMIT, ..self.health_policy(release) };
        let host = self.config.addresses.host(&app.slug);
        for container in started {
            self.wait_replica(&policy, &host, container, &self.shutdown).await.map_err(|failure| {
                crate::fault::health_problem(&failure, policy.path.as_deref(), Vec::new())
            })?;
        }
        Ok(())
    }

    /// Follows the engine's events and has what they concern looked at.
    pub(crate) async fn follow_engine(self: Arc<Self>) {
        let mut since = None;
        loop {
            let mut events = self.engine.events(since);
            loop {
                let event = tokio::select! {
                    () = self.shutdown.cancelled() => return,
                    event = events.next() => event,
                };
                match event {
                    Some(Ok(event)) => {
                        since = Some(event.at_nanos + 1);
                        self.notice(event).await;
                    }
                    Some(Err(error)) => {
                        tracing::debug!(%error, "the engine's events broke off");
                        break;
                    }
                    None => break,
                }
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
            // Containers may have come and gone while nobody listened.
            self.look_at_all().await;
        }
    }

    async fn notice(&self, event: EngineEvent) {
        let Some(workload) = Workload::from_labels(&event.labels) else { return };
        let Ok(slug) = workload.app.parse() else { return };
        let Ok(Some(app)) = self.store.apps().by_slug(&Visible::All, &slug).await else { return };
        let live = app.environment.live == workload.release.parse().ok().map(ReleaseId);
        match event.kind {
            EngineEventKind::Die { exit_code } if live && !app.environment.stopped && !app.deleting => {
                let event = NewEvent {
                    kind: "container.died",
                    by: "berth".into(),
                    app: Some(app.id),
                    summary: format!(
                        "replica {} of {} (release {}) ended with exit code {exit_code}",
                        workload.replica, app.slug, workload.deployment
                    ),
                    data: serde_json::json!({ "exit_code": exit_code, "release": workload.deployment, "replica": workload.replica }),
                };
                if let Err(error) = self.store.events().append(event).await {
                    tracing::warn!(%error, "an event was not kept");
                }
            }
            EngineEventKind::Start
            | EngineEventKind::Destroy
            | EngineEventKind::Oom
            | EngineEventKind::Rename => {}
            _ => return,
        }
        if live {
            // A full channel means that a look at everything is due anyway.
            let _ = self.look.try_send(app.environment.id);
        }
    }

    /// Removes containers that no kept release explains.
    async fn remove_orphans(self: &Arc<Self>) {
        let Ok(containers) = self.engine.list_containers().await else { return };
        for container in containers {
            let release =
                Workload::from_labels(&container.labels).and_then(|w| w.release.parse().ok()).map(ReleaseId);
            let known = match release {
                Some(id) => match self.store.releases().get(id).await {
                    Ok(found) => found.is_some_and(|r| !r.removed),
                    Err(_) => true,
                },
                None => false,
            };
            let young = Timestamp::now().micros() - container.created_at < 60_000_000;
            if !known && !young {
                tracing::info!(container = container.name, "removing a container that belongs to no release");
                if let Err(error) = self.engine.remove_container(&container.id).await {
                    tracing::warn!(container = container.name, %error, "it could not be removed");
                }
            }
        }
        self.stop_strays().await;
    }

    /// Stops containers of releases that are kept but do not serve.
    async fn stop_strays(self: &Arc<Self>) {
        let Ok(apps) = self.store.apps().all(&Visible::All).await else { return };
        for app in apps {
            if let Some(live) = app.environment.live {
                self.retire_others(app.environment.id, live).await;
            }
        }
    }

    /// The containers of an app's live release, as the engine knows them.
    pub(crate) async fn replicas_shown(&self, app: &AppRow) -> Vec<Replica> {
        let Some(live) = app.environment.live else { return Vec::new() };
        let Ok(containers) = self.containers_of(live).await else { return Vec::new() };
        let mut shown = Vec::new();
        for container in containers {
            let Ok(state) = self.engine.inspect_container(&container.id).await else { continue };
            shown.push(Replica {
                replica: replica_of(&container).unwrap_or_default(),
                container: container.id.short().to_owned(),
                state: format!("{:?}", container.phase).to_lowercase(),
                restarts: i64::from(state.restart_count),
                started_at: state.started_at.map(Timestamp),
                exit_code: if state.running { None } else { state.exit_code },
            });
        }
        shown
    }

    /// Routes of an app after its settings changed.
    pub(crate) async fn refresh_app_routes(&self, app: AppId) -> Result<(), Problem> {
        let app = self.app(app).await?;
        self.routes.moved(&app);
        Ok(())
    }
}
