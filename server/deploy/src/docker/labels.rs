//! The labels by which Berth knows its own things inside a Docker engine.
//!
//! Everything that is listed, watched, removed or pruned is filtered by the instance label: two daemons that
//! share one engine must never touch each other's containers. The labels also let the boot reconciler tell what
//! a container is for without the store.

use std::collections::BTreeMap;
use std::fmt;

use uuid::Uuid;

/// `true` on everything any Berth daemon made.
pub const MANAGED: &str = "berth.managed";
/// The UUID of the data directory of the daemon that made the object.
pub const INSTANCE: &str = "berth.instance";
/// Slug of the project.
pub const PROJECT: &str = "berth.project";
/// Slug of the app.
pub const APP: &str = "berth.app";
/// Name of the environment.
pub const ENVIRONMENT: &str = "berth.environment";
/// Id of the release.
pub const RELEASE: &str = "berth.release";
/// Number of the deployment.
pub const DEPLOYMENT: &str = "berth.deployment";
/// Index of the replica within its release, from 0.
pub const REPLICA: &str = "berth.replica";

/// Label names and values of one object.
pub type Labels = BTreeMap<String, String>;

/// Identity of one daemon: the UUID of its data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InstanceId(Uuid);

impl InstanceId {
    /// Wraps the UUID of a data directory.
    pub fn new(id: Uuid) -> Self {
        Self(id)
    }

    /// The first eight hex digits, for names that people read.
    pub fn short(&self) -> String {
        self.0.simple().to_string().chars().take(8).collect()
    }

    /// The two labels that every object of this instance carries.
    pub fn labels(&self) -> Labels {
        Labels::from([(MANAGED.to_owned(), "true".to_owned()), (INSTANCE.to_owned(), self.to_string())])
    }

    /// Whether these labels say that the object belongs to this instance.
    pub fn owns(&self, labels: &Labels) -> bool {
        labels.get(INSTANCE).is_some_and(|value| *value == self.to_string())
    }

    /// The `label=` filter of the Docker API that selects this instance's objects.
    pub fn filter(&self) -> String {
        format!("{INSTANCE}={self}")
    }

    /// Image name of build `number` of `app`: `berth/<app>:<instance8>-<number>`. `app` must be unique within the
    /// instance (join project and app with `/` or `-` where slugs are unique per project only).
    pub fn image_tag(&self, app: &str, number: i64) -> String {
        format!("berth/{}:{}-{number}", app.to_ascii_lowercase(), self.short())
    }

    /// Whether an image name has the form that [`InstanceId::image_tag`] makes for this instance.
    pub fn owns_tag(&self, image: &str) -> bool {
        let Some(rest) = image.strip_prefix("berth/") else { return false };
        rest.split_once(':').and_then(|(_, tag)| tag.split_once('-')).is_some_and(|(instance, number)| {
            instance == self.short() && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
        })
    }

    /// Name of the private network of a project: `berth-<instance8>-<project>`.
    pub fn network_name(&self, project: &str) -> String {
        format!("berth-{}-{project}", self.short())
    }

    /// Whether a network has a name such as this instance gives.
    pub fn owns_network(&self, name: &str) -> bool {
        name.strip_prefix(&self.network_name("")).is_some_and(|project| !project.is_empty())
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a container is for, as its labels say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Slug of the project.
    pub project: String,
    /// Slug of the app.
    pub app: String,
    /// Name of the environment.
    pub environment: String,
    /// Id of the release.
    pub release: String,
    /// Number of the deployment that made it.
    pub deployment: i64,
    /// Index of the replica, from 0.
    pub replica: u32,
}

impl Workload {
    /// The labels that say this (without the two of the instance, which the engine adds itself).
    pub fn labels(&self) -> Labels {
        [
            (PROJECT, self.project.clone()),
            (APP, self.app.clone()),
            (ENVIRONMENT, self.environment.clone()),
            (RELEASE, self.release.clone()),
            (DEPLOYMENT, self.deployment.to_string()),
            (REPLICA, self.replica.to_string()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }

    /// Reads the labels back; `None` when one is missing or malformed.
    pub fn from_labels(labels: &Labels) -> Option<Self> {
        let text = |name: &str| labels.get(name).cloned();
        Some(Self {
            project: text(PROJECT)?,
            app: text(APP)?,
            environment: text(ENVIRONMENT)?,
            release: text(RELEASE)?,
            deployment: text(DEPLOYMENT)?.parse().ok()?,
            replica: text(REPLICA)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(n: u128) -> InstanceId {
        InstanceId::new(Uuid::from_u128(n))
    }

    #[test]
    fn a_workload_survives_the_way_through_labels() {
        let workload = Workload {
            project: "default".into(),
            app: "web".into(),
            environment: "production".into(),
            release: "r1".into(),
            deployment: 42,
            replica: 1,
        };
        assert_eq!(Workload::from_labels(&workload.labels()), Some(workload.clone()));
        let mut broken = workload.labels();
        broken.insert(DEPLOYMENT.into(), "forty-two".into());
        assert_eq!(Workload::from_labels(&broken), None);
    }

    #[test]
    fn an_instance_knows_its_own_tags_and_no_others() {
        let (mine, other) = (instance(1 << 100), instance(2 << 100));
        let tag = mine.image_tag("Web", 7);
        assert!(tag.starts_with("berth/web:") && tag.ends_with("-7"), "{tag}");
        assert!(mine.owns_tag(&tag));
        assert!(!other.owns_tag(&tag));
        for foreign in
            ["node:22-slim", "berth/web", "berth/web:latest", "berth/web:00000010-", "berth/web:00000010-x"]
        {
            assert!(!mine.owns_tag(foreign), "{foreign}");
        }
    }

    #[test]
    fn an_instance_owns_only_what_carries_its_label() {
        let (mine, other) = (instance(1), instance(2));
        assert!(mine.owns(&mine.labels()));
        assert!(!mine.owns(&other.labels()));
        assert!(!mine.owns(&Labels::new()));
    }
}
