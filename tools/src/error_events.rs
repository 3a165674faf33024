//! One issue or event in full.

use std::collections::HashMap;

use berth_observe::errors::{
    event::Event,
    show::{self, About},
};
use berth_schemas::{
    Code, EnvironmentName, Problem, Untrusted,
    issue::{
        AttachmentShown, ErrorEvent, ErrorEventGet, ErrorEventList, ErrorGet, EventDetail, EventSummary,
        EventSummaryPage, FacetValue, IssueDetail, ReleaseCommit, StandingOut,
    },
};
use berth_store::{ErrorEventRow, IssueRow, WantedMap, model::DeploymentRow};
use serde_json::Value;

use crate::{
    errors::{find_issue, line, summary, time},
    feedback, find, page,
    page::Keep,
    registry::{Brief, Call, Spec, Tool},
    text::Text,
};

/// Seconds of a day.
const DAY: i64 = 24 * 3600;
/// Events by which it is told what stands out.
const SAMPLE: i64 = 50;
/// Other issues, and events of each, that they are compared with.
const OTHERS: (i64, i64) = (25, 2);
/// Commits of a release that are shown with an issue.
const COMMITS: usize = 10;
/// Bytes of an event as the client sent it, in an answer.
const MAX_RAW: usize = 200_000;

pub(crate) fn tools() -> Vec<Tool> {
    vec![
        Tool::new(
            Spec::extended_read(
                "error_get",
                "Explain an error",
                "Explain one issue (WEB-7K): what and where with source lines, since when, which release, deployment and commits brought it, how often and for how many users, what stands out, breadcrumbs, request, similar issues. The first call when something is broken.",
                "/v1/errors/{issue}",
            ),
            get,
        ),
        Tool::new(
            Spec::extended_read(
                "error_event_list",
                "List events of an error",
                "List the events of an issue, newest first, with time, release, text and user.",
                "/v1/errors/{issue}/events",
            ),
            events,
        ),
        Tool::new(
            Spec::extended_read(
                "error_event_get",
                "Show an error event",
                "Show one event of an issue with stack, breadcrumbs, request and tags; raw=true adds all that the client sent, secrets filtered.",
                "/v1/errors/{issue}/event",
            ),
            event,
        ),
    ]
}

/// The event of an issue with this id, or its newest.
pub(crate) async fn find_event(
    call: &Call,
    issue: &IssueRow,
    id: Option<&str>,
) -> Result<ErrorEventRow, Problem> {
    let wanted = match id {
        Some(id) => Some(berth_observe::errors::accept::event_id(id).ok_or_else(|| {
            Problem::invalid("event", "An event's id has 32 hexadecimal digits; error_event_list shows them.")
        })?),
        None => None,
    };
    let row = call.context.store.errors().event(issue.id, wanted.as_deref()).await?;
    row.ok_or_else(|| {
        let name = issue.reference();
        match wanted {
            Some(id) => Problem {
                field: Some("event".into()),
                ..Problem::new(Code::NotFound, format!("{name} has no event {id}."))
            }
            .hint("error_event_list shows those that are kept."),
            None => {
                Problem::new(Code::NotFound, format!("No event of {name} is kept any more; its counts are."))
            }
        }
    })
}

async fn environment_name(call: &Call, row: &ErrorEventRow) -> Result<EnvironmentName, Problem> {
    let app = call.context.store.apps().by_environment(row.environment_id).await?;
    Ok(app.map_or_else(EnvironmentName::production, |a| a.environment.name))
}

async fn shown(call: &Call, issue: &IssueRow, row: &ErrorEventRow) -> Result<(EventDetail, Value), Problem> {
    let damaged = || Problem::new(Code::Internal, format!("The event {} is damaged.", row.event_id));
    let body: Value = serde_json::from_slice(&row.body).map_err(|_| damaged())?;
    let event = Event::read(&body).ok_or_else(damaged)?;
    let about = About {
        event_id: row.event_id.clone(),
        issue: issue.reference(),
        at: row.at,
        environment: environment_name(call, row).await?,
    };
    let mut detail = show::detail(about, &event, &body);
    let attachments = call.context.store.errors().attachments(row.app_id, &row.event_id).await?;
    detail.attachments = attachments.iter().map(feedback::attachment).collect();
    let waits = call.context.store.errors().waits_for(row.id).await?;
    detail.map_problems = waits.iter().map(map_problem).collect();
    Ok((detail, body))
}

