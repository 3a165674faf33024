//! The name of what a deployment brings, by which the same thing twice is one deployment.
//!
//! What it is exactly is known at once for an archive or a commit, and for a branch or an image's tag only when it
//! was fetched. So it is asked twice: when the deployment is asked for, and when its source is there.

use berth_schemas::{Problem, app::AppState};
use berth_store::model::{AppId, AppRow, DeploymentSource, SourceKey};

use crate::{
    attempt::Attempt,
    fault::Halt,
    pipeline::Inner,
    source::git::{CommitSha, GitUrl},
};

impl Inner {
    /// The name of what a source brings, as far as it is known before it is fetched.
    pub(crate) async fn source_key(
        &self,
        app: AppId,
        source: &DeploymentSource,
    ) -> Result<Option<SourceKey>, Problem> {
        Ok(match source {
            DeploymentSource::Upload { upload, .. } | DeploymentSource::Files { upload, .. } => {
                let row = self.store.uploads().get(upload).await?;
                row.map(|row| SourceKey::Exact(format!("sha256:{}", row.sha256)))
            }
            DeploymentSource::Git { url, commit: Some(commit), .. } => self.commit_key(url, commit),
            DeploymentSource::Pushed { commit, .. } => {
                Some(SourceKey::Exact(format!("pushed:{}@{commit}", app.0)))
            }
            DeploymentSource::Git { url, git_ref, commit: None } => {
                match git_ref.as_deref().map(|r| (r, CommitSha::parse(r))) {
                    Some((_, Ok(commit))) => self.commit_key(url, commit.as_str()),
                    Some((name, Err(_))) => Some(SourceKey::Wish(format!("git:{url}#{name}"))),
                    None => Some(SourceKey::Wish(format!("git:{url}"))),
                }
            }
            DeploymentSource::Image { image } => Some(SourceKey::Wish(format!("image:{image}"))),
            // A rollback brings variables and settings along, a redeploy those of its moment.
            DeploymentSource::Rollback { .. }
            | DeploymentSource::Promote { .. }
            | DeploymentSource::Redeploy { .. } => None,
        })
    }

    /// The name of a commit; none if the URL is none, which is found out when it is fetched.
    pub(crate) fn commit_key(&self, url: &str, commit: &str) -> Option<SourceKey> {
        let (url, _) = GitUrl::parse(url, self.config.allow_local_sources).ok()?;
        Some(SourceKey::Exact(format!("git:{}@{commit}", url.as_str())))
    }

    /// Ends the attempt when the live deployment brings exactly this already, and serves.
    pub(crate) async fn end_if_same(&self, attempt: &Attempt, exact: Option<SourceKey>) -> Result<(), Halt> {
        let Some(exact) = exact else { return Ok(()) };
        let Some(same) = self.store.deployments().set_source_key(attempt.row.id, &exact).await? else {
            return Ok(());
        };
        if !self.answers(&attempt.app) {
            return Ok(());
        }
        if let Some(release) = same.release {
            self.store.deployments().set_release(attempt.row.id, release).await?;
        }
        Err(Halt::Same { of: same.reference().to_string() })
    }

    /// Whether an app serves at all. If not, deploying the same once more is a way to help it up.
    pub(crate) fn answers(&self, app: &AppRow) -> bool {
        let state = self.routes.state(app.environment.id, app.environment.replicas);
        matches!(state, AppState::Running | AppState::Degraded | AppState::Sleeping)
    }
}
