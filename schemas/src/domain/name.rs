//! Domain names, as people type them and as they are kept.

use std::{borrow::Cow, fmt, str::FromStr};

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::ids::InvalidName;

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
