//! Follows the output of every running replica into the store.
//!
//! One task per container reads, one task for all writes. What is in memory is bounded by one channel: when
//! the store is slow, readers wait and the engine keeps the lines. Only a flood is cut, and counted.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use berth_schemas::{
    Timestamp,
    log::{Level, LogLine},
};
use berth_store::{AppId, LogPosition, NewLogLine, OutputStream, Store};
use futures_util::{FutureExt, StreamExt};
use tokio::{
    sync::{broadcast, mpsc},
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    flood::{FloodGate, FloodLimit},
    level::guess_level,
    log_writer::{self, Item},
    resume::Resume,
    source::{ContainerLogs, RawLine},
};

/// Lines in memory between readers and the writer.
const CHANNEL: usize = 4096;
/// Lines that a live follower may fall behind before it misses some.
const LIVE_BACKLOG: usize = 1024;
/// Between readings of an output that ended or failed; doubled up to the last.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// How long a replica that is no longer watched may take to give its last lines.
const FAREWELL: Duration = Duration::from_secs(3);

/// Limits of the collector.
#[derive(Debug, Clone, Copy)]
pub struct CollectorConfig {
    /// Lines that a container may print a second, for long.
    pub lines_per_second: u32,
    /// Lines that it may print at once.
    pub burst: u32,
}

impl Default for CollectorConfig {
    fn default() -> Self {
        Self { lines_per_second: 1000, burst: 20_000 }
    }
}

/// A running container whose output belongs to an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Id of the container.
    pub container: String,
    /// The app.
    pub app_id: AppId,
    /// Number of the release.
    pub release: i64,
    /// Number of the replica within the release.
    pub replica: i64,
}

/// Collects what replicas print. Cheap to clone.
#[derive(Clone)]
pub struct LogCollector(Arc<Inner>);

struct Inner {
    store: Store,
    source: Arc<dyn ContainerLogs>,
    limit: FloodLimit,
    shutdown: CancellationToken,
    /// Gone once the collector is stopping.
    items: Mutex<Option<mpsc::Sender<Item>>>,
    /// What is watched, each with what ends it.
    watched: Mutex<HashMap<String, CancellationToken>>,
    followers: Arc<Followers>,
    dropped: AtomicU64,
    tasks: TaskTracker,
}

impl LogCollector {
    /// Starts with nothing to watch; ends when `shutdown` is cancelled.
    #[must_use]
    pub fn start(
        store: Store,
        source: Arc<dyn ContainerLogs>,
        config: CollectorConfig,
        shutdown: CancellationToken,
    ) -> Self {
        let (items, received) = mpsc::channel(CHANNEL);
        let followers = Arc::new(Followers::default());
        let tasks = TaskTracker::new();
        tasks.spawn(log_writer::run(store.clone(), received, followers.clone(), shutdown.clone()));
        let limit = FloodLimit {
            per_second: i64::from(config.lines_per_second.max(1)),
            burst: i64::from(config.burst.max(1)),
        };
        let inner = Arc::new(Inner {
            store,
            source,
            limit,
            shutdown: shutdown.clone(),
            items: Mutex::new(Some(items)),
            watched: Mutex::default(),
            followers,
            dropped: AtomicU64::new(0),
            tasks,
        });
        let closing = Arc::downgrade(&inner);
        inner.tasks.spawn(async move {
            shutdown.cancelled().await;
            if let Some(inner) = closing.upgrade() {
                lock(&inner.items).take();
                inner.tasks.close();
            }
        });
        Self(inner)
    }

    /// Follows a replica from where it was left, or from its first line. Watching it twice is once.
    pub fn watch(&self, replica: Replica) {
        let Some(items) = lock(&self.0.items).clone() else { return };
        let leave = {
            let mut watched = lock(&self.0.watched);
            if watched.contains_key(&replica.container) {
                return;
            }
            let leave = self.0.shutdown.child_token();
            watched.insert(replica.container.clone(), leave.clone());
            leave
        };
        self.0.tasks.spawn(supervise(self.0.clone(), replica, items, leave));
    }

    /// Stops following a container, after its last lines.
    pub fn unwatch(&self, container: &str) {
        if let Some(leave) = lock(&self.0.watched).remove(container) {
            leave.cancel();
        }
    }

    /// Watches exactly these.
    pub fn watch_only(&self, replicas: Vec<Replica>) {
        let gone: Vec<String> = lock(&self.0.watched)
            .keys()
            .filter(|c| !replicas.iter().any(|r| r.container == **c))
            .cloned()
            .collect();
        gone.iter().for_each(|c| self.unwatch(c));
        replicas.into_iter().for_each(|r| self.watch(r));
    }

    /// Lines of an app from now on, each after it was stored, with the ids that a search gives them. A
    /// receiver that falls more than 1024 behind is told so and catches up by a search.
    #[must_use]
    pub fn subscribe(&self, app: AppId) -> broadcast::Receiver<LogLine> {
        self.0.followers.subscribe(app)
    }

