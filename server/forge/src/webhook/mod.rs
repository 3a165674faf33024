//! What forges send: who signed it, what it is about, what moved. Pure: headers and a body in, a verdict out.
//!
//! The signature is checked over the raw bytes, in constant time, before one of them is parsed. Fields that are not
//! known are ignored; events that lead to nothing are named and have no effect.

mod bitbucket;
mod generic;
mod github;
mod gitlab;
mod signature;

use berth_deploy::source::git::{CommitSha, GitRef, GitUrl};
use berth_schemas::{
    Timestamp, Untrusted,
    push::{GitChange, GitCommits},
    repository::ForgeKind,
};
use http::HeaderMap;
use serde::{Deserialize, de::DeserializeOwned};

pub use generic::{SIGNATURE as GENERIC_SIGNATURE, message as generic_message};
pub use signature::{sign, verify};

/// The most bytes that a webhook's body may have: what GitHub sends at most.
pub const MAX_BODY: usize = 25 << 20;
/// The longest delivery id that is taken, in bytes.
const MAX_ID: usize = 190;
/// The most changes that one webhook may tell.
const MAX_CHANGES: usize = 100;

/// Why a webhook is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is not signed.
    #[error("it carries no {header}")]
    Unsigned {
        /// The header that is missing, or there twice.
        header: &'static str,
    },
    /// The signature is of another secret or another body.
    #[error("its {header} does not fit the webhook's secret")]
    WrongSignature {
        /// The header.
        header: &'static str,
    },
    /// It was signed too long ago, or the clocks differ.
    #[error("it was signed {seconds} s away from this server's time")]
    Stale {
        /// How far, in seconds.
        seconds: i64,
    },
    /// It does not say which event it is, or cannot be told from others.
    #[error("it has no {what}")]
    Nameless {
        /// What is missing.
        what: &'static str,
    },
    /// Its body is not what the forge documents.
    #[error("its body cannot be read: {0}")]
    BadBody(String),
    /// It speaks of another repository.
    #[error("it is about {told:?}, and this webhook is of {connected}")]
    OtherRepository {
        /// The repository that it is about, shortened.
        told: String,
        /// The one that is connected.
        connected: String,
    },
}

/// How a webhook names itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// By which the forge tells one from another; the same when it is sent again.
    pub id: String,
    /// What kind of event it is, in the forge's word.
    pub event: String,
}

/// The repository that a webhook is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemoteIdentity {
    /// The forge's own id of it, which outlives a new name.
    pub id: Option<String>,
    /// Owner and name.
    pub full_name: Option<String>,
    /// Its default branch.
    pub default_branch: Option<String>,
}

/// What a webhook tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// Something moved; empty when it is nothing that leads to anything.
    Moved {
        /// Where.
        repository: RemoteIdentity,
        /// What.
        changes: Vec<(GitChange, GitCommits)>,
    },
    /// The forge asks whether somebody is there.
    Ping,
    /// An event that has no effect.
    Unused,
}

impl Told {
    /// One change, or none that leads to anything.
    fn one(repository: RemoteIdentity, change: Option<GitChange>, commits: GitCommits) -> Self {
        Self::Moved { repository, changes: change.map(|change| (change, commits)).into_iter().collect() }
    }
}

/// A commit of a push, whose fields GitHub, Gitea, Forgejo and GitLab name alike; of its author, each in its own way.
#[derive(Deserialize)]
struct Commit<A> {
    id: Option<String>,
    message: Option<String>,
    author: Option<A>,
    added: Option<Vec<String>>,
    modified: Option<Vec<String>>,
    removed: Option<Vec<String>>,
}

impl<A> Commit<A> {
    fn paths(&self) -> impl Iterator<Item = String> {
        [&self.added, &self.modified, &self.removed].into_iter().flatten().flatten().cloned()
    }
}

/// Each path once, in order.
fn unique(mut paths: Vec<String>) -> Vec<String> {
    paths.sort_unstable();
    paths.dedup();
    paths
}

