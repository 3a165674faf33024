//! The batch API's JSON, as its clients and servers have it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Oid;

/// The content type of requests and answers.
pub const MEDIA_TYPE: &str = "application/vnd.git-lfs+json";
/// The one way of transfer that every server and client knows.
pub const BASIC: &str = "basic";
/// The one hash.
pub const SHA256: &str = "sha256";
/// Most objects of one request.
pub const MAX_BATCH: usize = 100;

/// What is to be done with objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// To fetch them.
    Download,
    /// To store them.
    Upload,
}

/// A request about objects.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Batch {
    /// What is to be done.
    pub operation: Operation,
    /// Ways of transfer that the client knows; none means the basic one.
    #[serde(default)]
    pub transfers: Vec<String>,
    /// The objects.
    pub objects: Vec<Object>,
    /// The hash; none means SHA-256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash_algo: Option<String>,
}

/// An object that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Its name.
    pub oid: Oid,
    /// Its size in bytes.
    pub size: u64,
}

/// The answer about objects.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BatchAnswer {
    /// The way of transfer that the server chose; none means the basic one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer: Option<String>,
    /// What there is for each object.
    pub objects: Vec<Answered>,
    /// The hash; none means SHA-256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash_algo: Option<String>,
}

/// What there is for one object.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answered {
    /// Its name.
    pub oid: Oid,
    /// Its size in bytes.
    #[serde(default)]
    pub size: u64,
    /// The actions need no credentials besides their headers.
    #[serde(default)]
    pub authenticated: bool,
    /// What the client does next. Of an upload: nothing, if the object is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actions: Option<Actions>,
    /// Why there is nothing to be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
}

/// What a client does with an object.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Actions {
    /// Gets it here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download: Option<Action>,
    /// Puts it here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<Action>,
    /// Has it checked here when it was put.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Action>,
}

/// A request that a client makes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Action {
    /// The whole address.
    pub href: String,
    /// Headers to send with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<BTreeMap<String, String>>,
}

/// Why something about one object cannot be done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fault {
    /// As HTTP has it.
    pub code: u16,
    /// In words.
    pub message: String,
}
