//! The daemon's configuration: read once at the start, then plain data.
//!
//! [`setting`] lists what can be set, [`layers`] decides which value wins, and this file turns the texts into
//! the types that the rest of the daemon uses. Durations and sizes get their units here.

pub mod layers;
pub mod setting;
pub mod show;

use std::{
    collections::BTreeMap,
    fmt::Display,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use berth_certs::{ExternalAccount, dns::Resolver};
use berth_proxy::TrustedPeers;
pub use layers::{ConfigError, Origin, Resolved};
use layers::{Sources, resolve};

/// Form of the daemon's own log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The certificate that HTTPS answers with where no other fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultCertificate {
    /// PEM file with the chain.
    pub chain: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
}

/// How certificates are ordered.
#[derive(Clone)]
pub struct Acme {
    /// Directories of certificate authorities, the preferred one first.
    pub directories: Vec<String>,
    /// PEM file with the roots of private authorities.
    pub ca_root: Option<PathBuf>,
    /// Where authorities may write to.
    pub email: Option<String>,
    /// An account that somebody has at an authority.
    pub external: Option<ExternalAccount>,
}

/// Without the key of the account.
impl std::fmt::Debug for Acme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acme").field("directories", &self.directories).finish_non_exhaustive()
    }
}

/// Limits of visitors' connections to the data plane.
#[derive(Debug, Clone)]
pub struct Visitors {
    /// Connections open at the same time.
    pub max_connections: usize,
    /// How long a connection is kept between requests.
    pub idle_timeout: Duration,
    /// Longest pause within a body.
    pub body_timeout: Duration,
    /// Proxies before Berth that are believed.
    pub trusted_proxies: TrustedPeers,
}

/// The daemon's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Everything Berth keeps.
    pub data_dir: PathBuf,
    /// API, MCP and status page.
    pub control_addr: SocketAddr,
    /// Apps over HTTP.
    pub http_addr: SocketAddr,
    /// Apps over HTTPS.
    pub https: Option<SocketAddr>,
    /// The certificate for names that have none.
    pub default_certificate: Option<DefaultCertificate>,
    /// How certificates are ordered, if they are.
    pub acme: Option<Acme>,
    /// Domain of app names.
    pub base_domain: String,
    /// URL of the control plane as people reach it, without a trailing slash.
    pub public_url: Option<String>,
    /// Host names under which the control plane may be addressed, besides loopback names; lower case.
    pub control_hosts: Vec<String>,
    /// PostgreSQL, if not SQLite in the data directory.
    pub database_url: Option<String>,
    /// Docker Engine, if not the usual one.
    pub docker_host: Option<String>,
    /// Deployments worked on at the same time.
    pub concurrent_builds: usize,
    /// How long what apps print is kept.
    pub log_retention: Duration,
    /// Bytes of what apps print that are kept.
    pub log_max_bytes: u64,
    /// How long access records are kept.
    pub request_retention: Duration,
    /// How long calls stay in the audit log.
    pub audit_retention: Duration,
    /// Calls in the audit log.
    pub audit_calls: u64,
    /// Destructive calls per minute and token.
    pub destructive_per_minute: u32,
    /// Age of the oldest error event.
    pub error_retention: Duration,
    /// Error events of an app that are kept.
    pub error_max_events: u64,
    /// Age of source maps of releases that are seen nowhere.
    pub map_retention: Duration,
    /// Releases of an app whose source maps are kept anyway.
    pub map_releases: u64,
    /// Bytes that must stay free on the data directory's disk.
    pub min_free_disk: u64,
    /// Bytes of build cache that Berth keeps.
    pub build_cache: u64,
    /// Largest upload in bytes.
    pub upload_max: u64,
    /// Fetch from private addresses.
    pub allow_private_sources: bool,
    /// Fetch git repositories from this machine's own file system.
    pub allow_local_sources: bool,
    /// Private key for git over SSH.
    pub git_ssh_key: Option<PathBuf>,
    /// Name servers that are asked about domains.
    pub dns_resolvers: Vec<Resolver>,
    /// Addresses at which the internet reaches this machine; empty to look at its interfaces.
    pub public_addresses: Vec<IpAddr>,
    /// How long requests under way may take to finish at the end.
    pub shutdown_timeout: Duration,
    /// Limits of visitors' connections.
    pub visitors: Visitors,
    /// Form of the daemon's own log.
    pub log_format: LogFormat,
    /// Filter of the daemon's own log.
    pub log_level: String,
    /// Every setting with its origin, for `berth config`.
    pub resolved: BTreeMap<&'static str, Resolved>,
}

