//! Whether two deployments bring the same: the same source, with the same settings and variables.
//!
//! The answer and the row that follows from it are one transaction, so that of two calls at the same time only one
//! makes a deployment. In doubt two are not the same: a build too many harms less than a change that is lost.

use serde_json::json;
use sqlx::Row;

use crate::{
    database::assembled,
    deployments::{Deployments, get, insert, unsettled_states},
    error::Result,
    model::{DeploymentId, DeploymentRow, Enqueued, EnvironmentId, NewDeployment, NewEvent, SourceKey},
    write::Write,
};

impl Deployments<'_> {
    /// As [`Deployments::enqueue`], unless the newest deployment on its way, or with none on its way the live one,
    /// brings the same. What is live only counts if the caller says so, and never when the wish is to build anew.
    ///
    /// # Errors
    /// As [`Deployments::enqueue`].
    pub async fn enqueue_once(self, new: NewDeployment, live_counts: bool) -> Result<Enqueued> {
        let mut write = Write::begin(self.0).await?;
        let outcome = enqueue_in(&mut write, &new, live_counts).await?;
        write.commit().await?;
        Ok(outcome)
    }

    /// Notes exactly what a deployment brings, now that it was looked at. Returns the live deployment if that
    /// brings the same; one that is to be built without cache is never the same.
    ///
    /// # Errors
    /// When the deployment does not exist.
    pub async fn set_source_key(self, id: DeploymentId, exact: &SourceKey) -> Result<Option<DeploymentRow>> {
        let mut write = Write::begin(self.0).await?;
        sqlx::query("UPDATE deployments SET source_key = $1 WHERE id = $2")
            .bind(text(exact))
            .bind(id.0)
            .execute(write.conn())
            .await?;
        let deployment = get(&mut write, id).await?;
        let same = match deployment.no_cache {
            true => None,
            false => same_as_live(&mut write, deployment.environment_id, exact).await?,
        };
        write.commit().await?;
        Ok(same.filter(|same| same.id != id))
    }
}

/// [`Deployments::enqueue_once`] within a write.
pub(crate) async fn enqueue_in(
    write: &mut Write<'_>,
    new: &NewDeployment,
    live_counts: bool,
) -> Result<Enqueued> {
    let same = match &new.key {
        // It asks for a part of the traffic, which nothing on its way or live answers.
        _ if new.rollout.is_some() => None,
        Some(key) => match newest_on_its_way(write, new.environment).await? {
            Some(newest) => same_on_its_way(write, newest, key, new.no_cache).await?,
            None if live_counts && !new.no_cache => same_as_live(write, new.environment, key).await?,
            None => None,
        },
        None => None,
    };
    match same {
        Some(same) => {
            tell(write, &same, &new.by).await?;
            Ok(Enqueued::Same(same))
        }
        None => Ok(Enqueued::New(insert(write, new).await?)),
    }
}

/// A key as it is stored. A wish never equals something exact.
pub(crate) fn text(key: &SourceKey) -> String {
    match key {
        SourceKey::Exact(key) => key.clone(),
        SourceKey::Wish(key) => format!("?{key}"),
    }
}

/// The newest deployment of an environment that is not over.
async fn newest_on_its_way(
    write: &mut Write<'_>,
    environment: EnvironmentId,
) -> Result<Option<DeploymentId>> {
    let sql = format!(
        "SELECT id FROM deployments WHERE environment_id = $1 AND state IN ({}) ORDER BY number DESC LIMIT 1",
        unsettled_states()
    );
    let row = sqlx::query(assembled(sql)).bind(environment.0).fetch_optional(write.conn()).await?;
    row.map(|row| Ok(DeploymentId(row.try_get("id")?))).transpose()
}

/// This deployment, if it brings what `key` names with the settings and variables of now. A wish is the same only
/// while the other waits: what that has looked up already may have moved on since.
async fn same_on_its_way(
    write: &mut Write<'_>,
    id: DeploymentId,
    key: &SourceKey,
    no_cache: bool,
) -> Result<Option<DeploymentRow>> {
    let row = sqlx::query(
        "SELECT d.id FROM deployments d JOIN apps a ON a.id = d.app_id
             JOIN environments e ON e.id = d.environment_id
         WHERE d.id = $1 AND d.source_key = $2 AND d.cancel_requested = 0 AND d.no_cache >= $3
             AND a.deleting = 0 AND e.deleting = 0 AND a.configured_at <= d.created_at
             AND e.configured_at <= d.created_at AND d.rollout IS NULL
             AND (d.state = 'queued' OR $4 = 1)",
    )
    .bind(id.0)
    .bind(text(key))
    .bind(i64::from(no_cache))
    .bind(i64::from(matches!(key, SourceKey::Exact(_))))
    .fetch_optional(write.conn())
    .await?;
    match row {
        Some(_) => Ok(Some(get(write, id).await?)),
        None => Ok(None),
    }
}

/// The live deployment of an environment, if its release was made of exactly this source and neither settings nor
/// variables changed since that was asked for. A stopped app does not count: deploying to it is asking for it to run.
async fn same_as_live(
    write: &mut Write<'_>,
    environment: EnvironmentId,
    key: &SourceKey,
) -> Result<Option<DeploymentRow>> {
    let row = sqlx::query(
        "SELECT d.id FROM environments e JOIN apps a ON a.id = e.app_id JOIN releases r ON r.id = e.live_id
             JOIN deployments maker ON maker.id = r.deployment_id
             JOIN deployments d ON d.environment_id = e.id AND d.state = 'live' AND d.release_id = e.live_id
         WHERE e.id = $1 AND e.stopped = 0 AND a.deleting = 0 AND maker.source_key = $2
             AND a.configured_at <= maker.created_at AND e.configured_at <= maker.created_at
         ORDER BY d.number DESC LIMIT 1",
    )
    .bind(environment.0)
    .bind(text(key))
    .fetch_optional(write.conn())
    .await?;
    match row {
        Some(row) => Ok(Some(get(write, DeploymentId(row.try_get("id")?)).await?)),
        None => Ok(None),
    }
}

/// Writes down that somebody asked for what is there already.
async fn tell(write: &mut Write<'_>, same: &DeploymentRow, by: &str) -> Result<()> {
    let name = same.reference();
    let event = NewEvent {
        kind: "deployment.same",
        by: by.to_owned(),
        app: Some(same.app_id),
        summary: format!("{by} asked for what {name} brings; it is {}.", same.state.as_str()),
        data: json!({ "deployment": name, "state": same.state }),
    };
    write.event(event).await?;
    Ok(())
}
