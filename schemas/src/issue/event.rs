//! Events of issues, read for people.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AttachmentShown, IssueRef, Level};
use crate::{EnvironmentName, Timestamp, Untrusted};

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
    pub map_problems: Vec<Untrusted>,
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

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}
