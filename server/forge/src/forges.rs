//! The forges as the daemon uses them: who Berth is at each, and what it can ask of them.

use std::{collections::HashMap, sync::Mutex};

use async_trait::async_trait;
use berth_deploy::{
    GitAccess, GitAs, PrivateKey,
    source::{
        git::{GitCredential, GitUrl},
        guard::HostPolicy,
    },
};
use berth_schemas::{
    Code, Problem, Timestamp,
    repository::{ForgeKind, WebhookSetup},
};
use berth_store::{Credentials, RepositoryRow, Store, model::AppId};

use crate::{
    api::{Api, ApiAuth, ApiFailure, request},
    key,
    remote::RemoteName,
};

/// A token of an installation is good for an hour; it is not used in its last minutes.
const SPARE_S: i64 = 300;

/// What the daemon's configuration says to this crate.
#[derive(Debug, Clone)]
pub struct ForgeConfig {
    /// URL of the control plane as forges reach it, without a trailing slash.
    pub public_url: String,
    /// Whether forges may be at private addresses.
    pub allow_private: bool,
    /// Whether repositories may be on this machine or be reached without TLS. For tests.
    pub allow_local: bool,
}

/// The forges.
pub struct Forges {
    store: Store,
    config: ForgeConfig,
    /// Tokens of installations, with the time until which they are used.
    installations: Mutex<HashMap<String, (Token, Timestamp)>>,
}

#[derive(Clone)]
struct Token(String);

