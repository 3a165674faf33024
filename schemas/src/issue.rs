//! Errors of apps: issues, which are groups of events, and the events themselves, as Sentry's clients send them.

use std::{fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{AppSlug, EnvironmentName, Timestamp, Untrusted, ids::InvalidName};

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
}

/// Input of `error_search`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorSearch {
    /// Only issues of this app.
    #[serde(default)]
    pub app: Option<AppSlug>,
    /// Words and fields, such as `is:open level:error release:1.2 user.email:a@b.example "connection refused"`.
    /// Default `is:open`; error_fields lists the fields.
    #[serde(default)]
    pub query: Option<String>,
    /// Default last_seen, newest or largest first.
    #[serde(default)]
    pub sort: Option<IssueSort>,
    /// Count values of these fields among what matches, at most 5, such as ["release", "browser"].
    #[serde(default)]
    pub facets: Option<Vec<String>>,
    /// At most this many, 1 to 100. Default 20.
    #[schemars(range(min = 1, max = 100))]
    #[serde(default)]
    pub limit: Option<u32>,
    /// next_cursor of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
}

/// How issues are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum IssueSort {
    /// Seen last.
    LastSeen,
    /// New.
    FirstSeen,
    /// Frequent.
    Events,
    /// Many users.
    Users,
    /// The best match of the words.
    Relevance,
}

/// How often values of a field occur.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Facet {
    /// The field.
    pub field: String,
    /// Its values and their events, the most frequent first.
    pub values: Vec<FacetValue>,
}

/// A value and how often it occurs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FacetValue {
    /// The value.
    pub value: Untrusted,
    /// Events.
    pub events: u64,
}

/// Output of `error_search`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IssuePage {
    /// The issues.
    pub issues: Vec<IssueSummary>,
    /// How many match in all, if that was counted.
    pub total: i64,
    /// Where the next page begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// Counts of the fields that were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub facets: Vec<Facet>,
}

/// Input of `error_fields`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorFields {
    /// Show the tags of this app's events, too.
    #[serde(default)]
    pub app: Option<AppSlug>,
}

/// A field that errors can be searched by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorField {
    /// Its name.
    pub name: Untrusted,
    /// What it is, with an example.
    pub about: String,
}

/// Output of `error_fields`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorFieldList {
    /// How queries are written.
    pub grammar: String,
    /// The fields.
    pub fields: Vec<ErrorField>,
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
    /// Values that stand out compared with the app's other errors.
    pub stands_out: Vec<StandingOut>,
    /// Why its events are one issue.
    pub grouped_by: Vec<GroupingReason>,
    /// Issues of the app that look alike.
    pub similar: Vec<IssueRef>,
    /// What users wrote about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub feedback: Vec<Feedback>,
    /// The newest event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<EventDetail>,
}

/// What a user wrote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Feedback {
    /// When.
    pub at: Timestamp,
    /// Who.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Untrusted>,
    /// How to reach him.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<Untrusted>,
    /// What.
    pub message: Untrusted,
}

/// An event, read for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EventDetail {
    /// Its id: 32 hexadecimal digits.
    pub event: String,
    /// Its issue.
    pub issue: IssueRef,
    /// When it happened.
    pub at: Timestamp,
    /// How bad.
    pub level: Level,
    /// Environment that it happened in.
    pub environment: EnvironmentName,
    /// Release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Untrusted>,
    /// Language of the client.
    pub platform: Untrusted,
    /// The client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sdk: Option<Untrusted>,
    /// What was being done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction: Option<Untrusted>,
    /// A message that was logged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Untrusted>,
    /// Exceptions, the outermost first.
    pub exceptions: Vec<ExceptionShown>,
    /// What was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestShown>,
    /// Who had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Untrusted>,
    /// Tags, with browser, operating system and so on.
    pub tags: Vec<TagShown>,
    /// What happened before, newest last.
    pub breadcrumbs: Vec<CrumbShown>,
    /// Id of the trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// Id of the session's replay, if the client recorded one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<String>,
    /// Files that came with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<AttachmentShown>,
    /// What source maps could do nothing about, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub map_problems: Vec<String>,
}

/// A file that came with an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AttachmentShown {
    /// Its name.
    pub name: Untrusted,
    /// Bytes.
    pub bytes: i64,
}

/// An exception of an event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExceptionShown {
    /// Its type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Untrusted>,
    /// Its text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Untrusted>,
    /// Whether something caught it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handled: Option<bool>,
    /// Its frames, the innermost first; of many, the app's own.
    pub frames: Vec<FrameShown>,
    /// Frames that are left out here.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub frames_left_out: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// A frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FrameShown {
    /// Function, file and line: `total (src/cart.ts:12:5)`.
    pub place: Untrusted,
    /// Whether it is the app's own code.
    pub in_app: bool,
    /// The lines of code around, the one in question marked with `>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Untrusted>,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RequestShown {
    /// Method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Untrusted>,
    /// URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<Untrusted>,
}