/// A missing map, with what to do.
fn map_problem(wanted: &WantedMap) -> Untrusted {
    if wanted.debug_id.is_empty() && wanted.url.starts_with('/') {
        let (file, release) = (&wanted.url, &wanted.release);
        let text = format!(
            "The source map of {file} is still to be taken out of the image of release {release:?}; Berth does it."
        );
        return text.into();
    }
    let by = match wanted.debug_id.as_str() {
        "" => format!("release {:?}", wanted.release),
        id => format!("debug id {id}"),
    };
    format!("No source map of {} by {by}; sentry-cli sourcemaps upload brings it, also now.", wanted.url)
        .into()
}

async fn get(call: Call, input: ErrorGet) -> Result<IssueDetail, Problem> {
    let issue = find_issue(&call, &input.issue).await?;
    let errors = call.context.store.errors();
    let now = time(&call);
    let hours = errors.hours(issue.id, now.plus_seconds(-2 * DAY)).await?;
    let day = now.plus_seconds(-DAY);
    let latest = match errors.event(issue.id, None).await? {
        Some(row) => Some(shown(&call, &issue, &row).await?.0),
        None => None,
    };
    let alike = errors.alike(&issue, 5).await?;
    let cause = cause(&call, &issue).await?;
    let commits = match &issue.first_release {
        Some(release) => errors.release_commits(issue.app_id, release).await?,
        None => Vec::new(),
    };
    let commits = commits.into_iter().take(COMMITS).collect();
    Ok(IssueDetail {
        events_24h: hours.iter().filter(|h| h.hour >= day).map(|h| h.events).sum(),
        hours,
        releases: named(errors.releases_of(issue.id).await?),
        first_deployment: cause.deployment,
        first_commit: cause.commit,
        last_good_commit: cause.good,
        stands_out: stands_out(&call, &issue).await?,
        grouped_by: issue.reasons.clone(),
        similar: alike.iter().map(IssueRow::reference).collect(),
        feedback_count: errors.feedback_count(&issue).await?,
        feedback: errors.feedback(&issue, 5).await?.iter().map(feedback::about_issue).collect(),
        release_commits: commits,
        latest,
        summary: summary(&issue),
    })
}

fn named(counts: Vec<(String, i64)>) -> Vec<FacetValue> {
    let value =
        |(name, count): (String, i64)| FacetValue { value: name.into(), events: count.unsigned_abs() };
    counts.into_iter().map(value).collect()
}

/// Which deployment an issue came with.
#[derive(Default)]
struct Cause {
    deployment: Option<String>,
    commit: Option<String>,
    good: Option<String>,
}

/// The deployment that was live when an issue was first seen, and the commit before it.
async fn cause(call: &Call, issue: &IssueRow) -> Result<Cause, Problem> {
    let newest = call.context.store.deployments().list(issue.app_id, None, None, 200).await?;
    let lived: Vec<&DeploymentRow> =
        newest.iter().filter(|d| d.release.is_some() && d.finished_at.is_some()).collect();
    // By the name of its release, or else by the time.
    let named = |d: &&&DeploymentRow| {
        let name = berth_deploy::error_release(&d.reference(), d.commit.as_deref());
        issue.first_release.as_ref() == Some(&name)
    };
    let earlier = |d: &&&DeploymentRow| d.finished_at.is_some_and(|at| at <= issue.first_seen);
    let first = lived.iter().rfind(named).or_else(|| lived.iter().find(earlier));
    let Some(first) = first else { return Ok(Cause::default()) };
    let before = lived.iter().find(|d| d.environment_id == first.environment_id && d.number < first.number);
    Ok(Cause {
        deployment: Some(first.reference().to_string()),
        commit: first.commit.clone(),
        good: before.and_then(|d| d.commit.clone()).filter(|c| Some(c) != first.commit.as_ref()),
    })
}

/// Values that are much more frequent in an issue's events than in the app's others.
async fn stands_out(call: &Call, issue: &IssueRow) -> Result<Vec<StandingOut>, Problem> {
    let errors = call.context.store.errors();
    let here = errors.events_of(issue.id, None, None, SAMPLE).await?;
    // A value of one event says nothing.
    if here.len() < 2 {
        return Ok(Vec::new());
    }
    let elsewhere = errors.events_beside(issue.app_id, issue.id, OTHERS).await?;
    let lost = |_| Problem::new(Code::Internal, "Comparing events ended badly; the daemon's log says more.");
    tokio::task::spawn_blocking(move || outstanding(&here, &elsewhere)).await.map_err(lost)
}

