//! Domains: host names of one's own that lead to an app's environment, and their certificates.

use std::{borrow::Cow, fmt, str::FromStr};

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{AppSlug, EnvironmentName, Timestamp, Untrusted, ids::InvalidName, rules::DomainRules};

/// A host name as DNS has it: lower case, international names in their ASCII form (`xn--…`), no trailing dot; or a
/// wildcard, which stands for all names one label below its parent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainName(String);

/// Longest text that is looked at; a name has at most 253 characters, but its Unicode form may take more bytes.
const LONGEST: usize = 1024;

impl DomainName {
    /// The name as DNS has it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is a wildcard.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with("*.")
    }

    /// The name without the `*.` of a wildcard.
    #[must_use]
    pub fn base(&self) -> &str {
        self.0.strip_prefix("*.").unwrap_or(&self.0)
    }

    /// The wildcard that stands for this name; none for a wildcard, or where it would stand for a whole top-level
    /// domain.
    #[must_use]
    pub fn wildcard(&self) -> Option<Self> {
        let (_, parent) = self.0.split_once('.').filter(|_| !self.is_wildcard())?;
        parent.contains('.').then(|| Self(format!("*.{parent}")))
    }

    /// Whether this name is `other`, or a wildcard that stands for it.
    #[must_use]
    pub fn covers(&self, other: &str) -> bool {
        match self.0.strip_prefix("*.") {
            Some(parent) => {
                self.0 == other
                    || other.split_once('.').is_some_and(|(label, rest)| label != "*" && rest == parent)
            }
            None => self.0 == other,
        }
    }

    /// The name as people write it, where that differs.
    #[must_use]
    pub fn unicode(&self) -> Option<String> {
        if !self.0.contains("xn--") {
            return None;
        }
        let (text, outcome) = idna::domain_to_unicode(self.base());
        outcome.ok()?;
        Some(if self.is_wildcard() { format!("*.{text}") } else { text })
    }
}

/// The form that DNS has, if it is a name.
fn normal(text: &str) -> Option<String> {
    if text.len() > LONGEST {
        return None;
    }
    let (star, rest) = match text.strip_prefix("*.") {
        Some(rest) => ("*.", rest),
        None => ("", text),
    };
    let rest = rest.strip_suffix('.').unwrap_or(rest);
    let ascii = Uts46::new()
        .to_ascii(rest.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::Verify)
        .ok()?;
    let last = ascii.rsplit('.').next()?;
    let plain = ascii.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.');
    // What ends in a number is an address, and a single label is no name that anybody owns.
    let a_name = ascii.contains('.') && plain && !last.bytes().all(|b| b.is_ascii_digit());
    (a_name && star.len() + ascii.len() <= 253).then(|| format!("{star}{ascii}"))
}

impl FromStr for DomainName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        normal(text).map(Self).ok_or_else(|| InvalidName {
            what: "domain",
            got: text.chars().take(64).collect(),
            rule: "use a host name such as shop.example.com, or a wildcard such as *.example.com, without scheme, port or path",
        })
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for DomainName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for DomainName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for DomainName {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "DomainName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 3, "maxLength": 253 })
    }
}

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
    /// not_pointing, unreachable, no_dns_provider, no_challenge.
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
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> DomainName {
        text.parse().unwrap()
    }

    #[test]
    fn names_take_the_form_that_dns_has() {
        for (written, kept) in [
            ("Shop.Example.COM.", "shop.example.com"),
            ("*.Example.com", "*.example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("pr-1--web.example.com", "pr-1--web.example.com"),
            ("a.b", "a.b"),
        ] {
            assert_eq!(name(written).as_str(), kept);
        }
        assert_eq!(name("*.bücher.example").unicode().as_deref(), Some("*.bücher.example"));
        assert_eq!(name("example.com").unicode(), None);
    }

    #[test]
    fn what_is_no_name_of_ones_own_is_refused() {
        let long = format!("{}.com", "a".repeat(64));
        let longer = format!("{}com", "abcdefg.".repeat(32));
        for bad in [
            "",
            ".",
            "localhost",
            "example.com:443",
            "https://example.com",
            "example.com/x",
            "a b.com",
            "-a.com",
            "a-.com",
            "a..com",
            "*",
            "*.",
            "*.com.*",
            "a.*.com",
            "**.example.com",
            "192.0.2.1",
            "[::1]",
            "a_b.com",
            "exa\u{0}mple.com",
            "*.*.example.com",
            "xn--\u{fc}.com",
            &long,
            &longer,
        ] {
            assert!(bad.parse::<DomainName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        let star = name("*.example.com");
        assert!(star.covers("shop.example.com") && star.covers("*.example.com"));
        for other in ["example.com", "a.b.example.com", "shop.example.org", "*.b.example.com"] {
            assert!(!star.covers(other), "{other}");
        }
        assert_eq!(name("shop.example.com").wildcard(), Some(star));
        assert_eq!(name("example.com").wildcard(), None);
        assert_eq!(name("*.example.com").wildcard(), None);
    }

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

    proptest! {
        #[test]
        fn parsing_never_panics_and_is_stable(text in "\\PC{0,60}") {
            if let Ok(name) = text.parse::<DomainName>() {
                prop_assert_eq!(name.as_str().parse::<DomainName>(), Ok(name.clone()));
                prop_assert!(name.as_str().len() <= 253);
                prop_assert!(name.covers(name.as_str()));
            }
        }
    }
}
