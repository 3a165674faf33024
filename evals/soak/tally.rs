//! What happened: every request counted, every failure kept with its kind and its moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Serialize;

/// Failures that are kept word by word; all are counted.
const MOST_KEPT: usize = 200;

/// What went wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Refused,
    Reset,
    ClosedEarly,
    Status,
    Truncated,
    Changed,
    Timeout,
    Protocol,
}

impl Kind {
    pub(crate) const ALL: [Self; 8] = [
        Self::Refused,
        Self::Reset,
        Self::ClosedEarly,
        Self::Status,
        Self::Truncated,
        Self::Changed,
        Self::Timeout,
        Self::Protocol,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Refused => "connection refused",
            Self::Reset => "connection reset",
            Self::ClosedEarly => "closed without an answer",
            Self::Status => "status not 2xx",
            Self::Truncated => "body cut short",
            Self::Changed => "body changed",
            Self::Timeout => "no answer in time",
            Self::Protocol => "against the protocol",
        }
    }
}

/// A request that was not answered as it should be.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) detail: String,
}

impl Failure {
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }
}

/// A failure as it is kept.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Kept {
    pub(crate) kind: Kind,
    pub(crate) way: String,
    pub(crate) detail: String,
    /// Milliseconds since the load began.
    pub(crate) at_ms: u64,
    /// The moment as seen from the nearest step, such as "140 ms after the switch of 7".
    pub(crate) when: String,
}

/// A moment that failures are told in relation to.
#[derive(Debug, Clone)]
struct Step {
    at: Instant,
    name: String,
}

/// An answered request.
#[derive(Debug, Clone, Copy)]
struct Answered {
    at: Instant,
    took: Duration,
}

#[derive(Debug)]
struct Inner {
    answered: Vec<Answered>,
    /// Requests and failures by way.
    ways: BTreeMap<String, (u64, u64)>,
    failed: BTreeMap<Kind, u64>,
    kept: Vec<Kept>,
    /// Answers by version.
    versions: BTreeMap<String, u64>,
    resent: u64,
    /// Releases that have answered, and when the newest of them did for the first time.
    releases: BTreeSet<String>,
    newest: Option<Instant>,
    steps: Vec<Step>,
    last_answer: Instant,
    longest_gap: (Duration, Option<Instant>),
}

/// The tally of one run.
#[derive(Debug)]
pub(crate) struct Tally {
    began: Instant,
    stop: AtomicBool,
    inner: Mutex<Inner>,
}

/// The tally in figures.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    pub(crate) seconds: f64,
    pub(crate) sent: u64,
    pub(crate) failed: u64,
    pub(crate) failed_by_kind: BTreeMap<&'static str, u64>,
    /// Requests and failures by way.
    pub(crate) ways: BTreeMap<String, (u64, u64)>,
    /// Sent again because the server had not touched them: not failures, but not nothing.
    pub(crate) resent: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) slowest_ms: f64,
    pub(crate) longest_gap_ms: f64,
    pub(crate) longest_gap_when: String,
    pub(crate) versions: BTreeMap<String, u64>,
    pub(crate) failures: Vec<Kept>,
}

/// Latencies of a part of the run.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Latency {
    pub(crate) requests: usize,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
}

impl Tally {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            stop: AtomicBool::new(false),
            inner: Mutex::new(Inner {
                answered: Vec::new(),
                ways: BTreeMap::new(),
                failed: BTreeMap::new(),
                kept: Vec::new(),
                versions: BTreeMap::new(),
                resent: 0,
                newest: None,
                releases: BTreeSet::new(),
                steps: Vec::new(),
                last_answer: now,
                longest_gap: (Duration::ZERO, None),
            }),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Something happens now that failures may have to do with.
    pub(crate) fn step(&self, name: impl Into<String>) {
        self.inner().steps.push(Step { at: Instant::now(), name: name.into() });
    }

    pub(crate) fn resent(&self) {
        self.inner().resent += 1;
    }

    /// A request was answered well by this release.
    pub(crate) fn answered(&self, way: &str, release: &str, took: Duration) {
        let now = Instant::now();
        let mut inner = self.inner();
        inner.answered.push(Answered { at: now, took });
        inner.ways.entry(way.to_owned()).or_default().0 += 1;
        let version = release.split('/').next().unwrap_or_default();
        *inner.versions.entry(version.to_owned()).or_default() += 1;
        if !inner.releases.contains(release) {
            inner.releases.insert(release.to_owned());
            inner.newest = Some(now);
        }
        let gap = now - inner.last_answer;
        if gap > inner.longest_gap.0 {
            inner.longest_gap = (gap, Some(now));
        }
        inner.last_answer = now;
    }

