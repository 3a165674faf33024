//! What the daemon forgets by age and size: lines of apps, access records, uploads that nobody deployed.

use std::{path::PathBuf, time::Duration};

use berth_schemas::Timestamp;
use berth_store::{Store, StoreError};
use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::{config::Config, rest::uploads};

/// Time between rounds.
const EVERY: Duration = Duration::from_mins(10);
/// Pages of the database file given back to the system per round, at most.
const SHRINK_PAGES: u32 = 5_000;
/// Bytes of access records kept, at most.
const REQUESTS_MAX: i64 = 1 << 30;

/// How much is kept.
#[derive(Debug, Clone)]
pub struct Limits {
    data_dir: PathBuf,
    logs: Duration,
    logs_bytes: i64,
    requests: Duration,
}

impl Limits {
    /// The limits that the configuration sets.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self {
            data_dir: config.data_dir.clone(),
            logs: config.log_retention,
            logs_bytes: i64::try_from(config.log_max_bytes).unwrap_or(i64::MAX),
            requests: config.request_retention,
        }
    }
}

/// Keeps the store within its limits until the shutdown.
pub async fn run(store: Store, limits: Limits, shutdown: CancellationToken) {
    let mut rounds = time::interval(EVERY);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = rounds.tick() => {}
        }
        if let Err(error) = round(&store, &limits).await {
            tracing::warn!(%error, "housekeeping did not finish; it is tried again in {} min", EVERY.as_secs() / 60);
        }
    }
}

async fn round(store: &Store, limits: &Limits) -> Result<(), StoreError> {
    let logs = store.logs().prune(before(limits.logs), limits.logs_bytes).await?;
    let requests = store.requests().prune(before(limits.requests), REQUESTS_MAX).await?;
    if logs.rows + requests.rows > 0 {
        tracing::debug!(lines = logs.rows, requests = requests.rows, "forgot what was too old or too much");
        store.shrink(SHRINK_PAGES).await?;
    }
    for upload in store.uploads().expired(before(uploads::KEPT)).await? {
        // First the row: a file without a row is swept at the next start, a row without a file misleads.
        if store.uploads().delete(&upload.id).await? {
            let _ =
                tokio::fs::remove_file(uploads::directory(&limits.data_dir).join(upload.id.as_str())).await;
        }
    }
    Ok(())
}

fn before(age: Duration) -> Timestamp {
    Timestamp(Timestamp::now().0 - i64::try_from(age.as_micros()).unwrap_or(0))
}
