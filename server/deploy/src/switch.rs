//! Giving a release the traffic, letting the old one finish, and retiring it.
//!
//! The store's pointer moves first and the route table follows in the same breath: a daemon that dies between
//! the two routes by the pointer when it starts again.

use std::sync::Arc;

use berth_proxy::ReleaseTarget;
use berth_schemas::{Problem, deployment::DeploymentState};
use berth_store::model::{AppRow, Artifact, EnvironmentId, ReleaseId, ReleaseRow};

use crate::{
    attempt::Attempt,
    docker::{ContainerPhase, RestartPolicy},
    fault::Halt,
    limits::{self, STOP_GRACE},
    pipeline::Inner,
    stall,
    start::Running,
    waits::Wait,
};

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
        self.maps_due.notify_one();
        if let Some(containers) = &containers {
            self.collect_logs(&attempt.app, release, containers);
            self.begin_watch(&attempt.app, release.id);
        }
        // Replicas or the wish to run may have changed since the containers were started, or one may have died.
        let _ = self.look.try_send(environment);
        if let Some(old) = old {
            self.drain(attempt, &old).await;
        }
        attempt.journal.note(format!("live at {}", self.config.addresses.url_of(&attempt.app))).await;
        attempt.journal.flush().await;
        self.finish(attempt).await?;
        // What kept the release before it from being repaired does not matter any more.
        self.trouble_over(environment).await;
        self.crash_loops.forget(environment);
        self.count_watch_down(&attempt.app, release.id);
        self.note_use(attempt.row.id, |active| {
            active.release = None;
            active.draining = None;
        });
        let _ = self.look.try_send(environment);
        let inner = Arc::clone(self);
        self.spawn(async move {
            tokio::select! {
                biased;
                // Requests that the drain left to the data plane's own shutdown are still in the old release.
                () = inner.shutdown.cancelled() => {}
                () = inner.retire_others(environment) => inner.prune_releases(environment).await,
            }
        });
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
        let gate = async {
            let _wait = self.waits(attempt.row.id, Wait::Gate);
            Ok(self.traffic.enter(environment).await)
        };
        let gate = limits::step("waiting for its turn to switch the traffic", limits::GATE, gate);
        let _inside = attempt.unless_cancelled(self, gate).await?;
        let _held = self.holds(environment, format!("{}, which is switching", attempt.row.reference()));
        // Whatever can fail comes before the pointer moves. The app may have been stopped, or its routes changed,
        // while this was being built.
        let was_stopped = attempt.app.environment.stopped;
        attempt.app = self.app_in(environment).await?;
        let row = self.deployment(attempt.row.id).await?;
        if row.cancel_requested {
            attempt.check_cancelled(self)?;
            return Err(Halt::Cancelled);
        }
        self.announce(&attempt.app, release).await;
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
        if let Some(preview) = &mut attempt.app.environment.preview {
            // Something new is there to be seen.
            match self.store.environments().set_sleeping(environment, false).await {
                Ok(_) => preview.sleeping = false,
                Err(error) => {
                    tracing::error!(%error, app = %attempt.app.slug, "the preview stays asleep")
                }
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
        let limit = limits::drain(&attempt.app);
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
}

/// Whether a container in this phase runs, or may by itself.
pub(crate) fn may_run(phase: ContainerPhase) -> bool {
    matches!(phase, ContainerPhase::Running | ContainerPhase::Restarting | ContainerPhase::Paused)
}
