//! DNS providers: who may set records for which zones.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{DomainName, Timestamp, Untrusted, ids::DnsProviderName};

/// What kind of DNS provider it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum DnsProviderKind {
    /// Cloudflare.
    Cloudflare,
    /// Amazon Route 53.
    Route53,
    /// DigitalOcean.
    Digitalocean,
    /// Hetzner, in its Cloud Console.
    Hetzner,
    /// Gandi LiveDNS.
    Gandi,
    /// A name server that takes dynamic updates: BIND, Knot, PowerDNS, …
    Rfc2136,
    /// A person sets the records.
    Manual,
}

impl DnsProviderKind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Cloudflare,
        Self::Route53,
        Self::Digitalocean,
        Self::Hetzner,
        Self::Gandi,
        Self::Rfc2136,
        Self::Manual,
    ];

    /// Its name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cloudflare => "cloudflare",
            Self::Route53 => "route53",
            Self::Digitalocean => "digitalocean",
            Self::Hetzner => "hetzner",
            Self::Gandi => "gandi",
            Self::Rfc2136 => "rfc2136",
            Self::Manual => "manual",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// How dynamic updates are signed (RFC 8945).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum TsigAlgorithm {
    /// HMAC with SHA-256.
    #[default]
    #[serde(rename = "hmac-sha256")]
    HmacSha256,
    /// HMAC with SHA-384.
    #[serde(rename = "hmac-sha384")]
    HmacSha384,
    /// HMAC with SHA-512.
    #[serde(rename = "hmac-sha512")]
    HmacSha512,
}

/// How to reach a DNS provider, and its secrets. Kept sealed, never shown again.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum DnsCredentials {
    /// An API token with the permission Zone / DNS / Edit for the zones.
    Cloudflare {
        /// The token.
        api_token: String,
    },
    /// An access key whose policy allows `route53:ListHostedZones`, `ListResourceRecordSets` and
    /// `ChangeResourceRecordSets`.
    Route53 {
        /// Id of the access key.
        access_key_id: String,
        /// The secret access key.
        secret_access_key: String,
    },
    /// A personal access token with the scopes domain:read, domain:create and domain:delete.
    Digitalocean {
        /// The token.
        api_token: String,
    },
    /// A token of the Cloud Console's project that has the zones, with read and write.
    Hetzner {
        /// The token.
        api_token: String,
    },
    /// A personal access token that may manage domain name technical configurations.
    Gandi {
        /// The token.
        api_token: String,
    },
    /// A name server that takes dynamic updates (RFC 2136) signed with a key (RFC 8945).
    Rfc2136 {
        /// Address of the primary name server: an IP address or a host name, with a port if it is not 53.
        server: String,
        /// Name of the key, as the server knows it.
        tsig_name: String,
        /// The key, in base 64.
        tsig_secret: String,
        /// How it signs. Default: hmac-sha256.
        #[serde(default)]
        tsig_algorithm: TsigAlgorithm,
    },
    /// Berth says which record to set, you set it, and Berth goes on when it is there.
    Manual {},
}

impl DnsCredentials {
    /// What kind of provider they are for.
    #[must_use]
    pub fn kind(&self) -> DnsProviderKind {
        match self {
            Self::Cloudflare { .. } => DnsProviderKind::Cloudflare,
            Self::Route53 { .. } => DnsProviderKind::Route53,
            Self::Digitalocean { .. } => DnsProviderKind::Digitalocean,
            Self::Hetzner { .. } => DnsProviderKind::Hetzner,
            Self::Gandi { .. } => DnsProviderKind::Gandi,
            Self::Rfc2136 { .. } => DnsProviderKind::Rfc2136,
            Self::Manual {} => DnsProviderKind::Manual,
        }
    }
}

impl fmt::Debug for DnsCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DnsCredentials").field("kind", &self.kind()).finish_non_exhaustive()
    }
}

/// A DNS provider as it is shown; its secrets never are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct DnsProvider {
    /// Its name.
    pub provider: DnsProviderName,
    /// What it is.
    pub kind: DnsProviderKind,
    /// Zones that it sets records in; a name is served by the provider with the longest of them.
    pub zones: Vec<DomainName>,
    /// When it was added or last given other credentials.
    pub updated_at: Timestamp,
    /// Who did that.
    pub updated_by: String,
}

/// Input of `dns_provider_add`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsProviderAdd {
    /// A name for it, of your choice.
    pub provider: DnsProviderName,
    /// How to reach it, by kind: cloudflare, digitalocean, hetzner and gandi take api_token; route53 takes
    /// access_key_id and secret_access_key; rfc2136 takes server, tsig_name, tsig_secret; manual takes nothing.
    pub credentials: DnsCredentials,
    /// Only set records in these zones. Default: all that the credentials reach; rfc2136 and manual must be told.
    #[schemars(length(max = 200))]
    #[serde(default)]
    pub zones: Vec<DomainName>,
    /// Put these credentials and zones in the place of those that a provider of this name has.
    #[serde(default)]
    pub replace: bool,
}

