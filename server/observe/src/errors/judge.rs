//! Whether a release is worse than the one before it. Pure: counts in, a verdict with its reasons out.
//!
//! What is compared are rates: of requests where the request log knows enough of both, else of hours. A rate counts as risen
//! when it is half again as high and the difference is no accident (three standard deviations of what the two times of
//! observation would share by chance). New and returned issues count where they have some weight of their own.

use std::collections::HashMap;

use berth_schemas::{
    AppSlug, IssueRef,
    issue::{ReleaseVerdict, WorseBy},
};
use berth_store::IssueShare;

use super::sessions::SessionCount;

/// Events, or users, from which a new or returned issue has weight.
const EVENTS: i64 = 5;
const USERS: i64 = 3;
/// Events from which it has weight however many requests there were.
const MANY_EVENTS: i64 = 50;
/// Of so many requests an event must come, else it is rare.
const RARE: i64 = 20_000;
/// Events from which a rate can be called risen.
const GROWN: i64 = 10;
/// How far a rate must rise.
const FACTOR: f64 = 1.5;
/// Of how many standard deviations chance is capable.
const CHANCE: f64 = 3.0;
/// Requests and sessions from which shares of them say something.
const REQUESTS: i64 = 100;
const SESSIONS: i64 = 50;
/// Hours from which rates an hour say something.
const HOURS: f64 = 0.25;
/// Points of a share, of 1, that it must change by.
const POINTS: f64 = 0.01;

/// A release within its time.
#[derive(Debug, Clone, Default)]
pub struct Side {
    /// Hours of the time.
    pub hours: f64,
    /// What it had of which issue.
    pub shares: Vec<IssueShare>,
    /// Its requests, as far as they are known.
    pub traffic: Option<Traffic>,
    /// Its sessions.
    pub sessions: SessionCount,
}

/// What a release answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Requests.
    pub requests: i64,
    /// Those answered with 5xx.
    pub server_errors: i64,
    /// Events in the part of the time that these requests are of.
    pub events: i64,
    /// Whether that is all of the time.
    pub whole: bool,
}

/// What is to be said.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// The verdict.
    pub verdict: ReleaseVerdict,
    /// It in a sentence.
    pub reason: String,
    /// How many times the rate of before it has.
    pub margin: Option<f64>,
    /// All that speaks against it.
    pub why: Vec<String>,
    /// Issues that do.
    pub issues: Vec<Suspect>,
}

/// An issue that speaks against a release.
#[derive(Debug, Clone, PartialEq)]
pub struct Suspect {
    /// What it had of it.
    pub share: IssueShare,
    /// In which way.
    pub by: WorseBy,
    /// Whether there is much of it.
    pub weighs: bool,
    /// Events an hour.
    pub per_hour: f64,
    /// Events an hour before.
    pub before_per_hour: f64,
}

/// Two times, and what happened in them.
#[derive(Clone, Copy)]
struct Rates {
    new: (i64, f64),
    old: (i64, f64),
}

impl Side {
    /// Events within the time.
    #[must_use]
    pub fn events(&self) -> i64 {
        self.shares.iter().map(|s| s.events).sum()
    }

    fn known(&self) -> Option<Traffic> {
        self.traffic.filter(|t| t.requests >= REQUESTS)
    }
}

#[expect(clippy::cast_precision_loss, reason = "rates for people")]
fn float(n: i64) -> f64 {
    n as f64
}

impl Rates {
    /// How many times as high the new rate is; halves keep it finite where there was nothing.
    fn factor(self) -> f64 {
        ((float(self.new.0) + 0.5) / self.new.1) / ((float(self.old.0) + 0.5) / self.old.1)
    }

    /// By how many standard deviations the new time has more than its part of all events.
    fn surplus(self) -> f64 {
        let (all, part) = (float(self.new.0 + self.old.0), self.new.1 / (self.new.1 + self.old.1));
        let spread = (all * part * (1.0 - part)).sqrt();
        if spread > 0.0 { (float(self.new.0) - all * part) / spread } else { 0.0 }
    }

    fn risen(self) -> bool {
        self.new.0 >= GROWN && self.factor() >= FACTOR && self.surplus() > CHANCE
    }

    fn fallen(self) -> bool {
        self.old.0 >= GROWN && self.factor() <= 1.0 / FACTOR && self.surplus() < -CHANCE
    }
}

