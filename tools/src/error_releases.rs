//! Comparing a release's errors with those of the one before it.

use berth_observe::errors::{
    judge::{self, Side, Suspect, Traffic},
    sessions::Sessions,
};
use berth_schemas::{
    Code, IssueRef, Problem, Scope, Timestamp,
    issue::{ErrorReleaseCompare, ReleaseComparison, ReleaseErrors, ReleaseIssue, ReleaseVerdict, WorseBy},
};
use berth_store::{
    ErrorReleaseRow, IssueFilter, IssueOrder, ItemKind, PlacedRelease, Stretch,
    model::{AppRow, DeploymentRow},
};

use crate::{
    error_events::commit_line,
    errors::{line, summary, time},
    find,
    registry::{Brief, Call, Hints, Method, Spec, Tier, Tool},
    text::Text,
};

/// Releases and deployments that are looked through.
const LOOKED_AT: i64 = 500;
const DEPLOYMENTS: i64 = 200;
/// Microseconds of the longest time that is compared, a week, and of the least of the release before, an hour.
const LONGEST: i64 = 7 * 24 * 3_600_000_000;
const LEAST: i64 = 3_600_000_000;
/// Issues that are shown, and commits.
const SHOWN: usize = 20;
/// Reports of sessions that are read at a time, and in all: the newest.
const PAGE: i64 = 500;
const MAX_REPORTS: usize = 20_000;

pub(crate) fn tools() -> Vec<Tool> {
    vec![Tool::new(
        Spec {
            name: "error_release_compare",
            title: "Compare a release's errors",
            description: "Tell whether a release is worse than the one before it in the same environment: new, returned and grown issues, events and users an hour and per 1,000 requests, 5xx and crash-free sessions over comparable times, with a verdict, its reason and margin.",
            hints: Hints::READ,
            scope: Scope::Read,
            tier: Tier::Extended,
            method: Method::Get,
            path: "/v1/apps/{app}/errors/releases",
        },
        compare,
    )]
}

/// A release as the environment saw it.
struct Life {
    release: ErrorReleaseRow,
    begin: Timestamp,
    /// Releases of Berth's own that go by its name.
    numbers: Vec<i64>,
}

async fn compare(call: Call, input: ErrorReleaseCompare) -> Result<ReleaseComparison, Problem> {
    let app = find::app_in(&call, &input.app, input.environment.as_ref()).await?;
    let lives = lives(&call, &app).await?;
    let names: Vec<String> = lives.iter().take(10).map(|l| l.release.name.clone()).collect();
    let find = |field: &str, name: &str| {
        lives.iter().position(|l| l.release.name == name).ok_or_else(|| Problem {
            field: Some(field.to_owned()),
            ..Problem::not_found_among_quotes("release", name, &names)
        })
    };
    let at = match &input.release {
        Some(name) => find("release", name)?,
        None => 0,
    };
    let Some(life) = lives.get(at) else {
        return Err(Problem::new(Code::NotFound, format!("No error of {} names a release.", app.title()))
            .hint("Set release in the SDK's init, or deploy with SENTRY_RELEASE, which Berth sets."));
    };
    let before = match &input.with {
        Some(name) => Some(find("with", name)?),
        None => Some(at + 1).filter(|next| *next < lives.len()),
    };
    if before == Some(at) {
        return Err(Problem::invalid("with", "A release cannot be compared with itself."));
    }
    let end = |position: usize| match position.checked_sub(1).and_then(|next| lives.get(next)) {
        Some(next) => next.begin,
        None => time(&call),
    };
    // Counts of what is gone would be too low.
    let complete = call.context.store.errors().complete_since(app.id).await?;
    let not_before = |from: Timestamp| complete.map_or(from, |since| from.max(since));
    let to = end(at).min(Timestamp(life.begin.0 + LONGEST));
    let from = not_before(life.begin).min(to);
    let (ours, new) = look(&call, &app, life, (from, to)).await?;
    let theirs = match before.and_then(|position| Some((position, lives.get(position)?))) {
        Some((position, life)) => {
            // What it had last, as the times of day and the traffic are most alike.
            let until = end(position);
            let length = (to.0 - from.0).max(LEAST);
            let from = not_before(life.begin.max(Timestamp(until.0 - length))).min(until);
            Some(look(&call, &app, life, (from, until)).await?)
        }
        None => None,
    };
    let judged = judge::judge(&app.slug, &life.release.name, &new, theirs.as_ref().map(|(_, side)| side));
    let brought = judged.issues.iter().filter(|s| s.by != WorseBy::Grew).take(SHOWN);
    let brought: Vec<i64> = brought.map(|s| s.share.issue).collect();
    let order = IssueOrder::Events;
    let (rows, _) = call
        .context
        .store
        .errors()
        .issues(&call.principal.visible, Some(app.id), &IssueFilter::Ids(brought), order, (0, 20))
        .await?;
    let commits = call.context.store.errors().release_commits(app.id, &life.release.name).await?;
    Ok(ReleaseComparison {
        commit_count: commits.len(),
        commits: commits.into_iter().take(SHOWN).collect(),
        environment: app.environment.name.clone(),
        release: ours,
        with: theirs.map(|(errors, _)| errors),
        worse: judged.verdict == ReleaseVerdict::Worse,
        verdict: judged.verdict,
        reason: judged.reason,
        margin: judged.margin,
        why: judged.why.into_iter().take(SHOWN).collect(),
        issues: judged.issues.iter().take(SHOWN).map(|suspect| shown(&app, suspect)).collect(),
        new_issues: rows.iter().map(summary).collect(),
    })
}

