//! What clients send besides errors, as it was kept.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AppSlug, EnvironmentName, Timestamp, Untrusted};

/// A kind of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum TelemetryKind {
    /// Log records.
    Logs,
    /// A transaction with its spans.
    Transaction,
    /// Spans by themselves.
    Spans,
    /// Metrics of a trace.
    Metrics,
    /// Signs of life of a scheduled task.
    CheckIn,
    /// Sessions, one or counted.
    Session,
    /// What a replay is about.
    ReplayEvent,
    /// Parts of replays; only how large they are is told.
    ReplayRecording,
    /// Profiles; only how large they are is told.
    Profile,
}

impl TelemetryKind {
    /// All.
    pub const ALL: [Self; 9] = [
        Self::Logs,
        Self::Transaction,
        Self::Spans,
        Self::Metrics,
        Self::CheckIn,
        Self::Session,
        Self::ReplayEvent,
        Self::ReplayRecording,
        Self::Profile,
    ];
    /// Its name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Logs => "logs",
            Self::Transaction => "transaction",
            Self::Spans => "spans",
            Self::Metrics => "metrics",
            Self::CheckIn => "check_in",
            Self::Session => "session",
            Self::ReplayEvent => "replay_event",
            Self::ReplayRecording => "replay_recording",
            Self::Profile => "profile",
        }
    }
    /// The kind with this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.as_str() == text)
    }
}

/// Input of `telemetry_list`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TelemetryList {
    /// The app.
    pub app: AppSlug,
    /// What is looked for; dsn_get counts what came.
    pub kind: TelemetryKind,
    /// Only of this environment. Default: of all.
    #[serde(default)]
    pub environment: Option<EnvironmentName>,
    /// Not before: RFC 3339, or an age such as 15m, 2h, 7d.
    #[serde(default)]
    pub since: Option<String>,
    /// Not after: the same.
    #[serde(default)]
    pub until: Option<String>,
    /// Add all that is kept of each item, as JSON text.
    #[serde(default)]
    pub raw: bool,
    /// At most so many. Default 20.
    #[schemars(range(min = 1, max = 100))]
    #[serde(default)]
    pub limit: Option<u32>,
    /// Where the page begins: next_cursor of the one before.
    #[serde(default)]
    pub cursor: Option<String>,
}

/// Something that a client sent besides errors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TelemetryItem {
    /// Its number.
    pub item: i64,
    /// When it came.
    pub at: Timestamp,
    /// Its environment at Berth.
    pub environment: EnvironmentName,
    /// What it says, in a line; of many records the first ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Untrusted>,
    /// The event that it came with.
    #[schemars(extend("x-detail" = true))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// Its size as it is kept, in bytes.
    #[schemars(extend("x-detail" = true))]
    pub bytes: i64,
    /// All that is kept of it, scrubbed, as JSON text; the beginning of what has more than 20,000 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<Untrusted>,
}

/// Output of `telemetry_list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TelemetryPage {
    /// What came, the newest first.
    pub items: Vec<TelemetryItem>,
    /// Where the next page begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}
