//! How an app's errors find the way to Berth: its DSN, and the path on its own host that takes them from browsers.

use berth_observe::errors::auth::{self, PublicKey};
pub use berth_schemas::issue::error_release;
use berth_schemas::{DeploymentRef, Problem, issue::ErrorRules};
use berth_store::{
    StoreError,
    model::{AppRow, Artifact, EnvironmentId, ReleaseRow},
};

use crate::{
    attempt::Attempt,
    pipeline::{Inner, Pipeline},
};

/// Path on every app's host that takes envelopes, so that blockers of third parties do not swallow them.
pub const TUNNEL_PATH: &str = "/_berth/errors";

/// The variable by which clients are told their DSN.
pub(crate) const DSN_VARIABLE: &str = "SENTRY_DSN";

/// Deployments whose names are compared with that of the newest release that the tracker knows.
const RECENT: i64 = 50;

/// The key that containers were told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToldKey {
    /// The deployment that made their release.
    pub deployment: DeploymentRef,
    /// The key.
    pub key: PublicKey,
    /// Whether a variable of the app's own says it, and not Berth.
    pub by_variable: bool,
}

/// The DSN of an environment: `https://KEY@host/ID`.
#[must_use]
pub fn dsn(control_url: &str, key: &str, environment: EnvironmentId) -> String {
    let (scheme, rest) = control_url.split_once("://").unwrap_or(("https", control_url));
    format!("{scheme}://{key}@{}/{}", rest.trim_end_matches('/'), environment.0)
}

impl Pipeline {
    /// Whether releases get their DSN: by the app's rules, and only where Berth has an address that they can reach.
    #[must_use]
    pub fn injects_dsn(&self, rules: &ErrorRules) -> bool {
        self.0.config.errors.as_ref().is_some_and(|e| e.public_url.is_some()) && rules.inject_dsn
    }

    /// By which key the release that serves sends its errors: what its containers got as `SENTRY_DSN`. None where nothing
    /// was told, or where they go elsewhere.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn key_told(&self, app: &AppRow) -> Result<Option<ToldKey>, Problem> {
        let releases = self.0.store.releases();
        let Some(live) = app.environment.live else { return Ok(None) };
        let Some(release) = releases.get(live).await? else { return Ok(None) };
        if !matches!(release.artifact, Artifact::Image { .. }) {
            return Ok(None);
        }
        let snapshot = releases.variables(live).await?;
        let own = snapshot.variables.iter().find(|v| v.name.as_str() == DSN_VARIABLE).map(|v| &v.value);
        let told = own.or(snapshot.dsn.as_ref()).and_then(|dsn| auth::in_dsn(dsn));
        let here = told.filter(|(_, environment)| *environment == app.environment.id.0);
        Ok(here.map(|(key, _)| ToldKey {
            deployment: DeploymentRef::new(app.slug.clone(), release.number),
            key,
            by_variable: own.is_some(),
        }))
    }
}

impl Inner {
    /// The DSN that a release gets, if it is to get one and can use it.
    pub(crate) async fn dsn_for(&self, attempt: &Attempt) -> Result<Option<String>, Problem> {
        let Some(url) = self.config.errors.as_ref().and_then(|e| e.public_url.as_deref()) else {
            return Ok(None);
        };
        let app: &AppRow = &attempt.app;
        let rules: ErrorRules = self.store.errors().settings(app.id).await?.unwrap_or_default();
        let environment = app.environment.id;
        if !rules.inject_dsn {
            return Ok(None);
        }
        let keys = self.store.errors().keys(environment).await?;
        Ok(Some(dsn(url, &keys.current.key, environment)))
    }
}

impl Inner {
    /// Lets the tracker know a release of production before its first error does, as a release without errors is one,
    /// too. Not for an app that names its releases itself: their order is that in which they were seen.
    pub(crate) async fn announce(&self, app: &AppRow, release: &ReleaseRow) {
        if !app.is_production() {
            return;
        }
        let done: Result<(), StoreError> = async {
            let errors = self.store.errors();
            let name = |number, commit: &Option<String>| {
                error_release(&DeploymentRef::new(app.slug.clone(), number), commit.as_deref())
            };
            if let Some(newest) = errors.releases(app.id, 1).await?.first() {
                let recent = self.store.deployments().list(app.id, None, None, RECENT).await?;
                let ours = recent.iter().any(|d| name(d.number, &d.commit) == newest.name);
                if !ours {
                    return Ok(());
                }
            }
            errors.add_release(app.id, &name(release.number, &release.commit), None, true).await.map(drop)
        }
        .await;
        if let Err(error) = done {
            tracing::warn!(%error, app = %app.slug, "the release is known to the error tracker from its first error on");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dsn_is_what_clients_read() {
        assert_eq!(dsn("https://berth.example.com/", "k", EnvironmentId(7)), "https://k@berth.example.com/7");
        assert_eq!(dsn("http://127.0.0.1:7700", "k", EnvironmentId(7)), "http://k@127.0.0.1:7700/7");
    }
}
