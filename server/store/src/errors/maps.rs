//! Source maps: which there are, and which events wait for one.

use std::collections::HashSet;

use berth_schemas::{
    Untrusted,
    issue::{GroupingReason, ReleaseCommit},
};
use sqlx::Row;

use super::{
    ErrorEventRow, Errors, Joined, compress,
    join::{by_maps, owner_of},
    query::event_row,
    title::give,
};
use crate::{
    database::{assembled, storable},
    error::Result,
    model::{AppId, ReleaseId},
    row::{self, flag},
    write::Write,
};

/// A map to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMap {
    /// Its app.
    pub app: AppId,
    /// By which events name it.
    pub debug_id: Option<String>,
    /// The release that it was uploaded for.
    pub release: Option<String>,
    /// The minified file, such as `~/assets/index.js`.
    pub url: String,
    /// Name of its file.
    pub file: String,
    /// Its size in bytes.
    pub bytes: i64,
    /// It came with a deployment, which brings the file to visitors.
    pub deployed: bool,
}

/// What an event is after its frames were put right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remapped {
    /// The JSON.
    pub body: Vec<u8>,
    /// Type of the exception.
    pub kind: String,
    /// What it says.
    pub value: String,
    /// Where.
    pub culprit: Option<String>,
    /// Key that decides on its issue.
    pub strict: String,
    /// Key that joins.
    pub loose: Option<String>,
    /// What went into the key.
    pub reasons: Vec<GroupingReason>,
}

/// A map that an event wants and there is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedMap {
    /// Debug id, or "".
    pub debug_id: String,
    /// Release, or "".
    pub release: String,
    /// The file.
    pub url: String,
}

/// What the deployments of an app brought, or are about to bring.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeployedMaps {
    /// Whether there are any.
    pub any: bool,
    /// Releases, as their errors name them, whose maps are still to be taken out of their images.
    pub due: Vec<String>,
}

/// Maps that one event may wait for.
const MAX_WANTED: usize = 20;
/// Whether a map `m` is one that `u` says an event waits for. Finding by place alone is no part of it: nothing waits for
/// that.
pub(super) const MAP_IS_THERE: &str = "m.app_id = u.app_id
    AND ((u.debug_id <> '' AND m.debug_id = u.debug_id)
        OR (u.release_name <> '' AND m.release_name = u.release_name AND m.url = u.url))";