/// What names a webhook, from its headers and, where the forge gives no id, its body.
///
/// # Errors
/// [`Refused::Nameless`].
pub fn delivery(kind: ForgeKind, headers: &HeaderMap, body: &[u8]) -> Result<Delivery, Refused> {
    let named = |id: &[&'static str], event: &[&'static str]| {
        let first = |names: &[&'static str]| names.iter().find_map(|name| one(headers, name));
        let id = first(id).filter(|id| !id.is_empty() && id.len() <= MAX_ID);
        let event = first(event).filter(|event| !event.is_empty() && event.len() <= MAX_ID);
        Ok(Delivery {
            id: id.ok_or(Refused::Nameless { what: "delivery id" })?.to_owned(),
            event: event.ok_or(Refused::Nameless { what: "event name" })?.to_owned(),
        })
    };
    match kind {
        ForgeKind::Github => named(&["x-github-delivery"], &["x-github-event"]),
        ForgeKind::Gitlab => {
            let named = named(&["webhook-id", "idempotency-key", "x-gitlab-event-uuid"], &["x-gitlab-event"]);
            match (named, one(headers, "x-gitlab-event")) {
                // An older GitLab has no id; it is then known by its content.
                (Err(Refused::Nameless { what: "delivery id" }), Some(event)) => {
                    Ok(Delivery { id: digest(body), event: event.chars().take(MAX_ID).collect() })
                }
                (named, _) => named,
            }
        }
        ForgeKind::Gitea => named(&["x-gitea-delivery"], &["x-gitea-event"]),
        ForgeKind::Forgejo => {
            named(&["x-forgejo-delivery", "x-gitea-delivery"], &["x-forgejo-event", "x-gitea-event"])
        }
        ForgeKind::Bitbucket => named(&["x-request-uuid"], &["x-event-key"]),
        ForgeKind::Generic => generic::delivery(body),
    }
}

/// What a webhook tells, whose signature was verified.
///
/// # Errors
/// [`Refused::BadBody`].
pub fn read(kind: ForgeKind, event: &str, body: &[u8]) -> Result<Told, Refused> {
    let told = match kind {
        ForgeKind::Github => github::read(event, body)?,
        ForgeKind::Gitea | ForgeKind::Forgejo => github::read_gitea(event, body)?,
        ForgeKind::Gitlab => gitlab::read(event, body)?,
        ForgeKind::Bitbucket => bitbucket::read(event, body)?,
        ForgeKind::Generic => generic::read(body)?,
    };
    match &told {
        Told::Moved { changes, .. } if changes.len() > MAX_CHANGES => {
            Err(Refused::BadBody(format!("it tells more than {MAX_CHANGES} changes")))
        }
        _ => Ok(told),
    }
}

/// Whether what a webhook is about is the connected repository: by the forge's id where both are known, so that a
/// renamed repository stays the same and one that took its old name is another; by the name else.
///
/// # Errors
/// [`Refused::OtherRepository`].
pub fn same_repository(
    told: &RemoteIdentity,
    connected_id: Option<&str>,
    connected_name: &str,
) -> Result<(), Refused> {
    let same = match (&told.id, connected_id, &told.full_name) {
        (Some(told), Some(connected), _) => told == connected,
        (_, _, Some(name)) => name.trim_matches('/').eq_ignore_ascii_case(connected_name),
        _ => false,
    };
    if same {
        return Ok(());
    }
    let told = told.full_name.as_deref().or(told.id.as_deref()).unwrap_or("no repository");
    Err(Refused::OtherRepository {
        told: told.chars().take(200).collect(),
        connected: connected_name.to_owned(),
    })
}

/// Whether a signed time is near enough.
fn fresh(signed: i64, now: Timestamp) -> Result<(), Refused> {
    /// How far the clocks may be apart, and a message be under way, in seconds.
    const WINDOW: i64 = 300;
    let seconds = (now.0 / 1_000_000).saturating_sub(signed);
    if seconds.abs() <= WINDOW { Ok(()) } else { Err(Refused::Stale { seconds }) }
}

/// A header that is there exactly once.
fn one<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

/// SHA-256 of a body in hex.
#[must_use]
pub fn digest(body: &[u8]) -> String {
    use sha2::Digest;
    hex::encode(sha2::Sha256::digest(body))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    // serde's words quote what was there; a body is shown to nobody.
    serde_json::from_slice(body).map_err(|e| {
        Refused::BadBody(format!("line {}, column {}, is not what is documented", e.line(), e.column()))
    })
}

fn bad(what: &str) -> Refused {
    Refused::BadBody(what.to_owned())
}

/// A commit id; none for the forges' way to say that there is none: only zeros.
fn commit(text: Option<&str>) -> Result<Option<String>, Refused> {
    match text {
        None | Some("") => Ok(None),
        Some(text) if text.bytes().all(|b| b == b'0') => Ok(None),
        Some(text) => CommitSha::parse(text)
            .map(|sha| Some(sha.as_str().to_owned()))
            .map_err(|_| bad("a commit id in it is none")),
    }
}

/// The pull requests in what a forge's API lists of those that are open.
///
/// # Errors
/// When it is no such list.
pub fn open_pulls(kind: ForgeKind, body: &serde_json::Value) -> Result<Vec<GitChange>, Refused> {
    match kind {
        ForgeKind::Gitlab => gitlab::listed(body),
        ForgeKind::Bitbucket => bitbucket::listed(body),
        _ => github::listed(body),
    }
}

fn some_commit(text: Option<&str>) -> Result<String, Refused> {
    commit(text)?.ok_or_else(|| bad("it names no commit"))
}

fn branch(text: &str) -> Result<String, Refused> {
    GitRef::parse(text).map(String::from).map_err(|_| bad("a branch or tag in it has an impossible name"))
}

/// Where a fork can be fetched, if its address is one that Berth accepts.
fn fork_url(text: Option<&str>) -> Option<String> {
    let (url, credential) = GitUrl::parse(text?, false).ok()?;
    credential.is_none().then(|| url.as_str().to_owned())
}

fn untrusted(text: Option<String>) -> Option<Untrusted> {
    text.filter(|t| !t.is_empty()).map(Untrusted)
}

/// A moved ref (`refs/heads/…`, `refs/tags/…`) as a change; none for refs of other kinds. `tagged` is the commit that
/// a tag leads to, where the sender tells it apart from the tag's own object.
fn moved(
    name: &str,
    before: Option<&str>,
    after: Option<&str>,
    tagged: Option<&str>,
) -> Result<Option<GitChange>, Refused> {
    let after = commit(after)?;
    if let Some(name) = name.strip_prefix("refs/heads/") {
        let branch = branch(name)?;
        return Ok(Some(match after {
            Some(commit_id) => GitChange::Branch { branch, before: commit(before)?, commit: commit_id },
            None => GitChange::BranchDeleted { branch },
        }));
    }
    if let Some(name) = name.strip_prefix("refs/tags/") {
        let tag = branch(name)?;
        return Ok(Some(match after {
            Some(object) => GitChange::Tag { tag, commit: commit(tagged)?.unwrap_or(object) },
            None => GitChange::TagDeleted { tag },
        }));
    }
    Ok(None)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
