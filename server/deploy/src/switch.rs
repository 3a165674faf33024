//! Giving a release the traffic, letting the old one finish, and retiring it.
//!
//! The store's pointer moves first and the route table follows in the same breath: a daemon that dies between
//! the two routes by the pointer when it starts again.

use std::{sync::Arc, time::Duration};

use berth_proxy::ReleaseTarget;
use berth_schemas::{Code, Problem, Timestamp, deployment::DeploymentState};
use berth_store::model::{AppRow, Artifact, Change, DeploymentId, EnvironmentId, ReleaseId, ReleaseRow};

use crate::{
    attempt::Attempt,
    docker::{ContainerPhase, RestartPolicy},
    fault::Halt,
    pipeline::Inner,
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
    ) -> Result<(), Halt> {
        let environment = attempt.row.environment_id;
        let target = self.target(&attempt.app, release, containers.as_deref())?;
        self.enter(attempt, DeploymentState::Switching).await?;
        let (old, previous) = {
            let lock = self.traffic_lock(environment);
            let _held = lock.lock().await;
            let previous = self.store.deployments().switch_live(attempt.row.id, release.id).await?;
            // It may have been stopped, or its routes changed, while this was being built.
            let was_stopped = attempt.app.environment.stopped;
            attempt.app = self.app(attempt.row.app_id).await?;
            if was_stopped && attempt.app.environment.stopped {
                // Deploying to a stopped app is asking for it to run.
                self.store.apps().set_stopped(environment, false, &attempt.row.by).await?;
                attempt.app.environment.stopped = false;
            }
            let old = if attempt.app.environment.stopped {
                self.routes.stopped(&attempt.app)
            } else {
                self.routes.serve(&attempt.app, release, target)
            };
            (old, previous)
        };
        attempt.row.state = DeploymentState::Draining;
        self.moved(attempt.row.id, DeploymentState::Draining, None);
        attempt.journal.enter(DeploymentState::Draining);
        if let Some(containers) = &containers {
            self.collect_logs(&attempt.app, release, containers);
        }
        self.drain(attempt, old, previous).await;
        attempt.journal.note(format!("live at {}", self.config.addresses.url(&attempt.app.slug))).await;
        attempt.journal.flush().await;
        self.store.deployments().finish_live(attempt.row.id).await?;
        attempt.row.state = DeploymentState::Live;
        self.moved(attempt.row.id, DeploymentState::Live, None);
        // Replicas or the wish to run may have changed since the containers were started.
        let _ = self.look.try_send(environment);
        let inner = Arc::clone(self);
        let (app, keep) = (attempt.app.clone(), release.id);
        self.spawn(async move {
            inner.retire_others(environment, keep).await;
            inner.prune_releases(&app).await;
        });
        if containers.is_some() {
            self.spawn(Arc::clone(self).end_watch(attempt.app.clone(), attempt.row.id, release.id));
        }
        Ok(())
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

    async fn drain(&self, attempt: &Attempt, old: Option<Arc<ReleaseTarget>>, previous: Option<ReleaseId>) {
        let Some(old) = old else { return };
        let limit = drain_limit(&attempt.app);
        let open = old.in_flight();
        if open > 0 {
            attempt
                .journal
                .note(format!("{open} requests to the old release may finish, up to {} s", limit.as_secs()))
                .await;
        }
        let report = tokio::select! {
            report = self.routes.drain(&old, limit) => Some(report),
            // Going down: the data plane's own shutdown lets open requests finish.
            () = self.shutdown.cancelled() => None,
        };
        if let (Some(report), Some(_)) = (report, previous) {
            if report.cut > 0 {
                attempt
                    .journal
                    .note(format!(
                        "{} requests were still open after {} s and were ended",
                        report.cut,
                        limit.as_secs()
                    ))
                    .await;
            }
        }
    }

    /// Stops the containers of every release of an environment but the live one. They are kept for rollback.
    pub(crate) async fn retire_others(&self, environment: EnvironmentId, keep: ReleaseId) {
        let lock = self.traffic_lock(environment);
        let _held = lock.lock().await;
        let releases = match self.store.releases().list(environment, false).await {
            Ok(releases) => releases,
            Err(error) => {
                tracing::warn!(%error, "releases to retire could not be read");
                return;
            }
        };
        for release in releases.iter().filter(|r| r.id != keep) {
            // A rollback may have made it live meanwhile.
            if self.routes.serves(environment) == Some(release.id) {
                continue;
            }
            self.stop_release(release.id).await;
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
        let stops = containers
            .iter()
            .filter(|c| matches!(c.phase, ContainerPhase::Running | ContainerPhase::Restarting | ContainerPhase::Paused))
            .map(|container| async {
                if let Err(error) = self.engine.stop_container(&container.id, STOP_GRACE).await {
                    tracing::warn!(container = container.id.short(), %error, "a container could not be stopped");
                }
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

    /// Sets the restart policy of a release's containers to what serving ones have.
    pub(crate) async fn let_engine_restart(&self, release: ReleaseId) {
        let Ok(containers) = self.containers_of(release).await else { return };
        for container in containers.iter().filter(|c| c.phase == ContainerPhase::Running) {
            if let Err(error) =
                self.engine.set_restart_policy(&container.id, RestartPolicy::UnlessStopped).await
            {
                tracing::warn!(container = container.id.short(), %error, "the restart policy was not set");
            }
        }
    }

    /// All replicas of a release died within its watch window: the release before it serves again, if there is
    /// one. Returns whether it does.
    pub(crate) async fn roll_back_dead(
        self: &Arc<Self>,
        app: &AppRow,
        release: &ReleaseRow,
        exit: Option<i64>,
    ) -> Result<bool, Problem> {
        let Some(deployment) = self.store.deployments().live(app.environment.id).await? else {
            return Ok(false);
        };
        let within = deployment.finished_at.or(release.live_at).is_some_and(|at| {
            Timestamp::now().millis_since(at)
                < i64::try_from(watch_window(app).as_millis()).unwrap_or(i64::MAX)
        });
        if !within || deployment.release != Some(release.id) {
            return Ok(false);
        }
        let Some(back) = self.store.releases().previous_live(app.environment.id, release.id).await? else {
            return Ok(false);
        };
        let code = exit.map_or_else(String::new, |c| format!(" with exit code {c}"));
        let problem = Problem::new(
            Code::ContainerExited,
            format!(
                "The app died{code} within {} s of going live; release {} serves again.",
                watch_window(app).as_secs(),
                back.number
            ),
        )
        .hint(format!(
            "Read log_search with app {} and release {} for its last lines.",
            app.slug, release.number
        ))
        .step("live");
        let containers = match &back.artifact {
            Artifact::Image { .. } => {
                Some(self.run_replicas(app, &back, 1..=app.environment.replicas.max(1)).await?)
            }
            Artifact::Static { .. } => None,
        };
        if let Some(containers) = &containers {
            self.wait_open(app, &back, containers).await?;
        }
        let change = Change { reason: Some(problem.detail.clone()), problem: Some(problem.clone()) };
        self.store.deployments().roll_back(deployment.id, deployment.state, Some(back.id), change).await?;
        self.routes.serve(app, &back, self.target(app, &back, containers.as_deref())?);
        if let Some(containers) = &containers {
            self.collect_logs(app, &back, containers);
            self.let_engine_restart(back.id).await;
        }
        self.moved(deployment.id, DeploymentState::RolledBack, Some(problem.detail));
        tracing::warn!(app = %app.slug, from = release.number, to = back.number, "a release died after its switch and was rolled back");
        Ok(true)
    }
}

/// Time for open requests of a release that no longer gets new ones.
pub(crate) fn drain_limit(app: &AppRow) -> Duration {
    app.settings.drain_timeout_s.map_or(DEFAULT_DRAIN, |s| Duration::from_secs(u64::from(s)))
}

/// How long after a switch a dead release is rolled back.
pub(crate) fn watch_window(app: &AppRow) -> Duration {
    app.settings.watch_window_s.map_or(DEFAULT_WATCH, |s| Duration::from_secs(u64::from(s)))
}