/// Compares a release, called `name`, with the one before it.
#[must_use]
pub fn judge(app: &AppSlug, name: &str, new: &Side, old: Option<&Side>) -> Judgement {
    let Some(old) = old else {
        return Judgement {
            verdict: ReleaseVerdict::NothingBefore,
            reason: "There is no release before it to compare with.".into(),
            margin: None,
            why: Vec::new(),
            issues: Vec::new(),
        };
    };
    let issues = suspects(name, new, old);
    let (mut why, mut light) = (Vec::new(), Vec::new());
    for suspect in &issues {
        let text = told(app, suspect);
        if suspect.weighs { why.push(text) } else { light.push(format!("{text}: low volume")) }
    }
    let rates = rates(new, old);
    if let Some((rates, unit)) = rates.filter(|(rates, _)| rates.risen()) {
        let of = |(events, time): (i64, f64)| float(events) / time;
        why.push(format!(
            "{:.1} events {unit} instead of {:.1}, {:.1} times as many",
            of(rates.new),
            of(rates.old),
            rates.factor()
        ));
    }
    why.extend(more_server_errors(new, old));
    why.extend(more_crashes(new, old));
    let margin = rates.map(|(rates, _)| (rates.factor() * 100.0).round() / 100.0);
    let (verdict, reason) = verdict(new, &why, &light, rates.map(|(rates, _)| rates));
    why.extend(light);
    Judgement { verdict, reason, margin, why, issues }
}

fn verdict(new: &Side, why: &[String], light: &[String], rates: Option<Rates>) -> (ReleaseVerdict, String) {
    if !why.is_empty() {
        return (ReleaseVerdict::Worse, format!("It is worse: {}.", why.join("; ")));
    }
    if !light.is_empty() {
        let reason = format!("Not plainly worse, but look at it: {}.", light.join("; "));
        return (ReleaseVerdict::LowVolume, reason);
    }
    let requests = new.traffic.filter(|t| t.whole && t.requests < REQUESTS).map(|t| t.requests);
    let little = match (rates, requests) {
        (_, Some(requests)) if new.events() < EVENTS => {
            Some(format!("it answered {requests} requests, and {REQUESTS} are the least that say something"))
        }
        (None, _) => Some(format!("it or the release before it was observed for less than {HOURS} hours")),
        _ => None,
    };
    match (little, rates) {
        (Some(little), _) => (ReleaseVerdict::TooLittleData, format!("Too little is known: {little}.")),
        (None, Some(rates)) if rates.fallen() => {
            (ReleaseVerdict::Better, "It is better: clearly fewer events, and nothing is new.".into())
        }
        _ => (
            ReleaseVerdict::NotWorse,
            "It is not worse: nothing is new, and no rate has clearly risen.".into(),
        ),
    }
}

/// What is compared: events and requests where both are known well enough, else events and hours.
fn rates(new: &Side, old: &Side) -> Option<(Rates, &'static str)> {
    if let (Some(ours), Some(theirs)) = (new.known(), old.known()) {
        let of = |t: Traffic| (t.events, float(t.requests) / 1000.0);
        return Some((Rates { new: of(ours), old: of(theirs) }, "per 1,000 requests"));
    }
    let of = |side: &Side| (side.events(), side.hours);
    (new.hours >= HOURS && old.hours >= HOURS).then(|| (Rates { new: of(new), old: of(old) }, "an hour"))
}

/// The issues that are new, came back or grew, those with weight first.
fn suspects(name: &str, new: &Side, old: &Side) -> Vec<Suspect> {
    let before: HashMap<i64, i64> = old.shares.iter().map(|s| (s.issue, s.events)).collect();
    // An issue's share of the requests is known only where they are known for the whole time.
    let times = match (new.known(), old.known()) {
        (Some(ours), Some(theirs)) if ours.whole && theirs.whole => {
            Some((float(ours.requests), float(theirs.requests)))
        }
        _ => (new.hours >= HOURS && old.hours >= HOURS).then_some((new.hours, old.hours)),
    };
    let hours = |side: &Side| side.hours.max(1.0 / 60.0);
    let mut found: Vec<Suspect> = new
        .shares
        .iter()
        .filter_map(|share| {
            let earlier = before.get(&share.issue).copied().unwrap_or(0);
            let grew = times
                .is_some_and(|(new, old)| Rates { new: (share.events, new), old: (earlier, old) }.risen());
            let by = if share.first_release.as_deref() == Some(name) && earlier == 0 {
                WorseBy::New
            } else if share.regressed && earlier == 0 {
                WorseBy::Back
            } else if grew {
                WorseBy::Grew
            } else {
                return None;
            };
            Some(Suspect {
                by,
                weighs: by == WorseBy::Grew || weighs(share, new.traffic),
                per_hour: float(share.events) / hours(new),
                before_per_hour: float(earlier) / hours(old),
                share: share.clone(),
            })
        })
        .collect();
    found.sort_by_key(|s| (!s.weighs, std::cmp::Reverse(s.share.events), s.share.issue));
    found
}

