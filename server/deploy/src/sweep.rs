//! Removing and stopping what the store does not explain: what a crash, an engine that was away or a lost answer left
//! behind. Only things that carry this instance's labels are touched.

use std::{collections::HashMap, sync::Arc};

use berth_schemas::Problem;
use berth_store::model::{ReleaseId, ReleaseRow, Visible};

use crate::{
    docker::{ContainerSummary, Workload},
    fault::engine_problem,
    pipeline::Inner,
};

impl Inner {
    /// Looks at every container of this instance and every release that is kept.
    pub(crate) async fn sweep(self: Arc<Self>) {
        if !self.config.alone.is_cancelled() {
            // It looks again every half minute, and an earlier process is gone within its drain.
            return;
        }
        if let Err(problem) = self.try_sweep().await {
            tracing::debug!(%problem, "what is left over could not be looked for; trying again");
        }
    }

    async fn try_sweep(self: &Arc<Self>) -> Result<(), Problem> {
        let containers = self.engine.list_containers().await.map_err(|e| engine_problem(&e))?;
        // A release is there before its containers, so what is looked for in the store after they were listed and is
        // not there will not come.
        let mut known: HashMap<ReleaseId, Option<ReleaseRow>> = HashMap::new();
        for container in &containers {
            let Some(release) = release_of(container) else {
                self.remove_stray(container).await;
                continue;
            };
            let row = match known.get(&release) {
                Some(row) => row.clone(),
                None => {
                    let row = self.store.releases().get(release).await?.filter(|r| !r.removed);
                    known.insert(release, row.clone());
                    row
                }
            };
            if row.is_none() && !self.is_used(release) {
                self.remove_stray(container).await;
            }
        }
        for app in self.store.apps().all(&Visible::All).await? {
            if app.deleting {
                continue;
            }
            for release in self.store.releases().list(app.environment.id, false).await? {
                if release.live_at.is_none() {
                    self.drop_leftover(&release).await?;
                }
            }
            self.retire_others(app.environment.id).await;
        }
        Ok(())
    }

    async fn remove_stray(&self, container: &ContainerSummary) {
        tracing::info!(container = container.name, "removing a container that belongs to no release");
        if let Err(error) = self.remove_container(&container.id).await {
            tracing::warn!(container = container.name, %error, "it could not be removed");
        }
    }

    /// Removes a release that never had the traffic and never will.
    async fn drop_leftover(&self, release: &ReleaseRow) -> Result<(), Problem> {
        let Some(deployment) = self.store.deployments().get(release.deployment_id).await? else {
            return Ok(());
        };
        if deployment.state.is_settled() && !self.is_active(deployment.id) {
            tracing::info!(deployment = %deployment.reference(), "removing what a deployment left behind");
            self.drop_traces(&deployment).await;
        }
        Ok(())
    }
}

fn release_of(container: &ContainerSummary) -> Option<ReleaseId> {
    Workload::from_labels(&container.labels).and_then(|w| w.release.parse().ok()).map(ReleaseId)
}
