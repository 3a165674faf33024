//! Noticing where the world does not agree with the store: at start, when the engine reports something, and every half
//! minute. How it is put right is in `heal` and `sweep`.
//!
//! What is true is read from the engine and the files, never guessed.

use std::{sync::Arc, time::Duration};

use berth_schemas::{Code, Problem, Timestamp, app::Replica, deployment::DeploymentState};
use berth_store::model::{
    AppId, AppRow, Artifact, Change, DeploymentRow, EnvironmentId, NewEvent, ReleaseId, Visible,
};
use futures_util::StreamExt;
use tokio::sync::mpsc;

use crate::{
    attempt::{io_problem, remove_dir},
    docker::{ContainerSummary, EngineEvent, EngineEventKind, Workload},
    pipeline::Inner,
    start::replica_of,
};

/// Everything is looked at this often, whatever the engine reports.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// Longest wait for the engine before the first routes are set without it.
const BOOT_PATIENCE: Duration = Duration::from_millis(700);
/// A deployment that was begun this often and never ended is given up.
const MAX_ATTEMPTS: i64 = 3;
/// Time for removing what an unfinished deployment began; what takes longer is swept later.
const TRACES_LIMIT: Duration = Duration::from_secs(5);
/// An engine that is away is asked this often whether it is back.
const PING_INTERVAL: Duration = Duration::from_secs(1);

impl Inner {
    /// Brings what the last run left to a true state and sets the first routes.
    pub(crate) async fn boot(self: &Arc<Self>) -> Result<(), Problem> {
        let work = self.config.data_dir.join("work");
        remove_dir(&work).await.map_err(|e| io_problem("clearing the work directory", &e))?;
        tokio::fs::create_dir_all(&work).await.map_err(|e| io_problem("making the work directory", &e))?;
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
        // First the visitors: what has the traffic is said by the pointer alone.
        for app in self.store.apps().all_environments(&Visible::All).await? {
            if let Err(problem) = self.first_route(&app, containers.as_deref()).await {
                tracing::error!(app = %app.slug, %problem, "an app could not be routed at start");
            }
        }
        self.load_domains().await?;
        self.routes.begin();
        for row in self.store.deployments().unsettled().await? {
            let name = row.reference();
            if row.state == DeploymentState::RollingOut {
                if let Err(problem) = self.restore_trial(&row, containers.as_deref()).await {
                    tracing::warn!(deployment = %name, %problem, "a rollout gets its part of the traffic a little later");
                }
                self.begin(row);
                continue;
            }
            if let Err(problem) = self.take_up(row).await {
                // Not a reason to serve nobody: the queue takes it up again.
                tracing::error!(deployment = %name, %problem, "a deployment could not be taken up");
            }
        }
        self.resume_watches().await?;
        self.resume_jobs().await?;
        Ok(())
    }