/// Whether there is enough of a new issue to speak against a release.
fn weighs(share: &IssueShare, traffic: Option<Traffic>) -> bool {
    let rare = traffic.is_some_and(|t| t.whole && share.events.saturating_mul(RARE) < t.requests);
    (share.events >= EVENTS || share.users >= USERS) && (!rare || share.events >= MANY_EVENTS)
}

fn told(app: &AppSlug, suspect: &Suspect) -> String {
    let name = IssueRef { app: app.clone(), number: suspect.share.number };
    let (events, users) = (suspect.share.events, suspect.share.users);
    match suspect.by {
        WorseBy::New => format!("{name} is new ({events} events, {users} users)"),
        WorseBy::Back => format!("{name} came back ({events} events, {users} users)"),
        WorseBy::Grew => format!(
            "{name} grew from {:.1} to {:.1} events an hour",
            suspect.before_per_hour, suspect.per_hour
        ),
    }
}

fn more_server_errors(new: &Side, old: &Side) -> Option<String> {
    let (ours, theirs) = (new.known()?, old.known()?);
    let rates = Rates {
        new: (ours.server_errors, float(ours.requests)),
        old: (theirs.server_errors, float(theirs.requests)),
    };
    let share = |(part, of): (i64, f64)| float(part) / of;
    (rates.risen() && share(rates.new) - share(rates.old) >= POINTS).then(|| {
        format!(
            "{:.1} % of its answers are 5xx instead of {:.1} %",
            100.0 * share(rates.new),
            100.0 * share(rates.old)
        )
    })
}

