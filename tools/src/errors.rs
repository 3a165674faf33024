//! Errors of apps: issues, and what people decide about them.

use std::time::Duration;

use berth_observe::errors::Eraser;
use berth_schemas::{
    Code, IssueRef, Problem, Scope, Timestamp, Untrusted,
    issue::{
        ErrorAssign, ErrorDelete, ErrorDeleted, ErrorIgnore, ErrorMerge, ErrorReopen, ErrorResolve,
        ErrorRules, ErrorRulesGet, ErrorRulesSet, ErrorSplit, ErrorUserDelete, ErrorUserDeleted, IssueState,
        IssueSummary,
    },
};
use berth_store::{IssueRow, Until};

use crate::{
    confirm::confirmed,
    find, jobs,
    ongoing::Ongoing,
    registry::{Brief, Call, Hints, Method, Spec, Tier, Tool},
    text::Text,
};

/// Longest name of an assignee or a user.
const MAX_NAME: usize = 200;
/// How long what would be deleted is counted.
const LOOK: Duration = Duration::from_secs(8);
/// What of a user goes, where it is not counted before.
const WHAT_GOES: &str = "events with their attachments, feedback, sessions and the like";
/// What of a user goes in any case.
const COUNTED: &str = "the user in counts of users";
/// Names of fields in a rule.
const MAX_FIELDS: usize = 100;

pub(crate) fn tools() -> Vec<Tool> {
    let change = |name, title, description, path, hints| Spec {
        name,
        title,
        description,
        hints,
        scope: Scope::Write,
        tier: Tier::Extended,
        method: Method::Post,
        path,
    };
    vec![
        Tool::new(
            change(
                "error_resolve",
                "Mark an error as mended",
                "Mark an issue as mended, now or with the next release. When it is seen again in a newer release, it opens by itself and counts as regressed.",
                "/v1/errors/{issue}/resolve",
                Hints::UPDATE,
            ),
            resolve,
        ),
        Tool::new(
            change(
                "error_ignore",
                "Ignore an error",
                "Ignore an issue for ever, or until some hours have passed, some more events came or some more users had it; then it opens by itself.",
                "/v1/errors/{issue}/ignore",
                Hints { idempotent: false, ..Hints::UPDATE },
            ),
            ignore,
        ),
        Tool::new(
            change(
                "error_reopen",
                "Open an error again",
                "Open an issue again that was resolved or ignored.",
                "/v1/errors/{issue}/reopen",
                Hints::UPDATE,
            ),
            reopen,
        ),
        Tool::new(
            change(
                "error_assign",
                "Assign an error",
                "Say who looks after an issue, by name or address; without one, nobody does. error_search finds them by assigned:<who>.",
                "/v1/errors/{issue}/assign",
                Hints::UPDATE,
            ),
            assign,
        ),
        Tool::new(
            change(
                "error_merge",
                "Merge two errors",
                "Make one issue of two of the same app: the first ends, and its events go to the second, now and in future. error_split undoes it by hand.",
                "/v1/errors/{issue}/merge",
                Hints { destructive: false, idempotent: false, ..Hints::UPDATE },
            ),
            merge,
        ),
        Tool::new(
            change(
                "error_split",
                "Split an error",
                "Make an issue of its own of those events of an issue that are grouped like a given one, now and in future.",
                "/v1/errors/{issue}/split",
                Hints { idempotent: false, ..Hints::UPDATE },
            ),
            split,
        ),
        Tool::new(
            Spec {
                name: "error_delete",
                title: "Delete an error",
                description: "Delete an issue with all its events, for good; if it happens again it is a new one. Prefer error_resolve or error_ignore. Wants confirm=<its short id>; dry_run says what would go.",
                hints: Hints::DESTROY,
                scope: Scope::Write,
                tier: Tier::Extended,
                method: Method::Delete,
                path: "/v1/errors/{issue}",
            },
            delete,
        ),
        Tool::new(
            Spec {
                name: "error_user_delete",
                title: "Delete a user's data",
                description: "Delete all that an app's clients sent about one user, for good, as privacy laws ask: events with attachments, feedback, sessions, logs, and the user in counts. Give any one of id, e-mail address, name or IP address; what carries another one only wants a call of its own. A job does it. Wants confirm=<the user>.",
                hints: Hints::DESTROY,
                scope: Scope::Write,
                tier: Tier::Extended,
                method: Method::Delete,
                path: "/v1/apps/{app}/errors/users/{user}",
            },
            delete_user,
        ),
        Tool::new(
            Spec {
                name: "error_rules_get",
                title: "Show an app's rules for errors",
                description: "Show what holds for an app's errors: injection of the DSN, limit per minute, scrubbing of secrets and addresses.",
                hints: Hints::READ,
                scope: Scope::Read,
                tier: Tier::Extended,
                method: Method::Get,
                path: "/v1/apps/{app}/errors/rules",
            },
            rules,
        ),
        Tool::new(
            Spec {
                name: "error_rules_set",
                title: "Set an app's rules for errors",
                description: "Change what holds for an app's errors: scrubbing, how many and how long they are kept, and after how many new ones a fresh release is taken back by itself. What is left out stays; scrubbing counts for what comes from now on.",
                hints: Hints::UPDATE,
                scope: Scope::Write,
                tier: Tier::Extended,
                method: Method::Patch,
                path: "/v1/apps/{app}/errors/rules",
            },
            set_rules,
        ),
    ]
}

