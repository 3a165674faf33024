//! The one task that writes lines: gathers what all followers send into batches, and tells live followers
//! what was committed.

use std::time::Duration;

use berth_schemas::{Untrusted, log::LogLine};
use berth_store::{LogPosition, NewLogLine, Store};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::collector::Followers;

/// A batch is written when it has so many lines…
const BATCH_LINES: usize = 500;
/// …or its first line has waited so long.
const BATCH_WAIT: Duration = Duration::from_millis(200);
/// Between attempts to write a batch that the store refused; doubled up to the last.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// Attempts once the daemon is stopping. What is not written then is read again at the next start.
const LAST_ATTEMPTS: u32 = 3;

/// A line and how far its container was read with it.
pub(crate) struct Item {
    pub(crate) line: NewLogLine,
    pub(crate) position: Option<LogPosition>,
}

/// Writes until all senders are gone and the channel is empty.
pub(crate) async fn run(
    store: Store,
    mut items: mpsc::Receiver<Item>,
    followers: std::sync::Arc<Followers>,
    shutdown: CancellationToken,
) {
    let mut batch: Vec<Item> = Vec::with_capacity(BATCH_LINES);
    while items.recv_many(&mut batch, BATCH_LINES).await > 0 {
        let until = Instant::now() + BATCH_WAIT;
        while batch.len() < BATCH_LINES {
            let room = BATCH_LINES - batch.len();
            match timeout_at(until, items.recv_many(&mut batch, room)).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        write(&store, &mut batch, &followers, &shutdown).await;
    }
}

/// Writes a batch, however long it takes: followers wait meanwhile, and the engine keeps what they do not
/// read. Only when the daemon is stopping is a batch given up.
async fn write(store: &Store, batch: &mut Vec<Item>, followers: &Followers, shutdown: &CancellationToken) {
    let (lines, positions): (Vec<_>, Vec<_>) = batch.drain(..).map(|i| (i.line, i.position)).unzip();
    let positions = latest(positions.into_iter().flatten());
    let mut pause = RETRY.0;
    let mut last_attempts = 0;
    loop {
        match store.logs().append(&lines, &positions).await {
            Ok(ids) => return tell(&lines, &ids, followers),
            Err(error) => {
                tracing::warn!(%error, lines = lines.len(), "log lines were not written; trying again");
                last_attempts += u32::from(shutdown.is_cancelled());
                if last_attempts >= LAST_ATTEMPTS {
                    tracing::error!(%error, lines = lines.len(), "log lines are left for the next start");
                    return;
                }
            }
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = shutdown.cancelled(), if last_attempts == 0 => {}
        }
        pause = (pause * 2).min(RETRY.1);
    }
}

/// The last position of each output.
fn latest(positions: impl Iterator<Item = LogPosition>) -> Vec<LogPosition> {
    let mut last: Vec<LogPosition> = Vec::new();
    for position in positions {
        match last.iter_mut().find(|p| p.container == position.container && p.stream == position.stream) {
            Some(known) => *known = position,
            None => last.push(position),
        }
    }
    last
}

fn tell(lines: &[NewLogLine], ids: &[i64], followers: &Followers) {
    for (line, id) in lines.iter().zip(ids) {
        followers.tell(line.app_id, || LogLine {
            id: *id,
            at: line.at,
            release: line.release,
            replica: line.replica,
            stream: line.stream.as_str().to_owned(),
            level: line.level,
            text: Untrusted(line.text.clone()),
        });
    }
}
