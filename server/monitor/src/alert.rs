//! The task behind alerts: reads what happened, keeps what is to be told, sends what is due.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::Duration,
};

use berth_schemas::{
    IssueRef, Timestamp,
    alert::{AlertRule, AlertTrigger, DeliveryState},
};
use berth_store::{
    DeliveryRow, IssueFilter, IssueOrder, IssueRow, NewDelivery, NewMessage, Often, Result, Store,
    model::{AppId, EventRow, Visible},
};
use tokio_util::sync::CancellationToken;

use crate::{
    message::{self, Message},
    rules::{self, Happened},
    send::Sender,
};

/// Name of the cursor in the event log.
const CURSOR: &str = "alerts";
/// Events that are read at a time.
const BATCH: i64 = 500;
/// How long events are gathered, so that one message tells of all that happened together.
const GATHER: Duration = Duration::from_secs(2);
/// How often counts are looked at, and messages are tried again.
const LOOK: Duration = Duration::from_secs(20);
/// Tries of a message.
const TRIES: i64 = 6;
/// How long a rule keeps quiet about an issue unless it says otherwise, in minutes.
const QUIET: u32 = 60;
/// How long after a message further issues are gathered unless the rule says otherwise, in minutes.
const GATHERED: u32 = 5;
/// Seconds of an hour, for which a channel's limit is.
const HOUR: i64 = 3600;