/// The issue of this name, if the caller may see it.
pub(crate) async fn find_issue(call: &Call, which: &IssueRef) -> Result<IssueRow, Problem> {
    if let Some(row) = call.context.store.errors().issue(&call.principal.visible, which).await? {
        return Ok(row);
    }
    // Says which apps there are, if that is what is wrong.
    find::app(call, &which.app).await.map_err(|p| Problem { field: Some("issue".into()), ..p })?;
    Err(Problem {
        field: Some("issue".into()),
        ..Problem::new(Code::NotFound, format!("There is no issue {which}."))
    }
    .hint(format!("error_search(app={:?}) lists those there are.", which.app.as_str())))
}

/// An issue in a line.
pub(crate) fn summary(row: &IssueRow) -> IssueSummary {
    IssueSummary {
        issue: row.reference(),
        kind: row.kind.as_str().into(),
        value: (!row.value.is_empty() && row.value != row.kind).then(|| row.value.as_str().into()),
        culprit: Untrusted::maybe(row.culprit.clone()),
        level: row.level,
        state: row.state,
        regressed: row.regressed,
        handled: row.handled,
        events: row.events,
        users: row.users,
        first_seen: row.first_seen,
        last_seen: row.last_seen,
        first_release: Untrusted::maybe(row.first_release.clone()),
        assignee: row.assignee.clone(),
        reopens: reopens(row),
    }
}

/// What opens an issue again, in words.
fn reopens(row: &IssueRow) -> Option<String> {
    match row.state {
        IssueState::Open => None,
        IssueState::Resolved if row.ends.in_next_release => {
            Some("when a release that was not there yet shows it".into())
        }
        IssueState::Resolved => Some("when it is seen again, but for releases older than the newest".into()),
        IssueState::Ignored => {
            let when = [
                row.ends.until.map(|at| format!("at {at}")),
                row.ends.events.map(|n| format!("when it has {n} events")),
                row.ends.users.map(|n| format!("when {n} users had it")),
            ];
            let when: Vec<String> = when.into_iter().flatten().collect();
            (!when.is_empty()).then(|| when.join(", or "))
        }
    }
}

async fn now(call: &Call, which: &IssueRef) -> Result<IssueSummary, Problem> {
    Ok(summary(&find_issue(call, which).await?))
}

async fn resolve(call: Call, input: ErrorResolve) -> Result<IssueSummary, Problem> {
    let issue = find_issue(&call, &input.issue).await?;
    call.context.store.errors().resolve(&call.principal, &issue, input.in_next_release).await?;
    now(&call, &input.issue).await
}

async fn ignore(call: Call, input: ErrorIgnore) -> Result<IssueSummary, Problem> {
    let hours = match input.hours {
        Some(0 | 8761..) => return Err(Problem::invalid("hours", "hours must be from 1 to 8760.")),
        hours => hours,
    };
    for (field, value) in [("events", input.events), ("users", input.users)] {
        if value == Some(0) {
            return Err(Problem::invalid(field, format!("{field} must be at least 1.")));
        }
    }
    let issue = find_issue(&call, &input.issue).await?;
    let until = Until {
        time: hours.map(|h| call.context.store.clock().now().plus_seconds(i64::from(h) * 3600)),
        events: input.events.map(i64::from),
        users: input.users.map(i64::from),
    };
    call.context.store.errors().ignore(&call.principal, &issue, until).await?;
    now(&call, &input.issue).await
}

async fn reopen(call: Call, input: ErrorReopen) -> Result<IssueSummary, Problem> {
    let issue = find_issue(&call, &input.issue).await?;
    call.context.store.errors().reopen(&call.principal, &issue).await?;
    now(&call, &input.issue).await
}

