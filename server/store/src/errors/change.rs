//! What people decide about issues, and what goes.

use std::time::Duration;

use berth_schemas::{Timestamp, issue::ErrorRules};
use serde_json::json;
use sqlx::Row;

use super::{Errors, IssueRow, digest::next_number};
use crate::{
    database::{assembled, storable},
    error::{Result, StoreError},
    model::{AppId, NewEvent, Principal},
    row,
    store::Pruned,
    write::Write,
};

/// Rows that are removed in one piece.
const PIECE: i64 = 1_000;
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

/// What ends an issue's being ignored; nothing means for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Until {
    /// A time.
    pub time: Option<Timestamp>,
    /// So many more events.
    pub events: Option<i64>,
    /// So many more users.
    pub users: Option<i64>,
}

impl Errors<'_> {
    /// Marks an issue as mended, now or in the next release.
    ///
    /// # Errors
    /// When it is gone or the database fails.
    pub async fn resolve(self, by: &Principal, issue: &IssueRow, in_next_release: bool) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        let newest: Option<i64> =
            sqlx::query("SELECT MAX(id) AS newest FROM error_releases WHERE app_id = $1")
                .bind(issue.app_id.0)
                .fetch_one(write.conn())
                .await?
                .try_get("newest")?;
        let done = sqlx::query(
            "UPDATE error_issues SET state = 'resolved', regressed = 0, resolved_at = $2, resolved_release = $3,
                 in_next_release = $4, ignored_until = NULL, ignored_events = NULL, ignored_users = NULL
             WHERE id = $1",
        )
        .bind(issue.id)
        .bind(write.now.0)
        .bind(newest)
        .bind(i64::from(in_next_release))
        .execute(write.conn())
        .await?;
        there(issue, done.rows_affected())?;
        let when = if in_next_release { " in the next release" } else { "" };
        tell(&mut write, by, issue, "error.resolved", format!("{} is resolved{when}", issue.reference()))
            .await?;
        write.commit().await
    }

    /// Marks an issue as ignored.
    ///
    /// # Errors
    /// When it is gone or the database fails.
    pub async fn ignore(self, by: &Principal, issue: &IssueRow, until: Until) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        let done = sqlx::query(
            "UPDATE error_issues SET state = 'ignored', regressed = 0, resolved_at = NULL, resolved_release = NULL,
                 in_next_release = 0, ignored_until = $2, ignored_events = events + $3, ignored_users = users + $4
             WHERE id = $1",
        )
        .bind(issue.id)
        .bind(until.time.map(|t| t.0))
        .bind(until.events)
        .bind(until.users)
        .execute(write.conn())
        .await?;
        there(issue, done.rows_affected())?;
        tell(&mut write, by, issue, "error.ignored", format!("{} is ignored", issue.reference())).await?;
        write.commit().await
    }

    /// Opens an issue again.
    ///
    /// # Errors
    /// When it is gone or the database fails.
    pub async fn reopen(self, by: &Principal, issue: &IssueRow) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        let done = sqlx::query(
            "UPDATE error_issues SET state = 'open', resolved_at = NULL, resolved_release = NULL, in_next_release = 0,
                 ignored_until = NULL, ignored_events = NULL, ignored_users = NULL WHERE id = $1",
        )
        .bind(issue.id)
        .execute(write.conn())
        .await?;
        there(issue, done.rows_affected())?;
        tell(&mut write, by, issue, "error.reopened", format!("{} is open again", issue.reference())).await?;
        write.commit().await
    }

    /// Says who looks after an issue.
    ///
    /// # Errors
    /// When it is gone or the database fails.
    pub async fn assign(self, by: &Principal, issue: &IssueRow, to: Option<&str>) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        let done = sqlx::query("UPDATE error_issues SET assignee = $2 WHERE id = $1")
            .bind(issue.id)
            .bind(to.map(|t| storable(t, 200)))
            .execute(write.conn())
            .await?;
        there(issue, done.rows_affected())?;
        let what = match to {
            Some(to) => format!("{} is assigned to {to}", issue.reference()),
            None => format!("{} is assigned to nobody", issue.reference()),
        };
        tell(&mut write, by, issue, "error.assigned", what).await?;
        write.commit().await
    }

    /// Makes one issue of two: `issue` ends, and what it is grouped by leads to `into` from now on.
    ///
    /// # Errors
    /// When one is gone or the database fails.
    pub async fn merge(self, by: &Principal, issue: &IssueRow, into: &IssueRow) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        if !join(&mut write, issue.id, into.id).await? {
            return Err(StoreError::not_found("issue", issue.reference()));
        }
        let done = sqlx::query("UPDATE error_issues SET merged_by_hand = 1 WHERE id = $1")
            .bind(into.id)
            .execute(write.conn())
            .await?;
        there(into, done.rows_affected())?;
        let what = format!("{} was merged into {}", issue.reference(), into.reference());
        tell(&mut write, by, into, "error.merged", what).await?;
        write.commit().await
    }

    /// Makes an issue of its own of the events that were grouped by `key`; the new issue's number.
    ///
    /// # Errors
    /// When the issue is gone or the database fails.
    pub async fn split(self, by: &Principal, issue: &IssueRow, key: &str) -> Result<i64> {
        let mut write = Write::begin(self.0).await?;
        let number = next_number(&mut write, issue.app_id).await?;
        let new: Option<i64> = sqlx::query(
            "INSERT INTO error_issues (app_id, number, state, kind, value, culprit, level, platform, handled, events,
                 users, first_seen, last_seen, first_release, assignee, reasons)
             SELECT app_id, $2, 'open', kind, value, culprit, level, platform, handled, 0, 0, first_seen, last_seen,
                 first_release, assignee, reasons FROM error_issues WHERE id = $1 RETURNING id",
        )
        .bind(issue.id)
        .bind(number)
        .fetch_optional(write.conn())
        .await?
        .map(|r| r.try_get("id"))
        .transpose()?;
        let new = new.ok_or_else(|| StoreError::not_found("issue", issue.reference()))?;
        move_rows(&mut write, issue.id, new, Some(key)).await?;
        count_apart(&mut write, issue.id, new).await?;
        sqlx::query("UPDATE error_issues SET split_by_hand = 1 WHERE id IN ($1, $2)")
            .bind(issue.id)
            .bind(new)
            .execute(write.conn())
            .await?;
        let what = format!("events of {} became an issue of their own", issue.reference());
        tell(&mut write, by, issue, "error.split", what).await?;
        write.commit().await?;
        Ok(number)
    }

    /// Removes an issue and its events.
    ///
    /// # Errors
    /// When it is gone or the database fails.
    pub async fn delete_issue(self, by: &Principal, issue: &IssueRow) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        for table in ["error_attachments", "error_feedback"] {
            let sql = format!(
                "DELETE FROM {table} WHERE app_id = $1 AND event_id IN (SELECT event_id FROM error_events WHERE issue_id = $2)"
            );
            let of = sqlx::query(assembled(sql)).bind(issue.app_id.0).bind(issue.id);
            of.execute(write.conn()).await?;
        }
        write.commit().await?;
        self.delete_rows("error_events", "issue_id = $1", &[issue.id]).await?;
        let mut write = Write::begin(self.0).await?;
        let gone = sqlx::query("DELETE FROM error_issues WHERE id = $1")
            .bind(issue.id)
            .execute(write.conn())
            .await?;
        there(issue, gone.rows_affected())?;
        tell(&mut write, by, issue, "error.deleted", format!("{} was deleted", issue.reference())).await?;
        write.commit().await
    }

    /// Removes what is older than an app's rules or `usual` want it, and of each app the oldest events beyond their number;
    /// counts of issues stay. Issues that were not seen for twice as long and have no events go, too. Says how many rows
    /// went, and of which apps the events before which time.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn prune(self, usual: ErrorsKept) -> Result<(Pruned, Vec<(AppId, Timestamp)>)> {
        let now = self.0.clock.now().0;
        let before = |age: Duration| now.saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
        let apps = sqlx::query(
            "SELECT a.id, s.settings FROM apps a LEFT JOIN error_settings s ON s.app_id = a.id ORDER BY a.id",
        )
        .fetch_all(self.0.read())
        .await?;
        let (mut rows, mut longest, mut gone) = (0, usual.age, Vec::new());
        for row in apps {
            let app = AppId(row.try_get("id")?);
            let rules: Option<ErrorRules> = row::json_opt(&row, "error_settings", "settings")?;
            let rules = rules.unwrap_or_default();
            let age = rules.retention_days.map_or(usual.age, |days| DAY * days);
            longest = longest.max(age);
            let most = rules.max_events.map_or(usual.events, i64::from);
            let until = self.beyond(app, most).await?.unwrap_or_default().max((before(age), 0));
            let which = "app_id = $1 AND at <= $2 AND (at < $2 OR id <= $3)";
            let removed = self.delete_rows("error_events", which, &[app.0, until.0, until.1]).await?;
            if removed > 0 {
                gone.push((app, Timestamp(until.0)));
            }
            rows += removed;
            for (table, until) in
                [("error_attachments", until.0), ("error_feedback", before(age)), ("telemetry", before(age))]
            {
                rows += self.delete_rows(table, "app_id = $1 AND at < $2", &[app.0, until]).await?;
            }
        }
        // Counts are small, and go when no app keeps as long.
        let (before, forget) = (Timestamp(before(longest)), Timestamp(before(longest * 2)));
        for table in ["error_counts", "error_hours"] {
            let old = sqlx::query(assembled(format!("SELECT 1 FROM {table} WHERE hour < $1 LIMIT 1")))
                .bind(before.0)
                .fetch_optional(self.0.read())
                .await?;
            if old.is_some() {
                let mut write = Write::begin(self.0).await?;
                let sql = format!("DELETE FROM {table} WHERE hour < $1");
                let gone =
                    sqlx::query(assembled(sql)).bind(before.0).execute(write.conn()).await?.rows_affected();
                write.commit().await?;
                rows += i64::try_from(gone).unwrap_or(0);
            }
        }
        let old = sqlx::query("SELECT 1 FROM error_issues WHERE last_seen < $1 LIMIT 1")
            .bind(forget.0)
            .fetch_optional(self.0.read())
            .await?;
        if old.is_some() {
            let mut write = Write::begin(self.0).await?;
            sqlx::query(
                "DELETE FROM error_issues WHERE last_seen < $1
                 AND NOT EXISTS (SELECT 1 FROM error_events e WHERE e.issue_id = error_issues.id)",
            )
            .bind(forget.0)
            .execute(write.conn())
            .await?;
            write.commit().await?;
        }
        Ok((Pruned { rows, bytes: 0 }, gone))
    }

    /// Time and row of the newest event that is one too many, if there are more than `most`.
    async fn beyond(self, app: AppId, most: i64) -> Result<Option<(i64, i64)>> {
        // What ever came is cheap to know, and mostly it is not that much.
        let ever = sqlx::query(
            "SELECT CAST(COALESCE(SUM(events), 0) AS BIGINT) AS n FROM error_issues WHERE app_id = $1",
        )
        .bind(app.0)
        .fetch_one(self.0.read())
        .await?;
        if ever.try_get::<i64, _>("n")? <= most {
            return Ok(None);
        }
        let newest = sqlx::query(
            "SELECT at, id FROM error_events WHERE app_id = $1 ORDER BY at DESC, id DESC LIMIT 1 OFFSET $2",
        )
        .bind(app.0)
        .bind(most)
        .fetch_optional(self.0.read())
        .await?;
        newest.map(|row| Ok((row.try_get("at")?, row.try_get("id")?))).transpose()
    }

    /// Removes rows in pieces, so that others get their turn.
    async fn delete_rows(self, table: &str, which: &str, values: &[i64]) -> Result<i64> {
        let bound = |sql: String| values.iter().fold(sqlx::query(assembled(sql)), |q, value| q.bind(*value));
        let mut all = 0;
        loop {
            let found = bound(format!("SELECT id FROM {table} WHERE {which} LIMIT 1"));
            if found.fetch_optional(self.0.read()).await?.is_none() {
                return Ok(all);
            }
            let mut write = Write::begin(self.0).await?;
            let gone = bound(format!(
                "DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE {which} LIMIT {PIECE})"
            ));
            let gone = gone.execute(write.conn()).await?.rows_affected();
            write.commit().await?;
            all += i64::try_from(gone).unwrap_or(0);
        }
    }
}

