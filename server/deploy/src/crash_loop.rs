//! Apps that keep dying: told once for each episode, and once when it is over.
//!
//! Restarting them is the engine's part, with a pause that doubles up to a minute. Episodes are measured by the clock
//! that only goes forward; a restart of the daemon begins to count anew.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use berth_schemas::{Code, Problem, Timestamp};
use berth_store::model::{AppRow, EnvironmentId};
use tokio::time::Instant;

use crate::{
    lock::lock,
    pipeline::{Inner, Pipeline},
};

/// So many deaths…
const DEATHS: usize = 3;
/// …within this time are an episode.
const WITHIN: Duration = Duration::from_secs(300);
/// An episode is over when nothing died for so long: twice the longest pause of the engine.
const QUIET: Duration = Duration::from_secs(120);

/// The deaths of all environments.
#[derive(Default)]
pub(crate) struct CrashLoops(Mutex<HashMap<EnvironmentId, Deaths>>);

#[derive(Default)]
struct Deaths {
    recent: VecDeque<Instant>,
    /// Since when it is an episode, and how often it has died in it.
    episode: Option<(Timestamp, usize)>,
    last_exit: i64,
}

impl CrashLoops {
    /// Counts a death. Returns whether an episode begins with it.
    fn died(&self, environment: EnvironmentId, exit: i64, now: Instant, wall: Timestamp) -> bool {
        let mut all = self.lock();
        let deaths = all.entry(environment).or_default();
        deaths.last_exit = exit;
        deaths.recent.push_back(now);
        while deaths.recent.front().is_some_and(|at| now.duration_since(*at) > WITHIN) {
            deaths.recent.pop_front();
        }
        match &mut deaths.episode {
            Some((_, count)) => {
                *count += 1;
                false
            }
            None if deaths.recent.len() >= DEATHS => {
                deaths.episode = Some((wall, deaths.recent.len()));
                true
            }
            None => false,
        }
    }

    /// Ends the episode of an environment where nothing died for long. Returns whether one has ended.
    fn quiet(&self, environment: EnvironmentId, now: Instant) -> bool {
        let mut all = self.lock();
        let over = all
            .get(&environment)
            .is_some_and(|d| d.recent.back().is_none_or(|last| now.duration_since(*last) >= QUIET));
        over && all.remove(&environment).is_some_and(|deaths| deaths.episode.is_some())
    }

    /// Forgets an environment: something new serves there.
    pub(crate) fn forget(&self, environment: EnvironmentId) {
        self.lock().remove(&environment);
    }

    /// Since when an environment's app keeps dying, how often it did, and its last exit code.
    fn episode(&self, environment: EnvironmentId) -> Option<(Timestamp, usize, i64)> {
        let all = self.lock();
        let deaths = all.get(&environment)?;
        deaths.episode.map(|(since, count)| (since, count, deaths.last_exit))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<EnvironmentId, Deaths>> {
        lock(&self.0)
    }
}

impl Inner {
    /// A container of an app's live release died.
    pub(crate) fn count_death(&self, app: &AppRow, exit: i64) {
        let environment = app.environment.id;
        if self.crash_loops.died(environment, exit, Instant::now(), self.store.clock().now()) {
            let summary = format!(
                "{} keeps dying: {DEATHS} times within {} minutes, last with exit code {exit}; it is restarted with growing pauses",
                app.title(),
                WITHIN.as_secs() / 60
            );
            self.tell("app.crash_looping", app, summary, serde_json::json!({ "exit_code": exit }));
        }
    }

    /// An environment was looked at and is as it should be.
    pub(crate) async fn crash_loop_over(&self, environment: EnvironmentId) {
        if self.crash_loops.quiet(environment, Instant::now())
            && let Ok(Some(app)) = self.store.apps().by_environment(environment).await
        {
            let summary = format!("{} has not died for {} minutes", app.title(), QUIET.as_secs() / 60);
            self.tell("app.recovered", &app, summary, serde_json::Value::Null);
        }
    }
}

impl Pipeline {
    /// That an app keeps dying, if it does.
    #[must_use]
    pub fn crash_loop(&self, app: &AppRow) -> Option<Problem> {
        let (since, count, exit) = self.0.crash_loops.episode(app.environment.id)?;
        let name = app.slug.as_str();
        let title = app.title();
        let detail = format!("{title} keeps dying since {since}: {count} times, last with exit code {exit}.");
        Some(Problem::new(Code::ContainerExited, detail).hint(format!(
            "Read log_search(app={name:?}) for its last lines, or go back with release_rollback(app={name:?})."
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: EnvironmentId = EnvironmentId(1);

    #[tokio::test(start_paused = true)]
    async fn three_deaths_in_five_minutes_are_told_once_and_their_end_too() {
        let loops = CrashLoops::default();
        let died = || loops.died(WEB, 7, Instant::now(), Timestamp(5));
        assert!(!died() && !died());
        assert_eq!(loops.episode(WEB), None);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(died(), "the third");
        assert!(!died(), "the same episode");
        assert_eq!(loops.episode(WEB), Some((Timestamp(5), 4, 7)));
        tokio::time::advance(QUIET - Duration::from_secs(1)).await;
        assert!(!loops.quiet(WEB, Instant::now()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(loops.quiet(WEB, Instant::now()));
        assert!(!loops.quiet(WEB, Instant::now()), "once");
        assert_eq!(loops.episode(WEB), None);
    }

    #[tokio::test(start_paused = true)]
    async fn deaths_far_apart_are_no_loop() {
        let loops = CrashLoops::default();
        for _ in 0..10 {
            assert!(!loops.died(WEB, 1, Instant::now(), Timestamp(0)));
            tokio::time::advance(Duration::from_secs(151)).await;
        }
    }
}