fn outstanding(here: &[ErrorEventRow], elsewhere: &[ErrorEventRow]) -> Vec<StandingOut> {
    let (ours, others) = (values(here), values(elsewhere));
    let percent =
        |count: usize, of: usize| u32::try_from((count * 100).checked_div(of).unwrap_or(0)).unwrap_or(100);
    let mut found: Vec<StandingOut> = ours
        .into_iter()
        .filter_map(|(pair, count)| {
            let (here, there) = (
                percent(count, here.len()),
                percent(others.get(&pair).copied().unwrap_or(0), elsewhere.len()),
            );
            (here >= 60 && here >= there + 30).then(|| StandingOut {
                field: pair.0.into(),
                value: pair.1.into(),
                here,
                elsewhere: there,
            })
        })
        .collect();
    found.sort_by_key(|s| std::cmp::Reverse((s.here - s.elsewhere, s.field.0.clone())));
    found.truncate(8);
    found
}

fn values(rows: &[ErrorEventRow]) -> HashMap<(String, String), usize> {
    let mut counts: HashMap<(String, String), usize> = HashMap::new();
    for row in rows {
        let body: Value = serde_json::from_slice(&row.body).unwrap_or_default();
        let Some(event) = Event::read(&body) else { continue };
        let mut pairs: Vec<(String, String)> = event.tags.clone();
        pairs.extend(event.about.iter().map(|(n, v)| ((*n).to_owned(), v.clone())));
        for (name, value) in [
            ("release", event.release.clone()),
            ("transaction", event.transaction.clone()),
            ("server_name", event.server_name.clone()),
            ("environment", event.environment.clone()),
        ] {
            pairs.extend(value.map(|v| (name.to_owned(), v)));
        }
        pairs.sort();
        pairs.dedup();
        for pair in pairs {
            *counts.entry(pair).or_default() += 1;
        }
    }
    counts
}

async fn events(call: Call, input: ErrorEventList) -> Result<EventSummaryPage, Problem> {
    let limit = page::limit(input.limit, 20, 100)?;
    let before = page::number_cursor(input.cursor.as_deref())?;
    let issue = find_issue(&call, &input.issue).await?;
    let environment = match &input.environment {
        Some(name) => Some(find::app_in(&call, &issue.app, Some(name)).await?.environment.id),
        None => None,
    };
    let rows = call.context.store.errors().events_of(issue.id, environment, before, limit + 1).await?;
    let more = rows.len() > usize::try_from(limit).unwrap_or(0);
    let mut listed = Vec::new();
    for row in rows.iter().take(usize::try_from(limit).unwrap_or(0)) {
        let body: Value = serde_json::from_slice(&row.body).unwrap_or_default();
        let event = Event::read(&body);
        let event = event.as_ref();
        listed.push((
            row.id,
            EventSummary {
                event: row.event_id.clone(),
                at: row.at,
                environment: environment_name(&call, row).await?,
                release: Untrusted::maybe(event.and_then(|e| e.release.clone())),
                value: event.map(|e| first_line(&e.value())).unwrap_or_default().into(),
                user: Untrusted::maybe(event.and_then(|e| show::user(&e.user))),
            },
        ));
    }
    let cut = page::fit(&mut listed, Keep::First, call.budget, input.limit.is_some());
    let next = listed.last().map(|(id, _)| id.to_string()).filter(|_| more || cut);
    Ok(EventSummaryPage { events: listed.into_iter().map(|(_, e)| e).collect(), next_cursor: next })
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}

async fn event(call: Call, input: ErrorEventGet) -> Result<ErrorEvent, Problem> {
    let issue = find_issue(&call, &input.issue).await?;
    let row = find_event(&call, &issue, input.event.as_deref()).await?;
    let (event, body) = shown(&call, &issue, &row).await?;
    let raw = input.raw.then(|| {
        let text = body.to_string();
        let cut: String = text.chars().take(MAX_RAW).collect();
        cut.into()
    });
    Ok(ErrorEvent { event, raw })
}

