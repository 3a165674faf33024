//! Jobs other than deployments: stop, start, scale, delete, clean up.
//!
//! Each can be begun again from its start after a restart of the daemon, and then does only what is left to do.

use std::sync::Arc;

use berth_schemas::{
    Code, Problem,
    job::{JobKind, JobState},
};
use berth_store::model::{AppId, AppRow, Artifact, JobRow, Principal};

use crate::{attempt::remove_dir, fault::engine_problem, pipeline::Inner, start::replica_of};

impl Inner {
    pub(crate) async fn enqueue_job(
        self: &Arc<Self>,
        who: &Principal,
        kind: JobKind,
        app: Option<AppId>,
        input: serde_json::Value,
    ) -> Result<JobRow, Problem> {
        let job = self.store.jobs().enqueue(kind, app, input, &who.name).await?;
        self.spawn(Arc::clone(self).run_job(job.clone()));
        Ok(job)
    }

    /// Takes up the jobs that the last run did not end.
    pub(crate) async fn resume_jobs(self: &Arc<Self>) -> Result<(), Problem> {
        for mut job in self.store.jobs().unfinished().await? {
            if job.state == JobState::Running {
                job = self
                    .store
                    .jobs()
                    .transition(
                        &job.id,
                        JobState::Running,
                        JobState::Queued,
                        Some("the daemon was restarted".into()),
                        None,
                    )
                    .await?;
            }
            self.spawn(Arc::clone(self).run_job(job));
        }
        Ok(())
    }

    async fn run_job(self: Arc<Self>, job: JobRow) {
        let outcome = async {
            self.store.jobs().transition(&job.id, JobState::Queued, JobState::Running, None, None).await?;
            tokio::select! {
                outcome = self.do_job(&job) => outcome.map(Some),
                () = self.shutdown.cancelled() => Ok(None),
            }
        };
        let (state, message, problem) = match outcome.await {
            Ok(Some(message)) => (JobState::Succeeded, Some(message), None),
            // Going down: it stays "running" and the next start takes it up.
            Ok(None) => return,
            Err(problem) => (JobState::Failed, None, Some(problem)),
        };
        let ended = self.store.jobs().transition(&job.id, JobState::Running, state, message, problem).await;
        if let Err(error) = ended {
            tracing::error!(job = %job.id, %error, "the end of a job was not kept");
        }
        let _ = self.settled.send(());
    }

    /// Does it; returns what was done, in a sentence.
    async fn do_job(self: &Arc<Self>, job: &JobRow) -> Result<String, Problem> {
        if job.kind == JobKind::Cleanup {
            return self.clean_up().await;
        }
        let id = job.app_id.ok_or_else(|| Problem::new(Code::Internal, "The job names no app."))?;
        let Some(app) = self.store.apps().by_id(id).await? else {
            return Ok("The app is gone.".into());
        };
        match job.kind {
            JobKind::Stop => self.stop_app(&app, job).await,
            JobKind::Start => self.start_app(&app, job).await,
            JobKind::Scale => {
                let replicas = job.input.get("replicas").and_then(serde_json::Value::as_i64).unwrap_or(1);
                self.scale_app(&app, replicas).await
            }
            JobKind::DeleteApp => self.delete_app(&app).await,
            JobKind::Cleanup => self.clean_up().await,
        }
    }

    async fn stop_app(self: &Arc<Self>, app: &AppRow, job: &JobRow) -> Result<String, Problem> {
        let lock = self.traffic_lock(app.environment.id);
        let _held = lock.lock().await;
        self.store.apps().set_stopped(app.environment.id, true, "berth").await?;
        self.store.jobs().set_message(&job.id, "finishing open requests").await?;
        if let Some(old) = self.routes.stopped(app) {
            self.routes.drain(&old, crate::switch::drain_limit(app)).await;
        }
        if let Some(live) = app.environment.live {
            self.stop_release(live).await;
        }
        Ok(format!("{} is stopped.", app.slug))
    }

    async fn start_app(self: &Arc<Self>, app: &AppRow, job: &JobRow) -> Result<String, Problem> {
        let lock = self.traffic_lock(app.environment.id);
        let _held = lock.lock().await;
        let Some(live) = app.environment.live else {
            return Err(Problem::new(Code::Conflict, "It was never deployed.")
                .hint("Deploy it with deployment_create."));
        };
        let release = self
            .store
            .releases()
            .get(live)
            .await?
            .ok_or_else(|| Problem::new(Code::ReleaseGone, "Its release is no longer kept."))?;
        self.store.jobs().set_message(&job.id, "starting its containers").await?;
        let containers = match &release.artifact {
            Artifact::Static { .. } => None,
            Artifact::Image { .. } => {
                self.routes.starting(app, release.id);
                let up = async {
                    let up = self.run_replicas(app, &release, 1..=app.environment.replicas.max(1)).await?;
                    self.wait_open(app, &release, &up).await?;
                    Ok::<_, Problem>(up)
                };
                match up.await {
                    Ok(up) => Some(up),
                    Err(problem) => {
                        self.routes.stopped(app);
                        self.stop_release(release.id).await;
                        return Err(problem);
                    }
                }
            }
        };
        self.store.apps().set_stopped(app.environment.id, false, "berth").await?;
        self.routes.serve(app, &release, self.target(app, &release, containers.as_deref())?);
        if let Some(containers) = &containers {
            self.collect_logs(app, &release, containers);
            self.let_engine_restart(release.id).await;
        }
        Ok(format!("{} runs.", app.slug))
    }

