//! Gradual rollouts: a healthy release gets a part of the traffic until somebody promotes or aborts it, or it shows
//! that it is worse than what serves.
//!
//! The store says what is wanted (the state `rolling_out`, the rule, the wish to promote), so that a restart goes on
//! where the last run ended: the split is restored first, then containers that died with the machine are started
//! again. The candidate keeps the replicas it began with; promoted, it gets as many as the app has.

use std::{sync::Arc, time::Duration};

use berth_proxy::{Answers, ReleaseTarget};
use berth_schemas::{
    Code, Problem,
    deployment::DeploymentState,
    traffic::{AnswersShown, RolloutRule, RolloutShown},
};
use berth_store::model::{AppRow, Artifact, DeploymentId, DeploymentRow, Principal, ReleaseRow, Visible};

use crate::{
    attempt::Attempt,
    docker::{ContainerPhase, ContainerSummary},
    fault::{Halt, engine_problem},
    limits,
    lock::lock,
    pipeline::{Inner, Pipeline},
    routes::{Trial, replica_addrs, since},
    start::Running,
    worse::{self, Thresholds},
};

/// A candidate is looked at this often; what is asked for is seen at once.
const LOOK: Duration = Duration::from_millis(500);

/// How much both sides had answered when they were first compared.
pub(crate) struct Baseline {
    main: Arc<ReleaseTarget>,
    main_before: Answers,
    candidate_before: Answers,
}

/// A release on trial.
struct Candidate<'a> {
    release: &'a ReleaseRow,
    target: Arc<ReleaseTarget>,
    /// None of a release that is served as files.
    containers: &'a mut Option<Vec<Running>>,
}

impl Candidate<'_> {
    /// Sends its part of the traffic to these containers.
    fn replace(&mut self, up: Vec<Running>) {
        drop(self.target.set_replicas(replica_addrs(&up)));
        *self.containers = Some(up);
    }
}

impl Pipeline {
    /// The rollout of an app that is on its way or goes on.
    ///
    /// # Errors
    /// `Conflict` when there is none.
    pub async fn rollout(&self, app: &AppRow) -> Result<DeploymentRow, Problem> {
        let unsettled = self.0.store.deployments().unsettled().await?;
        let here = |d: &DeploymentRow| d.environment_id == app.environment.id && d.rollout.is_some();
        unsettled
            .into_iter()
            .filter(here)
            .max_by_key(|d| (d.state == DeploymentState::RollingOut, d.number))
            .ok_or_else(|| {
                Problem::new(Code::Conflict, format!("No rollout of {} goes on.", app.title()))
                    .hint(format!("Start one with rollout_start(app={:?}, …).", app.slug.as_str()))
            })
    }

    /// Changes which requests a rollout gets, at once.
    ///
    /// # Errors
    /// `Conflict` when it cannot be changed any more.
    pub async fn set_rollout(
        &self,
        who: &Principal,
        deployment: &DeploymentRow,
        rule: RolloutRule,
    ) -> Result<DeploymentRow, Problem> {
        let inner = &self.0;
        let _inside = inner.modes.enter(deployment.environment_id).await;
        let row = inner.store.deployments().set_rollout(deployment.id, &rule, &who.name).await?;
        let app = inner.app_in(row.environment_id).await?;
        if let Some(trial) = inner.routes.trial(row.environment_id).filter(|t| Some(t.release) == row.release)
        {
            inner.routes.set_trial(&app, Trial { rule, ..trial });
        }
        Ok(row)
    }

    /// Asks for all traffic for a rollout; the wish survives a restart.
    ///
    /// # Errors
    /// `Conflict` when it was told to stop, or is over.
    pub async fn promote(
        &self,
        who: &Principal,
        deployment: &DeploymentRow,
    ) -> Result<DeploymentRow, Problem> {
        let row = self.0.store.deployments().request_promote(deployment.id, &who.name).await?;
        self.0.decided.notify_waiters();
        Ok(row)
    }

