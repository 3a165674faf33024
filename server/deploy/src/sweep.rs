//! Removing and stopping what the store does not explain: what a crash, an engine that was away or a lost answer left
//! behind. Only things that carry this instance's labels are touched.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use berth_schemas::Problem;
use berth_store::model::{AppRow, Artifact, ReleaseId, ReleaseRow, Visible};

use crate::{
    docker::{ContainerSummary, ImageSummary, NetworkSummary, Workload, label},
    fault::engine_problem,
    lock::lock,
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
        // All lists of the engine come first: an app is there before its things.
        let images = self.engine.list_images().await.map_err(|e| engine_problem(&e))?;
        let networks = self.engine.list_networks().await.map_err(|e| engine_problem(&e))?;
        // A release is there before its containers, so what is looked for in the store after they were listed and is
        // not there will not come.
        let mut known: HashMap<ReleaseId, Option<ReleaseRow>> = HashMap::new();
        for container in &containers {
            let Some(release) = release_of(container) else {
                // An image is just being read through it.
                if lock(&self.copying).contains(&container.name) {
                    continue;
                }
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
        let apps = self.store.apps().all_environments(&Visible::All).await?;
        self.sweep_images(&images, &apps).await;
        self.sweep_networks(&networks, &apps).await;
        for app in apps {
            if app.deleting {
                continue;
            }
            let releases = self.store.releases().list(app.environment.id, false).await?;
            if let Some(live) = releases.iter().find(|r| Some(r.id) == app.environment.live) {
                self.name_again(&app, live, &images).await;
            }
            for release in releases.iter().filter(|r| r.live_at.is_none()) {
                self.drop_leftover(release).await?;
            }
            self.retire_others(app.environment.id).await;
            // A daemon that ended right after a switch had no time for it.
            self.prune_releases(app.environment.id).await;
        }
        Ok(())
    }

    /// Removes images of apps that are no more.
    async fn sweep_images(&self, images: &[ImageSummary], apps: &[AppRow]) {
        for image in images {
            let Some(app) = image.labels.get(label::APP) else { continue };
            if apps.iter().any(|a| a.slug.as_str() == app) {
                continue;
            }
            tracing::info!(
                image = image.tags.first().unwrap_or(&image.id),
                "removing an image of an app that is gone"
            );
            let names = if image.tags.is_empty() { std::slice::from_ref(&image.id) } else { &image.tags };
            for name in names {
                if let Err(error) = self.engine.remove_image(name).await {
                    tracing::debug!(image = name, %error, "it could not be removed");
                }
            }
        }
    }

    /// Removes networks of projects that have no apps any more.
    async fn sweep_networks(&self, networks: &[NetworkSummary], apps: &[AppRow]) {
        let used: HashSet<String> =
            apps.iter().map(|app| self.instance.network_name(app.project.as_str())).collect();
        for network in networks.iter().filter(|n| !used.contains(&n.name)) {
            tracing::info!(network = network.name, "removing the network of a project without apps");
            if let Err(error) = self.engine.remove_network(&network.name).await {
                tracing::debug!(network = network.name, %error, "it could not be removed");
            }
        }
    }

    /// Gives the image of what is live its name back, if somebody took it: an image without one goes with the
    /// next `docker image prune`.
    async fn name_again(&self, app: &AppRow, live: &ReleaseRow, images: &[ImageSummary]) {
        let Artifact::Image { image_id, reference, built: true, .. } = &live.artifact else { return };
        let lost = images.iter().any(|i| i.id == *image_id && !i.tags.contains(reference));
        if lost && self.engine.inspect_image(reference).await.is_ok_and(|found| found.is_none()) {
            match self.engine.tag_image(image_id, reference).await {
                Ok(()) => tracing::info!(app = %app.slug, image = reference, "an image has its name again"),
                Err(error) => tracing::warn!(app = %app.slug, %error, "an image did not get its name again"),
            }
        }
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