/// How long and how many events an app keeps that has no rules of its own.
#[derive(Debug, Clone, Copy)]
pub struct ErrorsKept {
    /// Age at which they go.
    pub age: Duration,
    /// The newest so many stay.
    pub events: i64,
}

fn there(issue: &IssueRow, rows: u64) -> Result<()> {
    if rows == 0 { Err(StoreError::not_found("issue", issue.reference())) } else { Ok(()) }
}

async fn tell(
    write: &mut Write<'_>,
    by: &Principal,
    issue: &IssueRow,
    kind: &'static str,
    summary: String,
) -> Result<()> {
    let data = json!({ "issue": issue.reference().to_string() });
    let event = NewEvent { kind, by: by.name.clone(), app: Some(issue.app_id), summary, data };
    write.event(event).await.map(drop)
}

/// Ends issue `from`: what it has, and what it is grouped by, is that of `into` from now on. False if it is gone already.
pub(super) async fn join(write: &mut Write<'_>, from: i64, into: i64) -> Result<bool> {
    move_rows(write, from, into, None).await?;
    let gone = sqlx::query("DELETE FROM error_issues WHERE id = $1 RETURNING events, first_seen, last_seen")
        .bind(from)
        .fetch_optional(write.conn())
        .await?;
    let Some(gone) = gone else { return Ok(false) };
    // Added, not counted anew: of what is old only the counts are left.
    sqlx::query(
        "UPDATE error_issues SET events = events + $2,
             users = (SELECT COUNT(*) FROM error_users u WHERE u.issue_id = $1),
             first_seen = CASE WHEN first_seen < $3 THEN first_seen ELSE $3 END,
             last_seen = CASE WHEN last_seen > $4 THEN last_seen ELSE $4 END WHERE id = $1",
    )
    .bind(into)
    .bind(gone.try_get::<i64, _>("events")?)
    .bind(gone.try_get::<i64, _>("first_seen")?)
    .bind(gone.try_get::<i64, _>("last_seen")?)
    .execute(write.conn())
    .await?;
    Ok(true)
}

