//! The repository of an app on a forge: how it is connected, how Berth hears of pushes, what the forge is told.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AppSlug, Problem, Timestamp, Untrusted};

/// What kind of forge a repository is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum ForgeKind {
    /// GitHub, also GitHub Enterprise Server.
    Github,
    /// GitLab, also self-managed.
    Gitlab,
    /// Gitea.
    Gitea,
    /// Forgejo, such as Codeberg.
    Forgejo,
    /// Bitbucket Cloud.
    Bitbucket,
    /// Any other git host; pushes are told by a small signed message or found by asking.
    Generic,
}

impl ForgeKind {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Github, Self::Gitlab, Self::Gitea, Self::Forgejo, Self::Bitbucket, Self::Generic];

    /// Its name on the wire and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Github => "github",
            Self::Gitlab => "gitlab",
            Self::Gitea => "gitea",
            Self::Forgejo => "forgejo",
            Self::Bitbucket => "bitbucket",
            Self::Generic => "generic",
        }
    }

    /// The kind with this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.as_str() == text)
    }

    /// Its name for people.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Github => "GitHub",
            Self::Gitlab => "GitLab",
            Self::Gitea => "Gitea",
            Self::Forgejo => "Forgejo",
            Self::Bitbucket => "Bitbucket",
            Self::Generic => "the git host",
        }
    }
}

/// How Berth proves to the forge who it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum RepositoryAuth {
    /// Not at all: a public repository.
    #[default]
    None,
    /// By an access token.
    Token,
    /// By an SSH key that Berth makes; its public part is added to the repository.
    DeployKey,
    /// As an installation of a GitHub App.
    GithubApp,
}

impl RepositoryAuth {
    /// Every way.
    pub const ALL: [Self; 4] = [Self::None, Self::Token, Self::DeployKey, Self::GithubApp];

    /// Its name on the wire and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Token => "token",
            Self::DeployKey => "deploy_key",
            Self::GithubApp => "github_app",
        }
    }

    /// The way with this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.as_str() == text)
    }
}

/// A GitHub App whose installation may read the repository.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GithubApp {
    /// The app's id or client id, as its settings page shows it.
    pub app_id: String,
    /// The app's private key: the PEM file that GitHub gave.
    pub private_key: String,
    /// The installation; found by the repository if left out.
    #[serde(default)]
    pub installation_id: Option<i64>,
}

impl std::fmt::Debug for GithubApp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GithubApp").field("app_id", &self.app_id).finish_non_exhaustive()
    }
}

/// Input of `repository_connect`.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RepositoryConnect {
    /// The app's name.
    pub app: AppSlug,
    /// The repository: https://host/owner/name or git@host:owner/name.
    pub git_url: String,
    /// What kind of forge it is on; needed where the host's name does not tell.
    #[serde(default)]
    pub forge: Option<ForgeKind>,
    /// The branch that goes to production. Default: the repository's default branch.
    #[serde(default)]
    pub branch: Option<String>,
    /// How Berth proves who it is. Default: token if one is given, none else.
    #[serde(default)]
    pub auth: Option<RepositoryAuth>,
    /// An access token that may read the repository; if it may also manage webhooks and commit statuses, Berth does
    /// the rest by itself.
    #[serde(default)]
    pub access_token: Option<String>,
    /// The user that the token belongs to, where the forge wants one (Bitbucket app passwords).
    #[serde(default)]
    pub username: Option<String>,
    /// The GitHub App, for auth=github_app.
    #[serde(default)]
    pub github_app: Option<GithubApp>,
    /// Ask the forge for new commits every so many minutes, in case a webhook is missed; 0 never. Default 5.
    #[schemars(range(min = 0, max = 1440))]
    #[serde(default)]
    pub poll_minutes: Option<u32>,
    /// Tell the forge how deployments go, where the credentials allow. Default true.
    #[serde(default)]
    pub report: Option<bool>,
}

impl std::fmt::Debug for RepositoryConnect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RepositoryConnect")
            .field("app", &self.app)
            .field("forge", &self.forge)
            .field("auth", &self.auth)
            .finish_non_exhaustive()
    }
}