/// A tag.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TagShown {
    /// Its name.
    pub name: Untrusted,
    /// Its value.
    pub value: Untrusted,
}

/// Something that happened before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CrumbShown {
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// What, in a line.
    pub text: Untrusted,
}

/// Input of `error_event_list`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorEventList {
    /// The issue's short id.
    pub issue: IssueRef,
    /// Only events of this environment.
    #[serde(default)]
    pub environment: Option<EnvironmentName>,
    /// At most this many, 1 to 100. Default 20.
    #[schemars(range(min = 1, max = 100))]
    #[serde(default)]
    pub limit: Option<u32>,
    /// next_cursor of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
}

/// An event in a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EventSummary {
    /// Its id.
    pub event: String,
    /// When it happened.
    pub at: Timestamp,
    /// Environment.
    pub environment: EnvironmentName,
    /// Release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Untrusted>,
    /// What it says.
    pub value: Untrusted,
    /// Who had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Untrusted>,
}

/// Output of `error_event_list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EventSummaryPage {
    /// The events, newest first.
    pub events: Vec<EventSummary>,
    /// Where the next page begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Input of `error_event_get`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorEventGet {
    /// The issue's short id.
    pub issue: IssueRef,
    /// The event's id; default its newest.
    #[serde(default)]
    pub event: Option<String>,
    /// Answer with all that the client sent, but for what was filtered.
    #[serde(default)]
    pub raw: bool,
}

/// Output of `error_event_get`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorEvent {
    /// The event, read for people.
    pub event: EventDetail,
    /// All that the client sent, as JSON text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<Untrusted>,
}

/// Input of `error_resolve`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorResolve {
    /// The issue's short id.
    pub issue: IssueRef,
    /// Mended in the next release: events of the releases that are there now do not open it again.
    #[serde(default)]
    pub in_next_release: bool,
}

/// Input of `error_ignore`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorIgnore {
    /// The issue's short id.
    pub issue: IssueRef,
    /// Until this many hours from now, at most 8760.
    #[schemars(range(min = 1, max = 8760))]
    #[serde(default)]
    pub hours: Option<u32>,
    /// Until it was seen this many times more.
    #[schemars(range(min = 1))]
    #[serde(default)]
    pub events: Option<u32>,
    /// Until this many more users had it.
    #[schemars(range(min = 1))]
    #[serde(default)]
    pub users: Option<u32>,
}

/// Input of `error_reopen`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorReopen {
    /// The issue's short id.
    pub issue: IssueRef,
}

/// Input of `error_assign`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorAssign {
    /// The issue's short id.
    pub issue: IssueRef,
    /// A name or an address, at most 100 characters; none takes the assignment away.
    #[serde(default)]
    pub to: Option<String>,
}

/// Input of `error_merge`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorMerge {
    /// The issue that ends.
    pub issue: IssueRef,
    /// The issue of the same app that takes its events, now and in future.
    pub into: IssueRef,
}

/// Input of `error_split`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorSplit {
    /// The issue that holds too much.
    pub issue: IssueRef,
    /// An event of it: those that are grouped like this one become an issue of their own.
    pub event: String,
}

/// Input of `error_delete`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorDelete {
    /// The issue's short id.
    pub issue: IssueRef,
    /// Its short id again.
    #[serde(default)]
    pub confirm: Option<String>,
    /// Only say what would go.
    #[serde(default)]
    pub dry_run: bool,
}

/// Output of `error_delete`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorDeleted {
    /// The issue.
    pub issue: IssueRef,
    /// Events that go with it.
    pub events: i64,
    /// Whether they are gone.
    pub deleted: bool,
}

/// Input of `error_user_delete`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorUserDelete {
    /// The app.
    pub app: AppSlug,
    /// The user's id, e-mail address or name, as clients send it.
    pub user: String,
    /// The user again.
    #[serde(default)]
    pub confirm: Option<String>,
    /// Only say what would go.
    #[serde(default)]
    pub dry_run: bool,
}

/// Output of `error_user_delete`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorUserDeleted {
    /// Events of that user.
    pub events: i64,
    /// Whether they are gone.
    pub deleted: bool,
}

/// Input of `error_release_compare`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorReleaseCompare {
    /// The app.
    pub app: AppSlug,
    /// The release in question, as clients name it; default the newest that was seen.
    #[serde(default)]
    pub release: Option<String>,
    /// The release to compare with; default the one seen before it.
    #[serde(default)]
    pub with: Option<String>,
}

/// Errors of a release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReleaseErrors {
    /// The release.
    pub release: Untrusted,
    /// When it was first seen.
    pub first_seen: Timestamp,
    /// Events while it was the newest release, or until now.
    pub events: i64,
    /// Hours of that time.
    pub hours: f64,
    /// Events an hour.
    pub per_hour: f64,
    /// Issues that were seen.
    pub issues: i64,
    /// Users that had one.
    pub users: i64,
}

