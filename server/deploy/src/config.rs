//! What the pipeline is told by the daemon's configuration.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use berth_observe::errors::{Eraser, maps::Maps};
use berth_schemas::{AppSlug, EnvironmentName, Problem};
use berth_store::model::AppRow;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::access::GitAccess;

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
    /// Who keeps the credentials of apps' repositories; none where there are none.
    pub git_access: Option<Arc<dyn GitAccess>>,
    /// Bytes that an uploaded source may unpack to.
    pub max_source_bytes: u64,
    /// What this run follows.
    pub arrival: Arrival,
    /// Cancelled when no earlier process lets requests finish in this machine's containers any more. Until then
    /// none is stopped that may have some.
    pub alone: CancellationToken,
    /// Hands everything over to the program that is installed now; none where that is not possible.
    pub successor: Option<Arc<dyn Successor>>,
    /// The control plane's own name, if visitors reach it through the data plane.
    pub control: Option<ControlRoute>,
    /// Where apps send their errors; without it they are told nothing of that.
    pub errors: Option<ErrorsRoute>,
    /// Who keeps the source maps that releases bring; none where nobody does.
    pub maps: Option<Maps>,
    /// Who forgets persons in what clients of apps sent; none where nothing of that is kept.
    pub eraser: Option<Eraser>,
}

/// How errors of apps get to the control plane.
#[derive(Debug, Clone)]
pub struct ErrorsRoute {
    /// Where the control plane listens: [`crate::TUNNEL_PATH`] of every app's host leads there.
    pub addr: std::net::SocketAddr,
    /// URL of the control plane, if apps and browsers can reach it.
    pub public_url: Option<String>,
}

/// Where the data plane finds the control plane.
#[derive(Debug, Clone)]
pub struct ControlRoute {
    /// Host name that leads to it.
    pub host: String,
    /// Where it listens.
    pub addr: std::net::SocketAddr,
}

/// What a run of the pipeline follows; tells what became of an upgrade that was under way.
#[derive(Debug, Clone)]
pub enum Arrival {
    /// An ordinary start.
    Started,
    /// The process before handed everything over.
    TookOver {
        /// Its version.
        from: String,
        /// Cancelled when this process serves and there is no way back.
        serving: CancellationToken,
    },
    /// This process wanted to hand over, and went on because the other one failed.
    Stayed(Problem),
}

/// Who hands over to a new process.
#[async_trait]
pub trait Successor: Send + Sync + std::fmt::Debug {
    /// Starts the program that is installed now and hands over to it. Returns only if it comes to nothing while
    /// everything still runs: with the reason. Otherwise this run of the pipeline is shut down before it returns.
    async fn hand_over(&self) -> Problem;
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
    /// Port where HTTPS answers, if it does. Hosts with a certificate of their own are reached there.
    pub https: Option<u16>,
}

impl Addresses {
    /// Host name of an app in an environment: `web.<base>` in production, `staging--web.<base>` elsewhere.
    #[must_use]
    pub fn host(&self, app: &AppSlug, environment: &EnvironmentName) -> String {
        format!("{}.{}", label(app, environment), self.base_domain)
    }

    /// URL of a host that is no app's own name; `certified` says whether it has a certificate.
    #[must_use]
    pub fn domain_url(&self, host: &str, certified: bool) -> String {
        match (self.https, self.scheme, self.port) {
            (Some(443), ..) if certified => format!("https://{host}"),
            (Some(port), ..) if certified => format!("https://{host}:{port}"),
            (_, "http", Some(port)) => format!("http://{host}:{port}"),
            _ => format!("http://{host}"),
        }
    }

    /// URL of an app in an environment.
    #[must_use]
    pub fn url(&self, app: &AppSlug, environment: &EnvironmentName) -> String {
        let host = self.host(app, environment);
        match self.port {
            Some(port) => format!("{}://{host}:{port}", self.scheme),
            None => format!("{}://{host}", self.scheme),
        }
    }

    /// URL of an app in the environment that it is seen in.
    #[must_use]
    pub fn url_of(&self, app: &AppRow) -> String {
        self.url(&app.slug, &app.environment.name)
    }
}

/// Longest label of a host name, in bytes (RFC 1035).
const LONGEST_LABEL: usize = 63;

/// The label by which an app in an environment is known. Names have no two hyphens in a row, so that none can be
/// taken for another; one that would be too long is cut and gets the hash of the environment's whole name, between
/// pairs of hyphens, which no other label has twice.
pub(crate) fn label(app: &AppSlug, environment: &EnvironmentName) -> String {
    if *environment == EnvironmentName::production() {
        return app.to_string();
    }
    let whole = format!("{environment}--{app}");
    if whole.len() <= LONGEST_LABEL {
        return whole;
    }
    let hash = hex::encode(&Sha256::digest(environment.as_str())[..5]);
    let room = LONGEST_LABEL - app.as_str().len() - hash.len() - 4;
    let cut = environment.as_str().get(..room).unwrap_or_default().trim_end_matches('-');
    format!("{cut}--{hash}--{app}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(app: &str, environment: &str) -> String {
        label(&app.parse().unwrap(), &environment.parse().unwrap())
    }

    #[test]
    fn production_has_the_apps_own_name() {
        assert_eq!(of("web", "production"), "web");
        assert_eq!(of("web", "staging"), "staging--web");
        let addresses =
            Addresses { base_domain: "x.test".into(), scheme: "http", port: Some(80), https: None };
        let host = addresses.url(&"web".parse().unwrap(), &"pr-5".parse().unwrap());
        assert_eq!(host, "http://pr-5--web.x.test:80");
    }

    #[test]
    fn long_names_differ_although_they_are_cut() {
        let app = "a".repeat(40);
        let (one, two) =
            (of(&app, &format!("{}1", "e".repeat(39))), of(&app, &format!("{}2", "e".repeat(39))));
        assert!(one.len() <= 63 && one != two, "{one} {two}");
        assert_eq!(one.split("--").count(), 3);
    }

    proptest! {
        #[test]
        fn a_label_is_one_that_dns_takes(
            app in "[a-z][a-z0-9]{0,19}(-[a-z0-9]{1,18})?", environment in "[a-z][a-z0-9]{0,19}(-[a-z0-9]{1,18})?"
        ) {
            let label = of(&app, &environment);
            prop_assert!(label.len() <= 63 && !label.starts_with('-') && !label.ends_with('-'));
            prop_assert!(label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
        }
    }
}
