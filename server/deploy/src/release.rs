//! Making, finding and dropping releases.

use berth_schemas::{Code, EnvironmentName, Problem, issue::ErrorRules};
use berth_store::model::{
    AppId, AppRow, Artifact, DeploymentRow, DeploymentSource, EnvironmentId, NewRelease, ReleaseId,
    ReleaseRow,
};

use crate::{
    attempt::{Attempt, remove_dir},
    errors::error_release,
    fault::{Halt, engine_problem},
    fetch::start_command,
    pipeline::Inner,
    references::branch_of,
    stall,
};

/// Earlier releases kept where no number was set.
const DEFAULT_KEEP: u32 = 3;

impl Inner {
    /// A release that is still there, and from now on stays there for this attempt.
    pub(crate) async fn kept_release(&self, attempt: &Attempt, id: ReleaseId) -> Result<ReleaseRow, Halt> {
        self.note_use(attempt.row.id, |active| active.release = Some(id));
        // Who removes it looks at that note when inside; who was inside before has removed it when this goes on.
        let _inside = self.containers.enter(id).await;
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
        let branch = branch_of(&attempt.row.source).map(str::to_owned);
        let commit = attempt.row.commit.clone();
        self.record_release_of(attempt, artifact, bytes, (branch, commit)).await
    }

    async fn record_release_of(
        &self,
        attempt: &Attempt,
        artifact: Artifact,
        bytes: i64,
        (branch, commit): (Option<String>, Option<String>),
    ) -> Result<ReleaseRow, Halt> {
        let variables = self.snapshot(attempt, branch).await?;
        let searched = self.config.maps.is_some() && matches!(artifact, Artifact::Image { built: true, .. });
        let maps_of = searched.then(|| error_release(&attempt.row.reference(), commit.as_deref()));
        // Settings may have changed while it was built; those it was built with are the ones it runs with.
        stall::before("release").await;
        let release = self
            .store
            .releases()
            .create(NewRelease {
                deployment: attempt.row.id,
                artifact,
                settings: attempt.app.settings.clone(),
                variables,
                bytes,
                maps_of,
            })
            .await?;
        stall::after("release").await;
        self.store.deployments().set_release(attempt.row.id, release.id).await?;
        Ok(release)
    }

    /// The same artifact as a new release with today's settings and variables.
    pub(crate) async fn reissue(&self, attempt: &Attempt, old: ReleaseRow) -> Result<ReleaseRow, Halt> {
        if let Some(commit) = &old.commit {
            self.store.deployments().set_commit(attempt.row.id, commit, old.message.as_deref()).await?;
        }
        let artifact = match old.artifact {
            Artifact::Image { image_id, reference, port, built, command, .. } => {
                let port = attempt.app.settings.port.unwrap_or(port);
                // A generated image has the start command of its time in it; a changed one goes over it.
                let changed = attempt.app.settings.start_command != old.settings.start_command;
                let command = if changed { start_command(attempt)? } else { command };
                let private_maps = built && self.hides_maps(attempt.app.id).await?;
                Artifact::Image { image_id, reference, port, built, command, private_maps }
            }
            files @ Artifact::Static { .. } => files,
        };
        let branch = self.store.releases().variables(old.id).await?.branch;
        let commit = old.commit.or_else(|| attempt.row.commit.clone());
        self.record_release_of(attempt, artifact, old.bytes, (branch, commit)).await
    }

    /// Whether visitors are not to see the source maps of an app.
    pub(crate) async fn hides_maps(&self, app: AppId) -> Result<bool, Halt> {
        let rules: ErrorRules = self.store.errors().settings(app).await?.unwrap_or_default();
        Ok(!rules.public_maps)
    }

    /// Drops what a deployment made that did not become live: its release with containers and image or files, or
    /// what was made before there was a release.
    pub(crate) async fn drop_traces(&self, row: &DeploymentRow) {
        self.note_use(row.id, |active| active.release = None);
        let made = match self.own_release(row).await {
            Ok(made) => made,
            Err(error) => {
                tracing::warn!(%error, deployment = %row.reference(), "what a deployment made could not be read; it is removed later");
                return;
            }
        };
        let dropped = match &made {
            Some(release) if release.live_at.is_some() => return,
            Some(release) if release.removed => Ok(()),
            Some(release) => self.remove_release(release).await,
            None => Ok(()),
        };
        if let Err(problem) = dropped {
            tracing::warn!(%problem, deployment = %row.reference(), "a release that was not used could not be removed; that is tried again");
            return;
        }
        self.drop_makings(row).await;
    }

    /// The release that a deployment made itself, if any. A rollback points to that of another one.
    async fn own_release(&self, row: &DeploymentRow) -> Result<Option<ReleaseRow>, berth_store::StoreError> {
        let Some(row) = self.store.deployments().get(row.id).await? else { return Ok(None) };
        let Some(release) = row.release else { return Ok(None) };
        Ok(self.store.releases().get(release).await?.filter(|r| r.deployment_id == row.id))
    }

