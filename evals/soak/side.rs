//! Who switches: Berth, or what it is compared with.

use anyhow::Result;

use crate::{berth::Berth, clients::Door, docker::Holdings, nginx::Nginx};

/// The app that is deployed again and again, and its host.
pub(crate) const APP: &str = "soak";
pub(crate) const HOST: &str = "soak.localhost";
/// An app that is deployed once, asked in bursts a second apart.
pub(crate) const PATIENT: &str = "patient";

/// One of them, running.
#[derive(Debug)]
pub(crate) enum Side {
    Berth(Box<Berth>),
    Nginx(Box<Nginx>),
}

impl Side {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Berth(_) => "berth",
            Self::Nginx(_) => "nginx",
        }
    }

    pub(crate) fn door(&self) -> &Door {
        match self {
            Self::Berth(berth) => &berth.door,
            Self::Nginx(nginx) => &nginx.door,
        }
    }

    /// Brings a version of an app to its visitors; returns when the old one is gone.
    pub(crate) async fn deploy(&mut self, app: &str, version: &str) -> Result<()> {
        match self {
            Self::Berth(berth) => berth.deploy(app, version).await,
            Self::Nginx(nginx) => nginx.deploy(app, version).await,
        }
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        match self {
            Self::Berth(berth) => berth.daemon.resident(),
            Self::Nginx(nginx) => Ok(nginx.resident()),
        }
    }

    /// What is left in Docker, and what of it should not be.
    pub(crate) async fn leftovers(&self) -> Result<(Holdings, Vec<String>)> {
        match self {
            Self::Berth(berth) => berth.leftovers().await,
            Self::Nginx(nginx) => nginx.leftovers().await,
        }
    }
}
