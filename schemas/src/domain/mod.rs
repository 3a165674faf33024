//! Domains: host names of one's own that lead to an app's environment, and their certificates.

mod name;

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::name::DomainName;
use crate::{AppSlug, EnvironmentName, Timestamp, Untrusted, rules::DomainRules};

/// How a certificate authority is shown that a name is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum ChallengeKind {
    /// By a file over HTTP, on port 80 (RFC 8555, 8.3).
    #[serde(rename = "http-01")]
    Http01,
    /// By a certificate over TLS, on port 443 (RFC 8737).
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    /// By a TXT record (RFC 8555, 8.4); the only way to a wildcard.
    #[serde(rename = "dns-01")]
    Dns01,
}

impl ChallengeKind {
    /// All of them, in the order in which they are tried.
    pub const ALL: [Self; 3] = [Self::Http01, Self::TlsAlpn01, Self::Dns01];

    /// Its name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Dns01 => "dns-01",
        }
    }

    /// The challenge of this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Where an order at a certificate authority stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum OrderState {
    /// Not placed yet: it waits for its time, or for DNS.
    Pending,
    /// Placed; the authority checks that the name is ours.
    Authorizing,
    /// The authority believes that the name is ours.
    Ready,
    /// The key is made and kept; the certificate was asked for.
    Finalizing,
    /// The certificate is here.
    Valid,
    /// It came to nothing.
    Failed,
    /// Nobody wants it any more.
    Cancelled,
}

impl OrderState {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Authorizing,
        Self::Ready,
        Self::Finalizing,
        Self::Valid,
        Self::Failed,
        Self::Cancelled,
    ];

    /// Its name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Authorizing => "authorizing",
            Self::Ready => "ready",
            Self::Finalizing => "finalizing",
            Self::Valid => "valid",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_settled(self) -> bool {
        matches!(self, Self::Valid | Self::Failed | Self::Cancelled)
    }

    /// Whether it may become `next`. The one place that says so.
    #[must_use]
    pub fn may_become(self, next: Self) -> bool {
        match (self, next) {
            (from, Self::Failed | Self::Cancelled) => !from.is_settled(),
            (Self::Pending, Self::Authorizing)
            | (Self::Authorizing, Self::Ready)
            | (Self::Ready, Self::Finalizing)
            | (Self::Finalizing, Self::Valid) => true,
            _ => false,
        }
    }
}

/// How a domain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum DomainStatus {
    /// Served over HTTPS with a certificate.
    Secure,
    /// Its first certificate is on its way.
    Issuing,
    /// Something outside must change first, such as DNS.
    Waiting,
    /// The last order failed; there is no certificate.
    Failing,
    /// Its certificate has expired.
    Expired,
    /// Served over plain HTTP: this installation gets no certificates.
    Plain,
}

/// How a domain came to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum DomainOrigin {
    /// Somebody added it.
    #[default]
    Added,
    /// Its app approved it when a visitor asked for it (settings.on_demand_ask); it goes when the app no longer does.
    OnDemand,
}

impl DomainOrigin {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Added, Self::OnDemand];

    /// Its name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::OnDemand => "on_demand",
        }
    }

    /// The origin of this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|origin| origin.as_str() == text)
    }
}

/// A certificate as it is shown; its key never is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct CertificateShown {
    /// Who issued it.
    pub issuer: Untrusted,
    /// Names that it is for.
    #[schemars(extend("x-detail" = true))]
    pub names: Vec<String>,
    /// Valid from.
    #[schemars(extend("x-detail" = true))]
    pub not_before: Timestamp,
    /// Valid until.
    pub not_after: Timestamp,
    /// Attached by domain_certificate_set: nobody but you renews it.
    pub own: bool,
    /// SHA-256 of the certificate, in hex.
    #[schemars(extend("x-detail" = true))]
    pub fingerprint: String,
    /// When it is to be renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew_at: Option<Timestamp>,
}

/// Why an order came to nothing, or does not go on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct OrderTrouble {
    /// An ACME error type without its prefix (unauthorized, dns, rateLimited, caa, …), or one of Berth's own:
    /// unreachable and timeout (of the authority), no_dns_provider, dns_provider (it did not set the record), dns_record
    /// (it is not seen yet), no_challenge, badCertificate, account, internal.
    pub kind: String,
    /// In the words of whoever said it.
    pub detail: Untrusted,
    /// When.
    pub at: Timestamp,
}

/// An order as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct OrderShown {
    /// Where it stands.
    pub state: OrderState,
    /// The authority's directory.
    #[schemars(extend("x-detail" = true))]
    pub directory: String,
    /// How the authority is shown that the name is ours.
    pub challenge: ChallengeKind,
    /// Whether there is a certificate that it is to replace.
    pub renewal: bool,
    /// The last error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<OrderTrouble>,
    /// Before this time the authority of that error does not want to be asked again, whoever asks. Another one may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// When something is tried next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try_at: Option<Timestamp>,
    /// How many orders in a row failed.
    pub failures: u32,
    /// When it was begun.
    #[schemars(extend("x-detail" = true))]
    pub created_at: Timestamp,
    /// When it last moved.
    #[schemars(extend("x-detail" = true))]
    pub updated_at: Timestamp,
}

