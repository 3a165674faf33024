//! Takes access records from the data plane without ever making it wait, and writes them in batches.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use berth_store::{NewRequest, Store};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A batch is written when it has so many records…
const BATCH: usize = 2000;
/// …or its first record has waited so long.
const BATCH_WAIT: Duration = Duration::from_millis(500);
/// Attempts to write a batch before it is dropped and counted: newer records matter more.
const ATTEMPTS: u32 = 3;
const RETRY: Duration = Duration::from_millis(500);

/// Limits of the recorder.
#[derive(Debug, Clone, Copy)]
pub struct RecorderConfig {
    /// Records in memory; what comes when it is full is dropped and counted.
    pub queue: usize,
}

impl Default for RecorderConfig {
    fn default() -> Self {
        Self { queue: 16_384 }
    }
}

/// Records requests. Cheap to clone.
#[derive(Clone)]
pub struct RequestRecorder {
    records: mpsc::Sender<NewRequest>,
    dropped: Arc<AtomicU64>,
    tasks: TaskTracker,
}

impl RequestRecorder {
    /// Starts; ends when `shutdown` is cancelled, after writing what it has.
    #[must_use]
    pub fn start(store: Store, config: RecorderConfig, shutdown: CancellationToken) -> Self {
        let (records, received) = mpsc::channel(config.queue.max(1));
        let dropped = Arc::new(AtomicU64::new(0));
        let tasks = TaskTracker::new();
        tasks.spawn(run(store, received, dropped.clone(), shutdown));
        tasks.close();
        Self { records, dropped, tasks }
    }

    /// Takes a record. Never waits: when there is no room it is dropped and counted.
    pub fn record(&self, request: NewRequest) {
        if self.records.try_send(request).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records that were dropped since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything is written, after the shutdown.
    pub async fn stopped(&self) {
        self.tasks.wait().await;
    }
}

async fn run(
    store: Store,
    mut records: mpsc::Receiver<NewRequest>,
    dropped: Arc<AtomicU64>,
    shutdown: CancellationToken,
) {
    let mut batch: Vec<NewRequest> = Vec::with_capacity(BATCH);
    loop {
        let came = tokio::select! {
            biased;
            came = records.recv_many(&mut batch, BATCH) => came,
            () = shutdown.cancelled(), if !records.is_closed() => {
                // What is in the queue is still received; then it ends.
                records.close();
                continue;
            }
        };
        if came == 0 {
            return;
        }
        let until = Instant::now() + BATCH_WAIT;
        while batch.len() < BATCH && !shutdown.is_cancelled() {
            let room = BATCH - batch.len();
            tokio::select! {
                more = timeout_at(until, records.recv_many(&mut batch, room)) => match more {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                },
                () = shutdown.cancelled() => break,
            }
        }
        write(&store, &batch, &dropped).await;
        batch.clear();
    }
}

async fn write(store: &Store, batch: &[NewRequest], dropped: &AtomicU64) {
    for attempt in 1..=ATTEMPTS {
        match store.requests().append(batch).await {
            Ok(()) => return,
            Err(error) if attempt == ATTEMPTS => {
                tracing::warn!(%error, records = batch.len(), "access records were dropped");
            }
            Err(_) => sleep(RETRY * attempt).await,
        }
    }
    dropped.fetch_add(u64::try_from(batch.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
}
