//! Errors of apps: issues, which are groups of events, and the events themselves, as Sentry's clients send them.

mod attached;
mod change;
mod dsn;
mod event;
mod release;
mod rules;
mod search;
mod telemetry;

use std::{fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{AppSlug, Timestamp, Untrusted, ids::InvalidName};

pub use self::{
    attached::{
        AttachmentShown, ErrorAttachment, ErrorAttachmentGet, Feedback, FeedbackDelete, FeedbackDeleted,
        FeedbackList, FeedbackPage, FeedbackShown,
    },
    change::{
        ErrorAssign, ErrorDelete, ErrorDeleted, ErrorIgnore, ErrorMerge, ErrorReopen, ErrorResolve,
        ErrorSplit, ErrorUserDelete, ErrorUserDeleted,
    },
    dsn::{Dropped, Dsn, DsnGet, DsnRotate, DsnRotated, Kept, OldKey},
    event::{
        CrumbShown, ErrorEvent, ErrorEventGet, ErrorEventList, EventDetail, EventSummary, EventSummaryPage,
        ExceptionShown, FrameShown, RequestShown, TagShown,
    },
    release::{
        ErrorReleaseCompare, ReleaseCommit, ReleaseComparison, ReleaseErrors, ReleaseIssue, ReleaseVerdict,
        WorseBy, error_release,
    },
    rules::{ErrorRules, ErrorRulesGet, ErrorRulesSet},
    search::{ErrorField, ErrorFieldList, ErrorFields, ErrorSearch, Facet, FacetValue, IssuePage, IssueSort},
    telemetry::{TelemetryItem, TelemetryKind, TelemetryList, TelemetryPage},
};

/// Digits of an issue's number: Crockford's base 32, which leaves out I, L, O and U.
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// An issue as people name it: `WEB-7K`, the app's name and a number in base 32.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IssueRef {
    /// The app.
    pub app: AppSlug,
    /// Its number, counted per app from 1.
    pub number: i64,
}

impl FromStr for IssueRef {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let wrong = || InvalidName::new("issue", text, "use its short id, such as WEB-7K");
        let (app, digits) = text.trim().rsplit_once('-').ok_or_else(wrong)?;
        if digits.is_empty() || digits.len() > 10 {
            return Err(wrong());
        }
        let number = digits.bytes().try_fold(0_i64, |sum, b| {
            let b = match b.to_ascii_uppercase() {
                b'O' => b'0',
                b'I' | b'L' => b'1',
                b => b,
            };
            let digit = DIGITS.iter().position(|d| *d == b)?;
            sum.checked_mul(32)?.checked_add(i64::try_from(digit).ok()?)
        });
        let number = number.filter(|n| *n > 0).ok_or_else(wrong)?;
        Ok(Self { app: app.to_ascii_lowercase().parse().map_err(|_| wrong())?, number })
    }
}

impl fmt::Display for IssueRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = Vec::new();
        let mut rest = usize::try_from(self.number).unwrap_or(0);
        while rest > 0 {
            digits.push(char::from(DIGITS[rest % 32]));
            rest /= 32;
        }
        write!(f, "{}-", self.app.as_str().to_ascii_uppercase())?;
        digits.iter().rev().try_for_each(|d| write!(f, "{d}"))
    }
}

impl Serialize for IssueRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for IssueRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for IssueRef {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "IssueRef".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[A-Za-z][A-Za-z0-9-]{0,39}-[0-9A-Za-z]{1,10}$" })
    }
}

/// How bad an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Level {
    /// For developers.
    Debug,
    /// For the record.
    Info,
    /// Might become a fault.
    Warning,
    /// A fault.
    Error,
    /// The process ended or nothing works.
    Fatal,
}

impl Level {
    /// All, the mildest first.
    pub const ALL: [Self; 5] = [Self::Debug, Self::Info, Self::Warning, Self::Error, Self::Fatal];
    /// Its name on the wire and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Fatal => "fatal",
        }
    }
    /// The level with this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|l| l.as_str() == text)
    }
    /// The level that a client means.
    #[must_use]
    pub fn lenient(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "critical" | "crit" | "emergency" | "alert" | "panic" => Some(Self::Fatal),
            "warn" => Some(Self::Warning),
            "log" | "notice" => Some(Self::Info),
            "trace" | "verbose" => Some(Self::Debug),
            "err" | "exception" => Some(Self::Error),
            other => Self::parse(other),
        }
    }
}

/// What people have decided about an issue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum IssueState {
    /// Nothing yet.
    Open,
    /// It is mended; when it is seen again, it opens by itself.
    Resolved,
    /// Nobody wants to hear of it, for now or for ever.
    Ignored,
}

