//! From what was accepted to issues and events: one task, in batches.

use std::time::Duration;

use berth_store::{Body, DigestedEvent, IntakeRow, ItemKind, Store};
use serde_json::Value;
use tokio::time::sleep;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{event::Event, grouping, ingest::Ingest, search::ErrorIndex};

/// Items of one transaction.
const BATCH: i64 = 500;
/// How often to look without being told.
const LOOK: Duration = Duration::from_secs(5);
/// How long to wait after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// The task that digests.
pub struct Digester {
    tasks: TaskTracker,
}

impl Digester {
    /// Starts; ends when `shutdown` is cancelled, between two batches. What is left waits for the next start.
    #[must_use]
    pub fn start(store: Store, ingest: Ingest, index: ErrorIndex, shutdown: CancellationToken) -> Self {
        let tasks = TaskTracker::new();
        tasks.spawn(run(store, ingest, index, shutdown));
        tasks.close();
        Self { tasks }
    }

    /// Waits until the task has ended, after the shutdown.
    pub async fn stopped(&self) {
        self.tasks.wait().await;
    }
}

async fn run(store: Store, ingest: Ingest, index: ErrorIndex, shutdown: CancellationToken) {
    let mut limit = BATCH;
    while !shutdown.is_cancelled() {
        match batch(&store, limit).await {
            Ok(0) => {
                limit = BATCH;
                ingest.set_backlog(0);
                tokio::select! {
                    () = ingest.arrived() => {}
                    () = sleep(LOOK) => {}
                    () = shutdown.cancelled() => return,
                }
            }
            Ok(done) => {
                limit = BATCH;
                index.wake();
                // Only a full batch says that more may wait.
                let waiting = if done < BATCH { 0 } else { store.errors().backlog().await.unwrap_or(0) };
                ingest.set_backlog(waiting);
            }
            Err(error) => {
                // One bad item must not keep the others waiting, so it is looked for by trying fewer.
                tracing::warn!(%error, items = limit, "accepted errors were not digested; trying again");
                if limit == 1 {
                    set_aside(&store).await;
                }
                limit = (limit / 4).max(1);
                tokio::select! {
                    () = sleep(PAUSE) => {}
                    () = shutdown.cancelled() => return,
                }
            }
        }
    }
}

/// Digests the oldest items; how many.
async fn batch(store: &Store, limit: i64) -> berth_store::Result<i64> {
    let rows = store.errors().waiting(limit).await?;
    if rows.is_empty() {
        return Ok(0);
    }
    let count = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    let sorted = tokio::task::spawn_blocking(move || sort(rows)).await;
    let sorted = sorted.unwrap_or_else(|error| {
        tracing::error!(%error, "reading accepted errors ended badly");
        Sorted::default()
    });
    store.errors().digest(&sorted.events, &sorted.others, &sorted.broken).await?;
    Ok(count)
}

/// Takes the oldest item out, because nothing can be made of it.
async fn set_aside(store: &Store) {
    if let Ok(rows) = store.errors().waiting(1).await
        && let Err(error) = store.errors().digest(&[], &[], &rows).await
    {
        tracing::warn!(%error, "an item that cannot be digested stays where it is");
    }
}

#[derive(Default)]
struct Sorted {
    events: Vec<DigestedEvent>,
    others: Vec<IntakeRow>,
    broken: Vec<IntakeRow>,
}

fn sort(rows: Vec<IntakeRow>) -> Sorted {
    let mut sorted = Sorted::default();
    for row in rows {
        if row.kind != ItemKind::Event {
            sorted.others.push(row);
            continue;
        }
        match read(&row) {
            Some(event) => sorted.events.push(event),
            None => sorted.broken.push(row),
        }
    }
    sorted
}

/// Reads and groups one event; none if it is damaged.
fn read(row: &IntakeRow) -> Option<DigestedEvent> {
    let body: Value = serde_json::from_slice(&row.inflated().ok()?).ok()?;
    let event = Event::read(&body)?;
    let grouping = grouping::group(row.app.0, &event);
    Some(DigestedEvent {
        intake: row.id,
        app: row.app,
        environment: row.environment,
        event_id: row.event_id.clone()?,
        at: event.at,
        received_at: row.received_at,
        kind: event.kind(),
        value: event.value(),
        culprit: event.culprit(),
        level: event.level,
        handled: event.handled(),
        user_key: event.user_key(),
        release: event.release.clone(),
        platform: event.platform,
        strict: grouping.strict,
        loose: grouping.loose,
        reasons: grouping.reasons,
        body: Body::Compressed(row.body.clone()),
    })
}
