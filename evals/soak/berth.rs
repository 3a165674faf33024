//! Berth as the one that switches: a real daemon, spoken to by REST.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use berth_evals::daemon::Daemon;
use serde_json::json;

use crate::{
    certificate::{Certificate, free_address},
    clients::Door,
    docker::{self, Holdings, Image, Sweep},
    side::{APP, HOST, PATIENT},
};

/// Earlier releases that are kept, and so may be left.
const KEPT: usize = 3;
/// Time for the removal of old releases after the last deployment.
const CLEANED: Duration = Duration::from_secs(30);

/// Time for an upgrade.
const UPGRADED: Duration = Duration::from_secs(120);

/// A daemon with two apps.
#[derive(Debug)]
pub(crate) struct Berth {
    pub(crate) daemon: Daemon,
    pub(crate) door: Door,
    image: String,
    drain_s: u64,
    /// Dropped after the daemon, which would start again what is taken away from under it.
    sweep: Sweep,
}

impl Berth {
    /// Starts the daemon and creates the apps.
    pub(crate) async fn start(program: &Path, image: &Image, drain_s: u64) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("berth-soak-").tempdir()?;
        let certificate = Certificate::make(directory.path(), &[HOST, "patient.localhost"])?;
        let https = free_address()?;
        let (addr, chain, key) = (
            https.to_string(),
            certificate.chain.display().to_string(),
            certificate.key.display().to_string(),
        );
        let drain = drain_s.to_string();
        let flags = [
            ["--https-addr", &addr],
            ["--tls-cert", &chain],
            ["--tls-key", &key],
            ["--shutdown-timeout-s", &drain],
            ["--min-free-disk-mb", "64"],
        ]
        .concat();
        let daemon = Daemon::start(program, directory, &flags).await?;
        let door = Door::new(daemon.http, https, HOST, &certificate.pem)?;
        Self::with_apps(daemon, door, image, drain_s).await
    }

    /// Takes a daemon that runs, and creates the apps.
    pub(crate) async fn with_apps(daemon: Daemon, door: Door, image: &Image, drain_s: u64) -> Result<Self> {
        let sweep = Sweep::of(format!("berth.instance={}", daemon.instance));
        let berth = Self { daemon, door, image: image.name().to_owned(), drain_s, sweep };
        for app in [APP, PATIENT] {
            let settings =
                json!({ "port": 8080, "health_path": "/health", "drain_timeout_s": berth.drain_s });
            berth.daemon.call("POST", "/v1/apps", json!({ "name": app, "settings": settings })).await?;
        }
        Ok(berth)
    }

    /// Deploys a version and waits for the end.
    pub(crate) async fn deploy(&self, app: &str, version: &str) -> Result<()> {
        let dockerfile = format!("FROM {}\nENV SOAK_VERSION={version}\n", self.image);
        let source =
            json!({ "files": { "Dockerfile": dockerfile }, "message": format!("version {version}") });
        let made = self.daemon.call("POST", &format!("/v1/apps/{app}/deployments"), source).await?;
        let deployment = made["deployment"].as_str().context("the answer names no deployment")?;
        self.daemon.settled(deployment).await?;
        Ok(())
    }

    /// Replaces the daemon by the program that it was started from, and waits until the new process serves.
    pub(crate) async fn upgrade(&self) -> Result<()> {
        let before = self.daemon.pid();
        let made = self.daemon.call("POST", "/v1/platform/upgrade", json!({})).await?;
        let path = format!("/v1/jobs/{}", made["job"]["job"].as_str().context("the answer names no job")?);
        let begun = Instant::now();
        loop {
            // The control plane closes its own connections in the moment of the hand-over.
            let job = self.daemon.raw("GET", &path, None).await.map(|(_, job)| job).unwrap_or_default();
            match job["state"].as_str() {
                Some("succeeded") if self.daemon.pid() != before => return Ok(()),
                Some("succeeded") => bail!("the job succeeded, but process {before} still serves"),
                Some("failed" | "cancelled") => bail!("{}", job["problem"]),
                _ if begun.elapsed() > UPGRADED => bail!("it is not over after {UPGRADED:?}: {job}"),
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// What is there when cleaning has had its time, and what of it should not be.
    pub(crate) async fn leftovers(&self) -> Result<(Holdings, Vec<String>)> {
        let begun = Instant::now();
        loop {
            let found = docker::holdings(self.sweep.label()).await?;
            let wrong = self.unexpected(found);
            if wrong.is_empty() || begun.elapsed() > CLEANED {
                return Ok((found, wrong));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    fn unexpected(&self, found: Holdings) -> Vec<String> {
        let work = std::fs::read_dir(self.daemon.data().join("work")).map_or(0, Iterator::count);
        // Two apps with one live release each; the one that is deployed often keeps three before it.
        let rules = [
            (found.running != 2, format!("{} containers run instead of 2", found.running)),
            (found.stopped > KEPT, format!("{} stopped containers are left, {KEPT} are kept", found.stopped)),
            (found.images > KEPT + 2, format!("{} images are left", found.images)),
            (found.networks > 1, format!("{} networks are left", found.networks)),
            (work > 0, format!("{work} entries are left in the daemon's work directory")),
        ];
        rules.into_iter().filter(|(wrong, _)| *wrong).map(|(_, text)| text).collect()
    }
}