    /// A request failed.
    pub(crate) fn failed(&self, way: &str, failure: Failure) {
        let now = Instant::now();
        let mut inner = self.inner();
        let count = inner.ways.entry(way.to_owned()).or_default();
        *count = (count.0 + 1, count.1 + 1);
        *inner.failed.entry(failure.kind).or_default() += 1;
        if inner.kept.len() < MOST_KEPT {
            let kept = Kept {
                kind: failure.kind,
                way: way.to_owned(),
                detail: failure.detail,
                at_ms: millis(now - self.began),
                when: inner.when(now),
            };
            inner.kept.push(kept);
        }
    }

    /// Failures so far.
    pub(crate) fn failures(&self) -> u64 {
        self.inner().failed.values().sum()
    }

    /// The release that answered first of all after `since`, having never answered before: a switch.
    pub(crate) fn switched_after(&self, since: Instant) -> Option<Instant> {
        self.inner().newest.filter(|at| *at > since)
    }

    /// Latencies of what was answered within (or outside of) these windows.
    pub(crate) fn latency(&self, windows: &[(Instant, Instant)], within: bool) -> Latency {
        let inside = |at: Instant| windows.iter().any(|(from, to)| (*from..=*to).contains(&at));
        // Any part of the request within the window counts as within.
        let chosen = |a: &&Answered| (inside(a.at) || inside(a.at - a.took)) == within;
        let mut times: Vec<Duration> = self.inner().answered.iter().filter(chosen).map(|a| a.took).collect();
        times.sort_unstable();
        Latency {
            requests: times.len(),
            p50_ms: at_part(&times, 0.5),
            p99_ms: at_part(&times, 0.99),
            p999_ms: at_part(&times, 0.999),
            max_ms: at_part(&times, 1.0),
        }
    }

    pub(crate) fn figures(&self) -> Figures {
        let all = self.latency(&[], false);
        let inner = self.inner();
        let failed = inner.failed.values().sum();
        Figures {
            seconds: self.began.elapsed().as_secs_f64(),
            sent: inner.answered.len() as u64 + failed,
            failed,
            failed_by_kind: Kind::ALL
                .iter()
                .map(|kind| (kind.name(), inner.failed.get(kind).copied().unwrap_or(0)))
                .collect(),
            ways: inner.ways.clone(),
            resent: inner.resent,
            p50_ms: all.p50_ms,
            p99_ms: all.p99_ms,
            p999_ms: all.p999_ms,
            slowest_ms: all.max_ms,
            longest_gap_ms: inner.longest_gap.0.as_secs_f64() * 1e3,
            longest_gap_when: inner.longest_gap.1.map(|at| inner.when(at)).unwrap_or_default(),
            versions: inner.versions.clone(),
            failures: inner.kept.clone(),
        }
    }
}

impl Inner {
    fn when(&self, now: Instant) -> String {
        let Some(step) = self.steps.iter().rev().find(|step| step.at <= now) else {
            return "before the first step".to_owned();
        };
        format!("{} ms after {}", millis(now - step.at), step.name)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn at_part(sorted: &[Duration], part: f64) -> f64 {
    let at = ((sorted.len() as f64 * part) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_counted_by_kind_and_told_by_the_step_before_it() {
        let tally = Tally::new();
        tally.answered("GET", "a/1", Duration::from_millis(3));
        tally.step("the switch of 1");
        tally.failed("GET", Failure::new(Kind::Status, "502 upstream_closed"));
        let figures = tally.figures();
        assert_eq!((figures.sent, figures.failed), (2, 1));
        assert_eq!(figures.failed_by_kind["status not 2xx"], 1);
        assert!(figures.failures[0].when.ends_with("ms after the switch of 1"), "{:?}", figures.failures);
        assert_eq!(figures.ways["GET"], (2, 1));
    }

    #[test]
    fn latency_is_told_within_and_outside_of_windows() {
        let tally = Tally::new();
        let from = Instant::now();
        tally.answered("GET", "a/1", Duration::from_millis(40));
        let to = Instant::now();
        std::thread::sleep(Duration::from_millis(5));
        tally.answered("GET", "a/1", Duration::from_micros(10));
        let (within, outside) = (tally.latency(&[(from, to)], true), tally.latency(&[(from, to)], false));
        assert_eq!((within.requests, within.max_ms), (1, 40.0));
        assert_eq!((outside.requests, outside.max_ms), (1, 0.01));
    }

    #[test]
    fn a_switch_is_the_first_answer_of_a_release() {
        let tally = Tally::new();
        tally.answered("GET", "a/1", Duration::ZERO);
        let asked = Instant::now();
        tally.answered("GET", "a/1", Duration::ZERO);
        assert_eq!(tally.switched_after(asked), None);
        tally.answered("GET", "b/2", Duration::ZERO);
        assert!(tally.switched_after(asked).is_some_and(|at| at > asked));
    }
}
