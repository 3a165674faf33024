//! Jobs other than deployments: stop, start, scale, delete, forget a person, clean up.
//!
//! Those of one app are done one after the other, in the order in which they were asked for: an app that was told to
//! stop and then to start runs. Each can be begun again from its start after a restart of the daemon, and then does only what is left to do.

use std::{collections::HashSet, sync::Arc, time::Duration};

use berth_schemas::{
    Code, Problem,
    job::{JobKind, JobState},
};
use berth_store::{
    StoreError,
    model::{AppId, AppRow, Artifact, EnvironmentId, JobRow, Principal},
};

use crate::{
    config::Arrival,
    fault::engine_problem,
    gate::{Inside, Turn},
    limits,
    pipeline::{Inner, Pipeline},
    stall,
    start::replica_of,
    waits::Held,
};

/// Whose jobs are done one after the other: those of an app in one environment, those of an app as a whole, those of
/// no app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Place(Option<AppId>, Option<EnvironmentId>);

impl Place {
    pub(crate) fn of(job: &JobRow) -> Self {
        Self(job.app_id, job.environment_id)
    }
}

impl Pipeline {
    /// Cancels a job that waits for its turn.
    ///
    /// # Errors
    /// `Conflict` when it has begun or deletes something: what is marked as deleted does not come back.
    pub async fn cancel_job(&self, who: &Principal, job: &JobRow) -> Result<JobRow, Problem> {
        let conflict = |why: &str| {
            let detail = format!("The job {} cannot be cancelled: {why}.", job.kind.as_str());
            Err(Problem::new(Code::Conflict, detail).hint("Wait for its end with job_get(wait_s=50)."))
        };
        if job.state == JobState::Cancelled {
            return Ok(job.clone());
        }
        if job.state.is_final() {
            return conflict("it is over");
        }
        if matches!(job.kind, JobKind::DeleteApp | JobKind::DeleteEnvironment | JobKind::Upgrade) {
            return conflict("it goes on to its end once it was asked for");
        }
        let said = Some(format!("cancelled by {}", who.name));
        let jobs = self.0.store.jobs();
        match jobs.transition(&job.id, JobState::Queued, JobState::Cancelled, said, None).await {
            Ok(row) => {
                let _ = self.0.settled.send(());
                Ok(row)
            }
            Err(StoreError::Stale { .. }) => conflict("it has begun"),
            Err(error) => Err(error.into()),
        }
    }
}

/// Between tries when the store fails.
const STORE_PAUSE: Duration = Duration::from_secs(2);

impl Inner {
    pub(crate) async fn enqueue_job(
        self: &Arc<Self>,
        who: &Principal,
        kind: JobKind,
        app: Option<AppId>,
        environment: Option<EnvironmentId>,
        input: serde_json::Value,
    ) -> Result<JobRow, Problem> {
        stall::before("job_queued").await;
        let job = self.store.jobs().enqueue(kind, app, environment, input, &who.name).await?;
        stall::after("job_queued").await;
        self.work_on(Place::of(&job));
        Ok(job)
    }

    /// Has an environment that is marked deleted, once.
    pub(crate) async fn delete_marked(
        self: &Arc<Self>,
        who: &Principal,
        app: &AppRow,
    ) -> Result<JobRow, Problem> {
        let environment = app.environment.id;
        let under_way = self.store.jobs().unfinished().await?.into_iter();
        let mut same = under_way.filter(|j| j.environment_id == Some(environment));
        match same.find(|j| j.kind == JobKind::DeleteEnvironment) {
            Some(job) => Ok(job),
            None => {
                let kind = JobKind::DeleteEnvironment;
                self.enqueue_job(who, kind, Some(app.id), Some(environment), serde_json::Value::Null).await
            }
        }
    }

    /// Takes up the jobs that the last run did not end.
    pub(crate) async fn resume_jobs(self: &Arc<Self>) -> Result<(), Problem> {
        let unfinished = self.store.jobs().unfinished().await?;
        for job in &unfinished {
            if job.state == JobState::Running {
                let reason = Some("the daemon was restarted".into());
                self.store
                    .jobs()
                    .transition(&job.id, JobState::Running, JobState::Queued, reason, None)
                    .await?;
            }
            self.work_on(Place::of(job));
        }
        self.resume_deletions(&unfinished).await
    }