    /// The rollout that gets a part of an app's traffic, with what both sides answered.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn rollout_shown(&self, app: &AppRow) -> Result<Option<RolloutShown>, Problem> {
        let unsettled = self.0.store.deployments().unsettled().await?;
        let Some(row) = unsettled
            .into_iter()
            .find(|d| d.environment_id == app.environment.id && d.state == DeploymentState::RollingOut)
        else {
            return Ok(None);
        };
        let (candidate, live) = self.0.compare(&row).unwrap_or_default();
        Ok(Some(RolloutShown {
            deployment: row.reference(),
            promoting: row.promote_requested,
            rule: row.rollout.unwrap_or_default(),
            candidate: shown(candidate),
            live: shown(live),
        }))
    }
}

fn shown(answers: Answers) -> AnswersShown {
    AnswersShown { total: answers.total, server_errors: answers.server_errors }
}

impl Inner {
    /// Gives a checked release its part of the traffic and waits until it is promoted. Returns its target.
    ///
    /// On an error all traffic is back at the live release, and open requests of the candidate have ended; but when
    /// the daemon goes down everything stays as it is.
    pub(crate) async fn roll_out(
        self: &Arc<Self>,
        attempt: &mut Attempt,
        release: &ReleaseRow,
        containers: &mut Option<Vec<Running>>,
    ) -> Result<Option<Arc<ReleaseTarget>>, Halt> {
        attempt.app = self.app_in(attempt.row.environment_id).await?;
        attempt.row = self.deployment(attempt.row.id).await?;
        let compared = attempt.app.environment.live.is_some_and(|live| live != release.id);
        if attempt.row.state != DeploymentState::RollingOut && (attempt.row.promote_requested || !compared) {
            return Ok(None);
        }
        let target = match self.routes.trial(attempt.row.environment_id) {
            Some(trial) if trial.release == release.id => trial.target,
            _ => self.target(&attempt.app, release, containers.as_deref())?,
        };
        if attempt.row.state != DeploymentState::RollingOut {
            self.enter(attempt, DeploymentState::RollingOut).await?;
            let percent = attempt.row.rollout.as_ref().map_or(0, |r| r.percent);
            attempt.journal.note(format!("gets {percent} % of the visitors until it is promoted")).await;
        }
        let mut candidate = Candidate { release, target, containers };
        self.begin_trial(attempt, &candidate).await?;
        if let Some(up) = candidate.containers.take() {
            self.collect_logs(&attempt.app, release, &up);
            candidate.replace(up);
        }
        self.maps_due.notify_one();
        // Whoever waited for the part of the traffic learns of it.
        let _ = self.settled.send(());
        match self.await_promotion(attempt, &mut candidate).await {
            Ok(()) => Ok(Some(candidate.target)),
            Err(Halt::Shutdown) => Err(Halt::Shutdown),
            Err(halt) => {
                self.take_traffic_back(attempt).await;
                Err(halt)
            }
        }
    }

    /// Sets the split, by the rule that is wanted now.
    async fn begin_trial(&self, attempt: &Attempt, candidate: &Candidate<'_>) -> Result<(), Problem> {
        let _inside = self.modes.enter(attempt.row.environment_id).await;
        let rule = self.deployment(attempt.row.id).await?.rollout.unwrap_or_default();
        let trial = Trial { release: candidate.release.id, target: Arc::clone(&candidate.target), rule };
        self.routes.set_trial(&attempt.app, trial);
        self.compare(&attempt.row);
        Ok(())
    }

    /// Waits for the wish to promote, and looks at the candidate meanwhile.
    async fn await_promotion(
        &self,
        attempt: &mut Attempt,
        candidate: &mut Candidate<'_>,
    ) -> Result<(), Halt> {
        loop {
            let decided = self.decided.notified();
            tokio::pin!(decided);
            decided.as_mut().enable();
            let row = self.deployment(attempt.row.id).await;
            // A store that does not answer decides nothing: the trial goes on.
            if let Ok(row) = row {
                if row.cancel_requested {
                    attempt.check_cancelled(self)?;
                    return Err(Halt::Cancelled);
                }
                if row.promote_requested {
                    return self.complete(attempt, candidate).await;
                }
            }
            self.look_at_candidate(attempt, candidate).await?;
            attempt
                .unless_cancelled(self, async {
                    tokio::select! {
                        () = decided => {}
                        () = tokio::time::sleep(LOOK) => {}
                    }
                    Ok(())
                })
                .await?;
        }
    }