/// A domain in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DomainSummary {
    /// The name.
    pub domain: DomainName,
    /// The app.
    pub app: AppSlug,
    /// The environment of the app.
    pub environment: EnvironmentName,
    /// How it came to be.
    pub origin: DomainOrigin,
    /// Where visitors are sent instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect_to: Option<DomainName>,
    /// How it is.
    pub status: DomainStatus,
    /// Until when its certificate is valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// A domain in full.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DomainDetail {
    /// The name, as DNS has it.
    pub domain: DomainName,
    /// The name as people write it, where that differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unicode: Option<String>,
    /// The app.
    pub app: AppSlug,
    /// The environment of the app.
    pub environment: EnvironmentName,
    /// How it came to be.
    pub origin: DomainOrigin,
    /// Where it answers.
    pub url: String,
    /// Where visitors are sent instead of to the app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect_to: Option<DomainName>,
    /// How authorities are shown that the name is ours; absent: what fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge: Option<ChallengeKind>,
    /// What it enforces; passwords are never shown.
    #[serde(default, skip_serializing_if = "DomainRules::is_empty")]
    pub rules: DomainRules,
    /// How it is.
    pub status: DomainStatus,
    /// The certificate that visitors get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateShown>,
    /// The newest order for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<OrderShown>,
    /// What DNS says now against what it should say, where check_dns asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<crate::dns::DnsReport>,
    /// Whether ports 80 and 443 of its addresses reach this machine, where check_ports asked for it, and where
    /// domain_verify found no certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<crate::reach::PortReport>,
    /// When it was added.
    #[schemars(extend("x-detail" = true))]
    pub created_at: Timestamp,
    /// Who added it.
    #[schemars(extend("x-detail" = true))]
    pub created_by: String,
    /// When its app was last asked whether it still approves it (origin on_demand).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_at: Option<Timestamp>,
    /// What to do next.
    pub next: String,
}

/// Input of `domain_add`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DomainAdd {
    /// Host name such as shop.example.com, or a wildcard such as *.example.com.
    pub domain: DomainName,
    /// The app that answers under it.
    pub app: AppSlug,
    /// The environment of the app. Default: production.
    #[serde(default)]
    pub environment: Option<EnvironmentName>,
    /// Send visitors to this host instead, with path and query, such as from www.example.com to example.com.
    #[serde(default)]
    pub redirect_to: Option<DomainName>,
    /// How certificate authorities are shown that the name is ours. Default: what fits, with another as fallback.
    #[serde(default)]
    pub challenge: Option<ChallengeKind>,
    /// What it enforces before the app sees a request. Default: nothing but the way to HTTPS.
    #[serde(default)]
    pub rules: DomainRules,
}

/// Input of `domain_get`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DomainGet {
    /// The domain.
    pub domain: DomainName,
    /// Also ask name servers what DNS says now; takes up to five seconds.
    #[serde(default)]
    pub check_dns: bool,
    /// Also look whether ports 80 and 443 of the addresses that DNS gives reach this machine; takes up to six seconds.
    #[serde(default)]
    pub check_ports: bool,
}

/// Input of `domain_renew`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DomainRenew {
    /// The domain.
    pub domain: DomainName,
}

/// Input of `domain_verify`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DomainVerify {
    /// The domain.
    pub domain: DomainName,
    /// Wait up to this many seconds until it is served with a certificate or the order fails, at most 50. Default 10.
    #[schemars(range(min = 0, max = 50))]
    #[serde(default)]
    pub wait_s: Option<u32>,
}

/// Input of `domain_list`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DomainList {
    /// Only domains of this app.
    pub app: Option<AppSlug>,
    /// Page size, 1 to 100. Default 20.
    #[schemars(range(min = 1, max = 100))]
    pub limit: Option<u32>,
    /// Cursor of the page before.
    pub cursor: Option<String>,
}

/// Output of `domain_list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DomainPage {
    /// The domains, by name.
    pub domains: Vec<DomainSummary>,
    /// How many there are in all.
    pub total: i64,
    /// Pass as `cursor` for the next page; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Input of `domain_update`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DomainUpdate {
    /// The domain.
    pub domain: DomainName,
    /// Another app of the same project that is to answer under it.
    #[serde(default)]
    pub app: Option<AppSlug>,
    /// Another environment.
    #[serde(default)]
    pub environment: Option<EnvironmentName>,
    /// Send visitors to this host instead.
    #[serde(default)]
    pub redirect_to: Option<DomainName>,
    /// How certificate authorities are shown that the name is ours.
    #[serde(default)]
    pub challenge: Option<ChallengeKind>,
    /// What it is to enforce, in place of all that it does now; users of basic_auth without a password keep theirs.
    #[serde(default)]
    pub rules: Option<DomainRules>,
    /// What to drop: redirect_to, challenge (back to what fits), rules, certificate (one of your own; Berth gets one again).
    #[serde(default)]
    pub unset: Vec<String>,
}

/// Input of `domain_remove`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DomainRemove {
    /// The domain.
    pub domain: DomainName,
    /// The domain again, as confirmation.
    #[serde(default)]
    pub confirm: Option<String>,
    /// Only say what would go.
    #[serde(default)]
    pub dry_run: bool,
}

/// Output of `domain_remove`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DomainRemoved {
    /// The domain.
    pub domain: DomainName,
    /// What goes with it, in words.
    pub removes: Vec<String>,
    /// Whether it is gone; false for a dry run.
    pub removed: bool,
}

/// Input of `domain_certificate_set`.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DomainCertificateSet {
    /// The domain.
    pub domain: DomainName,
    /// The certificate and what leads to its authority, as PEM, its own first. At most 64 KiB.
    pub chain: String,
    /// Its private key as PEM, without a passphrase (PKCS #8, PKCS #1 or SEC 1). Kept sealed, never shown.
    pub key: String,
}

impl fmt::Debug for DomainCertificateSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DomainCertificateSet").field("domain", &self.domain).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_end_once() {
        for from in OrderState::ALL {
            assert_eq!(OrderState::parse(from.as_str()), Some(from));
            for to in OrderState::ALL {
                assert!(!(from.is_settled() && from.may_become(to)), "{from:?} {to:?}");
                assert!(!from.may_become(OrderState::Pending));
            }
        }
    }
}
