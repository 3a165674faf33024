//! The way in: who may send, how much, and how what was sent becomes durable.
//!
//! Requests that come at the same time are committed together: one task writes, and what arrives while it waits for the
//! disk is the next transaction. A caller hears of success only after the commit.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use berth_schemas::{Code, Problem, Timestamp, issue::ErrorRules};
use berth_store::{
    DsnKeys, NewIntake, Store,
    model::{AppId, EnvironmentId},
};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    accept::{Drop, Packed},
    auth::PublicKey,
    rules,
    scrub::ScrubRules,
};

/// Requests that may wait for their commit.
const QUEUE: usize = 1024;
/// Requests of one transaction.
const TOGETHER: usize = 256;
/// How long rules and names are believed without asking the store.
const BELIEVED: Duration = Duration::from_secs(5);
/// Environments remembered.
const MAX_KNOWN: usize = 10_000;
/// Over what time limits are counted.
const MINUTE: Duration = Duration::from_secs(60);
/// Items that are no events, such as attachments, spans or parts of replays, that may come for each event that may.
const OTHERS: u32 = 10;
/// Their bytes that an environment may send in a minute.
const MAX_BYTES: usize = 256 << 20;
/// Items that may wait to be digested; beyond that, clients are asked to wait.
const MAX_BACKLOG: i64 = 200_000;
/// How long clients are asked to wait when too much waits here, in seconds.
const BACKLOG_WAIT: u64 = 30;

/// Where errors of an environment go, and by what rules.
#[derive(Debug)]
pub struct Target {
    /// Its app.
    pub app: AppId,
    /// The environment.
    pub environment: EnvironmentId,
    /// What is scrubbed.
    pub scrub: ScrubRules,
    /// Keys of which a client must show one.
    keys: DsnKeys,
    /// Events that may come in a minute.
    per_minute: u32,
}

/// Why nothing was taken.
#[derive(Debug)]
pub enum Refused {
    /// No such environment, or another key.
    Unknown,
    /// The key was replaced, and is accepted no more.
    Ended,
    /// Too much; try again after so many seconds.
    Busy(u64),
    /// The store does not answer.
    Failed(Problem),
}

type Waiting = (NewIntake, oneshot::Sender<Result<(), Problem>>);

/// The way in; cheap to clone.
#[derive(Clone)]
pub struct Ingest {
    shared: Arc<Shared>,
    sender: mpsc::Sender<Waiting>,
}

struct Shared {
    store: Store,
    known: Mutex<HashMap<i64, (Instant, Arc<Target>)>>,
    windows: Mutex<HashMap<i64, Window>>,
    /// How often what is known was forgotten: what was read before that is not remembered.
    forgotten: AtomicU64,
    refused: Mutex<HashMap<(AppId, EnvironmentId, String), i64>>,
    /// When clients showed keys that were replaced, as far as it is not written yet.
    shown: Mutex<HashMap<(EnvironmentId, i64), Timestamp>>,
    backlog: AtomicI64,
    arrived: Notify,
    tasks: TaskTracker,
}

/// What came in the current minute.
#[derive(Debug, Clone, Copy)]
struct Window {
    begin: Instant,
    events: u32,
    /// Items that are no events,
    others: u32,
    /// and their bytes.
    bytes: usize,
}

impl Window {
    fn new() -> Self {
        Self { begin: Instant::now(), events: 0, others: 0, bytes: 0 }
    }

    fn over(&self) -> bool {
        self.begin.elapsed() >= MINUTE
    }
}

impl std::fmt::Debug for Ingest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ingest").finish_non_exhaustive()
    }
}