    /// Fails when the candidate is dead or answers clearly worse than the live release.
    async fn look_at_candidate(&self, attempt: &Attempt, candidate: &mut Candidate<'_>) -> Result<(), Halt> {
        if let Some((new, live)) = self.compare(&attempt.row)
            && let Some(why) =
                worse::reason(new, Some(live), Thresholds::of(attempt.app.settings.error_rollback_percent))
        {
            let tail = match candidate.containers.as_ref().and_then(|c| c.first()) {
                Some(container) => self.output_tail(&container.id).await,
                None => Vec::new(),
            };
            let detail = format!("The rollout was ended: {why}. The live release has all the traffic again.");
            return Err(Problem::new(Code::HealthCheckFailed, detail)
                .hint("Read what it printed with log_search, correct it, and start another rollout.")
                .log_tail(tail)
                .into());
        }
        let Some(before) = candidate.containers else { return Ok(()) };
        let release = candidate.release;
        // An engine that does not answer says nothing about the containers.
        let Ok(all) = self.containers_of(release.id).await else { return Ok(()) };
        let mut up = Vec::new();
        for container in all.iter().filter(|c| c.phase == ContainerPhase::Running) {
            match self.running(release, container).await {
                Ok(running) => up.extend(running),
                Err(_) => return Ok(()),
            }
        }
        if up.is_empty() && !all.iter().any(|c| crate::switch::may_run(c.phase)) {
            return Err(self.candidate_died(&all, before).await.into());
        }
        let changed = up.len() != before.len()
            || up.iter().any(|u| !before.iter().any(|b| b.id == u.id && b.addr == u.addr));
        if changed && !up.is_empty() {
            self.collect_logs(&attempt.app, release, &up);
            candidate.replace(up);
        }
        Ok(())
    }

    async fn candidate_died(&self, all: &[ContainerSummary], before: &[Running]) -> Problem {
        let last = all.first().map(|c| &c.id).or(before.first().map(|b| &b.id));
        let (mut code, mut tail) = (None, Vec::new());
        if let Some(id) = last {
            code = self.engine.inspect_container(id).await.ok().and_then(|s| s.exit_code);
            tail = self.output_tail(id).await;
        }
        let code = code.map_or_else(String::new, |c| format!(" with exit code {c}"));
        let detail = format!(
            "The release on trial died{code} during its rollout; the live release has all the traffic again."
        );
        Problem::new(Code::ContainerExited, detail)
            .hint("Its last lines are below; correct the cause and start another rollout.")
            .log_tail(tail)
    }

    /// Gives a candidate that is to be promoted as many replicas as the app has.
    async fn complete(&self, attempt: &mut Attempt, candidate: &mut Candidate<'_>) -> Result<(), Halt> {
        attempt.journal.note("promoted: it gets all the traffic").await;
        attempt.app = self.app_in(attempt.row.environment_id).await?;
        if candidate.containers.is_some() {
            let all = self.bring_back(&attempt.app, candidate.release);
            candidate.replace(attempt.unless_cancelled(self, all).await?);
        }
        Ok(())
    }

    /// Starts what of a candidate does not run, and waits until all of it is healthy.
    async fn bring_back(&self, app: &AppRow, release: &ReleaseRow) -> Result<Vec<Running>, Halt> {
        let _inside = self.containers.enter(release.id).await;
        let up = self.run_replicas(app, release, 1..=app.environment.replicas.max(1)).await?;
        self.wait_open(app, release, &up, None).await?;
        Ok(up)
    }

