//! What tools ask of the pipeline.

use std::{collections::BTreeMap, time::Duration};

use berth_schemas::{
    Code, Problem,
    app::{AppState, Replica},
    deployment::DeploymentState,
    job::JobKind,
    log::LogLine,
    platform::DockerStatus,
    traffic::TrafficMode,
};
use berth_store::model::{
    AppId, AppRow, DeploymentId, DeploymentRow, DeploymentSource, Enqueued, JobRow, Principal, UploadRow,
};
use tokio::sync::broadcast;

use super::{EnqueueOptions, Pipeline, being_deleted};
use crate::{
    cleanup::CleanupFound,
    journal::DeploymentUpdate,
    limits,
    probe::{HealthProbe, ProbeOutcome},
    stall,
};

impl Pipeline {
    /// Puts a deployment in the queue. Older ones that still wait in the same environment are superseded; a
    /// rollback also supersedes one that is being worked on and has no traffic yet. A redeploy brings nothing new,
    /// so it only supersedes earlier redeploys and takes its turn after what brings something. What brings the same
    /// as the newest on its way, or as what is live and serves, makes no second deployment.
    ///
    /// # Errors
    /// `Conflict` when the app is being deleted, `MissingVariable` when a required variable is not set,
    /// `ReleaseGone` when the release to go back to was removed.
    pub async fn enqueue(
        &self,
        who: &Principal,
        app: &AppRow,
        source: DeploymentSource,
        options: EnqueueOptions,
    ) -> Result<Enqueued, Problem> {
        let inner = &self.0;
        let new = inner.wanted(&who.name, app, source, options).await?;
        stall::before("queued").await;
        let outcome = inner.store.deployments().enqueue_once(new, inner.answers(app)).await?;
        stall::after("queued").await;
        inner.enqueued(&outcome).await;
        Ok(outcome)
    }

    /// Stops a deployment that has no traffic yet. The live release is not touched.
    ///
    /// # Errors
    /// `Conflict` when it has settled or traffic is already being switched to it.
    pub async fn cancel(
        &self,
        who: &Principal,
        deployment: &DeploymentRow,
    ) -> Result<DeploymentRow, Problem> {
        let inner = &self.0;
        if deployment.state == DeploymentState::Cancelled {
            return Ok(deployment.clone());
        }
        if !deployment.state.is_cancellable() {
            let why = if deployment.state.is_settled() { "has ended" } else { "already gets the traffic" };
            return Err(Problem::new(
                Code::Conflict,
                format!("{} {why}: it is {}.", deployment.reference(), deployment.state.as_str()),
            )
            .hint("To go back to an earlier release use release_rollback."));
        }
        inner.store.deployments().request_cancel(deployment.id, &who.name).await?;
        if !inner.cancel_active(deployment.id, None) {
            inner
                .end_waiting(deployment.id, DeploymentState::Cancelled, format!("cancelled by {}", who.name))
                .await?;
        }
        self.wait(deployment.id, Duration::from_secs(10)).await
    }

    /// What happens to a deployment from now on.
    #[must_use]
    pub fn watch(&self, id: DeploymentId) -> broadcast::Receiver<DeploymentUpdate> {
        self.0.watchers.watch(id)
    }

    /// Takes an app out of service: its visitors get a page that says so.
    ///
    /// # Errors
    /// `Conflict` when it is being deleted.
    pub async fn stop(&self, who: &Principal, app: &AppRow) -> Result<JobRow, Problem> {
        self.job(who, JobKind::Stop, app, serde_json::Value::Null).await
    }

    /// Puts a stopped app back in service.
    ///
    /// # Errors
    /// `Conflict` when it is being deleted or was never deployed.
    pub async fn start(&self, who: &Principal, app: &AppRow) -> Result<JobRow, Problem> {
        if app.environment.live.is_none() {
            return Err(Problem::new(Code::Conflict, format!("{} was never deployed.", app.title()))
                .hint("Deploy it with deployment_create."));
        }
        self.job(who, JobKind::Start, app, serde_json::Value::Null).await
    }

    /// Changes the number of replicas.
    ///
    /// # Errors
    /// `InvalidInput` when the number is out of range, `Conflict` for a static app.
    pub async fn scale(&self, who: &Principal, app: &AppRow, replicas: i64) -> Result<JobRow, Problem> {
        if !(1..=50).contains(&replicas) {
            return Err(Problem::invalid("replicas", "An app has 1 to 50 replicas.")
                .hint("To have none use app_stop."));
        }
        self.job(who, JobKind::Scale, app, serde_json::json!({ "replicas": replicas })).await
    }

