//! The audit log: every call of a tool, and what comes in beside them (uploads, pushes), by whom, from where, and how
//! it ended.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Timestamp, Untrusted, ids::GrantId};

/// The way by which a tool was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Surface {
    /// MCP.
    Mcp,
    /// REST, by some program.
    #[default]
    Rest,
    /// The command line, which uses REST.
    Cli,
    /// git, over HTTP.
    Git,
}

impl Surface {
    /// Its name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mcp => "mcp",
            Self::Rest => "rest",
            Self::Cli => "cli",
            Self::Git => "git",
        }
    }

    /// The surface of this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Mcp, Self::Rest, Self::Cli, Self::Git].into_iter().find(|s| s.as_str() == text)
    }
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AuditedCall {
    /// Its number; calls are numbered in the order in which they were written down.
    pub id: i64,
    /// When it began.
    pub at: Timestamp,
    /// Who called: a token's name; with a grant, that and the grant's id.
    pub principal: String,
    /// The grant by which a client called for the token's owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<GrantId>,
    /// What the calling program says that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<Untrusted>,
    /// How it came in.
    pub surface: Surface,
    /// The tool; or what came in by a door of its own: upload_create, git_push, git_lfs_upload, tool_search.
    pub tool: String,
    /// Names of what it was about, such as app=shop; never other arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Untrusted>,
    /// ok, the code of the problem, `cancelled` when the caller hung up, or `unfinished` when the daemon ended before.
    pub outcome: String,
    /// How long it took, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<i64>,
    /// The id that the answer carried as x-request-id, as in the daemon's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// Input of `audit_search`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditSearch {
    /// Only calls of this tool.
    #[serde(default)]
    pub tool: Option<String>,
    /// Only calls with this token, by itself or by grants that it approved; token/grant for one grant.
    #[serde(default)]
    pub principal: Option<String>,
    /// Only calls that ended so: ok, failed (anything else), or one word such as forbidden.
    #[serde(default)]
    pub outcome: Option<String>,
    /// Only calls whose target contains this, such as app=shop.
    #[serde(default)]
    pub target: Option<String>,
    /// Not before: RFC 3339, or an age such as 15m, 2h, 7d.
    #[serde(default)]
    pub since: Option<String>,
    /// Before this: RFC 3339, or an age.
    #[serde(default)]
    pub until: Option<String>,
    /// At most this many, 1 to 200. Default 30.
    #[schemars(range(min = 1, max = 200))]
    #[serde(default)]
    pub limit: Option<u32>,
    /// Cursor of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
}

/// Output of `audit_search`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AuditPage {
    /// The calls, newest first.
    pub calls: Vec<AuditedCall>,
    /// Pass as `cursor` for the next page; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}