    /// An app or environment is marked before the job that deletes it is there: whoever died between the two meant it.
    async fn resume_deletions(self: &Arc<Self>, unfinished: &[JobRow]) -> Result<(), Problem> {
        let apps = self.store.apps().all_environments(&berth_store::model::Visible::All).await?;
        let going: HashSet<AppId> =
            apps.iter().filter(|a| a.is_production() && a.deleting).map(|a| a.id).collect();
        for app in apps.into_iter().filter(|app| app.deleting) {
            if !app.is_production() {
                if !going.contains(&app.id) {
                    self.delete_marked(&Principal::daemon(), &app).await?;
                }
                continue;
            }
            let known = unfinished.iter().any(|j| j.kind == JobKind::DeleteApp && j.app_id == Some(app.id));
            if !known {
                self.enqueue_job(
                    &Principal::daemon(),
                    JobKind::DeleteApp,
                    Some(app.id),
                    None,
                    serde_json::Value::Null,
                )
                .await?;
            }
        }
        Ok(())
    }

    /// Has the jobs of a place done, in the order in which they were asked for.
    fn work_on(self: &Arc<Self>, place: Place) {
        if let Some(turn) = self.working.take(place) {
            self.spawn(Arc::clone(self).do_jobs(place, turn));
        }
    }

    async fn do_jobs(self: Arc<Self>, place: Place, mut turn: Turn<Place>) {
        while !self.shutdown.is_cancelled() {
            let next = match self.next_job(place).await {
                Ok(Some(job)) => self.run_job(job).await,
                Ok(None) if turn.end() => return,
                Ok(None) => Ok(()),
                Err(problem) => Err(problem),
            };
            if let Err(problem) = next {
                tracing::error!(%problem, "a job could not be begun; trying again");
                self.pause().await;
            }
        }
    }

    /// The oldest job of a place that has not ended. One that "runs" is one whose beginning was kept although the
    /// store said otherwise, for nobody else works on this place's jobs.
    async fn next_job(&self, place: Place) -> Result<Option<JobRow>, Problem> {
        Ok(self.store.jobs().unfinished().await?.into_iter().find(|j| Place::of(j) == place))
    }

    /// Runs a job to its end, or until the daemon goes down: then it stays "running" and the next start takes it up.
    async fn run_job(self: &Arc<Self>, job: JobRow) -> Result<(), Problem> {
        if job.state == JobState::Queued {
            stall::before("job_running").await;
            match self.store.jobs().transition(&job.id, JobState::Queued, JobState::Running, None, None).await
            {
                // Cancelled in the meantime.
                Err(StoreError::Stale { .. }) => return Ok(()),
                begun => begun?,
            };
            stall::after("job_running").await;
        }
        let outcome = tokio::select! {
            biased;
            () = self.shutdown.cancelled() => return Ok(()),
            outcome = self.do_in_time(&job) => outcome,
        };
        let (state, message, problem) = match outcome {
            Ok(message) => (JobState::Succeeded, Some(message), None),
            Err(problem) => (JobState::Failed, None, Some(problem)),
        };
        stall::before("job_ended").await;
        while !self.shutdown.is_cancelled() {
            let (message, problem) = (message.clone(), problem.clone());
            match self.store.jobs().transition(&job.id, JobState::Running, state, message, problem).await {
                Ok(_) => break,
                Err(error @ (StoreError::Stale { .. } | StoreError::NotFound { .. })) => {
                    tracing::error!(job = %job.id, %error, "a job ended otherwise");
                    break;
                }
                Err(error) => {
                    tracing::error!(job = %job.id, %error, "the end of a job was not kept; trying again");
                    self.pause().await;
                }
            }
        }
        stall::after("job_ended").await;
        let _ = self.settled.send(());
        Ok(())
    }

    /// Time for a store that fails to come back.
    async fn pause(&self) {
        tokio::select! {
            () = self.shutdown.cancelled() => {}
            () = tokio::time::sleep(STORE_PAUSE) => {}
        }
    }

