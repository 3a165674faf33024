//! Access tokens.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ProjectSlug, Scope, Timestamp, ids::TokenName};

/// How far a token goes, whatever its scopes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum TokenMode {
    /// As far as its scopes go.
    #[default]
    Full,
    /// It reads; what it would change becomes a proposal that a person approves.
    Propose,
    /// It reads, and nothing else; not the values of secrets either.
    ReadOnly,
}

impl TokenMode {
    /// Its name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Propose => "propose",
            Self::ReadOnly => "read_only",
        }
    }

    /// The mode of this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Full, Self::Propose, Self::ReadOnly].into_iter().find(|m| m.as_str() == text)
    }
}

/// A token as it is shown: never its secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Token {
    /// Its name.
    pub name: TokenName,
    /// The beginning of its secret, to recognise it by.
    pub prefix: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// The projects it may touch; empty means all.
    pub projects: Vec<ProjectSlug>,
    /// How far it goes.
    pub mode: TokenMode,
    /// Tools that it may use, by name (app_get) or group (apps); empty means all.
    pub tools: Vec<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it stops working.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When it was last used, to the minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Timestamp>,
}

/// Input of `token_list`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenList {
    /// Default: all that fit.
    #[schemars(range(min = 1, max = 500))]
    #[serde(default)]
    pub limit: Option<u32>,
    /// Cursor of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
}

/// Output of `token_list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TokenPage {
    /// The tokens, by name.
    pub tokens: Vec<Token>,
    /// Pass as `cursor` for the next page; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Input of `token_create`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenCreate {
    /// Name, to recognise it by.
    pub name: TokenName,
    /// What it may do. Default: read.
    #[serde(default)]
    pub scopes: Vec<Scope>,
    /// The projects it may touch. Default: all.
    #[serde(default)]
    pub projects: Vec<ProjectSlug>,
    /// How far it goes: full, propose (what it would change waits for a person), read_only. Default: full.
    #[serde(default)]
    pub mode: TokenMode,
    /// Tools that it may use, by name (app_get) or group (apps, deploy, domains, …, as in the address of /mcp). Default: all.
    #[serde(default)]
    pub tools: Vec<String>,
    /// Days until it stops working. Default: never.
    #[schemars(range(min = 1, max = 3650))]
    #[serde(default)]
    pub expires_in_days: Option<u32>,
}

/// Output of `token_create`.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TokenCreated {
    /// The token's description.
    pub token: Token,
    /// The secret itself, shown this once.
    pub secret: String,
}

impl std::fmt::Debug for TokenCreated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenCreated").field("token", &self.token).finish_non_exhaustive()
    }
}

/// Input of `token_revoke`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRevoke {
    /// The token's name.
    pub token: TokenName,
    /// The token's name again, as confirmation.
    #[serde(default)]
    pub confirm: Option<String>,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// Output of `token_revoke`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TokenRevoked {
    /// The token.
    pub token: TokenName,
    /// Whether it stopped working; false for a dry run.
    pub revoked: bool,
}
