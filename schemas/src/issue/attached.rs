//! What belongs to events: files, and what users wrote.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::IssueRef;
use crate::{AppSlug, EnvironmentName, Timestamp, Untrusted};

/// A file that came with an event or with feedback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AttachmentShown {
    /// Its number, for error_attachment_get.
    pub attachment: i64,
    /// Its name.
    pub name: Untrusted,
    /// What it is by its bytes, such as image/png.
    pub media_type: String,
    /// Bytes.
    pub bytes: i64,
}

/// Input of `error_attachment_get`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorAttachmentGet {
    /// The app.
    pub app: AppSlug,
    /// Its number, as error_event_get and feedback_list show it.
    pub attachment: i64,
}

/// Output of `error_attachment_get`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorAttachment {
    /// The file.
    #[serde(flatten)]
    pub file: AttachmentShown,
    /// When it came.
    pub at: Timestamp,
    /// The event or feedback that it came with.
    pub event: String,
    /// What it says, if it is a text; a long one is cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<Untrusted>,
    /// An image in base 64, for surfaces that show images beside the answer.
    #[serde(skip)]
    pub image: Option<String>,
    /// Where all of it can be had, as a path of the REST API.
    pub download: String,
}

/// What a user wrote about an issue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Feedback {
    /// Its number, for feedback_delete.
    pub feedback: i64,
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

/// Input of `feedback_list`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FeedbackList {
    /// Only of this app; default all.
    #[serde(default)]
    pub app: Option<AppSlug>,
    /// Only what was written in this environment of the app.
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

/// What a user wrote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FeedbackShown {
    /// What and who.
    #[serde(flatten)]
    pub feedback: Feedback,
    /// The app.
    pub app: AppSlug,
    /// Where, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<EnvironmentName>,
    /// The page that it was written on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<Untrusted>,
    /// The issue that it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issue: Option<IssueRef>,
    /// The event that it is about, if that is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// Files that came with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<AttachmentShown>,
}

/// Output of `feedback_list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FeedbackPage {
    /// What users wrote, the newest first.
    pub feedback: Vec<FeedbackShown>,
    /// Where the next page begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Input of `feedback_delete`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FeedbackDelete {
    /// The app.
    pub app: AppSlug,
    /// Its number, as feedback_list shows it.
    pub feedback: i64,
    /// The number again.
    #[serde(default)]
    pub confirm: Option<String>,
    /// Only say what would go.
    #[serde(default)]
    pub dry_run: bool,
}

/// Output of `feedback_delete`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FeedbackDeleted {
    /// What goes.
    pub feedback: FeedbackShown,
    /// Whether it is gone.
    pub deleted: bool,
}