/// Moves groupings and events, all of an issue or those of a key.
async fn move_rows(write: &mut Write<'_>, from: i64, to: i64, key: Option<&str>) -> Result<()> {
    for table in ["error_groupings", "error_events"] {
        let (which, value) = match key {
            Some(key) => ("AND grouping_key = $3", key),
            None => ("AND $3 = ''", ""),
        };
        let sql = format!("UPDATE {table} SET issue_id = $2 WHERE issue_id = $1 {which}");
        sqlx::query(assembled(sql)).bind(from).bind(to).bind(value.to_owned()).execute(write.conn()).await?;
    }
    if key.is_none() {
        for (table, columns, key) in [
            ("error_hours", "environment_id, hour, events", "environment_id, hour"),
            ("error_issue_releases", "release_id, events", "release_id"),
            ("error_users", "user_key", "user_key"),
        ] {
            let add = match table {
                "error_users" => "NOTHING".to_owned(),
                _ => format!("UPDATE SET events = {table}.events + excluded.events"),
            };
            let sql = format!(
                "INSERT INTO {table} (issue_id, {columns}) SELECT $2, {columns} FROM {table} WHERE issue_id = $1
                 ON CONFLICT (issue_id, {key}) DO {add}"
            );
            sqlx::query(assembled(sql)).bind(from).bind(to).execute(write.conn()).await?;
        }
    }
    Ok(())
}