const DAY: Duration = Duration::from_hours(24);
const MIB: u64 = 1 << 20;

impl Config {
    /// Reads the configuration of this process.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(flags: &BTreeMap<&'static str, String>, file: Option<&Path>) -> Result<Self, ConfigError> {
        let env = |name: &str| std::env::var(name).ok();
        let data_dir = flags.get("data_dir").cloned().or_else(|| env("BERTH_DATA_DIR")).map(PathBuf::from);
        let file = match file.map(Path::to_owned).or_else(|| env("BERTH_CONFIG").map(PathBuf::from)) {
            Some(path) => Some(path),
            None => usual_files(&data_dir.unwrap_or_else(default_data_dir)).into_iter().find(|p| p.is_file()),
        };
        Self::from_resolved(resolve(&Sources { flags, env: &env, file })?)
    }

    /// Turns resolved texts into types.
    fn from_resolved(mut resolved: BTreeMap<&'static str, Resolved>) -> Result<Self, ConfigError> {
        if let Some(data_dir) = resolved.get_mut("data_dir")
            && data_dir.value.is_empty()
        {
            data_dir.value = default_data_dir().display().to_string();
        }
        let read = Reader(&resolved);
        let (https, default_certificate) = https(&read)?;
        let public_url = read.optional("public_url").map(|u| u.trim_end_matches('/').to_owned());
        let mut control_hosts = read.list("control_hosts");
        if let Some(url) = &public_url {
            control_hosts.push(host_of(url).ok_or_else(|| {
                ConfigError::Contradiction(format!("public_url {url:?} is no http:// or https:// URL"))
            })?);
        }
        Ok(Self {
            data_dir: std::path::absolute(read.text("data_dir"))
                .unwrap_or_else(|_| read.text("data_dir").into()),
            control_addr: read.address("control_addr")?,
            http_addr: read.address("http_addr")?,
            https,
            default_certificate,
            acme: acme(&read, https)?,
            base_domain: base_domain(read.text("base_domain"))?,
            public_url,
            control_hosts,
            database_url: read.optional("database_url"),
            docker_host: read.optional("docker_host"),
            concurrent_builds: usize::try_from(read.number("concurrent_builds")).unwrap_or(1),
            log_retention: DAY * u32::try_from(read.number("log_retention_days")).unwrap_or(1),
            log_max_bytes: read.number("log_max_mb") * MIB,
            error_retention: DAY * u32::try_from(read.number("error_retention_days")).unwrap_or(1),
            error_max_events: read.number("error_max_events"),
            map_retention: DAY * u32::try_from(read.number("error_map_retention_days")).unwrap_or(1),
            map_releases: read.number("error_map_releases"),
            audit_retention: DAY * u32::try_from(read.number("audit_retention_days")).unwrap_or(1),
            audit_calls: read.number("audit_max_calls"),
            destructive_per_minute: u32::try_from(read.number("destructive_per_minute")).unwrap_or(1),
            request_retention: DAY * u32::try_from(read.number("request_retention_days")).unwrap_or(1),
            min_free_disk: read.number("min_free_disk_mb") * MIB,
            build_cache: read.number("build_cache_mb") * MIB,
            upload_max: read.number("upload_max_mb") * MIB,
            allow_private_sources: read.text("allow_private_sources") == "true",
            allow_local_sources: read.text("allow_local_sources") == "true",
            git_ssh_key: read.optional("git_ssh_key").map(PathBuf::from),
            dns_resolvers: parsed(&read, "dns_resolvers")?,
            public_addresses: parsed(&read, "public_addresses")?,
            shutdown_timeout: Duration::from_secs(read.number("shutdown_timeout_s")),
            visitors: visitors(&read)?,
            log_format: if read.text("log_format") == "json" { LogFormat::Json } else { LogFormat::Text },
            log_level: read.text("log_level").to_owned(),
            resolved,
        })
    }
}

/// Reads checked values; [`layers::resolve`] has put every key there.
struct Reader<'a>(&'a BTreeMap<&'static str, Resolved>);

