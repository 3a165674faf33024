//! What waits for what: said truly, for whoever asks why nothing happens.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use berth_schemas::{Code, Problem, deployment::DeploymentState, ids::JobId, job::JobState};
use berth_store::{
    StoreError,
    model::{DeploymentId, DeploymentRow, EnvironmentId, JobRow, Visible},
};

use crate::{
    jobs::Place,
    lock::lock,
    pipeline::{Active, Inner, Pipeline},
};

/// What a deployment that is worked on waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// A place to build.
    BuildPlace,
    /// Whoever changes what serves in its environment.
    Gate,
}

/// Who changes what serves, by environment, in words.
#[derive(Default)]
pub(crate) struct Holders(Mutex<HashMap<EnvironmentId, String>>);

impl Inner {
    /// Notes that a deployment waits; ends when dropped.
    pub(crate) fn waits(&self, id: DeploymentId, wait: Wait) -> Waiting<'_> {
        self.note_use(id, |active| active.waits = Some(wait));
        Waiting { inner: self, id }
    }

    /// Notes who is inside the gate of an environment; ends when dropped. The caller is inside.
    pub(crate) fn holds(&self, environment: EnvironmentId, who: String) -> Held<'_> {
        self.holders.lock().insert(environment, who);
        Held { holders: &self.holders, environment }
    }

    /// Who is inside the gate of an environment.
    fn holder(&self, environment: EnvironmentId) -> Option<String> {
        self.holders.lock().get(&environment).cloned()
    }

    /// Jobs that wait for the gate of their app's traffic.
    pub(crate) fn jobs_at_gate(&self) -> MutexGuard<'_, HashSet<JobId>> {
        lock(&self.jobs_at_gate)
    }

    /// Deployments being worked on.
    pub(crate) fn active(&self) -> MutexGuard<'_, HashMap<DeploymentId, Active>> {
        lock(&self.active)
    }

    /// Who has the places to build.
    fn builders(&self) -> String {
        let mut names: Vec<String> =
            self.active().values().filter(|a| a.builds).map(|a| a.name.clone()).collect();
        names.sort();
        names.join(" and ")
    }
}

impl Pipeline {
    /// The deployment when it has settled, or has its part of the traffic, or as it is after `at_most` or when the
    /// daemon goes down.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn wait(&self, id: DeploymentId, at_most: Duration) -> Result<DeploymentRow, Problem> {
        self.read_until(DeploymentRow::rests, at_most, || self.0.deployment(id)).await
    }

    /// The job when it has ended, or as it is after `at_most` or when the daemon goes down.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn wait_job(&self, id: &JobId, at_most: Duration) -> Result<JobRow, Problem> {
        let none = || Problem::new(Code::NotFound, format!("There is no job {id}."));
        let read = || async { self.0.store.jobs().get(&Visible::All, id).await?.ok_or_else(none) };
        self.read_until(|job: &JobRow| job.state.is_final(), at_most, read).await
    }

    /// Reads a row again whenever something settles, until it is `over`, the time is, or the daemon goes down.
    async fn read_until<T, F: Future<Output = Result<T, Problem>>>(
        &self,
        over: impl Fn(&T) -> bool,
        at_most: Duration,
        read: impl Fn() -> F,
    ) -> Result<T, Problem> {
        let deadline = tokio::time::Instant::now() + at_most;
        let mut settled = self.0.settled.subscribe();
        loop {
            let row = read().await?;
            let late = tokio::time::Instant::now() >= deadline;
            if over(&row) || late || self.0.shutdown.is_cancelled() {
                return Ok(row);
            }
            // Whatever ends the wait, the row is read again: missing or foreign messages do no harm.
            self.unless_stopping(tokio::time::timeout_at(deadline, settled.recv())).await;
        }
    }

    /// Waits for something, unless this run goes down first: whoever waits in it is to say then how things stand.
    pub async fn unless_stopping<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.0.shutdown.run_until_cancelled(work).await
    }

    /// Resolves when this run is going down.
    pub async fn stopping(&self) {
        self.0.shutdown.cancelled().await;
    }

    /// What a deployment waits for, if it does.
    #[must_use]
    pub fn waits_for(&self, deployment: &DeploymentRow) -> Option<String> {
        let inner = &self.0;
        let own = inner.active().get(&deployment.id).and_then(|a| a.waits);
        match (deployment.state, own) {
            (state, _) if state.is_settled() => None,
            (_, Some(Wait::BuildPlace)) => Some(format!(
                "a free place to build; {} run at once on this machine, now {}",
                inner.config.concurrent_builds,
                inner.builders()
            )),
            (_, Some(Wait::Gate)) => Some(
                inner
                    .holder(deployment.environment_id)
                    .unwrap_or_else(|| "its turn to switch the traffic".into()),
            ),
            (DeploymentState::Queued, None) => Some(self.queued_behind(deployment)),
            _ => None,
        }
    }

    fn queued_behind(&self, deployment: &DeploymentRow) -> String {
        let active = self.0.active();
        let other =
            active.iter().find(|(id, a)| a.environment == deployment.environment_id && **id != deployment.id);
        match other {
            Some((_, other)) if other.state == DeploymentState::RollingOut => {
                format!("the rollout of {}; rollout_promote or rollout_abort ends it", other.name)
            }
            Some((_, other)) if other.cancel.is_cancelled() => {
                format!("{}, which is being stopped", other.name)
            }
            Some((_, other)) => format!("{}, which is {}", other.name, other.state.as_str()),
            None => "its turn; it starts in a moment".to_owned(),
        }
    }

    /// What a job waits for, if it does.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn job_waits_for(&self, job: &JobRow) -> Result<Option<String>, StoreError> {
        let inner = &self.0;
        match job.state {
            JobState::Queued => {
                let unfinished = inner.store.jobs().unfinished().await?;
                let earlier =
                    unfinished.iter().take_while(|j| j.id != job.id).find(|j| Place::of(j) == Place::of(job));
                Ok(Some(match earlier {
                    Some(earlier) => {
                        format!(
                            "the {} before it, which is {}",
                            earlier.kind.as_str(),
                            earlier.state.as_str()
                        )
                    }
                    None => "its turn; it starts in a moment".to_owned(),
                }))
            }
            JobState::Running if inner.jobs_at_gate().contains(&job.id) => {
                Ok(job.environment_id.and_then(|environment| inner.holder(environment)))
            }
            _ => Ok(None),
        }
    }
}

/// A deployment that waits.
pub(crate) struct Waiting<'a> {
    inner: &'a Inner,
    id: DeploymentId,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.inner.note_use(self.id, |active| active.waits = None);
    }
}

/// Somebody inside a gate.
pub(crate) struct Held<'a> {
    holders: &'a Holders,
    environment: EnvironmentId,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.holders.lock().remove(&self.environment);
    }
}

impl Holders {
    fn lock(&self) -> MutexGuard<'_, HashMap<EnvironmentId, String>> {
        lock(&self.0)
    }
}
