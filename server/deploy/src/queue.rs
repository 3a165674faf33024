//! Which deployment is worked on next.
//!
//! Per environment one at a time, the newest that waits; older ones that wait are superseded. The store is the
//! queue: this task holds nothing that a restart could lose. Each look also takes up what is neither waiting nor
//! worked on, so that a failure of the store in the wrong moment leaves nothing behind for ever.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use berth_schemas::{Problem, deployment::DeploymentState};
use berth_store::model::{Change, DeploymentId, DeploymentRow, DeploymentSource, EnvironmentId};
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
        let mut waiting: BTreeMap<i64, Vec<DeploymentRow>> = BTreeMap::new();
        for row in self.store.deployments().unsettled().await? {
            if self.is_active(row.id) {
                continue;
            }
            let name = row.reference();
            let ended = match row.state {
                DeploymentState::Queued if row.cancel_requested => {
                    let reason = "cancelled while it waited".into();
                    self.end_waiting(row.id, DeploymentState::Cancelled, reason).await
                }
                DeploymentState::Queued => {
                    waiting.entry(row.environment_id.0).or_default().push(row);
                    Ok(())
                }
                DeploymentState::RollingOut => {
                    self.begin(row);
                    Ok(())
                }
                _ => self.adopt(row.id).await,
            };
            if let Err(problem) = ended {
                // The others do not wait for it.
                tracing::error!(deployment = %name, %problem, "a deployment could not be ended; trying again");
            }
        }
        for (environment, rows) in waiting {
            let live = self.store.deployments().live(EnvironmentId(environment)).await?;
            let choice = choose(rows, live.as_ref());
            for (row, by) in choice.superseded {
                self.end_waiting(row.id, DeploymentState::Superseded, format!("superseded by {by}")).await?;
            }
            if let Some(row) = choice.next {
                self.begin(row);
            }
        }
        Ok(())
    }

    /// Works on a deployment if its environment is free.
    pub(crate) fn begin(self: &Arc<Self>, row: DeploymentRow) {
        let Some(cancel) = self.claim(&row) else { return };
        let inner = Arc::clone(self);
        self.spawn(async move {
            // Frees the place whatever happens, even a panic.
            let place = Place { inner: Arc::clone(&inner), id: row.id };
            let settled = Arc::clone(&inner).carry_out(row, cancel).await;
            drop(place);
            if settled {
                inner.wake.notify_one();
            }
            // Otherwise the store fails: the next regular look is early enough.
        });
    }

    /// Takes the environment's one place for this deployment, if it is free.
    fn claim(&self, row: &DeploymentRow) -> Option<CancellationToken> {
        let mut active = self.active();
        if active.values().any(|a| a.environment == row.environment_id) {
            return None;
        }
        let cancel = self.shutdown.child_token();
        active.insert(
            row.id,
            Active {
                environment: row.environment_id,
                number: row.number,
                name: row.reference().to_string(),
                waits: None,
                builds: false,
                cancel: cancel.clone(),
                superseded_by: None,
                state: row.state,
                // A rollout that is taken up has containers that nobody may stop.
                release: row.release.filter(|_| row.state == DeploymentState::RollingOut),
                draining: None,
            },
        );
        Some(cancel)
    }

    /// Takes up a deployment that is in the middle of its work and that nobody works on.
    async fn adopt(self: &Arc<Self>, id: DeploymentId) -> Result<(), Problem> {
        // What was read before may be older than the end of the work on it.
        let Some(row) = self.store.deployments().get(id).await? else { return Ok(()) };
        if row.state.is_active() && !self.is_active(id) {
            tracing::warn!(deployment = %row.reference(), state = row.state.as_str(), "nobody works on a deployment that was begun; taking it up");
            self.take_up(row).await?;
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Ends what a new deployment makes pointless: older ones that wait, and with a rollback also the one that is
    /// worked on, as long as it has no traffic.
    pub(crate) async fn supersede_older(&self, newer: &DeploymentRow) -> Result<(), Problem> {
        let name = newer.reference().to_string();
        for older in self.store.deployments().queued(newer.environment_id).await? {
            let pointless = older.number < newer.number && (brings(newer) || !brings(&older));
            if pointless && !self.is_active(older.id) {
                self.end_waiting(older.id, DeploymentState::Superseded, format!("superseded by {name}"))
                    .await?;
            }
        }
        if let DeploymentSource::Rollback { .. } = newer.source {
            let running: Vec<DeploymentId> = {
                let active = self.active();
                active
                    .iter()
                    .filter(|(_, a)| {
                        a.environment == newer.environment_id
                            && a.number < newer.number
                            && a.state.is_cancellable()
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
            // Picked up in this very moment: whoever works on it is told.
            Err(berth_store::StoreError::Stale { .. }) => {
                let by = reason.strip_prefix("superseded by ").map(str::to_owned);
                self.cancel_active(id, by);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn is_active(&self, id: DeploymentId) -> bool {
        self.active().contains_key(&id)
    }
}

/// A deployment's place among those that are worked on.
struct Place {
    inner: Arc<Inner>,
    id: DeploymentId,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.inner.active().remove(&self.id);
    }
}

/// What becomes of those that wait in one environment.
#[derive(Debug)]
struct Choice {
    next: Option<DeploymentRow>,
    /// Each with the name of what takes its place.
    superseded: Vec<(DeploymentRow, String)>,
}

/// Chooses: the newest that brings something goes first, then the newest redeploy; what is older than the first, or
/// than what is live, is pointless.
fn choose(mut waiting: Vec<DeploymentRow>, live: Option<&DeploymentRow>) -> Choice {
    waiting.sort_by_key(|d| std::cmp::Reverse(d.number));
    let mut choice = Choice { next: None, superseded: Vec::new() };
    let mut redeploy: Option<DeploymentRow> = None;
    for row in waiting {
        let newer = match (&choice.next, &redeploy, live) {
            (Some(next), _, _) => Some(next.reference()),
            (None, Some(redeploy), _) if !brings(&row) => Some(redeploy.reference()),
            // After a restart: it was begun before, and a newer one has overtaken it.
            (None, _, Some(live)) if live.number > row.number => Some(live.reference()),
            _ => None,
        };
        match newer {
            Some(newer) => choice.superseded.push((row, newer.to_string())),
            None if brings(&row) => choice.next = Some(row),
            None => redeploy = Some(row),
        }
    }
    choice.next = choice.next.or(redeploy);
    choice
}

/// Whether a deployment brings something other than what is live.
fn brings(row: &DeploymentRow) -> bool {
    !matches!(row.source, DeploymentSource::Redeploy { .. })
}

#[cfg(test)]
mod tests {
    use berth_schemas::{DeploymentRef, Timestamp};
    use berth_store::model::{AppId, ReleaseId};

    use super::*;

    fn row(number: i64, redeploys: bool) -> DeploymentRow {
        let source = if redeploys {
            let of = DeploymentRef::new("web".parse().unwrap(), 1);
            DeploymentSource::Redeploy { release: ReleaseId(1), of }
        } else {
            DeploymentSource::Image { image: "web:1".into() }
        };
        DeploymentRow {
            id: DeploymentId(number),
            app_id: AppId(1),
            app: "web".parse().unwrap(),
            environment_id: EnvironmentId(1),
            environment: "production".parse().unwrap(),
            number,
            state: DeploymentState::Queued,
            source,
            release: None,
            commit: None,
            message: None,
            by: "test".into(),
            no_cache: false,
            rollout: None,
            promote_requested: false,
            plan: None,
            problem: None,
            warnings: Vec::new(),
            cancel_requested: false,
            attempt: 0,
            created_at: Timestamp(0),
            finished_at: None,
        }
    }

    fn chosen(waiting: &[(i64, bool)], live: Option<i64>) -> (Option<i64>, Vec<(i64, String)>) {
        let rows = waiting.iter().map(|(n, redeploys)| row(*n, *redeploys)).collect();
        let choice = choose(rows, live.map(|n| row(n, false)).as_ref());
        let superseded = choice.superseded.into_iter().map(|(r, by)| (r.number, by)).collect();
        (choice.next.map(|r| r.number), superseded)
    }

    #[test]
    fn the_newest_goes_and_older_ones_are_superseded() {
        let (next, superseded) = chosen(&[(3, false), (5, false), (4, false)], Some(2));
        assert_eq!(next, Some(5));
        assert_eq!(superseded, [(4, "web#5".to_owned()), (3, "web#5".to_owned())]);
    }

    #[test]
    fn a_redeploy_waits_for_what_brings_something_and_does_not_replace_it() {
        assert_eq!(chosen(&[(3, false), (4, true)], Some(2)), (Some(3), vec![]));
        assert_eq!(chosen(&[(4, true)], Some(3)), (Some(4), vec![]));
        let (next, superseded) = chosen(&[(3, true), (4, true), (5, false), (6, true), (7, true)], Some(2));
        assert_eq!(next, Some(5));
        let superseded: Vec<i64> = superseded.iter().map(|(n, _)| *n).collect();
        assert_eq!(superseded, [6, 4, 3], "the newest redeploy stays, those before it do not");
    }

    #[test]
    fn what_a_newer_one_has_overtaken_does_not_come_back() {
        let (next, superseded) = chosen(&[(3, false)], Some(4));
        assert_eq!(next, None);
        assert_eq!(superseded, [(3, "web#4".to_owned())]);
    }
}
