//! What an alert says: one message for all issues that a rule tells of at a time, and for those that come while it waits.

use std::collections::BTreeMap;

use berth_schemas::{
    AppSlug, IssueRef, Timestamp,
    alert::{AlertRule, AlertTrigger, ChannelTarget},
    ids::AlertName,
    issue::Level,
};
use berth_store::{IssueRow, Often};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Issues that are named with what they say; of more, their names.
const NAMED: usize = 10;
/// Names of more issues; beyond, they are a number.
const MORE: usize = 20;
/// Characters of an issue's text where it is the only one, and of its line among others.
const TEXT: usize = 200;
const LINE: usize = 150;

/// A message, as receivers get it and as it waits. What is not named of an issue is counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Message {
    title: String,
    /// Plain.
    text: String,
    alert: AlertName,
    when: AlertTrigger,
    /// The time that counts of events are of, where the rule has one.
    minutes: u32,
    issues: Vec<Named>,
    /// Further ones.
    more: Vec<IssueRef>,
    /// How many are further ones, by app.
    more_of: BTreeMap<AppSlug, u64>,
    /// How many there are in all.
    count: u64,
    url: String,
}

/// An issue in a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Named {
    issue: IssueRef,
    app: AppSlug,
    kind: String,
    value: String,
    level: Level,
    events: i64,
    users: i64,
    culprit: Option<String>,
}

impl Message {
    /// What a rule tells of these issues.
    pub(crate) fn new(rule: &AlertRule, issues: &[(IssueRow, Option<Often>)], control_url: &str) -> Self {
        let mut message = Self {
            title: String::new(),
            text: String::new(),
            alert: rule.alert.clone(),
            when: rule.when,
            minutes: rule.minutes.unwrap_or(60),
            issues: Vec::new(),
            more: Vec::new(),
            more_of: BTreeMap::new(),
            count: 0,
            url: control_url.to_owned(),
        };
        for (issue, often) in issues {
            message.add(Named {
                issue: issue.reference(),
                app: issue.app.clone(),
                kind: issue.kind.clone(),
                value: issue.value.clone(),
                level: issue.level,
                events: often.map_or(issue.events, |o| o.events),
                users: often.map_or(issue.users, |o| o.users),
                culprit: issue.culprit.clone(),
            });
        }
        message.say();
        message
    }

    /// One that waits, read back; none if it is of another make.
    pub(crate) fn read(message: &Value) -> Option<Self> {
        serde_json::from_value(message.clone()).ok()
    }

    /// Says what another one of the same rule says, too.
    pub(crate) fn join(&mut self, other: &Self) {
        for issue in &other.issues {
            self.add(issue.clone());
        }
        for issue in &other.more {
            self.add_further(issue.clone());
        }
        // Of what is not even named, only the number is known.
        for (app, of) in &other.more_of {
            let named = other.more.iter().filter(|i| i.app == *app).count() as u64;
            let unnamed = of.saturating_sub(named);
            self.count += unnamed;
            *self.more_of.entry(app.clone()).or_default() += unnamed;
        }
        self.say();
    }

    fn add(&mut self, issue: Named) {
        if let Some(known) = self.issues.iter_mut().find(|known| known.issue == issue.issue) {
            *known = issue;
        } else if self.issues.len() < NAMED && self.count == self.issues.len() as u64 {
            self.issues.push(issue);
            self.count += 1;
        } else {
            self.add_further(issue.issue);
        }
    }

    fn add_further(&mut self, issue: IssueRef) {
        if self.more.contains(&issue) {
            return;
        }
        self.count += 1;
        *self.more_of.entry(issue.app.clone()).or_default() += 1;
        if self.more.len() < MORE {
            self.more.push(issue);
        }
    }

    /// Writes title and text.
    fn say(&mut self) {
        let what = match self.when {
            AlertTrigger::NewError => "new",
            AlertTrigger::Regression => "back",
            AlertTrigger::Frequency => "frequent",
            AlertTrigger::Users => "hitting many users",
        };
        self.title = match &*self.issues {
            [issue] if self.count == 1 => {
                format!("[{}] {} is {what}: {}", issue.app, issue.issue, issue.line())
            }
            _ => format!("{} errors are {what}", self.count),
        };
        let mut text: Vec<String> = self.issues.iter().map(|issue| self.told(issue)).collect();
        text.extend(self.further());
        text.push(format!("\nberth error get <id> explains one. {}", self.url));
        self.text = text.join("\n");
    }

    fn told(&self, issue: &Named) -> String {
        let time = match self.when {
            AlertTrigger::Frequency | AlertTrigger::Users => format!(" in {} min", self.minutes),
            AlertTrigger::NewError | AlertTrigger::Regression => String::new(),
        };
        let culprit = issue.culprit.as_ref().map(|c| format!(" at {c}")).unwrap_or_default();
        let said = format!("{} {}{culprit}", issue.issue, issue.line());
        let most = if self.count == 1 { usize::MAX } else { LINE };
        let said: String = said.chars().take(most).collect();
        format!("{said} ({}, {} events, {} users{time})", issue.level.as_str(), issue.events, issue.users)
    }

