//! Alerts: channels, and rules by which somebody is told.

use berth_monitor::rules;
use berth_schemas::{
    Code, Problem, Scope, Untrusted,
    alert::{
        AlertList, AlertPage, AlertRemove, AlertRemoved, AlertRule, Channel, ChannelList, ChannelPage,
        ChannelRemove, ChannelSet, ChannelTest, ChannelTested,
    },
    ids::{AlertName, ChannelName},
};

use crate::{
    confirm::confirmed,
    find,
    page::{self, Keep},
    registry::{Brief, Call, Hints, Method, Spec, Tier, Tool},
    text::Text,
};

/// Messages that are shown.
const SHOWN: i64 = 20;

pub(crate) fn tools() -> Vec<Tool> {
    let spec = |name, title, description, hints, scope, method, path| Spec {
        name,
        title,
        description,
        hints,
        scope,
        tier: Tier::Extended,
        method,
        path,
    };
    vec![
        Tool::new(
            spec(
                "channel_list",
                "List channels",
                "List the channels that alerts go by: e-mail, Slack, Discord and signed webhooks; never their secrets.",
                Hints::READ,
                Scope::Read,
                Method::Get,
                "/v1/channels",
            ),
            channels,
        ),
        Tool::new(
            spec(
                "channel_set",
                "Set a channel",
                "Make or change a channel that alerts go by, and how many messages it takes in an hour. A webhook gets a signing secret, which is shown this once. channel_test tries it; alert_set uses it.",
                Hints::UPDATE,
                Scope::Admin,
                Method::Put,
                "/v1/channels/{channel}",
            ),
            set_channel,
        ),
        Tool::new(
            spec(
                "channel_test",
                "Try a channel",
                "Send a test message by a channel now, and say whether the other side took it.",
                Hints::CREATE.open_world(),
                Scope::Write,
                Method::Post,
                "/v1/channels/{channel}/test",
            ),
            test,
        ),
        Tool::new(
            spec(
                "channel_remove",
                "Remove a channel",
                "Remove a channel with its secrets. Refused while an alert uses it. Wants confirm=<its name>.",
                Hints::DESTROY,
                Scope::Admin,
                Method::Delete,
                "/v1/channels/{channel}",
            ),
            remove_channel,
        ),
        Tool::new(
            spec(
                "alert_list",
                "List alerts",
                "List the rules by which somebody is told of errors, and the last messages with what became of them.",
                Hints::READ,
                Scope::Read,
                Method::Get,
                "/v1/alerts",
            ),
            list,
        ),
        Tool::new(
            spec(
                "alert_set",
                "Set an alert",
                "Tell channels when an error is new, comes back, is seen too often or hits too many users; of one app or all. One message tells of all that happens together; after it, further issues are gathered for gather_minutes, and the same issue is told once in quiet_minutes.",
                Hints::UPDATE,
                Scope::Write,
                Method::Put,
                "/v1/alerts/{alert}",
            ),
            set,
        ),
        Tool::new(
            spec(
                "alert_remove",
                "Remove an alert",
                "Remove a rule by which somebody is told. Wants confirm=<its name>.",
                Hints::DESTROY,
                Scope::Write,
                Method::Delete,
                "/v1/alerts/{alert}",
            ),
            remove,
        ),
    ]
}

async fn channels(call: Call, input: ChannelList) -> Result<ChannelPage, Problem> {
    find::demand_all_projects(&call, "channel_list")?;
    let limit = page::limit_of_whole(input.limit)?;
    let after: Option<ChannelName> = page::name_cursor(input.cursor.as_deref())?;
    let mut channels = call.context.store.alerts().channels().await?;
    channels.retain(|c| after.as_ref().is_none_or(|a| c.channel > *a));
    let more = page::cut_whole(&mut channels, limit, call.budget, input.limit.is_some());
    let next_cursor = channels.last().filter(|_| more).map(|c| c.channel.to_string());
    Ok(ChannelPage { channels, next_cursor })
}

