//! The log of one deployment while it is worked on: lines are numbered and kept by the store in small batches,
//! then told to whoever watches.
//!
//! A watcher therefore never sees a line that a restart could lose.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use berth_schemas::{
    Timestamp, Untrusted,
    deployment::{BuildLine, BuildLineKind, DeploymentState},
};
use berth_store::{
    Store,
    model::{DeploymentId, NewBuildLine},
};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::lock::lock;

/// Lines are kept together for at most this long before they are committed.
const BATCH_TIME: Duration = Duration::from_millis(100);
/// Or until there are this many.
const BATCH_LINES: usize = 256;
/// Lines that may wait for the store; a build that prints faster waits for it.
const QUEUE: usize = 1024;
/// A watcher that falls this far behind misses lines and reads them from the store.
const WATCHER_LAG: usize = 4096;
/// Longest line that is kept, in bytes.
const MAX_LINE: usize = 4096;

/// Something that happened to a deployment.
#[derive(Debug, Clone)]
pub enum DeploymentUpdate {
    /// It entered a state.
    State {
        /// The state.
        state: DeploymentState,
        /// Why, where that needs saying.
        reason: Option<String>,
    },
    /// A line of its log.
    Line(BuildLine),
}

/// The channels of all deployments that somebody watches or that are worked on.
#[derive(Clone, Default)]
pub(crate) struct Watchers(Arc<Mutex<HashMap<DeploymentId, broadcast::Sender<DeploymentUpdate>>>>);

impl Watchers {
    /// What happens to a deployment from now on.
    pub(crate) fn watch(&self, id: DeploymentId) -> broadcast::Receiver<DeploymentUpdate> {
        let mut map = lock(&self.0);
        map.retain(|key, sender| *key == id || sender.receiver_count() > 0);
        map.entry(id).or_insert_with(|| broadcast::channel(WATCHER_LAG).0).subscribe()
    }

    /// Tells those who watch.
    pub(crate) fn tell(&self, id: DeploymentId, update: DeploymentUpdate) {
        let map = lock(&self.0);
        if let Some(sender) = map.get(&id) {
            // Nobody listening is fine.
            let _ = sender.send(update);
        }
    }
}

enum Entry {
    Line(NewBuildLine),
    Flush(oneshot::Sender<()>),
}

/// Writes the log of one deployment.
#[derive(Clone)]
pub(crate) struct Journal {
    entries: mpsc::Sender<Entry>,
    state: Arc<Mutex<DeploymentState>>,
}

impl Journal {
    /// Begins to write; ends when the last clone is dropped.
    pub(crate) fn open(
        store: Store,
        watchers: Watchers,
        id: DeploymentId,
        state: DeploymentState,
        tasks: &tokio_util::task::TaskTracker,
    ) -> Self {
        let (entries, receiver) = mpsc::channel(QUEUE);
        tasks.spawn(write(store, watchers, id, receiver));
        Self { entries, state: Arc::new(Mutex::new(state)) }
    }

    /// Lines from now on belong to this state.
    pub(crate) fn enter(&self, state: DeploymentState) {
        *lock(&self.state) = state;
    }

    /// Adds a remark of Berth's own.
    pub(crate) async fn note(&self, text: impl Into<String>) {
        self.line(BuildLineKind::Note, None, text.into()).await;
    }

    /// Adds a line. Waits while the store is behind.
    pub(crate) async fn line(&self, kind: BuildLineKind, step: Option<String>, mut text: String) {
        if text.len() > MAX_LINE {
            let cut = (0..=MAX_LINE).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
            text.truncate(cut);
            text.push('…');
        }
        let state = *lock(&self.state);
        let line = NewBuildLine { at: Timestamp::now(), state, kind, step, text };
        // The writer ends only after the last sender, so this fails only while the daemon goes down.
        let _ = self.entries.send(Entry::Line(line)).await;
    }

    /// Returns when everything written so far is kept.
    pub(crate) async fn flush(&self) {
        let (done, wait) = oneshot::channel();
        if self.entries.send(Entry::Flush(done)).await.is_ok() {
            let _ = wait.await;
        }
    }
}

async fn write(store: Store, watchers: Watchers, id: DeploymentId, mut entries: mpsc::Receiver<Entry>) {
    let mut batch = Vec::new();
    let mut waiting = Vec::new();
    while let Some(first) = entries.recv().await {
        take(first, &mut batch, &mut waiting);
        let deadline = tokio::time::Instant::now() + BATCH_TIME;
        while batch.len() < BATCH_LINES && waiting.is_empty() {
            match tokio::time::timeout_at(deadline, entries.recv()).await {
                Ok(Some(entry)) => take(entry, &mut batch, &mut waiting),
                Ok(None) | Err(_) => break,
            }
        }
        keep(&store, &watchers, id, std::mem::take(&mut batch)).await;
        for done in waiting.drain(..) {
            let _ = done.send(());
        }
    }
}

fn take(entry: Entry, batch: &mut Vec<NewBuildLine>, waiting: &mut Vec<oneshot::Sender<()>>) {
    match entry {
        Entry::Line(line) => batch.push(line),
        Entry::Flush(done) => waiting.push(done),
    }
}

async fn keep(store: &Store, watchers: &Watchers, id: DeploymentId, lines: Vec<NewBuildLine>) {
    if lines.is_empty() {
        return;
    }
    let count = i64::try_from(lines.len()).unwrap_or(i64::MAX);
    let last = match store.deployments().append_lines(id, lines.clone()).await {
        Ok(last) => last,
        Err(error) => {
            tracing::error!(deployment = id.0, %error, "lines of a deployment's log were not kept");
            return;
        }
    };
    let first = last - count + 1;
    for (line, number) in lines.into_iter().zip(first..) {
        watchers.tell(
            id,
            DeploymentUpdate::Line(BuildLine {
                line: number,
                at: line.at,
                state: line.state,
                kind: line.kind,
                step: Untrusted::maybe(line.step),
                text: Untrusted(line.text),
            }),
        );
    }
}
