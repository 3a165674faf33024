//! What forges are to be told: one row per thing that is told about, with the newest that is to be said of it.

use berth_schemas::{Problem, Timestamp, Untrusted, event::Event};
use sqlx::{Row, any::AnyRow};

use crate::{
    database::escape_like,
    error::Result,
    model::{AppId, EventRow, ProjectId},
    row,
    store::Inner,
    write::Write,
};

/// Reports kept per repository; the oldest that were sent go first.
const KEPT: i64 = 1000;

/// A report that is due.
#[derive(Debug, Clone, PartialEq)]
pub struct ReportRow {
    /// Row id.
    pub id: i64,
    /// The repository.
    pub repository_id: String,
    /// What it is about.
    pub subject: String,
    /// What is to be said, as JSON of the forge crate.
    pub body: String,
    /// Which of what was to be said about it this is.
    pub wanted: i64,
    /// What the forge calls what was made for it.
    pub remote: Option<String>,
    /// Tries in vain.
    pub attempts: i64,
}

/// Reports of a [`crate::Store`].
#[derive(Clone, Copy)]
pub struct ForgeReports<'a>(pub(crate) &'a Inner);

impl ForgeReports<'_> {
    /// The events after a cursor whose kind begins with `kind`, oldest first, and the event up to which all were
    /// looked at. A new cursor begins at the end of the log.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn events(self, cursor: &str, kind: &str, limit: i64) -> Result<(Vec<EventRow>, i64)> {
        let newest: i64 = sqlx::query("SELECT COALESCE(MAX(id), 0) AS newest FROM events")
            .fetch_one(self.0.read())
            .await?
            .try_get("newest")?;
        let at = sqlx::query("SELECT event FROM event_cursors WHERE name = $1")
            .bind(cursor.to_owned())
            .fetch_optional(self.0.read())
            .await?;
        let Some(at) = at else { return Ok((Vec::new(), newest)) };
        let at: i64 = at.try_get("event")?;
        let rows = sqlx::query(
            "SELECT id, at, kind, caused_by, app_id, app, project_id, summary, data FROM events
             WHERE id > $1 AND id <= $2 AND kind LIKE $3 ESCAPE '\\' ORDER BY id LIMIT $4",
        )
        .bind(at)
        .bind(newest)
        .bind(format!("{}%", escape_like(kind)))
        .bind(limit)
        .fetch_all(self.0.read())
        .await?;
        let events: Vec<EventRow> = rows.iter().map(event).collect::<Result<_>>()?;
        let full = i64::try_from(events.len()).unwrap_or(0) >= limit;
        let upto = events.last().filter(|_| full).map_or(newest, |last| last.event.id);
        Ok((events, upto))
    }

    /// Keeps what is to be told (repository, subject, body) and how far the log was read for it, in one write.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn want(self, cursor: &str, upto: i64, wanted: Vec<(String, String, String)>) -> Result<()> {
        let known = sqlx::query("SELECT event FROM event_cursors WHERE name = $1 AND event >= $2")
            .bind(cursor.to_owned())
            .bind(upto)
            .fetch_optional(self.0.read())
            .await?;
        if wanted.is_empty() && known.is_some() {
            return Ok(());
        }
        let mut write = Write::begin(self.0).await?;
        for (repository, subject, body) in wanted {
            sqlx::query(
                "INSERT INTO forge_reports (repository_id, subject, body, wanted, try_at)
                 SELECT id, $2, $3, 1, $4 FROM repositories WHERE id = $1
                 ON CONFLICT (repository_id, subject) DO UPDATE SET body = excluded.body,
                     wanted = forge_reports.wanted + 1, attempts = 0, try_at = excluded.try_at",
            )
            .bind(repository.clone())
            .bind(subject)
            .bind(body)
            .bind(write.now.0)
            .execute(write.conn())
            .await?;
            sqlx::query(
                "DELETE FROM forge_reports WHERE repository_id = $1 AND sent >= wanted AND id <
                     (SELECT MIN(id) FROM (SELECT id FROM forge_reports WHERE repository_id = $1
                      ORDER BY id DESC LIMIT $2) AS kept)",
            )
            .bind(repository)
            .bind(KEPT)
            .execute(write.conn())
            .await?;
        }
        advance(&mut write, cursor, upto).await?;
        write.commit().await
    }

    /// What is to be sent now, in the order in which it became so.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn due(self, now: Timestamp, limit: i64) -> Result<Vec<ReportRow>> {
        let rows = sqlx::query(
            "SELECT id, repository_id, subject, body, wanted, remote, attempts FROM forge_reports
             WHERE sent < wanted AND try_at <= $1 ORDER BY try_at, id LIMIT $2",
        )
        .bind(now.0)
        .bind(limit)
        .fetch_all(self.0.read())
        .await?;
        rows.iter()
            .map(|r| {
                Ok(ReportRow {
                    id: r.try_get("id")?,
                    repository_id: r.try_get("repository_id")?,
                    subject: r.try_get("subject")?,
                    body: r.try_get("body")?,
                    wanted: r.try_get("wanted")?,
                    remote: r.try_get("remote")?,
                    attempts: r.try_get("attempts")?,
                })
            })
            .collect()
    }

    /// Notes that a report arrived. What became wanted meanwhile is still due.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sent(self, report: &ReportRow, remote: Option<&str>) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        sqlx::query(
            "UPDATE forge_reports SET sent = $1, attempts = 0, remote = COALESCE($2, remote) WHERE id = $3",
        )
        .bind(report.wanted)
        .bind(remote.map(str::to_owned))
        .bind(report.id)
        .execute(write.conn())
        .await?;
        sqlx::query("UPDATE repositories SET report_problem = NULL WHERE id = $1")
            .bind(report.repository_id.clone())
            .execute(write.conn())
            .await?;
        write.commit().await
    }

    /// Notes what the forge calls what was made for a report that has not arrived in full.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note_remote(self, report: &ReportRow, remote: &str) -> Result<()> {
        if report.remote.as_deref() == Some(remote) {
            return Ok(());
        }
        let mut write = Write::begin(self.0).await?;
        sqlx::query("UPDATE forge_reports SET remote = $1 WHERE id = $2")
            .bind(remote.to_owned())
            .bind(report.id)
            .execute(write.conn())
            .await?;
        write.commit().await
    }

    /// Notes that a report did not arrive, and when it is tried again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn put_off(self, report: &ReportRow, at: Timestamp, problem: &Problem) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        sqlx::query(
            "UPDATE forge_reports SET attempts = attempts + 1, try_at = $1 WHERE id = $2 AND wanted = $3",
        )
        .bind(at.0)
        .bind(report.id)
        .bind(report.wanted)
        .execute(write.conn())
        .await?;
        failed(&mut write, report, problem).await?;
        write.commit().await
    }

    /// Notes that a report is not tried again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn given_up(self, report: &ReportRow, problem: &Problem) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        sqlx::query("UPDATE forge_reports SET sent = $1 WHERE id = $2")
            .bind(report.wanted)
            .bind(report.id)
            .execute(write.conn())
            .await?;
        failed(&mut write, report, problem).await?;
        write.commit().await
    }
}