fn shown(app: &AppRow, suspect: &Suspect) -> ReleaseIssue {
    ReleaseIssue {
        issue: IssueRef { app: app.slug.clone(), number: suspect.share.number },
        by: suspect.by,
        events: suspect.share.events,
        users: suspect.share.users,
        per_hour: round(suspect.per_hour),
        before_per_hour: round(suspect.before_per_hour),
        low_volume: !suspect.weighs,
    }
}

/// The releases of an environment, the newest first: those that it saw errors of, those that were deployed to it, and in
/// production those that were made known without saying where.
async fn lives(call: &Call, app: &AppRow) -> Result<Vec<Life>, Problem> {
    let store = &call.context.store;
    let placed = store.errors().releases_placed(app.id, app.environment.id, LOOKED_AT).await?;
    let deployed =
        store.deployments().list_in(app.id, Some(app.environment.id), None, None, DEPLOYMENTS).await?;
    let mut lives: Vec<Life> =
        placed.into_iter().filter_map(|release| life(release, &deployed, app.is_production())).collect();
    lives.sort_by_key(|life| std::cmp::Reverse((life.begin, life.release.id)));
    Ok(lives)
}

fn life(placed: PlacedRelease, deployed: &[DeploymentRow], production: bool) -> Option<Life> {
    let named = |d: &&DeploymentRow| {
        d.release.is_some()
            && d.finished_at.is_some()
            && berth_deploy::error_release(&d.reference(), d.commit.as_deref()) == placed.release.name
    };
    let own: Vec<&DeploymentRow> = deployed.iter().filter(named).collect();
    let live = own.iter().filter_map(|d| d.finished_at).min();
    let unplaced = (production && !placed.elsewhere).then_some(placed.release.first_seen);
    let begin = [placed.here, live].into_iter().flatten().min().or(unplaced)?;
    Some(Life { begin, numbers: own.iter().map(|d| d.number).collect(), release: placed.release })
}

/// What there is of a release in a time.
async fn look(
    call: &Call,
    app: &AppRow,
    life: &Life,
    (from, to): (Timestamp, Timestamp),
) -> Result<(ReleaseErrors, Side), Problem> {
    let errors = call.context.store.errors();
    let stretch =
        Stretch { app: app.id, environment: app.environment.id, release: life.release.id, from, to };
    let side = Side {
        hours: hours(from, to),
        shares: errors.shares(&stretch).await?,
        traffic: traffic(call, life, &stretch).await?,
        sessions: sessions(call, &stretch).await?.of(&life.release.name),
    };
    let events = side.events();
    let per_hour = if side.hours > 0.0 { float(events) / side.hours } else { 0.0 };
    let percent = |part: i64, of: i64| (of > 0).then(|| round(100.0 * float(part) / float(of)));
    let told = side.traffic.filter(|t| t.requests > 0);
    let shown = ReleaseErrors {
        release: life.release.name.as_str().into(),
        first_seen: life.begin,
        from,
        to,
        events,
        hours: round(side.hours),
        per_hour: round(per_hour),
        issues: i64::try_from(side.shares.len()).unwrap_or(i64::MAX),
        users: errors.users_in(&stretch).await?,
        events_in_all: errors.release_stats(life.release.id).await?.events,
        requests: told.map(|t| t.requests),
        per_1000_requests: told.map(|t| round(1000.0 * float(t.events) / float(t.requests))),
        server_error_percent: told.and_then(|t| percent(t.server_errors, t.requests)),
        sessions: Some(side.sessions.sessions).filter(|n| *n > 0),
        crash_free_percent: percent(side.sessions.sessions - side.sessions.crashed, side.sessions.sessions),
    };
    Ok((shown, side))
}