fn more_crashes(new: &Side, old: &Side) -> Option<String> {
    let (ours, theirs) = (new.sessions, old.sessions);
    if ours.sessions < SESSIONS || theirs.sessions < SESSIONS {
        return None;
    }
    let rates =
        Rates { new: (ours.crashed, float(ours.sessions)), old: (theirs.crashed, float(theirs.sessions)) };
    let free = |c: SessionCount| 1.0 - float(c.crashed) / float(c.sessions);
    (free(theirs) - free(ours) >= POINTS && rates.surplus() > CHANCE).then(|| {
        format!(
            "{:.1} % of its sessions are free of crashes instead of {:.1} %",
            100.0 * free(ours),
            100.0 * free(theirs)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(issue: i64, events: i64, users: i64) -> IssueShare {
        let first_release = Some("1".into());
        IssueShare { issue, number: issue, events, users, first_release, regressed: false }
    }

    fn new_share(issue: i64, events: i64, users: i64) -> IssueShare {
        IssueShare { first_release: Some("2".into()), ..share(issue, events, users) }
    }

    fn side(hours: f64, shares: &[IssueShare]) -> Side {
        Side { hours, shares: shares.to_vec(), ..Side::default() }
    }

    fn with_requests(hours: f64, shares: &[IssueShare], requests: i64, server_errors: i64) -> Side {
        let events = shares.iter().map(|s| s.events).sum();
        let traffic = Some(Traffic { requests, server_errors, events, whole: true });
        Side { traffic, ..side(hours, shares) }
    }

    fn compared(new: &Side, old: Option<&Side>) -> Judgement {
        judge(&"web".parse().unwrap(), "2", new, old)
    }

    fn judged(new: &Side, old: &Side) -> (ReleaseVerdict, String) {
        let judged = compared(new, Some(old));
        (judged.verdict, judged.reason)
    }

    #[test]
    fn one_event_of_a_new_issue_is_no_verdict() {
        let old = with_requests(24.0, &[share(1, 40, 20)], 100_000, 10);
        let new = with_requests(24.0, &[share(1, 41, 19), new_share(2, 1, 1)], 100_000, 11);
        let (verdict, reason) = judged(&new, &old);
        assert_eq!(verdict, ReleaseVerdict::LowVolume);
        assert!(reason.contains("WEB-2 is new (1 events, 1 users): low volume"), "{reason}");
        let new = with_requests(24.0, &[share(1, 41, 19), new_share(2, 30, 12)], 100_000, 11);
        let (verdict, reason) = judged(&new, &old);
        assert_eq!(verdict, ReleaseVerdict::Worse);
        assert!(reason.contains("WEB-2 is new (30 events, 12 users)"), "{reason}");
        // The same few events weigh where there are few requests, and do not where there are millions.
        let rare = with_requests(24.0, &[new_share(2, 6, 6)], 4_000_000, 0);
        assert_eq!(judged(&rare, &old).0, ReleaseVerdict::LowVolume);
        let often = with_requests(24.0, &[new_share(2, 6, 6)], 40_000, 0);
        assert_eq!(judged(&often, &old).0, ReleaseVerdict::Worse);
    }

    #[test]
    fn traffic_decides_what_more_means() {
        // Ten times the events of ten times the requests are the same.
        let old = with_requests(10.0, &[share(1, 20, 9)], 2_000, 0);
        let new = with_requests(10.0, &[share(1, 200, 90)], 20_000, 0);
        assert_eq!(judged(&new, &old).0, ReleaseVerdict::NotWorse);
        // Without requests the hours must do.
        let (old, new) = (side(10.0, &[share(1, 20, 9)]), side(10.0, &[share(1, 200, 90)]));
        let told = compared(&new, Some(&old));
        assert_eq!((told.verdict, told.issues[0].by), (ReleaseVerdict::Worse, WorseBy::Grew));
        assert!((9.0..10.0).contains(&told.margin.unwrap()), "{told:?}");
        // Fewer requests, as many events.
        let old = with_requests(10.0, &[share(1, 20, 9)], 20_000, 0);
        let new = with_requests(10.0, &[share(1, 20, 9)], 2_000, 0);
        assert_eq!(judged(&new, &old).0, ReleaseVerdict::Worse);
        assert_eq!(judged(&old, &new).0, ReleaseVerdict::Better);
    }

    #[test]
    fn chance_is_no_verdict() {
        let (old, new) = (side(10.0, &[share(1, 10, 9)]), side(10.0, &[share(1, 17, 9)]));
        assert_eq!(judged(&new, &old).0, ReleaseVerdict::NotWorse);
        let new = side(10.0, &[share(1, 60, 9)]);
        assert_eq!(judged(&new, &old).0, ReleaseVerdict::Worse);
        // The same time of observation is not needed: 3 in an hour are as many as 72 in a day.
        let (old, new) = (side(24.0, &[share(1, 72, 9)]), side(1.0, &[share(1, 3, 2)]));
        assert_eq!(judged(&new, &old).0, ReleaseVerdict::NotWorse);
    }

    #[test]
    fn too_little_is_said_to_be_too_little() {
        let old = side(10.0, &[share(1, 10, 9)]);
        assert_eq!(judged(&side(0.1, &[]), &old).0, ReleaseVerdict::TooLittleData);
        assert_eq!(
            judged(&side(0.1, &[new_share(2, 9, 7)]), &old).0,
            ReleaseVerdict::Worse,
            "but that is enough"
        );
        let idle = with_requests(3.0, &[], 4, 0);
        let (verdict, reason) = judged(&idle, &old);
        assert_eq!(verdict, ReleaseVerdict::TooLittleData);
        assert!(reason.contains("4 requests"), "{reason}");
        assert_eq!(compared(&old, None).verdict, ReleaseVerdict::NothingBefore);
    }

    #[test]
    fn answers_and_crashes_count_too() {
        let old = with_requests(5.0, &[], 10_000, 20);
        let bad = with_requests(5.0, &[], 10_000, 400);
        let (verdict, reason) = judged(&bad, &old);
        assert_eq!(verdict, ReleaseVerdict::Worse);
        assert!(reason.contains("4.0 % of its answers are 5xx instead of 0.2 %"), "{reason}");
        let sessions =
            |sessions, crashed| Side { sessions: SessionCount { sessions, crashed }, ..side(5.0, &[]) };
        let (verdict, reason) = judged(&sessions(1000, 80), &sessions(1000, 5));
        assert_eq!(verdict, ReleaseVerdict::Worse);
        assert!(reason.contains("92.0 % of its sessions are free of crashes instead of 99.5 %"), "{reason}");
        assert_eq!(judged(&sessions(20, 8), &sessions(1000, 5)).0, ReleaseVerdict::NotWorse, "too few");
    }

    #[test]
    fn what_came_back_counts_where_it_was_away() {
        let back = |events| IssueShare { regressed: true, ..share(3, events, events) };
        let old = side(5.0, &[]);
        let told = compared(&side(5.0, &[back(9)]), Some(&old));
        assert_eq!((told.verdict, told.issues[0].by), (ReleaseVerdict::Worse, WorseBy::Back));
        assert_eq!(judged(&side(5.0, &[back(1)]), &old).0, ReleaseVerdict::LowVolume);
        // What the other one has, too, is nothing new, also if it is the later one.
        let (first, second) = (side(5.0, &[new_share(2, 9, 9)]), side(5.0, &[new_share(2, 8, 8)]));
        assert_eq!(judged(&first, &second).0, ReleaseVerdict::NotWorse);
        let there = side(5.0, &[back(9)]);
        assert_eq!(judged(&side(5.0, &[back(9)]), &there).0, ReleaseVerdict::NotWorse, "it was back before");
    }
}
