//! Removing what belongs to one person, in pieces: what is looked through, and what goes.

use std::collections::{BTreeMap, BTreeSet};

use berth_schemas::Timestamp;
use serde_json::json;
use sqlx::{Row, any::AnyRow};

use super::{
    ErrorEventRow, Errors, ItemKind, TelemetryRow, compress, inflate,
    intake::HOUR,
    query::{EVENT, event_row},
    telemetry::telemetry_row,
    title::take_away,
};
use crate::{
    database::{assembled, pieces, placeholders, storable},
    error::Result,
    model::{AppId, NewEvent},
    write::Write,
};

/// How far an app's rows were looked through: they are taken by their time, and of the same time by their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LookedTo(pub Timestamp, pub i64);

impl LookedTo {
    /// Before all rows.
    pub const NOTHING: Self = Self(Timestamp(-1), 0);
}

impl ItemKind {
    /// Whether it is the head of an envelope, whose other items belong to whom it belongs to.
    fn leads(self) -> bool {
        matches!(self, Self::Transaction | Self::ReplayEvent)
    }
}

/// Names by which one person is known in counts and feedback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersonNames {
    /// What was given: an id, an e-mail address, a name, an address on the network.
    pub said: String,
}

impl PersonNames {
    /// What [`crate::DigestedEvent::user_key`] may be, where it is what was given.
    fn keys(&self) -> [String; 2] {
        ["id", "username"].map(|kind| storable(&format!("{kind}:{}", self.said), 250))
    }

    /// The same for kinds of names in which capitals mean nothing, in lower case.
    fn loose_keys(&self) -> [String; 2] {
        ["email", "ip"].map(|kind| storable(&format!("{kind}:{}", self.said.to_ascii_lowercase()), 250))
    }
}

/// An event that went.
struct Gone {
    issue: i64,
    environment: i64,
    hour: i64,
    event_id: String,
    release: Option<i64>,
    user: Option<String>,
}

