//! What came beside events and is kept as it came.

use berth_schemas::{EnvironmentName, Timestamp, issue::TelemetryKind};
use sqlx::{Row, any::AnyRow};

use super::{Errors, ItemKind, inflate};
use crate::{
    database::assembled,
    error::Result,
    model::{AppId, EnvironmentId},
    row,
};

/// What came beside events and is kept as it came: a session, spans, logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TelemetryRow {
    /// Row id.
    pub id: i64,
    /// When it came.
    pub at: Timestamp,
    /// What it is.
    pub kind: ItemKind,
    /// The event that it is or came with.
    pub event_id: Option<String>,
    /// Its JSON; none of what is no JSON.
    pub body: Option<Vec<u8>>,
}

/// Which of it is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TelemetryQuery {
    /// Of which app.
    pub app: AppId,
    /// Of one environment, or of all.
    pub environment: Option<EnvironmentId>,
    /// What.
    pub kind: TelemetryKind,
    /// Not before,
    pub since: Option<Timestamp>,
    /// and not after.
    pub until: Option<Timestamp>,
    /// Rows below this one.
    pub before: Option<i64>,
    /// At most so many.
    pub limit: i64,
}

/// Some of it, for somebody who looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TelemetryFound {
    /// The row.
    pub row: TelemetryRow,
    /// Its environment.
    pub environment: EnvironmentName,
    /// Its size as it is kept, in bytes.
    pub bytes: i64,
}

impl ItemKind {
    /// Whether its body is JSON.
    pub(super) fn is_json(self) -> bool {
        !matches!(self, Self::Attachment | Self::ReplayRecording | Self::Profile | Self::Dropped)
    }
}

impl From<TelemetryKind> for ItemKind {
    fn from(kind: TelemetryKind) -> Self {
        match kind {
            TelemetryKind::Logs => Self::Logs,
            TelemetryKind::Transaction => Self::Transaction,
            TelemetryKind::Spans => Self::Spans,
            TelemetryKind::Metrics => Self::Metrics,
            TelemetryKind::CheckIn => Self::CheckIn,
            TelemetryKind::Session => Self::Session,
            TelemetryKind::ReplayEvent => Self::ReplayEvent,
            TelemetryKind::ReplayRecording => Self::ReplayRecording,
            TelemetryKind::Profile => Self::Profile,
        }
    }
}

impl Errors<'_> {
    /// What came beside events, the newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list_telemetry(self, query: &TelemetryQuery) -> Result<Vec<TelemetryFound>> {
        let kind = ItemKind::from(query.kind);
        let body = if kind.is_json() { ", t.body" } else { "" };
        let environment = query.environment.map_or("1 = 1".into(), |e| format!("t.environment_id = {}", e.0));
        let sql = format!(
            "SELECT t.id, t.at, t.kind, t.event_id, CAST(LENGTH(t.body) AS BIGINT) AS bytes,
                 e.name AS environment{body}
             FROM telemetry t JOIN environments e ON e.id = t.environment_id
             WHERE t.app_id = $1 AND t.kind = $2 AND t.id < $3 AND t.at >= $4 AND t.at <= $5 AND {environment}
             ORDER BY t.id DESC LIMIT $6"
        );
        let rows = sqlx::query(assembled(sql))
            .bind(query.app.0)
            .bind(kind.as_str())
            .bind(query.before.unwrap_or(i64::MAX))
            .bind(query.since.map_or(i64::MIN, |t| t.0))
            .bind(query.until.map_or(i64::MAX, |t| t.0))
            .bind(query.limit)
            .fetch_all(self.0.read())
            .await?;
        let found = |r: &AnyRow| {
            let mut row = telemetry_row(r)?;
            if kind.is_json() {
                row.body = Some(inflate("telemetry", &r.try_get::<Vec<u8>, _>("body")?)?);
            }
            let environment = row::name(r, "environments", "environment")?;
            Ok(TelemetryFound { row, environment, bytes: r.try_get("bytes")? })
        };
        rows.iter().map(found).collect()
    }
}

/// A row without its body.
pub(super) fn telemetry_row(r: &AnyRow) -> Result<TelemetryRow> {
    Ok(TelemetryRow {
        id: r.try_get("id")?,
        at: row::time(r, "at")?,
        kind: row::word(r, "telemetry", "kind", ItemKind::parse)?,
        event_id: r.try_get("event_id")?,
        body: None,
    })
}
