//! Runtime logs: what containers print.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AppSlug, EnvironmentName, Timestamp, Untrusted};

/// How grave a line is, as far as it can be told from its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Level {
    /// Trace or debug.
    Debug,
    /// Nothing said, or info.
    Info,
    /// Warning.
    Warn,
    /// Error or worse.
    Error,
}

impl Level {
    /// Its name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }

    /// Its rank in the store, growing with gravity.
    #[must_use]
    pub fn rank(self) -> i64 {
        self as i64
    }

    /// The level with this rank.
    #[must_use]
    pub fn from_rank(rank: i64) -> Self {
        match rank {
            0 => Self::Debug,
            2 => Self::Warn,
            3 => Self::Error,
            _ => Self::Info,
        }
    }
}

/// A line that a replica printed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LogLine {
    /// Id, growing in order of arrival; pass the last one as `after` to read on.
    #[schemars(extend("x-detail" = true))]
    pub id: i64,
    /// When it was printed.
    pub at: Timestamp,
    /// The release that printed it.
    pub release: i64,
    /// The replica that printed it.
    #[schemars(extend("x-detail" = true))]
    pub replica: i64,
    /// stdout or stderr.
    #[schemars(extend("x-detail" = true))]
    pub stream: String,
    /// How grave it is.
    pub level: Level,
    /// The text.
    pub text: Untrusted,
}

/// Input of `log_search`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogSearch {
    /// The app's name.
    pub app: AppSlug,
    /// Default: production.
    #[serde(default)]
    pub environment: Option<EnvironmentName>,
    /// Only lines that contain this text, case-insensitive.
    #[serde(default)]
    pub contains: Option<String>,
    /// Only lines of this level or graver.
    #[serde(default)]
    pub level: Option<Level>,
    /// Only lines of this release number.
    #[serde(default)]
    pub release: Option<i64>,
    /// Not before: RFC 3339, or an age such as 15m, 2h, 7d.
    #[serde(default)]
    pub since: Option<String>,
    /// Not after: RFC 3339 or an age.
    #[serde(default)]
    pub until: Option<String>,
    /// Only lines after this id, oldest first. Without it, the newest lines are returned.
    #[serde(default)]
    pub after: Option<i64>,
    /// Default 100.
    #[schemars(range(min = 1, max = 1000))]
    #[serde(default)]
    pub limit: Option<u32>,
    /// If there is nothing after `after` yet, wait up to this many seconds, at most 50.
    #[schemars(range(min = 0, max = 50))]
    #[serde(default)]
    pub wait_s: Option<u32>,
}

/// Output of `log_search`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LogPage {
    /// The lines, oldest first.
    pub lines: Vec<LogLine>,
    /// Pass as `after` for what follows.
    pub next_after: i64,
    /// Whether there are more matching lines than were returned.
    pub truncated: bool,
}
