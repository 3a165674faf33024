//! Removing what nobody needs any more: releases beyond those kept for rollback, images and files that no
//! release uses, uploads that no deployment will read, build cache beyond its bound.
//!
//! Only what carries this instance's labels or lies in its data directory; never a volume, never a foreign image.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use berth_schemas::{Problem, Timestamp, ids::UploadId, platform::Removable};
use berth_store::model::{Artifact, Principal, ReleaseRow, UploadRow, Visible};

use crate::{
    attempt::{io_problem, remove_dir},
    docker::label,
    fault::engine_problem,
    pipeline::Inner,
    stall,
};

/// Uploads that no deployment uses are kept this long.
pub(crate) const UPLOAD_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Build cache beyond this is dropped, least recently used first.
const KEEP_BUILD_CACHE: u64 = 10 << 30;
/// Cleanup runs by itself this often.
const INTERVAL: Duration = Duration::from_secs(6 * 3600);

/// Something to remove, and how.
pub(crate) struct Item {
    pub(crate) shown: Removable,
    action: Action,
}

enum Action {
    Release(Box<ReleaseRow>),
    Image(String),
    Files(PathBuf),
    Upload(UploadId),
    BuildCache,
}

impl Inner {
    /// What is not needed now, with sizes.
    pub(crate) async fn removable(self: &Arc<Self>) -> Result<Vec<Item>, Problem> {
        let mut items = Vec::new();
        let apps = self.store.apps().all(&Visible::All).await?;
        let mut used_images = HashSet::new();
        let mut used_files = HashSet::new();
        for app in &apps {
            let pruned: Vec<ReleaseRow> = self.releases_to_prune(app).await;
            for release in self.store.releases().list(app.environment.id, false).await? {
                if pruned.iter().any(|p| p.id == release.id) {
                    continue;
                }
                match &release.artifact {
                    Artifact::Image { image_id, .. } => used_images.insert(image_id.clone()),
                    Artifact::Static { path } => used_files.insert(path.clone()),
                };
            }
            items.extend(pruned.into_iter().map(|release| Item {
                shown: Removable {
                    kind: "release".into(),
                    name: format!("{}#{}", app.slug, release.number),
                    bytes: release.bytes,
                    why: "older than the releases kept for rollback".into(),
                },
                action: Action::Release(Box::new(release)),
            }));
        }
        let at_work = self.store.deployments().unsettled().await?;
        let building = at_work.iter().map(|d| d.app.to_string()).collect();
        self.unused_images(&used_images, &building, &mut items).await;
        let building = at_work.iter().map(|d| d.app_id.0).collect();
        self.unused_files(&used_files, &building, &mut items).await?;
        let before = Timestamp(
            Timestamp::now().micros() - i64::try_from(UPLOAD_LIFETIME.as_micros()).unwrap_or(i64::MAX),
        );
        for upload in self.store.uploads().expired(before).await? {
            items.push(Item {
                shown: Removable {
                    kind: "upload".into(),
                    name: upload.id.to_string(),
                    bytes: upload.bytes,
                    why: "no deployment will read it".into(),
                },
                action: Action::Upload(upload.id),
            });
        }
        if let Ok(usage) = self.engine.disk_usage().await
            && usage.build_cache_bytes > KEEP_BUILD_CACHE
        {
            items.push(Item {
                shown: Removable {
                    kind: "build_cache".into(),
                    name: "build cache".into(),
                    bytes: i64::try_from(usage.build_cache_bytes - KEEP_BUILD_CACHE).unwrap_or(i64::MAX),
                    why: format!("beyond the {} GiB that are kept", KEEP_BUILD_CACHE >> 30),
                },
                action: Action::BuildCache,
            });
        }
        Ok(items)
    }

    /// Images that Berth built and no kept release uses. What is being built has no release yet; it may be an old
    /// image when nothing changed.
    async fn unused_images(&self, used: &HashSet<String>, building: &HashSet<String>, items: &mut Vec<Item>) {
        let Ok(images) = self.engine.list_images().await else { return };
        let hour_ago = Timestamp::now().micros() - 3_600_000_000;
        for image in images.into_iter().filter(|i| !used.contains(&i.id) && i.created_at < hour_ago) {
            if image.labels.get(label::APP).is_some_and(|app| building.contains(app)) {
                continue;
            }
            items.push(Item {
                shown: Removable {
                    kind: "image".into(),
                    name: image.tags.first().cloned().unwrap_or_else(|| image.id.clone()),
                    bytes: i64::try_from(image.size_bytes).unwrap_or(i64::MAX),
                    why: "no kept release uses it".into(),
                },
                action: Action::Image(image.id),
            });
        }
    }

