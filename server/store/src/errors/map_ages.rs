//! Source maps that nobody will ask for again, and how they go.

use std::{collections::HashSet, time::Duration};

use berth_schemas::{
    AppSlug, DeploymentRef, Timestamp,
    issue::{ErrorRules, error_release},
};
use sqlx::{Row, any::AnyRow};

use super::{Errors, change::DAY};
use crate::{
    database::{assembled, pieces, placeholders},
    error::Result,
    model::AppId,
    row,
    write::Write,
};

/// Maps without a release that came this close to the newest of them belong to the same build, in microseconds: an hour.
const SAME_BUILD: i64 = 3_600_000_000;
/// Rows that are removed in one piece.
const PIECE: i64 = 1_000;

/// Which maps are kept besides those of releases that serve or have events.
#[derive(Debug, Clone, Copy)]
pub struct MapsKept {
    /// Age at which they go.
    pub age: Duration,
    /// Of each app, those of the newest so many releases.
    pub releases: usize,
    /// How long events are kept by apps without rules of their own.
    pub events: Duration,
}

/// Maps of a release.
struct Bundle {
    release: String,
    newest: i64,
    used: Option<i64>,
}

impl Errors<'_> {
    /// Notes that maps were read, by the names of their files; of what was noted within a day nothing is written.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn maps_used(self, files: &[String]) -> Result<()> {
        if files.is_empty() {
            return Ok(());
        }
        let mut write = Write::begin(self.0).await?;
        let now = write.now.0;
        for chunk in pieces(files) {
            let sql = format!(
                "UPDATE error_maps SET used_at = {now} WHERE (used_at IS NULL OR used_at < {}) AND file IN {}",
                now - micros(DAY),
                placeholders(1, chunk.len())
            );
            let query = chunk.iter().fold(sqlx::query(assembled(sql)), |q, file| q.bind(file.clone()));
            query.execute(write.conn()).await?;
        }
        write.commit().await
    }

    /// Removes maps of releases that are too old or too many, of which no event is kept, that no event asked for, and that
    /// neither serve nor can be rolled back to; how many. Their files are left without a row.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn prune_maps(self, kept: MapsKept) -> Result<i64> {
        let apps = sqlx::query(
            "SELECT a.id, a.slug, s.settings FROM apps a LEFT JOIN error_settings s ON s.app_id = a.id
             WHERE EXISTS (SELECT 1 FROM error_maps m WHERE m.app_id = a.id) ORDER BY a.id",
        )
        .fetch_all(self.0.read())
        .await?;
        let now = self.0.clock.now().0;
        let old = now.saturating_sub(micros(kept.age));
        let mut all = 0;
        for row in apps {
            let (app, slug) = (AppId(row.try_get("id")?), row::name::<AppSlug>(&row, "apps", "slug")?);
            let rules: Option<ErrorRules> = row::json_opt(&row, "error_settings", "settings")?;
            let days = rules.and_then(|rules| rules.retention_days);
            let unseen = now.saturating_sub(micros(days.map_or(kept.events, |days| DAY * days)));
            let serving = self.serving(app, &slug).await?;
            for (place, bundle) in self.bundles(app).await?.into_iter().enumerate() {
                let due = bundle.newest < old || place >= kept.releases;
                if due
                    && bundle.used.is_none_or(|at| at < old)
                    && !serving.contains(&bundle.release)
                    && self.last_seen(app, &bundle.release).await?.is_none_or(|at| at.0 < unseen)
                {
                    all += self.delete_maps(app, Some(&bundle.release), i64::MAX).await?;
                }
            }
            all += self.delete_maps(app, None, old).await?;
        }
        Ok(all)
    }

    /// The releases of an app that have maps, those that got one last first.
    async fn bundles(self, app: AppId) -> Result<Vec<Bundle>> {
        let rows = sqlx::query(
            "SELECT release_name, MAX(at) AS newest, MAX(used_at) AS used FROM error_maps
             WHERE app_id = $1 AND release_name IS NOT NULL GROUP BY release_name ORDER BY 2 DESC, 1",
        )
        .bind(app.0)
        .fetch_all(self.0.read())
        .await?;
        let bundle = |r: &AnyRow| {
            Ok(Bundle {
                release: r.try_get("release_name")?,
                newest: r.try_get("newest")?,
                used: r.try_get("used")?,
            })
        };
        rows.iter().map(bundle).collect()
    }

    /// Releases of an app that serve somewhere or may again, as events name them: Berth's own that are live or can be
    /// rolled back to, and for apps that name theirs themselves the newest there is, and the newest that each environment
    /// saw.
    async fn serving(self, app: AppId, slug: &AppSlug) -> Result<HashSet<String>> {
        let own = sqlx::query(
            "SELECT d.number, d.commit_sha FROM releases r JOIN deployments d ON d.id = r.deployment_id
             WHERE r.app_id = $1 AND (r.removed = 0 OR r.id IN (SELECT e.live_id FROM environments e WHERE e.app_id = $1))",
        )
        .bind(app.0)
        .fetch_all(self.0.read())
        .await?;
        let mut names = HashSet::new();
        for row in own {
            let made_by = DeploymentRef::new(slug.clone(), row.try_get("number")?);
            names.insert(error_release(&made_by, row.try_get::<Option<String>, _>("commit_sha")?.as_deref()));
        }
        let told = sqlx::query(
            "SELECT r.name FROM error_releases r WHERE r.app_id = $1 AND (
                 r.id = (SELECT MAX(n.id) FROM error_releases n WHERE n.app_id = $1)
                 OR EXISTS (SELECT 1 FROM error_release_places p WHERE p.release_id = r.id AND p.first_seen =
                     (SELECT MAX(q.first_seen) FROM error_release_places q WHERE q.environment_id = p.environment_id)))",
        )
        .bind(app.0)
        .fetch_all(self.0.read())
        .await?;
        for row in told {
            names.insert(row.try_get("name")?);
        }
        Ok(names)
    }

    /// When a release was last seen in any environment.
    async fn last_seen(self, app: AppId, release: &str) -> Result<Option<Timestamp>> {
        let row = sqlx::query(
            "SELECT MAX(p.last_seen) AS seen FROM error_release_places p JOIN error_releases r ON r.id = p.release_id
             WHERE r.app_id = $1 AND r.name = $2",
        )
        .bind(app.0)
        .bind(release.to_owned())
        .fetch_one(self.0.read())
        .await?;
        row::time_opt(&row, "seen")
    }

    /// Removes the maps of a release; or those that came without one, that are older and not of the newest build.
    async fn delete_maps(self, app: AppId, release: Option<&str>, before: i64) -> Result<i64> {
        let which = match release {
            Some(_) => "release_name = $2 AND at < $3",
            None => {
                "release_name IS NULL AND $2 = '' AND at < $3 AND (used_at IS NULL OR used_at < $3) AND at <
                     (SELECT MAX(n.at) FROM error_maps n WHERE n.app_id = $1 AND n.release_name IS NULL) - $4"
            }
        };
        let which = format!("app_id = $1 AND {which}");
        let mut all = 0;
        loop {
            let bound = |sql: String| {
                let query = sqlx::query(assembled(sql)).bind(app.0);
                let query = query.bind(release.unwrap_or_default().to_owned()).bind(before);
                if release.is_none() { query.bind(SAME_BUILD) } else { query }
            };
            let found = bound(format!("SELECT id FROM error_maps WHERE {which} LIMIT 1"));
            if found.fetch_optional(self.0.read()).await?.is_none() {
                return Ok(all);
            }
            let mut write = Write::begin(self.0).await?;
            let gone = bound(format!(
                "DELETE FROM error_maps WHERE id IN (SELECT id FROM error_maps WHERE {which} LIMIT {PIECE})"
            ));
            let gone = gone.execute(write.conn()).await?.rows_affected();
            write.commit().await?;
            all += i64::try_from(gone).unwrap_or(0);
        }
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}
