//! What happened in a git repository: a branch, tag or pull request moved. The same whether it was pushed to Berth
//! itself, told by a forge's webhook or found by asking the forge.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Untrusted;

/// How Berth came to know of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum PushOrigin {
    /// It was pushed to Berth's own repository of the app.
    Berth,
    /// A forge sent a webhook.
    Webhook,
    /// Berth asked the forge.
    Poll,
}

impl PushOrigin {
    /// Its name on the wire and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Berth => "berth",
            Self::Webhook => "webhook",
            Self::Poll => "poll",
        }
    }

    /// The origin with this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Berth, Self::Webhook, Self::Poll].into_iter().find(|o| o.as_str() == text)
    }
}

/// What moved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum GitChange {
    /// A branch has a new head.
    Branch {
        /// Its name, without `refs/heads/`.
        branch: String,
        /// The commit it pointed to; none for a new branch or where that is not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<String>,
        /// The commit it points to now (40 or 64 hexadecimal digits).
        commit: String,
    },
    /// A branch is gone.
    BranchDeleted {
        /// Its name.
        branch: String,
    },
    /// A tag was set.
    Tag {
        /// Its name, without `refs/tags/`.
        tag: String,
        /// The commit it leads to.
        commit: String,
    },
    /// A tag is gone.
    TagDeleted {
        /// Its name.
        tag: String,
    },
    /// A pull request (GitLab: merge request) was opened, reopened or has a new head.
    Pull {
        /// Its number in the repository that it asks to change.
        number: i64,
        /// The branch that it brings.
        branch: String,
        /// The branch that it wants to change.
        base: String,
        /// Its head commit.
        commit: String,
        /// It comes from another repository: it gets no secrets and waits for approval.
        fork: bool,
        /// Where its head can be fetched, if that is not the app's own repository.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        head_url: Option<String>,
        /// Its title.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        title: Option<Untrusted>,
    },
    /// A pull request was merged or closed.
    PullClosed {
        /// Its number.
        number: i64,
        /// Whether it was merged.
        merged: bool,
    },
}

/// What is known of the commits that a change brings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GitCommits {
    /// Message of the head commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<Untrusted>,
    /// Author of the head commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<Untrusted>,
    /// Who pushed, as the forge or the token names him.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pusher: Option<Untrusted>,
    /// Paths that the commits touch; none where the sender did not tell all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<String>>,
}
