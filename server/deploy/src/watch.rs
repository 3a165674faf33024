//! Watching a release after its switch: one that dies, or answers mostly with errors, is taken back by itself.
//!
//! The window is measured by the clock that only goes forward. After a restart of the daemon it is what the store's
//! times leave of it, at most the whole: a clock that was set does not end it early by more than that, nor make it
//! last for ever.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use berth_proxy::Answers;
use berth_schemas::{
    Code, DeploymentRef, IssueRef, Problem, Timestamp, deployment::DeploymentState, issue::ErrorRules,
};
use berth_store::model::{
    AppId, AppRow, Artifact, Change, DeploymentRow, EnvironmentId, ReleaseId, ReleaseRow, Visible,
};
use tokio::time::Instant;

use crate::{
    errors::error_release,
    gate::Gate,
    limits,
    lock::lock,
    pipeline::Inner,
    stall,
    worse::{self, Thresholds},
};

/// Window after a switch in which a bad release is taken back, where none was set.
const DEFAULT_WATCH: Duration = Duration::from_secs(30);
/// Answers are looked at this often.
const TICK: Duration = Duration::from_millis(250);
/// After a way back that failed, the next try comes this much later.
const AGAIN: Duration = Duration::from_secs(3);
/// New errors, which are asked of the store, are looked for this often.
const ERRORS_TICK: Duration = Duration::from_secs(1);
/// Issues that a reason names.
const NAMED: usize = 5;
/// How far back the answers of the release before count.
const RECENT: Duration = Duration::from_secs(300);

/// The releases that are watched.
#[derive(Default)]
pub(crate) struct Watches(Mutex<HashMap<EnvironmentId, Watched>>);

#[derive(Clone, Copy)]
struct Watched {
    release: ReleaseId,
    /// None while the release before still drains.
    until: Option<Instant>,
}

impl Watches {
    fn set(&self, environment: EnvironmentId, release: ReleaseId, until: Option<Instant>) {
        self.lock().insert(environment, Watched { release, until });
    }

    /// Whether a release is within its window.
    pub(crate) fn watches(&self, environment: EnvironmentId, release: ReleaseId) -> bool {
        self.lock()
            .get(&environment)
            .is_some_and(|w| w.release == release && w.until.is_none_or(|until| Instant::now() < until))
    }