/// An event for a reader who sees nothing else.
fn story(event: &EventDetail) -> Vec<String> {
    let mut lines = Vec::new();
    for exception in &event.exceptions {
        let kind = exception.kind.as_ref().map_or("Stack", |k| k.0.as_str());
        let value = exception.value.as_ref().map(|v| format!(": {}", v.0)).unwrap_or_default();
        lines.push(format!("{kind}{value}"));
        for frame in &exception.frames {
            let mark = if frame.in_app { "" } else { " (package)" };
            lines.push(format!("  at {}{mark}", frame.place.0));
            if let Some(code) = &frame.code {
                lines.extend(code.0.lines().map(|l| format!("      {l}")));
            }
        }
    }
    if let Some(message) = &event.message {
        lines.push(format!("Message: {}", message.0));
    }
    if let Some(request) = &event.request {
        let part = |t: &Option<Untrusted>| t.as_ref().map(|t| t.0.clone()).unwrap_or_default();
        lines.push(format!("Request: {} {}", part(&request.method), part(&request.url)));
    }
    if let Some(user) = &event.user {
        lines.push(format!("User: {}", user.0));
    }
    if !event.tags.is_empty() {
        let tags: Vec<String> = event.tags.iter().map(|t| format!("{}={}", t.name.0, t.value.0)).collect();
        lines.push(format!("Tags: {}", tags.join(", ")));
    }
    if !event.attachments.is_empty() {
        let file = |a: &AttachmentShown| {
            format!("{} (attachment {}, {}, {} bytes)", a.name.0, a.attachment, a.media_type, a.bytes)
        };
        let files: Vec<String> = event.attachments.iter().map(file).collect();
        lines.push(format!("Files: {}", files.join(", ")));
    }
    if !event.breadcrumbs.is_empty() {
        lines.push("Before it:".into());
        lines.extend(event.breadcrumbs.iter().map(|c| {
            let at = c.at.map(|at| format!("{at} ")).unwrap_or_default();
            format!("  {at}{}", c.text.0)
        }));
    }
    lines
}

impl Brief for IssueDetail {
    fn brief(&self) -> Text {
        let mut text = Text::new().quote_lines([line(&self.summary).into()]).say(format!(
            "\nFirst seen {}, {} events in the last 24 hours.",
            self.summary.first_seen, self.events_24h
        ));
        if let Some(when) = &self.summary.reopens {
            text = text.say(format!(" It opens again {when}."));
        }
        if let Some(deployment) = &self.first_deployment {
            text = text.say(format!(" {deployment} was live then"));
            text = match (&self.last_good_commit, &self.first_commit) {
                (Some(good), Some(bad)) => text.say(format!("; look at the commits {good}..{bad}.")),
                _ => text.say("."),
            };
        }
        if !self.release_commits.is_empty() {
            text = text.say("\nCommits of the release that it was first seen in:\n");
            text = text.quote_lines(self.release_commits.iter().map(|c| commit_line(c).into()));
        }
        if !self.stands_out.is_empty() {
            text = text.say("\nStands out: ").quote_lines(self.stands_out.iter().map(|s| {
                format!("{}={} ({} % here, {} % elsewhere)", s.field.0, s.value.0, s.here, s.elsewhere).into()
            }));
        }
        if let Some(event) = &self.latest {
            text = text.say(format!("\nNewest event {} at {}:\n", event.event, event.at));
            text = text.quote_lines(story(event).into_iter().map(Into::into));
        }
        if !self.feedback.is_empty() {
            text = text.say(format!("\nUsers wrote {} times about it, last:\n", self.feedback_count));
            text = text.quote_lines(self.feedback.iter().map(|f| format!("{} {}", f.at, f.message.0).into()));
        }
        if !self.similar.is_empty() {
            let similar: Vec<String> = self.similar.iter().map(ToString::to_string).collect();
            text = text.say(format!("\nSimilar: {}.", similar.join(", ")));
        }
        text.say(format!("\nWhen it is mended: error_resolve(issue={:?}).", self.summary.issue.to_string()))
    }
}

/// A commit in a line.
pub(crate) fn commit_line(commit: &ReleaseCommit) -> String {
    let of = |text: &Option<Untrusted>| text.as_ref().map(|t| format!(" {}", t.0)).unwrap_or_default();
    let id: String = commit.id.0.chars().take(12).collect();
    let author = commit.author.as_ref().map(|a| format!(" ({})", a.0)).unwrap_or_default();
    format!("{id}{}{author}", of(&commit.message))
}

impl Brief for EventSummaryPage {
    fn brief(&self) -> Text {
        if self.events.is_empty() {
            return "No event is kept.".into();
        }
        let text = Text::new().quote_lines(self.events.iter().map(|e| {
            let of = |t: &Option<Untrusted>| t.as_ref().map(|t| format!(" {}", t.0)).unwrap_or_default();
            format!("{} {} {}{}{} {}", e.at, e.event, e.environment, of(&e.release), of(&e.user), e.value.0)
                .into()
        }));
        text.say_if(page::more(self.next_cursor.as_ref()))
    }
}

impl Brief for ErrorEvent {
    fn brief(&self) -> Text {
        let event = &self.event;
        let text = Text::from(format!("Event {} of {} at {}:\n", event.event, event.issue, event.at));
        text.quote_lines(story(event).into_iter().map(Into::into))
    }
}