async fn assign(call: Call, input: ErrorAssign) -> Result<IssueSummary, Problem> {
    let to = input.to.as_deref().map(str::trim);
    if to.is_some_and(|t| t.is_empty() || t.len() > MAX_NAME || t.chars().any(char::is_control)) {
        return Err(Problem::invalid(
            "to",
            format!("to is a name or an address of 1 to {MAX_NAME} characters."),
        ));
    }
    let issue = find_issue(&call, &input.issue).await?;
    call.context.store.errors().assign(&call.principal, &issue, to).await?;
    now(&call, &input.issue).await
}

async fn merge(call: Call, input: ErrorMerge) -> Result<IssueSummary, Problem> {
    let issue = find_issue(&call, &input.issue).await?;
    let into =
        find_issue(&call, &input.into).await.map_err(|p| Problem { field: Some("into".into()), ..p })?;
    if issue.id == into.id || issue.app_id != into.app_id {
        return Err(Problem::invalid("into", "Two different issues of the same app can be merged."));
    }
    call.context.store.errors().merge(&call.principal, &issue, &into).await?;
    call.context.error_index.remove_issue(issue.id).await;
    call.context.error_index.read_again(into.id).await;
    now(&call, &input.into).await
}

async fn split(call: Call, input: ErrorSplit) -> Result<IssueSummary, Problem> {
    let issue = find_issue(&call, &input.issue).await?;
    let event = super::error_events::find_event(&call, &issue, Some(&input.event)).await?;
    let number = call.context.store.errors().split(&call.principal, &issue, &event.grouping_key).await?;
    let new = find_issue(&call, &IssueRef { app: issue.app.clone(), number }).await?;
    call.context.error_index.read_again(new.id).await;
    Ok(summary(&new))
}

async fn delete(call: Call, input: ErrorDelete) -> Result<ErrorDeleted, Problem> {
    let issue = find_issue(&call, &input.issue).await?;
    let (name, events) = (issue.reference(), issue.events);
    if input.dry_run {
        return Ok(ErrorDeleted { issue: name, events, deleted: false });
    }
    let effects = [format!("delete {name} and its {events} events")];
    confirmed("error_delete", &name.to_string(), input.confirm.as_deref(), &effects)?;
    call.context.store.errors().delete_issue(&call.principal, &issue).await?;
    call.context.error_index.remove_issue(issue.id).await;
    Ok(ErrorDeleted { issue: name, events, deleted: true })
}

async fn delete_user(call: Call, input: ErrorUserDelete) -> Result<ErrorUserDeleted, Problem> {
    if input.user.is_empty() || input.user.len() > MAX_NAME {
        return Err(Problem::invalid("user", format!("user has 1 to {MAX_NAME} characters.")));
    }
    let app = find::app_to_change(&call, &input.app).await?;
    // Counting means reading all: only for who is not yet sure.
    if input.dry_run || input.confirm.as_ref() != Some(&input.user) {
        let eraser = Eraser::new(call.context.store.clone(), call.context.error_index.clone());
        let traces = eraser.look(app.id, &input.user, LOOK).await?;
        let removes = vec![format!("{} of {}", traces.in_words(), app.slug), COUNTED.to_owned()];
        if input.dry_run {
            return Ok(ErrorUserDeleted { app: app.slug, removes, deleting: false, job: None });
        }
        let effects: Vec<String> = removes.iter().map(|goes| format!("delete {goes}")).collect();
        confirmed("error_user_delete", &input.user, input.confirm.as_deref(), &effects)?;
    }
    let job = call.context.pipeline.erase_user(&call.principal, &app, &input.user).await?;
    let removes = vec![WHAT_GOES.to_owned(), COUNTED.to_owned()];
    Ok(ErrorUserDeleted { app: app.slug, removes, deleting: true, job: Some(jobs::handle(&job)) })
}

async fn rules(call: Call, input: ErrorRulesGet) -> Result<ErrorRules, Problem> {
    let app = find::app(&call, &input.app).await?;
    Ok(call.context.store.errors().settings(app.id).await?.unwrap_or_default())
}