    /// Lines that were cut from floods since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything is written and all tasks have ended, after the shutdown.
    pub async fn stopped(&self) {
        self.0.tasks.wait().await;
    }
}

/// Keeps a container followed until it is no longer watched, whatever happens to a reading.
async fn supervise(inner: Arc<Inner>, replica: Replica, items: mpsc::Sender<Item>, leave: CancellationToken) {
    let mut pause = AGAIN.0;
    let mut resume: Option<Resume> = None;
    while !leave.is_cancelled() {
        let began = Instant::now();
        let reading = read(&inner, &replica, &items, &leave, &mut resume);
        if AssertUnwindSafe(reading).catch_unwind().await.is_err() {
            tracing::error!(container = replica.container, "following a container's output panicked");
        }
        if began.elapsed() > AGAIN.1 {
            pause = AGAIN.0;
        }
        tokio::select! {
            () = sleep(pause) => pause = (pause * 2).min(AGAIN.1),
            () = leave.cancelled() => break,
        }
    }
}

/// Reads an output until it ends, fails or is left.
async fn read(
    inner: &Inner,
    replica: &Replica,
    items: &mpsc::Sender<Item>,
    leave: &CancellationToken,
    resume: &mut Option<Resume>,
) {
    if resume.is_none() {
        match inner.store.logs().positions(&replica.container).await {
            Ok(positions) => *resume = Some(Resume::from_positions(&positions)),
            Err(error) => {
                tracing::warn!(%error, container = replica.container, "cannot tell how far a log was read");
                return;
            }
        }
    }
    let Some(resume) = resume else { return };
    let mut lines = inner.source.follow(&replica.container, resume.begin());
    let mut gate = FloodGate::new(inner.limit);
    let mut farewell: Option<Instant> = None;
    loop {
        let next = tokio::select! {
            biased;
            () = inner.shutdown.cancelled() => break,
            () = leave.cancelled(), if farewell.is_none() => {
                farewell = Some(Instant::now() + FAREWELL);
                continue;
            }
            () = at(farewell) => break,
            next = lines.next() => next,
        };
        let line = match next {
            None => break,
            Some(Ok(line)) => line,
            Some(Err(error)) => {
                tracing::debug!(%error, container = replica.container, "a container's output broke off");
                break;
            }
        };
        if !resume.admit(line.stream, line.at_nanos) || !gate.admit(line.at_nanos) {
            continue;
        }
        let note = note(inner, replica, &mut gate, line.at_nanos);
        let item = item(replica, resume, line);
        for item in note.into_iter().chain([item]) {
            if items.send(item).await.is_err() {
                return;
            }
        }
    }
    if let Some(note) = note(inner, replica, &mut gate, inner.store.clock().now().0.saturating_mul(1000)) {
        let _ = items.send(note).await;
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// A line with how far the container was read.
fn item(replica: &Replica, resume: &Resume, line: RawLine) -> Item {
    let position = resume.reached(line.stream).map(|(at_nanos, repeats)| LogPosition {
        container: replica.container.clone(),
        stream: line.stream,
        app_id: replica.app_id,
        at_nanos,
        repeats,
    });
    let level = guess_level(&line.text);
    Item { line: new_line(replica, line.stream, level, line.at_nanos, line.text), position }
}

/// What to say about lines that were cut since the last line, if any were.
fn note(inner: &Inner, replica: &Replica, gate: &mut FloodGate, at_nanos: i64) -> Option<Item> {
    let cut = gate.take_held_back();
    if cut == 0 {
        return None;
    }
    inner.dropped.fetch_add(cut, Ordering::Relaxed);
    let text = format!(
        "[berth] {cut} line(s) were dropped here: the container printed more than {} lines a second",
        inner.limit.per_second
    );
    let line = new_line(replica, OutputStream::Stderr, Level::Warn, at_nanos, text);
    Some(Item { line, position: None })
}

fn new_line(
    replica: &Replica,
    stream: OutputStream,
    level: Level,
    at_nanos: i64,
    text: String,
) -> NewLogLine {
    NewLogLine {
        app_id: replica.app_id,
        release: replica.release,
        replica: replica.replica,
        stream,
        level,
        at: Timestamp(at_nanos / 1000),
        text,
    }
}

/// Those who follow an app's lines live.
#[derive(Default)]
pub(crate) struct Followers(Mutex<HashMap<AppId, broadcast::Sender<LogLine>>>);

impl Followers {
    fn subscribe(&self, app: AppId) -> broadcast::Receiver<LogLine> {
        let mut map = lock(&self.0);
        // Those that everybody has left go when somebody comes.
        map.retain(|_, sender| sender.receiver_count() > 0);
        map.entry(app).or_insert_with(|| broadcast::channel(LIVE_BACKLOG).0).subscribe()
    }

    /// Sends a line to those who follow its app; makes it only if there are any.
    pub(crate) fn tell(&self, app: AppId, line: impl FnOnce() -> LogLine) {
        if let Some(sender) = lock(&self.0).get(&app)
            && sender.receiver_count() > 0
        {
            let _ = sender.send(line());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