/// Output of `repository_connect` and `webhook_rotate`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RepositoryConnected {
    /// The repository as it is connected now.
    pub repository: Repository,
    /// The webhook.
    pub webhook: WebhookSetup,
    /// The public key to add to the repository as a deploy key with read access.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// What is left to do, in order; empty when nothing is.
    pub steps: Vec<String>,
    /// What the forge did not allow, as far as it said why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

/// What the forge must know to tell Berth of pushes.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WebhookSetup {
    /// Whether Berth registered it at the forge.
    pub registered: bool,
    /// Where the forge is to send.
    pub payload_url: String,
    /// The content type to choose.
    pub content_type: String,
    /// The secret to paste. Shown this once, to a token with the scope secrets, when the webhook is not registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// The events to choose, as the forge calls them.
    pub events: Vec<String>,
    /// The page of the forge where webhooks are set up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<String>,
}

impl std::fmt::Debug for WebhookSetup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebhookSetup")
            .field("registered", &self.registered)
            .field("payload_url", &self.payload_url)
            .finish_non_exhaustive()
    }
}

/// A webhook that came in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeliveryShown {
    /// When.
    pub at: Timestamp,
    /// What the forge called it.
    pub event: Untrusted,
    /// What became of it.
    pub outcome: Untrusted,
}

/// How asking the forge goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PollShown {
    /// Minutes between two looks; 0: never.
    pub every_minutes: i64,
    /// The last look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_at: Option<Timestamp>,
    /// The next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
    /// Looks that failed in a row.
    pub failures: i64,
    /// Why the last one failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// A connected repository.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Repository {
    /// The app.
    pub app: AppSlug,
    /// Its URL, without credentials.
    pub url: String,
    /// What kind of forge it is on.
    pub forge: ForgeKind,
    /// Owner and name, as the forge writes it.
    pub full_name: String,
    /// The branch that goes to production, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-untrusted" = true))]
    pub branch: Option<String>,
    /// How Berth proves who it is.
    pub auth: RepositoryAuth,
    /// Whether Berth registered the webhook itself.
    pub webhook_registered: bool,
    /// Where the forge sends its webhooks.
    pub payload_url: String,
    /// Keys of the host that are trusted for SSH, as fingerprints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-detail" = true))]
    pub host_keys: Vec<String>,
    /// The last webhook that was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_delivery: Option<DeliveryShown>,
    /// The last webhook that was refused: when, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_refusal: Option<DeliveryShown>,
    /// How asking goes.
    pub poll: PollShown,
    /// Whether the forge is told how deployments go.
    pub report: bool,
    /// Why the last report did not arrive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_problem: Option<Problem>,
    /// When it was connected.
    #[schemars(extend("x-detail" = true))]
    pub connected_at: Timestamp,
    /// By whom.
    #[schemars(extend("x-detail" = true))]
    pub connected_by: String,
}

/// Input of `repository_get` and `repository_key`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RepositoryGet {
    /// The app's name.
    pub app: AppSlug,
}

/// Output of `repository_get`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RepositoryDetail {
    /// The repository.
    #[serde(flatten)]
    pub repository: Repository,
    /// What to do next.
    pub next: String,
}

/// Output of `repository_key`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RepositoryKey {
    /// The public key in OpenSSH's form, to add to the repository as a deploy key.
    pub public_key: String,
    /// Its fingerprint.
    pub fingerprint: String,
    /// The page of the forge where deploy keys are added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<String>,
}

/// Input of `repository_disconnect`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RepositoryDisconnect {
    /// The app's name.
    pub app: AppSlug,
    /// Must equal the app's name.
    #[serde(default)]
    pub confirm: Option<String>,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// Output of `repository_disconnect`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RepositoryDisconnected {
    /// Whether it was done.
    pub done: bool,
    /// What was done, or would be.
    pub effects: Vec<String>,
    /// What the forge did not allow, as far as it said why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

/// Input of `webhook_rotate`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookRotate {
    /// The app's name.
    pub app: AppSlug,
}