async fn failed(write: &mut Write<'_>, report: &ReportRow, problem: &Problem) -> Result<()> {
    sqlx::query("UPDATE repositories SET report_problem = $1 WHERE id = $2")
        .bind(row::to_json("repositories", "report_problem", problem)?)
        .bind(report.repository_id.clone())
        .execute(write.conn())
        .await?;
    Ok(())
}

/// Notes how far the event log was read under a cursor's name.
pub(crate) async fn advance(write: &mut Write<'_>, cursor: &str, event: i64) -> Result<()> {
    sqlx::query(
        "INSERT INTO event_cursors (name, event) VALUES ($1, $2)
         ON CONFLICT (name) DO UPDATE SET event = excluded.event",
    )
    .bind(cursor.to_owned())
    .bind(event)
    .execute(write.conn())
    .await?;
    Ok(())
}

fn event(r: &AnyRow) -> Result<EventRow> {
    let app: Option<String> = r.try_get("app")?;
    Ok(EventRow {
        event: Event {
            id: r.try_get("id")?,
            at: row::time(r, "at")?,
            kind: r.try_get("kind")?,
            by: r.try_get("caused_by")?,
            app: app.and_then(|a| a.parse().ok()),
            summary: Untrusted(r.try_get("summary")?),
            data: row::json(r, "events", "data")?,
        },
        app_id: r.try_get::<Option<i64>, _>("app_id")?.map(AppId),
        project_id: r.try_get::<Option<i64>, _>("project_id")?.map(ProjectId),
    })
}