    /// Does it, unless it takes unreasonably long.
    async fn do_in_time(self: &Arc<Self>, job: &JobRow) -> Result<String, Problem> {
        // Its turn at the gate and the drain come on top, whatever was set for the app.
        let limit = limits::job(job.kind) + limits::GATE + limits::MOST_DRAIN;
        let outcome = tokio::time::timeout(limit, self.do_job(job)).await;
        self.jobs_at_gate().remove(&job.id);
        outcome.unwrap_or_else(|_| Err(limits::timed_out(&format!("the job {}", job.kind.as_str()), limit)))
    }

    /// Does it; returns what was done, in a sentence.
    async fn do_job(self: &Arc<Self>, job: &JobRow) -> Result<String, Problem> {
        let app = match (job.environment_id, job.app_id) {
            (Some(environment), _) => self.store.apps().by_environment(environment).await?,
            (None, Some(app)) => self.store.apps().by_id(app).await?,
            (None, None) => None,
        };
        match (job.kind, &app) {
            (JobKind::Cleanup, _) => self.clean_up(&job.input).await,
            (JobKind::Upgrade, _) => self.upgrade(job).await,
            (_, None) if job.app_id.is_some() => {
                let what = job.title().unwrap_or_else(|| "The app".into());
                Ok(format!("{what} is gone."))
            }
            (_, None) => Err(Problem::new(Code::Internal, "The job names no app.")),
            (JobKind::Stop, Some(app)) => self.stop_app(app, job).await,
            (JobKind::Start, Some(app)) => self.start_app(app, job).await,
            (JobKind::Scale, Some(app)) => {
                let replicas = job.input.get("replicas").and_then(serde_json::Value::as_i64).unwrap_or(1);
                self.scale_app(app, replicas, job).await
            }
            (JobKind::DeleteApp, Some(app)) => self.delete_app(app).await,
            (JobKind::DeleteEnvironment, Some(app)) => self.delete_environment(app).await,
            (JobKind::EraseUser, Some(app)) => match &self.config.eraser {
                Some(eraser) => eraser.erase(app.id, job).await,
                None => Err(Problem::new(Code::Unavailable, "This daemon keeps no errors of apps.")),
            },
        }
    }

    /// Hands over to the program that is installed now; or, when that has happened, says so.
    async fn upgrade(&self, job: &JobRow) -> Result<String, Problem> {
        let version = env!("CARGO_PKG_VERSION");
        match (&self.config.arrival, &self.config.successor) {
            // Begun by the process before this one, or by this one before it had to go on.
            (Arrival::TookOver { from, serving }, _) if job.started_at.is_some() => {
                serving.cancelled().await;
                Ok(format!("Berth {version} has taken over from {from}; no socket was closed."))
            }
            (Arrival::Stayed(problem), _) if job.started_at.is_some() => Err(problem.clone()),
            (Arrival::Started, _) if job.started_at.is_some() => Err(Problem::new(
                Code::Interrupted,
                format!("The daemon ended during the upgrade; {version} was started and runs."),
            )
            .hint("platform_status shows the version. Upgrade again if it is not the one that you want.")),
            (_, Some(successor)) => Err(successor.hand_over().await),
            (_, None) => Err(Problem::new(Code::Unavailable, "This daemon cannot hand over.")),
        }
    }

    /// Enters the gate of an app's traffic, and reads the app as it is once inside.
    async fn hold(&self, app: &AppRow, job: &JobRow) -> Result<(Inside, Held<'_>, AppRow), Problem> {
        self.jobs_at_gate().insert(job.id.clone());
        let inside = self.traffic.enter(app.environment.id).await;
        self.jobs_at_gate().remove(&job.id);
        let held = self.holds(app.environment.id, format!("the job that is to {} it", job.kind.as_str()));
        Ok((inside, held, self.app_in(app.environment.id).await?))
    }

