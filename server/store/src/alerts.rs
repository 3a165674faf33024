//! Alerts: channels with their secrets sealed, rules, and messages that are durable until they are sent.

use berth_schemas::{
    IssueRef, Timestamp, Untrusted,
    alert::{AlertDelivery, AlertRule, Channel, ChannelKind, ChannelTarget, DeliveryState},
    ids::{AlertName, ChannelName},
};
use serde_json::{Value, json};
use sqlx::{Row, any::AnyRow};

use crate::{
    database::{assembled, storable},
    error::{Result, StoreError},
    forge_reports::advance,
    model::{AppId, NewEvent, Principal},
    row::{self, to_json},
    seal::Place,
    store::Inner,
    write::Write,
};

/// Messages that are remembered.
const KEPT: i64 = 1_000;
/// Seconds of an hour.
const HOUR: i64 = 3600;

/// Alerts of a [`crate::Store`].
#[derive(Clone, Copy)]
pub struct Alerts<'a>(pub(crate) &'a Inner);

/// Names of issues that a message's row keeps.
const NAMES: usize = 50;

/// A message that is to be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct DeliveryRow {
    /// Row id; also what receivers tell messages apart by.
    pub id: i64,
    /// The channel.
    pub channel: ChannelName,
    /// What it says.
    pub message: Value,
    /// How often it was tried.
    pub attempts: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// Since when it waits for its channel's limit.
    pub held_since: Option<Timestamp>,
}

/// Messages to be kept, for the channels of a rule.
#[derive(Debug, Clone, PartialEq)]
pub struct NewDelivery {
    /// The rule.
    pub rule: AlertRule,
    /// Issues that they tell of: row and name.
    pub issues: Vec<(i64, IssueRef)>,
    /// What is said where.
    pub messages: Vec<NewMessage>,
    /// Until when these issues are not told by this rule again.
    pub quiet_until: Timestamp,
}

/// A message for a channel.
#[derive(Debug, Clone, PartialEq)]
pub struct NewMessage {
    /// The channel.
    pub channel: ChannelName,
    /// What it says.
    pub message: Value,
    /// When it may be sent.
    pub try_at: Timestamp,
    /// The one that waits and that it takes the place of, as it says what that says, too.
    pub instead_of: Option<i64>,
}

/// The newest message of a rule by a channel that was not given up.
#[derive(Debug, Clone, PartialEq)]
pub struct LastMessage {
    /// Row id.
    pub id: i64,
    /// What it says.
    pub message: Value,
    /// Whether it waits and was never tried, so that it may say more.
    pub waits: bool,
    /// When it is due, or was sent.
    pub at: Timestamp,
}

/// How often an issue was seen within a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Often {
    /// Row of the issue.
    pub issue: i64,
    /// Events.
    pub events: i64,
    /// Users.
    pub users: i64,
}