impl Errors<'_> {
    /// Keeps maps; the newest of a name counts, and what a deployment brings takes the place of what another one of the
    /// same release brought.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn add_maps(self, maps: &[NewMap]) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        for map in maps {
            let (release, url) = (map.release.as_deref().map(|r| storable(r, 400)), storable(&map.url, 2000));
            if map.deployed {
                sqlx::query(
                    "DELETE FROM error_maps WHERE app_id = $1 AND release_name = $2 AND url = $3 AND deployed = 1",
                )
                .bind(map.app.0)
                .bind(release.clone())
                .bind(url.clone())
                .execute(write.conn())
                .await?;
            }
            sqlx::query(
                "INSERT INTO error_maps (app_id, debug_id, release_name, url, file, bytes, at, deployed)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            )
            .bind(map.app.0)
            .bind(map.debug_id.clone())
            .bind(release)
            .bind(url)
            .bind(map.file.clone())
            .bind(map.bytes)
            .bind(write.now.0)
            .bind(i64::from(map.deployed))
            .execute(write.conn())
            .await?;
        }
        write.commit().await
    }

    /// What deployments of an app brought, or are about to bring.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn deployed_maps(self, app: AppId) -> Result<DeployedMaps> {
        // One question for each event of a script, and one answer: what is taken in between is due or there.
        let rows = sqlx::query(
            "SELECT maps_of AS name FROM releases WHERE app_id = $1 AND maps_of IS NOT NULL AND removed = 0
             UNION ALL SELECT '' AS name FROM apps WHERE id = $1
                 AND EXISTS (SELECT 1 FROM error_maps m WHERE m.app_id = $1 AND m.deployed = 1)",
        )
        .bind(app.0)
        .fetch_all(self.0.read())
        .await?;
        let mut due = rows.iter().map(|r| Ok(r.try_get("name")?)).collect::<Result<Vec<String>>>()?;
        let named = due.len();
        due.retain(|name| !name.is_empty());
        Ok(DeployedMaps { any: due.len() < named, due })
    }

    /// Notes that the maps of a release were taken out of its image, as far as there are any. What waits for others of
    /// them waits in vain.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn maps_taken(self, app: AppId, release: ReleaseId) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        sqlx::query("UPDATE releases SET maps_of = NULL WHERE id = $1")
            .bind(release.0)
            .execute(write.conn())
            .await?;
        let sql = format!(
            "DELETE FROM error_unmapped WHERE app_id = $1 AND debug_id = '' AND url LIKE '/%'
             AND release_name NOT IN (SELECT maps_of FROM releases WHERE app_id = $1 AND maps_of IS NOT NULL AND removed = 0)
             AND NOT EXISTS (SELECT 1 FROM error_maps m WHERE {})",
            MAP_IS_THERE.replace("u.", "error_unmapped.")
        );
        sqlx::query(assembled(sql)).bind(app.0).execute(write.conn()).await?;
        write.commit().await
    }

    /// The file of a map, by debug id, else by release and file, else, if `by_place`, the one that a deployment brought
    /// last for this file.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn find_map(
        self,
        app: AppId,
        debug_id: Option<&str>,
        release: Option<&str>,
        url: &str,
        by_place: bool,
    ) -> Result<Option<String>> {
        if let Some(id) = debug_id
            && let Some(file) = self.map_file(app, "debug_id = $2", [id.to_owned()]).await?
        {
            return Ok(Some(file));
        }
        let url = storable(url, 2000);
        if let Some(release) = release {
            let named = [storable(release, 400), url.clone()];
            if let Some(file) = self.map_file(app, "release_name = $2 AND url = $3", named).await? {
                return Ok(Some(file));
            }
        }
        if !by_place {
            return Ok(None);
        }
        self.map_file(app, "deployed = 1 AND url = $2", [url]).await
    }

    /// The file of an app's newest map that fits; `values` are bound from `$2` on.
    async fn map_file<const N: usize>(
        self,
        app: AppId,
        which: &str,
        values: [String; N],
    ) -> Result<Option<String>> {
        let sql =
            format!("SELECT file FROM error_maps WHERE app_id = $1 AND {which} ORDER BY id DESC LIMIT 1");
        let mut query = sqlx::query(assembled(sql)).bind(app.0);
        for value in values {
            query = query.bind(value);
        }
        let row = query.fetch_optional(self.0.read()).await?;
        row.map(|r| Ok(r.try_get("file")?)).transpose()
    }

    /// Names of all files of maps.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn map_files(self) -> Result<HashSet<String>> {
        let rows = sqlx::query("SELECT DISTINCT file FROM error_maps").fetch_all(self.0.read()).await?;
        rows.iter().map(|r| Ok(r.try_get("file")?)).collect()
    }

    /// Events that wait for a map which is there by now, the newest first. A map is there if [`Errors::find_map`] finds
    /// it; were one found here only, its event would wait and be looked at for ever.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn mappable(self, limit: i64) -> Result<Vec<ErrorEventRow>> {
        let sql = format!(
            "SELECT {} FROM error_events WHERE id IN (
                 SELECT u.event_row FROM error_unmapped u JOIN error_maps m ON {MAP_IS_THERE}
                 ORDER BY u.event_row DESC LIMIT $1)",
            super::query::EVENT
        );
        let rows = sqlx::query(assembled(sql)).bind(limit).fetch_all(self.0.read()).await?;
        rows.iter().map(event_row).collect()
    }

    /// Keeps what an event became; it stays in its issue, and what comes and looks the same joins it. From now on it waits
    /// for the maps in `missing` and for no others. If all of its issue turns out to belong to another one, the two are
    /// joined.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn remapped(
        self,
        event: &ErrorEventRow,
        done: Option<Remapped>,
        missing: &[WantedMap],
    ) -> Result<Option<Joined>> {
        let body = done.as_ref().map(|d| compress(&d.body)).transpose()?;
        let mut write = Write::begin(self.0).await?;
        // Issues may have been merged since the event was read.
        let row = sqlx::query(
            "SELECT i.id, i.split_by_hand FROM error_events e JOIN error_issues i ON i.id = e.issue_id WHERE e.id = $1",
        )
        .bind(event.id)
        .fetch_optional(write.conn())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let (issue, split) = (row.try_get("id")?, flag(&row, "split_by_hand")?);
        wait_only_for(&mut write, event, missing).await?;
        if let (Some(done), Some(body)) = (done, body) {
            regroup(&mut write, event.id, (issue, split), done, body).await?;
        }
        let joined = by_maps(&mut write, issue).await?;
        write.commit().await?;
        Ok(joined)
    }

    /// What an event waits for, in words for people.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn waits_for(self, event: i64) -> Result<Vec<WantedMap>> {
        let rows = sqlx::query(
            "SELECT debug_id, release_name, url FROM error_unmapped WHERE event_row = $1 LIMIT 20",
        )
        .bind(event)
        .fetch_all(self.0.read())
        .await?;
        rows.iter()
            .map(|r| {
                Ok(WantedMap {
                    debug_id: r.try_get("debug_id")?,
                    release: r.try_get("release_name")?,
                    url: r.try_get("url")?,
                })
            })
            .collect()
    }

    /// Makes a release known before its first error, with its commits as JSON; true if it is new.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn add_release(
        self,
        app: AppId,
        name: &str,
        commits: Option<&str>,
        released: bool,
    ) -> Result<bool> {
        let mut write = Write::begin(self.0).await?;
        let now = write.now.0;
        let new = sqlx::query(
            "INSERT INTO error_releases (app_id, name, first_seen) VALUES ($1, $2, $3) ON CONFLICT (app_id, name) DO NOTHING",
        )
        .bind(app.0)
        .bind(storable(name, 400))
        .bind(now)
        .execute(write.conn())
        .await?
        .rows_affected();
        sqlx::query(
            "UPDATE error_releases SET commits = COALESCE($3, commits), released_at = COALESCE($4, released_at)
             WHERE app_id = $1 AND name = $2",
        )
        .bind(app.0)
        .bind(storable(name, 400))
        .bind(commits.map(str::to_owned))
        .bind(released.then_some(now))
        .execute(write.conn())
        .await?;
        write.commit().await?;
        Ok(new > 0)
    }

    /// The commits that a client told of a release, the newest first; none if none did.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn release_commits(self, app: AppId, name: &str) -> Result<Vec<ReleaseCommit>> {
        let row = sqlx::query("SELECT commits FROM error_releases WHERE app_id = $1 AND name = $2")
            .bind(app.0)
            .bind(storable(name, 400))
            .fetch_optional(self.0.read())
            .await?;
        let kept: Option<Vec<KeptCommit>> =
            row.map(|r| row::json_opt(&r, "error_releases", "commits")).transpose()?.flatten();
        let shown = |kept: KeptCommit| {
            let first = |text: &String| text.lines().next().unwrap_or_default().chars().take(200).collect();
            Some(ReleaseCommit {
                id: kept.id?.into(),
                author: Untrusted::maybe(kept.author),
                message: Untrusted::maybe(
                    kept.message.as_ref().map(first).filter(|m: &String| !m.is_empty()),
                ),
                at: Untrusted::maybe(kept.at),
            })
        };
        Ok(kept.into_iter().flatten().filter_map(shown).collect())
    }
}

