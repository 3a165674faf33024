//! What every handler shares, and the few things it asks of the store by itself.

use std::sync::Arc;

use berth_observe::errors::Ingest;
use berth_schemas::{Problem, ids::UploadId};
use berth_store::model::{Principal, UploadRow, Visible};
use berth_tools::{Context, Registry};
use tokio_util::sync::CancellationToken;

use crate::oauth::OAuth;

use super::{hooks::Hooks, host::AllowedHosts, throttle::Throttle};

/// Limits of uploads, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Largest upload.
    pub upload_max: u64,
    /// What must stay free on the data directory's disk.
    pub min_free_disk: u64,
}

/// The control plane's state.
pub struct Control {
    /// Every capability.
    pub registry: Arc<Registry>,
    /// What tool bodies work with.
    pub context: Arc<Context>,
    /// Names it answers to.
    pub hosts: AllowedHosts,
    /// Limits of uploads.
    pub limits: Limits,
    /// Webhooks of forges.
    pub hooks: Hooks,
    /// Where errors of apps come in.
    pub ingest: Ingest,
    /// The authorization server.
    pub oauth: Arc<OAuth>,
    /// Failed authentication by address.
    pub throttle: Throttle,
    /// Cancelled when the daemon stops.
    pub shutdown: CancellationToken,
}

/// The state as handlers hold it.
pub type Shared = Arc<Control>;

impl Control {
    /// The principal of a token, if it is valid.
    #[must_use]
    pub fn authenticate(&self, token: &str) -> Option<Principal> {
        self.context.store.tokens().find(token)
    }

    /// Records an upload whose file is safely on disk.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn record_upload(
        &self,
        id: UploadId,
        bytes: i64,
        sha256: &str,
        by: &str,
    ) -> Result<UploadRow, Problem> {
        Ok(self.context.store.uploads().create(id, bytes, sha256, by).await?)
    }

    /// Asks the store for a sign of life.
    ///
    /// # Errors
    /// When it gives none.
    pub async fn store_answers(&self) -> Result<(), Problem> {
        self.context.store.projects().list(&Visible::All).await?;
        Ok(())
    }
}