impl IssueState {
    /// All.
    pub const ALL: [Self; 3] = [Self::Open, Self::Resolved, Self::Ignored];
    /// Its name on the wire and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Resolved => "resolved",
            Self::Ignored => "ignored",
        }
    }
    /// The state with this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }
}

/// One thing that an event was grouped by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct GroupingReason {
    /// What of: "exception type", "frame", "fingerprint", "message without parameters" …
    pub by: String,
    /// What it was.
    pub value: Untrusted,
}

/// An issue in a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IssueSummary {
    /// Its short id.
    pub issue: IssueRef,
    /// Type of the exception, or the beginning of the message.
    pub kind: Untrusted,
    /// What it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Untrusted>,
    /// Where it happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub culprit: Option<Untrusted>,
    /// How bad the worst event was.
    pub level: Level,
    /// What was decided.
    pub state: IssueState,
    /// Whether it came back after it was resolved.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub regressed: bool,
    /// Whether something caught it, if the client tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handled: Option<bool>,
    /// How often it was seen.
    pub events: i64,
    /// By how many users, as far as clients tell them apart.
    pub users: i64,
    /// When first.
    pub first_seen: Timestamp,
    /// When last.
    pub last_seen: Timestamp,
    /// The release that it was first seen in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_release: Option<Untrusted>,
    /// Who looks after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignee: Option<String>,
    /// What opens it again, if it is resolved or ignored and anything does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reopens: Option<String>,
}

/// Input of `error_get`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorGet {
    /// Its short id, such as WEB-7K.
    pub issue: IssueRef,
}

/// Events of an issue in an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HourCount {
    /// When the hour begins.
    pub hour: Timestamp,
    /// Events in it.
    pub events: i64,
}

/// A value of a tag that is more frequent in an issue than elsewhere.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StandingOut {
    /// The tag or field.
    pub field: Untrusted,
    /// Its value.
    pub value: Untrusted,
    /// Percent of the issue's recent events that have it.
    pub here: u32,
    /// Percent of the app's other recent events that have it.
    pub elsewhere: u32,
}

/// Output of `error_get`: what one needs to find the cause.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IssueDetail {
    /// The issue in a line.
    #[serde(flatten)]
    pub summary: IssueSummary,
    /// Events in the last 24 hours.
    pub events_24h: i64,
    /// Events by hour over the last two days, hours without any left out.
    pub hours: Vec<HourCount>,
    /// Releases that it was seen in, the newest first, with their events.
    pub releases: Vec<FacetValue>,
    /// The deployment that was live when it was first seen, such as web#42.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_deployment: Option<String>,
    /// The commit of that deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_commit: Option<String>,
    /// The commit of the deployment before it: the cause lies between them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_good_commit: Option<String>,
    /// Commits of the release that it was first seen in, as `sentry-cli releases set-commits` told them, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub release_commits: Vec<ReleaseCommit>,
    /// Values that stand out compared with the app's other errors.
    pub stands_out: Vec<StandingOut>,
    /// Why its events are one issue.
    pub grouped_by: Vec<GroupingReason>,
    /// Issues of the app that look alike.
    pub similar: Vec<IssueRef>,
    /// How many messages users wrote about it.
    #[serde(default)]
    pub feedback_count: i64,
    /// What users wrote about it, the newest five; feedback_list has all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub feedback: Vec<Feedback>,
    /// The newest event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<EventDetail>,
}

/// Input of `error_index_rebuild`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorIndexRebuild {}

/// Output of `error_index_rebuild`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorIndexState {
    /// Whether it has begun.
    pub begun: bool,
    /// Events that there are to read, at most.
    pub events: i64,
}

impl crate::text::Untrusted {
    /// The text behind an option, as untrusted.
    #[must_use]
    pub fn maybe(text: Option<impl Into<String>>) -> Option<Self> {
        text.map(|t| Self(t.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn short_ids_are_read_as_they_are_written_and_forgive_a_slip() {
        for (number, text) in [(1, "WEB-1"), (31, "WEB-Z"), (32, "WEB-10"), (243, "WEB-7K")] {
            let issue = IssueRef { app: "web".parse().unwrap(), number };
            assert_eq!(issue.to_string(), text);
            assert_eq!(text.parse(), Ok(issue.clone()));
            assert_eq!(text.to_lowercase().parse(), Ok(issue));
        }
        let dashed: IssueRef = "MY-APP-L0".parse().unwrap();
        assert_eq!((dashed.app.as_str(), dashed.number), ("my-app", 32));
        for bad in ["", "WEB", "WEB-", "WEB-0", "WEB-U", "-7", "WEB-ZZZZZZZZZZZ", "9-1"] {
            assert!(bad.parse::<IssueRef>().is_err(), "{bad}");
        }
    }
}
