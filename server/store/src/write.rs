//! One write transaction: changes and the event log entries that speak of them, committed together and only
//! then told to those who listen.

use berth_schemas::{AppSlug, Timestamp, Untrusted, event::Event};
use sqlx::{Any, AnyConnection, Row, Transaction};
use tokio::sync::OwnedMutexGuard;

use crate::{
    database::{Kind, storable},
    error::Result,
    model::{AppId, EventRow, NewEvent, ProjectId},
    row::to_json,
    store::Inner,
};

/// Longest summary of an event in bytes.
const MAX_SUMMARY: usize = 1024;

/// A write transaction; rolled back if dropped without [`Write::commit`].
pub(crate) struct Write<'a> {
    inner: &'a Inner,
    tx: Transaction<'static, Any>,
    /// The time at which all of it happens.
    pub(crate) now: Timestamp,
    events: Vec<EventRow>,
    _turn: OwnedMutexGuard<()>,
}

impl<'a> Write<'a> {
    /// Waits for its turn and begins.
    pub(crate) async fn begin(inner: &'a Inner) -> Result<Self> {
        let turn = inner.database.writing.clone().lock_owned().await;
        let begin = match inner.database.kind {
            // Take the write lock now: a transaction that reads first could not be granted it later.
            Kind::Sqlite => "BEGIN IMMEDIATE",
            Kind::Postgresql => "BEGIN",
        };
        let tx = inner.database.writer.begin_with(begin).await?;
        Ok(Self { inner, tx, now: inner.clock.now(), events: Vec::new(), _turn: turn })
    }

    /// The time of this write, but later than the `newest` that a query finds: where times tell an order, it must
    /// hold even if the clock was set back since. `of` is the query's parameter, if it has one.
    pub(crate) async fn later_than(&mut self, sql: &'static str, of: Option<i64>) -> Result<Timestamp> {
        let query = of.into_iter().fold(sqlx::query(sql), sqlx::query::Query::bind);
        let newest: i64 = query.fetch_one(&mut *self.tx).await?.try_get("newest")?;
        Ok(self.now.max(Timestamp(newest.saturating_add(1))))
    }

    /// The connection to run statements on.
    pub(crate) fn conn(&mut self) -> &mut AnyConnection {
        &mut self.tx
    }

    /// Writes an event about an app, or about nothing that belongs to a project.
    pub(crate) async fn event(&mut self, event: NewEvent) -> Result<EventRow> {
        let mut app = None;
        let mut project = None;
        if let Some(id) = event.app {
            let row = sqlx::query("SELECT slug, project_id FROM apps WHERE id = $1")
                .bind(id.0)
                .fetch_optional(&mut *self.tx)
                .await?;
            if let Some(row) = row {
                app = row.try_get::<String, _>("slug")?.parse::<AppSlug>().ok();
                project = Some(ProjectId(row.try_get("project_id")?));
            }
        }
        self.insert_event(event, app, project).await
    }

    /// Writes an event about a project, or about an app that is known already.
    pub(crate) async fn event_in(
        &mut self,
        project: ProjectId,
        app: Option<AppSlug>,
        event: NewEvent,
    ) -> Result<EventRow> {
        self.insert_event(event, app, Some(project)).await
    }

    async fn insert_event(
        &mut self,
        new: NewEvent,
        app: Option<AppSlug>,
        project: Option<ProjectId>,
    ) -> Result<EventRow> {
        let summary = storable(&new.summary, MAX_SUMMARY);
        let id: i64 = sqlx::query(
            "INSERT INTO events (at, kind, caused_by, app_id, app, project_id, summary, data)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id",
        )
        .bind(self.now.0)
        .bind(new.kind)
        .bind(new.by.clone())
        .bind(new.app.map(|a: AppId| a.0))
        .bind(app.as_ref().map(|a| a.as_str().to_owned()))
        .bind(project.map(|p| p.0))
        .bind(summary.clone())
        .bind(to_json("events", "data", &new.data)?)
        .fetch_one(&mut *self.tx)
        .await?
        .try_get("id")?;
        let (kind, summary) = (new.kind.to_owned(), Untrusted(summary));
        let event = Event { id, at: self.now, kind, by: new.by, app, summary, data: new.data };
        let row = EventRow { event, app_id: new.app, project_id: project };
        self.events.push(row.clone());
        Ok(row)
    }

    /// Commits, then tells those who listen, in the order of commits.
    pub(crate) async fn commit(self) -> Result<()> {
        self.tx.commit().await?;
        for event in self.events {
            // Nobody listening is no error.
            let _ = self.inner.events.send(event);
        }
        Ok(())
    }
}
