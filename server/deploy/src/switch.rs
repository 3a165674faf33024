//! Giving a release the traffic, letting the old one finish, and retiring it.
//!
//! The store's pointer moves first and the route table follows in the same breath: a daemon that dies between
//! the two routes by the pointer when it starts again.

use std::{sync::Arc, time::Duration};

use berth_proxy::ReleaseTarget;
use berth_schemas::{Code, Problem, Timestamp, deployment::DeploymentState};
use berth_store::model::{
    AppRow, Artifact, Change, DeploymentId, DeploymentRow, EnvironmentId, ReleaseId, ReleaseRow,
};

use crate::{
    attempt::Attempt,
    docker::{ContainerPhase, RestartPolicy},
    fault::Halt,
    gate::Gate,
    pipeline::Inner,
    stall,
    start::{Running, STOP_GRACE},
};

/// Time for open requests of an old release where none was set.
const DEFAULT_DRAIN: Duration = Duration::from_secs(30);
/// Window after a switch in which a dead release is rolled back, where none was set.
const DEFAULT_WATCH: Duration = Duration::from_secs(30);

impl Inner {
    /// Switches traffic to a checked release, drains the old one and brings the deployment to `live`.
    pub(crate) async fn switch(
        self: &Arc<Self>,
        attempt: &mut Attempt,
        release: &ReleaseRow,
        containers: Option<Vec<Running>>,
        trial: Option<Arc<ReleaseTarget>>,
    ) -> Result<(), Halt> {
        let environment = attempt.row.environment_id;
        // A release that had a part of the traffic keeps its target, and with it the requests that are open there.
        let target = match trial {
            Some(target) => target,
            None => self.target(&attempt.app, release, containers.as_deref())?,
        };
        let old = self.hand_over(attempt, release, target).await?;
        self.moved(attempt.row.id, DeploymentState::Draining, None);
        attempt.journal.enter(DeploymentState::Draining);
        if let Some(containers) = &containers {
            self.collect_logs(&attempt.app, release, containers);
        }
        // Replicas or the wish to run may have changed since the containers were started, or one may have died.
        let _ = self.look.try_send(environment);
        if let Some(old) = old {
            self.drain(attempt, &old).await;
        }
        attempt.journal.note(format!("live at {}", self.config.addresses.url(&attempt.app.slug))).await;
        attempt.journal.flush().await;
        self.finish(attempt).await?;
        // What kept the release before it from being repaired does not matter any more.
        self.trouble_over(environment).await;
        self.note_use(attempt.row.id, |active| {
            active.release = None;
            active.draining = None;
        });
        let _ = self.look.try_send(environment);
        let inner = Arc::clone(self);
        let app = attempt.app.id;
        self.spawn(async move {
            tokio::select! {
                biased;
                // Requests that the drain left to the data plane's own shutdown are still in the old release.
                () = inner.shutdown.cancelled() => {}
                () = inner.retire_others(environment) => inner.prune_releases(app).await,
            }
        });
        if containers.is_some() {
            self.spawn(Arc::clone(self).end_watch(attempt.app.clone(), attempt.row.id, release.id));
        }
        Ok(())
    }

    /// Moves the pointer and the route. Returns what had the traffic before.
    async fn hand_over(
        &self,
        attempt: &mut Attempt,
        release: &ReleaseRow,
        target: Arc<ReleaseTarget>,
    ) -> Result<Option<Arc<ReleaseTarget>>, Halt> {
        let environment = attempt.row.environment_id;
        let _inside =
            attempt.unless_cancelled(self, async { Ok(self.traffic.enter(environment).await) }).await?;
        // Whatever can fail comes before the pointer moves. The app may have been stopped, or its routes changed,
        // while this was being built.
        let was_stopped = attempt.app.environment.stopped;
        attempt.app = self.app(attempt.row.app_id).await?;
        let row = self.deployment(attempt.row.id).await?;
        if row.cancel_requested {
            attempt.check_cancelled(self)?;
            return Err(Halt::Cancelled);
        }
        self.enter(attempt, DeploymentState::Switching).await?;
        let previous = attempt.app.environment.live.filter(|live| *live != release.id);
        self.note_use(attempt.row.id, |active| active.draining = previous);
        stall::before("draining").await;
        self.store.deployments().switch_live(attempt.row.id, release.id).await?;
        stall::after("draining").await;
        attempt.row.state = DeploymentState::Draining;
        attempt.app.environment.live = Some(release.id);
        if was_stopped && attempt.app.environment.stopped {
            // Deploying to a stopped app is asking for it to run.
            match self.store.apps().set_stopped(environment, false, &attempt.row.by).await {
                Ok(()) => attempt.app.environment.stopped = false,
                Err(error) => tracing::error!(%error, app = %attempt.app.slug, "the app stays stopped"),
            }
        }
        Ok(if attempt.app.environment.stopped {
            self.routes.stopped(&attempt.app)
        } else {
            self.routes.serve(&attempt.app, release, target)
        })
    }

