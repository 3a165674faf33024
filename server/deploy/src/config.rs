//! What the pipeline is told by the daemon's configuration.

use std::path::PathBuf;

use berth_schemas::AppSlug;

/// Settings of the pipeline.
#[derive(Debug, Clone)]
pub struct PipelineConfig {
    /// The data directory; the pipeline uses `uploads/`, `releases/` and `work/` below it.
    pub data_dir: PathBuf,
    /// How apps are reached; routes and `BERTH_URL` follow from it.
    pub addresses: Addresses,
    /// Builds that may run at once on this machine.
    pub concurrent_builds: usize,
    /// A build is refused when fewer bytes than this are free.
    pub min_free_bytes: u64,
    /// Berth's own build cache is kept below this.
    pub build_cache_bytes: u64,
    /// Whether sources may come from private and loopback addresses.
    pub allow_private_sources: bool,
    /// Whether sources may be directories on this machine, given as file:// URLs. For tests.
    pub allow_local_sources: bool,
    /// Private key for git over SSH, as a file in OpenSSH's text form.
    pub git_ssh_key: Option<PathBuf>,
    /// Bytes that an uploaded source may unpack to.
    pub max_source_bytes: u64,
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
    pub fn host(&self, app: &AppSlug) -> String {
        format!("{app}.{}", self.base_domain)
    }

    /// URL of an app.
    #[must_use]
    pub fn url(&self, app: &AppSlug) -> String {
        let host = self.host(app);
        match self.port {
            Some(port) => format!("{}://{host}:{port}", self.scheme),
            None => format!("{}://{host}", self.scheme),
        }
    }
}