async fn set_rules(call: Call, input: ErrorRulesSet) -> Result<ErrorRules, Problem> {
    let app = find::app_to_change(&call, &input.app).await?;
    let errors = call.context.store.errors();
    let before: ErrorRules = errors.settings(app.id).await?.unwrap_or_default();
    let rules = ErrorRules {
        inject_dsn: input.inject_dsn.unwrap_or(before.inject_dsn),
        events_per_minute: input.events_per_minute.unwrap_or(before.events_per_minute),
        scrub_fields: input.scrub_fields.unwrap_or(before.scrub_fields),
        keep_fields: input.keep_fields.unwrap_or(before.keep_fields),
        keep_addresses: input.keep_addresses.unwrap_or(before.keep_addresses),
        retention_days: limit("retention_days", input.retention_days, before.retention_days, 1, 3650)?,
        max_events: limit("max_events", input.max_events, before.max_events, 100, 100_000_000)?,
        rollback_events: limit("rollback_events", input.rollback_events, before.rollback_events, 1, 100_000)?,
        public_maps: input.public_maps.unwrap_or(before.public_maps),
    };
    if !(1..=1_000_000).contains(&rules.events_per_minute) {
        return Err(Problem::invalid("events_per_minute", "events_per_minute must be from 1 to 1000000."));
    }
    for (field, names) in [("scrub_fields", &rules.scrub_fields), ("keep_fields", &rules.keep_fields)] {
        if names.len() > MAX_FIELDS || names.iter().any(|n| n.is_empty() || n.len() > MAX_NAME) {
            let text = format!("{field} takes at most {MAX_FIELDS} names of 1 to {MAX_NAME} characters.");
            return Err(Problem::invalid(field, text));
        }
    }
    errors.set_settings(&call.principal, app.id, &rules).await?;
    call.context.ingest.forget();
    Ok(rules)
}

/// A limit that 0 takes away, and that stays where nothing is said.
fn limit(
    field: &str,
    wanted: Option<u32>,
    before: Option<u32>,
    least: u32,
    most: u32,
) -> Result<Option<u32>, Problem> {
    match wanted {
        None => Ok(before),
        Some(0) => Ok(None),
        Some(n) if (least..=most).contains(&n) => Ok(Some(n)),
        Some(_) => Err(Problem::invalid(field, format!("{field} must be from {least} to {most}, or 0."))),
    }
}

/// An issue in one line of text.
pub(crate) fn line(issue: &IssueSummary) -> String {
    let value = issue.value.as_ref().map(|v| format!(": {}", v.0.lines().next().unwrap_or_default()));
    let culprit = issue.culprit.as_ref().map(|c| format!(" at {}", c.0)).unwrap_or_default();
    let regressed = if issue.regressed { ", regressed" } else { "" };
    format!(
        "{} {}{}{culprit} ({}, {}{regressed}, {} events, {} users, last {})",
        issue.issue,
        issue.kind.0,
        value.unwrap_or_default(),
        issue.level.as_str(),
        issue.state.as_str(),
        issue.events,
        issue.users,
        issue.last_seen
    )
}

impl Brief for IssueSummary {
    fn brief(&self) -> Text {
        let text = Text::new().quote_lines([line(self).into()]);
        match &self.reopens {
            Some(when) => text.say(format!("\nIt opens again {when}.")),
            None => text,
        }
    }
}

impl Brief for ErrorDeleted {
    fn brief(&self) -> Text {
        let what = if self.deleted { "is deleted" } else { "would be deleted (dry run)" };
        format!("{} with {} events {what}.", self.issue, self.events).into()
    }
}

impl Brief for ErrorUserDeleted {
    fn brief(&self) -> Text {
        let goes = self.removes.join("; ");
        match &self.job {
            Some(job) => {
                format!("Deleting from {} (job {}, job_get(wait_s=50) awaits it): {goes}.", self.app, job.job)
                    .into()
            }
            None => {
                format!("Dry run. It would delete: {goes}. To do it, call again with confirm=<the user>.")
                    .into()
            }
        }
    }

    fn ongoing(&self) -> Option<Ongoing> {
        Ongoing::job(self.job.as_ref())
    }
}

impl Brief for ErrorRules {
    fn brief(&self) -> Text {
        let injected = if self.inject_dsn { "set" } else { "not set" };
        let addresses = if self.keep_addresses { "kept whole" } else { "shortened" };
        let taken_back = match self.rollback_events {
            Some(n) => format!("a release is taken back after {n} events of new errors"),
            None => "no release is taken back for new errors".into(),
        };
        let days = self.retention_days.map_or_else(|| "the usual".into(), |days| days.to_string());
        let most = self.max_events.map_or_else(|| "the usual number of".into(), |most| most.to_string());
        format!(
            "SENTRY_DSN is {injected} for deployments; at most {} events a minute; kept for {days} days, {most} events; addresses are {addresses}; {} fields scrubbed besides the usual ones; {taken_back}.",
            self.events_per_minute,
            self.scrub_fields.len()
        )
        .into()
    }
}

/// The current time, for windows of queries.
pub(crate) fn time(call: &Call) -> Timestamp {
    call.context.store.clock().now()
}
