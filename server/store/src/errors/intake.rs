//! What was accepted and waits to be digested.

use std::borrow::Cow;

use berth_schemas::Timestamp;
use sqlx::{Row, any::AnyRow};

use super::{Errors, ItemKind, PackedItem, compress, inflate};
use crate::{
    database::{assembled, pieces, placeholders, storable},
    error::{Result, StoreError},
    model::{AppId, EnvironmentId},
    row::{self, to_json},
    write::Write,
};

/// Most compressed bytes that are read at a time, if it is more than one item.
const MAX_WAITING: i64 = 16 << 20;
/// Microseconds in an hour.
pub(super) const HOUR: i64 = 3_600_000_000;

/// What one request brought.
#[derive(Debug, Clone, PartialEq)]
pub struct NewIntake {
    /// Its app.
    pub app: AppId,
    /// Its environment.
    pub environment: EnvironmentId,
    /// When it came.
    pub received_at: Timestamp,
    /// What is kept.
    pub items: Vec<PackedItem>,
    /// What is not: category, reason, count.
    pub dropped: Vec<(String, String, i64)>,
}

/// An item that waits.
#[derive(Debug, Clone, PartialEq)]
pub struct IntakeRow {
    /// Row id.
    pub id: i64,
    /// Its app.
    pub app: AppId,
    /// Its environment.
    pub environment: EnvironmentId,
    /// When it came.
    pub received_at: Timestamp,
    /// What it is.
    pub kind: ItemKind,
    /// The event that it is or belongs to.
    pub event_id: Option<String>,
    /// Name of an attachment.
    pub name: Option<String>,
    /// Its bytes, compressed.
    pub body: Vec<u8>,
}

impl IntakeRow {
    /// Its bytes.
    ///
    /// # Errors
    /// When they are damaged.
    pub fn inflated(&self) -> Result<Vec<u8>> {
        inflate("intake", &self.body)
    }
}

impl Errors<'_> {
    /// Makes what requests brought durable, in one transaction.
    ///
    /// # Errors
    /// When the file cannot be written; nothing is kept then.
    pub async fn accept(self, requests: &[NewIntake]) -> Result<()> {
        let mut rows = Vec::new();
        for request in requests {
            rows.extend(request.items.iter().map(|item| (request, Cow::Borrowed(item))));
            for drop in &request.dropped {
                let body = compress(&to_json("intake", "body", drop)?.into_bytes())?;
                let item = PackedItem { kind: ItemKind::Dropped, event_id: None, name: None, body };
                rows.push((request, Cow::Owned(item)));
            }
        }
        let mut tx = self.0.database.intake.writer.begin_with("BEGIN IMMEDIATE").await?;
        for chunk in pieces(&rows) {
            let sql = format!(
                "INSERT INTO intake (environment_id, app_id, received_at, kind, event_id, name, body) VALUES {}",
                placeholders(chunk.len(), 7)
            );
            let mut query = sqlx::query(assembled(sql));
            for (request, item) in chunk {
                query = query
                    .bind(request.environment.0)
                    .bind(request.app.0)
                    .bind(request.received_at.0)
                    .bind(item.kind.as_str())
                    .bind(item.event_id.clone())
                    .bind(item.name.as_deref().map(|n| storable(n, 200)))
                    .bind(item.body.clone());
            }
            query.execute(&mut *tx).await?;
        }
        Ok(tx.commit().await?)
    }

    /// The oldest items that wait, or those after the row `after`; at most `limit`, and not many megabytes of them.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn waiting(self, after: Option<i64>, limit: i64) -> Result<Vec<IntakeRow>> {
        let intake = &self.0.database.intake;
        let after = after.unwrap_or_else(|| intake.done());
        let sizes =
            sqlx::query("SELECT id, LENGTH(body) AS bytes FROM intake WHERE id > $1 ORDER BY id LIMIT $2")
                .bind(after)
                .bind(limit)
                .fetch_all(&intake.readers)
                .await?;
        let (mut last, mut all) = (None, 0);
        for row in &sizes {
            all += row.try_get::<i64, _>("bytes")?;
            // One is always taken, however large.
            if last.is_some() && all > MAX_WAITING {
                break;
            }
            last = Some(row.try_get::<i64, _>("id")?);
        }
        let Some(last) = last else { return Ok(Vec::new()) };
        let rows = sqlx::query(
            "SELECT id, environment_id, app_id, received_at, kind, event_id, name, body FROM intake
             WHERE id > $1 AND id <= $2 ORDER BY id",
        )
        .bind(after)
        .bind(last)
        .fetch_all(&intake.readers)
        .await?;
        rows.iter().map(from_row).collect()
    }

    /// How many items wait; at most so many, as numbers may be missing.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn backlog(self) -> Result<i64> {
        // By their numbers: counting rows would read all of them.
        Ok((self.newest_accepted().await? - self.digested_to()).max(0))
    }

    /// The row of the newest item that was accepted; 0 if there is none that waits.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn newest_accepted(self) -> Result<i64> {
        let row = sqlx::query("SELECT COALESCE(MAX(id), 0) AS newest FROM intake")
            .fetch_one(&self.0.database.intake.readers)
            .await?;
        Ok(row.try_get("newest")?)
    }

    /// The row up to which what was accepted has been digested.
    #[must_use]
    pub fn digested_to(self) -> i64 {
        self.0.database.intake.done()
    }

    /// What was accepted (reason "") and dropped in an environment since a time: category, reason, count.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn counts(
        self,
        environment: EnvironmentId,
        since: Timestamp,
    ) -> Result<Vec<(String, String, i64)>> {
        let rows = sqlx::query(
            "SELECT category, reason, CAST(SUM(count) AS BIGINT) AS n FROM error_counts
             WHERE environment_id = $1 AND hour >= $2 GROUP BY category, reason ORDER BY category, reason",
        )
        .bind(environment.0)
        .bind(since.0 / HOUR * HOUR)
        .fetch_all(self.0.read())
        .await?;
        rows.iter().map(|r| Ok((r.try_get("category")?, r.try_get("reason")?, r.try_get("n")?))).collect()
    }
}

