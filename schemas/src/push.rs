//! What happened in a git repository: a branch, tag or pull request moved. The same whether it was pushed to Berth
//! itself, told by a forge's webhook or found by asking the forge.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AppSlug, DeploymentRef, EnvironmentName, Timestamp, Untrusted};

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
        #[schemars(extend("x-untrusted" = true))]
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
        #[schemars(extend("x-untrusted" = true))]
        branch: String,
    },
    /// A tag was set.
    Tag {
        /// Its name, without `refs/tags/`.
        #[schemars(extend("x-untrusted" = true))]
        tag: String,
        /// The commit it leads to.
        commit: String,
    },
    /// A tag is gone.
    TagDeleted {
        /// Its name.
        #[schemars(extend("x-untrusted" = true))]
        tag: String,
    },
    /// A pull request (GitLab: merge request) was opened, reopened or has a new head.
    Pull {
        /// Its number in the repository that it asks to change.
        number: i64,
        /// The branch that it brings.
        #[schemars(extend("x-untrusted" = true))]
        branch: String,
        /// The branch that it wants to change.
        #[schemars(extend("x-untrusted" = true))]
        base: String,
        /// Its head commit.
        commit: String,
        /// It comes from another repository: it gets no secrets and waits for approval.
        fork: bool,
        /// Where its head can be fetched, if that is not the app's own repository.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(extend("x-untrusted" = true))]
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

impl GitChange {
    /// How the names of pull requests begin, among those of refs.
    pub const PULLS: &'static str = "refs/pull/";

    /// The full name of what moved: of a pull request its number, because its branch may be another repository's.
    #[must_use]
    pub fn moved(&self) -> String {
        match self {
            Self::Branch { branch, .. } | Self::BranchDeleted { branch } => format!("refs/heads/{branch}"),
            Self::Tag { tag, .. } | Self::TagDeleted { tag } => format!("refs/tags/{tag}"),
            Self::Pull { number, .. } | Self::PullClosed { number, .. } => {
                format!("{}{number}", Self::PULLS)
            }
        }
    }

    /// Where it moved to; what is gone leads to "-".
    #[must_use]
    pub fn towards(&self) -> String {
        match self {
            Self::Branch { commit, .. } | Self::Tag { commit, .. } => commit.clone(),
            // Aimed at another branch it may deploy otherwise.
            Self::Pull { commit, base, .. } => format!("{commit} {base}"),
            Self::BranchDeleted { .. } | Self::TagDeleted { .. } | Self::PullClosed { .. } => "-".into(),
        }
    }
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

/// Where a push stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum PushState {
    /// It is kept, and what it leads to is not decided yet.
    Received,
    /// It led to what `outcome` says.
    Handled,
    /// It leads to nothing; `outcome` says by which rule.
    Ignored,
    /// A newer push of the same branch came before its turn.
    Superseded,
    /// What it should have led to was refused; `outcome` says why.
    Failed,
    /// Its deployment failed, and the app wants such pushes refused: the branch did not move.
    Refused,
}

impl PushState {
    /// Every state.
    pub const ALL: [Self; 6] =
        [Self::Received, Self::Handled, Self::Ignored, Self::Superseded, Self::Failed, Self::Refused];

    /// Its name on the wire and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Handled => "handled",
            Self::Ignored => "ignored",
            Self::Superseded => "superseded",
            Self::Failed => "failed",
            Self::Refused => "refused",
        }
    }

    /// The state with this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }

    /// Whether a push may go from this state to `next`. The one place that knows the life of a push.
    #[must_use]
    pub fn can_become(self, next: Self) -> bool {
        use PushState as S;
        match self {
            S::Received => next != S::Received,
            // Back by push_retry: from here only when no deployment of it came or will come to be live.
            S::Handled => matches!(next, S::Received | S::Refused),
            S::Failed => next == S::Received,
            S::Ignored => matches!(next, S::Received | S::Refused),
            S::Superseded | S::Refused => false,
        }
    }
}

/// What the result of a `git push` to Berth is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum PushResult {
    /// The push ends when it is stored; the deployment goes on behind.
    Accept,
    /// The build is shown in the pusher's terminal and its end is told; the branch has moved either way.
    #[default]
    Follow,
    /// As follow, but the branch only moves when the deployment is live: else the push is refused.
    Strict,
}