    /// Directories of static releases that no kept release uses.
    async fn unused_files(
        &self,
        used: &HashSet<String>,
        building: &HashSet<i64>,
        items: &mut Vec<Item>,
    ) -> Result<(), Problem> {
        let root = self.config.data_dir.join("releases");
        let found = tokio::task::spawn_blocking({
            let root = root.clone();
            move || two_levels(&root)
        })
        .await
        .unwrap_or_else(|_| Ok(BTreeMap::new()))
        .map_err(|e| io_problem("listing the files of releases", &e))?;
        for (path, bytes) in found {
            let app = path.split('/').next().and_then(|a| a.parse::<i64>().ok());
            if used.contains(&path) || app.is_some_and(|a| building.contains(&a)) {
                continue;
            }
            items.push(Item {
                shown: Removable {
                    kind: "release_files".into(),
                    name: path.clone(),
                    bytes,
                    why: "no kept release uses them".into(),
                },
                action: Action::Files(root.join(path)),
            });
        }
        Ok(())
    }

    /// Removes all that; returns what was done, in a sentence.
    pub(crate) async fn clean_up(self: &Arc<Self>) -> Result<String, Problem> {
        let items = self.removable().await?;
        let (mut bytes, mut count, mut kept) = (0_i64, 0, Vec::new());
        for item in items {
            match self.remove_item(&item.action).await {
                Ok(()) => {
                    bytes += item.shown.bytes;
                    count += 1;
                }
                Err(problem) => {
                    kept.push(format!("{} {} ({})", item.shown.kind, item.shown.name, problem.detail))
                }
            }
        }
        let mut said = format!("Removed {count} things, {} MB.", bytes / 1_000_000);
        if !kept.is_empty() {
            said.push_str(&format!(" Could not remove: {}.", kept.join("; ")));
        }
        Ok(said)
    }

    async fn remove_item(self: &Arc<Self>, action: &Action) -> Result<(), Problem> {
        stall::before("cleaned").await;
        match action {
            Action::Release(release) => self.remove_release(release).await,
            Action::Image(id) => {
                self.engine.remove_image(id).await.map(|_| ()).map_err(|e| engine_problem(&e))
            }
            Action::Files(path) => {
                remove_dir(path).await.map_err(|e| io_problem("removing a release's files", &e))?;
                if let Some(app) = path.parent() {
                    // Only an empty one goes.
                    let _ = tokio::fs::remove_dir(app).await;
                }
                Ok(())
            }
            Action::Upload(id) => self.remove_upload(id).await,
            Action::BuildCache => self
                .engine
                .prune_build_cache(KEEP_BUILD_CACHE)
                .await
                .map(|_| ())
                .map_err(|e| engine_problem(&e)),
        }
    }

    /// Removes an upload and its file.
    pub(crate) async fn remove_upload(&self, id: &UploadId) -> Result<(), Problem> {
        match tokio::fs::remove_file(self.upload_path(id)).await {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(io_problem("removing an upload", &e));
            }
            _ => {}
        }
        self.store.uploads().delete(id).await?;
        Ok(())
    }

    /// Where an upload's archive lies.
    pub(crate) fn upload_path(&self, id: &UploadId) -> PathBuf {
        upload_path(&self.config.data_dir, id)
    }

    /// Cleans up from time to time.
    pub(crate) async fn clean_regularly(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            if let Err(problem) = self
                .enqueue_job(
                    &Principal::daemon(),
                    berth_schemas::job::JobKind::Cleanup,
                    None,
                    serde_json::Value::Null,
                )
                .await
            {
                tracing::warn!(%problem, "the regular cleanup could not begin");
            }
        }
    }
}

/// Where an upload's archive lies below the data directory. The control plane writes it, the pipeline reads it.
#[must_use]
pub fn upload_path(data_dir: &Path, id: &UploadId) -> PathBuf {
    data_dir.join("uploads").join(id.as_str())
}

/// An upload's description with the time at which it goes.
#[must_use]
pub fn upload_expiry(upload: &UploadRow) -> Timestamp {
    Timestamp(upload.created_at.micros() + i64::try_from(UPLOAD_LIFETIME.as_micros()).unwrap_or(i64::MAX))
}

/// `app/number` directories with the bytes in them.
fn two_levels(root: &Path) -> Result<BTreeMap<String, i64>, std::io::Error> {
    let mut found = BTreeMap::new();
    for app in std::fs::read_dir(root)? {
        let app = app?;
        if !app.file_type()?.is_dir() {
            continue;
        }
        for release in std::fs::read_dir(app.path())? {
            let release = release?;
            let name =
                format!("{}/{}", app.file_name().to_string_lossy(), release.file_name().to_string_lossy());
            found.insert(name, tree_bytes(&release.path())?);
        }
    }
    Ok(found)
}

/// Bytes of the files below a directory; links are not followed.
pub(crate) fn tree_bytes(path: &Path) -> Result<i64, std::io::Error> {
    let meta = std::fs::symlink_metadata(path)?;
    if !meta.is_dir() {
        return Ok(i64::try_from(meta.len()).unwrap_or(i64::MAX));
    }
    let mut bytes = 0;
    for entry in std::fs::read_dir(path)? {
        bytes += tree_bytes(&entry?.path())?;
    }
    Ok(bytes)
}
