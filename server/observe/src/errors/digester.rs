//! From what was accepted to issues and events: one task, in batches.

use std::time::Duration;

use berth_schemas::{Code, Problem};
use berth_store::{Body, DigestedEvent, IntakeRow, ItemKind, Store};
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

/// Items of one transaction: what is written once for an issue, its counts and its users is written for all of them.
const BATCH: i64 = 1000;
/// Items that are inflated at a time.
const PIECE: usize = 100;
/// Pause after a batch when few wait: the first after a quiet time is filed at once, what follows it is filed together.
const GATHER: Duration = Duration::from_millis(200);
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
    let mut ready = None;
    let mut waiting = 0;
    while !shutdown.is_cancelled() {
        let step = async {
            let batch = match ready.take() {
                Some(batch) => batch,
                None => prepare(&store, &maps, None, limit).await?,
            };
            // While much waits, one batch is read while the one before it is written.
            let ahead = waiting >= 2 * BATCH && batch.count > 0;
            let next = async {
                match ahead {
                    // A failure is met again, and dealt with, when that batch is the oldest.
                    true => {
                        prepare(&store, &maps, Some(batch.last), BATCH).await.ok().filter(|b| b.count > 0)
                    }
                    false => None,
                }
            };
            let (kept, next) = tokio::join!(keep(&store, &maps, &batch), next);
            kept.map(|()| (batch.count, next))
        };
        match step.await {
            Ok((0, _)) => {
                (limit, waiting) = (BATCH, 0);
                ingest.set_backlog(0);
                tokio::select! {
                    () = ingest.arrived() => {}
                    () = sleep(LOOK) => {}
                    () = shutdown.cancelled() => return,
                }
            }
            Ok((_, next)) => {
                (limit, ready) = (BATCH, next);
                index.wake();
                waiting = store.errors().backlog().await.unwrap_or(0);
                ingest.set_backlog(waiting);
                if waiting < BATCH {
                    tokio::select! {
                        () = sleep(GATHER) => {}
                        () = shutdown.cancelled() => return,
                    }
                }
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

/// Items that were read and grouped.
#[derive(Default)]
struct Batch {
    sorted: Sorted,
    count: usize,
    /// The newest one's row in the intake.
    last: i64,
    /// What [`Maps::added`] said before.
    maps: u64,
}

/// Reads the oldest items, or those after a row.
async fn prepare(store: &Store, maps: &Maps, after: Option<i64>, limit: i64) -> Result<Batch, Problem> {
    let mut batch = Batch { maps: maps.added(), ..Batch::default() };
    let mut rows = store.errors().waiting(after, limit).await?.into_iter().peekable();
    while rows.peek().is_some() {
        let piece: Vec<IntakeRow> = rows.by_ref().take(PIECE).collect();
        batch.count += piece.len();
        batch.last = piece.last().map_or(batch.last, |row| row.id);
        let mut sorted = std::mem::take(&mut batch.sorted);
        sorted = aside(move || sort(piece, sorted)).await?;
        let mut wanting = std::mem::take(&mut sorted.wanting);
        for item in &mut wanting {
            match maps.put_right(item.row.app, &mut item.body, &mut item.missing).await {
                Ok(changed) => item.changed = changed,
                Err(error) => tracing::warn!(%error, "an event was not put right by its source maps"),
            }
        }
        if !wanting.is_empty() {
            sorted = aside(move || {
                wanting.into_iter().for_each(|item| sorted.read(item));
                sorted
            })
            .await?;
        }
        batch.sorted = sorted;
    }
    Ok(batch)
}

/// Files a batch.
async fn keep(store: &Store, maps: &Maps, batch: &Batch) -> Result<(), Problem> {
    if batch.count == 0 {
        return Ok(());
    }
    let Sorted { events, others, broken, .. } = &batch.sorted;
    store.errors().digest(events, others, broken).await?;
    if events.iter().any(|event| !event.wanted.is_empty()) {
        maps.kept_without(batch.maps);
    }
    Ok(())
}

async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    let lost = |error| Problem::new(Code::Internal, format!("Reading accepted errors ended badly: {error}."));
    tokio::task::spawn_blocking(work).await.map_err(lost)
}

/// An event that was inflated.
struct Parsed {
    row: IntakeRow,
    body: Value,
    /// Whether maps put it right.
    changed: bool,
    missing: Vec<apply::Need>,
}

/// Takes the oldest item out, because nothing can be made of it.
async fn set_aside(store: &Store) {
    if let Ok(rows) = store.errors().waiting(None, 1).await
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
    /// Events whose frames want source maps.
    wanting: Vec<Parsed>,
}

impl Sorted {
    fn read(&mut self, item: Parsed) {
        match read(&item) {
            Some(event) => self.events.push(event),
            None => self.broken.push(item.row),
        }
    }
}

fn sort(rows: Vec<IntakeRow>, mut sorted: Sorted) -> Sorted {
    for row in rows {
        if row.kind != ItemKind::Event {
            sorted.others.push(row);
            continue;
        }
        let body = row.inflated().ok().and_then(|b| serde_json::from_slice::<Value>(&b).ok());
        let Some(body) = body else {
            sorted.broken.push(row);
            continue;
        };
        let wanting = !apply::needs(&body).is_empty();
        let item = Parsed { row, body, changed: false, missing: Vec::new() };
        if wanting { sorted.wanting.push(item) } else { sorted.read(item) }
    }
    sorted
}

/// Reads and groups one event; none if it is damaged.
fn read(item: &Parsed) -> Option<DigestedEvent> {
    let (row, body) = (&item.row, &item.body);
    let event = Event::read(body)?;
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
        body: match item.changed {
            true => Body::Plain(body.to_string().into_bytes()),
            false => Body::Compressed(row.body.clone()),
        },
        wanted: item.missing.iter().map(apply::Need::wanted).collect(),
    })
}
