//! Making, finding and dropping releases.

use berth_schemas::{Code, Problem, VariableName};
use berth_store::model::{AppRow, Artifact, DeploymentRow, NewRelease, ReleaseId, ReleaseRow};

use crate::{
    attempt::{Attempt, remove_dir},
    fault::Halt,
    fetch::start_command,
    pipeline::Inner,
};

/// Earlier releases kept where no number was set.
const DEFAULT_KEEP: u32 = 3;

impl Inner {
    /// A release that is still there.
    pub(crate) async fn kept_release(&self, id: ReleaseId) -> Result<ReleaseRow, Halt> {
        match self.store.releases().get(id).await? {
            Some(release) if !release.removed => Ok(release),
            _ => Err(Problem::new(Code::ReleaseGone, "The release is no longer kept.")
                .hint("See release_list for those that are.")
                .into()),
        }
    }

    /// Records what was built, with the settings and variables of this moment.
    pub(crate) async fn record_release(
        &self,
        attempt: &Attempt,
        artifact: Artifact,
        bytes: i64,
    ) -> Result<ReleaseRow, Halt> {
        let variables = self.variables_now(&attempt.app).await?;
        // Settings may have changed while it was built; those it was built with are the ones it runs with.
        let release = self
            .store
            .releases()
            .create(NewRelease {
                deployment: attempt.row.id,
                artifact,
                settings: attempt.app.settings.clone(),
                variables,
                bytes,
            })
            .await?;
        self.store.deployments().set_release(attempt.row.id, release.id).await?;
        Ok(release)
    }

    /// The same artifact as a new release with today's settings and variables.
    pub(crate) async fn reissue(&self, attempt: &Attempt, old: ReleaseRow) -> Result<ReleaseRow, Halt> {
        if let Some(commit) = &old.commit {
            self.store.deployments().set_commit(attempt.row.id, commit, old.message.as_deref()).await?;
        }
        let artifact = match old.artifact {
            Artifact::Image { image_id, reference, port, built, command } => {
                let port = attempt.app.settings.port.unwrap_or(port);
                // A generated image has the start command of its time in it; a changed one goes over it.
                let changed = attempt.app.settings.start_command != old.settings.start_command;
                let command = if changed { start_command(attempt)? } else { command };
                Artifact::Image { image_id, reference, port, built, command }
            }
            files @ Artifact::Static { .. } => files,
        };
        self.record_release(attempt, artifact, old.bytes).await
    }

    /// The variables of an app's environment, as its processes get them.
    pub(crate) async fn variables_now(&self, app: &AppRow) -> Result<Vec<(VariableName, String)>, Problem> {
        let rows = self.store.variables().list(app.environment.id).await?;
        Ok(rows.into_iter().map(|v| (v.name, v.value)).collect())
    }

    /// Drops what a deployment made that did not become live.
    pub(crate) async fn drop_unused_release(&self, row: &DeploymentRow) {
        let release = match self.store.deployments().get(row.id).await {
            Ok(Some(DeploymentRow { release: Some(release), .. })) => release,
            _ => return,
        };
        match self.store.releases().get(release).await {
            // A rollback points to a release of an earlier deployment: that one stays.
            Ok(Some(release)) if release.deployment_id == row.id && release.live_at.is_none() => {
                if let Err(problem) = self.remove_release(&release).await {
                    tracing::warn!(%problem, "a release that was not used could not be removed");
                }
            }
            _ => {}
        }
    }

    /// Removes a release's containers, and its image or files unless another kept release uses them.
    pub(crate) async fn remove_release(&self, release: &ReleaseRow) -> Result<(), Problem> {
        for container in self.containers_of(release.id).await.map_err(|e| crate::fault::engine_problem(&e))? {
            self.engine
                .remove_container(&container.id)
                .await
                .map_err(|e| crate::fault::engine_problem(&e))?;
        }
        self.store.releases().mark_removed(release.id).await?;
        self.remove_artifact(release).await
    }

    /// Removes a release's image or files, unless a kept release has the same.
    pub(crate) async fn remove_artifact(&self, release: &ReleaseRow) -> Result<(), Problem> {
        if self.store.releases().artifact_in_use(&release.artifact).await? {
            return Ok(());
        }
        match &release.artifact {
            Artifact::Image { image_id, reference, built: true, .. } => {
                for name in [reference, image_id] {
                    if let Err(error) = self.engine.remove_image(name).await {
                        tracing::debug!(image = name, %error, "an image was not removed");
                    }
                }
            }
            Artifact::Image { built: false, .. } => {}
            Artifact::Static { path } => {
                let directory = self.config.data_dir.join("releases").join(path);
                remove_dir(&directory)
                    .await
                    .map_err(|e| crate::attempt::io_problem("removing a release's files", &e))?;
            }
        }
        Ok(())
    }

    /// Removes releases of an app beyond those that are kept for rollback.
    pub(crate) async fn prune_releases(&self, app: &AppRow) {
        for release in self.releases_to_prune(app).await {
            if let Err(problem) = self.remove_release(&release).await {
                tracing::warn!(%problem, release = release.number, "an old release could not be removed");
            }
        }
    }

    /// Releases beyond the live one and those kept for rollback, oldest last.
    pub(crate) async fn releases_to_prune(&self, app: &AppRow) -> Vec<ReleaseRow> {
        let keep = usize::try_from(app.settings.keep_releases.unwrap_or(DEFAULT_KEEP)).unwrap_or(usize::MAX);
        let live = self.routes.serves(app.environment.id).or(app.environment.live);
        match self.store.releases().list(app.environment.id, false).await {
            Ok(releases) => releases
                .into_iter()
                .filter(|r| Some(r.id) != live && r.live_at.is_some())
                .skip(keep)
                .collect(),
            Err(error) => {
                tracing::warn!(%error, "releases could not be listed");
                Vec::new()
            }
        }
    }
}