impl Reader<'_> {
    fn text(&self, key: &str) -> &str {
        self.0.get(key).map_or("", |r| r.value.as_str())
    }

    fn optional(&self, key: &str) -> Option<String> {
        Some(self.text(key)).filter(|t| !t.is_empty()).map(str::to_owned)
    }

    fn list(&self, key: &str) -> Vec<String> {
        let items = self.text(key).split(',').map(|t| t.trim().to_ascii_lowercase());
        items.filter(|t| !t.is_empty()).collect()
    }

    fn number(&self, key: &str) -> u64 {
        self.text(key).parse().unwrap_or_default()
    }

    fn address(&self, key: &'static str) -> Result<SocketAddr, ConfigError> {
        self.text(key).parse().map_err(|_| ConfigError::BadValue {
            key,
            origin: self.0.get(key).map_or(Origin::Default, |r| r.origin.clone()),
            text: "must be IP:PORT".into(),
        })
    }
}

fn https(read: &Reader<'_>) -> Result<(Option<SocketAddr>, Option<DefaultCertificate>), ConfigError> {
    let wrong = |text: &str| Err(ConfigError::Contradiction(text.to_owned()));
    let certificate = match (read.optional("tls_cert"), read.optional("tls_key")) {
        (Some(chain), Some(key)) => Some(DefaultCertificate { chain: chain.into(), key: key.into() }),
        (None, None) => None,
        _ => return wrong("tls_cert and tls_key belong together: set both or neither"),
    };
    match read.optional("https_addr") {
        // Port 0 would be known only once it is bound, and the URLs of apps name it before.
        Some(addr) if addr.ends_with(":0") => wrong("https_addr needs a port other than 0"),
        Some(_) => Ok((Some(read.address("https_addr")?), certificate)),
        None if certificate.is_none() => Ok((None, None)),
        None => wrong("tls_cert and tls_key are set, but https_addr is not: nothing would use them"),
    }
}

fn acme(read: &Reader<'_>, https: Option<SocketAddr>) -> Result<Option<Acme>, ConfigError> {
    let wrong = |text: String| Err(ConfigError::Contradiction(text));
    if read.text("acme") != "true" {
        return Ok(None);
    }
    if https.is_none() {
        return wrong("acme is true, but https_addr is not set: nothing would use the certificates".into());
    }
    // Not by `list`, which lowers the case: paths of URLs have one.
    let directories = read.text("acme_directories").split(',').map(|t| t.trim().to_owned());
    let directories: Vec<String> = directories.filter(|t| !t.is_empty()).collect();
    if directories.is_empty() {
        return wrong("acme is true, but acme_directories is empty".into());
    }
    for directory in &directories {
        if !directory.starts_with("https://") || host_of(directory).is_none() {
            return wrong(format!("acme_directories: {directory:?} is no https:// URL"));
        }
    }
    let email = read.optional("acme_email");
    if email.as_ref().is_some_and(|e| !e.contains('@') || e.contains(char::is_whitespace)) {
        return wrong("acme_email is no e-mail address".into());
    }
    let external = match (read.optional("acme_eab_kid"), read.optional("acme_eab_key")) {
        (Some(kid), Some(key)) => Some(
            ExternalAccount::new(kid, &key)
                .map_err(|e| ConfigError::Contradiction(format!("acme_eab_key: {e}")))?,
        ),
        (None, None) => None,
        _ => return wrong("acme_eab_kid and acme_eab_key belong together: set both or neither".into()),
    };
    Ok(Some(Acme { directories, ca_root: read.optional("acme_ca_root").map(PathBuf::from), email, external }))
}

fn visitors(read: &Reader<'_>) -> Result<Visitors, ConfigError> {
    let proxies = read.list("trusted_proxies");
    Ok(Visitors {
        max_connections: usize::try_from(read.number("max_connections")).unwrap_or(usize::MAX),
        idle_timeout: Duration::from_secs(read.number("idle_timeout_s")),
        body_timeout: Duration::from_secs(read.number("body_timeout_s")),
        trusted_proxies: TrustedPeers::parse(proxies.iter().map(String::as_str))
            .map_err(|e| ConfigError::Contradiction(format!("trusted_proxies: {e}")))?,
    })
}

/// A list of things that are written as text.
fn parsed<T: FromStr<Err: Display>>(read: &Reader<'_>, key: &str) -> Result<Vec<T>, ConfigError> {
    let items = read.list(key);
    let parse =
        |text: &String| text.parse().map_err(|e| ConfigError::Contradiction(format!("{key}: {text:?}: {e}")));
    items.iter().map(parse).collect()
}

fn base_domain(text: &str) -> Result<String, ConfigError> {
    let name = text.trim_matches('.').to_ascii_lowercase();
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    // An app's label of up to 40 characters and a dot go before it, and a name has at most 253.
    if name.len() <= 212 && name.split('.').all(label) {
        return Ok(name);
    }
    Err(ConfigError::Contradiction(format!(
        "base_domain {text:?} is no domain name; use one such as \"localhost\" or \"apps.example.com\""
    )))
}