    async fn stop_app(self: &Arc<Self>, app: &AppRow, job: &JobRow) -> Result<String, Problem> {
        let (_inside, _held, app) = self.hold(app, job).await?;
        stall::before("stopped").await;
        self.store.apps().set_stopped(app.environment.id, true, "berth").await?;
        stall::after("stopped").await;
        self.store.jobs().set_message(&job.id, "finishing open requests").await?;
        if let Some(old) = self.routes.stopped(&app) {
            self.routes.drain(&old, limits::drain(&app)).await;
        }
        if let Some(live) = app.environment.live {
            let _inside = self.containers.enter(live).await;
            self.stop_release(live).await;
        }
        Ok(format!("{} is stopped.", app.title()))
    }

    async fn start_app(self: &Arc<Self>, app: &AppRow, job: &JobRow) -> Result<String, Problem> {
        let (_inside, _held, app) = self.hold(app, job).await?;
        let app = &app;
        let Some(live) = app.environment.live else {
            return Err(Problem::new(Code::Conflict, "It was never deployed.")
                .hint("Deploy it with deployment_create."));
        };
        if !app.environment.stopped {
            // Nothing that serves is touched; what does not is healed.
            let _ = self.look.try_send(app.environment.id);
            return Ok(format!("{} was not stopped.", app.title()));
        }
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
                    self.wait_open(app, &release, &up, None).await?;
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
        stall::before("started").await;
        self.store.apps().set_stopped(app.environment.id, false, "berth").await?;
        stall::after("started").await;
        self.routes.serve(app, &release, self.target(app, &release, containers.as_deref())?);
        if let Some(containers) = &containers {
            self.collect_logs(app, &release, containers);
            self.let_engine_restart(release.id).await;
        }
        Ok(format!("{} runs.", app.title()))
    }

    async fn scale_app(
        self: &Arc<Self>,
        app: &AppRow,
        replicas: i64,
        job: &JobRow,
    ) -> Result<String, Problem> {
        let (_inside, _held, app) = self.hold(app, job).await?;
        let app = &app;
        let before = app.environment.replicas;
        let release = match app.environment.live {
            Some(live) => self.store.releases().get(live).await?,
            None => None,
        };
        let running =
            release.filter(|r| matches!(r.artifact, Artifact::Image { .. }) && !app.environment.stopped);
        let Some(release) = running else {
            self.store.apps().set_replicas(app.environment.id, replicas).await?;
            return Ok(format!("{} gets {replicas} replicas when it runs.", app.title()));
        };
        let before_growing = self.containers_of(release.id).await.map_err(|e| engine_problem(&e))?;
        let up = self.run_replicas(app, &release, 1..=replicas).await;
        let up = match up {
            Ok(up) => self.wait_open(app, &release, &up, None).await.map(|()| up),
            Err(problem) => Err(problem),
        };
        let up = match up {
            Ok(up) => up,
            Err(problem) => {
                // Those that were added did not work: only what was there stays.
                for container in self.containers_of(release.id).await.map_err(|e| engine_problem(&e))? {
                    if !before_growing.iter().any(|c| c.id == container.id) {
                        let _ = self.remove_container(&container.id).await;
                    }
                }
                return Err(problem);
            }
        };
        stall::before("scaled").await;
        self.store.apps().set_replicas(app.environment.id, replicas).await?;
        stall::after("scaled").await;
        if let Some(target) = self.routes.serving_target(app.environment.id) {
            // Open requests of replicas that go finish before their containers get SIGTERM.
            let removed = target.set_replicas(crate::routes::replica_addrs(&up));
            self.routes.drain_replicas(removed, limits::drain(app)).await;
        }
        self.collect_logs(app, &release, &up);
        self.let_engine_restart(release.id).await;
        for container in self.containers_of(release.id).await.map_err(|e| engine_problem(&e))? {
            if replica_of(&container).is_none_or(|n| n > replicas) {
                let stopped = self.engine.stop_container(&container.id, limits::STOP_GRACE).await;
                stopped.map_err(|e| engine_problem(&e))?;
                self.remove_container(&container.id).await.map_err(|e| engine_problem(&e))?;
            }
        }
        let trial = match self.routes.trial(app.environment.id) {
            Some(_) => " The release on trial keeps its own until it is promoted.",
            None => "",
        };
        Ok(format!("{} has {replicas} replicas; it had {before}.{trial}", app.title()))
    }
}
