//! What holds for an app's errors.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::AppSlug;

/// What holds for an app's errors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ErrorRules {
    /// Whether deployments get the DSN as SENTRY_DSN, unless that variable is set. Counts from the next deployment.
    pub inject_dsn: bool,
    /// Events that an environment may send in a minute; the rest is counted and dropped.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub events_per_minute: u32,
    /// Names of fields whose values are secret, besides the usual ones.
    pub scrub_fields: Vec<String>,
    /// Names of fields that are kept, though they sound like secrets.
    pub keep_fields: Vec<String>,
    /// Keep users' whole IP addresses. Else the last 8 bits of IPv4 and 80 of IPv6 go.
    pub keep_addresses: bool,
    /// Days for which events are kept. Default: the installation's error_retention_days.
    #[schemars(range(min = 1, max = 3650))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention_days: Option<u32>,
    /// Events that are kept; the oldest go. Default: the installation's error_max_events.
    #[schemars(range(min = 100, max = 100_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_events: Option<u32>,
    /// So many events of errors never seen before, within watch_window_s of a deployment's switch, take its release back
    /// by itself. Default: off.
    #[schemars(range(min = 1, max = 100_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback_events: Option<u32>,
    /// Serve the source maps of what Berth built to everybody. Else they are taken out of a release of plain files, those in
    /// an image are answered with 404 (`*.js.map`), and Berth alone uses them. Counts from the next deployment.
    pub public_maps: bool,
}

impl Default for ErrorRules {
    fn default() -> Self {
        Self {
            inject_dsn: true,
            events_per_minute: 6_000,
            scrub_fields: Vec::new(),
            keep_fields: Vec::new(),
            keep_addresses: false,
            retention_days: None,
            max_events: None,
            rollback_events: None,
            public_maps: false,
        }
    }
}

/// Input of `error_rules_get`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorRulesGet {
    /// The app.
    pub app: AppSlug,
}

/// Input of `error_rules_set`; what is left out stays.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorRulesSet {
    /// The app.
    pub app: AppSlug,
    /// Whether deployments get the DSN as SENTRY_DSN.
    #[serde(default)]
    pub inject_dsn: Option<bool>,
    /// Events that an environment may send in a minute.
    #[schemars(range(min = 1, max = 1_000_000))]
    #[serde(default)]
    pub events_per_minute: Option<u32>,
    /// Names of fields whose values are secret, at most 100.
    #[serde(default)]
    pub scrub_fields: Option<Vec<String>>,
    /// Names of fields that are kept, at most 100.
    #[serde(default)]
    pub keep_fields: Option<Vec<String>>,
    /// Keep users' whole IP addresses.
    #[serde(default)]
    pub keep_addresses: Option<bool>,
    /// Days for which events are kept; 0 for the installation's error_retention_days.
    #[schemars(range(min = 0, max = 3650))]
    #[serde(default)]
    pub retention_days: Option<u32>,
    /// Events that are kept, at least 100; 0 for the installation's error_max_events.
    #[schemars(range(min = 0, max = 100_000_000))]
    #[serde(default)]
    pub max_events: Option<u32>,
    /// So many events of errors never seen before, within watch_window_s of a switch, take the release back by itself; 0
    /// turns it off.
    #[schemars(range(min = 0, max = 100_000))]
    #[serde(default)]
    pub rollback_events: Option<u32>,
    /// Serve the source maps of what Berth built to everybody. Counts from the next deployment.
    #[serde(default)]
    pub public_maps: Option<bool>,
}
