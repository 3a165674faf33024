//! One attempt to carry a deployment from the queue to live, read top-down: prepare a release, start it beside
//! the old one, check it, switch traffic, drain, retire.
//!
//! Each state is committed before its work begins, so that a restart knows where it was. Whatever ends the
//! attempt early passes through [`Inner::carry_out`], which leaves nothing half-made behind; the live release is
//! not touched before the switch.

use std::{sync::Arc, time::Instant};

use berth_schemas::{
    DeploymentRef, Problem,
    deployment::{BuildLineKind, DeploymentState},
};
use berth_store::model::{AppRow, Artifact, Change, DeploymentRow, DeploymentSource, ReleaseRow};
use tokio_util::sync::CancellationToken;

use crate::{fault::Halt, journal::Journal, limits, pipeline::Inner, start::Running};

/// What every step of an attempt works with.
pub(crate) struct Attempt {
    pub(crate) app: AppRow,
    pub(crate) row: DeploymentRow,
    pub(crate) journal: Journal,
    pub(crate) cancel: CancellationToken,
}

impl Inner {
    /// Works on a deployment until it is live or over. Returns whether it has settled.
    pub(crate) async fn carry_out(self: Arc<Self>, row: DeploymentRow, cancel: CancellationToken) -> bool {
        let journal =
            Journal::open(self.store.clone(), self.watchers.clone(), row.id, row.state, &self.tasks);
        let app = match self.app_in(row.environment_id).await {
            Ok(app) => app,
            Err(problem) => {
                tracing::error!(%problem, deployment = %row.reference(), "the app of a deployment could not be read");
                return false;
            }
        };
        let mut attempt = Attempt { app, row, journal, cancel };
        let begun = Instant::now();
        let outcome = if attempt.row.state == DeploymentState::RollingOut {
            // A rollout that goes on is not begun again.
            self.drive_on(&mut attempt).await
        } else {
            match self.store.deployments().bump_attempt(attempt.row.id).await {
                Ok(_) => self.drive(&mut attempt).await,
                Err(error) => Err(error.into()),
            }
        };
        if let Err(halt) = outcome {
            self.halt(&mut attempt, halt).await;
        }
        tracing::info!(
            deployment = %attempt.row.reference(),
            state = attempt.row.state.as_str(),
            ms = begun.elapsed().as_millis(),
            "a deployment was worked on"
        );
        attempt.journal.flush().await;
        if let Err(error) = remove_dir(&self.work_dir(attempt.row.id)).await {
            tracing::warn!(%error, "a work directory could not be removed");
        }
        attempt.row.state.is_settled()
    }

    async fn drive(self: &Arc<Self>, attempt: &mut Attempt) -> Result<(), Halt> {
        let release = self.prepare(attempt).await?;
        let started = match &release.artifact {
            Artifact::Static { .. } => None,
            Artifact::Image { .. } => {
                self.enter(attempt, DeploymentState::Starting).await?;
                match self.bring_up(attempt, &release).await {
                    Ok(containers) => Some(containers),
                    Err(halt) => return self.give_up(attempt, &release, halt).await,
                }
            }
        };
        self.bring_in(attempt, &release, started).await
    }

    /// Goes on with a rollout that the last run of the daemon left.
    async fn drive_on(self: &Arc<Self>, attempt: &mut Attempt) -> Result<(), Halt> {
        match self.resume_rollout(attempt).await {
            Ok((release, containers)) => self.bring_in(attempt, &release, containers).await,
            Err(halt) => {
                if !matches!(halt, Halt::Shutdown) {
                    drop(self.routes.end_trial(attempt.row.environment_id));
                }
                Err(halt)
            }
        }
    }