/// Input of `dns_provider_get`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsProviderGet {
    /// The provider's name.
    pub provider: DnsProviderName,
    /// Also ask the provider which zones its credentials reach now.
    #[serde(default)]
    pub test: bool,
}

/// Output of `dns_provider_get`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DnsProviderDetail {
    /// The provider.
    #[serde(flatten)]
    pub provider: DnsProvider,
    /// What the test found, if one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<DnsProviderTest>,
}

/// Whether a provider's credentials work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct DnsProviderTest {
    /// Whether the provider took them.
    pub works: bool,
    /// Zones that they reach.
    pub reaches: Vec<Untrusted>,
    /// Why they do not work, or what is not reached any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// What the provider itself said about that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<Untrusted>,
}

/// Input of `dns_provider_list`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DnsProviderList {
    /// Page size, 1 to 100. Default 20.
    #[schemars(range(min = 1, max = 100))]
    pub limit: Option<u32>,
    /// Cursor of the page before.
    pub cursor: Option<String>,
}

/// Output of `dns_provider_list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DnsProviderPage {
    /// The providers, by name.
    pub providers: Vec<DnsProvider>,
    /// Pass as `cursor` for the next page; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Input of `dns_provider_remove`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsProviderRemove {
    /// The provider's name.
    pub provider: DnsProviderName,
    /// The provider's name again, as confirmation.
    #[serde(default)]
    pub confirm: Option<String>,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// Output of `dns_provider_remove`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DnsProviderRemoved {
    /// The provider.
    pub provider: DnsProviderName,
    /// What that means, in words.
    pub effects: Vec<String>,
    /// Whether it is gone; false for a dry run.
    pub removed: bool,
}

/// What is wrong with what DNS says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum DnsProblemKind {
    /// The name does not exist.
    NoName,
    /// The name has no address, or none of one family.
    NoAddress,
    /// An address is not this machine's.
    WrongAddress,
    /// There is an address too many.
    ExtraAddress,
    /// The name leads to Cloudflare, which passes requests on.
    Proxied,
    /// Name servers say different things.
    Disagreement,
    /// A CAA record keeps the certificate authorities in use from issuing.
    Caa,
    /// Name servers cannot answer.
    Broken,
    /// No name server could be asked from here.
    Unasked,
    /// It is not known which addresses are this machine's.
    OwnAddressUnknown,
}

/// One thing that is wrong, and what to change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct DnsProblem {
    /// What kind of thing.
    pub kind: DnsProblemKind,
    /// What is wrong.
    #[schemars(extend("x-untrusted" = true))]
    pub detail: String,
    /// What to change, exactly.
    #[schemars(extend("x-untrusted" = true))]
    pub fix: String,
    /// Whether it stands in the way of visitors or of a certificate.
    pub blocking: bool,
}

/// What one name server says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct DnsView {
    /// Which one.
    pub server: Untrusted,
    /// Whether it is one of the zone's own servers.
    pub own: bool,
    /// Addresses of the name.
    pub addresses: Vec<String>,
    /// Names that the name is an alias (CNAME) of, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<Untrusted>,
    /// Seconds for which the answer may be kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u32>,
    /// Why it says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// What DNS says of a name now, against what it should say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct DnsReport {
    /// The name that was asked for; for a wildcard, a random one that it stands for.
    pub name: String,
    /// Whether visitors of the name come to this machine, as far as DNS decides that. Absent where that is not known: no
    /// name server could be asked, or it is not known which public addresses this machine has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub points_here: Option<bool>,
    /// Addresses that the name should have: this machine's.
    pub expected: Vec<String>,
    /// What is wrong, the most important first.
    pub problems: Vec<DnsProblem>,
    /// What each name server says.
    pub views: Vec<DnsView>,
    /// CAA records that count for the name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub caa: Vec<Untrusted>,
    /// When it was asked.
    pub at: Timestamp,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn credentials_are_typed_by_kind_and_hide_themselves() {
        let good = json!({ "kind": "cloudflare", "api_token": "sesame" });
        let credentials: DnsCredentials = serde_json::from_value(good).unwrap();
        assert_eq!(credentials.kind(), DnsProviderKind::Cloudflare);
        assert!(!format!("{credentials:?}").contains("sesame"));
        for bad in [
            json!({ "kind": "cloudflare" }),
            json!({ "kind": "cloudflare", "api_token": "x", "api_url": "http://169.254.169.254" }),
            json!({ "kind": "manual", "api_token": "x" }),
            json!({ "kind": "nobody" }),
            json!({ "kind": "rfc2136", "server": "ns", "tsig_name": "k", "tsig_secret": "x", "tsig_algorithm": "hmac-md5" }),
        ] {
            assert!(serde_json::from_value::<DnsCredentials>(bad.clone()).is_err(), "{bad}");
        }
        for kind in DnsProviderKind::ALL {
            assert_eq!(DnsProviderKind::parse(kind.as_str()), Some(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
