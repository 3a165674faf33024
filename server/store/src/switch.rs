//! What is live: the one pointer of each environment, and the deployments' states that go with it.
//!
//! Each call is one transaction, so that after a crash the pointer and the states never contradict.

use berth_schemas::deployment::DeploymentState;
use sqlx::Row;

use crate::{
    deployments::{Deployments, advance, get},
    error::{Result, StoreError},
    model::{Change, DeploymentId, DeploymentRow, EnvironmentId, ReleaseId},
    write::Write,
};

impl Deployments<'_> {
    /// Makes `release` the live one and takes its deployment from switching to draining. Returns the release
    /// that was live before.
    ///
    /// # Errors
    /// `Stale` when the deployment is not switching; not found when the release is not one of its
    /// environment.
    pub async fn switch_live(self, id: DeploymentId, release: ReleaseId) -> Result<Option<ReleaseId>> {
        let mut write = Write::begin(self.0).await?;
        let (from, to) = (DeploymentState::Switching, DeploymentState::Draining);
        let deployment = advance(&mut write, id, from, to, &Change::default(), None).await?;
        let previous = live(&mut write, deployment.environment_id).await?;
        point(&mut write, deployment.environment_id, Some(release)).await?;
        sqlx::query("UPDATE deployments SET release_id = $1 WHERE id = $2")
            .bind(release.0)
            .bind(id.0)
            .execute(write.conn())
            .await?;
        write.commit().await?;
        Ok(previous)
    }

    /// The deployment that is live in an environment.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn live(&self, environment: EnvironmentId) -> Result<Option<DeploymentRow>> {
        let sql = "SELECT id FROM deployments WHERE environment_id = $1 AND state = 'live' ORDER BY number DESC LIMIT 1";
        let row = sqlx::query(sql).bind(environment.0).fetch_optional(self.0.read()).await?;
        match row {
            Some(row) => Deployments(self.0).get(DeploymentId(row.try_get("id")?)).await,
            None => Ok(None),
        }
    }

    /// Takes a deployment from draining to live, and those that were live in its environment to retired.
    ///
    /// # Errors
    /// `Stale` when it is not draining, or when another release has become live since.
    pub async fn finish_live(self, id: DeploymentId) -> Result<DeploymentRow> {
        let mut write = Write::begin(self.0).await?;
        let (from, to) = (DeploymentState::Draining, DeploymentState::Live);
        let deployment = advance(&mut write, id, from, to, &Change::default(), None).await?;
        must_be_live(&mut write, &deployment).await?;
        let reason = format!("{} is live", deployment.reference());
        retire_others(&mut write, &deployment, deployment.release, &reason).await?;
        write.commit().await?;
        Ok(deployment)
    }

    /// Takes a deployment that is draining or live to rolled back, and gives the traffic to the release `to`,
    /// or to none. The deployment that made `to` keeps its state: retired mostly, or live if the one that
    /// is rolled back was still draining. Others that are live are retired.
    ///
    /// # Errors
    /// `Stale` when it is no longer in `expected`, or when another release has become live since.
    pub async fn roll_back(
        self,
        id: DeploymentId,
        expected: DeploymentState,
        to: Option<ReleaseId>,
        change: Change,
    ) -> Result<DeploymentRow> {
        let mut write = Write::begin(self.0).await?;
        let deployment =
            advance(&mut write, id, expected, DeploymentState::RolledBack, &change, None).await?;
        must_be_live(&mut write, &deployment).await?;
        point(&mut write, deployment.environment_id, to).await?;
        let reason = format!("{} was rolled back", deployment.reference());
        retire_others(&mut write, &deployment, to, &reason).await?;
        write.commit().await?;
        Ok(deployment)
    }
}

fn describe(release: Option<ReleaseId>) -> String {
    release.map_or_else(|| "none".into(), |r| format!("release id {}", r.0))
}

/// The environment's live release.
async fn live(write: &mut Write<'_>, environment: EnvironmentId) -> Result<Option<ReleaseId>> {
    let row = sqlx::query("SELECT live_id FROM environments WHERE id = $1")
        .bind(environment.0)
        .fetch_one(write.conn())
        .await?;
    Ok(row.try_get::<Option<i64>, _>("live_id")?.map(ReleaseId))
}

/// Points the environment at a release, which must be one of its own.
async fn point(write: &mut Write<'_>, environment: EnvironmentId, release: Option<ReleaseId>) -> Result<()> {
    if let Some(release) = release {
        // Later than all before it, even if the clock was set back: by these times is known what served before what.
        let served = "SELECT COALESCE(MAX(live_at), 0) AS newest FROM releases WHERE environment_id = $1";
        let at = write.later_than(served, Some(environment.0)).await?;
        let own = sqlx::query(
            "UPDATE releases SET live_at = $1 WHERE id = $2 AND environment_id = $3 AND removed = 0",
        )
        .bind(at.0)
        .bind(release.0)
        .bind(environment.0)
        .execute(write.conn())
        .await?
        .rows_affected();
        if own == 0 {
            return Err(StoreError::not_found("release", release.0));
        }
    }
    sqlx::query("UPDATE environments SET live_id = $1 WHERE id = $2")
        .bind(release.map(|r| r.0))
        .bind(environment.0)
        .execute(write.conn())
        .await?;
    Ok(())
}

/// Refuses to go on with a deployment whose release no longer has the traffic.
async fn must_be_live(write: &mut Write<'_>, deployment: &DeploymentRow) -> Result<()> {
    let live = live(write, deployment.environment_id).await?;
    if live == deployment.release {
        return Ok(());
    }
    Err(StoreError::Stale {
        what: format!("the live release of {}", deployment.app),
        expected: describe(deployment.release),
        found: describe(live),
    })
}

/// Retires all other deployments of the environment that are live, or that a crash left draining, except
/// those whose release is the one to be live.
async fn retire_others(
    write: &mut Write<'_>,
    deployment: &DeploymentRow,
    live: Option<ReleaseId>,
    reason: &str,
) -> Result<()> {
    let rows = sqlx::query(
        "SELECT id FROM deployments WHERE environment_id = $1 AND id <> $2 AND state IN ('live', 'draining')
         ORDER BY id",
    )
    .bind(deployment.environment_id.0)
    .bind(deployment.id.0)
    .fetch_all(write.conn())
    .await?;
    for row in rows {
        let other = get(write, DeploymentId(row.try_get("id")?)).await?;
        // The deployment itself may serve that release, too, as a rollback to it does.
        if live.is_some() && other.release == live && deployment.state != DeploymentState::Live {
            continue;
        }
        let change = Change { reason: Some(reason.to_owned()), problem: None };
        advance(write, other.id, other.state, DeploymentState::Retired, &change, None).await?;
    }
    Ok(())
}
