//! What people decide about issues.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::IssueRef;
use crate::{AppSlug, job::JobHandle};

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
    /// Any one of the user's id, e-mail address, name or address on the network, as clients send it. Addresses are kept
    /// shortened unless the app's rules say otherwise.
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
    /// The app.
    pub app: AppSlug,
    /// What goes, in words.
    pub removes: Vec<String>,
    /// Whether the deletion has begun; false for a dry run.
    pub deleting: bool,
    /// The job that does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobHandle>,
}
