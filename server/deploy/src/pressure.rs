//! A disk that runs full: noticed, and answered with a cleanup before builds must be refused.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use berth_schemas::{Problem, job::JobKind};
use berth_store::model::Principal;

use crate::{attempt::io_problem, pipeline::Inner, room::Room};

/// The disk is looked at this often, the first time soon after the start.
const LOOK: Duration = Duration::from_secs(60);
const FIRST_LOOK: Duration = Duration::from_secs(5);
/// Below this share of a disk, in percent, free space counts as scarce…
const SCARCE_PERCENT: u64 = 15;
/// …but a large disk with this much free is not in need.
const ENOUGH: u64 = 20 << 30;
/// After a cleanup nothing is done for this long, unless much of what was left has gone.
const PATIENCE: Duration = Duration::from_secs(3600);

impl Room {
    /// Free space below this is scarce, where `floor` must stay free for builds to begin.
    fn threshold(self, floor: u64) -> u64 {
        (self.total / 100 * SCARCE_PERCENT).min(ENOUGH).max(floor.saturating_mul(2))
    }
}

/// Decides when to clean up, so that a disk which stays full is not cleaned in a loop.
#[derive(Debug, Default)]
struct Watch {
    /// When the last cleanup was begun, and the free space at the look after it.
    last: Option<(Instant, Option<u64>)>,
}

impl Watch {
    fn decide(&mut self, room: Room, floor: u64, now: Instant) -> bool {
        let threshold = room.threshold(floor);
        // A little more than the threshold, so that a value that trembles around it does not count as well.
        if room.free >= threshold + threshold / 10 {
            self.last = None;
            return false;
        }
        if room.free >= threshold {
            return false;
        }
        let again = match &mut self.last {
            None => true,
            Some((at, _)) if now.duration_since(*at) >= PATIENCE => true,
            // What the cleanup left is known at the first look after it.
            Some((_, left @ None)) => {
                *left = Some(room.free);
                false
            }
            Some((_, Some(left))) => room.free < *left / 4 * 3,
        };
        if again {
            self.last = Some((now, None));
        }
        again
    }
}

impl Inner {
    /// Looks at the disks from time to time, and cleans up when one runs full.
    pub(crate) async fn watch_disks(self: Arc<Self>) {
        let mut watch = Watch::default();
        let mut pause = FIRST_LOOK;
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => pause = LOOK,
            }
            let room = match self.room().await {
                Ok(room) => room,
                Err(problem) => {
                    tracing::debug!(%problem, "the disk could not be looked at");
                    continue;
                }
            };
            if watch.decide(room, self.config.min_free_bytes, Instant::now()) {
                let threshold = room.threshold(self.config.min_free_bytes);
                tracing::warn!(free = room.free, threshold, "the disk runs full: cleaning up");
                let input = serde_json::json!({ "free_bytes": room.free, "threshold_bytes": threshold });
                let begun = self.enqueue_job(&Principal::daemon(), JobKind::Cleanup, None, None, input).await;
                if let Err(problem) = begun {
                    tracing::warn!(%problem, "a cleanup could not begin");
                }
            }
        }
    }

    /// Room on the disk that has less of it: that of the data directory, or that of the engine.
    pub(crate) async fn room(&self) -> Result<Room, Problem> {
        let data = room_of(self.config.data_dir.clone()).await?;
        let engine = self
            .engine
            .info()
            .await
            .ok()
            .and_then(|info| Some(Room { free: info.disk_free_bytes?, total: info.disk_total_bytes? }));
        let share = |room: &Room| (u128::from(room.free) << 32) / u128::from(room.total.max(1));
        Ok(engine.into_iter().chain([data]).min_by_key(share).unwrap_or(data))
    }
}

async fn room_of(path: PathBuf) -> Result<Room, Problem> {
    let measured = tokio::task::spawn_blocking(move || Room::of(&path)).await;
    let measured = measured.map_err(std::io::Error::other).and_then(|room| room);
    measured.map_err(|e| io_problem("measuring the data directory's disk", &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn room(free: u64) -> Room {
        Room { free: free * GIB, total: 100 * GIB }
    }

    #[test]
    fn scarce_is_a_share_of_the_disk_or_twice_what_must_stay_free() {
        assert_eq!(room(1).threshold(GIB), 15 * GIB);
        assert_eq!(room(1).threshold(30 * GIB), 60 * GIB);
        let large = Room { free: 0, total: 4000 * GIB };
        assert_eq!(large.threshold(GIB), 20 * GIB, "a large disk is not in need with so much free");
    }

    #[test]
    fn a_disk_that_stays_full_is_not_cleaned_in_a_loop() {
        let mut watch = Watch::default();
        let now = Instant::now();
        let mut decide = |free, seconds| watch.decide(room(free), GIB, now + Duration::from_secs(seconds));
        assert!(!decide(40, 0));
        assert!(decide(12, 60));
        assert!(!decide(12, 120) && !decide(12, 180) && !decide(11, 240), "nothing more could be freed");
        assert!(decide(8, 300), "much of the rest has gone");
        assert!(!decide(8, 360));
        assert!(decide(8, 300 + 3600), "once in an hour all the same");
        assert!(!decide(16, 4000), "above the threshold, but not by much");
        assert!(!decide(14, 4060));
        assert!(!decide(20, 4120));
        assert!(decide(12, 4180), "after it had been well again");
    }
}
