//! What a domain enforces before its app sees a request. Checked and compiled by the data plane; kept by the control
//! plane, with passwords only as hashes.
//!
//! The order in which a request meets them: answers to certificate authorities come before all of it, then deny and
//! allow, rate limit, the way to HTTPS, basic auth, redirects, rewrites, headers, body size.

use std::{collections::BTreeMap, fmt};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a domain enforces. All of it is optional; nothing set changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub struct DomainRules {
    /// Send plain HTTP to HTTPS (308). Default: yes where the domain has a certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https: Option<bool>,
    /// Strict-Transport-Security on answers over HTTPS. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hsts: Option<Hsts>,
    /// Paths that lead elsewhere; the first that fits is taken. At most 200.
    #[schemars(length(max = 200))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub redirects: Vec<RedirectRule>,
    /// Path prefixes that the app sees under another; the first that fits is taken. The query is kept. At most 50.
    #[schemars(length(max = 50))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rewrites: Vec<RewriteRule>,
    /// Name and password for visitors. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basic_auth: Option<BasicAuth>,
    /// Addresses and networks (192.0.2.0/24, 2001:db8::/32) that may come; all others get 403. At most 256. Default: all.
    #[schemars(length(max = 256))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// Addresses and networks that get 403, even if allowed. At most 256.
    #[schemars(length(max = 256))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
    /// How many requests one address (one /64 of IPv6) may make; beyond, 429. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// Headers of requests on their way to the app.
    #[serde(skip_serializing_if = "HeaderRules::is_empty")]
    pub request_headers: HeaderRules,
    /// Headers of answers of the app or the static release.
    #[serde(skip_serializing_if = "HeaderRules::is_empty")]
    pub response_headers: HeaderRules,
    /// Longest request body in bytes; beyond, 413. Default: no limit.
    #[schemars(range(min = 0, max = 1_099_511_627_776_u64))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_body_bytes: Option<u64>,
}

/// How long browsers are to use nothing but HTTPS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct Hsts {
    /// For so many seconds. Default: a year (31536000). 0 makes browsers forget it.
    #[schemars(range(min = 0, max = 63_072_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age_s: Option<u32>,
    /// For all names below, too.
    #[serde(default)]
    pub include_subdomains: bool,
    /// May be built into browsers; wants a year and subdomains.
    #[serde(default)]
    pub preload: bool,
}

/// A path that leads elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct RedirectRule {
    /// A path (/old), or a path and all below it (/blog/*).
    #[schemars(length(max = 1024))]
    pub from: String,
    /// A path (/new) or URL (https://example.org/new). A /* at its end takes what stood in place of the other's.
    #[schemars(length(max = 2048))]
    pub to: String,
    /// 301, 302, 307 or 308. Default 308.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Whether the query goes along. Default: yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_query: Option<bool>,
}

/// A path prefix that the app sees under another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct RewriteRule {
    /// The prefix that visitors use, by whole segments (/api).
    #[schemars(length(max = 1024))]
    pub from: String,
    /// What the app sees in its place (/ or /v2).
    #[schemars(length(max = 1024))]
    pub to: String,
}

/// Name and password for visitors (RFC 7617).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct BasicAuth {
    /// Who may come in; 1 to 50.
    #[schemars(length(min = 1, max = 50))]
    pub users: Vec<BasicUser>,
    /// What browsers show beside the question, at most 100 characters. Default: the domain.
    #[schemars(length(max = 100))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub realm: Option<String>,
    /// Paths that are open to all: /health, or /hooks/* with all below. At most 50.
    #[schemars(length(max = 50))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
}

/// One who may come in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct BasicUser {
    /// 1 to 128 characters, without a colon.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// 8 to 256 bytes. Never kept or shown. Default: the one that this user has.
    #[schemars(length(max = 256))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// In place of the password: its Argon2 hash ($argon2id$…). Never shown.
    #[schemars(length(max = 256))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_hash: Option<String>,
}

impl fmt::Debug for BasicUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BasicUser").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How many requests one address may make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct RateLimit {
    /// So many requests …
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests: u32,
    /// … in so many seconds, evenly. Default 1.
    #[schemars(range(min = 1, max = 86_400))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_s: Option<u32>,
    /// How many may come at once. Default: as many as `requests`.
    #[schemars(range(min = 1, max = 1_000_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
}

/// Headers that are changed. Those that frame a message, belong to one connection or are set by Berth are refused.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub struct HeaderRules {
    /// Taken out, first. At most 50.
    #[schemars(length(max = 50))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
    /// Set, in place of what is there. At most 50.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
    /// Added beside what is there. At most 50.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub add: BTreeMap<String, String>,
}

impl HeaderRules {
    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}

impl DomainRules {
    /// Whether nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// As it may be shown: users by name alone.
    #[must_use]
    pub fn shown(&self) -> Self {
        let mut shown = self.clone();
        for user in shown.basic_auth.iter_mut().flat_map(|auth| &mut auth.users) {
            user.password = None;
            user.password_hash = None;
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_set_is_an_empty_object_and_unknown_fields_are_refused() {
        assert_eq!(serde_json::to_string(&DomainRules::default()).unwrap(), "{}");
        assert!(serde_json::from_str::<DomainRules>("{}").unwrap().is_empty());
        assert!(serde_json::from_str::<DomainRules>(r#"{"htps":true}"#).is_err());
        assert!(serde_json::from_str::<DomainRules>(r#"{"hsts":{"max_age":1}}"#).is_err());
    }

    #[test]
    fn what_is_shown_or_printed_has_no_password() {
        let text = r#"{"basic_auth":{"users":[{"name":"ann","password":"hunter22"},
            {"name":"bob","password_hash":"$argon2id$v=19$x"}]}}"#;
        let rules: DomainRules = serde_json::from_str(text).unwrap();
        for seen in [format!("{rules:?}"), serde_json::to_string(&rules.shown()).unwrap()] {
            assert!(
                seen.contains("ann") && !seen.contains("hunter22") && !seen.contains("argon2id"),
                "{seen}"
            );
        }
    }
}
