//! From what was accepted to issues and events: one task, in batches.

use std::time::Duration;

use berth_store::{Body, DigestedEvent, IntakeRow, ItemKind, Store, WantedMap};
use serde_json::Value;
use tokio::time::sleep;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    event::Event,
    grouping,
    ingest::Ingest,
    maps::{Maps, apply},
    search::ErrorIndex,
};

/// Items of one transaction: few, because whoever sends meanwhile waits for its end.
const BATCH: i64 = 100;
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
    pub fn start(
        store: Store,
        ingest: Ingest,
        index: ErrorIndex,
        maps: Maps,
        shutdown: CancellationToken,
    ) -> Self {
        let tasks = TaskTracker::new();
        tasks.spawn(run(store, ingest, index, maps, shutdown));
        tasks.close();
        Self { tasks }
    }

    /// Waits until the task has ended, after the shutdown.
    pub async fn stopped(&self) {
        self.tasks.wait().await;
    }
}

async fn run(store: Store, ingest: Ingest, index: ErrorIndex, maps: Maps, shutdown: CancellationToken) {
    let mut limit = BATCH;
    while !shutdown.is_cancelled() {
        match batch(&store, &maps, limit).await {
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
async fn batch(store: &Store, maps: &Maps, limit: i64) -> berth_store::Result<i64> {
    let rows = store.errors().waiting(limit).await?;
    if rows.is_empty() {
        return Ok(0);
    }
    let count = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    let parsed = tokio::task::spawn_blocking(move || rows.into_iter().map(parse).collect::<Vec<_>>()).await;
    let mut parsed = parsed.unwrap_or_else(|error| {
        tracing::error!(%error, "reading accepted errors ended badly");
        Vec::new()
    });
    for item in &mut parsed {
        if let Some(body) = item.body.as_mut().filter(|_| item.maps) {
            let mut missing = Vec::new();
            match maps.put_right(item.row.app, body, &mut missing).await {
                Ok(changed) => item.changed = changed,
                Err(error) => tracing::warn!(%error, "an event was not put right by its source maps"),
            }
            item.missing = missing;
        }
    }
    let sorted = tokio::task::spawn_blocking(move || sort(parsed)).await;
    let sorted = sorted.unwrap_or_else(|error| {
        tracing::error!(%error, "grouping accepted errors ended badly");
        Sorted::default()
    });
    store.errors().digest(&sorted.events, &sorted.others, &sorted.broken).await?;
    Ok(count)
}

/// An item of the intake, and what it holds.
struct Parsed {
    row: IntakeRow,
    body: Option<Value>,
    /// Whether its frames want source maps.
    maps: bool,
    /// Whether maps put it right.
    changed: bool,
    missing: Vec<apply::Need>,
}

fn parse(row: IntakeRow) -> Parsed {
    let body = match row.kind {
        ItemKind::Event => row.inflated().ok().and_then(|b| serde_json::from_slice::<Value>(&b).ok()),
        _ => None,
    };
    let maps = body.as_ref().is_some_and(|b| !apply::needs(b).is_empty());
    Parsed { row, body, maps, changed: false, missing: Vec::new() }
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

fn sort(items: Vec<Parsed>) -> Sorted {
    let mut sorted = Sorted::default();
    for item in items {
        if item.row.kind != ItemKind::Event {
            sorted.others.push(item.row);
            continue;
        }
        match read(&item) {
            Some(event) => sorted.events.push(event),
            None => sorted.broken.push(item.row),
        }
    }
    sorted
}

/// Reads and groups one event; none if it is damaged.
fn read(item: &Parsed) -> Option<DigestedEvent> {
    let (row, body) = (&item.row, item.body.as_ref()?);
    let event = Event::read(body)?;
    let grouping = grouping::group(row.app.0, &event);
    let wanted = item.missing.iter().map(|need| WantedMap {
        debug_id: need.debug_id.clone().unwrap_or_default(),
        release: need.release.clone().unwrap_or_default(),
        url: need.url.clone(),
    });
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
        body: match item.changed {
            true => Body::Plain(body.to_string().into_bytes()),
            false => Body::Compressed(row.body.clone()),
        },
        wanted: wanted.collect(),
    })
}
