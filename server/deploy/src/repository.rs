//! Berth's own repository of each app: bare, below `repos/` of the data directory.

use std::path::{Path, PathBuf};

use berth_store::model::AppId;

/// Where an app's repository is.
pub(crate) fn path(data_dir: &Path, app: AppId) -> PathBuf {
    data_dir.join("repos").join(format!("{}.git", app.0))
}
