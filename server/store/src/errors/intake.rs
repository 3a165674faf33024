//! What was accepted and waits to be digested.

use berth_schemas::Timestamp;
use sqlx::{Row, any::AnyRow};

use super::{Errors, ItemKind, PackedItem, inflate};
use crate::{
    database::{assembled, placeholders, storable},
    error::Result,
    model::{AppId, EnvironmentId},
    row,
    write::Write,
};

/// Rows of one INSERT.
const CHUNK: usize = 100;
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
        inflate("error_intake", &self.body)
    }
}

impl Errors<'_> {
    /// Makes what requests brought durable, in one transaction.
    ///
    /// # Errors
    /// When the database fails; nothing is kept then.
    pub async fn accept(self, requests: &[NewIntake]) -> Result<()> {
        let rows: Vec<_> = requests
            .iter()
            .flat_map(|request| request.items.iter().map(move |item| (request, item)))
            .collect();
        let mut write = Write::begin(self.0).await?;
        for chunk in rows.chunks(CHUNK) {
            let sql = format!(
                "INSERT INTO error_intake (environment_id, app_id, received_at, kind, event_id, name, body) VALUES {}",
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
            query.execute(write.conn()).await?;
        }
        for request in requests {
            for (category, reason, count) in &request.dropped {
                count_up(&mut write, request.environment, request.received_at, category, reason, *count)
                    .await?;
            }
        }
        write.commit().await
    }

    /// The oldest items that wait, at most `limit`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn waiting(self, limit: i64) -> Result<Vec<IntakeRow>> {
        let rows = sqlx::query(
            "SELECT id, environment_id, app_id, received_at, kind, event_id, name, body FROM error_intake
             ORDER BY id LIMIT $1",
        )
        .bind(limit)
        .fetch_all(self.0.read())
        .await?;
        rows.iter().map(from_row).collect()
    }

    /// How many items wait.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn backlog(self) -> Result<i64> {
        let row = sqlx::query("SELECT COUNT(*) AS n FROM error_intake").fetch_one(self.0.read()).await?;
        Ok(row.try_get("n")?)
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
        kind: row::word(r, "error_intake", "kind", ItemKind::parse)?,
        event_id: r.try_get("event_id")?,
        name: r.try_get("name")?,
        body: r.try_get("body")?,
    })
}