impl Errors<'_> {
    /// Events of an app with their bodies, from after `after` on.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn look_through(self, app: AppId, after: LookedTo, limit: i64) -> Result<Vec<ErrorEventRow>> {
        let sql = format!(
            "SELECT {EVENT} FROM error_events WHERE app_id = $1 AND at >= $2 AND (at > $2 OR id > $3)
             ORDER BY at, id LIMIT $4"
        );
        let query = sqlx::query(assembled(sql)).bind(app.0).bind(after.0.0).bind(after.1).bind(limit);
        query.fetch_all(self.0.read()).await?.iter().map(event_row).collect()
    }

    /// Those of these events that an app has, with their bodies.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn events_named(self, app: AppId, ids: &[String]) -> Result<Vec<ErrorEventRow>> {
        let mut found = Vec::new();
        for chunk in pieces(ids) {
            let sql = format!(
                "SELECT {EVENT} FROM error_events WHERE event_id IN {} AND app_id = ${}",
                placeholders(1, chunk.len()),
                chunk.len() + 1
            );
            let query = chunk.iter().fold(sqlx::query(assembled(sql)), |q, id| q.bind(id.clone()));
            for row in query.bind(app.0).fetch_all(self.0.read()).await? {
                found.push(event_row(&row)?);
            }
        }
        Ok(found)
    }

    /// What came beside an app's events, from after `after` on.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn look_beside(self, app: AppId, after: LookedTo, limit: i64) -> Result<Vec<TelemetryRow>> {
        let rows = sqlx::query(
            "SELECT id, at, kind, event_id FROM telemetry WHERE app_id = $1 AND at >= $2 AND (at > $2 OR id > $3)
             ORDER BY at, id LIMIT $4",
        )
        .bind(app.0)
        .bind(after.0.0)
        .bind(after.1)
        .bind(limit)
        .fetch_all(self.0.read())
        .await?;
        let mut found = rows.iter().map(telemetry_row).collect::<Result<Vec<_>>>()?;
        let wanted: Vec<i64> = found.iter().filter(|row| row.kind.is_json()).map(|row| row.id).collect();
        let mut bodies = BTreeMap::new();
        for chunk in pieces(&wanted) {
            let sql = format!("SELECT id, body FROM telemetry WHERE id IN {}", placeholders(1, chunk.len()));
            let query = chunk.iter().fold(sqlx::query(assembled(sql)), |q, id| q.bind(*id));
            for row in query.fetch_all(self.0.read()).await? {
                let body: Vec<u8> = row.try_get("body")?;
                bodies.insert(row.try_get::<i64, _>("id")?, inflate("telemetry", &body)?);
            }
        }
        for row in &mut found {
            row.body = bodies.remove(&row.id);
        }
        Ok(found)
    }

    /// How many messages of feedback somebody wrote under one of his names.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn feedback_of(self, app: AppId, person: &PersonNames) -> Result<i64> {
        let row = sqlx::query(
            "SELECT COUNT(*) AS n FROM error_feedback WHERE app_id = $1 AND (LOWER(email) = $2 OR name = $3)",
        )
        .bind(app.0)
        .bind(person.said.to_ascii_lowercase())
        .bind(person.said.clone())
        .fetch_one(self.0.read())
        .await?;
        Ok(row.try_get("n")?)
    }

    /// Removes events of an app with their files and the feedback on them, and takes them out of all counts; how many
    /// went. An issue that nothing is left of goes, too; others lose their title until [`Errors::entitle`] gives one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn erase_events(self, app: AppId, rows: &[i64]) -> Result<usize> {
        let mut write = Write::begin(self.0).await?;
        let mut all = Vec::new();
        for chunk in pieces(rows) {
            let sql = format!(
                "DELETE FROM error_events WHERE id IN {} AND app_id = ${}
                 RETURNING issue_id, environment_id, at, event_id, release_id, user_key",
                placeholders(1, chunk.len()),
                chunk.len() + 1
            );
            let query = chunk.iter().fold(sqlx::query(assembled(sql)), |q, id| q.bind(*id));
            for row in query.bind(app.0).fetch_all(write.conn()).await? {
                all.push(gone(&row)?);
            }
        }
        let ids: Vec<String> = all.iter().map(|gone| gone.event_id.clone()).collect();
        for table in ["error_attachments", "error_feedback"] {
            remove_with(&mut write, table, app, &ids).await?;
        }
        uncount(&mut write, &all).await?;
        let users = all.iter().filter_map(|gone| Some((gone.issue, gone.user.clone()?)));
        forget_users(&mut write, app, ("error_users", "issue_id"), users.collect()).await?;
        let users = all.iter().filter_map(|gone| Some((gone.release?, gone.user.clone()?)));
        forget_users(&mut write, app, ("error_release_users", "release_id"), users.collect()).await?;
        recount(&mut write, all.iter().map(|gone| gone.issue).collect()).await?;
        write.commit().await?;
        Ok(all.len())
    }

    /// Removes items that came beside events, with what came in the same envelope as those that lead one; of `changed`
    /// ones only a part went.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn erase_beside(
        self,
        app: AppId,
        gone: &[TelemetryRow],
        changed: &[(i64, Vec<u8>)],
    ) -> Result<()> {
        let changed: Vec<(i64, Vec<u8>)> =
            changed.iter().map(|(id, body)| Ok((*id, compress(body)?))).collect::<Result<_>>()?;
        let mut write = Write::begin(self.0).await?;
        let mut led = Vec::new();
        for row in gone {
            let of = sqlx::query("DELETE FROM telemetry WHERE id = $1 AND app_id = $2").bind(row.id);
            of.bind(app.0).execute(write.conn()).await?;
            let Some(event) = row.event_id.as_ref().filter(|_| row.kind.leads()) else { continue };
            sqlx::query("DELETE FROM telemetry WHERE app_id = $1 AND at = $2 AND event_id = $3")
                .bind(app.0)
                .bind(row.at.0)
                .bind(event.clone())
                .execute(write.conn())
                .await?;
            led.push(event.clone());
        }
        remove_with(&mut write, "error_attachments", app, &led).await?;
        for (id, body) in changed {
            let of = sqlx::query("UPDATE telemetry SET body = $3 WHERE id = $1 AND app_id = $2").bind(id);
            of.bind(app.0).bind(body).execute(write.conn()).await?;
        }
        write.commit().await
    }

    /// Removes what names somebody without an event: feedback, and counts that outlived their events, with the titles of
    /// their issues. Says in the event log that it is done; how many messages of feedback went.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn erase_names(self, by: &str, app: AppId, person: &PersonNames, events: i64) -> Result<i64> {
        let users = self.counted_as(app, "error_users", "issue_id", "error_issues", person).await?;
        let of_releases =
            self.counted_as(app, "error_release_users", "release_id", "error_releases", person).await?;
        let mut write = Write::begin(self.0).await?;
        let feedback = sqlx::query(
            "DELETE FROM error_feedback WHERE app_id = $1 AND (LOWER(email) = $2 OR name = $3) RETURNING own_id",
        )
        .bind(app.0)
        .bind(person.said.to_ascii_lowercase())
        .bind(person.said.clone())
        .fetch_all(write.conn())
        .await?;
        let files = feedback.iter().map(|r| Ok(r.try_get::<Option<String>, _>("own_id")?));
        let files: Vec<String> = files.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        remove_with(&mut write, "error_attachments", app, &files).await?;
        let issues = users.iter().map(|(issue, _)| *issue).collect();
        forget_users(&mut write, app, ("error_users", "issue_id"), users).await?;
        forget_users(&mut write, app, ("error_release_users", "release_id"), of_releases).await?;
        recount(&mut write, issues).await?;
        let event = NewEvent {
            kind: "error.user_deleted",
            by: by.to_owned(),
            app: Some(app),
            summary: format!("the {events} events of a user were deleted"),
            data: json!({ "events": events }),
        };
        write.event(event).await?;
        write.commit().await?;
        Ok(i64::try_from(feedback.len()).unwrap_or(0))
    }

    /// Where somebody is counted under a name that was given.
    async fn counted_as(
        self,
        app: AppId,
        table: &'static str,
        of: &'static str,
        whose: &'static str,
        person: &PersonNames,
    ) -> Result<BTreeSet<(i64, String)>> {
        let sql = format!(
            "SELECT {of} AS counted, user_key FROM {table} WHERE {of} IN (SELECT id FROM {whose} WHERE app_id = $1)
             AND (user_key IN ($2, $3) OR LOWER(user_key) IN ($4, $5))"
        );
        let [id, username] = person.keys();
        let [email, ip] = person.loose_keys();
        let query = sqlx::query(assembled(sql)).bind(app.0).bind(id).bind(username).bind(email).bind(ip);
        let rows = query.fetch_all(self.0.read()).await?;
        rows.iter().map(|r| Ok((r.try_get("counted")?, r.try_get("user_key")?))).collect()
    }
}