/// Which pushes to an app deploy, and how; what is fetched with its repository. A field that is absent has its default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PushRules {
    /// A push deploys only if it touches one of these paths: patterns as in .gitignore, the last that fits counts,
    /// ! excludes. Default: all. For an app in a folder of its repository, that folder. What a pull request or a new
    /// branch touches is not known: these deploy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watch_paths: Option<Vec<String>>,
    /// Tags that deploy to production when they are pushed: patterns such as v*, ! excludes. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deploy_tags: Option<Vec<String>>,
    /// What the result of a `git push` to Berth is. accept: it ends when the push is stored. follow: it shows the build
    /// and its end, and the branch has moved either way. strict: as follow, but a push whose deployment fails is refused,
    /// and the branch does not move. Default: follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<PushResult>,
    /// Fetch the repository's submodules, too, at the commits that it records. Default: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub submodules: Option<bool>,
    /// Fetch the files that Git LFS keeps, instead of what points to them. Default: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lfs: Option<bool>,
}

/// Input of `push_rules_get`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PushRulesGet {
    /// The app's name.
    pub app: AppSlug,
}

/// Input of `push_rules_set`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PushRulesSet {
    /// The app's name.
    pub app: AppSlug,
    /// Rules to change; those not named stay.
    #[serde(default)]
    pub rules: PushRules,
    /// Names of rules to set back to their default.
    #[serde(default)]
    pub unset: Vec<String>,
}

/// Output of `push_rules_get` and `push_rules_set`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PushRulesShown {
    /// The app.
    pub app: AppSlug,
    /// The rules as they are now.
    pub rules: PushRules,
    /// What they mean for the next push.
    pub effect: String,
}

/// What the pusher asked for with `git push -o`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PushWishes {
    /// Store it, but deploy nothing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub skip: bool,
    /// Deploy it whatever marks and path filters say.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Build without the cache of earlier builds.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_cache: bool,
    /// Deploy to this environment, whichever branch it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<EnvironmentName>,
}

/// A push as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PushShown {
    /// Its number.
    pub push: i64,
    /// The app.
    pub app: AppSlug,
    /// Where it stands.
    pub state: PushState,
    /// How Berth came to know of it.
    pub origin: PushOrigin,
    /// What moved.
    pub change: GitChange,
    /// First line of the head commit's message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Untrusted>,
    /// Who pushed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pusher: Option<Untrusted>,
    /// Why it did or did not deploy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Untrusted>,
    /// The deployments that it led to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deployments: Vec<DeploymentRef>,
    /// When it came.
    pub received_at: Timestamp,
    /// When that was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled_at: Option<Timestamp>,
}

/// Input of `push_list`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PushList {
    /// The app's name.
    pub app: AppSlug,
    /// Only pushes in this state.
    #[serde(default)]
    pub state: Option<PushState>,
    /// Page size, 1 to 100. Default 20.
    #[schemars(range(min = 1, max = 100))]
    #[serde(default)]
    pub limit: Option<u32>,
    /// Cursor of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
}

/// Output of `push_list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PushPage {
    /// The pushes, newest first.
    pub pushes: Vec<PushShown>,
    /// Pass as `cursor` for the next page; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Input of `push_get`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PushGet {
    /// The app's name.
    pub app: AppSlug,
    /// The push's number.
    pub push: i64,
}

/// Input of `push_retry`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PushRetry {
    /// The app's name.
    pub app: AppSlug,
    /// The push's number.
    pub push: i64,
}

/// A push in full.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PushDetail {
    /// The push.
    pub push: PushShown,
    /// Author of the head commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<Untrusted>,
    /// Paths that its commits touch, the first hundred; absent where the sender did not tell all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<Untrusted>>,
    /// What the pusher asked for.
    pub wishes: PushWishes,
    /// How often deciding was tried in vain.
    pub attempts: i64,
    /// What to do next.
    pub next: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_comes_to_an_end_and_only_a_retry_takes_it_back() {
        for from in PushState::ALL {
            assert_eq!(PushState::parse(from.as_str()), Some(from));
            assert!(!from.can_become(from));
            let back = matches!(from, PushState::Ignored | PushState::Failed | PushState::Handled);
            assert_eq!(from.can_become(PushState::Received), back);
        }
        assert!(PushState::Handled.can_become(PushState::Refused));
        assert!(!PushState::Refused.can_become(PushState::Handled));
    }
}
