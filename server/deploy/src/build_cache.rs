//! Berth's own part of the engine's build cache: knowing it, and keeping it within its bound.
//!
//! The engine notes no owner of a record. So after each build those are noted that came to be while it ran and that
//! nothing speaks against: the description of an executed step holds its command, and a command that none of our builds
//! had is somebody else's. When such a one came to be in the same time, only what our commands made is noted.
//! What stays possible: another user's build that at the very same time only copies files; its records hold nothing
//! that cannot be made again.

use std::collections::{HashSet, VecDeque};

use berth_schemas::{Problem, Timestamp};

use crate::{docker::CacheRecord, fault::engine_problem, lock::lock, pipeline::Inner};

/// Names of steps that are remembered.
const STEPS: usize = 4000;
/// The engine may count time a little differently.
const LEEWAY_MICROS: i64 = 1_000_000;
/// Rounds of dropping: what others are made from can only go after them.
const ROUNDS: u32 = 6;

/// Names of the steps of our builds, the newest ones.
#[derive(Default)]
pub(crate) struct Steps(VecDeque<String>);

impl Steps {
    pub(crate) fn add(&mut self, names: Vec<String>) {
        self.0.extend(names);
        while self.0.len() > STEPS {
            self.0.pop_front();
        }
    }
}

impl Inner {
    /// Notes what a build that began at a moment has put into the engine's cache.
    pub(crate) async fn note_cache(&self, begun: Timestamp) {
        let until = Timestamp::now().micros() + LEEWAY_MICROS;
        let noted = async {
            let records = self.engine.build_cache().await.map_err(|e| engine_problem(&e))?;
            let own = {
                let steps = lock(&self.steps);
                made(&records, begun.micros() - LEEWAY_MICROS, until, &steps)
            };
            self.store.build_cache().note(&own).await?;
            Ok::<_, Problem>(())
        };
        if let Err(problem) = noted.await {
            tracing::warn!(%problem, "what a build put into the cache is not known; it is not dropped by Berth");
        }
    }

    /// Our records of the engine's build cache. Those that the engine dropped by itself are forgotten.
    pub(crate) async fn own_cache(&self) -> Result<Vec<CacheRecord>, Problem> {
        // First those that are noted: what is noted later is in the engine's list, or in the next one.
        let noted: HashSet<String> = self.store.build_cache().all().await?.into_iter().collect();
        let all = self.engine.build_cache().await.map_err(|e| engine_problem(&e))?;
        let own: Vec<CacheRecord> = all.into_iter().filter(|r| noted.contains(&r.id)).collect();
        let there: HashSet<&str> = own.iter().map(|r| r.id.as_str()).collect();
        let gone: Vec<String> = noted.iter().filter(|id| !there.contains(id.as_str())).cloned().collect();
        self.store.build_cache().forget(&gone).await?;
        Ok(own)
    }

    /// Drops our least recently used records until those that are left take at most `keep` bytes. Returns the bytes
    /// that were freed.
    pub(crate) async fn bound_cache(&self, keep: u64) -> Result<u64, Problem> {
        let mut freed = 0;
        for round in 0..ROUNDS {
            let own = self.own_cache().await?;
            let drop = to_drop(own, keep, round);
            if drop.is_empty() {
                break;
            }
            freed += self.engine.prune_build_cache(&drop).await.map_err(|e| engine_problem(&e))?;
        }
        Ok(freed)
    }
}

/// The bytes that records take besides images: shared ones are layers of images, and counted there.
pub(crate) fn own_bytes(records: &[CacheRecord]) -> u64 {
    records.iter().filter(|r| !r.shared).map(|r| r.bytes).sum()
}

/// The records that our builds made between two moments.
fn made(records: &[CacheRecord], from: i64, until: i64, steps: &Steps) -> Vec<String> {
    let new: Vec<&CacheRecord> = records.iter().filter(|r| (from..=until).contains(&r.created_at)).collect();
    let ours = |command: &str| steps.0.iter().any(|step| step.ends_with(command));
    let others = new.iter().any(|r| command_of(&r.description).is_some_and(|c| !ours(c)));
    new.into_iter()
        .filter(|r| !others || command_of(&r.description).is_some_and(ours))
        .map(|r| r.id.clone())
        .collect()
}

/// The command in `mount / from exec /bin/sh -c npm ci`.
fn command_of(description: &str) -> Option<&str> {
    let (_, command) = description.split_once(" from exec ")?;
    Some(command.strip_prefix("/bin/sh -c ").unwrap_or(command))
}

/// The least recently used records beyond the bound; in later rounds more, because some could not go alone.
fn to_drop(mut own: Vec<CacheRecord>, keep: u64, round: u32) -> Vec<String> {
    let excess = own_bytes(&own).saturating_sub(keep);
    if excess == 0 {
        return Vec::new();
    }
    own.retain(|r| !r.shared && !r.in_use);
    own.sort_by_key(|r| (r.last_used_at, r.created_at));
    let wanted = excess.saturating_mul(1 << round);
    let mut sum = 0;
    own.into_iter()
        .take_while(|r| {
            let before = sum;
            sum += r.bytes;
            before < wanted
        })
        .map(|r| r.id)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, created_at: i64, bytes: u64, description: &str) -> CacheRecord {
        CacheRecord {
            id: id.into(),
            bytes,
            in_use: false,
            shared: false,
            created_at,
            last_used_at: created_at,
            description: description.into(),
        }
    }

    fn steps(names: &[&str]) -> Steps {
        let mut steps = Steps::default();
        steps.add(names.iter().map(|n| (*n).to_owned()).collect());
        steps
    }

    #[test]
    fn what_came_to_be_during_a_build_is_its_own() {
        let records = [
            record("old", 1, 9, "mount / from exec /bin/sh -c npm ci"),
            record("run", 11, 9, "mount / from exec /bin/sh -c npm ci"),
            record("mount", 12, 9, "cached mount /root/.npm from exec /bin/sh -c npm ci"),
            record("copy", 13, 9, "fileop target"),
            record("later", 30, 9, "fileop target"),
        ];
        let own = made(&records, 10, 20, &steps(&["[2/3] RUN --mount=type=cache,target=/root/.npm npm ci"]));
        assert_eq!(own, ["run", "mount", "copy"]);
    }

    #[test]
    fn beside_somebody_elses_build_only_what_is_surely_ours_is_noted() {
        let records = [
            record("run", 11, 9, "mount / from exec /bin/sh -c npm ci"),
            record("foreign", 12, 9, "mount / from exec /bin/sh -c make all"),
            record("copy", 13, 9, "fileop target"),
        ];
        assert_eq!(made(&records, 10, 20, &steps(&["[2/3] RUN npm ci"])), ["run"]);
    }

    #[test]
    fn the_least_recently_used_go_first_and_no_more_than_needed() {
        let mut own = vec![record("b", 2, 40, ""), record("a", 1, 40, ""), record("c", 3, 40, "")];
        own.push(CacheRecord { shared: true, ..record("layer", 0, 1000, "") });
        own.push(CacheRecord { in_use: true, ..record("used", 0, 10, "") });
        assert_eq!(to_drop(own.clone(), 130, 0), [""; 0], "it fits");
        assert_eq!(to_drop(own.clone(), 100, 0), ["a"]);
        assert_eq!(to_drop(own.clone(), 60, 0), ["a", "b"]);
        assert_eq!(to_drop(own.clone(), 100, 2), ["a", "b", "c"], "what others are made from goes with them");
        assert_eq!(to_drop(own, 0, 0), ["a", "b", "c"]);
    }
}
