//! Releases as an environment saw them, and their errors within a time.

use berth_schemas::Timestamp;
use sqlx::Row;

use super::{DigestedEvent, ErrorReleaseRow, Errors, ItemKind, inflate, intake::HOUR};
use crate::{
    database::{assembled, pieces, placeholders},
    error::Result,
    model::{AppId, EnvironmentId},
    row,
    write::Write,
};

/// A release and where it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedRelease {
    /// The release.
    pub release: ErrorReleaseRow,
    /// When an environment saw it first.
    pub here: Option<Timestamp>,
    /// Whether another one saw it.
    pub elsewhere: bool,
}

/// A part of a release's life in an environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// The app.
    pub app: AppId,
    /// The environment.
    pub environment: EnvironmentId,
    /// Row of the release.
    pub release: i64,
    /// From when,
    pub from: Timestamp,
    /// and to when, which is not in it.
    pub to: Timestamp,
}

/// What a release had of an issue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssueShare {
    /// Row of the issue.
    pub issue: i64,
    /// Its number.
    pub number: i64,
    /// Events.
    pub events: i64,
    /// Users.
    pub users: i64,
    /// In which release it was first seen.
    pub first_release: Option<String>,
    /// Whether it came back after it was resolved.
    pub regressed: bool,
}

impl Errors<'_> {
    /// Releases of an app, the newest first, with where they were seen.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn releases_placed(
        self,
        app: AppId,
        environment: EnvironmentId,
        limit: i64,
    ) -> Result<Vec<PlacedRelease>> {
        let rows = sqlx::query(
            "SELECT r.id, r.name, r.first_seen, p.first_seen AS here, CASE WHEN EXISTS
                 (SELECT 1 FROM error_release_places o WHERE o.release_id = r.id AND o.environment_id <> $2)
                 THEN 1 ELSE 0 END AS elsewhere
             FROM error_releases r LEFT JOIN error_release_places p ON p.release_id = r.id AND p.environment_id = $2
             WHERE r.app_id = $1 ORDER BY r.id DESC LIMIT $3",
        )
        .bind(app.0)
        .bind(environment.0)
        .bind(limit)
        .fetch_all(self.0.read())
        .await?;
        rows.iter()
            .map(|r| {
                Ok(PlacedRelease {
                    release: ErrorReleaseRow {
                        id: r.try_get("id")?,
                        name: r.try_get("name")?,
                        first_seen: row::time(r, "first_seen")?,
                    },
                    here: row::time_opt(r, "here")?,
                    elsewhere: row::flag(r, "elsewhere")?,
                })
            })
            .collect()
    }

    /// What a release had of each issue in a time, the most frequent first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn shares(self, of: &Stretch) -> Result<Vec<IssueShare>> {
        let rows = sqlx::query(
            "SELECT i.id, i.number, i.first_release, i.regressed, COUNT(*) AS events,
                 COUNT(DISTINCT e.user_key) AS users
             FROM error_events e JOIN error_issues i ON i.id = e.issue_id
             WHERE e.app_id = $1 AND e.at >= $2 AND e.at < $3 AND e.environment_id = $4 AND e.release_id = $5
             GROUP BY i.id, i.number, i.first_release, i.regressed ORDER BY 5 DESC, i.id",
        )
        .bind(of.app.0)
        .bind(of.from.0)
        .bind(of.to.0)
        .bind(of.environment.0)
        .bind(of.release)
        .fetch_all(self.0.read())
        .await?;
        rows.iter()
            .map(|r| {
                Ok(IssueShare {
                    issue: r.try_get("id")?,
                    number: r.try_get("number")?,
                    events: r.try_get("events")?,
                    users: r.try_get("users")?,
                    first_release: r.try_get("first_release")?,
                    regressed: row::flag(r, "regressed")?,
                })
            })
            .collect()
    }

    /// Users that had an error of a release in a time.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn users_in(self, of: &Stretch) -> Result<i64> {
        let row = sqlx::query(
            "SELECT COUNT(DISTINCT user_key) AS n FROM error_events
             WHERE app_id = $1 AND at >= $2 AND at < $3 AND environment_id = $4 AND release_id = $5",
        )
        .bind(of.app.0)
        .bind(of.from.0)
        .bind(of.to.0)
        .bind(of.environment.0)
        .bind(of.release)
        .fetch_one(self.0.read())
        .await?;
        Ok(row.try_get("n")?)
    }

    /// Since when all events of an app are there; none if none went yet.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn complete_since(self, app: AppId) -> Result<Option<Timestamp>> {
        let row = sqlx::query(
            "SELECT COUNT(*) AS kept, MIN(at) AS oldest, (SELECT CAST(COALESCE(SUM(events), 0) AS BIGINT)
                 FROM error_issues WHERE app_id = $1) AS ever
             FROM error_events WHERE app_id = $1",
        )
        .bind(app.0)
        .fetch_one(self.0.read())
        .await?;
        let (kept, ever): (i64, i64) = (row.try_get("kept")?, row.try_get("ever")?);
        if kept < ever { row::time_opt(&row, "oldest") } else { Ok(None) }
    }

    /// Items of a kind that an environment sent in a time, not compressed, the newest first, with their rows and times; from
    /// below the row `before`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn telemetry(
        self,
        app: AppId,
        environment: EnvironmentId,
        kind: ItemKind,
        (from, to): (Timestamp, Timestamp),
        (before, limit): (i64, i64),
    ) -> Result<Vec<(i64, Timestamp, Vec<u8>)>> {
        let rows = sqlx::query(
            "SELECT id, at, body FROM telemetry WHERE app_id = $1 AND kind = $2 AND id < $3 AND environment_id = $4
                 AND at >= $5 AND at < $6 ORDER BY id DESC LIMIT $7",
        )
        .bind(app.0)
        .bind(kind.as_str())
        .bind(before)
        .bind(environment.0)
        .bind(from.0)
        .bind(to.0)
        .bind(limit)
        .fetch_all(self.0.read())
        .await?;
        rows.iter()
            .map(|r| {
                let body: Vec<u8> = r.try_get("body")?;
                Ok((r.try_get("id")?, row::time(r, "at")?, inflate("telemetry", &body)?))
            })
            .collect()
    }
}