    /// All traffic goes to the live release again; open requests of the candidate may finish.
    async fn take_traffic_back(&self, attempt: &Attempt) {
        let Some(target) = self.routes.end_trial(attempt.row.environment_id) else { return };
        tokio::select! {
            report = self.routes.drain(&target, limits::drain(&attempt.app)) => {
                if report.cut > 0 {
                    let text = format!("{} requests of the release on trial were ended", report.cut);
                    attempt.journal.note(text).await;
                }
            }
            () = self.shutdown.cancelled() => {}
        }
    }

    /// Takes a rollout up where the last run left it. Returns the release and its containers.
    pub(crate) async fn resume_rollout(
        &self,
        attempt: &Attempt,
    ) -> Result<(ReleaseRow, Option<Vec<Running>>), Halt> {
        let made = attempt.row.release.ok_or_else(|| {
            Problem::new(Code::Interrupted, "The rollout was cut off before its release was recorded.")
                .hint("Start another rollout.")
        })?;
        let release = self.kept_release(attempt, made).await?;
        if let Artifact::Static { .. } = release.artifact {
            return Ok((release, None));
        }
        self.restore_trial(&attempt.row, None).await?;
        let up = loop {
            let up = attempt.unless_cancelled(self, self.bring_back(&attempt.app, &release)).await;
            match up {
                Err(Halt::Failed(problem)) if problem.code == Code::DockerUnavailable => {
                    attempt
                        .unless_cancelled(self, async {
                            tokio::time::sleep(LOOK).await;
                            Ok(())
                        })
                        .await?;
                }
                up => break up?,
            }
        };
        Ok((release, Some(up)))
    }

    /// Restores the split of a rollout with what runs of it, as after a start of the daemon.
    pub(crate) async fn restore_trial(
        &self,
        row: &DeploymentRow,
        containers: Option<&[ContainerSummary]>,
    ) -> Result<(), Problem> {
        let app = self.app_in(row.environment_id).await?;
        let Some(id) =
            row.release.filter(|id| self.routes.trial(app.environment.id).is_none_or(|t| t.release != *id))
        else {
            return Ok(());
        };
        let Some(release) = self.store.releases().get(id).await?.filter(|r| !r.removed) else {
            return Ok(());
        };
        let mut up = Vec::new();
        if let Artifact::Image { .. } = release.artifact {
            let listed;
            let containers = match containers {
                Some(containers) => containers,
                None => {
                    listed = self.containers_of(id).await.map_err(|e| engine_problem(&e))?;
                    &listed
                }
            };
            up = self.running_among(&release, containers).await;
            if up.is_empty() {
                return Ok(());
            }
        }
        let target = self.target(&app, &release, Some(&up))?;
        let rule = row.rollout.clone().unwrap_or_default();
        self.routes.set_trial(&app, Trial { release: id, target, rule });
        Ok(())
    }

    /// What the candidate and the live release answered since they were first compared.
    fn compare(&self, row: &DeploymentRow) -> Option<(Answers, Answers)> {
        let trial = self.routes.trial(row.environment_id)?;
        let main = self.routes.serving_target(row.environment_id)?;
        let mut baselines = lock(&self.baselines);
        let new = || Baseline {
            main_before: main.answers(),
            candidate_before: trial.target.answers(),
            main: Arc::clone(&main),
        };
        let base = baselines.entry(row.id).or_insert_with(new);
        if !Arc::ptr_eq(&base.main, &main) {
            *base = new();
        }
        Some((since(&trial.target, base.candidate_before), since(&main, base.main_before)))
    }

    /// A rollout is over: its numbers are of no use, and its targets need not be held.
    pub(crate) fn forget_comparison(&self, id: DeploymentId) {
        lock(&self.baselines).remove(&id);
    }

    /// Who asked for the end of a rollout, in words.
    pub(crate) async fn why_aborted(&self, row: &DeploymentRow) -> String {
        let name = row.reference().to_string();
        let kind = Some("deployment.cancel_requested");
        let events = self.store.events().list(&Visible::All, Some(&row.app), kind, None, None, 20).await;
        let by = events.unwrap_or_default().into_iter().find(|e| e.data["deployment"] == name.as_str());
        by.map_or_else(|| "rollout aborted".into(), |e| format!("rollout aborted by {}", e.by))
    }
}