    /// Draining is over: the deployment is live, unless its release died meanwhile.
    async fn finish(&self, attempt: &mut Attempt) -> Result<(), Halt> {
        stall::before("live").await;
        match self.store.deployments().finish_live(attempt.row.id).await {
            Ok(_) => {
                stall::after("live").await;
                attempt.row.state = DeploymentState::Live;
                self.moved(attempt.row.id, DeploymentState::Live, None);
                Ok(())
            }
            Err(berth_store::StoreError::Stale { .. }) => {
                attempt.row = self.deployment(attempt.row.id).await?;
                attempt.journal.note("it was rolled back before it was live").await;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What the data plane sends requests to.
    pub(crate) fn target(
        &self,
        app: &AppRow,
        release: &ReleaseRow,
        containers: Option<&[Running]>,
    ) -> Result<Arc<ReleaseTarget>, Problem> {
        match &release.artifact {
            Artifact::Static { path } => {
                self.routes.static_target(app, release, &self.config.data_dir.join("releases").join(path))
            }
            Artifact::Image { .. } => {
                Ok(self.routes.container_target(app, release, containers.unwrap_or_default()))
            }
        }
    }

    async fn drain(&self, attempt: &Attempt, old: &Arc<ReleaseTarget>) {
        let limit = drain_limit(&attempt.app);
        let open = old.in_flight();
        if open > 0 {
            attempt
                .journal
                .note(format!("{open} requests to the old release may finish, up to {} s", limit.as_secs()))
                .await;
        }
        let report = tokio::select! {
            report = self.routes.drain(old, limit) => report,
            // Going down: the data plane's own shutdown lets open requests finish.
            () = self.shutdown.cancelled() => return,
        };
        if report.cut > 0 {
            let text =
                format!("{} requests were still open after {} s and were ended", report.cut, limit.as_secs());
            attempt.journal.note(text).await;
        }
    }

    /// Stops the containers of every release of an environment that nobody needs. They are kept for rollback.
    pub(crate) async fn retire_others(&self, environment: EnvironmentId) {
        // The process before this one may have requests in them; its visitors are counted there.
        self.config.alone.cancelled().await;
        let releases = match self.store.releases().list(environment, false).await {
            Ok(releases) => releases,
            Err(error) => {
                tracing::warn!(%error, "releases to retire could not be read");
                return;
            }
        };
        // An app that is slow to stop does not keep the others running.
        futures_util::future::join_all(releases.iter().map(|release| self.retire(release))).await;
    }

    async fn retire(&self, release: &ReleaseRow) {
        if let Artifact::Static { .. } = release.artifact {
            return;
        }
        let _inside = self.containers.enter(release.id).await;
        match self.is_needed(release).await {
            Ok(true) => {}
            Ok(false) => self.stop_release(release.id).await,
            Err(problem) => tracing::warn!(%problem, "whether a release is needed could not be read"),
        }
    }

    /// Stops the containers of a release, keeping them.
    pub(crate) async fn stop_release(&self, release: ReleaseId) {
        let containers = match self.containers_of(release).await {
            Ok(containers) => containers,
            Err(error) => {
                tracing::warn!(%error, "containers to stop could not be listed");
                return;
            }
        };
        let stops = containers.iter().filter(|c| may_run(c.phase)).map(|container| async {
            if let Err(error) = self.engine.stop_container(&container.id, STOP_GRACE).await {
                tracing::warn!(container = container.id.short(), %error, "a container could not be stopped");
            }
            // After its last lines.
            self.collector.unwatch(container.id.as_str());
        });
        futures_util::future::join_all(stops).await;
    }

    /// When the watch window is over, the engine may restart the release's containers by itself.
    async fn end_watch(self: Arc<Self>, app: AppRow, deployment: DeploymentId, release: ReleaseId) {
        let window = watch_window(&app);
        tokio::select! {
            () = tokio::time::sleep(window) => {}
            () = self.shutdown.cancelled() => {}
        }
        if self.routes.serves(app.environment.id) != Some(release) {
            return;
        }
        tracing::debug!(deployment = deployment.0, "the watch window is over");
        self.let_engine_restart(release).await;
    }

    /// Sets the restart policy of a release's running containers to what serving ones have.
    pub(crate) async fn let_engine_restart(&self, release: ReleaseId) {
        let Ok(containers) = self.containers_of(release).await else { return };
        for container in containers.iter().filter(|c| c.phase == ContainerPhase::Running) {
            if self.restartable().contains(&container.id) {
                continue;
            }
            match self.engine.set_restart_policy(&container.id, RestartPolicy::UnlessStopped).await {
                Ok(()) => drop(self.restartable().insert(container.id.clone())),
                Err(error) => {
                    tracing::warn!(container = container.id.short(), %error, "the restart policy was not set");
                }
            }
        }
    }

    /// All replicas of a release died within its watch window: the release before it serves again, if there is
    /// one. Returns whether it does. The caller is inside the gate of the environment's traffic.
    pub(crate) async fn roll_back_dead(
        self: &Arc<Self>,
        app: &AppRow,
        release: &ReleaseRow,
        exit: Option<i64>,
        gate: &Gate,
    ) -> Result<bool, Problem> {
        let Some(deployment) = self.watched_deployment(app, release).await? else { return Ok(false) };
        let Some(back) = self.store.releases().previous_live(app.environment.id, release.id).await? else {
            return Ok(false);
        };
        // Nobody may stop its containers until it is live again.
        let _inside = self.containers.enter(back.id).await;
        let containers = match &back.artifact {
            Artifact::Image { .. } => {
                let up = self.run_replicas(app, &back, 1..=app.environment.replicas.max(1)).await?;
                self.wait_open(app, &back, &up, Some(gate)).await?;
                Some(up)
            }
            Artifact::Static { .. } => None,
        };
        let target = self.target(app, &back, containers.as_deref())?;
        let problem = died(app, release, &back, exit);
        let change = Change { reason: Some(problem.detail.clone()), problem: Some(problem.clone()) };
        // It may have got from draining to live meanwhile.
        let state = self.deployment(deployment.id).await?.state;
        stall::before("rolled_back").await;
        self.store.deployments().roll_back(deployment.id, state, Some(back.id), change).await?;
        stall::after("rolled_back").await;
        self.routes.serve(app, &back, target);
        if let Some(containers) = &containers {
            self.collect_logs(app, &back, containers);
            self.let_engine_restart(back.id).await;
        }
        self.moved(deployment.id, DeploymentState::RolledBack, Some(problem.detail));
        tracing::warn!(app = %app.slug, from = release.number, to = back.number, "a release died after its switch and was rolled back");
        Ok(true)
    }

    /// The deployment that gave a release the traffic, while it is watched.
    async fn watched_deployment(
        &self,
        app: &AppRow,
        release: &ReleaseRow,
    ) -> Result<Option<DeploymentRow>, Problem> {
        let deployments = self.store.deployments();
        // It may die while requests to the one before it still finish.
        let draining = deployments.list(app.id, Some(DeploymentState::Draining), None, 10).await?;
        let draining = draining.into_iter().find(|d| d.release == Some(release.id));
        let deployment = match draining {
            Some(draining) => Some(draining),
            None => deployments.live(app.environment.id).await?.filter(|d| d.release == Some(release.id)),
        };
        let window = i64::try_from(watch_window(app).as_millis()).unwrap_or(i64::MAX);
        Ok(deployment.filter(|d| {
            d.finished_at.or(release.live_at).is_some_and(|at| Timestamp::now().millis_since(at) < window)
        }))
    }
}

/// Why a release was rolled back.
fn died(app: &AppRow, release: &ReleaseRow, back: &ReleaseRow, exit: Option<i64>) -> Problem {
    let code = exit.map_or_else(String::new, |c| format!(" with exit code {c}"));
    let within = watch_window(app).as_secs();
    let detail =
        format!("The app died{code} within {within} s of going live; release {} serves again.", back.number);
    let hint =
        format!("Read log_search with app {} and release {} for its last lines.", app.slug, release.number);
    Problem::new(Code::ContainerExited, detail).hint(hint).step("live")
}

/// Whether a container in this phase runs, or may by itself.
pub(crate) fn may_run(phase: ContainerPhase) -> bool {
    matches!(phase, ContainerPhase::Running | ContainerPhase::Restarting | ContainerPhase::Paused)
}

/// Time for open requests of a release that no longer gets new ones.
pub(crate) fn drain_limit(app: &AppRow) -> Duration {
    app.settings.drain_timeout_s.map_or(DEFAULT_DRAIN, |s| Duration::from_secs(u64::from(s)))
}

/// How long after a switch a dead release is rolled back.
pub(crate) fn watch_window(app: &AppRow) -> Duration {
    app.settings.watch_window_s.map_or(DEFAULT_WATCH, |s| Duration::from_secs(u64::from(s)))
}