/// Notes that the rows `from..=through` were read, in the transaction that keeps what they hold; false if they were
/// before.
pub(super) async fn note_done(write: &mut Write<'_>, from: i64, through: i64) -> Result<bool> {
    let noted = sqlx::query("UPDATE error_intake_done SET through = $2 WHERE id = 1 AND through < $1")
        .bind(from)
        .bind(through)
        .execute(write.conn())
        .await?;
    Ok(noted.rows_affected() > 0)
}

/// Counts what was dropped before it came to be kept.
pub(super) async fn count_dropped(write: &mut Write<'_>, row: &IntakeRow) -> Result<()> {
    let told: (String, String, i64) = serde_json::from_slice(&row.inflated()?)
        .map_err(|e| StoreError::corrupt("intake", "body", &e.to_string()))?;
    count_up(write, row.environment, row.received_at, &told.0, &told.1, told.2).await
}

/// Adds to a count of what was accepted or dropped.
pub(super) async fn count_up(
    write: &mut Write<'_>,
    environment: EnvironmentId,
    at: Timestamp,
    category: &str,
    reason: &str,
    count: i64,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO error_counts (environment_id, hour, category, reason, count) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (environment_id, hour, category, reason)
         DO UPDATE SET count = error_counts.count + excluded.count",
    )
    .bind(environment.0)
    .bind(at.0 / HOUR * HOUR)
    .bind(storable(category, 40))
    .bind(storable(reason, 60))
    .bind(count)
    .execute(write.conn())
    .await?;
    Ok(())
}

fn from_row(r: &AnyRow) -> Result<IntakeRow> {
    Ok(IntakeRow {
        id: r.try_get("id")?,
        app: AppId(r.try_get("app_id")?),
        environment: EnvironmentId(r.try_get("environment_id")?),
        received_at: row::time(r, "received_at")?,
        kind: row::word(r, "intake", "kind", ItemKind::parse)?,
        event_id: r.try_get("event_id")?,
        name: r.try_get("name")?,
        body: r.try_get("body")?,
    })
}
