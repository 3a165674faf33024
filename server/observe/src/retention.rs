//! Keeps runtime logs, request records, errors and the audit log within their limits of age and size.

use std::time::Duration;

use berth_schemas::Timestamp;
use berth_store::{ErrorsKept, MapsKept, Result, Store};
use tokio::time::{Instant, sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::errors::{ErrorIndex, Maps, maps::MapError};

/// Pages of a SQLite file that are given back after a pruning, at most: some 4 MiB, a short pause for writers.
const SHRINK_PAGES: u32 = 1024;

/// How often maps are looked at: they come with releases, and go by days.
const MAPS: Duration = Duration::from_secs(3600);

/// How long and how much to keep, of all apps together.
#[derive(Debug, Clone, Copy)]
pub struct RetentionConfig {
    /// Age of the oldest log line.
    pub log_age: Duration,
    /// Bytes of log lines.
    pub log_bytes: u64,
    /// Age of the oldest request record.
    pub request_age: Duration,
    /// Bytes of request records.
    pub request_bytes: u64,
    /// Age of the oldest error event of an app without rules of its own; issues without events are kept twice as long.
    pub error_age: Duration,
    /// Error events of each app without rules of its own.
    pub error_events: u64,
    /// Age of source maps of a release that neither serves nor has events.
    pub map_age: Duration,
    /// Releases of each app whose source maps are kept anyway, the newest.
    pub map_releases: u64,
    /// Age of the oldest call in the audit log.
    pub call_age: Duration,
    /// Calls in the audit log.
    pub calls: u64,
    /// How often to look.
    pub every: Duration,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        const DAY: u64 = 24 * 3600;
        Self {
            log_age: Duration::from_secs(7 * DAY),
            log_bytes: 512 << 20,
            request_age: Duration::from_secs(3 * DAY),
            request_bytes: 256 << 20,
            error_age: Duration::from_secs(90 * DAY),
            error_events: 1_000_000,
            map_age: Duration::from_secs(90 * DAY),
            map_releases: 100,
            call_age: Duration::from_secs(90 * DAY),
            calls: 500_000,
            every: Duration::from_secs(60),
        }
    }
}

/// The task that removes what is too old or too much.
pub struct Retention {
    tasks: TaskTracker,
}

impl Retention {
    /// Starts; ends when `shutdown` is cancelled, between two pieces of work.
    #[must_use]
    pub fn start(
        store: Store,
        index: ErrorIndex,
        maps: Maps,
        config: RetentionConfig,
        shutdown: CancellationToken,
    ) -> Self {
        let tasks = TaskTracker::new();
        tasks.spawn(async move {
            let mut maps_at = Instant::now();
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = sleep(config.every) => {}
                }
                // Dropped in the middle it leaves a piece undone, which the next round does.
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    done = prune(&store, &index, &config) => if let Err(error) = done {
                        tracing::warn!(%error, "old logs, requests, errors and calls were not removed");
                    },
                }
                if Instant::now() < maps_at {
                    continue;
                }
                maps_at = Instant::now() + MAPS;
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    done = prune_maps(&maps, &config) => if let Err(error) = done {
                        tracing::warn!(%error, "old source maps were not removed");
                    },
                }
            }
        });
        tasks.close();
        Self { tasks }
    }

    /// Waits until the task has ended, after the shutdown.
    pub async fn stopped(&self) {
        self.tasks.wait().await;
    }
}

/// Removes what is too old or too much, once.
async fn prune(store: &Store, index: &ErrorIndex, config: &RetentionConfig) -> Result<()> {
    let now = store.clock().now();
    let bytes = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let logs = store.logs().prune(before(now, config.log_age), bytes(config.log_bytes)).await?;
    let requests =
        store.requests().prune(before(now, config.request_age), bytes(config.request_bytes)).await?;
    let kept = ErrorsKept { age: config.error_age, events: bytes(config.error_events) };
    let (errors, gone) = store.errors().prune(kept).await?;
    if !gone.is_empty() {
        index.remove_before(gone).await;
    }
    let calls = store.calls().prune(before(now, config.call_age), bytes(config.calls)).await?;
    if logs.rows + requests.rows + errors.rows + calls.rows > 0 {
        let (lines, requests, errors, calls) = (logs.rows, requests.rows, errors.rows, calls.rows);
        tracing::debug!(lines, requests, errors, calls, "removed old logs, requests, errors and calls");
        store.shrink(SHRINK_PAGES).await?;
    }
    Ok(())
}

async fn prune_maps(maps: &Maps, config: &RetentionConfig) -> std::result::Result<(), MapError> {
    let releases = usize::try_from(config.map_releases).unwrap_or(usize::MAX);
    let kept = MapsKept { age: config.map_age, releases, events: config.error_age };
    let gone = maps.prune(kept).await?;
    if gone > 0 {
        tracing::debug!(gone, "removed old source maps");
    }
    Ok(())
}

fn before(now: Timestamp, age: Duration) -> Timestamp {
    Timestamp(now.0.saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX)))
}
