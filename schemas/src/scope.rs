//! What a token may do.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A permission of a token. `admin` includes all others, `write` includes `deploy`, and all include `read`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Scope {
    /// See everything except the values of secrets.
    Read,
    /// Deploy, cancel, roll back, restart.
    Deploy,
    /// Create, configure and delete apps and variables.
    Write,
    /// Reveal the values of secrets.
    Secrets,
    /// Manage tokens and the platform itself.
    Admin,
}

impl Scope {
    /// Every scope, weakest first.
    pub const ALL: [Self; 5] = [Self::Read, Self::Deploy, Self::Write, Self::Secrets, Self::Admin];

    /// Its name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Deploy => "deploy",
            Self::Write => "write",
            Self::Secrets => "secrets",
            Self::Admin => "admin",
        }
    }

    /// Whether a token that holds this scope may do what needs `needed`.
    #[must_use]
    pub fn covers(self, needed: Self) -> bool {
        self == needed
            || self == Self::Admin
            || needed == Self::Read
            || (self == Self::Write && needed == Self::Deploy)
    }
}

impl std::str::FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|s| s.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no scope; use read, deploy, write, secrets or admin"))
    }
}

#[cfg(test)]
mod tests {
    use super::Scope;

    #[test]
    fn secrets_are_revealed_only_to_their_scope_and_admin() {
        let may: Vec<_> = Scope::ALL.into_iter().filter(|s| s.covers(Scope::Secrets)).collect();
        assert_eq!(may, [Scope::Secrets, Scope::Admin]);
    }
}