/// Requests of a release in the part of a time that the log goes back to; none where it knows nothing.
async fn traffic(call: &Call, life: &Life, stretch: &Stretch) -> Result<Option<Traffic>, Problem> {
    let store = &call.context.store;
    let Some(oldest) = store.requests().oldest().await? else { return Ok(None) };
    let covered = Stretch { from: stretch.from.max(oldest), ..*stretch };
    if covered.from >= covered.to {
        return Ok(None);
    }
    // An app that names its releases itself has none of Berth's own by that name: then all of the environment counts, as
    // it was the newest there.
    let numbers = Some(life.numbers.as_slice()).filter(|numbers| !numbers.is_empty());
    let time = (covered.from, covered.to);
    let counts = store.requests().answers_between(stretch.app, stretch.environment, numbers, time).await?;
    let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let events = store.errors().shares(&covered).await?.iter().map(|share| share.events).sum();
    Ok(Some(Traffic {
        requests: count(counts.total),
        server_errors: count(counts.server_errors),
        events,
        whole: covered.from == stretch.from,
    }))
}

/// The newest reports of sessions in a time.
async fn sessions(call: &Call, stretch: &Stretch) -> Result<Sessions, Problem> {
    let (mut sessions, mut before, mut read) = (Sessions::default(), i64::MAX, 0);
    while read < MAX_REPORTS {
        let rows = call
            .context
            .store
            .errors()
            .telemetry(
                stretch.app,
                stretch.environment,
                ItemKind::Session,
                (stretch.from, stretch.to),
                (before, PAGE),
            )
            .await?;
        let Some((last, ..)) = rows.last() else { break };
        before = *last;
        read += rows.len();
        rows.iter().for_each(|(_, _, body)| sessions.add(body));
    }
    Ok(sessions)
}

#[expect(clippy::cast_precision_loss, reason = "rates for people")]
fn float(n: i64) -> f64 {
    n as f64
}

fn hours(from: Timestamp, to: Timestamp) -> f64 {
    float(to.0 - from.0) / 3_600_000_000.0
}

fn round(n: f64) -> f64 {
    (n * 100.0).round() / 100.0
}

impl Brief for ReleaseComparison {
    fn brief(&self) -> Text {
        let rate = |r: &ReleaseErrors| {
            let mut text = format!(
                "{} events in {:.1} h ({:.1} an hour), {} issues, {} users",
                r.events, r.hours, r.per_hour, r.issues, r.users
            );
            if let (Some(requests), Some(per)) = (r.requests, r.per_1000_requests) {
                text.push_str(&format!(
                    ", {per:.2} per 1,000 of {requests} requests ({:.1} % 5xx)",
                    r.server_error_percent.unwrap_or(0.0)
                ));
            }
            if let (Some(sessions), Some(free)) = (r.sessions, r.crash_free_percent) {
                text.push_str(&format!(", {free:.1} % of {sessions} sessions free of crashes"));
            }
            format!("{text}; {} events in all", r.events_in_all)
        };
        let mut text = Text::from(format!("In {}, ", self.environment)).quote(&self.release.release);
        text = text.say(format!(": {}.", rate(&self.release)));
        if let Some(with) = &self.with {
            text = text.say(" Before, ").quote(&with.release).say(format!(": {}.", rate(with)));
        }
        text = text.say(format!(" {}", self.reason));
        if let Some(margin) = self.margin {
            text = text.say(format!(" Margin: {margin:.2} times the rate of before."));
        }
        if !self.commits.is_empty() {
            text = text.say(format!("\nIts {} commits, the newest first:\n", self.commit_count));
            text = text.quote_lines(self.commits.iter().map(|c| commit_line(c).into()));
        }
        if !self.new_issues.is_empty() {
            text = text.say("\nNew or back:\n").quote_lines(self.new_issues.iter().map(|i| line(i).into()));
        }
        text
    }
}
