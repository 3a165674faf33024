//! Ids and names, each with its grammar. A value of these types has been checked; code behind the edge
//! trusts it.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a text is not a valid name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {got:?} is not valid: {rule}")]
pub struct InvalidName {
    /// What was expected, such as "app name".
    pub what: &'static str,
    /// What was given, cut to 64 characters.
    pub got: String,
    /// The grammar, in words.
    pub rule: &'static str,
}

impl InvalidName {
    pub(crate) fn new(what: &'static str, got: &str, rule: &'static str) -> Self {
        Self { what, got: got.chars().take(64).collect(), rule }
    }
}

fn is_dns_label(text: &str, max: usize) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= max
        && bytes[0].is_ascii_lowercase()
        && bytes[bytes.len() - 1] != b'-'
        && !text.contains("--")
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

/// Makes a checked text type with the traits that every name needs.
macro_rules! name_type {
    ($(#[$meta:meta])* $type:ident, $what:literal, $rule:literal, $pattern:literal, $check:expr) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                let check: fn(&str) -> bool = $check;
                if check(text) { Ok(Self(text.to_owned())) } else { Err(InvalidName::new($what, text, $rule)) }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }

        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern })
            }
        }
    };
}

name_type!(
    /// Name of a project.
    ProjectSlug, "project name",
    "use 1 to 40 lower-case letters, digits and single hyphens, starting with a letter",
    "^[a-z][a-z0-9-]{0,39}$", |t| is_dns_label(t, 40)
);

name_type!(
    /// Name of an app, unique in the installation: it is the first label of the app's host name.
    AppSlug, "app name",
    "use 1 to 40 lower-case letters, digits and single hyphens, starting with a letter",
    "^[a-z][a-z0-9-]{0,39}$", |t| is_dns_label(t, 40)
);

name_type!(
    /// Name of an environment of an app.
    EnvironmentName, "environment name",
    "use 1 to 40 lower-case letters, digits and single hyphens, starting with a letter",
    "^[a-z][a-z0-9-]{0,39}$", |t| is_dns_label(t, 40)
);

name_type!(
    /// Name of an environment variable, as POSIX has it.
    VariableName, "variable name",
    "use letters, digits and underscores, not starting with a digit, at most 128 characters",
    "^[A-Za-z_][A-Za-z0-9_]{0,127}$", |t| {
        t.len() <= 128
            && t.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            && t.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    }
);

name_type!(
    /// Id of a job, given out by the daemon.
    JobId, "job id", "use the id as a tool returned it", "^[0-9a-f-]{36}$",
    |t| t.len() == 36 && t.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
);

name_type!(
    /// Id of an uploaded source archive, given out by the daemon.
    UploadId, "upload id", "use the id as POST /v1/uploads returned it", "^[0-9a-f-]{36}$",
    |t| t.len() == 36 && t.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
);

name_type!(
    /// Name of an access token, for people.
    TokenName, "token name",
    "use 1 to 60 letters, digits, spaces and the characters . _ -",
    "^[A-Za-z0-9][A-Za-z0-9 ._-]{0,59}$", |t| {
        !t.is_empty()
            && t.len() <= 60
            && t.as_bytes()[0].is_ascii_alphanumeric()
            && t.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b' ' | b'.' | b'_' | b'-'))
    }
);

name_type!(
    /// Name of a DNS provider.
    DnsProviderName, "DNS provider name",
    "use 1 to 40 lower-case letters, digits and single hyphens, starting with a letter",
    "^[a-z][a-z0-9-]{0,39}$", |t| is_dns_label(t, 40)
);

name_type!(
    /// Id of a grant, given out by the daemon.
    GrantId, "grant id", "use the id as grant_list returned it", "^[0-9a-f]{12}$",
    |t| t.len() == 12 && t.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
);

name_type!(
    /// Name of a channel that alerts go by.
    ChannelName, "channel name",
    "use 1 to 40 lower-case letters, digits and single hyphens, starting with a letter",
    "^[a-z][a-z0-9-]{0,39}$", |t| is_dns_label(t, 40)
);

name_type!(
    /// Name of an alert's rule.
    AlertName, "alert name",
    "use 1 to 40 lower-case letters, digits and single hyphens, starting with a letter",
    "^[a-z][a-z0-9-]{0,39}$", |t| is_dns_label(t, 40)
);

impl EnvironmentName {
    /// The environment that every app has.
    #[must_use]
    pub fn production() -> Self {
        Self("production".into())
    }
}

impl ProjectSlug {
    /// The project that is there from the start.
    #[must_use]
    pub fn default_project() -> Self {
        Self("default".into())
    }
}

/// A deployment as people name it: `web#42`, or just `web` for the newest one of the app.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DeploymentRef {
    /// The app.
    pub app: AppSlug,
    /// Its number; none means the newest.
    pub number: Option<i64>,
}

impl DeploymentRef {
    /// The reference to deployment `number` of `app`.
    #[must_use]
    pub fn new(app: AppSlug, number: i64) -> Self {
        Self { app, number: Some(number) }
    }
}

impl FromStr for DeploymentRef {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let wrong = || {
            InvalidName::new(
                "deployment",
                text,
                "use app#number such as web#42, or the app's name for its newest",
            )
        };
        match text.split_once('#') {
            None => Ok(Self { app: text.parse().map_err(|_| wrong())?, number: None }),
            Some((app, number)) => {
                if number.is_empty() || number.len() > 12 || !number.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(wrong());
                }
                let number = number.parse().map_err(|_| wrong())?;
                Ok(Self { app: app.parse().map_err(|_| wrong())?, number: Some(number) })
            }
        }
    }
}

impl fmt::Display for DeploymentRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            Some(number) => write!(f, "{}#{number}", self.app),
            None => write!(f, "{}", self.app),
        }
    }
}

impl Serialize for DeploymentRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeploymentRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for DeploymentRef {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "DeploymentRef".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[a-z][a-z0-9-]{0,39}(#[0-9]{1,12})?$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn slugs_are_dns_labels() {
        for good in ["a", "web", "web-2", "a1-b2"] {
            assert!(good.parse::<AppSlug>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "1a", "a--b", "a_b", "a.b", "ä", &"a".repeat(41)] {
            assert!(bad.parse::<AppSlug>().is_err(), "{bad}");
        }
    }

    #[test]
    fn deployment_refs_read_as_people_write_them() {
        let r: DeploymentRef = "web#42".parse().unwrap();
        assert_eq!((r.app.as_str(), r.number), ("web", Some(42)));
        assert_eq!("web".parse::<DeploymentRef>().unwrap().number, None);
        for bad in ["web#", "web#x", "web#-1", "#1", "web#1#2", "web#9999999999999"] {
            assert!(bad.parse::<DeploymentRef>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_ref_survives_a_round_trip(app in "[a-z][a-z0-9]{0,20}", number in 0i64..1_000_000) {
            let r = DeploymentRef::new(app.parse().unwrap(), number);
            prop_assert_eq!(r.to_string().parse::<DeploymentRef>().unwrap(), r);
        }

        #[test]
        fn parsing_never_panics(text in ".{0,80}") {
            let _ = text.parse::<DeploymentRef>();
            let _ = text.parse::<AppSlug>();
            let _ = text.parse::<VariableName>();
        }
    }
}
