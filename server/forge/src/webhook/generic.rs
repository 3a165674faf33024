//! The message of everything that is none of the forges: a git hook, a CI job, another host.
//!
//! `POST` of JSON with the header `X-Berth-Signature: sha256=<HMAC-SHA256 of the body in hex>`:
//!
//! ```json
//! { "id": "build-1234", "timestamp": 1767225600, "repository": "acme/site",
//!   "ref": "refs/heads/main", "before": "<40 digits>", "after": "<40 digits>",
//!   "message": "Fix the crane", "author": "Ada", "paths": ["src/crane.rs"] }
//! ```
//!
//! `id` tells one message from another: the same one twice is taken once. `timestamp` (seconds since 1970) is no more
//! than five minutes off. `repository` is the connected one's owner and name, or its path. `after` of only zeros means
//! that the branch or tag is gone. `before`, `message`, `author` and `paths` may be left out.

use berth_schemas::{Timestamp, push::GitCommits};
use serde::{Deserialize, Serialize};

use super::{Delivery, MAX_ID, Refused, RemoteIdentity, Told, bad, fresh, moved, parse, untrusted};

/// The header with the signature.
pub const SIGNATURE: &str = "x-berth-signature";

#[derive(Serialize, Deserialize)]
struct Message {
    id: String,
    timestamp: i64,
    repository: String,
    #[serde(rename = "ref")]
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<String>,
    after: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    author: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    paths: Option<Vec<String>>,
}

/// A message as an example to show.
#[must_use]
pub fn message(repository: &str, at: Timestamp) -> String {
    let message = Message {
        id: "any text, new for each push".into(),
        timestamp: at.0 / 1_000_000,
        repository: repository.into(),
        name: "refs/heads/main".into(),
        before: None,
        after: "the commit, 40 digits".into(),
        message: None,
        author: None,
        paths: None,
    };
    serde_json::to_string(&message).unwrap_or_default()
}

/// The signed time must be near.
pub(super) fn fresh_enough(body: &[u8], now: Timestamp) -> Result<(), Refused> {
    fresh(parse::<Message>(body)?.timestamp, now)
}

pub(super) fn delivery(body: &[u8]) -> Result<Delivery, Refused> {
    let id = parse::<Message>(body)?.id;
    if id.is_empty() || id.len() > MAX_ID {
        return Err(Refused::Nameless { what: "id of 1 to 190 characters" });
    }
    Ok(Delivery { id, event: "push".into() })
}

pub(super) fn read(body: &[u8]) -> Result<Told, Refused> {
    let told: Message = parse(body)?;
    let change = moved(&told.name, told.before.as_deref(), Some(&told.after), None)?
        .ok_or_else(|| bad("its ref begins with neither refs/heads/ nor refs/tags/"))?;
    let repository = told.repository.trim_matches('/');
    let name = repository.strip_suffix(".git").unwrap_or(repository).to_owned();
    let repository = RemoteIdentity { full_name: Some(name), ..RemoteIdentity::default() };
    let commits = GitCommits {
        message: untrusted(told.message),
        author: untrusted(told.author),
        pusher: None,
        paths: told.paths,
    };
    Ok(Told::Moved { repository, changes: vec![(change, commits)] })
}
