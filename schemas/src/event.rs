//! The event log: what happened, in the order in which it was committed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AppSlug, Timestamp, Untrusted};

/// An entry of the event log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Its number; entries are numbered in order.
    #[schemars(extend("x-detail" = true))]
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// What, such as deployment.live, app.created, container.died, token.created.
    pub kind: String,
    /// Who caused it: a token's name or "berth".
    pub by: String,
    /// The app it is about, if one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppSlug>,
    /// In a sentence, which may name a branch, or why something failed in the words of an app or of git.
    pub summary: Untrusted,
    /// Details that depend on the kind.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    #[schemars(extend("x-detail" = true, "x-untrusted" = true))]
    pub data: serde_json::Value,
}

/// Input of `event_list`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EventList {
    /// Only about this app.
    #[serde(default)]
    pub app: Option<AppSlug>,
    /// Only kinds that begin with this, such as deployment.
    #[serde(default)]
    pub kind: Option<String>,
    /// Not before: RFC 3339, or an age such as 15m, 2h, 7d.
    #[serde(default)]
    pub since: Option<String>,
    /// At most this many, 1 to 200. Default 30.
    #[schemars(range(min = 1, max = 200))]
    #[serde(default)]
    pub limit: Option<u32>,
    /// Cursor of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
}

/// Output of `event_list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EventPage {
    /// The entries, newest first.
    pub events: Vec<Event>,
    /// Pass as `cursor` for the next page; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}