impl std::fmt::Debug for Forges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forges").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Forges {
    /// Forges for the repositories of a store.
    #[must_use]
    pub fn new(store: Store, config: ForgeConfig) -> Self {
        Self { store, config, installations: Mutex::default() }
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Which hosts may be talked to.
    #[must_use]
    pub fn policy(&self) -> HostPolicy {
        HostPolicy { allow_private: self.config.allow_private, ..HostPolicy::default() }
    }

    /// Parses the URL of a repository as the configuration allows; credentials in it are returned beside.
    ///
    /// # Errors
    /// `InvalidInput`.
    pub fn parse(&self, url: &str) -> Result<(GitUrl, Option<GitCredential>), Problem> {
        GitUrl::parse(url, self.config.allow_local).map_err(|e| {
            let text = e.to_string();
            let mut letters = text.chars();
            let first = letters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
            Problem::invalid("git_url", format!("{first}{}.", letters.as_str()))
        })
    }

    /// Where the forge of a repository sends its webhooks.
    #[must_use]
    pub fn payload_url(&self, repository: &str) -> String {
        format!("{}/hooks/{repository}", self.config.public_url)
    }

    /// The webhook as it is to be set up by hand.
    #[must_use]
    pub fn webhook(&self, row: &RepositoryRow, secret: Option<String>) -> WebhookSetup {
        let name = self.parse(&row.url).ok().map(|(url, _)| RemoteName::of(&url));
        WebhookSetup {
            registered: row.forge_hook.is_some(),
            payload_url: self.payload_url(&row.id),
            content_type: "application/json".into(),
            secret,
            events: request::events(row.forge).iter().map(|e| (*e).to_owned()).collect(),
            page: name.and_then(|name| name.webhooks_page(row.forge)),
        }
    }

    /// The API of a repository's forge, with its credentials; none where there is none, or nothing to prove who
    /// Berth is.
    ///
    /// # Errors
    /// When the credentials cannot be opened, or GitHub gives no token for the app.
    pub async fn api(&self, row: &RepositoryRow) -> Result<Option<Api>, ApiFailure> {
        let lost = |problem: Problem| ApiFailure { problem, transient: false, after: None };
        let (url, _) = self.parse(&row.url).map_err(lost)?;
        let Some(base) = RemoteName::of(&url).api(row.forge) else { return Ok(None) };
        let secrets = self.store.repositories().secrets(row).map_err(|e| lost(e.into()))?;
        let auth = match secrets.credentials {
            Credentials::None | Credentials::DeployKey { .. } => return Ok(None),
            Credentials::Token { user, token } => ApiAuth::Token { user, token },
            Credentials::GithubApp { app_id, private_key, installation_id } => {
                let app = (app_id.as_str(), private_key.as_str());
                let token = self.installation_token(&base, app, installation_id, &row.full_name).await?;
                ApiAuth::Token { user: None, token }
            }
        };
        Ok(Some(self.api_at(row.forge, base, auth)))
    }

    /// An API with given credentials.
    #[must_use]
    pub fn api_at(&self, kind: ForgeKind, base: String, auth: ApiAuth) -> Api {
        Api { kind, base, auth, policy: self.policy() }
    }

    /// Finds the installation of a GitHub App that has the repository.
    ///
    /// # Errors
    /// When the key is none, or the app is not installed there.
    pub async fn find_installation(
        &self,
        base: &str,
        (app_id, private_key): (&str, &str),
        name: &str,
    ) -> Result<i64, Problem> {
        let answer = self.as_app(base, app_id, private_key)?.call(&request::github_installation(name)).await;
        let answer = answer.map_err(|failure| {
            failure
                .problem
                .hint("Install the GitHub App on this repository, and check its id and private key.")
        })?;
        answer["id"].as_i64().ok_or_else(|| Problem::new(Code::Unavailable, "GitHub told no installation."))
    }

    fn as_app(&self, base: &str, app_id: &str, private_key: &str) -> Result<Api, Problem> {
        let token = key::app_token(app_id, private_key, self.store.clock().now())?;
        Ok(self.api_at(ForgeKind::Github, base.to_owned(), ApiAuth::Token { user: None, token }))
    }

    /// A token of an installation, from memory while it is good.
    async fn installation_token(
        &self,
        base: &str,
        (app_id, private_key): (&str, &str),
        installation: i64,
        name: &str,
    ) -> Result<String, ApiFailure> {
        let known = format!("{base} {app_id} {installation} {name}");
        let now = self.store.clock().now();
        if let Some((token, until)) = self.installations().get(&known)
            && *until > now
        {
            return Ok(token.0.clone());
        }
        let lost = |problem| ApiFailure { problem, transient: false, after: None };
        let api = self.as_app(base, app_id, private_key).map_err(lost)?;
        let answer = api.call(&request::github_installation_token(installation, name)).await?;
        let token = answer["token"].as_str().ok_or_else(|| {
            lost(Problem::new(Code::Unavailable, "GitHub's answer for an installation has no token."))
        })?;
        let expires: Option<Timestamp> =
            answer["expires_at"].as_str().and_then(|t| Timestamp::parse_or_ago(t, now).ok());
        let until = expires.map_or(now.0, |t| t.0 - SPARE_S * 1_000_000);
        self.installations().insert(known, (Token(token.to_owned()), Timestamp(until)));
        Ok(token.to_owned())
    }

    fn installations(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Token, Timestamp)>> {
        self.installations.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Who git is towards a repository.
    ///
    /// # Errors
    /// When the credentials cannot be opened or fetched.
    pub async fn git_as(&self, row: &RepositoryRow) -> Result<GitAs, Problem> {
        let secrets = self.store.repositories().secrets(row)?;
        let credential = |user: Option<String>, secret: String| GitAs {
            credential: Some(GitCredential { user, secret }),
            private_key: None,
        };
        Ok(match secrets.credentials {
            Credentials::None => GitAs::default(),
            Credentials::Token { user, token } => credential(user, token),
            Credentials::DeployKey { private_key } => {
                GitAs { credential: None, private_key: Some(PrivateKey(private_key)) }
            }
            Credentials::GithubApp { app_id, private_key, installation_id } => {
                let (url, _) = self.parse(&row.url)?;
                let Some(base) = RemoteName::of(&url).api(row.forge) else { return Ok(GitAs::default()) };
                let app = (app_id.as_str(), private_key.as_str());
                let token = self.installation_token(&base, app, installation_id, &row.full_name).await;
                credential(None, token.map_err(|failure| failure.problem)?)
            }
        })
    }
}

#[async_trait]
impl GitAccess for Forges {
    /// The credentials of the app's connected repository, if that is what is fetched: they go to no other place.
    async fn git_as(&self, app: AppId, url: &GitUrl) -> Result<GitAs, Problem> {
        let Some(row) = self.store.repositories().of_app(app).await? else { return Ok(GitAs::default()) };
        let (connected, _) = self.parse(&row.url)?;
        if same_repository(&connected, url) { Self::git_as(self, &row).await } else { Ok(GitAs::default()) }
    }

    /// The same credentials for other repositories on the same host, as far as they may be meant for them: a key,
    /// which proves something to that host alone; a token for those of the same owner. That of a GitHub App is for the
    /// one repository.
    async fn git_as_submodule(&self, app: AppId, url: &GitUrl) -> Result<GitAs, Problem> {
        let Some(row) = self.store.repositories().of_app(app).await? else { return Ok(GitAs::default()) };
        let (connected, _) = self.parse(&row.url)?;
        if same_repository(&connected, url) {
            return Self::git_as(self, &row).await;
        }
        let meant = match self.store.repositories().secrets(&row)?.credentials {
            Credentials::None | Credentials::GithubApp { .. } => false,
            Credentials::DeployKey { .. } => same_host(&connected, url),
            Credentials::Token { .. } => same_host(&connected, url) && same_owner(&connected, url),
        };
        if meant { Self::git_as(self, &row).await } else { Ok(GitAs::default()) }
    }
}

fn same_host(one: &GitUrl, two: &GitUrl) -> bool {
    one.host() == two.host() && one.port() == two.port() && one.transport() == two.transport()
}

fn same_repository(one: &GitUrl, two: &GitUrl) -> bool {
    let name = |url| RemoteName::of(url).full_name;
    same_host(one, two) && name(one).eq_ignore_ascii_case(&name(two))
}

/// Whether both belong to the same user, organisation or group.
fn same_owner(one: &GitUrl, two: &GitUrl) -> bool {
    let owner = |url| RemoteName::of(url).full_name.split_once('/').map(|(o, _)| o.to_ascii_lowercase());
    owner(one).is_some() && owner(one) == owner(two)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_stay_on_their_host_and_with_their_owner() {
        let url = |text: &str| GitUrl::parse(text, true).unwrap().0;
        let home = url("https://git.example.org/acme/site.git");
        assert!(same_repository(&home, &url("https://git.example.org/Acme/site")));
        assert!(same_owner(&home, &url("https://git.example.org/acme/lib")));
        assert!(!same_owner(&home, &url("https://git.example.org/other/lib")));
        for elsewhere in [
            "https://git.example.com/acme/site",
            "https://git.example.org:8443/acme/site",
            "http://git.example.org:443/acme/site",
            "ssh://git@git.example.org:443/acme/site",
        ] {
            assert!(!same_host(&home, &url(elsewhere)), "{elsewhere}");
        }
    }
}
