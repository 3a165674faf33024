//! Text that Berth did not write.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Text that came from an app, a visitor, a commit or a log.
///
/// It travels as a plain string, but its schema carries `x-untrusted`, by which the MCP layer knows what
/// to frame as data before a model reads it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, extend("x-untrusted" = true))]
pub struct Untrusted(pub String);

impl From<String> for Untrusted {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Untrusted {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}
