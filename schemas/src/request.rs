//! Requests that visitors made, as the data plane saw them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AppSlug, EnvironmentName, Timestamp, Untrusted};

/// One request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RequestRecord {
    /// When it began.
    pub at: Timestamp,
    /// Its id, also sent to the app and the visitor as x-request-id.
    #[schemars(extend("x-detail" = true))]
    pub request_id: String,
    /// Method.
    pub method: Untrusted,
    /// Host.
    #[schemars(extend("x-detail" = true))]
    pub host: Untrusted,
    /// Path without the query.
    pub path: Untrusted,
    /// Status that the visitor got; 0 if the visitor left first.
    pub status: i64,
    /// Bytes of the request's body.
    #[schemars(extend("x-detail" = true))]
    pub bytes_in: i64,
    /// Bytes of the response's body.
    #[schemars(extend("x-detail" = true))]
    pub bytes_out: i64,
    /// Milliseconds in all.
    pub ms: f64,
    /// Milliseconds until the app's response began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_ms: Option<f64>,
    /// The release that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<i64>,
    /// Why the data plane answered instead of the app, such as "no_replica".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Input of `request_list`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestList {
    /// The app's name.
    pub app: AppSlug,
    /// Default: production.
    #[serde(default)]
    pub environment: Option<EnvironmentName>,
    /// Only this status (404) or class (4xx, 5xx).
    #[serde(default)]
    pub status: Option<String>,
    /// Only paths that begin with this.
    #[serde(default)]
    pub path_prefix: Option<String>,
    /// Not before: RFC 3339, or an age such as 15m, 2h, 7d. Default 1h.
    #[serde(default)]
    pub since: Option<String>,
    /// Only those that took at least so many milliseconds.
    #[serde(default)]
    pub slower_than_ms: Option<u32>,
    /// Default 50.
    #[schemars(range(min = 1, max = 500))]
    #[serde(default)]
    pub limit: Option<u32>,
    /// Cursor of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
}

/// Output of `request_list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RequestPage {
    /// The requests, newest first.
    pub requests: Vec<RequestRecord>,
    /// How many match in all.
    pub total: i64,
    /// Of these, how many had a status of 500 or more.
    pub errors: i64,
    /// Milliseconds within which half of them were answered.
    pub p50_ms: f64,
    /// Milliseconds within which 95 of 100 were answered.
    pub p95_ms: f64,
    /// Pass as `cursor` for the next page; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}