async fn set_channel(call: Call, input: ChannelSet) -> Result<Channel, Problem> {
    find::demand_all_projects(&call, "channel_set")?;
    let mut target = input.target;
    let secret = call.context.sender.complete(&mut target)?;
    let shown = berth_monitor::shown(&target);
    let most = input.max_per_hour;
    if !(1..=500).contains(&most) {
        return Err(Problem::invalid("max_per_hour", "max_per_hour must be from 1 to 500."));
    }
    let alerts = call.context.store.alerts();
    let channel = alerts.set_channel(&call.principal, &input.channel, &target, &shown, most).await?;
    Ok(Channel { secret, ..channel })
}

async fn known(call: &Call, name: &ChannelName) -> Result<(), Problem> {
    let channels = call.context.store.alerts().channels().await?;
    if channels.iter().any(|c| c.channel == *name) {
        return Ok(());
    }
    let names: Vec<String> = channels.iter().map(|c| c.channel.to_string()).collect();
    Err(Problem { field: Some("channel".into()), ..Problem::not_found("channel", name.as_str(), &names) })
}

async fn test(call: Call, input: ChannelTest) -> Result<ChannelTested, Problem> {
    find::demand_all_projects(&call, "channel_test")?;
    known(&call, &input.channel).await?;
    let store = &call.context.store;
    let Some((target, _)) = store.alerts().target(&input.channel).await? else {
        return Err(Problem::not_found("channel", input.channel.as_str(), &[]));
    };
    let now = store.clock().now().0;
    let message = berth_monitor::test_message(&call.context.control_url);
    let sent = call.context.sender.send(&target, &format!("test_{now}"), &message, now / 1_000_000).await;
    Ok(ChannelTested {
        channel: input.channel,
        delivered: sent.is_ok(),
        error: Untrusted::maybe(sent.err().map(|e| e.to_string())),
    })
}

async fn remove_channel(call: Call, input: ChannelRemove) -> Result<AlertRemoved, Problem> {
    find::demand_all_projects(&call, "channel_remove")?;
    known(&call, &input.channel).await?;
    let name = input.channel.to_string();
    let alerts = call.context.store.alerts();
    let users: Vec<String> = alerts
        .rules()
        .await?
        .iter()
        .filter(|(rule, _)| rule.channels.contains(&input.channel))
        .map(|(rule, _)| rule.alert.to_string())
        .collect();
    if !users.is_empty() {
        return Err(Problem::new(
            Code::Conflict,
            format!("The channel {name} is used by alerts: {}.", users.join(", ")),
        )
        .hint("Change or remove these alerts first."));
    }
    if input.dry_run {
        return Ok(AlertRemoved { name, removed: false });
    }
    confirmed("channel_remove", &name, input.confirm.as_deref(), &[format!("remove the channel {name}")])?;
    alerts.remove_channel(&call.principal, &input.channel).await?;
    Ok(AlertRemoved { name, removed: true })
}

async fn list(call: Call, input: AlertList) -> Result<AlertPage, Problem> {
    find::demand_all_projects(&call, "alert_list")?;
    let limit = page::limit_of_whole(input.limit)?;
    let after: Option<AlertName> = page::name_cursor(input.cursor.as_deref())?;
    let store = call.context.store.alerts();
    let mut deliveries = match &after {
        None => store.deliveries(SHOWN).await?,
        Some(_) => Vec::new(),
    };
    // The newest messages of a bad day are long, and must leave room for the rules.
    page::fit(&mut deliveries, Keep::First, call.budget.half(), input.limit.is_some());
    let told = serde_json::to_string(&deliveries).map_or(0, |text| text.len());
    let mut alerts: Vec<AlertRule> = store.rules().await?.into_iter().map(|(rule, _)| rule).collect();
    alerts.retain(|rule| after.as_ref().is_none_or(|a| rule.alert > *a));
    let more = page::cut_whole(&mut alerts, limit, call.budget.beside(told), input.limit.is_some());
    let next_cursor = alerts.last().filter(|_| more).map(|rule| rule.alert.to_string());
    Ok(AlertPage { alerts, deliveries, next_cursor })
}

