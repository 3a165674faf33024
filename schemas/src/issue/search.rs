//! Searching issues.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::IssueSummary;
use crate::{AppSlug, Untrusted};

/// Input of `error_search`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorSearch {
    /// Only issues of this app.
    #[serde(default)]
    pub app: Option<AppSlug>,
    /// Words and fields, such as `is:open level:error release:1.2 user.email:a@b.example "connection refused"`.
    /// Default `is:open`; error_fields lists the fields.
    #[serde(default)]
    pub query: Option<String>,
    /// Default last_seen, newest or largest first.
    #[serde(default)]
    pub sort: Option<IssueSort>,
    /// Count values of these fields among what matches, at most 5, such as ["release", "browser"].
    #[serde(default)]
    pub facets: Option<Vec<String>>,
    /// At most this many, 1 to 100. Default 20.
    #[schemars(range(min = 1, max = 100))]
    #[serde(default)]
    pub limit: Option<u32>,
    /// next_cursor of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
}

/// How issues are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum IssueSort {
    /// Seen last.
    LastSeen,
    /// New.
    FirstSeen,
    /// Frequent.
    Events,
    /// Many users.
    Users,
    /// The best match of the words.
    Relevance,
}

/// How often values of a field occur.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Facet {
    /// The field.
    pub field: String,
    /// Its values and their events, the most frequent first.
    pub values: Vec<FacetValue>,
}

/// A value and how often it occurs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FacetValue {
    /// The value.
    pub value: Untrusted,
    /// Events.
    pub events: u64,
}

/// Output of `error_search`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IssuePage {
    /// The issues.
    pub issues: Vec<IssueSummary>,
    /// How many match in all, if that was counted.
    pub total: i64,
    /// Where the next page begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// Counts of the fields that were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub facets: Vec<Facet>,
}

/// Input of `error_fields`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorFields {
    /// Show the tags of this app's events, too.
    #[serde(default)]
    pub app: Option<AppSlug>,
}

/// A field that errors can be searched by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorField {
    /// Its name.
    pub name: Untrusted,
    /// What it is, with an example.
    pub about: String,
}

/// Output of `error_fields`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorFieldList {
    /// How queries are written.
    pub grammar: String,
    /// The fields.
    pub fields: Vec<ErrorField>,
}