/// First and last time that a batch saw a release in an environment.
pub(super) type Places = std::collections::BTreeMap<(i64, EnvironmentId), (Timestamp, Timestamp)>;

/// Notes when a release was seen. What says that it is older than an hour tells of a client's clock or of its having been
/// offline, not of when the release came.
pub(super) fn note_place(places: &mut Places, release: i64, event: &DigestedEvent, at: Timestamp) {
    let at = at.max(Timestamp(event.received_at.0 - HOUR));
    let seen = places.entry((release, event.environment)).or_insert((at, at));
    *seen = (seen.0.min(at), seen.1.max(at));
}

/// Keeps when releases were seen.
pub(super) async fn keep_places(write: &mut Write<'_>, places: Places) -> Result<()> {
    for chunk in pieces(&places.into_iter().collect::<Vec<_>>()) {
        let sql = format!(
            "INSERT INTO error_release_places (release_id, environment_id, first_seen, last_seen) VALUES {}
             ON CONFLICT (release_id, environment_id) DO UPDATE SET
                 first_seen = CASE WHEN error_release_places.first_seen < excluded.first_seen
                     THEN error_release_places.first_seen ELSE excluded.first_seen END,
                 last_seen = CASE WHEN error_release_places.last_seen > excluded.last_seen
                     THEN error_release_places.last_seen ELSE excluded.last_seen END",
            placeholders(chunk.len(), 4)
        );
        let query =
            chunk.iter().fold(sqlx::query(assembled(sql)), |q, ((release, environment), (from, to))| {
                q.bind(*release).bind(environment.0).bind(from.0).bind(to.0)
            });
        query.execute(write.conn()).await?;
    }
    Ok(())
}