async fn set(call: Call, input: AlertRule) -> Result<AlertRule, Problem> {
    find::demand_all_projects(&call, "alert_set")?;
    rules::check(&input)?;
    for channel in &input.channels {
        known(&call, channel).await.map_err(|p| Problem { field: Some("channels".into()), ..p })?;
    }
    let app = match &input.app {
        Some(slug) => Some(find::app_to_change(&call, slug).await?.id),
        None => None,
    };
    call.context.store.alerts().set_rule(&call.principal, &input, app).await?;
    Ok(input)
}

async fn remove(call: Call, input: AlertRemove) -> Result<AlertRemoved, Problem> {
    find::demand_all_projects(&call, "alert_remove")?;
    let alerts = call.context.store.alerts();
    let names: Vec<String> = alerts.rules().await?.iter().map(|(rule, _)| rule.alert.to_string()).collect();
    let name = input.alert.to_string();
    if !names.contains(&name) {
        return Err(Problem { field: Some("alert".into()), ..Problem::not_found("alert", &name, &names) });
    }
    if input.dry_run {
        return Ok(AlertRemoved { name, removed: false });
    }
    confirmed("alert_remove", &name, input.confirm.as_deref(), &[format!("remove the alert {name}")])?;
    alerts.remove_rule(&call.principal, &input.alert).await?;
    Ok(AlertRemoved { name, removed: true })
}

impl Brief for ChannelPage {
    fn brief(&self) -> Text {
        if self.channels.is_empty() {
            return "There is no channel. channel_set makes one: e-mail, Slack, Discord or a webhook.".into();
        }
        let lines: Vec<String> =
            self.channels.iter().map(|c| format!("{} ({}) → {}", c.channel, c.kind.as_str(), c.to)).collect();
        Text::from(lines.join("\n")).say_if(page::more(self.next_cursor.as_ref()))
    }
}

impl Brief for Channel {
    fn brief(&self) -> Text {
        let secret = match &self.secret {
            Some(_) => " Its signing secret is in this answer and shown never again.",
            None => "",
        };
        format!(
            "The channel {} leads to {} ({}).{secret} Try it with channel_test.",
            self.channel,
            self.to,
            self.kind.as_str()
        )
        .into()
    }
}

impl Brief for ChannelTested {
    fn brief(&self) -> Text {
        match &self.error {
            None => format!("The channel {} took the test message.", self.channel).into(),
            Some(why) => Text::from(format!("The channel {} did not take it: ", self.channel)).quote(why),
        }
    }
}

impl Brief for AlertRemoved {
    fn brief(&self) -> Text {
        let what = if self.removed { "is removed" } else { "would be removed (dry run)" };
        format!("{} {what}.", self.name).into()
    }
}

/// A rule in words.
fn words(rule: &AlertRule) -> String {
    let app = rule.app.as_ref().map_or_else(|| "any app".to_owned(), ToString::to_string);
    let channels: Vec<&str> = rule.channels.iter().map(ChannelName::as_str).collect();
    let threshold = match rule.threshold {
        Some(n) => format!(" of {n} in {} minutes", rule.minutes.unwrap_or(60)),
        None => String::new(),
    };
    format!("{}: {}{threshold}, {app}, to {}", rule.alert, rule.when.as_str(), channels.join(", "))
}

impl Brief for AlertRule {
    fn brief(&self) -> Text {
        format!("{}.", words(self)).into()
    }
}

impl Brief for AlertPage {
    fn brief(&self) -> Text {
        if self.alerts.is_empty() {
            return "There is no alert. channel_set makes a channel, alert_set a rule.".into();
        }
        let rules: Vec<String> = self.alerts.iter().map(words).collect();
        let text = Text::from(rules.join("\n")).say_if(page::more(self.next_cursor.as_ref()));
        if self.deliveries.is_empty() {
            return text;
        }
        text.say("\nLast messages:\n").quote_lines(self.deliveries.iter().map(|d| {
            let error = d.error.as_ref().map(|e| format!(" ({})", e.0)).unwrap_or_default();
            let held = d.held_since.map(|at| format!(", held back since {at}")).unwrap_or_default();
            let (state, count) = (d.state.as_str(), d.count);
            format!("{} {} to {}, {count} issues: {state}{held}{error}", d.at, d.alert, d.channel).into()
        }))
    }
}