fn gone(r: &AnyRow) -> Result<Gone> {
    Ok(Gone {
        issue: r.try_get("issue_id")?,
        environment: r.try_get("environment_id")?,
        hour: r.try_get::<i64, _>("at")? / HOUR * HOUR,
        event_id: r.try_get("event_id")?,
        release: r.try_get("release_id")?,
        user: r.try_get("user_key")?,
    })
}

/// Removes what belongs to events.
pub(super) async fn remove_with(
    write: &mut Write<'_>,
    table: &'static str,
    app: AppId,
    ids: &[String],
) -> Result<()> {
    for chunk in pieces(ids) {
        let sql = format!(
            "DELETE FROM {table} WHERE event_id IN {} AND app_id = ${}",
            placeholders(1, chunk.len()),
            chunk.len() + 1
        );
        let query = chunk.iter().fold(sqlx::query(assembled(sql)), |q, id| q.bind(id.clone()));
        query.bind(app.0).execute(write.conn()).await?;
    }
    Ok(())
}

/// Takes events out of the sums by hour and release, and of their issues'.
async fn uncount(write: &mut Write<'_>, all: &[Gone]) -> Result<()> {
    let mut hours: BTreeMap<(i64, i64, i64), i64> = BTreeMap::new();
    let mut releases: BTreeMap<(i64, i64), i64> = BTreeMap::new();
    let mut issues: BTreeMap<i64, i64> = BTreeMap::new();
    for gone in all {
        *hours.entry((gone.issue, gone.environment, gone.hour)).or_default() += 1;
        *issues.entry(gone.issue).or_default() += 1;
        if let Some(release) = gone.release {
            *releases.entry((gone.issue, release)).or_default() += 1;
        }
    }
    for ((issue, environment, hour), count) in hours {
        sqlx::query("UPDATE error_hours SET events = events - $4 WHERE issue_id = $1 AND environment_id = $2 AND hour = $3")
            .bind(issue)
            .bind(environment)
            .bind(hour)
            .bind(count)
            .execute(write.conn())
            .await?;
    }
    for ((issue, release), count) in releases {
        sqlx::query(
            "UPDATE error_issue_releases SET events = events - $3 WHERE issue_id = $1 AND release_id = $2",
        )
        .bind(issue)
        .bind(release)
        .bind(count)
        .execute(write.conn())
        .await?;
    }
    for (issue, count) in issues {
        for table in ["error_hours", "error_issue_releases"] {
            sqlx::query(assembled(format!("DELETE FROM {table} WHERE issue_id = $1 AND events <= 0")))
                .bind(issue)
                .execute(write.conn())
                .await?;
        }
        sqlx::query(
            "UPDATE error_issues SET events = CASE WHEN events > $2 THEN events - $2 ELSE 0 END WHERE id = $1",
        )
        .bind(issue)
        .bind(count)
        .execute(write.conn())
        .await?;
    }
    Ok(())
}

/// Forgets that a user had an issue, or errors in a release, unless another event still says so.
async fn forget_users(
    write: &mut Write<'_>,
    app: AppId,
    (table, of): (&'static str, &'static str),
    users: BTreeSet<(i64, String)>,
) -> Result<()> {
    let sql = format!(
        "DELETE FROM {table} WHERE {of} = $1 AND user_key = $2 AND NOT EXISTS
             (SELECT 1 FROM error_events e WHERE e.app_id = $3 AND e.user_key = $2 AND e.{of} = $1)"
    );
    for (id, user) in users {
        let query = sqlx::query(assembled(sql.clone())).bind(id).bind(user).bind(app.0);
        query.execute(write.conn()).await?;
    }
    Ok(())
}

/// Counts the users of issues anew, and removes those that nothing is left of. The others are called otherwise, as their
/// title may be of what went.
async fn recount(write: &mut Write<'_>, issues: BTreeSet<i64>) -> Result<()> {
    for issue in issues {
        take_away(write, issue).await?;
        sqlx::query(
            "UPDATE error_issues SET users = (SELECT COUNT(*) FROM error_users u WHERE u.issue_id = $1) WHERE id = $1",
        )
        .bind(issue)
        .execute(write.conn())
        .await?;
        sqlx::query(
            "DELETE FROM error_issues WHERE id = $1 AND events = 0
             AND NOT EXISTS (SELECT 1 FROM error_events e WHERE e.issue_id = $1)",
        )
        .bind(issue)
        .execute(write.conn())
        .await?;
    }
    Ok(())
}
