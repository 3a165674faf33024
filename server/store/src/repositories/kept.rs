//! Repositories as they are kept, and their secrets.

use std::collections::BTreeMap;

use berth_schemas::{
    AppSlug, Problem, Timestamp,
    repository::{DeliveryShown, ForgeKind, RepositoryAuth},
};
use serde::{Deserialize, Serialize};
use sqlx::{Row, any::AnyRow};

use crate::{
    error::Result,
    model::{AppId, ProjectId},
    row,
};

/// What [`from_row`] reads.
pub(super) const SELECT: &str = "SELECT r.id, r.app_id, a.slug AS app, a.project_id, r.url, r.forge, r.full_name, r.remote_id,
    r.branch, r.auth, r.credentials, r.public_key, r.secret, r.forge_hook, r.report, r.report_problem,
    r.poll_minutes, r.poll_at, r.polled_at, r.poll_failures, r.poll_problem, r.seen, r.last_delivery, r.last_refusal,
    r.created_at, r.created_by FROM repositories r JOIN apps a ON a.id = r.app_id";

/// Who Berth is towards a forge. Never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Credentials {
    /// Nobody.
    None,
    /// The bearer of a token.
    Token {
        /// Whose it is, where the forge wants to know.
        user: Option<String>,
        /// The token.
        token: String,
    },
    /// The holder of a key.
    DeployKey {
        /// In OpenSSH's text form.
        private_key: String,
    },
    /// An installation of a GitHub App.
    GithubApp {
        /// The app's id.
        app_id: String,
        /// Its key, as PEM.
        private_key: String,
        /// The installation.
        installation_id: i64,
    },
}

impl Credentials {
    /// Which way it is.
    #[must_use]
    pub fn auth(&self) -> RepositoryAuth {
        match self {
            Self::None => RepositoryAuth::None,
            Self::Token { .. } => RepositoryAuth::Token,
            Self::DeployKey { .. } => RepositoryAuth::DeployKey,
            Self::GithubApp { .. } => RepositoryAuth::GithubApp,
        }
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({})", self.auth().as_str())
    }
}

/// A repository to be connected.
#[derive(Debug, Clone)]
pub struct NewRepository {
    /// Its URL, without credentials.
    pub url: String,
    /// What kind of forge it is on.
    pub forge: ForgeKind,
    /// Owner and name.
    pub full_name: String,
    /// The branch that goes to production, if it is known.
    pub branch: Option<String>,
    /// Who Berth is there.
    pub credentials: Credentials,
    /// The public part of a deploy key.
    pub public_key: Option<String>,
    /// The webhook's secret, if there is none yet.
    pub secret: String,
    /// Tell the forge how deployments go.
    pub report: bool,
    /// Minutes between two looks; 0: none.
    pub poll_minutes: i64,
}

/// A connected repository. Its secrets are opened by [`super::Repositories::secrets`].
#[derive(Debug, Clone, PartialEq)]
pub struct RepositoryRow {
    /// Its id, part of the webhook's URL.
    pub id: String,
    /// The app.
    pub app_id: AppId,
    /// Name of the app.
    pub app: AppSlug,
    /// The app's project.
    pub project_id: ProjectId,
    /// Its URL, without credentials.
    pub url: String,
    /// What kind of forge it is on.
    pub forge: ForgeKind,
    /// Owner and name.
    pub full_name: String,
    /// The forge's own id of it, once a signed message told it.
    pub remote_id: Option<String>,
    /// The branch that goes to production, once it is known.
    pub branch: Option<String>,
    /// How Berth proves who it is.
    pub auth: RepositoryAuth,
    /// The public part of a deploy key.
    pub public_key: Option<String>,
    /// The forge's id of the webhook that Berth registered.
    pub forge_hook: Option<String>,
    /// Tell the forge how deployments go.
    pub report: bool,
    /// Why the last report did not arrive.
    pub report_problem: Option<Problem>,
    /// Minutes between two looks; 0: none.
    pub poll_minutes: i64,
    /// When it is looked at next.
    pub poll_at: Timestamp,
    /// When it was looked at last.
    pub polled_at: Option<Timestamp>,
    /// Looks that failed in a row.
    pub poll_failures: i64,
    /// Why the last one failed.
    pub poll_problem: Option<Problem>,
    /// What each branch and tag pointed to at the last look.
    pub seen: Option<BTreeMap<String, String>>,
    /// The last webhook that was accepted.
    pub last_delivery: Option<DeliveryShown>,
    /// The last one that was refused.
    pub last_refusal: Option<DeliveryShown>,
    /// When it was connected.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: String,
    pub(super) sealed: Sealed,
}

/// Its secrets, as they are kept.
#[derive(Clone, PartialEq)]
pub(super) struct Sealed {
    pub(super) credentials: String,
    pub(super) secret: String,
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealed(…)")
    }
}

/// The secrets of a repository, opened.
#[derive(Debug, Clone)]
pub struct RepositorySecrets {
    /// Who Berth is at the forge.
    pub credentials: Credentials,
    /// What the forge signs with.
    pub webhook: WebhookSecret,
}

/// What a forge signs its webhooks with. Never shown, but once.
#[derive(Clone)]
pub struct WebhookSecret(pub String);

impl std::fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WebhookSecret(…)")
    }
}

/// What is learnt about a repository from what its forge tells. None leaves things as they are.
#[derive(Debug, Clone, Default)]
pub struct Learnt {
    /// The forge's own id of it.
    pub remote_id: Option<String>,
    /// Its default branch, where none was configured.
    pub branch: Option<String>,
}

pub(super) fn from_row(r: &AnyRow) -> Result<RepositoryRow> {
    Ok(RepositoryRow {
        id: r.try_get("id")?,
        app_id: AppId(r.try_get("app_id")?),
        app: row::name(r, "apps", "app")?,
        project_id: ProjectId(r.try_get("project_id")?),
        url: r.try_get("url")?,
        forge: row::word(r, "repositories", "forge", ForgeKind::parse)?,
        full_name: r.try_get("full_name")?,
        remote_id: r.try_get("remote_id")?,
        branch: r.try_get("branch")?,
        auth: row::word(r, "repositories", "auth", RepositoryAuth::parse)?,
        public_key: r.try_get("public_key")?,
        forge_hook: r.try_get("forge_hook")?,
        report: row::flag(r, "report")?,
        report_problem: row::problem(r, "repositories", "report_problem")?,
        poll_minutes: r.try_get("poll_minutes")?,
        poll_at: row::time(r, "poll_at")?,
        polled_at: row::time_opt(r, "polled_at")?,
        poll_failures: r.try_get("poll_failures")?,
        poll_problem: row::problem(r, "repositories", "poll_problem")?,
        seen: row::json_opt(r, "repositories", "seen")?,
        last_delivery: row::json_opt(r, "repositories", "last_delivery")?,
        last_refusal: row::json_opt(r, "repositories", "last_refusal")?,
        created_at: row::time(r, "created_at")?,
        created_by: r.try_get("created_by")?,
        sealed: Sealed { credentials: r.try_get("credentials")?, secret: r.try_get("secret")? },
    })
}
