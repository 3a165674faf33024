//! Points in time on the wire.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time: microseconds since 1970-01-01 UTC inside the daemon, RFC 3339 on the wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// How far a test has moved this process's clock, in microseconds.
#[cfg(debug_assertions)]
fn shift() -> i64 {
    static SHIFT: std::sync::LazyLock<i64> = std::sync::LazyLock::new(|| {
        let start = std::env::var("BERTH_TEST_CLOCK").ok().and_then(|t| t.parse::<jiff::Timestamp>().ok());
        start.map_or(0, |start| start.as_microsecond() - jiff::Timestamp::now().as_microsecond())
    });
    *SHIFT
}

#[cfg(not(debug_assertions))]
const fn shift() -> i64 {
    0
}

impl Timestamp {
    /// The current time of the system clock. Where logic depends on time, take it from the caller instead.
    ///
    /// In a debug build a test can say when the process's clock starts, with an RFC 3339 time in `BERTH_TEST_CLOCK`.
    #[must_use]
    pub fn now() -> Self {
        // The shift first: what is measured before it would lie before the start.
        let shift = shift();
        Self(jiff::Timestamp::now().as_microsecond() + shift)
    }

    /// Microseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn micros(self) -> i64 {
        self.0
    }

    /// Milliseconds from `earlier` to this time, negative if it is later.
    #[must_use]
    pub fn millis_since(self, earlier: Self) -> i64 {
        (self.0 - earlier.0) / 1000
    }

    /// This many seconds later.
    #[must_use]
    pub fn plus_seconds(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(1_000_000)))
    }

    /// Parses RFC 3339, or an age such as `15m`, `2h`, `7d` counted back from `now`.
    ///
    /// # Errors
    /// Says which forms are understood.
    pub fn parse_or_ago(text: &str, now: Self) -> Result<Self, String> {
        let text = text.trim();
        if let Ok(at) = text.parse::<jiff::Timestamp>() {
            return Ok(Self(at.as_microsecond()));
        }
        let help = || {
            format!(
                "{text:?} is no point in time; use RFC 3339 (2026-01-31T12:00:00Z) or an age (30s, 15m, 2h, 7d)"
            )
        };
        let unit = text.chars().last().ok_or_else(help)?;
        let seconds: i64 = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return Err(help()),
        };
        let count: i64 = text[..text.len() - 1].parse().map_err(|_| help())?;
        let back = count
            .checked_mul(seconds)
            .and_then(|s| s.checked_mul(1_000_000))
            .filter(|b| *b >= 0)
            .ok_or_else(help)?;
        Ok(Self(now.0.saturating_sub(back)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(at) => write!(f, "{at:.3}"),
            Err(_) => write!(f, "{}us", self.0),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse::<jiff::Timestamp>().map(|at| Self(at.as_microsecond())).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Timestamp {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_count_back_from_now() {
        let now = Timestamp(10_000_000_000);
        assert_eq!(Timestamp::parse_or_ago("15m", now), Ok(Timestamp(9_100_000_000)));
        assert!(Timestamp::parse_or_ago("yesterday", now).is_err());
        assert!(Timestamp::parse_or_ago("-5m", now).is_err());
        assert!(Timestamp::parse_or_ago("99999999999999999d", now).is_err());
    }

    #[test]
    fn the_wire_form_keeps_milliseconds() {
        let json = serde_json::to_string(&Timestamp(1_700_000_000_123_456)).unwrap();
        assert_eq!(json, "\"2023-11-14T22:13:20.123Z\"");
    }
}
