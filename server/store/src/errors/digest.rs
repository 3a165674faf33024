//! From accepted items to issues and events, many at a time in one transaction.

mod batch;
mod sums;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use berth_schemas::{
    Timestamp,
    issue::{GroupingReason, Level},
};
use sqlx::Row;

use self::batch::Batch;
use super::{
    Errors, IntakeRow, ItemKind, WantedMap,
    attached::{keep_attachment, keep_feedback},
    compress,
    intake::{HOUR, count_dropped, count_up, note_done},
    releases::Places,
};
use crate::{
    error::Result,
    model::{AppId, EnvironmentId},
    write::Write,
};

/// An event that says it comes from further in the future than this came now, in microseconds.
const FUTURE: i64 = 60_000_000;
/// An event that says it is older than this is taken to be that old, in microseconds: 30 days.
const PAST: i64 = 30 * 24 * HOUR;

/// An event as it was read and grouped.
#[derive(Debug, Clone, PartialEq)]
pub struct DigestedEvent {
    /// Its row in the intake.
    pub intake: i64,
    /// Its app.
    pub app: AppId,
    /// Its environment.
    pub environment: EnvironmentId,
    /// Its id.
    pub event_id: String,
    /// When it happened, as the client says.
    pub at: Option<Timestamp>,
    /// When it came.
    pub received_at: Timestamp,
    /// Type of the exception, or the beginning of the message.
    pub kind: String,
    /// What it says.
    pub value: String,
    /// Where.
    pub culprit: Option<String>,
    /// How bad.
    pub level: Level,
    /// Language.
    pub platform: String,
    /// Whether something caught it.
    pub handled: Option<bool>,
    /// Release.
    pub release: Option<String>,
    /// What tells its user from others.
    pub user_key: Option<String>,
    /// Key that decides on its issue.
    pub strict: String,
    /// Key that joins.
    pub loose: Option<String>,
    /// What went into the key.
    pub reasons: Vec<GroupingReason>,
    /// The JSON, compressed, as the intake has it; or a better one, not compressed.
    pub body: Body,
    /// Source maps that it wants and there are not.
    pub wanted: Vec<WantedMap>,
}

/// A body to be kept.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// As the intake has it.
    Compressed(Vec<u8>),
    /// A new one.
    Plain(Vec<u8>),
}

/// Where an event went.
#[derive(Debug, Clone, PartialEq)]
pub struct Filed {
    /// Which of the events.
    pub index: usize,
    /// Its row.
    pub event: i64,
    /// Row of its issue.
    pub issue: i64,
}

impl Errors<'_> {
    /// Files events under their issues, keeps what else was accepted, and takes all of it out of the intake: `events`
    /// are those that could be read, `others` all other rows, `broken` rows of events that could not be; together the
    /// oldest that wait.
    ///
    /// # Errors
    /// When the database fails; then all of it still waits.
    pub async fn digest(
        self,
        events: &[DigestedEvent],
        others: &[IntakeRow],
        broken: &[IntakeRow],
    ) -> Result<Vec<Filed>> {
        // Compressed before the turn is taken.
        let bodies: Vec<Vec<u8>> = events
            .iter()
            .map(|e| match &e.body {
                Body::Compressed(bytes) => Ok(bytes.clone()),
                Body::Plain(bytes) => compress(bytes),
            })
            .collect::<Result<_>>()?;
        let done = events.iter().map(|e| e.intake).chain(others.iter().chain(broken).map(|r| r.id));
        let (from, through) = done.fold((i64::MAX, 0), |(from, to), id| (from.min(id), to.max(id)));
        if through == 0 {
            return Ok(Vec::new());
        }
        let mut write = Write::begin(self.0).await?;
        if !note_done(&mut write, from, through).await? {
            // Committed before, though the answer was an error.
            drop(write);
            self.0.database.intake.removed(through).await?;
            return Ok(Vec::new());
        }
        let mut batch = Batch {
            write: &mut write,
            keys: HashMap::new(),
            releases: HashMap::new(),
            sums: BTreeMap::new(),
            release_users: BTreeSet::new(),
            places: Places::new(),
        };
        let alive = batch.alive(events, others).await?;
        let fresh = batch.fresh(events, &alive).await?;
        batch.learn_releases(&fresh).await?;
        batch.learn_keys(&fresh).await?;
        let mut placed = Vec::with_capacity(fresh.len());
        for &(index, event) in &fresh {
            let issue = batch.place(event).await?;
            placed.push((index, event, issue));
        }
        let filed = batch.insert_events(&placed, &bodies).await?;
        batch.sum_up().await?;
        batch.count(&fresh, events.len()).await?;
        for row in others.iter().filter(|r| alive.contains(&r.environment.0)) {
            keep_other(&mut write, row).await?;
        }
        for row in broken {
            count_up(&mut write, row.environment, row.received_at, "error", "invalid", 1).await?;
        }
        write.commit().await?;
        self.0.database.intake.removed(through).await?;
        Ok(filed)
    }
}

/// When an event happened: what the client says, if that can be.
fn happened(event: &DigestedEvent) -> Timestamp {
    let said = event.at.unwrap_or(event.received_at);
    match said.0 {
        t if t > event.received_at.0 + FUTURE => event.received_at,
        t => Timestamp(t.max(event.received_at.0 - PAST)),
    }
}

pub(super) async fn next_number(write: &mut Write<'_>, app: AppId) -> Result<i64> {
    let row = sqlx::query(
        "INSERT INTO error_numbers (app_id, last) VALUES ($1, 1)
         ON CONFLICT (app_id) DO UPDATE SET last = error_numbers.last + 1 RETURNING last",
    )
    .bind(app.0)
    .fetch_one(write.conn())
    .await?;
    Ok(row.try_get("last")?)
}

/// Keeps an item that is no event where it belongs.
async fn keep_other(write: &mut Write<'_>, row: &IntakeRow) -> Result<()> {
    match row.kind {
        ItemKind::Attachment => keep_attachment(write, row).await?,
        ItemKind::Feedback | ItemKind::UserReport => {
            if !keep_feedback(write, row).await? {
                return Ok(());
            }
        }
        ItemKind::Dropped => return count_dropped(write, row).await,
        kind => {
            sqlx::query("INSERT INTO telemetry (app_id, environment_id, at, kind, event_id, body) VALUES ($1, $2, $3, $4, $5, $6)")
                .bind(row.app.0)
                .bind(row.environment.0)
                .bind(row.received_at.0)
                .bind(kind.as_str())
                .bind(row.event_id.clone())
                .bind(row.body.clone())
                .execute(write.conn())
                .await?;
        }
    }
    let category = match row.kind {
        ItemKind::Feedback | ItemKind::UserReport => "feedback",
        kind => kind.as_str(),
    };
    count_up(write, row.environment, row.received_at, category, "", 1).await
}
