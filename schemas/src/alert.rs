//! Alerts: which events somebody wants to hear of, and by which channel.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    AppSlug, IssueRef, Timestamp, Untrusted,
    ids::{AlertName, ChannelName},
    issue::Level,
};

/// Where alerts go, with what is secret about it. Kept sealed, never shown again.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ChannelTarget {
    /// E-mail by an SMTP relay.
    Email {
        /// Host of the relay.
        smtp_host: String,
        /// Its port. Default 587.
        #[serde(default)]
        smtp_port: Option<u16>,
        /// How the connection is protected. Default starttls.
        #[serde(default)]
        security: Option<SmtpSecurity>,
        /// User at the relay.
        #[serde(default)]
        username: Option<String>,
        /// Password at the relay.
        #[serde(default)]
        password: Option<String>,
        /// Address of the sender.
        from: String,
        /// Addresses of the recipients, at most 20.
        to: Vec<String>,
    },
    /// An incoming webhook of Slack.
    Slack {
        /// Its URL, which is a secret.
        url: String,
    },
    /// A webhook of Discord.
    Discord {
        /// Its URL, which is a secret.
        url: String,
    },
    /// Any URL, signed by the Standard Webhooks specification (webhook-id, webhook-timestamp, webhook-signature).
    Webhook {
        /// The URL.
        url: String,
        /// Secret of the signature; without one it is made, and shown this once.
        #[serde(default)]
        secret: Option<String>,
    },
}

impl std::fmt::Debug for ChannelTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChannelTarget({})", self.kind().as_str())
    }
}

impl ChannelTarget {
    /// What kind of channel it is.
    #[must_use]
    pub fn kind(&self) -> ChannelKind {
        match self {
            Self::Email { .. } => ChannelKind::Email,
            Self::Slack { .. } => ChannelKind::Slack,
            Self::Discord { .. } => ChannelKind::Discord,
            Self::Webhook { .. } => ChannelKind::Webhook,
        }
    }
}

/// How a connection to an SMTP relay is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum SmtpSecurity {
    /// TLS from the first byte.
    Tls,
    /// STARTTLS, and nothing without it.
    Starttls,
    /// None: for a relay on this machine.
    None,
}

/// What kind of channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum ChannelKind {
    /// E-mail.
    Email,
    /// Slack.
    Slack,
    /// Discord.
    Discord,
    /// A signed webhook.
    Webhook,
}

impl ChannelKind {
    /// Its name on the wire and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Slack => "slack",
            Self::Discord => "discord",
            Self::Webhook => "webhook",
        }
    }

    /// The kind with this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Email, Self::Slack, Self::Discord, Self::Webhook].into_iter().find(|k| k.as_str() == text)
    }
}

/// Messages that a channel takes in an hour unless it says otherwise.
fn usual_per_hour() -> u32 {
    30
}

/// A channel without what is secret about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Channel {
    /// Its name.
    pub channel: ChannelName,
    /// What it is.
    pub kind: ChannelKind,
    /// Where it leads, as far as that is no secret: recipients, or a host.
    pub to: String,
    /// Messages that it takes in an hour.
    pub max_per_hour: u32,
    /// When it was last set.
    pub updated_at: Timestamp,
    /// Who did that.
    pub updated_by: String,
    /// The secret of a webhook's signature, in the answer that made it and never again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// Input of `channel_set`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChannelSet {
    /// Its name.
    pub channel: ChannelName,
    /// Where it leads.
    pub target: ChannelTarget,
    /// Messages that it takes in an hour at most, 1 to 500. What comes beyond waits, and is told together. Default 30.
    #[schemars(range(min = 1, max = 500))]
    #[serde(default = "usual_per_hour")]
    pub max_per_hour: u32,
}

/// Input of `channel_list`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChannelList {
    /// Default: all that fit.
    #[schemars(range(min = 1, max = 500))]
    #[serde(default)]
    pub limit: Option<u32>,
    /// Cursor of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
}

