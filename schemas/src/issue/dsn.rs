//! An app's way in for errors: its DSN with its keys, and what came by it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AppSlug, DeploymentRef, EnvironmentName, Timestamp};

/// Input of `dsn_get`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DsnGet {
    /// The app.
    pub app: AppSlug,
    /// Default: production.
    #[serde(default)]
    pub environment: Option<EnvironmentName>,
}

/// Output of `dsn_get`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Dsn {
    /// What a Sentry client takes as its DSN. It can only write, and is no secret.
    pub dsn: String,
    /// Path on the app's own host that browsers may use as `tunnel`, so that blockers do not swallow errors.
    pub tunnel: String,
    /// Whether deployments get it as SENTRY_DSN.
    pub injected: bool,
    /// Keys that dsn_rotate replaced, the newest first, until 30 days after their end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub old_keys: Vec<OldKey>,
    /// The live deployment, if its containers still send with an old key: the next one gets the new DSN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_key_in: Option<DeploymentRef>,
    /// Events that were accepted in the last 24 hours.
    pub accepted_24h: i64,
    /// What else was kept in the last 24 hours: sessions, transactions, logs and the like.
    pub kept_24h: Vec<Kept>,
    /// What was not kept in the last 24 hours, by what it was and why.
    pub dropped_24h: Vec<Dropped>,
    /// What comes next.
    pub next: String,
}

/// A key that was replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OldKey {
    /// What stands before the @ of its DSN.
    pub key: String,
    /// From when on what is sent with it is refused.
    pub until: Timestamp,
    /// Whether it is accepted now.
    pub accepted: bool,
    /// When a client used it last since it was replaced, or tried to; exact to about a minute over a crash of Berth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Timestamp>,
}

/// Input of `dsn_rotate`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DsnRotate {
    /// The app.
    pub app: AppSlug,
    /// Default: production.
    #[serde(default)]
    pub environment: Option<EnvironmentName>,
    /// Hours for which older keys are still accepted: 168, a week, by default. With 0 they end at once.
    #[schemars(range(min = 0, max = 8760))]
    #[serde(default)]
    pub grace_hours: Option<u32>,
    /// The app's name, for grace_hours=0: what runs with an older key loses its errors.
    #[serde(default)]
    pub confirm: Option<String>,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// Output of `dsn_rotate`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DsnRotated {
    /// Whether it was done.
    pub rotated: bool,
    /// What a Sentry client takes as its DSN from now on; in a dry run the one that there is.
    pub dsn: String,
    /// Until when older keys are accepted.
    pub old_keys_until: Timestamp,
    /// The live deployment, if its containers send with an older key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_key_in: Option<DeploymentRef>,
    /// What comes next.
    pub next: String,
}

/// What was kept besides error events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Kept {
    /// What: "session", "transaction", "attachment" …
    pub kind: String,
    /// How many.
    pub count: i64,
    /// The tool that shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shown_by: Option<String>,
}

/// What was not kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Dropped {
    /// What: "error", "transaction" …
    pub category: String,
    /// Why.
    pub reason: String,
    /// How many.
    pub count: i64,
}
