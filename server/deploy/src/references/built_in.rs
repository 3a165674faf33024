//! What Berth itself tells every process, and what variables may refer to besides each other.

use std::collections::BTreeMap;

use berth_schemas::{AppSlug, DeploymentRef, EnvironmentName, VariableName};
use berth_store::model::{AppRow, DeploymentSource};

use crate::{config::Addresses, source::git::CommitSha};

/// The variables that Berth gives, with the values that are known.
#[derive(Debug, Clone)]
pub struct BuiltIns(BTreeMap<&'static str, Option<String>>);

impl BuiltIns {
    /// Those of an app in its environment; those of a deployment are named, but not known yet.
    #[must_use]
    pub fn of(app: &AppRow, addresses: &Addresses) -> Self {
        Self::named(&app.slug, &app.environment.name, addresses.url_of(app))
    }

    pub(super) fn named(app: &AppSlug, environment: &EnvironmentName, url: String) -> Self {
        Self(BTreeMap::from([
            ("BERTH_APP", Some(app.to_string())),
            ("BERTH_ENVIRONMENT", Some(environment.to_string())),
            ("BERTH_URL", Some(url)),
            ("BERTH_BRANCH", None),
            ("BERTH_COMMIT", None),
            ("BERTH_DEPLOYMENT", None),
            ("BERTH_RELEASE", None),
        ]))
    }

    /// With those of a deployment; empty where a source has no commit or branch.
    pub(crate) fn deployed(
        mut self,
        deployment: &DeploymentRef,
        commit: Option<&str>,
        branch: Option<&str>,
    ) -> Self {
        self.0.insert("BERTH_BRANCH", Some(branch.unwrap_or_default().to_owned()));
        self.0.insert("BERTH_COMMIT", Some(commit.unwrap_or_default().to_owned()));
        self.0.insert("BERTH_DEPLOYMENT", Some(deployment.to_string()));
        self.0.insert("BERTH_RELEASE", Some(deployment.number.unwrap_or_default().to_string()));
        self
    }

    /// None where there is none of this name, Some(None) where its value is not known yet.
    pub(super) fn get(&self, name: &VariableName) -> Option<Option<&str>> {
        self.0.get(name.as_str()).map(Option::as_deref)
    }

    /// Those whose values are known.
    pub(crate) fn known(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?)))
    }
}

/// The branch or tag that a source was taken from, where it is known.
pub(crate) fn branch_of(source: &DeploymentSource) -> Option<&str> {
    match source {
        DeploymentSource::Git { git_ref, .. } => {
            git_ref.as_deref().filter(|name| CommitSha::parse(name).is_err())
        }
        DeploymentSource::Pushed { git_ref, .. } => Some(git_ref),
        _ => None,
    }
}