impl Ingest {
    /// Starts the task that commits; it ends after `shutdown`, when all that was sent is committed.
    #[must_use]
    pub fn start(store: Store, shutdown: CancellationToken) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            store,
            known: Mutex::default(),
            windows: Mutex::default(),
            forgotten: AtomicU64::new(0),
            refused: Mutex::default(),
            shown: Mutex::default(),
            backlog: AtomicI64::new(0),
            arrived: Notify::new(),
            tasks: TaskTracker::new(),
        });
        shared.tasks.spawn(commit(Arc::clone(&shared), receiver, shutdown));
        shared.tasks.close();
        Self { shared, sender }
    }

    /// Where a client that shows `key` for environment `id` may send.
    ///
    /// # Errors
    /// When there is no such environment, the key is another's, or its time is over.
    pub async fn target(&self, id: i64, key: &PublicKey) -> Result<Arc<Target>, Refused> {
        let target = self.known(id).await?.ok_or(Refused::Unknown)?;
        let mut shown = None;
        // Each is compared, whichever it is.
        for known in target.keys.all() {
            let same = subtle::ConstantTimeEq::ct_eq(known.key.as_bytes(), key.as_str().as_bytes());
            if bool::from(same) {
                shown = Some(known);
            }
        }
        let shown = shown.ok_or(Refused::Unknown)?;
        if shown.ends_at.is_some() {
            let now = self.shared.store.clock().now();
            if let Ok(mut all) = self.shared.shown.lock() {
                all.insert((target.environment, shown.number), now);
            }
            if !shown.is_accepted(now) {
                return Err(Refused::Ended);
            }
        }
        Ok(target)
    }

    /// When a client showed a key last that was replaced, as far as the store does not know it yet.
    #[must_use]
    pub fn shown_at(&self, environment: EnvironmentId, number: i64) -> Option<Timestamp> {
        self.shared.shown.lock().ok()?.get(&(environment, number)).copied()
    }

    async fn known(&self, id: i64) -> Result<Option<Arc<Target>>, Refused> {
        if let Ok(known) = self.shared.known.lock()
            && let Some((at, target)) = known.get(&id)
            && at.elapsed() < BELIEVED
        {
            return Ok(Some(Arc::clone(target)));
        }
        let failed = |e: berth_store::StoreError| Refused::Failed(e.into());
        let (store, forgotten) = (&self.shared.store, self.shared.forgotten.load(Ordering::Acquire));
        let Some(app) = store.apps().by_environment(EnvironmentId(id)).await.map_err(failed)? else {
            return Ok(None);
        };
        if app.deleting {
            return Ok(None);
        }
        let of: ErrorRules = store.errors().settings(app.id).await.map_err(failed)?.unwrap_or_default();
        let target = Arc::new(Target {
            app: app.id,
            environment: app.environment.id,
            scrub: rules::scrubbing(&of),
            keys: store.errors().keys(app.environment.id).await.map_err(failed)?,
            per_minute: of.events_per_minute,
        });
        if let Ok(mut known) = self.shared.known.lock()
            && self.shared.forgotten.load(Ordering::Acquire) == forgotten
        {
            if known.len() >= MAX_KNOWN {
                known.clear();
            }
            known.insert(id, (Instant::now(), Arc::clone(&target)));
        }
        Ok(Some(target))
    }

    /// Whether an environment may send at all now.
    ///
    /// # Errors
    /// When too much waits to be digested; a request that is refused so counts as one error that was dropped.
    pub fn open_to(&self, target: &Target) -> Result<(), Refused> {
        if self.shared.backlog.load(Ordering::Relaxed) <= MAX_BACKLOG {
            return Ok(());
        }
        self.count_refused(target, "error", 1);
        Err(Refused::Busy(BACKLOG_WAIT))
    }

    /// Whether an environment may send one more item of a category this minute, with so many bytes.
    #[must_use]
    pub fn admits(&self, target: &Target, category: &str, bytes: usize) -> bool {
        let Ok(mut windows) = self.shared.windows.lock() else { return true };
        let window = windows.entry(target.environment.0).or_insert_with(Window::new);
        if window.over() {
            *window = Window::new();
        }
        if category == "error" {
            let may = window.events < target.per_minute;
            window.events += u32::from(may);
            return may;
        }
        let may =
            window.others < target.per_minute.saturating_mul(OTHERS) && window.bytes + bytes <= MAX_BYTES;
        if may {
            window.others += 1;
            window.bytes += bytes;
        }
        may
    }

    /// Notes what was not taken because it was too much; what to answer.
    #[must_use]
    pub fn refuse(&self, target: &Target, dropped: &[Drop]) -> Refused {
        for drop in dropped {
            self.count_refused(target, &drop.category, drop.count);
        }
        let past = self.shared.windows.lock().ok();
        let past = past.and_then(|w| w.get(&target.environment.0).map(|w| w.begin.elapsed().as_secs()));
        Refused::Busy(MINUTE.as_secs() - past.unwrap_or(0).min(MINUTE.as_secs() - 1))
    }

    fn count_refused(&self, target: &Target, category: &str, count: i64) {
        if let Ok(mut refused) = self.shared.refused.lock() {
            *refused.entry((target.app, target.environment, category.to_owned())).or_default() += count;
        }
    }

    /// Makes what a request brought durable.
    ///
    /// # Errors
    /// When the store does not take it; then nothing is kept.
    pub async fn keep(&self, target: &Target, packed: Packed) -> Result<(), Refused> {
        if packed.items.is_empty() && packed.dropped.is_empty() {
            return Ok(());
        }
        let intake = NewIntake {
            app: target.app,
            environment: target.environment,
            received_at: self.shared.store.clock().now(),
            items: packed.items,
            dropped: packed
                .dropped
                .into_iter()
                .map(|Drop { category, reason, count }| (category, reason, count))
                .collect(),
        };
        let (answer, answered) = oneshot::channel();
        let gone = || Refused::Failed(Problem::new(Code::Unavailable, "The daemon is shutting down."));
        self.sender.send((intake, answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?.map_err(Refused::Failed)
    }

    /// Forgets what is known of rules and keys, because they were changed.
    pub fn forget(&self) {
        if let Ok(mut known) = self.shared.known.lock() {
            self.shared.forgotten.fetch_add(1, Ordering::AcqRel);
            known.clear();
        }
    }

    /// Resolves when something new may wait to be digested.
    pub async fn arrived(&self) {
        self.shared.arrived.notified().await;
    }

    /// Tells how much waits.
    pub(super) fn set_backlog(&self, items: i64) {
        self.shared.backlog.store(items, Ordering::Relaxed);
    }

    /// Waits until the task has ended, after the shutdown.
    pub async fn stopped(&self) {
        self.shared.tasks.wait().await;
    }
}

async fn commit(shared: Arc<Shared>, mut receiver: mpsc::Receiver<Waiting>, shutdown: CancellationToken) {
    let mut tick = tokio::time::interval(Duration::from_secs(2));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut note = tokio::time::interval(MINUTE);
    note.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let mut batch = Vec::new();
        tokio::select! {
            biased;
            count = receiver.recv_many(&mut batch, TOGETHER) => if count == 0 { return },
            _ = tick.tick() => {
                write_refused(&shared).await;
                continue;
            }
            _ = note.tick() => {
                write_shown(&shared).await;
                continue;
            }
            () = shutdown.cancelled(), if !receiver.is_closed() => {
                // What is in the queue is still committed; then the loop ends.
                receiver.close();
                write_refused(&shared).await;
                write_shown(&shared).await;
                continue;
            }
        }
        let (requests, answers): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        let kept = shared.store.errors().accept(&requests).await.map_err(Problem::from);
        for answer in answers {
            // Nobody waiting is no error: it is kept all the same.
            let _ = answer.send(kept.clone());
        }
        shared.arrived.notify_one();
    }
}

/// Writes how many were refused since the last time.
async fn write_refused(shared: &Shared) {
    let refused = shared.refused.lock().map(|mut r| std::mem::take(&mut *r)).unwrap_or_default();
    if refused.is_empty() {
        return;
    }
    let now: Timestamp = shared.store.clock().now();
    let rows: Vec<NewIntake> = refused
        .into_iter()
        .map(|((app, environment, category), count)| NewIntake {
            app,
            environment,
            received_at: now,
            items: Vec::new(),
            dropped: vec![(category, "rate_limited".into(), count)],
        })
        .collect();
    if let Err(error) = shared.store.errors().accept(&rows).await {
        tracing::warn!(%error, "refused errors were not counted");
    }
}

/// Writes when keys were shown that were replaced.
async fn write_shown(shared: &Shared) {
    let shown = shared.shown.lock().map(|mut s| std::mem::take(&mut *s)).unwrap_or_default();
    let shown: Vec<_> =
        shown.into_iter().map(|((environment, number), at)| (environment, number, at)).collect();
    if let Err(error) = shared.store.errors().keys_shown(&shown).await {
        tracing::warn!(%error, "it was not noted when old keys of DSNs were used");
    }
}