    /// Gives a checked release the traffic: a part of it first, where that is wanted.
    async fn bring_in(
        self: &Arc<Self>,
        attempt: &mut Attempt,
        release: &ReleaseRow,
        mut started: Option<Vec<Running>>,
    ) -> Result<(), Halt> {
        let trial = match attempt.row.rollout {
            Some(_) => self.roll_out(attempt, release, &mut started).await,
            None => Ok(None),
        };
        let outcome = match trial {
            Ok(target) => self.switch(attempt, release, started, target).await,
            Err(halt) => Err(halt),
        };
        self.forget_comparison(attempt.row.id);
        match outcome {
            Ok(()) => Ok(()),
            // Its containers go on, with their part of the traffic, until the next start takes it up.
            Err(Halt::Shutdown) if attempt.row.state == DeploymentState::RollingOut => Err(Halt::Shutdown),
            Err(halt) => {
                drop(self.routes.end_trial(attempt.row.environment_id));
                self.give_up(attempt, release, halt).await
            }
        }
    }

    /// Starts a release and waits until it is healthy.
    async fn bring_up(&self, attempt: &mut Attempt, release: &ReleaseRow) -> Result<Vec<Running>, Halt> {
        let containers = self.start_release(attempt, release).await?;
        self.enter(attempt, DeploymentState::Checking).await?;
        let limit = self.health_policy(release).total() + limits::CHECK_GRACE;
        limits::step("the health check", limit, self.check_release(attempt, release, &containers)).await?;
        Ok(containers)
    }

    /// Takes back a start that came to nothing.
    async fn give_up(&self, attempt: &Attempt, release: &ReleaseRow, halt: Halt) -> Result<(), Halt> {
        self.take_back(attempt.row.environment_id, release).await;
        Err(halt)
    }

    /// The release that this deployment brings: an earlier one, or one made now.
    async fn prepare(self: &Arc<Self>, attempt: &mut Attempt) -> Result<ReleaseRow, Halt> {
        match attempt.row.source.clone() {
            DeploymentSource::Rollback { release, to } => {
                let release = self.kept_release(attempt, release).await?;
                attempt.journal.note(format!("going back to {to} with the variables it had")).await;
                self.store.deployments().set_release(attempt.row.id, release.id).await?;
                Ok(release)
            }
            DeploymentSource::Promote { release, of } => {
                let old = self.kept_release(attempt, release).await?;
                let note =
                    format!("taking over {of} as it was built, with the settings and variables of now");
                attempt.journal.note(note).await;
                self.reissue(attempt, old).await
            }
            DeploymentSource::Redeploy { release, of } => {
                // What is live may have changed while this waited; the older one is not what is wanted then.
                let live = attempt.app.environment.live.unwrap_or(release);
                let old = self.kept_release(attempt, live).await?;
                let of = if old.id == release {
                    of
                } else {
                    DeploymentRef::new(attempt.app.slug.clone(), old.number)
                };
                attempt
                    .journal
                    .note(format!("deploying {of} again with today's settings and variables"))
                    .await;
                self.reissue(attempt, old).await
            }
            DeploymentSource::Image { image } => {
                self.enter(attempt, DeploymentState::Fetching).await?;
                self.fetch_image(attempt, &image).await
            }
            DeploymentSource::Upload { .. }
            | DeploymentSource::Files { .. }
            | DeploymentSource::Git { .. }
            | DeploymentSource::Pushed { .. } => {
                self.enter(attempt, DeploymentState::Fetching).await?;
                let source = self.fetch_source(attempt).await?;
                self.enter(attempt, DeploymentState::Building).await?;
                self.build_release(attempt, source).await
            }
        }
    }

    /// Enters a state, unless the attempt is to stop.
    pub(crate) async fn enter(&self, attempt: &mut Attempt, state: DeploymentState) -> Result<(), Halt> {
        attempt.check_cancelled(self)?;
        attempt.journal.flush().await;
        attempt.check_cancelled(self)?;
        self.transition(&mut attempt.row, state, Change::default()).await?;
        attempt.journal.enter(state);
        Ok(())
    }

