//! Which issues a rule tells of.

use std::collections::HashSet;

use berth_schemas::{
    Problem,
    alert::{AlertRule, AlertTrigger},
    issue::Level,
};
use berth_store::{IssueRow, Often};

/// Channels of a rule.
const MAX_CHANNELS: usize = 10;

/// What happened to an issue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// It was seen for the first time.
    New,
    /// It came back.
    Back,
}

/// Whether a rule tells of what happened to an issue.
#[must_use]
pub fn tells(rule: &AlertRule, issue: &IssueRow, happened: Happened, quiet: &HashSet<i64>) -> bool {
    let about = match rule.when {
        AlertTrigger::NewError => happened == Happened::New,
        AlertTrigger::Regression => happened == Happened::Back,
        AlertTrigger::Frequency | AlertTrigger::Users => false,
    };
    about && is_for(rule, issue) && !quiet.contains(&issue.id)
}

/// Whether a rule tells of how often an issue was seen.
#[must_use]
pub fn tells_often(rule: &AlertRule, issue: &IssueRow, often: &Often, quiet: &HashSet<i64>) -> bool {
    let threshold = i64::from(rule.threshold.unwrap_or(u32::MAX));
    let reached = match rule.when {
        AlertTrigger::Frequency => often.events >= threshold,
        AlertTrigger::Users => often.users >= threshold,
        AlertTrigger::NewError | AlertTrigger::Regression => false,
    };
    reached && is_for(rule, issue) && !quiet.contains(&issue.id)
}

fn is_for(rule: &AlertRule, issue: &IssueRow) -> bool {
    let app = rule.app.as_ref().is_none_or(|app| *app == issue.app);
    app && issue.level >= rule.level.unwrap_or(Level::Error)
}

/// Refuses a rule that cannot mean anything.
///
/// # Errors
/// `InvalidInput` with the field.
pub fn check(rule: &AlertRule) -> Result<(), Problem> {
    let counted = matches!(rule.when, AlertTrigger::Frequency | AlertTrigger::Users);
    match (counted, rule.threshold) {
        (true, None | Some(0)) => {
            let text = format!("An alert on {} wants a threshold of at least 1.", rule.when.as_str());
            return Err(Problem::invalid("threshold", text));
        }
        (false, Some(_)) => {
            return Err(Problem::invalid("threshold", "A threshold is for frequency and users only."));
        }
        _ => {}
    }
    if rule.minutes.is_some_and(|m| !counted || !(1..=1440).contains(&m)) {
        return Err(Problem::invalid("minutes", "minutes is from 1 to 1440, for frequency and users only."));
    }
    if rule.quiet_minutes.is_some_and(|m| m > 10_080) {
        return Err(Problem::invalid("quiet_minutes", "quiet_minutes is at most 10080, a week."));
    }
    if rule.gather_minutes.is_some_and(|m| m > 1440) {
        return Err(Problem::invalid("gather_minutes", "gather_minutes is at most 1440, a day."));
    }
    if rule.channels.is_empty() || rule.channels.len() > MAX_CHANNELS {
        return Err(Problem::invalid("channels", format!("An alert goes by 1 to {MAX_CHANNELS} channels."))
            .hint("channel_list shows those there are; channel_set makes one."));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use berth_schemas::{Timestamp, issue::IssueState};
    use berth_store::{Ends, model::AppId};

    use super::*;

    fn rule(when: AlertTrigger) -> AlertRule {
        AlertRule {
            alert: "a".parse().unwrap(),
            app: None,
            when,
            threshold: None,
            minutes: None,
            level: None,
            channels: vec!["mail".parse().unwrap()],
            quiet_minutes: None,
            gather_minutes: None,
        }
    }

    fn issue(app: &str, level: Level) -> IssueRow {
        IssueRow {
            id: 1,
            app_id: AppId(1),
            app: app.parse().unwrap(),
            number: 1,
            state: IssueState::Open,
            regressed: false,
            kind: "E".into(),
            value: String::new(),
            culprit: None,
            level,
            platform: "python".into(),
            handled: None,
            events: 1,
            users: 1,
            first_seen: Timestamp(0),
            last_seen: Timestamp(0),
            first_release: None,
            assignee: None,
            ends: Ends::default(),
            reasons: Vec::new(),
        }
    }

    #[test]
    fn a_rule_tells_of_what_it_is_for() {
        let none = HashSet::new();
        let new = rule(AlertTrigger::NewError);
        assert!(tells(&new, &issue("web", Level::Error), Happened::New, &none));
        assert!(!tells(&new, &issue("web", Level::Error), Happened::Back, &none));
        assert!(!tells(&new, &issue("web", Level::Warning), Happened::New, &none));
        assert!(!tells(&new, &issue("web", Level::Error), Happened::New, &HashSet::from([1])), "quiet");
        let other = AlertRule { app: "shop".parse().ok(), ..new };
        assert!(!tells(&other, &issue("web", Level::Error), Happened::New, &none));
        let often = AlertRule { threshold: Some(10), ..rule(AlertTrigger::Users) };
        let of = |events, users| Often { issue: 1, events, users };
        assert!(tells_often(&often, &issue("web", Level::Error), &of(10, 10), &none));
        assert!(!tells_often(&often, &issue("web", Level::Error), &of(99, 9), &none));
    }

    #[test]
    fn a_rule_that_means_nothing_is_refused() {
        assert!(check(&rule(AlertTrigger::NewError)).is_ok());
        for bad in [
            rule(AlertTrigger::Users),
            AlertRule { threshold: Some(1), ..rule(AlertTrigger::NewError) },
            AlertRule { minutes: Some(5), ..rule(AlertTrigger::NewError) },
            AlertRule { minutes: Some(0), threshold: Some(1), ..rule(AlertTrigger::Frequency) },
            AlertRule { channels: Vec::new(), ..rule(AlertTrigger::NewError) },
            AlertRule { quiet_minutes: Some(20_000), ..rule(AlertTrigger::NewError) },
            AlertRule { gather_minutes: Some(1441), ..rule(AlertTrigger::NewError) },
        ] {
            assert!(check(&bad).is_err(), "{bad:?}");
        }
    }
}
