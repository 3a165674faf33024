//! Answers to ACME HTTP-01 challenges, given on plain HTTP before any routing: a certificate must be
//! obtainable for a host that has no app yet, or whose app redirects everything.

use std::collections::HashMap;

/// The path below which a certificate authority asks (RFC 8555, 8.3).
pub const PREFIX: &str = "/.well-known/acme-challenge/";

/// Tokens and the key authorizations to answer them with.
#[derive(Debug, Default, Clone)]
pub struct ChallengeTable(HashMap<String, String>);

impl ChallengeTable {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one answer.
    #[must_use]
    pub fn with(mut self, token: impl Into<String>, key_authorization: impl Into<String>) -> Self {
        self.0.insert(token.into(), key_authorization.into());
        self
    }

    pub(crate) fn answer(&self, path: &str) -> Option<&str> {
        if self.0.is_empty() {
            return None;
        }
        self.0.get(path.strip_prefix(PREFIX)?).map(String::as_str)
    }
}
