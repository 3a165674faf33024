//! Records and zones, as all providers have them. Names are lower case and end without a dot.

use std::fmt;

use berth_schemas::DomainName;

/// Types of records that Berth sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// Text: what a certificate authority looks for.
    Txt,
}

impl RecordKind {
    /// Its name in DNS.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Txt => "TXT",
        }
    }
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Record {
    /// Its name in full.
    pub name: String,
    /// Its type.
    pub kind: RecordKind,
    /// Its value: of a text, the text itself without quotes.
    pub value: String,
}

impl Record {
    /// A text.
    #[must_use]
    pub fn txt(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), kind: RecordKind::Txt, value: value.into() }
    }

    /// The value as zone files and most interfaces have it: texts in quotes.
    #[must_use]
    pub fn quoted(&self) -> String {
        match self.kind {
            RecordKind::Txt => {
                format!("\"{}\"", self.value.replace('\\', "\\\\").replace('"', "\\\""))
            }
        }
    }
}

/// The value within [`Record::quoted`].
#[must_use]
pub fn unquoted(kind: RecordKind, text: &str) -> String {
    match kind {
        RecordKind::Txt => {
            let inner = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
            inner.replace("\\\"", "\"").replace("\\\\", "\\")
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.name, self.kind.as_str(), self.quoted())
    }
}

/// A zone of a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// Its name.
    pub name: String,
    /// What the provider calls it.
    pub id: String,
}

impl Zone {
    /// What stands before the zone's name in `name`; `@` for the zone itself.
    #[must_use]
    pub fn relative(&self, name: &str) -> String {
        match name.strip_suffix(self.name.as_str()).and_then(|rest| rest.strip_suffix('.')) {
            Some(rest) if !rest.is_empty() => rest.to_owned(),
            _ => "@".to_owned(),
        }
    }
}

/// Whether `name` is `zone` or below it.
#[must_use]
pub fn is_within(name: &str, zone: &str) -> bool {
    name == zone || name.strip_suffix(zone).is_some_and(|rest| rest.ends_with('.'))
}

/// The longest of the zones that hold `name`.
pub fn longest<'a, T: 'a>(
    name: &str,
    zones: impl IntoIterator<Item = &'a T>,
    zone_name: impl Fn(&T) -> &str,
) -> Option<&'a T> {
    zones.into_iter().filter(|z| is_within(name, zone_name(z))).max_by_key(|z| zone_name(z).len())
}

/// The name as this module has it: lower case, no dot at the end.
#[must_use]
pub fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// Where a certificate authority looks for the proof that a name is ours (RFC 8555, 8.4).
#[must_use]
pub fn challenge_name(name: &DomainName) -> String {
    format!("_acme-challenge.{}", name.base())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_longest_zone_serves_a_name() {
        let zones = ["example.com", "shop.example.com", "ample.com"].map(String::from);
        let of = |name: &str| longest(name, &zones, |z| z.as_str()).map(String::as_str);
        assert_eq!(of("_acme-challenge.shop.example.com"), Some("shop.example.com"));
        assert_eq!(of("www.example.com"), Some("example.com"));
        assert_eq!(of("example.com"), Some("example.com"));
        assert_eq!(of("example.org"), None);
        assert_eq!(of("xexample.com"), None, "a zone ends at a dot");
    }

    #[test]
    fn names_are_told_relative_to_their_zone() {
        let zone = Zone { name: "example.com".into(), id: "1".into() };
        assert_eq!(zone.relative("_acme-challenge.shop.example.com"), "_acme-challenge.shop");
        assert_eq!(zone.relative("example.com"), "@");
        assert_eq!(
            challenge_name(&"*.shop.example.com".parse().unwrap()),
            "_acme-challenge.shop.example.com"
        );
    }

    proptest! {
        #[test]
        fn quotes_go_as_they_came(value in "[ -~]{0,40}") {
            let record = Record::txt("a.b", value.clone());
            let quoted = record.quoted();
            prop_assert!(quoted.starts_with('"') && quoted.ends_with('"'));
            if !value.contains('\\') {
                prop_assert_eq!(unquoted(RecordKind::Txt, &quoted), value);
            }
        }
    }
}