/// Host name of an http(s) URL, lower case, without its port.
fn host_of(url: &str) -> Option<String> {
    let uri: http::Uri = url.parse().ok()?;
    matches!(uri.scheme_str(), Some("http" | "https")).then_some(())?;
    uri.host().map(str::to_ascii_lowercase)
}

/// Where the data is kept if nothing else is said.
#[must_use]
pub fn default_data_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return "/var/lib/berth".into();
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .unwrap_or_else(std::env::temp_dir)
        .join("berth")
}

fn usual_files(data_dir: &Path) -> [PathBuf; 2] {
    [data_dir.join("berth.toml"), "/etc/berth/berth.toml".into()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(flags: &[(&'static str, &str)]) -> Result<Config, ConfigError> {
        let flags = flags.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
        Config::from_resolved(resolve(&Sources { flags: &flags, env: &|_| None, file: None })?)
    }

    #[test]
    fn the_host_of_the_public_url_is_allowed() {
        let c =
            config(&[("public_url", "https://Berth.example.com:8443/"), ("control_hosts", "a.example, B")])
                .unwrap();
        assert_eq!(c.control_hosts, ["a.example", "b", "berth.example.com"]);
        assert_eq!(c.public_url.as_deref(), Some("https://Berth.example.com:8443"));
        assert!(config(&[("public_url", "berth.example.com")]).is_err());
    }

    #[test]
    fn https_needs_no_certificate_of_its_own() {
        let https = ("https_addr", "127.0.0.1:8443");
        assert!(config(&[("tls_cert", "/a"), ("tls_key", "/b")]).is_err());
        assert!(config(&[https, ("tls_cert", "/a")]).is_err());
        assert!(config(&[("https_addr", "127.0.0.1:0")]).is_err());
        assert!(
            config(&[https, ("tls_cert", "/a"), ("tls_key", "/b")]).unwrap().default_certificate.is_some()
        );
        let plain = config(&[https]).unwrap();
        assert!(plain.https.is_some() && plain.default_certificate.is_none() && plain.acme.is_none());
    }

    #[test]
    fn acme_says_what_is_wrong_with_it() {
        let https = ("https_addr", "127.0.0.1:8443");
        assert!(config(&[("acme", "true")]).is_err());
        let acme = config(&[https, ("acme", "true")]).unwrap().acme.unwrap();
        assert_eq!(acme.directories, ["https://acme-v02.api.letsencrypt.org/directory"]);
        let two = config(&[
            https,
            ("acme", "true"),
            ("acme_directories", "https://a.example/Dir, https://b.example"),
        ]);
        assert_eq!(two.unwrap().acme.unwrap().directories, ["https://a.example/Dir", "https://b.example"]);
        for wrong in
            [("acme_directories", "http://a.example"), ("acme_email", "nobody"), ("acme_eab_kid", "kid-1")]
        {
            assert!(config(&[https, ("acme", "true"), wrong]).is_err(), "{wrong:?}");
        }
        let key = [https, ("acme", "true"), ("acme_eab_kid", "k"), ("acme_eab_key", "not base64!")];
        assert!(!config(&key).unwrap_err().to_string().contains("base64!"), "a secret is not repeated");
    }

    #[test]
    fn trusted_proxies_are_networks() {
        assert!(config(&[("trusted_proxies", "10.0.0.0/8, ::1")]).is_ok());
        let error = config(&[("trusted_proxies", "10.0.0.0/8,cdn.example")]).unwrap_err();
        assert!(error.to_string().contains("cdn.example"), "{error}");
    }

    #[test]
    fn resolvers_are_addresses() {
        assert_eq!(config(&[]).unwrap().dns_resolvers.len(), 4);
        assert_eq!(config(&[("dns_resolvers", "127.0.0.1:5353")]).unwrap().dns_resolvers.len(), 1);
        let error = config(&[("dns_resolvers", "system, dns.example")]).unwrap_err();
        assert!(error.to_string().contains("dns.example"), "{error}");
    }

    #[test]
    fn a_base_domain_is_a_domain() {
        assert_eq!(config(&[("base_domain", "Apps.Example.com.")]).unwrap().base_domain, "apps.example.com");
        for bad in ["", "http://x", "a b", "-x.com", "x..y"] {
            assert!(config(&[("base_domain", bad)]).is_err(), "{bad}");
        }
    }
}
