//! `daemon.json` in the data directory: how programs on the same machine find the daemon. No secrets.

use std::{io, path::Path};

use serde::{Deserialize, Serialize};

const FILE: &str = "daemon.json";

/// What a running daemon tells about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Process id.
    pub pid: u32,
    /// Base URL of the control plane.
    pub control_url: String,
    /// Base URL of the data plane over HTTP.
    pub http_url: String,
    /// Version.
    pub version: String,
    /// UUID of the installation: what it made in Docker carries it in the label `berth.instance`.
    pub instance: String,
}

impl Presence {
    /// Writes the file in one step.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, data_dir: &Path) -> io::Result<()> {
        use std::{io::Write as _, os::unix::fs::PermissionsExt as _};
        let mut file = tempfile::NamedTempFile::new_in(data_dir)?;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
        file.write_all(serde_json::to_string_pretty(self)?.as_bytes())?;
        file.persist(data_dir.join(FILE))?;
        Ok(())
    }

    /// Reads the file; none if there is none or it is not readable.
    #[must_use]
    pub fn read(data_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(data_dir.join(FILE)).ok()?).ok()
    }

    /// Removes the file: the daemon is gone.
    pub fn remove(data_dir: &Path) {
        let _ = std::fs::remove_file(data_dir.join(FILE));
    }
}
