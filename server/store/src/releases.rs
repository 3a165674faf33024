//! Releases: what deployments made, kept for rollback with the variables they run with.

use berth_schemas::{VariableName, variable::VariableScope};
use serde::Deserialize;
use sqlx::{Row, any::AnyRow};
use zeroize::Zeroizing;

use crate::{
    database::assembled,
    error::{Result, StoreError},
    model::{
        AppId, Artifact, DeploymentId, EnvironmentId, NewRelease, ReleaseId, ReleaseRow, Snapshot,
        SnapshotVariable,
    },
    row,
    seal::Place,
    store::Inner,
    write::Write,
};

const SELECT: &str =
    "SELECT r.id, r.app_id, r.environment_id, r.deployment_id, d.number, r.artifact, r.settings,
    d.commit_sha, d.message, r.bytes, r.removed, r.created_at, r.live_at
    FROM releases r JOIN deployments d ON d.id = r.deployment_id";

/// Releases of a [`crate::Store`].
#[derive(Clone, Copy)]
pub struct Releases<'a>(pub(crate) &'a Inner);

impl Releases<'_> {
    /// Records a release and notes it with its deployment. A deployment that is worked on anew after a
    /// restart replaces the release that its first attempt made.
    ///
    /// # Errors
    /// When the deployment does not exist.
    pub async fn create(self, new: NewRelease) -> Result<ReleaseRow> {
        let variables = Zeroizing::new(row::to_json("releases", "variables", &new.variables)?.into_bytes());
        let sealed = self.0.sealer.seal(&place(&new.deployment.0.to_string()), &variables)?;
        let mut write = Write::begin(self.0).await?;
        let id: i64 = sqlx::query(
            "INSERT INTO releases (app_id, environment_id, deployment_id, artifact, settings, variables, bytes,
                 created_at, maps_of)
             SELECT d.app_id, d.environment_id, d.id, $2, $3, $4, $5, $6, $7 FROM deployments d WHERE d.id = $1
             ON CONFLICT (deployment_id) DO UPDATE SET artifact = excluded.artifact,
                 settings = excluded.settings, variables = excluded.variables, bytes = excluded.bytes,
                 created_at = excluded.created_at, removed = 0, maps_of = excluded.maps_of, maps_tries = 0
             RETURNING id",
        )
        .bind(new.deployment.0)
        .bind(row::to_json("releases", "artifact", &new.artifact)?)
        .bind(row::to_json("releases", "settings", &new.settings)?)
        .bind(sealed)
        .bind(new.bytes)
        .bind(write.now.0)
        .bind(new.maps_of)
        .fetch_optional(write.conn())
        .await?
        .ok_or_else(|| StoreError::not_found("deployment", new.deployment.0))?
        .try_get("id")?;
        sqlx::query("UPDATE deployments SET release_id = $1 WHERE id = $2")
            .bind(id)
            .bind(new.deployment.0)
            .execute(write.conn())
            .await?;
        let row = sqlx::query(assembled(format!("{SELECT} WHERE r.id = $1")))
            .bind(id)
            .fetch_one(write.conn())
            .await?;
        let release = from_row(&row)?;
        write.commit().await?;
        Ok(release)
    }

    /// The release with this id, for the daemon's own use.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn get(self, id: ReleaseId) -> Result<Option<ReleaseRow>> {
        let sql = format!("{SELECT} WHERE r.id = $1");
        let row = sqlx::query(assembled(sql)).bind(id.0).fetch_optional(self.0.read()).await?;
        row.as_ref().map(from_row).transpose()
    }

    /// The variables that a release runs with, opened, and what was noted with them.
    ///
    /// # Errors
    /// When the release does not exist or its variables were tampered with.
    pub async fn variables(self, id: ReleaseId) -> Result<Snapshot> {
        let row = sqlx::query("SELECT deployment_id, variables FROM releases WHERE id = $1")
            .bind(id.0)
            .fetch_optional(self.0.read())
            .await?
            .ok_or_else(|| StoreError::not_found("release", id.0))?;
        let deployment: i64 = row.try_get("deployment_id")?;
        let sealed: String = row.try_get("variables")?;
        let clear = self.0.sealer.open(&place(&deployment.to_string()), &sealed)?;
        let kept: Kept = serde_json::from_slice(&clear)
            .map_err(|_| StoreError::corrupt("releases", "variables", "(sealed)"))?;
        Ok(kept.into())
    }

    /// Releases with traffic whose images are still to be searched for source maps, the oldest first, with what their
    /// errors call them.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn maps_due(self) -> Result<Vec<(ReleaseRow, String)>> {
        let sql = SELECT.replacen("SELECT ", "SELECT r.maps_of, ", 1)
            + " WHERE r.maps_of IS NOT NULL AND r.removed = 0
                AND (r.live_at IS NOT NULL OR d.state = 'rolling_out') ORDER BY r.id LIMIT 100";
        let rows = sqlx::query(assembled(sql)).fetch_all(self.0.read()).await?;
        rows.iter().map(|r| Ok((from_row(r)?, r.try_get("maps_of")?))).collect()
    }

    /// Notes that a release's image is searched for source maps once more; how often that is by now.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn begin_maps(self, id: ReleaseId) -> Result<i64> {
        let mut write = Write::begin(self.0).await?;
        let row =
            sqlx::query("UPDATE releases SET maps_tries = maps_tries + 1 WHERE id = $1 RETURNING maps_tries")
                .bind(id.0)
                .fetch_optional(write.conn())
                .await?
                .ok_or_else(|| StoreError::not_found("release", id.0))?;
        write.commit().await?;
        Ok(row.try_get("maps_tries")?)
    }

    /// Releases of an environment, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list(self, environment: EnvironmentId, include_removed: bool) -> Result<Vec<ReleaseRow>> {
        let removed = if include_removed { 1 } else { 0 };
        let sql = format!(
            "{SELECT} WHERE r.environment_id = $1 AND r.removed <= {removed} ORDER BY d.number DESC LIMIT 1000"
        );
        let rows = sqlx::query(assembled(sql)).bind(environment.0).fetch_all(self.0.read()).await?;
        rows.iter().map(from_row).collect()
    }

    /// The release that deployment `number` made.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn by_number(self, environment: EnvironmentId, number: i64) -> Result<Option<ReleaseRow>> {
        let sql = format!("{SELECT} WHERE r.environment_id = $1 AND d.number = $2");
        let row = sqlx::query(assembled(sql))
            .bind(environment.0)
            .bind(number)
            .fetch_optional(self.0.read())
            .await?;
        row.as_ref().map(from_row).transpose()
    }

    /// Notes that a release's image or files are gone.
    ///
    /// # Errors
    /// When it is the live one.
    pub async fn mark_removed(self, id: ReleaseId) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        let live = sqlx::query("SELECT id FROM environments WHERE live_id = $1")
            .bind(id.0)
            .fetch_optional(write.conn())
            .await?;
        if live.is_some() {
            return Err(StoreError::conflict(
                "the live release cannot be removed",
                "Switch to another first.",
            ));
        }
        sqlx::query("UPDATE releases SET removed = 1 WHERE id = $1").bind(id.0).execute(write.conn()).await?;
        write.commit().await
    }

    /// Whether a release that is still kept has this artifact.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn artifact_in_use(&self, artifact: &Artifact) -> Result<bool> {
        let sql = format!("{SELECT} WHERE r.removed = 0");
        let rows = sqlx::query(assembled(sql)).fetch_all(self.0.read()).await?;
        for row in &rows {
            let same = match (&from_row(row)?.artifact, artifact) {
                (Artifact::Image { image_id: a, .. }, Artifact::Image { image_id: b, .. }) => a == b,
                (Artifact::Static { path: a }, Artifact::Static { path: b }) => a == b,
                _ => false,
            };
            if same {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a release that is still kept has an image of this name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn reference_in_use(self, name: &str) -> Result<bool> {
        let sql = format!("{SELECT} WHERE r.removed = 0");
        let rows = sqlx::query(assembled(sql)).fetch_all(self.0.read()).await?;
        for row in &rows {
            if matches!(from_row(row)?.artifact, Artifact::Image { reference, .. } if reference == name) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The release that served before `before`: not removed, and not rolled back itself.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn previous_live(
        self,
        environment: EnvironmentId,
        before: ReleaseId,
    ) -> Result<Option<ReleaseRow>> {
        let sql = format!(
            "{SELECT} WHERE r.environment_id = $1 AND r.id <> $2 AND r.removed = 0 AND d.state <> 'rolled_back'
             AND r.live_at <= COALESCE((SELECT b.live_at FROM releases b WHERE b.id = $2), $3)
             ORDER BY r.live_at DESC, d.number DESC LIMIT 1"
        );
        let row = sqlx::query(assembled(sql))
            .bind(environment.0)
            .bind(before.0)
            .bind(i64::MAX)
            .fetch_optional(self.0.read())
            .await?;
        row.as_ref().map(from_row).transpose()
    }
}

/// Variables of a release as they were written by whichever version of Berth.
#[derive(Deserialize)]
#[serde(untagged)]
enum Kept {
    Snapshot(Snapshot),
    Pairs(Vec<(VariableName, String)>),
}

impl From<Kept> for Snapshot {
    fn from(kept: Kept) -> Self {
        let pairs = match kept {
            Kept::Snapshot(snapshot) => return snapshot,
            Kept::Pairs(pairs) => pairs,
        };
        let variable = |(name, value)| SnapshotVariable {
            name,
            value,
            secret: true,
            scope: VariableScope::Environment,
            version: 0,
        };
        Self { branch: None, dsn: None, variables: pairs.into_iter().map(variable).collect() }
    }
}

/// Sealed values are bound to the deployment, which is known before the release has an id.
fn place(deployment: &str) -> Place<'_> {
    Place { column: "releases/variables", row: deployment }
}

fn from_row(r: &AnyRow) -> Result<ReleaseRow> {
    Ok(ReleaseRow {
        id: ReleaseId(r.try_get("id")?),
        app_id: AppId(r.try_get("app_id")?),
        environment_id: EnvironmentId(r.try_get("environment_id")?),
        deployment_id: DeploymentId(r.try_get("deployment_id")?),
        number: r.try_get("number")?,
        artifact: row::json(r, "releases", "artifact")?,
        settings: row::json(r, "releases", "settings")?,
        commit: r.try_get("commit_sha")?,
        message: r.try_get("message")?,
        bytes: r.try_get("bytes")?,
        removed: row::flag(r, "removed")?,
        created_at: row::time(r, "created_at")?,
        live_at: row::time_opt(r, "live_at")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_berth_kept_is_read_and_counts_as_secret() {
        let kept: Kept = serde_json::from_str(r#"[["A","one"],["B","${A}"]]"#).unwrap();
        let snapshot = Snapshot::from(kept);
        let seen: Vec<_> =
            snapshot.variables.iter().map(|v| (v.name.as_str(), v.value.as_str(), v.secret)).collect();
        assert_eq!(seen, [("A", "one", true), ("B", "${A}", true)]);
        let again: Kept = serde_json::from_str(&serde_json::to_string(&snapshot).unwrap()).unwrap();
        assert_eq!(Snapshot::from(again), snapshot);
    }
}
