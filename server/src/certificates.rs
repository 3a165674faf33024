//! What the configuration means for certificates.

use std::sync::Arc;

use async_trait::async_trait;
use berth_certs::{AcmeConfig, Answer, Approver, CertsConfig, OwnNames, is_public};
use berth_deploy::{Pipeline, probe::ProbeOutcome};
use berth_schemas::DomainName;
use berth_store::model::AppRow;

use crate::{cli::failure::Failure, config::Config, control::Daemon, serve::file_failure};

/// Whether apps' own names get certificates: they are ordered, and the world can know the names.
#[must_use]
pub fn orders_for_apps(config: &Config) -> bool {
    config.acme.is_some() && is_public(&config.base_domain)
}

/// The control plane's own host, if visitors are to reach it through the data plane: that of an https:// public URL at
/// the data plane's port.
#[must_use]
pub fn control_host(config: &Config) -> Option<DomainName> {
    let https = config.https?;
    let uri: http::Uri = config.public_url.as_ref()?.parse().ok()?;
    let here = uri.scheme_str() == Some("https") && uri.port_u16().unwrap_or(443) == https.port();
    uri.host().filter(|host| here && is_public(host))?.parse().ok()
}

/// Settings of certificates.
///
/// # Errors
/// When a file cannot be read.
pub fn config(daemon: &Daemon) -> Result<CertsConfig, Failure> {
    let config = &daemon.config;
    let acme = match &config.acme {
        None => None,
        Some(acme) => {
            let root = acme
                .ca_root
                .as_ref()
                .map(|path| std::fs::read(path).map_err(|e| file_failure("read acme_ca_root", path, &e)));
            Some(AcmeConfig {
                directories: acme.directories.clone(),
                root: root.transpose()?,
                email: acme.email.clone(),
                external: acme.external.clone(),
            })
        }
    };
    let addresses = daemon.addresses.clone();
    Ok(CertsConfig {
        https: config.https.is_some(),
        acme,
        fallback: daemon.fallback.clone(),
        own: is_public(&config.base_domain).then(|| config.base_domain.parse()).and_then(Result::ok).map(
            |base| OwnNames {
                base,
                host: Arc::new(move |app| addresses.host(&app.slug, &app.environment.name)),
            },
        ),
        control_host: control_host(config),
    })
}

/// Asks apps by their live releases.
pub struct Asks(pub Pipeline);

#[async_trait]
impl Approver for Asks {
    async fn ask(&self, app: &AppRow, path: &str) -> Answer {
        match self.0.ask_release(app, path).await {
            None => Answer::Unknown("it has no container that could be asked".into()),
            Some(ProbeOutcome::Healthy { status } | ProbeOutcome::Status { code: status, .. }) => {
                Answer::of_status(status)
            }
            Some(silent) => Answer::Unknown(silent.to_string()),
        }
    }
}