    /// Removes the image and the files that a deployment may have made without a release that speaks of them.
    async fn drop_makings(&self, row: &DeploymentRow) {
        if matches!(
            row.source,
            DeploymentSource::Image { .. }
                | DeploymentSource::Rollback { .. }
                | DeploymentSource::Promote { .. }
                | DeploymentSource::Redeploy { .. }
        ) {
            return;
        }
        let tag = self.instance.image_tag(row.app.as_str(), row.number);
        if let Err(error) = self.engine.remove_image(&tag).await {
            tracing::debug!(image = tag, %error, "an image was not removed");
        }
        let files = self.config.data_dir.join("releases").join(files_of(row));
        if let Err(error) = remove_dir(&files).await {
            tracing::warn!(%error, "files that no release uses could not be removed");
        }
    }

    /// Whether a release serves, or is needed by a deployment that is worked on. True for as long as the caller is
    /// inside the gate of its containers.
    pub(crate) async fn is_needed(&self, release: &ReleaseRow) -> Result<bool, Problem> {
        let app = self.store.apps().by_environment(release.environment_id).await?;
        Ok(self.is_used(release.id)
            || self.routes.serves(release.environment_id) == Some(release.id)
            || self.routes.trial(release.environment_id).is_some_and(|t| t.release == release.id)
            || app.is_some_and(|app| app.environment.live == Some(release.id)))
    }

    /// Removes a release's containers, and its image or files unless another kept release uses them.
    ///
    /// # Errors
    /// `Conflict` when it serves or is about to. When the engine fails, it counts as removed all the same, and what
    /// is left is found by the sweep.
    pub(crate) async fn remove_release(&self, release: &ReleaseRow) -> Result<(), Problem> {
        let _inside = self.containers.enter(release.id).await;
        if self.is_needed(release).await? {
            return Err(Problem::new(Code::Conflict, format!("Release {} is in use.", release.number)));
        }
        let containers = self.containers_of(release.id).await.map_err(|e| engine_problem(&e))?;
        // First the store: from here on nobody takes it up again.
        stall::before("release_removed").await;
        self.store.releases().mark_removed(release.id).await?;
        stall::after("release_removed").await;
        for container in containers {
            self.remove_container(&container.id).await.map_err(|e| engine_problem(&e))?;
        }
        self.remove_artifact(release).await
    }

    /// Removes a release's image or files, unless a kept release has the same.
    pub(crate) async fn remove_artifact(&self, release: &ReleaseRow) -> Result<(), Problem> {
        let in_use = self.store.releases().artifact_in_use(&release.artifact).await?;
        match &release.artifact {
            Artifact::Image { built: false, .. } => {}
            Artifact::Image { image_id, reference, built: true, .. } => {
                let _unread = self.image_reads.enter(image_id.clone()).await;
                if !self.store.releases().reference_in_use(reference).await? {
                    self.remove_image(reference).await;
                }
                // The same image may have been built for another app that has yet to record it: it has a name then.
                if !in_use
                    && self
                        .engine
                        .inspect_image(image_id)
                        .await
                        .is_ok_and(|i| i.is_some_and(|i| i.tags.is_empty()))
                {
                    self.remove_image(image_id).await;
                }
            }
            Artifact::Static { path } if !in_use => {
                let directory = self.config.data_dir.join("releases").join(path);
                remove_dir(&directory)
                    .await
                    .map_err(|e| crate::attempt::io_problem("removing a release's files", &e))?;
            }
            Artifact::Static { .. } => {}
        }
        Ok(())
    }

    async fn remove_image(&self, name: &str) {
        if let Err(error) = self.engine.remove_image(name).await {
            tracing::debug!(image = name, %error, "an image was not removed; cleanup finds it");
        }
    }

    /// Removes releases of an environment beyond those that are kept for rollback.
    pub(crate) async fn prune_releases(&self, environment: EnvironmentId) {
        let app = match self.app_in(environment).await {
            Ok(app) => app,
            Err(problem) => {
                tracing::warn!(%problem, "old releases could not be looked for");
                return;
            }
        };
        for release in self.releases_to_prune(&app).await {
            if let Err(problem) = self.remove_release(&release).await {
                tracing::warn!(%problem, release = release.number, "an old release could not be removed");
            }
        }
    }

    /// Releases beyond the live one and those kept for rollback, oldest last.
    pub(crate) async fn releases_to_prune(&self, app: &AppRow) -> Vec<ReleaseRow> {
        let keep = usize::try_from(app.settings.keep_releases.unwrap_or(DEFAULT_KEEP)).unwrap_or(usize::MAX);
        let live = app.environment.live;
        match self.store.releases().list(app.environment.id, false).await {
            Ok(releases) => releases
                .into_iter()
                .filter(|r| Some(r.id) != live && r.live_at.is_some())
                .skip(keep)
                .filter(|r| !self.is_used(r.id))
                .collect(),
            Err(error) => {
                tracing::warn!(%error, "releases could not be listed");
                Vec::new()
            }
        }
    }
}

/// Where the files of a deployment go, below the directory of releases. Production is told from the others by having no
/// name there, as before there were others.
pub(crate) fn files_of(row: &DeploymentRow) -> String {
    match row.environment == EnvironmentName::production() {
        true => format!("{}/{}", row.app_id.0, row.number),
        false => format!("{}/{}-{}", row.app_id.0, row.environment, row.number),
    }
}
