//! What tool bodies work with.

use std::path::PathBuf;

use berth_deploy::Pipeline;
use berth_schemas::Timestamp;
use berth_store::Store;

/// The platform, as tool bodies see it.
pub struct Context {
    /// The store.
    pub store: Store,
    /// The deploy pipeline.
    pub pipeline: Pipeline,
    /// How apps are reached.
    pub addresses: Addresses,
    /// The data directory.
    pub data_dir: PathBuf,
    /// Since when the daemon runs.
    pub started_at: Timestamp,
    /// Version of the daemon.
    pub version: &'static str,
}

/// How apps are reached from outside.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// Domain below which each app has a name, such as "localhost" or "apps.example.com".
    pub base_domain: String,
    /// http or https.
    pub scheme: &'static str,
    /// Port to show in URLs; none for the scheme's own.
    pub port: Option<u16>,
}

impl Addresses {
    /// Host name of an app.
    #[must_use]
    pub fn host(&self, app: &berth_schemas::AppSlug) -> String {
        format!("{app}.{}", self.base_domain)
    }

    /// URL of an app.
    #[must_use]
    pub fn url(&self, app: &berth_schemas::AppSlug) -> String {
        let host = self.host(app);
        match self.port {
            Some(port) => format!("{}://{host}:{port}", self.scheme),
            None => format!("{}://{host}", self.scheme),
        }
    }
}