    /// Deletes an app with everything that belongs to it. Its volumes, if it ever gets some, stay.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn delete_app(&self, who: &Principal, app: &AppRow) -> Result<JobRow, Problem> {
        stall::before("deleting").await;
        self.0.store.apps().mark_deleting(who, app.id).await?;
        stall::after("deleting").await;
        self.0.enqueue_job(who, JobKind::DeleteApp, Some(app.id), None, serde_json::Value::Null).await
    }

    /// Deletes what an app's clients sent about a person, known by `user`: an id, an e-mail address, a name or an
    /// address on the network.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn erase_user(&self, who: &Principal, app: &AppRow, user: &str) -> Result<JobRow, Problem> {
        let input = serde_json::json!({ "user": user });
        self.0.enqueue_job(who, JobKind::EraseUser, Some(app.id), None, input).await
    }

    /// Shows visitors of a new environment that it is there.
    pub fn environment_made(&self, app: &AppRow) {
        self.0.routes.nothing(app);
    }

    /// Deletes an environment with everything that belongs to it.
    ///
    /// # Errors
    /// `Conflict` for production; when the store cannot be written.
    pub async fn delete_environment(&self, who: &Principal, app: &AppRow) -> Result<JobRow, Problem> {
        stall::before("environment_deleting").await;
        self.0.store.environments().mark_deleting(who, app.environment.id).await?;
        stall::after("environment_deleting").await;
        self.0.delete_marked(who, app).await
    }

    /// Keeps files that came in a call, as an upload.
    ///
    /// # Errors
    /// `InvalidInput` when a path is unsafe, `TooLarge`, `EmptySource`.
    pub async fn store_files(
        &self,
        who: &Principal,
        files: BTreeMap<String, String>,
    ) -> Result<UploadRow, Problem> {
        self.0.keep_files(who, files).await
    }

    /// Whether an app runs, as traffic sees it.
    pub async fn app_state(&self, app: &AppRow) -> AppState {
        match (app.environment.live, app.environment.stopped) {
            (None, _) => AppState::Empty,
            (_, true) => AppState::Stopped,
            (Some(_), false) if app.environment.sleeping() => AppState::Sleeping,
            (Some(_), false) => match app.environment.traffic {
                TrafficMode::Open => self.0.routes.state(app.environment.id, app.environment.replicas),
                TrafficMode::Paused { .. } => AppState::Paused,
                TrafficMode::Maintenance { .. } => AppState::Maintenance,
            },
        }
    }

    /// What a live release in containers answers to a GET of `path`, asked by the daemon itself; none where there is
    /// no such release. A release of files is not asked: it would answer whatever it holds.
    pub async fn ask_release(&self, app: &AppRow, path: &str) -> Option<ProbeOutcome> {
        let target = self.0.routes.serving_target(app.environment.id)?;
        let replicas = target.replicas();
        let healthy = replicas.iter().find(|(_, _, healthy)| *healthy);
        let (_, addr, _) = healthy.or_else(|| replicas.first())?;
        let probe = HealthProbe {
            path: path.to_owned(),
            host: Some(self.0.config.addresses.host(&app.slug, &app.environment.name)),
            timeout: limits::ASK,
        };
        Some(probe.attempt(*addr).await)
    }

    /// Why an app does not serve as it should and could not be put right, if so.
    #[must_use]
    pub fn trouble(&self, app: &AppRow) -> Option<Problem> {
        self.0.troubles().get(&app.environment.id).cloned()
    }

    /// The containers of an app's live release, as the engine knows them.
    pub async fn replicas(&self, app: &AppRow) -> Vec<Replica> {
        self.0.replicas_shown(app).await
    }

    /// Bytes that must be free for a build to begin.
    #[must_use]
    pub fn min_free_bytes(&self) -> u64 {
        self.0.config.min_free_bytes
    }

    /// Docker as it answers now.
    pub async fn docker_status(&self) -> DockerStatus {
        match self.0.engine.info().await {
            Ok(info) => DockerStatus { available: true, version: Some(info.version), problem: None },
            Err(error) => DockerStatus {
                available: false,
                version: None,
                problem: Some(crate::fault::engine_problem(&error).to_string()),
            },
        }
    }

    /// What cleanup would remove now, and what it would keep.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn cleanup_plan(&self) -> Result<CleanupFound, Problem> {
        let plan = self.0.removable(self.0.config.build_cache_bytes).await?;
        Ok(CleanupFound { items: plan.items.into_iter().map(|r| r.shown).collect(), kept: plan.kept })
    }

    /// Removes what is no longer needed.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn cleanup(&self, who: &Principal) -> Result<JobRow, Problem> {
        self.0.enqueue_job(who, JobKind::Cleanup, None, None, serde_json::Value::Null).await
    }

    /// Replaces the daemon by the program that is installed now, without closing a listening socket. Asking again
    /// while it is under way returns the same job.
    ///
    /// # Errors
    /// `Unavailable` when this daemon cannot start another, or the store cannot be written.
    pub async fn upgrade(&self, who: &Principal) -> Result<JobRow, Problem> {
        if self.0.config.successor.is_none() {
            return Err(Problem::new(Code::Unavailable, "This daemon cannot hand over to another process.")
                .hint("Restart it with its service manager."));
        }
        let under_way = self.0.store.jobs().unfinished().await?;
        match under_way.into_iter().find(|j| j.kind == JobKind::Upgrade) {
            Some(job) => Ok(job),
            None => self.0.enqueue_job(who, JobKind::Upgrade, None, None, serde_json::Value::Null).await,
        }
    }

    /// Settings of an app changed: what traffic sees follows at once where it can (its routes).
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn app_changed(&self, app: AppId) -> Result<(), Problem> {
        self.0.refresh_app_routes(app).await
    }

    /// Lines that the app prints from now on.
    #[must_use]
    pub fn subscribe_logs(&self, app: AppId) -> broadcast::Receiver<LogLine> {
        self.0.collector.subscribe(app)
    }

    async fn job(
        &self,
        who: &Principal,
        kind: JobKind,
        app: &AppRow,
        input: serde_json::Value,
    ) -> Result<JobRow, Problem> {
        if app.deleting {
            return Err(being_deleted(app));
        }
        self.0.enqueue_job(who, kind, Some(app.id), Some(app.environment.id), input).await
    }
}