/// A commit as it is kept: what a client told, some of it perhaps not.
#[derive(serde::Deserialize)]
struct KeptCommit {
    id: Option<String>,
    author: Option<String>,
    message: Option<String>,
    at: Option<String>,
}

/// Keeps an event's new body, and has what looks the same go where such a one would go that came now.
async fn regroup(
    write: &mut Write<'_>,
    event: i64,
    (issue, split): (i64, bool),
    done: Remapped,
    body: Vec<u8>,
) -> Result<()> {
    sqlx::query("UPDATE error_events SET body = $2, grouping_key = $3 WHERE id = $1")
        .bind(event)
        .bind(body)
        .bind(done.strict.clone())
        .execute(write.conn())
        .await?;
    let mut owner = owner_of(write, &done.strict).await?;
    // What was set apart by hand is not drawn back by what is only alike.
    if let (None, Some(loose), false) = (owner, &done.loose, split) {
        owner = owner_of(write, loose).await?;
    }
    for key in [Some(&done.strict), done.loose.as_ref()].into_iter().flatten() {
        sqlx::query(
            "INSERT INTO error_groupings (grouping_key, issue_id) VALUES ($1, $2)
             ON CONFLICT (grouping_key) DO NOTHING",
        )
        .bind(key.clone())
        .bind(owner.unwrap_or(issue))
        .execute(write.conn())
        .await?;
    }
    give(write, issue, &(&done).into()).await
}

/// Makes an event wait for `missing` instead of what it waited for.
async fn wait_only_for(write: &mut Write<'_>, event: &ErrorEventRow, missing: &[WantedMap]) -> Result<()> {
    sqlx::query("DELETE FROM error_unmapped WHERE event_row = $1")
        .bind(event.id)
        .execute(write.conn())
        .await?;
    wait_for(write, event.id, missing).await
}

/// Makes an event wait for more maps.
pub(super) async fn wait_for(write: &mut Write<'_>, event: i64, missing: &[WantedMap]) -> Result<()> {
    for wanted in missing.iter().take(MAX_WANTED) {
        // Not if the event went meanwhile.
        sqlx::query(
            "INSERT INTO error_unmapped (event_row, app_id, debug_id, release_name, url)
             SELECT id, app_id, $2, $3, $4 FROM error_events WHERE id = $1
             ON CONFLICT (event_row, debug_id, url) DO NOTHING",
        )
        .bind(event)
        .bind(wanted.debug_id.clone())
        .bind(storable(&wanted.release, 400))
        .bind(storable(&wanted.url, 2000))
        .execute(write.conn())
        .await?;
    }
    Ok(())
}