/// Tells by all rules, until `shutdown`.
pub async fn alert(store: Store, sender: Sender, control_url: String, shutdown: CancellationToken) {
    let mut events = store.events().subscribe();
    let mut counted: Option<tokio::time::Instant> = None;
    loop {
        if let Err(error) = collect(&store, &control_url).await {
            tracing::warn!(%error, "what is to be told of errors could not be read");
        }
        if counted.is_none_or(|at| at.elapsed() >= LOOK) {
            counted = Some(tokio::time::Instant::now());
            if let Err(error) = count(&store, &control_url).await {
                tracing::warn!(%error, "how often errors were seen could not be read");
            }
        }
        if let Err(error) = send_due(&store, &sender, &shutdown).await {
            tracing::warn!(%error, "alerts could not be sent");
        }
        let heard = async {
            while let Ok(event) = events.recv().await {
                if event.event.kind.starts_with("error.") {
                    return;
                }
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = heard => tokio::time::sleep(GATHER).await,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Reads the event log, and keeps what is to be told of it.
async fn collect(store: &Store, control_url: &str) -> Result<()> {
    let (events, upto) = store.forge_reports().events(CURSOR, "error.", BATCH).await?;
    let rules = if events.is_empty() { Vec::new() } else { store.alerts().rules().await? };
    let mut told = Vec::new();
    let mut happened = Vec::new();
    for event in &events {
        let kind = match event.event.kind.as_str() {
            "error.new" => Happened::New,
            "error.regressed" | "error.reopened" if event.event.by == "berth" => Happened::Back,
            _ => continue,
        };
        if let Some(issue) = issue_of(store, event).await? {
            happened.push((issue, kind));
        }
    }
    let now = store.clock().now();
    for (rule, _) in rules {
        let quiet = store.alerts().quiet(&rule.alert, now).await?;
        let mut issues: Vec<(IssueRow, Option<Often>)> = Vec::new();
        for (issue, kind) in &happened {
            let new = issues.iter().all(|(known, _)| known.id != issue.id);
            if new && rules::tells(&rule, issue, *kind, &quiet) {
                issues.push((issue.clone(), None));
            }
        }
        told.extend(delivery(store, rule, issues, now, control_url).await?);
    }
    // The first time the cursor is set to the end of the log.
    store.alerts().tell(Some((CURSOR, upto)), &told).await
}

async fn issue_of(store: &Store, event: &EventRow) -> Result<Option<IssueRow>> {
    let (Some(app), Some(number)) =
        (event.event.app.clone(), event.event.data.get("number").and_then(|n| n.as_i64()))
    else {
        return Ok(None);
    };
    store.errors().issue(&Visible::All, &IssueRef { app, number }).await
}

/// What is to be told of issues: at once, or after a while together with what comes until then.
async fn delivery(
    store: &Store,
    rule: AlertRule,
    issues: Vec<(IssueRow, Option<Often>)>,
    now: Timestamp,
    control_url: &str,
) -> Result<Option<NewDelivery>> {
    if issues.is_empty() {
        return Ok(None);
    }
    let told = Message::new(&rule, &issues, control_url);
    let gather = i64::from(rule.gather_minutes.unwrap_or(GATHERED)) * 60;
    let mut messages = Vec::new();
    for channel in &rule.channels {
        let last = store.alerts().last(&rule.alert, channel).await?;
        let waiting = last.as_ref().filter(|last| last.waits);
        let joined = waiting.and_then(|last| Some((last.id, Message::read(&last.message)?)));
        let (message, instead_of) = match joined {
            Some((id, mut message)) => {
                message.join(&told);
                (message, Some(id))
            }
            None => (told.clone(), None),
        };
        messages.push(NewMessage {
            channel: channel.clone(),
            message: serde_json::to_value(message).unwrap_or_default(),
            try_at: last.map_or(now, |last| now.max(last.at.plus_seconds(gather))),
            instead_of,
        });
    }
    Ok(Some(NewDelivery {
        issues: issues.iter().map(|(issue, _)| (issue.id, issue.reference())).collect(),
        messages,
        quiet_until: now.plus_seconds(i64::from(rule.quiet_minutes.unwrap_or(QUIET)) * 60),
        rule,
    }))
}

/// Looks at how often errors are seen, and keeps what is to be told of that.
async fn count(store: &Store, control_url: &str) -> Result<()> {
    let now = store.clock().now();
    let mut told = Vec::new();
    let mut counts: HashMap<(Option<AppId>, u32), Vec<Often>> = HashMap::new();
    for (rule, app) in store.alerts().rules().await? {
        if !matches!(rule.when, AlertTrigger::Frequency | AlertTrigger::Users) {
            continue;
        }
        let minutes = rule.minutes.unwrap_or(60);
        let often = match counts.entry((app, minutes)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let since = now.plus_seconds(-i64::from(minutes) * 60);
                new.insert(store.alerts().often(app, since).await?)
            }
        };
        let reached =
            often.iter().filter(|o| o.events.max(o.users) >= i64::from(rule.threshold.unwrap_or(u32::MAX)));
        let reached: HashMap<i64, Often> = reached.map(|o| (o.issue, *o)).collect();
        if reached.is_empty() {
            continue;
        }
        let quiet = store.alerts().quiet(&rule.alert, now).await?;
        let filter = IssueFilter::Ids(reached.keys().copied().collect());
        let (rows, _) =
            store.errors().issues(&Visible::All, app, &filter, IssueOrder::Events, (0, 200)).await?;
        let issues = rows.into_iter().filter_map(|issue| {
            let often = reached.get(&issue.id)?;
            rules::tells_often(&rule, &issue, often, &quiet).then_some((issue, Some(*often)))
        });
        let issues = issues.collect();
        told.extend(delivery(store, rule, issues, now, control_url).await?);
    }
    if told.is_empty() {
        return Ok(());
    }
    store.alerts().tell(None, &told).await
}

/// Sends what is due.
async fn send_due(store: &Store, sender: &Sender, shutdown: &CancellationToken) -> Result<()> {
    for row in store.alerts().due(store.clock().now(), 50).await? {
        if shutdown.is_cancelled() {
            return Ok(());
        }
        let now = store.clock().now();
        let sent = match store.alerts().target(&row.channel).await? {
            Some((target, limit)) => {
                if let Some(until) = full(store, &row, limit, now).await? {
                    store.alerts().hold(row.id, until).await?;
                    continue;
                }
                let message = match row.held_since {
                    Some(since) => {
                        let others = store.alerts().held(&row.channel, row.id).await?;
                        message::held(&row.message, since, limit, others)
                    }
                    None => row.message.clone(),
                };
                let id = format!("alert_{}_{}", row.created_at.0, row.id);
                sender.send(&target, &id, &message, now.0 / 1_000_000).await.map_err(|e| (e.why, e.transient))
            }
            None => Err((format!("the channel {} is gone", row.channel), false)),
        };
        match sent {
            Ok(()) => store.alerts().tried(row.id, DeliveryState::Sent, None, now).await?,
            Err((why, transient)) => {
                let state = if transient && row.attempts + 1 < TRIES {
                    DeliveryState::Pending
                } else {
                    DeliveryState::Failed
                };
                if state == DeliveryState::Failed {
                    tracing::warn!(channel = %row.channel, why, "an alert was not delivered");
                }
                // 20 s, 80 s, 5 min, 21 min, 85 min.
                let wait = 20 * 4_i64.saturating_pow(u32::try_from(row.attempts).unwrap_or(0));
                store.alerts().tried(row.id, state, Some(&why), now.plus_seconds(wait)).await?;
            }
        }
    }
    Ok(())
}

/// Until when a channel takes no more, if it took as much in the last hour as it may.
async fn full(store: &Store, row: &DeliveryRow, limit: i64, now: Timestamp) -> Result<Option<Timestamp>> {
    let taken = store.alerts().taken_since(&row.channel, now.plus_seconds(-HOUR)).await?;
    let limit = usize::try_from(limit).unwrap_or(1).max(1);
    // With this one gone it is one less than the limit.
    let leaves = taken.len().checked_sub(limit).and_then(|at| taken.get(at));
    Ok(leaves.map(|at| at.plus_seconds(HOUR)))
}

#[cfg(test)]
#[path = "alert_tests.rs"]
mod tests;