    fn end(&self, environment: EnvironmentId, release: ReleaseId) {
        let mut all = self.lock();
        if all.get(&environment).is_some_and(|w| w.release == release) {
            all.remove(&environment);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<EnvironmentId, Watched>> {
        lock(&self.0)
    }
}

impl Inner {
    /// A release of containers got the traffic: from now on it is watched.
    pub(crate) fn begin_watch(self: &Arc<Self>, app: &AppRow, release: ReleaseId) {
        let window = watch_window(app);
        if window.is_zero() {
            self.watches.end(app.environment.id, release);
            return;
        }
        self.watches.set(app.environment.id, release, None);
        self.spawn(Arc::clone(self).watch(app.clone(), release));
    }

    /// The release before has drained: the window counts from here.
    pub(crate) fn count_watch_down(&self, app: &AppRow, release: ReleaseId) {
        if self.watches.watches(app.environment.id, release) {
            self.watches.set(app.environment.id, release, Some(Instant::now() + watch_window(app)));
        }
    }

    /// Goes on watching what the last run of the daemon watched.
    pub(crate) async fn resume_watches(self: &Arc<Self>) -> Result<(), Problem> {
        let now = self.store.clock().now();
        for app in self.store.apps().all_environments(&Visible::All).await? {
            let Some(live) = app.environment.live else { continue };
            let Some(release) = self.store.releases().get(live).await? else { continue };
            if let Artifact::Static { .. } = release.artifact {
                continue;
            }
            let deployment = self.store.deployments().live(app.environment.id).await?;
            let since = deployment.filter(|d| d.release == Some(live)).and_then(|d| d.finished_at);
            let Some(since) = since.or(release.live_at) else { continue };
            let left = left_of(watch_window(&app), since, now);
            if !left.is_zero() {
                self.watches.set(app.environment.id, live, Some(Instant::now() + left));
                self.spawn(Arc::clone(self).watch(app, live));
            }
        }
        Ok(())
    }

    /// Watches a release until its window is over or it no longer serves. Its death is noticed elsewhere.
    async fn watch(self: Arc<Self>, app: AppRow, release: ReleaseId) {
        let environment = app.environment.id;
        let usual = Thresholds::of(app.settings.error_rollback_percent);
        let (mut pause, mut errors_at) = (TICK, Instant::now() + ERRORS_TICK);
        while self.watches.watches(environment, release) {
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let errors = Instant::now() >= errors_at;
            if errors {
                errors_at = Instant::now() + ERRORS_TICK;
            }
            pause = match self.take_back_if_worse(&app, release, usual, errors).await {
                Ok(pause) => pause,
                Err(problem) => {
                    tracing::warn!(app = %app.slug, %problem, "a release that answers with errors could not be taken back; trying again");
                    AGAIN
                }
            };
        }
        self.watches.end(environment, release);
        if self.routes.serves(environment) == Some(release) {
            tracing::debug!(app = %app.slug, "the watch window is over");
            // From now on the engine restarts its containers by itself.
            self.let_engine_restart(release).await;
        }
    }

    /// Takes a watched release back if most of its answers are errors or, where these are looked for, if it brought too
    /// many new ones. Returns the time until the next look.
    async fn take_back_if_worse(
        self: &Arc<Self>,
        watched: &AppRow,
        release: ReleaseId,
        usual: Thresholds,
        errors: bool,
    ) -> Result<Duration, Problem> {
        let environment = watched.environment.id;
        let new = || {
            let watched = self.watches.watches(environment, release);
            let serves = watched && self.routes.serves(environment) == Some(release);
            serves.then(|| self.routes.serving_target(environment).map(|t| t.answers())).flatten()
        };
        // Mostly nothing is wrong, and this is all.
        if new().and_then(|new| worse::reason(new, None, usual)).is_none()
            && !(errors && self.brought_new_errors(watched, release).await?)
        {
            return Ok(TICK);
        }
        let gate = self.traffic.of(environment);
        let _inside = gate.enter_patiently().await;
        let _held = self.holds(environment, "a release that is being taken back".to_owned());
        let Some(new) = new() else { return Ok(TICK) };
        let Some((app, row, back)) = self.watched_and_back(environment, release).await? else {
            return Ok(AGAIN);
        };
        let old = self.answers_before(&app, &row, &back).await?;
        let thresholds = Thresholds::of(app.settings.error_rollback_percent);
        let (reason, hint) = if let Some(reason) = worse::reason(new, Some(old), thresholds) {
            let hint = format!(
                "See request_list with app {} and status 5xx, and log_search with release {}. The setting error_rollback_percent changes this rule; 0 turns it off.",
                app.slug, row.number
            );
            (reason, hint)
        } else if let Some(found) = self.new_errors(&app, &row, &back).await? {
            found
        } else {
            return Ok(AGAIN);
        };
        let detail = format!(
            "{reason} within {} s of going live; release {} serves again.",
            watch_window(&app).as_secs(),
            back.number
        );
        let problem = Problem::new(Code::HealthCheckFailed, detail).hint(hint).step("live");
        self.go_back(&app, &row, &back, problem, &gate).await?;
        Ok(TICK)
    }

    /// The app of a watched release, the release, and the one to go back to; none where one of them is gone.
    async fn watched_and_back(
        &self,
        environment: EnvironmentId,
        release: ReleaseId,
    ) -> Result<Option<(AppRow, ReleaseRow, ReleaseRow)>, Problem> {
        let Some(app) = self.store.apps().by_environment(environment).await? else { return Ok(None) };
        let Some(row) = self.store.releases().get(release).await? else { return Ok(None) };
        let back = self.store.releases().previous_live(environment, release).await?;
        Ok(back.map(|back| (app, row, back)))
    }

    /// The same as [`Self::new_errors`], for who has nothing but the names. Mostly an app has no such rule, and this is
    /// all.
    async fn brought_new_errors(&self, watched: &AppRow, release: ReleaseId) -> Result<bool, Problem> {
        if self.rollback_events(watched.id).await?.is_none() {
            return Ok(false);
        }
        match self.watched_and_back(watched.environment.id, release).await? {
            Some((app, row, back)) => Ok(self.new_errors(&app, &row, &back).await?.is_some()),
            None => Ok(false),
        }
    }

    /// How many events of new errors take a release of an app back.
    async fn rollback_events(&self, app: AppId) -> Result<Option<u32>, Problem> {
        let rules: Option<ErrorRules> = self.store.errors().settings(app).await?;
        Ok(rules.and_then(|rules| rules.rollback_events))
    }

    /// Why a release is taken back for errors that nobody had seen before it, with what to do; none if its app has no
    /// such rule, or there are not that many.
    async fn new_errors(
        &self,
        app: &AppRow,
        release: &ReleaseRow,
        back: &ReleaseRow,
    ) -> Result<Option<(String, String)>, Problem> {
        let most = self.rollback_events(app.id).await?;
        let (Some(most), Some(since)) = (most, release.live_at) else { return Ok(None) };
        let name = |r: &ReleaseRow| {
            error_release(&DeploymentRef::new(app.slug.clone(), r.number), r.commit.as_deref())
        };
        // The one before still answers what it had begun; of the same commit there is no telling apart, and all counts.
        let mut before = name(back);
        if before == name(release) {
            before.clear();
        }
        let found = self.store.errors().new_since(app.id, app.environment.id, since, &before).await?;
        let events: i64 = found.iter().map(|(_, events)| events).sum();
        if events < i64::from(most) {
            return Ok(None);
        }
        let named = |(number, events): &(i64, i64)| {
            format!("{} ({events})", IssueRef { app: app.slug.clone(), number: *number })
        };
        let mut names: Vec<String> = found.iter().take(NAMED).map(named).collect();
        if found.len() > NAMED {
            names.push(format!("{} more", found.len() - NAMED));
        }
        let reason = format!("{events} events of new errors came: {},", names.join(", "));
        let hint = format!(
            "error_get of each says what it is. The rule is rollback_events of error_rules_set(app={:?}); 0 turns it off.",
            app.slug.as_str()
        );
        Ok(Some((reason, hint)))
    }

    /// What the release before answered in the minutes before it gave the traffic away, as far as it was recorded.
    async fn answers_before(
        &self,
        app: &AppRow,
        release: &ReleaseRow,
        before: &ReleaseRow,
    ) -> Result<Answers, Problem> {
        let switched = release.live_at.unwrap_or_else(|| self.store.clock().now());
        let since = switched.micros() - i64::try_from(RECENT.as_micros()).unwrap_or(i64::MAX);
        let counts = self.store.requests().answers(app.id, before.number, Timestamp(since)).await?;
        Ok(Answers { total: counts.total, server_errors: counts.server_errors })
    }

    /// All replicas of a release died within its watch window: the release before it serves again, if there is
    /// one. Returns whether it does. The caller is inside the gate of the environment's traffic.
    pub(crate) async fn roll_back_dead(
        self: &Arc<Self>,
        app: &AppRow,
        release: &ReleaseRow,
        exit: Option<i64>,
        gate: &Gate,
    ) -> Result<bool, Problem> {
        if !self.watches.watches(app.environment.id, release.id) {
            return Ok(false);
        }
        let Some(back) = self.store.releases().previous_live(app.environment.id, release.id).await? else {
            return Ok(false);
        };
        let problem = died(app, release, &back, exit);
        self.go_back(app, release, &back, problem, gate).await
    }

    /// Gives the traffic of a watched release to the one before it. The caller is inside the gate of the
    /// environment's traffic. Returns whether that serves now.
    async fn go_back(
        self: &Arc<Self>,
        app: &AppRow,
        release: &ReleaseRow,
        back: &ReleaseRow,
        problem: Problem,
        gate: &Gate,
    ) -> Result<bool, Problem> {
        let Some(deployment) = self.watched_deployment(app, release).await? else { return Ok(false) };
        // Nobody may stop its containers until it is live again.
        let inside = self.containers.enter(back.id).await;
        let containers = match &back.artifact {
            Artifact::Image { .. } => {
                let up = self.run_replicas(app, back, 1..=app.environment.replicas.max(1)).await?;
                self.wait_open(app, back, &up, Some(gate)).await?;
                Some(up)
            }
            Artifact::Static { .. } => None,
        };
        let target = self.target(app, back, containers.as_deref())?;
        let change = Change { reason: Some(problem.detail.clone()), problem: Some(problem.clone()) };
        // It may have got from draining to live meanwhile.
        let state = self.deployment(deployment.id).await?.state;
        stall::before("rolled_back").await;
        self.store.deployments().roll_back(deployment.id, state, Some(back.id), change).await?;
        stall::after("rolled_back").await;
        let bad = self.routes.serve(app, back, target);
        self.watches.end(app.environment.id, release.id);
        drop(inside);
        if let Some(containers) = &containers {
            self.collect_logs(app, back, containers);
            self.let_engine_restart(back.id).await;
        }
        self.moved(deployment.id, DeploymentState::RolledBack, Some(problem.detail));
        tracing::warn!(app = %app.slug, from = release.number, to = back.number, reason = problem.code.as_str(), "a release was taken back after its switch");
        if let Some(bad) = bad {
            let (inner, environment) = (Arc::clone(self), app.environment.id);
            let limit = limits::drain(app);
            // What it still answers may finish; then its containers are stopped.
            self.spawn(async move {
                tokio::select! {
                    _ = inner.routes.drain(&bad, limit) => inner.retire_others(environment).await,
                    () = inner.shutdown.cancelled() => {}
                }
            });
        }
        Ok(true)
    }

    /// The deployment that gave a release the traffic.
    async fn watched_deployment(
        &self,
        app: &AppRow,
        release: &ReleaseRow,
    ) -> Result<Option<DeploymentRow>, Problem> {
        let deployments = self.store.deployments();
        // It may die while requests to the one before it still finish.
        let draining = deployments.list(app.id, Some(DeploymentState::Draining), None, 10).await?;
        Ok(match draining.into_iter().find(|d| d.release == Some(release.id)) {
            Some(draining) => Some(draining),
            None => deployments.live(app.environment.id).await?.filter(|d| d.release == Some(release.id)),
        })
    }
}

/// Why a release was rolled back.
fn died(app: &AppRow, release: &ReleaseRow, back: &ReleaseRow, exit: Option<i64>) -> Problem {
    let code = exit.map_or_else(String::new, |c| format!(" with exit code {c}"));
    let within = watch_window(app).as_secs();
    let detail =
        format!("The app died{code} within {within} s of going live; release {} serves again.", back.number);
    let hint =
        format!("Read log_search with app {} and release {} for its last lines.", app.slug, release.number);
    Problem::new(Code::ContainerExited, detail).hint(hint).step("live")
}

/// How long after a switch a bad release is taken back.
fn watch_window(app: &AppRow) -> Duration {
    app.settings.watch_window_s.map_or(DEFAULT_WATCH, |s| Duration::from_secs(u64::from(s)))
}

/// What is left of a window that began at `since`, whatever was done to the clock.
fn left_of(window: Duration, since: Timestamp, now: Timestamp) -> Duration {
    let gone = Duration::from_millis(now.millis_since(since).max(0).unsigned_abs());
    window.saturating_sub(gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_ends_whatever_the_clock_says() {
        let window = Duration::from_secs(30);
        let at = |s: i64| Timestamp(s * 1_000_000);
        assert_eq!(left_of(window, at(100), at(110)), Duration::from_secs(20));
        assert_eq!(left_of(window, at(100), at(100 + 86_400)), Duration::ZERO);
        assert_eq!(left_of(window, at(86_400), at(0)), window, "set back by a day: not a day longer");
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_is_of_one_release_and_ends() {
        let watches = Watches::default();
        let (environment, release) = (EnvironmentId(1), ReleaseId(1));
        assert!(!watches.watches(environment, release));
        watches.set(environment, release, None);
        tokio::time::advance(Duration::from_secs(9999)).await;
        assert!(watches.watches(environment, release), "it drains");
        watches.set(environment, release, Some(Instant::now() + Duration::from_secs(5)));
        assert!(!watches.watches(environment, ReleaseId(2)));
        tokio::time::advance(Duration::from_secs(6)).await;
        assert!(!watches.watches(environment, release));
        watches.end(environment, ReleaseId(2));
        assert!(!watches.watches(environment, release));
    }
}
