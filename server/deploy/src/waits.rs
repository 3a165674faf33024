//! What waits for what: said truly, for whoever asks why nothing happens.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use berth_schemas::{deployment::DeploymentState, ids::JobId, job::JobState};
use berth_store::{
    StoreError,
    model::{DeploymentId, DeploymentRow, EnvironmentId, JobRow},
};

use crate::pipeline::{Active, Inner, Pipeline};

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
    pub(crate) fn jobs_at_gate(&self) -> std::sync::MutexGuard<'_, HashSet<JobId>> {
        self.jobs_at_gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn active(&self) -> std::sync::MutexGuard<'_, HashMap<DeploymentId, Active>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
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
                    unfinished.iter().take_while(|j| j.id != job.id).find(|j| j.app_id == job.app_id);
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
                let app = match job.app_id {
                    Some(app) => inner.store.apps().by_id(app).await?,
                    None => None,
                };
                Ok(app.and_then(|app| inner.holder(app.environment.id)))
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
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<EnvironmentId, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
