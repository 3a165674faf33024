//! Which deployment is worked on next.
//!
//! Per environment one at a time, the newest that waits; older ones that wait are superseded. The store is the
//! queue: this task holds nothing that a restart could lose.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError},
    time::Duration,
};

use berth_schemas::{Problem, deployment::DeploymentState};
use berth_store::model::{Change, DeploymentId, DeploymentRow, EnvironmentId};
use tokio_util::sync::CancellationToken;

use crate::pipeline::{Active, Inner};

/// The queue is also looked at this often, in case a wake-up was missed.
const IDLE_LOOK: Duration = Duration::from_secs(5);

impl Inner {
    /// Picks deployments until the daemon goes down.
    pub(crate) async fn work_queue(self: Arc<Self>) {
        loop {
            if let Err(problem) = Arc::clone(&self).pick().await {
                tracing::error!(%problem, "the deployment queue could not be read; trying again");
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(IDLE_LOOK) => {}
            }
        }
    }

    /// Starts work on the newest waiting deployment of every environment that is free.
    async fn pick(self: Arc<Self>) -> Result<(), Problem> {
        if self.shutdown.is_cancelled() {
            return Ok(());
        }
        let mut seen: HashSet<EnvironmentId> = HashSet::new();
        let mut waiting: Vec<DeploymentRow> = self
            .store
            .deployments()
            .unsettled()
            .await?
            .into_iter()
            .filter(|d| d.state == DeploymentState::Queued)
            .collect();
        waiting.sort_by_key(|d| std::cmp::Reverse(d.number));
        for row in waiting {
            if !seen.insert(row.environment_id) {
                continue;
            }
            if row.cancel_requested {
                self.end_waiting(row.id, DeploymentState::Cancelled, "cancelled while it waited".into())
                    .await?;
                continue;
            }
            let Some(cancel) = self.claim(&row) else { continue };
            let inner = Arc::clone(&self);
            self.spawn(async move {
                let id = row.id;
                Arc::clone(&inner).carry_out(row, cancel).await;
                inner.active.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                inner.wake.notify_one();
            });
        }
        Ok(())
    }

    /// Takes the environment's one place for this deployment, if it is free.
    fn claim(&self, row: &DeploymentRow) -> Option<CancellationToken> {
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        if active.values().any(|a| a.environment == row.environment_id) {
            return None;
        }
        let cancel = self.shutdown.child_token();
        active.insert(
            row.id,
            Active {
                environment: row.environment_id,
                cancel: cancel.clone(),
                superseded_by: None,
                state: row.state,
            },
        );
        Some(cancel)
    }

    /// Ends what a new deployment makes pointless: older ones that wait, and with `urgent` also the one that is
    /// worked on, as long as it has no traffic.
    pub(crate) async fn supersede_older(&self, newer: &DeploymentRow, urgent: bool) -> Result<(), Problem> {
        let name = newer.reference().to_string();
        for older in self.store.deployments().queued(newer.environment_id).await? {
            if older.number < newer.number && !self.is_active(older.id) {
                self.end_waiting(older.id, DeploymentState::Superseded, format!("superseded by {name}"))
                    .await?;
            }
        }
        if urgent {
            let running: Vec<DeploymentId> = {
                let active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
                active
                    .iter()
                    .filter(|(id, a)| {
                        a.environment == newer.environment_id && **id != newer.id && a.state.is_cancellable()
                    })
                    .map(|(id, _)| *id)
                    .collect()
            };
            for id in running {
                self.cancel_active(id, Some(name.clone()));
            }
        }
        Ok(())
    }

    /// Ends a deployment that nobody works on.
    pub(crate) async fn end_waiting(
        &self,
        id: DeploymentId,
        to: DeploymentState,
        reason: String,
    ) -> Result<(), Problem> {
        let change = Change { reason: Some(reason.clone()), problem: None };
        match self.store.deployments().transition(id, DeploymentState::Queued, to, change).await {
            Ok(_) => {
                self.moved(id, to, Some(reason));
                Ok(())
            }
            // Picked up in this very moment: whoever works on it sees the request to cancel.
            Err(berth_store::StoreError::Stale { .. }) => {
                self.cancel_active(id, (to == DeploymentState::Superseded).then_some(reason));
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn is_active(&self, id: DeploymentId) -> bool {
        self.active.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&id)
    }
}
