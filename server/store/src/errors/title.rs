//! What an issue is called, which is taken from one of its events. When events are erased, nobody knows any more which
//! one that was: so the title goes with any of them, in the same transaction, and comes again from an event that is left.

use berth_schemas::issue::GroupingReason;

use super::{
    DigestedEvent, ErrorEventRow, Errors, Remapped,
    query::{EVENT, event_row},
};
use crate::{
    database::{assembled, storable},
    error::Result,
    model::AppId,
    row::to_json,
    write::Write,
};

/// What an issue is called while it has no event that it could be called after.
pub(super) const UNTITLED: &str = "(deleted)";

/// What an event gives its issue to be known by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct IssueTitle<'e> {
    /// Type of the exception, or the beginning of the message.
    pub kind: &'e str,
    /// What it says.
    pub value: &'e str,
    /// Where.
    pub culprit: Option<&'e str>,
    /// What it is grouped by.
    pub reasons: &'e [GroupingReason],
}

impl<'e> From<&'e DigestedEvent> for IssueTitle<'e> {
    fn from(event: &'e DigestedEvent) -> Self {
        let DigestedEvent { kind, value, culprit, reasons, .. } = event;
        Self { kind, value, culprit: culprit.as_deref(), reasons }
    }
}

impl<'e> From<&'e Remapped> for IssueTitle<'e> {
    fn from(event: &'e Remapped) -> Self {
        let Remapped { kind, value, culprit, reasons, .. } = event;
        Self { kind, value, culprit: culprit.as_deref(), reasons }
    }
}

impl Errors<'_> {
    /// The newest event of each issue of an app that has lost its title and still has events.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn untitled(self, app: AppId) -> Result<Vec<ErrorEventRow>> {
        let sql = format!(
            "SELECT {EVENT} FROM error_events WHERE id IN (
                 SELECT (SELECT MAX(e.id) FROM error_events e WHERE e.issue_id = i.id) FROM error_issues i
                 WHERE i.app_id = $1 AND i.kind = $2)"
        );
        let rows = sqlx::query(assembled(sql)).bind(app.0).bind(UNTITLED).fetch_all(self.0.read()).await?;
        rows.iter().map(event_row).collect()
    }

    /// Calls an issue that has lost its title after one of its events, if it still has that one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn entitle(self, event: &ErrorEventRow, title: &IssueTitle<'_>) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        let untitled = sqlx::query(
            "SELECT 1 FROM error_issues i JOIN error_events e ON e.issue_id = i.id
             WHERE i.id = $1 AND i.kind = $2 AND e.id = $3",
        )
        .bind(event.issue_id)
        .bind(UNTITLED)
        .bind(event.id)
        .fetch_optional(write.conn())
        .await?;
        if untitled.is_some() {
            give(&mut write, event.issue_id, title).await?;
        }
        write.commit().await
    }
}

/// Calls an issue so.
pub(super) async fn give(write: &mut Write<'_>, issue: i64, title: &IssueTitle<'_>) -> Result<()> {
    sqlx::query("UPDATE error_issues SET kind = $2, value = $3, culprit = $4, reasons = $5 WHERE id = $1")
        .bind(issue)
        .bind(storable(title.kind, 400))
        .bind(storable(title.value, 1000))
        .bind(title.culprit.map(|c| storable(c, 400)))
        .bind(to_json("error_issues", "reasons", &title.reasons)?)
        .execute(write.conn())
        .await?;
    Ok(())
}

/// Takes the title of an issue away, and of those that were split off it, or that it was split off, while they are called the same.
pub(super) async fn take_away(write: &mut Write<'_>, issue: i64) -> Result<()> {
    for which in [
        "split_by_hand = 1 AND app_id = (SELECT o.app_id FROM error_issues o WHERE o.id = $1 AND o.split_by_hand = 1)
         AND EXISTS (SELECT 1 FROM error_issues o
             WHERE o.id = $1 AND o.kind = error_issues.kind AND o.value = error_issues.value)",
        "id = $1",
    ] {
        let sql = format!(
            "UPDATE error_issues SET kind = $2, value = '', culprit = NULL, reasons = '[]' WHERE {which}"
        );
        sqlx::query(assembled(sql)).bind(issue).bind(UNTITLED).execute(write.conn()).await?;
    }
    Ok(())
}
