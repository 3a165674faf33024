//! How an app's errors find the way to Berth: its DSN, and the path on its own host that takes them from browsers.

use berth_schemas::{DeploymentRef, Problem, issue::ErrorRules};
use berth_store::model::{AppRow, EnvironmentId};

use crate::{attempt::Attempt, pipeline::Inner};

/// Path on every app's host that takes envelopes, so that blockers of third parties do not swallow them.
pub const TUNNEL_PATH: &str = "/_berth/errors";

/// The DSN of an environment: `https://KEY@host/ID`.
#[must_use]
pub fn dsn(control_url: &str, key: &str, environment: EnvironmentId) -> String {
    let (scheme, rest) = control_url.split_once("://").unwrap_or(("https", control_url));
    format!("{scheme}://{key}@{}/{}", rest.trim_end_matches('/'), environment.0)
}

/// What a release is called in its errors, unless the app says otherwise: its commit, or `web@42`.
#[must_use]
pub fn error_release(deployment: &DeploymentRef, commit: Option<&str>) -> String {
    match commit {
        Some(commit) => commit.to_owned(),
        None => format!("{}@{}", deployment.app, deployment.number.unwrap_or_default()),
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
        Ok(rules.inject_dsn.then(|| dsn(url, &self.store.ingest_key(environment), environment)))
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
