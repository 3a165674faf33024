//! Whether the world reaches this machine under a name.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Timestamp, Untrusted};

/// What came of a question that this machine asked itself by a name's public address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum PortOutcome {
    /// This Berth answered.
    Reached,
    /// Nobody listens there, or a firewall says no.
    Refused,
    /// Nobody answered in time.
    Timeout,
    /// There is no way there from this machine.
    Unreachable,
    /// Somebody else answered.
    OtherServer,
    /// The address is private, reserved or of a cloud's own; it is not asked.
    NotAllowed,
}

/// One port of one address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct PortCheck {
    /// The address that DNS gives for the name.
    pub address: String,
    /// 80 or 443.
    pub port: u16,
    /// What came of it.
    pub outcome: PortOutcome,
    /// The same in words, with what answered instead.
    pub detail: Untrusted,
}

/// Whether ports 80 and 443 of a name's public addresses reach this machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct PortReport {
    /// The host that was asked for; below a wildcard a random one.
    pub host: String,
    /// Whether port 80 of every address reaches this machine, so that visitors and authorities (http-01) do.
    pub http: bool,
    /// The same of port 443 (tls-alpn-01); absent where this installation serves no HTTPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub https: Option<bool>,
    /// Each port of each address.
    pub checks: Vec<PortCheck>,
    /// Why no address could be asked, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Untrusted>,
    /// What to do, if something does not reach this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// What this look from inside cannot see.
    pub note: String,
    /// When.
    pub at: Timestamp,
}
