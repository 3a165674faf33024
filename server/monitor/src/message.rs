//! What an alert says: one message for all issues that a rule tells of at a time.

use berth_schemas::alert::{AlertRule, AlertTrigger, ChannelTarget};
use berth_store::{IssueRow, Often};
use serde_json::{Value, json};

/// Issues that are named; of more, their number.
const NAMED: usize = 10;
/// Characters of an issue's text.
const TEXT: usize = 200;

/// A message: `title`, `text` (plain), `alert`, `issues`, `url`.
pub(crate) fn message(rule: &AlertRule, issues: &[(IssueRow, Option<Often>)], control_url: &str) -> Value {
    let what = match rule.when {
        AlertTrigger::NewError => "new",
        AlertTrigger::Regression => "back",
        AlertTrigger::Frequency => "frequent",
        AlertTrigger::Users => "hitting many users",
    };
    let title = match issues {
        [(issue, _)] => format!("[{}] {} is {what}: {}", issue.app, issue.reference(), line(issue)),
        many => format!("{} errors are {what}", many.len()),
    };
    let minutes = rule.minutes.unwrap_or(60);
    let lines: Vec<String> = issues
        .iter()
        .take(NAMED)
        .map(|(issue, often)| {
            let counts = match often {
                Some(o) => format!("{} events, {} users in {minutes} min", o.events, o.users),
                None => format!("{} events, {} users", issue.events, issue.users),
            };
            let culprit = issue.culprit.as_ref().map(|c| format!(" at {c}")).unwrap_or_default();
            format!("{} {}{culprit} ({}, {counts})", issue.reference(), line(issue), issue.level.as_str())
        })
        .collect();
    let mut text = lines.join("\n");
    if issues.len() > NAMED {
        text.push_str(&format!("\n… and {} more", issues.len() - NAMED));
    }
    text.push_str(&format!("\n\nberth error get <id> explains one. {control_url}"));
    let named: Vec<Value> = issues
        .iter()
        .take(NAMED)
        .map(|(issue, _)| {
            json!({ "issue": issue.reference(), "app": issue.app, "kind": issue.kind, "value": issue.value,
                "level": issue.level, "events": issue.events, "users": issue.users, "culprit": issue.culprit })
        })
        .collect();
    json!({ "title": title, "text": text, "alert": rule.alert, "when": rule.when, "issues": named, "url": control_url })
}

/// A message that says that a channel works.
#[must_use]
pub fn test_message(control_url: &str) -> Value {
    json!({ "title": "Berth: a test of this channel", "text": "This channel works. Alerts of Berth will come here.",
        "alert": null, "issues": [], "url": control_url })
}

fn line(issue: &IssueRow) -> String {
    let value = issue.value.lines().next().unwrap_or_default();
    let text = if value.is_empty() || value == issue.kind {
        issue.kind.clone()
    } else {
        format!("{}: {value}", issue.kind)
    };
    text.chars().filter(|c| !c.is_control()).take(TEXT).collect()
}

/// What may be seen of where a channel leads.
#[must_use]
pub fn shown(target: &ChannelTarget) -> String {
    let host = |url: &str| {
        url.parse::<http::Uri>().ok().and_then(|u| u.host().map(str::to_owned)).unwrap_or_default()
    };
    match target {
        ChannelTarget::Email { to, smtp_host, .. } => format!("{} by {smtp_host}", to.join(", ")),
        ChannelTarget::Slack { url }
        | ChannelTarget::Discord { url }
        | ChannelTarget::Webhook { url, .. } => host(url),
    }
}