/// Output of `channel_list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChannelPage {
    /// The channels, by name.
    pub channels: Vec<Channel>,
    /// Pass as `cursor` for the next page; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Input of `channel_test`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChannelTest {
    /// Its name.
    pub channel: ChannelName,
}

/// Output of `channel_test`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChannelTested {
    /// Its name.
    pub channel: ChannelName,
    /// Whether the other side took the message.
    pub delivered: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Untrusted>,
}

/// Input of `channel_remove`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChannelRemove {
    /// Its name.
    pub channel: ChannelName,
    /// Its name again.
    #[serde(default)]
    pub confirm: Option<String>,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// Output of `channel_remove` and `alert_remove`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AlertRemoved {
    /// What was named.
    pub name: String,
    /// Whether it is gone.
    pub removed: bool,
}

/// What an alert is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum AlertTrigger {
    /// An error that was not seen before.
    NewError,
    /// A resolved error that came back, or an ignored one that reached its limit.
    Regression,
    /// An error that is seen at least `threshold` times within `minutes`.
    Frequency,
    /// An error that at least `threshold` users have within `minutes`.
    Users,
}

impl AlertTrigger {
    /// Its name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NewError => "new_error",
            Self::Regression => "regression",
            Self::Frequency => "frequency",
            Self::Users => "users",
        }
    }
}

/// A rule by which somebody is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AlertRule {
    /// Its name.
    pub alert: AlertName,
    /// Only errors of this app; default all apps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppSlug>,
    /// What it is about.
    pub when: AlertTrigger,
    /// How often, or how many users; for frequency and users.
    #[schemars(range(min = 1))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<u32>,
    /// Within how many minutes, at most 1440; for frequency and users. Default 60.
    #[schemars(range(min = 1, max = 1440))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minutes: Option<u32>,
    /// Only errors at least this bad. Default error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// Channels to tell, at most 10.
    pub channels: Vec<ChannelName>,
    /// How long the same issue is not told again, in minutes, at most 10080. Default 60.
    #[schemars(range(min = 0, max = 10080))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet_minutes: Option<u32>,
    /// After a message, how long further issues are gathered for the next one, in minutes, at most 1440; 0 tells each at
    /// once. Default 5.
    #[schemars(range(min = 0, max = 1440))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gather_minutes: Option<u32>,
}

/// Input of `alert_list`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AlertList {
    /// Default: all that fit.
    #[schemars(range(min = 1, max = 500))]
    #[serde(default)]
    pub limit: Option<u32>,
    /// Cursor of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
}

/// Output of `alert_list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AlertPage {
    /// The rules, by name.
    pub alerts: Vec<AlertRule>,
    /// What was sent last, newest first, at most 20; on the first page only.
    pub deliveries: Vec<AlertDelivery>,
    /// Pass as `cursor` for the next page; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// A message of an alert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AlertDelivery {
    /// When it was made.
    pub at: Timestamp,
    /// The rule.
    pub alert: String,
    /// The channel.
    pub channel: String,
    /// What it is about, at most 50 of them.
    pub issues: Vec<IssueRef>,
    /// How many issues it is about.
    pub count: u64,
    /// It waits since then, as its channel takes no more in an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_since: Option<Timestamp>,
    /// Where it stands.
    pub state: DeliveryState,
    /// How often it was tried.
    pub attempts: i64,
    /// Why the last try failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Untrusted>,
}

/// Where a message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum DeliveryState {
    /// It is to be sent.
    Pending,
    /// The other side took it.
    Sent,
    /// It was tried often enough.
    Failed,
}

impl DeliveryState {
    /// Its name in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Sent => "sent",
            Self::Failed => "failed",
        }
    }

    /// The state with this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Sent, Self::Failed].into_iter().find(|s| s.as_str() == text)
    }
}

/// Input of `alert_remove`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AlertRemove {
    /// Its name.
    pub alert: AlertName,
    /// Its name again.
    #[serde(default)]
    pub confirm: Option<String>,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}