impl Alerts<'_> {
    /// All channels, by name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn channels(self) -> Result<Vec<Channel>> {
        let rows = sqlx::query(
            "SELECT name, kind, shown, max_per_hour, updated_at, updated_by FROM channels ORDER BY name",
        )
        .fetch_all(self.0.read())
        .await?;
        rows.iter().map(channel).collect()
    }

    /// What a channel leads to, opened, and how many messages it takes in an hour; none if there is none of this name.
    ///
    /// # Errors
    /// When it was tampered with or the database fails.
    pub async fn target(self, name: &ChannelName) -> Result<Option<(ChannelTarget, i64)>> {
        let row = sqlx::query("SELECT sealed, max_per_hour FROM channels WHERE name = $1")
            .bind(name.as_str().to_owned())
            .fetch_optional(self.0.read())
            .await?;
        let Some(row) = row else { return Ok(None) };
        let clear = self.0.sealer.open(&place(name), &row.try_get::<String, _>("sealed")?)?;
        let target =
            serde_json::from_slice(&clear).map_err(|_| StoreError::corrupt("channels", "sealed", ""))?;
        Ok(Some((target, row.try_get("max_per_hour")?)))
    }

    /// Sets a channel; `shown` is what may be seen of its target.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_channel(
        self,
        by: &Principal,
        name: &ChannelName,
        target: &ChannelTarget,
        shown: &str,
        max_per_hour: u32,
    ) -> Result<Channel> {
        let clear = serde_json::to_vec(target).map(zeroize::Zeroizing::new);
        let clear = clear.map_err(|_| StoreError::corrupt("channels", "sealed", ""))?;
        let sealed = self.0.sealer.seal(&place(name), &clear)?;
        let mut write = Write::begin(self.0).await?;
        let now = write.now;
        sqlx::query(
            "INSERT INTO channels (name, kind, sealed, shown, updated_at, updated_by, max_per_hour)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, sealed = excluded.sealed, shown = excluded.shown,
                 updated_at = excluded.updated_at, updated_by = excluded.updated_by,
                 max_per_hour = excluded.max_per_hour",
        )
        .bind(name.as_str().to_owned())
        .bind(target.kind().as_str())
        .bind(sealed)
        .bind(storable(shown, 500))
        .bind(now.0)
        .bind(by.name.clone())
        .bind(i64::from(max_per_hour))
        .execute(write.conn())
        .await?;
        told(
            &mut write,
            by,
            "channel.set",
            format!("The channel {name} ({}) was set.", target.kind().as_str()),
        )
        .await?;
        write.commit().await?;
        Ok(Channel {
            channel: name.clone(),
            kind: target.kind(),
            to: shown.to_owned(),
            max_per_hour,
            updated_at: now,
            updated_by: by.name.clone(),
            secret: None,
        })
    }

    /// Removes a channel.
    ///
    /// # Errors
    /// When there is none of this name, or the database fails.
    pub async fn remove_channel(self, by: &Principal, name: &ChannelName) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        let gone = sqlx::query("DELETE FROM channels WHERE name = $1")
            .bind(name.as_str().to_owned())
            .execute(write.conn())
            .await?;
        if gone.rows_affected() == 0 {
            return Err(StoreError::not_found("channel", name));
        }
        told(&mut write, by, "channel.removed", format!("The channel {name} was removed.")).await?;
        write.commit().await
    }

    /// All rules, by name, each with the app that it is for.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn rules(self) -> Result<Vec<(AlertRule, Option<AppId>)>> {
        let rows = sqlx::query("SELECT rule, app_id FROM alert_rules ORDER BY name")
            .fetch_all(self.0.read())
            .await?;
        rows.iter()
            .map(|r| {
                Ok((row::json(r, "alert_rules", "rule")?, r.try_get::<Option<i64>, _>("app_id")?.map(AppId)))
            })
            .collect()
    }

    /// Sets a rule.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_rule(self, by: &Principal, rule: &AlertRule, app: Option<AppId>) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        sqlx::query(
            "INSERT INTO alert_rules (name, app_id, rule) VALUES ($1, $2, $3)
             ON CONFLICT (name) DO UPDATE SET app_id = excluded.app_id, rule = excluded.rule",
        )
        .bind(rule.alert.as_str().to_owned())
        .bind(app.map(|a| a.0))
        .bind(to_json("alert_rules", "rule", rule)?)
        .execute(write.conn())
        .await?;
        told(&mut write, by, "alert.set", format!("The alert {} was set.", rule.alert)).await?;
        write.commit().await
    }

    /// Removes a rule.
    ///
    /// # Errors
    /// When there is none of this name, or the database fails.
    pub async fn remove_rule(self, by: &Principal, name: &AlertName) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        let gone = sqlx::query("DELETE FROM alert_rules WHERE name = $1")
            .bind(name.as_str().to_owned())
            .execute(write.conn())
            .await?;
        if gone.rows_affected() == 0 {
            return Err(StoreError::not_found("alert", name));
        }
        told(&mut write, by, "alert.removed", format!("The alert {name} was removed.")).await?;
        write.commit().await
    }

    /// Of these issues, those that a rule has told of and keeps quiet about.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn quiet(self, rule: &AlertName, now: Timestamp) -> Result<std::collections::HashSet<i64>> {
        let rows = sqlx::query("SELECT issue_id FROM alert_quiet WHERE rule_name = $1 AND until > $2")
            .bind(rule.as_str().to_owned())
            .bind(now.0)
            .fetch_all(self.0.read())
            .await?;
        rows.iter().map(|r| Ok(r.try_get("issue_id")?)).collect()
    }

    /// Open issues that were seen since a time, with how often since then; of an app or of all.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn often(self, app: Option<AppId>, since: Timestamp) -> Result<Vec<Often>> {
        let of = app.map_or(-1, |a| a.0);
        let rows = sqlx::query(
            "SELECT e.issue_id, COUNT(*) AS events, COUNT(DISTINCT e.user_key) AS users
             FROM error_events e JOIN error_issues i ON i.id = e.issue_id
             WHERE i.last_seen >= $1 AND i.state = 'open' AND (i.app_id = $2 OR $2 = -1) AND e.at >= $1
             GROUP BY e.issue_id ORDER BY 2 DESC LIMIT 1000",
        )
        .bind(since.0)
        .bind(of)
        .fetch_all(self.0.read())
        .await?;
        rows.iter()
            .map(|r| {
                Ok(Often {
                    issue: r.try_get("issue_id")?,
                    events: r.try_get("events")?,
                    users: r.try_get("users")?,
                })
            })
            .collect()
    }

    /// Keeps messages, and how far the event log was read for them, in one write.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn tell(self, cursor: Option<(&str, i64)>, deliveries: &[NewDelivery]) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        let write_now = write.now;
        for new in deliveries {
            for message in &new.messages {
                keep(&mut write, new, message).await?;
            }
            for (issue, _) in &new.issues {
                // An issue or a rule may be gone by now.
                sqlx::query(
                    "INSERT INTO alert_quiet (rule_name, issue_id, until)
                     SELECT r.name, i.id, $3 FROM alert_rules r, error_issues i WHERE r.name = $1 AND i.id = $2
                     ON CONFLICT (rule_name, issue_id) DO UPDATE SET until = excluded.until",
                )
                .bind(new.rule.alert.as_str().to_owned())
                .bind(*issue)
                .bind(new.quiet_until.0)
                .execute(write.conn())
                .await?;
            }
        }
        if let Some((name, event)) = cursor {
            advance(&mut write, name, event).await?;
        }
        sqlx::query(
            "DELETE FROM alert_deliveries WHERE state <> 'pending' AND try_at < $2 AND id <
                 (SELECT COALESCE(MAX(id), 0) - $1 FROM alert_deliveries)",
        )
        .bind(KEPT)
        // What was sent in the last hour counts for its channel's limit.
        .bind(write_now.plus_seconds(-HOUR).0)
        .execute(write.conn())
        .await?;
        write.commit().await
    }

    /// Messages that are to be sent now.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn due(self, now: Timestamp, limit: i64) -> Result<Vec<DeliveryRow>> {
        let rows = sqlx::query(
            "SELECT id, channel, message, attempts, created_at, held_since FROM alert_deliveries
             WHERE state = 'pending' AND try_at <= $1 ORDER BY try_at, id LIMIT $2",
        )
        .bind(now.0)
        .bind(limit)
        .fetch_all(self.0.read())
        .await?;
        rows.iter()
            .map(|r| {
                Ok(DeliveryRow {
                    id: r.try_get("id")?,
                    channel: row::name(r, "alert_deliveries", "channel")?,
                    message: row::json(r, "alert_deliveries", "message")?,
                    attempts: r.try_get("attempts")?,
                    created_at: row::time(r, "created_at")?,
                    held_since: row::time_opt(r, "held_since")?,
                })
            })
            .collect()
    }

    /// The newest message of a rule by a channel that was not given up.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn last(self, rule: &AlertName, channel: &ChannelName) -> Result<Option<LastMessage>> {
        let row = sqlx::query(
            "SELECT id, message, state, attempts, try_at FROM alert_deliveries
             WHERE rule_name = $1 AND channel = $2 AND state <> 'failed' ORDER BY id DESC LIMIT 1",
        )
        .bind(rule.as_str().to_owned())
        .bind(channel.as_str().to_owned())
        .fetch_optional(self.0.read())
        .await?;
        row.map(|r| {
            let state = row::word(&r, "alert_deliveries", "state", DeliveryState::parse)?;
            Ok(LastMessage {
                id: r.try_get("id")?,
                message: row::json(&r, "alert_deliveries", "message")?,
                waits: state == DeliveryState::Pending && r.try_get::<i64, _>("attempts")? == 0,
                at: row::time(&r, "try_at")?,
            })
        })
        .transpose()
    }

    /// When a channel took its messages since a time, the oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn taken_since(self, channel: &ChannelName, since: Timestamp) -> Result<Vec<Timestamp>> {
        let rows = sqlx::query(
            "SELECT try_at FROM alert_deliveries WHERE channel = $1 AND state = 'sent' AND try_at > $2 ORDER BY try_at",
        )
        .bind(channel.as_str().to_owned())
        .bind(since.0)
        .fetch_all(self.0.read())
        .await?;
        rows.iter().map(|r| row::time(r, "try_at")).collect()
    }

    /// Has a message wait until its channel takes one more.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn hold(self, id: i64, until: Timestamp) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        let now = write.now.0;
        sqlx::query(
            "UPDATE alert_deliveries SET try_at = $2, held_since = COALESCE(held_since, $3) WHERE id = $1",
        )
        .bind(id)
        .bind(until.0)
        .bind(now)
        .execute(write.conn())
        .await?;
        write.commit().await
    }

    /// How many other messages wait for a channel's limit.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn held(self, channel: &ChannelName, but: i64) -> Result<i64> {
        let row = sqlx::query(
            "SELECT COUNT(*) AS n FROM alert_deliveries
             WHERE channel = $1 AND state = 'pending' AND held_since IS NOT NULL AND id <> $2",
        )
        .bind(channel.as_str().to_owned())
        .bind(but)
        .fetch_one(self.0.read())
        .await?;
        Ok(row.try_get("n")?)
    }

    /// Notes how a try went: the new state, the reason of a failure, and when to try again. What is not tried again loses
    /// its words, which may be those of a person who is forgotten later: nobody reads them any more.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn tried(
        self,
        id: i64,
        state: DeliveryState,
        error: Option<&str>,
        again: Timestamp,
    ) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        sqlx::query(
            "UPDATE alert_deliveries SET state = $2, error = $3, try_at = $4, attempts = attempts + 1 WHERE id = $1",
        )
        .bind(id)
        .bind(state.as_str())
        .bind(error.map(|e| storable(e, 500)))
        .bind(again.0)
        .execute(write.conn())
        .await?;
        if state != DeliveryState::Pending {
            let row = sqlx::query("SELECT message FROM alert_deliveries WHERE id = $1").bind(id);
            if let Some(row) = row.fetch_optional(write.conn()).await? {
                let message: Value = row::json(&row, "alert_deliveries", "message")?;
                sqlx::query("UPDATE alert_deliveries SET message = $2 WHERE id = $1")
                    .bind(id)
                    .bind(json!({ "count": message.get("count") }).to_string())
                    .execute(write.conn())
                    .await?;
            }
        }
        write.commit().await
    }

    /// The newest messages.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn deliveries(self, limit: i64) -> Result<Vec<AlertDelivery>> {
        let rows = sqlx::query(
            "SELECT created_at, rule_name, channel, issues, message, state, attempts, error, held_since
             FROM alert_deliveries ORDER BY id DESC LIMIT $1",
        )
        .bind(limit)
        .fetch_all(self.0.read())
        .await?;
        rows.iter()
            .map(|r| {
                let issues: Vec<IssueRef> = row::json(r, "alert_deliveries", "issues")?;
                let message: Value = row::json(r, "alert_deliveries", "message")?;
                let state = row::word(r, "alert_deliveries", "state", DeliveryState::parse)?;
                Ok(AlertDelivery {
                    at: row::time(r, "created_at")?,
                    alert: r.try_get("rule_name")?,
                    channel: r.try_get("channel")?,
                    count: message.get("count").and_then(Value::as_u64).unwrap_or(issues.len() as u64),
                    issues,
                    held_since: match state {
                        DeliveryState::Pending => row::time_opt(r, "held_since")?,
                        DeliveryState::Sent | DeliveryState::Failed => None,
                    },
                    state,
                    attempts: r.try_get("attempts")?,
                    error: r.try_get::<Option<String>, _>("error")?.map(Untrusted),
                })
            })
            .collect()
    }
}