    /// Brings the deployment to the state in which it ends, or leaves it for the next start.
    async fn halt(&self, attempt: &mut Attempt, halt: Halt) {
        let failed_in = attempt.row.state;
        let (state, change) = match halt {
            Halt::Shutdown => {
                attempt.journal.note("the daemon is going down; the next start takes this up again").await;
                // An orderly end says nothing against the deployment: only ends without one are counted.
                if let Err(error) = self.store.deployments().uncount_attempt(attempt.row.id).await {
                    tracing::debug!(%error, "an attempt that was broken off counts all the same");
                }
                return;
            }
            // It has the traffic already: what is left to do is done by whoever takes it up.
            _ if failed_in == DeploymentState::Draining => {
                tracing::error!(?halt, deployment = %attempt.row.reference(), "the last step of a deployment was not kept; it is taken up again");
                return;
            }
            Halt::Cancelled if failed_in == DeploymentState::RollingOut => {
                let reason = self.why_aborted(&attempt.row).await;
                (DeploymentState::Cancelled, Change { reason: Some(reason), problem: None })
            }
            Halt::Cancelled => {
                (DeploymentState::Cancelled, Change { reason: Some("cancelled".into()), problem: None })
            }
            Halt::Superseded { by } => (
                DeploymentState::Superseded,
                Change { reason: Some(format!("superseded by {by}")), problem: None },
            ),
            Halt::Same { of } => {
                let reason = format!("it brings the same as {of}, which is live");
                attempt.journal.note(format!("nothing to deploy: {reason}")).await;
                (DeploymentState::Superseded, Change { reason: Some(reason), problem: None })
            }
            Halt::Failed(mut problem) => {
                problem.step.get_or_insert_with(|| failed_in.as_str().to_owned());
                attempt.journal.line(BuildLineKind::Failed, None, problem.detail.clone()).await;
                if let Some(hint) = &problem.hint {
                    attempt.journal.note(hint.clone()).await;
                }
                (
                    DeploymentState::Failed,
                    Change { reason: Some(problem.detail.clone()), problem: Some(problem) },
                )
            }
        };
        attempt.journal.flush().await;
        if let Err(problem) = self.transition(&mut attempt.row, state, change).await {
            // Whatever it is now is found, and put right, at the next look at the queue.
            tracing::error!(%problem, deployment = %attempt.row.reference(), "the end of a deployment was not kept");
            return;
        }
        self.drop_traces(&attempt.row).await;
    }

    /// Says why the attempt was told to stop.
    pub(crate) fn why_cancelled(&self, row: &DeploymentRow) -> Halt {
        if self.shutdown.is_cancelled() {
            return Halt::Shutdown;
        }
        let active = self.active();
        match active.get(&row.id).and_then(|a| a.superseded_by.clone()) {
            Some(by) => Halt::Superseded { by },
            None => Halt::Cancelled,
        }
    }
}

impl Attempt {
    /// Fails when the attempt was told to stop.
    pub(crate) fn check_cancelled(&self, inner: &Inner) -> Result<(), Halt> {
        if self.cancel.is_cancelled() { Err(inner.why_cancelled(&self.row)) } else { Ok(()) }
    }

    /// Runs a step that may be told to stop at any time.
    pub(crate) async fn unless_cancelled<T>(
        &self,
        inner: &Inner,
        step: impl Future<Output = Result<T, Halt>>,
    ) -> Result<T, Halt> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(inner.why_cancelled(&self.row)),
            outcome = step => outcome,
        }
    }
}

/// Removes a directory if it is there.
pub(crate) async fn remove_dir(path: &std::path::Path) -> Result<(), std::io::Error> {
    match tokio::fs::remove_dir_all(path).await {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// The problem of a file operation of Berth's own.
pub(crate) fn io_problem(what: &str, error: &std::io::Error) -> Problem {
    use berth_schemas::Code;
    if matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) {
        return Problem::new(Code::OutOfDisk, format!("The disk is full: {what} failed."))
            .hint("Free space; platform_cleanup lists what Berth can remove.");
    }
    Problem::new(Code::Internal, format!("{what} failed: {error}."))
}
