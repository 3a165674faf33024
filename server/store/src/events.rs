//! The event log: what happened, in the order in which it was committed.

use berth_schemas::{AppSlug, Timestamp, Untrusted, event::Event};
use sqlx::{Row, any::AnyRow};
use tokio::sync::broadcast;

use crate::{
    database::{assembled, escape_like, visible},
    error::{Result, StoreError},
    model::{EventRow, NewEvent, Visible},
    row,
    store::Inner,
    write::Write,
};

/// Most entries in a page.
const MAX_PAGE: i64 = 1000;

/// The event log of a [`crate::Store`].
#[derive(Clone, Copy)]
pub struct Events<'a>(pub(crate) &'a Inner);

impl Events<'_> {
    /// Entries that may be seen, newest first: about `app`, of a kind that begins with `kind`, not before
    /// `since`, with ids below `before`. Entries about a deleted app are found by its name, too.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list(
        self,
        view: &Visible,
        app: Option<&AppSlug>,
        kind: Option<&str>,
        since: Option<Timestamp>,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<Event>> {
        let about = if app.is_some() { "app = $1" } else { "$1 = ''" };
        let sql = format!(
            "SELECT id, at, kind, caused_by, app, summary, data FROM events
             WHERE {about} AND kind LIKE $2 ESCAPE '\\' AND at >= $3 AND id < $4 AND {}
             ORDER BY id DESC LIMIT $5",
            visible(view, "project_id")
        );
        let rows = sqlx::query(assembled(sql))
            .bind(app.map_or("", |a| a.as_str()).to_owned())
            .bind(format!("{}%", escape_like(kind.unwrap_or(""))))
            .bind(since.map_or(i64::MIN, |t| t.0))
            .bind(before.unwrap_or(i64::MAX))
            .bind(limit.clamp(1, MAX_PAGE))
            .fetch_all(self.0.read())
            .await?;
        rows.iter().map(from_row).collect()
    }

    /// Writes an entry for something that changes no other row.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn append(self, event: NewEvent) -> Result<EventRow> {
        let mut write = Write::begin(self.0).await?;
        let row = write.event(event).await?;
        write.commit().await?;
        Ok(row)
    }

    /// Entries from now on, in order, each after its commit. A receiver that falls more than 1024 behind is
    /// told so and reads what it missed with [`Events::list`].
    #[must_use]
    pub fn subscribe(self) -> broadcast::Receiver<EventRow> {
        self.0.events.subscribe()
    }
}

fn from_row(r: &AnyRow) -> Result<Event> {
    let app: Option<String> = r.try_get("app")?;
    let app = app.map(|a| a.parse().map_err(|_| StoreError::corrupt("events", "app", &a))).transpose()?;
    Ok(Event {
        id: r.try_get("id")?,
        at: row::time(r, "at")?,
        kind: r.try_get("kind")?,
        by: r.try_get("caused_by")?,
        app,
        summary: Untrusted(r.try_get("summary")?),
        data: row::json(r, "events", "data")?,
    })
}