/// Output of `error_release_compare`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReleaseComparison {
    /// The release in question.
    pub release: ReleaseErrors,
    /// The one it is compared with, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with: Option<ReleaseErrors>,
    /// Whether it is worse: new or returned issues, or clearly more events an hour.
    pub worse: bool,
    /// Why, in words.
    pub why: Vec<String>,
    /// Issues that it brought or brought back.
    pub new_issues: Vec<IssueSummary>,
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

/// Input of `dsn_get`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DsnGet {
    /// The app.
    pub app: AppSlug,
    /// Default: production.
    #[serde(default)]
    pub environment: Option<EnvironmentName>,
}

/// Output of `dsn_get`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Dsn {
    /// What a Sentry client takes as its DSN. It can only write, and is no secret.
    pub dsn: String,
    /// Path on the app's own host that browsers may use as `tunnel`, so that blockers do not swallow errors.
    pub tunnel: String,
    /// Whether deployments get it as SENTRY_DSN.
    pub injected: bool,
    /// Events that were accepted in the last 24 hours.
    pub accepted_24h: i64,
    /// What was not kept in the last 24 hours, by what it was and why.
    pub dropped_24h: Vec<Dropped>,
    /// What comes next.
    pub next: String,
}

/// What was not kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Dropped {
    /// What: "error", "transaction" …
    pub category: String,
    /// Why.
    pub reason: String,
    /// How many.
    pub count: i64,
}

/// What holds for an app's errors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ErrorRules {
    /// Whether deployments get the DSN as SENTRY_DSN, unless that variable is set. Counts from the next deployment.
    pub inject_dsn: bool,
    /// Events that an environment may send in a minute; the rest is counted and dropped.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub events_per_minute: u32,
    /// Names of fields whose values are secret, besides the usual ones.
    pub scrub_fields: Vec<String>,
    /// Names of fields that are kept, though they sound like secrets.
    pub keep_fields: Vec<String>,
    /// Keep users' whole IP addresses. Else the last 8 bits of IPv4 and 80 of IPv6 go.
    pub keep_addresses: bool,
    /// Days for which events are kept. Default: the installation's error_retention_days.
    #[schemars(range(min = 1, max = 3650))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention_days: Option<u32>,
    /// Events that are kept; the oldest go. Default: the installation's error_max_events.
    #[schemars(range(min = 100, max = 100_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_events: Option<u32>,
    /// So many events of errors never seen before, within watch_window_s of a deployment's switch, take its release back
    /// by itself. Default: off.
    #[schemars(range(min = 1, max = 100_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback_events: Option<u32>,
    /// Serve the source maps of releases of plain files to everybody. Else they are taken out of a release, and Berth alone
    /// uses them. Counts from the next deployment.
    pub public_maps: bool,
}

impl Default for ErrorRules {
    fn default() -> Self {
        Self {
            inject_dsn: true,
            events_per_minute: 6_000,
            scrub_fields: Vec::new(),
            keep_fields: Vec::new(),
            keep_addresses: false,
            retention_days: None,
            max_events: None,
            rollback_events: None,
            public_maps: false,
        }
    }
}

/// Input of `error_rules_get`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorRulesGet {
    /// The app.
    pub app: AppSlug,
}

/// Input of `error_rules_set`; what is left out stays.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorRulesSet {
    /// The app.
    pub app: AppSlug,
    /// Whether deployments get the DSN as SENTRY_DSN.
    #[serde(default)]
    pub inject_dsn: Option<bool>,
    /// Events that an environment may send in a minute.
    #[schemars(range(min = 1, max = 1_000_000))]
    #[serde(default)]
    pub events_per_minute: Option<u32>,
    /// Names of fields whose values are secret, at most 100.
    #[serde(default)]
    pub scrub_fields: Option<Vec<String>>,
    /// Names of fields that are kept, at most 100.
    #[serde(default)]
    pub keep_fields: Option<Vec<String>>,
    /// Keep users' whole IP addresses.
    #[serde(default)]
    pub keep_addresses: Option<bool>,
    /// Days for which events are kept; 0 for the installation's error_retention_days.
    #[schemars(range(min = 0, max = 3650))]
    #[serde(default)]
    pub retention_days: Option<u32>,
    /// Events that are kept, at least 100; 0 for the installation's error_max_events.
    #[schemars(range(min = 0, max = 100_000_000))]
    #[serde(default)]
    pub max_events: Option<u32>,
    /// So many events of errors never seen before, within watch_window_s of a switch, take the release back by itself; 0
    /// turns it off.
    #[schemars(range(min = 0, max = 100_000))]
    #[serde(default)]
    pub rollback_events: Option<u32>,
    /// Serve the source maps of releases of plain files to everybody. Counts from the next deployment.
    #[serde(default)]
    pub public_maps: Option<bool>,
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