    /// A deployment that was begun and that nobody works on: brings it to a state that is true.
    pub(crate) async fn take_up(self: &Arc<Self>, row: DeploymentRow) -> Result<(), Problem> {
        let deployments = self.store.deployments();
        match row.state {
            DeploymentState::Queued | DeploymentState::RollingOut => return Ok(()),
            // The pointer moved with the state, so it has the traffic; what it replaced is stopped by the sweep.
            DeploymentState::Draining => {
                deployments.finish_live(row.id).await?;
                self.moved(row.id, DeploymentState::Live, None);
                return Ok(());
            }
            _ => {}
        }
        let traces = self.drop_traces(&row);
        if tokio::time::timeout(TRACES_LIMIT, traces).await.is_err() {
            tracing::warn!(deployment = %row.reference(), "what a deployment began was not removed in time; it is swept later");
        }
        // From `switching` there is no way to `cancelled`: back in the queue, the wish to cancel is seen there.
        let (to, change) = if row.cancel_requested && row.state.is_cancellable() {
            (DeploymentState::Cancelled, Change { reason: Some("cancelled".into()), problem: None })
        } else if row.attempt >= MAX_ATTEMPTS && !row.cancel_requested {
            let problem = given_up(&row);
            (DeploymentState::Failed, Change { reason: Some(problem.detail.clone()), problem: Some(problem) })
        } else {
            (
                DeploymentState::Queued,
                Change { reason: Some("the daemon was restarted".into()), problem: None },
            )
        };
        let reason = change.reason.clone();
        deployments.transition(row.id, row.state, to, change).await?;
        self.moved(row.id, to, reason);
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
        if app.environment.sleeping() {
            drop(self.show_asleep(app, &release));
            return Ok(());
        }
        let running = self.running_among(&release, containers.unwrap_or_default()).await;
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
        let mut interval = tokio::time::interval(LOOK_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The sweep stops things and so may take its time; looking at what serves does not wait for it.
        let mut sweep: Option<tokio::task::JoinHandle<()>> = None;
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                Some(environment) = looks.recv() => {
                    self.look_at(environment);
                    continue;
                }
                _ = interval.tick() => {}
                () = self.sweep_now.notified() => {}
            }
            self.look_at_all().await;
            if sweep.as_ref().is_none_or(tokio::task::JoinHandle::is_finished) {
                sweep = Some(self.tasks.spawn(Arc::clone(&self).sweep()));
            }
        }
    }

    async fn look_at_all(self: &Arc<Self>) {
        match self.store.apps().all_environments(&Visible::All).await {
            Ok(apps) => {
                for app in apps.into_iter().filter(|a| !a.deleting && a.environment.live.is_some()) {
                    self.look_at(app.environment.id);
                }
            }
            Err(error) => tracing::error!(%error, "apps could not be read; looking again later"),
        }
    }

    /// Follows the engine's events and has what they concern looked at.
    pub(crate) async fn follow_engine(self: Arc<Self>) {
        // What happened since the first routes were set counts too.
        let mut since = Some((Timestamp::now().micros() - 1_000_000) * 1000);
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
                () = self.engine_answers() => {}
            }
            // Containers may have come and gone while nobody listened, and what was to be removed is still there.
            self.engine_back.notify_waiters();
            self.sweep_now.notify_one();
        }
    }

    /// Resolves when the engine answers again, a second from now or later.
    async fn engine_answers(&self) {
        loop {
            tokio::time::sleep(PING_INTERVAL).await;
            if self.engine.ping().await.is_ok() {
                return;
            }
        }
    }

    async fn notice(&self, event: EngineEvent) {
        if event.kind == EngineEventKind::Destroy {
            self.forget_container(&event.container);
        }
        let event = match event.kind {
            EngineEventKind::Disconnect => match self.still_runs(event).await {
                Some(event) => event,
                None => return,
            },
            _ => event,
        };
        let Some(workload) = Workload::from_labels(&event.labels) else { return };
        let Ok(release) = workload.release.parse().map(ReleaseId) else { return };
        let Ok(Some(row)) = self.store.releases().get(release).await else { return };
        let Ok(app) = self.app_in(row.environment_id).await else { return };
        let live = app.environment.live == Some(release);
        match event.kind {
            EngineEventKind::Die { exit_code }
                if live
                    && !app.environment.stopped
                    && !app.deleting
                    && i64::from(workload.replica) <= app.environment.replicas =>
            {
                let summary = format!(
                    "replica {} of {} (release {}) ended with exit code {exit_code}",
                    workload.replica,
                    app.title(),
                    workload.deployment
                );
                let data = serde_json::json!({ "exit_code": exit_code, "release": workload.deployment, "replica": workload.replica });
                self.tell("container.died", &app, summary, data);
                self.count_death(&app, exit_code);
            }
            EngineEventKind::Pause | EngineEventKind::Disconnect if live && !app.environment.stopped => {
                let (kind, what) = match event.kind {
                    EngineEventKind::Pause => ("container.paused", "was paused outside Berth"),
                    _ => ("container.disconnected", "was taken off its network outside Berth"),
                };
                let of = format!(
                    "replica {} of {} (release {})",
                    workload.replica,
                    app.title(),
                    workload.deployment
                );
                let data = serde_json::json!({ "release": workload.deployment, "replica": workload.replica });
                self.tell(kind, &app, format!("{of} {what}"), data);
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

    /// The event of a container that left its network, with the container's labels, if it runs on: each that stops
    /// leaves its network, too.
    async fn still_runs(&self, event: EngineEvent) -> Option<EngineEvent> {
        let state = self.engine.inspect_container(&event.container).await.ok()?;
        let alone = state.running && state.addresses.is_empty();
        alone.then_some(EngineEvent { labels: state.labels, ..event })
    }

    /// Writes an entry of the event log about an app. Nobody waits for it, least of all a repair while the store is
    /// locked or its disk is full.
    pub(crate) fn tell(&self, kind: &'static str, app: &AppRow, summary: String, data: serde_json::Value) {
        let event = NewEvent { kind, by: "berth".into(), app: Some(app.id), summary, data };
        let store = self.store.clone();
        self.spawn(async move {
            if let Err(error) = store.events().append(event).await {
                tracing::warn!(%error, kind, "an event was not kept");
            }
        });
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

    /// Routes of an app after its settings changed: those are of production.
    pub(crate) async fn refresh_app_routes(&self, app: AppId) -> Result<(), Problem> {
        if let Some(app) = self.store.apps().by_id(app).await? {
            self.routes.moved(&app);
        }
        Ok(())
    }
}

/// Why a deployment that was begun too often is given up.
fn given_up(row: &DeploymentRow) -> Problem {
    Problem::new(
        Code::Interrupted,
        format!(
            "The daemon was restarted {} times during this deployment, which was then given up.",
            row.attempt
        ),
    )
    .hint("Deploy again.")
    .step(row.state.as_str())
}