/// Keeps a message, in the place of one that waits where it was made of that.
async fn keep(write: &mut Write<'_>, new: &NewDelivery, message: &NewMessage) -> Result<()> {
    let mut names: Vec<IssueRef> = new.issues.iter().map(|(_, name)| name.clone()).collect();
    if let Some(id) = message.instead_of {
        let waits = "id = $1 AND state = 'pending' AND attempts = 0";
        let row = sqlx::query(assembled(format!("SELECT issues FROM alert_deliveries WHERE {waits}")))
            .bind(id)
            .fetch_optional(write.conn())
            .await?;
        if let Some(row) = row {
            let mut all: Vec<IssueRef> = row::json(&row, "alert_deliveries", "issues")?;
            names.retain(|name| !all.contains(name));
            all.append(&mut names);
            all.truncate(NAMES);
            sqlx::query(assembled(format!(
                "UPDATE alert_deliveries SET issues = $2, message = $3 WHERE {waits}"
            )))
            .bind(id)
            .bind(to_json("alert_deliveries", "issues", &all)?)
            .bind(message.message.to_string())
            .execute(write.conn())
            .await?;
            return Ok(());
        }
    }
    names.truncate(NAMES);
    let now = write.now.0;
    sqlx::query(
        "INSERT INTO alert_deliveries (rule_name, channel, issues, message, state, try_at, created_at)
         VALUES ($1, $2, $3, $4, 'pending', $5, $6)",
    )
    .bind(new.rule.alert.as_str().to_owned())
    .bind(message.channel.as_str().to_owned())
    .bind(to_json("alert_deliveries", "issues", &names)?)
    .bind(message.message.to_string())
    .bind(message.try_at.0)
    .bind(now)
    .execute(write.conn())
    .await?;
    Ok(())
}

async fn told(write: &mut Write<'_>, by: &Principal, kind: &'static str, summary: String) -> Result<()> {
    let event = NewEvent { kind, by: by.name.clone(), app: None, summary, data: json!({}) };
    write.event(event).await.map(drop)
}

fn place(name: &ChannelName) -> Place<'_> {
    Place { column: "channels/sealed", row: name.as_str() }
}

fn channel(r: &AnyRow) -> Result<Channel> {
    Ok(Channel {
        channel: row::name(r, "channels", "name")?,
        kind: row::word(r, "channels", "kind", ChannelKind::parse)?,
        to: r.try_get("shown")?,
        max_per_hour: u32::try_from(r.try_get::<i64, _>("max_per_hour")?).unwrap_or(u32::MAX),
        updated_at: row::time(r, "updated_at")?,
        updated_by: r.try_get("updated_by")?,
        secret: None,
    })
}