/// Counts what was set apart by its events, and takes that from the issue that it was part of.
async fn count_apart(write: &mut Write<'_>, old: i64, new: i64) -> Result<()> {
    sqlx::query(
        "INSERT INTO error_users (issue_id, user_key) SELECT DISTINCT issue_id, user_key FROM error_events
         WHERE issue_id = $1 AND user_key IS NOT NULL",
    )
    .bind(new)
    .execute(write.conn())
    .await?;
    sqlx::query(
        "INSERT INTO error_hours (issue_id, environment_id, hour, events)
         SELECT issue_id, environment_id, at / 3600000000 * 3600000000, COUNT(*) FROM error_events
         WHERE issue_id = $1 GROUP BY issue_id, environment_id, at / 3600000000",
    )
    .bind(new)
    .execute(write.conn())
    .await?;
    sqlx::query(
        "INSERT INTO error_issue_releases (issue_id, release_id, events)
         SELECT e.issue_id, e.release_id, COUNT(*) FROM error_events e JOIN error_releases r ON r.id = e.release_id
         WHERE e.issue_id = $1 GROUP BY e.issue_id, e.release_id",
    )
    .bind(new)
    .execute(write.conn())
    .await?;
    sqlx::query(
        "UPDATE error_issue_releases SET events = events - (SELECT n.events FROM error_issue_releases n
             WHERE n.issue_id = $2 AND n.release_id = error_issue_releases.release_id)
         WHERE issue_id = $1 AND release_id IN (SELECT n.release_id FROM error_issue_releases n WHERE n.issue_id = $2)",
    )
    .bind(old)
    .bind(new)
    .execute(write.conn())
    .await?;
    let hours = sqlx::query("SELECT environment_id, hour, events FROM error_hours WHERE issue_id = $1")
        .bind(new)
        .fetch_all(write.conn())
        .await?;
    let mut moved = 0;
    for row in hours {
        let events: i64 = row.try_get("events")?;
        moved += events;
        sqlx::query("UPDATE error_hours SET events = events - $4 WHERE issue_id = $1 AND environment_id = $2 AND hour = $3")
            .bind(old)
            .bind(row.try_get::<i64, _>("environment_id")?)
            .bind(row.try_get::<i64, _>("hour")?)
            .bind(events)
            .execute(write.conn())
            .await?;
    }
    for table in ["error_hours", "error_issue_releases"] {
        sqlx::query(assembled(format!("DELETE FROM {table} WHERE issue_id = $1 AND events <= 0")))
            .bind(old)
            .execute(write.conn())
            .await?;
    }
    for (issue, by) in [(old, -moved), (new, moved)] {
        sqlx::query(
            "UPDATE error_issues SET events = events + $2,
                 users = (SELECT COUNT(*) FROM error_users u WHERE u.issue_id = $1),
                 last_seen = COALESCE((SELECT MAX(at) FROM error_events e WHERE e.issue_id = $1), last_seen)
             WHERE id = $1",
        )
        .bind(issue)
        .bind(by)
        .execute(write.conn())
        .await?;
    }
    sqlx::query("UPDATE error_issues SET first_seen = (SELECT MIN(at) FROM error_events e WHERE e.issue_id = $1) WHERE id = $1")
        .bind(new)
        .execute(write.conn())
        .await?;
    Ok(())
}
