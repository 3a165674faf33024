//! Deleting apps and environments, with everything that belongs to them.

use std::{sync::Arc, time::Duration};

use berth_schemas::{Problem, deployment::DeploymentState};
use berth_store::{
    StoreError,
    model::{AppRow, Artifact, DeploymentId, ReleaseRow},
};

use crate::{
    attempt::{io_problem, remove_dir},
    docker::{ContainerSummary, EngineError, Workload, label},
    fault::engine_problem,
    gate::Inside,
    limits,
    pipeline::Inner,
    stall,
};

impl Inner {
    pub(crate) async fn delete_app(self: &Arc<Self>, app: &AppRow) -> Result<String, Problem> {
        for row in self.store.deployments().unsettled().await?.into_iter().filter(|d| d.app_id == app.id) {
            self.end_for_deletion(row.id).await?;
        }
        let places = self.store.environments().of(app.id).await?;
        // Nobody changes what serves any more until the app is gone.
        let mut inside: Vec<Inside> = Vec::with_capacity(places.len());
        for place in &places {
            inside.push(self.traffic.enter(place.environment.id).await);
        }
        futures_util::future::join_all(places.iter().map(|place| self.take_off(place))).await;
        let containers = self.containers_beside(&places).await?;
        let own =
            containers.iter().filter(|c| c.labels.get(label::APP).is_some_and(|a| *a == app.slug.as_str()));
        for container in own {
            self.remove_container(&container.id).await.map_err(|e| engine_problem(&e))?;
        }
        let mut releases = Vec::new();
        for place in &places {
            releases.extend(self.store.releases().list(place.environment.id, false).await?);
        }
        let files = self.config.data_dir.join("releases").join(app.id.0.to_string());
        remove_dir(&files).await.map_err(|e| io_problem("removing the app's files", &e))?;
        let repository = crate::repository::path(&self.config.data_dir, app.id);
        remove_dir(&repository).await.map_err(|e| io_problem("removing the app's repository", &e))?;
        stall::before("deleted").await;
        self.store.apps().delete(app.id, "berth").await?;
        stall::after("deleted").await;
        self.drop_artifacts(&releases).await;
        let network = self.instance.network_name(app.project.as_str());
        let others = self.store.projects().by_slug(&berth_store::model::Visible::All, &app.project).await;
        if others.is_ok_and(|p| p.is_none_or(|p| p.apps == 0))
            && let Err(error) = self.engine.remove_network(&network).await
        {
            tracing::debug!(%error, "the project's network stays");
        }
        for place in &places {
            self.forget(place);
        }
        Ok(format!("{} is deleted.", app.slug))
    }

    pub(crate) async fn delete_environment(self: &Arc<Self>, app: &AppRow) -> Result<String, Problem> {
        let environment = app.environment.id;
        let unsettled = self.store.deployments().unsettled().await?;
        for row in unsettled.into_iter().filter(|d| d.environment_id == environment) {
            self.end_for_deletion(row.id).await?;
        }
        let _inside = self.traffic.enter(environment).await;
        self.take_off(app).await;
        let containers = self.containers_beside(std::slice::from_ref(app)).await?;
        let own = containers.iter().filter(|c| {
            Workload::from_labels(&c.labels)
                .is_some_and(|w| w.app == app.slug.as_str() && w.environment == app.environment.name.as_str())
        });
        for container in own {
            self.remove_container(&container.id).await.map_err(|e| engine_problem(&e))?;
        }
        let releases = self.store.releases().list(environment, false).await?;
        stall::before("environment_deleted").await;
        self.store.environments().delete(environment, "berth").await?;
        stall::after("environment_deleted").await;
        self.drop_artifacts(&releases).await;
        self.forget(app);
        Ok(format!("{} is deleted.", app.title()))
    }

    /// All containers, to find those of `places` among them. An engine that does not answer keeps nobody from deleting what
    /// never was in one: files are served without it.
    async fn containers_beside(&self, places: &[AppRow]) -> Result<Vec<ContainerSummary>, Problem> {
        let error = match self.engine.list_containers().await {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        for place in places {
            let releases = self.store.releases().list(place.environment.id, true).await?;
            if releases.iter().any(|r| matches!(r.artifact, Artifact::Image { .. })) {
                return Err(engine_problem(&error));
            }
        }
        match error {
            EngineError::Unavailable { .. } => Ok(Vec::new()),
            other => Err(engine_problem(&other)),
        }
    }

    /// Sends visitors nowhere any more; those who are being answered may finish.
    async fn take_off(&self, app: &AppRow) {
        if let Some(old) = self.routes.remove(app.environment.id) {
            self.routes.drain(&old, limits::drain(app)).await;
        }
    }

    /// Removes what releases were made of whose rows are gone, as far as no other has the same. What cannot be removed
    /// now is found by the cleanup.
    async fn drop_artifacts(&self, releases: &[ReleaseRow]) {
        for release in releases {
            // Somebody takes it over at this moment; if that comes to nothing, cleanup finds it.
            if self.is_used(release.id) {
                continue;
            }
            if let Err(problem) = self.remove_artifact(release).await {
                tracing::warn!(%problem, release = release.number, "what a release was made of could not be removed");
            }
            if let Artifact::Static { path } = &release.artifact
                && let Some(of_app) = self.config.data_dir.join("releases").join(path).parent()
            {
                // Only an empty one goes.
                let _ = tokio::fs::remove_dir(of_app).await;
            }
        }
    }

    /// Forgets what was noted of an environment that is gone.
    fn forget(&self, app: &AppRow) {
        self.crash_loops.forget(app.environment.id);
        self.troubles().remove(&app.environment.id);
    }

    /// Cancels a deployment, or lets it end when it has the traffic already.
    async fn end_for_deletion(&self, id: DeploymentId) -> Result<(), Problem> {
        match self.store.deployments().request_cancel(id, "berth").await {
            Ok(_) if self.cancel_active(id, None) => {}
            Ok(_) => {
                self.end_waiting(id, DeploymentState::Cancelled, "its environment is deleted".into()).await?;
            }
            Err(StoreError::IllegalTransition { .. } | StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        self.settle(id).await
    }

    /// Waits until a deployment that was told to stop has done so.
    async fn settle(&self, id: DeploymentId) -> Result<(), Problem> {
        let mut settled = self.settled.subscribe();
        while let Some(row) = self.store.deployments().get(id).await? {
            if row.state.is_settled() {
                break;
            }
            let _ = tokio::time::timeout(Duration::from_millis(500), settled.recv()).await;
        }
        Ok(())
    }
}