    async fn scale_app(self: &Arc<Self>, app: &AppRow, replicas: i64) -> Result<String, Problem> {
        let lock = self.traffic_lock(app.environment.id);
        let _held = lock.lock().await;
        let before = app.environment.replicas;
        let release = match app.environment.live {
            Some(live) => self.store.releases().get(live).await?,
            None => None,
        };
        let running =
            release.filter(|r| matches!(r.artifact, Artifact::Image { .. }) && !app.environment.stopped);
        let Some(release) = running else {
            self.store.apps().set_replicas(app.environment.id, replicas).await?;
            return Ok(format!("{} gets {replicas} replicas when it runs.", app.slug));
        };
        let before_growing = self.containers_of(release.id).await.map_err(|e| engine_problem(&e))?;
        let up = self.run_replicas(app, &release, 1..=replicas).await;
        let up = match up {
            Ok(up) => match self.wait_open(app, &release, &up).await {
                Ok(()) => Ok(up),
                Err(problem) => Err(problem),
            },
            Err(problem) => Err(problem),
        };
        let up = match up {
            Ok(up) => up,
            Err(problem) => {
                // Those that were added did not work: only what was there stays.
                for container in self.containers_of(release.id).await.map_err(|e| engine_problem(&e))? {
                    if !before_growing.iter().any(|c| c.id == container.id) {
                        let _ = self.engine.remove_container(&container.id).await;
                    }
                }
                return Err(problem);
            }
        };
        self.store.apps().set_replicas(app.environment.id, replicas).await?;
        if let Some(target) = self.routes.serving_target(app.environment.id) {
            // Open requests of replicas that go finish before their containers get SIGTERM.
            let removed = target.set_replicas(crate::routes::replica_addrs(&up));
            removed.idle(crate::switch::drain_limit(app)).await;
        }
        self.collect_logs(app, &release, &up);
        self.let_engine_restart(release.id).await;
        for container in self.containers_of(release.id).await.map_err(|e| engine_problem(&e))? {
            if replica_of(&container).is_none_or(|n| n > replicas) {
                let stopped = self.engine.stop_container(&container.id, crate::start::STOP_GRACE).await;
                stopped.map_err(|e| engine_problem(&e))?;
                self.collector.unwatch(container.id.as_str());
                self.engine.remove_container(&container.id).await.map_err(|e| engine_problem(&e))?;
            }
        }
        Ok(format!("{} has {replicas} replicas; it had {before}.", app.slug))
    }

    async fn delete_app(self: &Arc<Self>, app: &AppRow) -> Result<String, Problem> {
        for row in self.store.deployments().unsettled().await?.into_iter().filter(|d| d.app_id == app.id) {
            self.store.deployments().request_cancel(row.id, "berth").await?;
            if !self.cancel_active(row.id, None) && row.state.is_cancellable() {
                self.end_waiting(
                    row.id,
                    berth_schemas::deployment::DeploymentState::Cancelled,
                    "the app is deleted".into(),
                )
                .await?;
            }
            self.settle(row.id).await?;
        }
        let lock = self.traffic_lock(app.environment.id);
        let _held = lock.lock().await;
        if let Some(old) = self.routes.remove(app.environment.id) {
            self.routes.drain(&old, crate::switch::drain_limit(app)).await;
        }
        let releases = self.store.releases().list(app.environment.id, false).await?;
        for release in &releases {
            for container in self.containers_of(release.id).await.map_err(|e| engine_problem(&e))? {
                self.engine.remove_container(&container.id).await.map_err(|e| engine_problem(&e))?;
            }
        }
        let files = self.config.data_dir.join("releases").join(app.id.0.to_string());
        remove_dir(&files).await.map_err(|e| crate::attempt::io_problem("removing the app's files", &e))?;
        self.store.apps().delete(app.id, "berth").await?;
        for release in &releases {
            self.remove_artifact(release).await?;
        }
        let network = self.instance.network_name(app.project.as_str());
        let others = self.store.projects().by_slug(&berth_store::model::Visible::All, &app.project).await?;
        if others.is_none_or(|p| p.apps == 0) {
            if let Err(error) = self.engine.remove_network(&network).await {
                tracing::debug!(%error, "the project's network stays");
            }
        }
        Ok(format!("{} is deleted.", app.slug))
    }

    /// Waits until a deployment that was told to stop has done so.
    async fn settle(&self, id: berth_store::model::DeploymentId) -> Result<(), Problem> {
        let mut settled = self.settled.subscribe();
        while let Some(row) = self.store.deployments().get(id).await? {
            if row.state.is_settled() {
                break;
            }
            let _ = tokio::time::timeout(std::time::Duration::from_millis(500), settled.recv()).await;
        }
        Ok(())
    }
}
