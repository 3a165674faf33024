//! Grants: what people allowed clients that act for them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ProjectSlug, Scope, Timestamp, Untrusted,
    ids::{GrantId, TokenName},
    token::TokenMode,
};

/// What a person allowed a client. It lasts as long as the token that it was approved with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Grant {
    /// Its id.
    pub grant: GrantId,
    /// What the client calls itself.
    pub client: Untrusted,
    /// The client's id; for one that is known by its document, the document's URL.
    pub client_id: Untrusted,
    /// Where the client was sent back to.
    pub redirect: Untrusted,
    /// The token with which it was approved.
    pub approved_by: TokenName,
    /// What the client may do, at most what that token may.
    pub scopes: Vec<Scope>,
    /// The projects it may touch; empty means those of the token.
    pub projects: Vec<ProjectSlug>,
    /// How far it goes.
    pub mode: TokenMode,
    /// The URL that its access tokens are good for.
    pub resource: String,
    /// When it was approved.
    pub created_at: Timestamp,
    /// When it ends if the client is not used until then.
    pub expires_at: Timestamp,
    /// When the client was last used, to the minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Timestamp>,
}

/// Input of `grant_list`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GrantList {
    /// Default: all that fit.
    #[schemars(range(min = 1, max = 500))]
    #[serde(default)]
    pub limit: Option<u32>,
    /// Cursor of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
}

/// Output of `grant_list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GrantPage {
    /// The grants, newest first.
    pub grants: Vec<Grant>,
    /// Pass as `cursor` for the next page; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Input of `grant_revoke`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GrantRevoke {
    /// The grant's id.
    pub grant: GrantId,
    /// The grant's id again, as confirmation.
    #[serde(default)]
    pub confirm: Option<String>,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// Output of `grant_revoke`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GrantRevoked {
    /// The grant.
    pub grant: GrantId,
    /// Whether it ended; false for a dry run.
    pub revoked: bool,
}