    /// The issues that are not told of one by one.
    fn further(&self) -> Option<String> {
        let all: u64 = self.more_of.values().sum();
        if all == 0 {
            return None;
        }
        let what = match self.when {
            AlertTrigger::NewError => "new errors",
            AlertTrigger::Regression => "errors that came back",
            AlertTrigger::Frequency => "frequent errors",
            AlertTrigger::Users => "errors of many users",
        };
        let place = match self.more_of.iter().collect::<Vec<_>>()[..] {
            [(app, _)] => format!(" in {app}"),
            _ => {
                let of: Vec<String> = self.more_of.iter().map(|(app, n)| format!("{app} {n}")).collect();
                format!(" ({})", of.join(", "))
            }
        };
        let names: Vec<String> = self.more.iter().map(ToString::to_string).collect();
        let open = if all > self.more.len() as u64 { ", …" } else { "" };
        Some(format!("and {all} more {what}{place}: {}{open}", names.join(", ")))
    }
}

impl Named {
    fn line(&self) -> String {
        let value = self.value.lines().next().unwrap_or_default();
        let text = if value.is_empty() || value == self.kind {
            self.kind.clone()
        } else {
            format!("{}: {value}", self.kind)
        };
        text.chars().filter(|c| !c.is_control()).take(TEXT).collect()
    }
}

/// A message that had to wait for its channel's limit of messages in an hour, with that said before all else; `others`
/// still wait.
pub(crate) fn held(message: &Value, since: Timestamp, limit: i64, others: i64) -> Value {
    let mut note = format!("Held back since {since}: this channel takes {limit} messages an hour.");
    if others > 0 {
        note.push_str(&format!(" {others} more wait."));
    }
    let mut message = message.clone();
    let text = message.get("text").and_then(Value::as_str).unwrap_or_default();
    message["text"] = format!("{note}\n{text}").into();
    message["held_back"] = json!({ "since": since, "waiting": others, "max_per_hour": limit });
    message
}

/// A message that says that a channel works.
#[must_use]
pub fn test_message(control_url: &str) -> Value {
    json!({ "title": "Berth: a test of this channel", "text": "This channel works. Alerts of Berth will come here.",
        "alert": null, "issues": [], "url": control_url })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn message(numbers: impl Iterator<Item = i64>, app: &str) -> Message {
        let rule = AlertRule {
            alert: "new".parse().unwrap(),
            app: None,
            when: AlertTrigger::NewError,
            threshold: None,
            minutes: None,
            level: None,
            channels: vec!["hook".parse().unwrap()],
            quiet_minutes: None,
            gather_minutes: None,
        };
        let mut message = Message::new(&rule, &[], "http://berth.example");
        let app: AppSlug = app.parse().unwrap();
        for number in numbers {
            message.add(Named {
                issue: IssueRef { app: app.clone(), number },
                app: app.clone(),
                kind: "E".into(),
                value: "x".repeat(500),
                level: Level::Error,
                events: 1,
                users: 1,
                culprit: None,
            });
        }
        message.say();
        message
    }

    #[test]
    fn what_comes_while_a_message_waits_is_told_in_it() {
        let mut waits = message(1..=3, "web");
        waits.join(&message(3..=52, "web"));
        assert_eq!((waits.title.as_str(), waits.count), ("52 errors are new", 52));
        assert_eq!(waits.issues.len(), NAMED);
        assert!(waits.text.contains("and 42 more new errors in web: WEB-B, WEB-C"), "{}", waits.text);
        // Read back from where it waits, it goes on.
        let kept = serde_json::to_value(&waits).unwrap();
        let mut waits = Message::read(&kept).unwrap();
        waits.join(&message(1..=500, "shop"));
        assert_eq!(waits.count, 552);
        assert!(waits.text.contains("and 542 more new errors (shop 500, web 42): WEB-B"), "{}", waits.text);
        assert!(waits.text.chars().count() < 2_500, "{}", waits.text);
        assert_eq!(Message::read(&json!({ "title": "of before" })), None);
    }

    #[test]
    fn what_was_held_back_says_so_first() {
        let one = serde_json::to_value(message(1..=1, "web")).unwrap();
        let told = held(&one, Timestamp(0), 30, 2);
        let text = told["text"].as_str().unwrap();
        assert!(text.starts_with("Held back since 1970-01-01T00:00:00"), "{text}");
        assert!(text.contains("30 messages an hour. 2 more wait.\nWEB-1 E: x"), "{text}");
    }
}
