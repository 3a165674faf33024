//! What tool bodies work with.

use std::{path::PathBuf, sync::Arc};

use berth_certs::{Certs, dns::Dns};
use berth_deploy::{Addresses, Pipeline};
use berth_forge::Forges;
use berth_observe::errors::{ErrorIndex, Ingest, Maps};
use berth_schemas::Timestamp;
use berth_store::Store;

use crate::brake::Brake;

/// The platform, as tool bodies see it.
pub struct Context {
    /// The store.
    pub store: Store,
    /// Forges of apps' repositories.
    pub forges: Arc<Forges>,
    /// The deploy pipeline.
    pub pipeline: Pipeline,
    /// DNS: providers, and what it says of names.
    pub dns: Dns,
    /// Certificates.
    pub certs: Certs,
    /// Where errors of apps come in.
    pub ingest: Ingest,
    /// Searching for errors.
    pub error_index: ErrorIndex,
    /// Sends alerts.
    pub sender: berth_monitor::Sender,
    /// Source maps of apps.
    pub maps: Maps,
    /// URL of the control plane for people, without a slash at its end.
    pub control_url: String,
    /// How apps are reached.
    pub addresses: Addresses,
    /// Host names of the control plane, lower case.
    pub control_hosts: Vec<String>,
    /// The data directory.
    pub data_dir: PathBuf,
    /// Whether git sources may be directories on this machine or unencrypted, as configured.
    pub allow_local_sources: bool,
    /// Since when the daemon runs.
    pub started_at: Timestamp,
    /// Slows down who destroys too much at once.
    pub brake: Brake,
    /// Version of the daemon.
    pub version: &'static str,
}
