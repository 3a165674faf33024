//! Rollouts: the rule by which a deployment gets a part of the traffic, and the wish to give it all.

use berth_schemas::traffic::RolloutRule;
use serde_json::json;

use crate::{
    deployments::{Deployments, get},
    error::{Result, StoreError},
    model::{DeploymentId, DeploymentRow, NewEvent},
    row,
    write::Write,
};

impl Deployments<'_> {
    /// Changes the rule of a rollout that is on its way or goes on.
    ///
    /// # Errors
    /// `Conflict` when the deployment is no rollout, or one whose end was asked for already.
    pub async fn set_rollout(self, id: DeploymentId, rule: &RolloutRule, by: &str) -> Result<DeploymentRow> {
        let mut write = Write::begin(self.0).await?;
        let before = undecided(&mut write, id).await?;
        if before.rollout.as_ref() == Some(rule) {
            return Ok(before);
        }
        sqlx::query("UPDATE deployments SET rollout = $1 WHERE id = $2")
            .bind(row::to_json("deployments", "rollout", rule)?)
            .bind(id.0)
            .execute(write.conn())
            .await?;
        let name = before.reference();
        let event = NewEvent {
            kind: "rollout.changed",
            by: by.to_owned(),
            app: Some(before.app_id),
            summary: format!("The rollout of {name} is for {} % of the visitors now.", rule.percent),
            data: json!({ "deployment": name, "rule": rule, "before": before.rollout }),
        };
        write.event(event).await?;
        let row = get(&mut write, id).await?;
        write.commit().await?;
        Ok(row)
    }

    /// Asks for all traffic for a rollout. Asking twice is no error.
    ///
    /// # Errors
    /// `Conflict` when the deployment is no rollout, or was told to stop.
    pub async fn request_promote(self, id: DeploymentId, by: &str) -> Result<DeploymentRow> {
        let mut write = Write::begin(self.0).await?;
        let before = get(&mut write, id).await?;
        if before.promote_requested {
            return Ok(before);
        }
        let before = undecided(&mut write, id).await?;
        sqlx::query("UPDATE deployments SET promote_requested = 1 WHERE id = $1")
            .bind(id.0)
            .execute(write.conn())
            .await?;
        let name = before.reference();
        let event = NewEvent {
            kind: "rollout.promote_requested",
            by: by.to_owned(),
            app: Some(before.app_id),
            summary: format!("{name} is to get all the traffic."),
            data: json!({ "deployment": name }),
        };
        write.event(event).await?;
        let row = get(&mut write, id).await?;
        write.commit().await?;
        Ok(row)
    }
}

/// A rollout whose end is open.
async fn undecided(write: &mut Write<'_>, id: DeploymentId) -> Result<DeploymentRow> {
    let row = get(write, id).await?;
    let name = row.reference();
    let open = row.rollout.is_some()
        && row.state.is_cancellable()
        && !row.cancel_requested
        && !row.promote_requested;
    if open {
        return Ok(row);
    }
    Err(StoreError::conflict(
        format!("{name} is no rollout that could still be changed: it is {}", row.state.as_str()),
        "See deployment_get for where it stands.",
    ))
}
