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
use berth_store::model::{Artifact, NewEvent, Principal, ReleaseRow, UploadRow, Visible};

use crate::{
    attempt::{io_problem, remove_dir},
    build_cache::own_bytes,
    docker::{ImageSummary, label},
    fault::engine_problem,
    image_maps,
    pipeline::Inner,
    room::Room,
    stall,
};

/// Uploads that no deployment uses are kept this long.
pub(crate) const UPLOAD_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Files of Berth's own that belong to nothing go when they are older than this: younger ones may be at work.
const LEFTOVER_AGE: Duration = Duration::from_secs(3600);
/// Cleanup runs by itself this often.
const INTERVAL: Duration = Duration::from_secs(6 * 3600);
/// Part of the build cache that stays while the disk runs full.
const PRESSED: u64 = 10;
/// Things that stay are listed up to this many.
const MOST_KEPT: usize = 50;

/// What a cleanup would do.
#[derive(Debug, Clone)]
pub struct CleanupFound {
    /// What it would remove.
    pub items: Vec<Removable>,
    /// What it would keep.
    pub kept: Vec<Removable>,
}

/// What goes and what stays.
#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) items: Vec<Item>,
    pub(crate) kept: Vec<Removable>,
}

/// Something to remove, and how.
pub(crate) struct Item {
    pub(crate) shown: Removable,
    action: Action,
}

enum Action {
    Release(Box<ReleaseRow>),
    Image(String),
    Files(PathBuf),
    File(PathBuf),
    Upload(UploadId),
    /// Down to so many bytes.
    BuildCache(u64),
}

/// What is found before the store is read: whoever made it has a row there by then, or an unsettled deployment.
struct Found {
    images: Vec<ImageSummary>,
    files: BTreeMap<String, i64>,
    work: BTreeMap<String, i64>,
    uploads: BTreeMap<String, i64>,
}

impl Plan {
    fn remove(
        &mut self,
        action: Action,
        kind: &str,
        name: impl Into<String>,
        bytes: i64,
        why: impl Into<String>,
    ) {
        self.items.push(Item { shown: thing(kind, name, bytes, why), action });
    }

    fn keep(&mut self, kind: &str, name: impl Into<String>, bytes: i64, why: impl Into<String>) {
        if self.kept.len() < MOST_KEPT {
            self.kept.push(thing(kind, name, bytes, why));
        }
    }
}

fn thing(kind: &str, name: impl Into<String>, bytes: i64, why: impl Into<String>) -> Removable {
    Removable { kind: kind.into(), name: name.into(), bytes, why: why.into() }
}

impl Inner {
    /// What is not needed now, with sizes, and what stays; of our build cache so many bytes.
    pub(crate) async fn removable(self: &Arc<Self>, cache_bound: u64) -> Result<Plan, Problem> {
        let found = self.find().await?;
        let mut plan = Plan::default();
        let (used_images, used_files) = self.plan_releases(&mut plan).await?;
        let at_work = self.store.deployments().unsettled().await?;
        let building: HashSet<String> = at_work.iter().map(|d| d.app.to_string()).collect();
        for image in found.images.into_iter().filter(|i| !used_images.contains(&i.id)) {
            if image.labels.get(label::APP).is_some_and(|app| building.contains(app)) {
                continue;
            }
            let name = image.tags.first().cloned().unwrap_or_else(|| image.id.clone());
            let bytes = i64::try_from(image.size_bytes).unwrap_or(i64::MAX);
            plan.remove(Action::Image(image.id), "image", name, bytes, "no kept release uses it");
        }
        for (path, bytes) in found.files {
            let app = path.split('/').next().and_then(|a| a.parse::<i64>().ok());
            if used_files.contains(&path) || app.is_some_and(|a| at_work.iter().any(|d| d.app_id.0 == a)) {
                continue;
            }
            let action = Action::Files(self.config.data_dir.join("releases").join(&path));
            plan.remove(action, "release_files", path, bytes, "no kept release uses them");
        }
        for (name, bytes) in found.work {
            let read = name.starts_with(image_maps::WORK_PREFIX);
            if read || at_work.iter().any(|d| d.id.0.to_string() == name) {
                continue;
            }
            let action = Action::Files(self.config.data_dir.join("work").join(&name));
            plan.remove(action, "work_files", name, bytes, "left by a deployment that has ended");
        }
        self.plan_uploads(found.uploads, &mut plan).await?;
        self.plan_cache(cache_bound, &mut plan).await;
        Ok(plan)
    }

    async fn find(&self) -> Result<Found, Problem> {
        let images = self.engine.list_images().await.unwrap_or_default();
        let data = self.config.data_dir.clone();
        let listed = tokio::task::spawn_blocking(move || -> Result<_, std::io::Error> {
            Ok(Found {
                images,
                files: two_levels(&data.join("releases"))?,
                work: one_level(&data.join("work"), Duration::ZERO)?,
                uploads: one_level(&data.join("uploads"), LEFTOVER_AGE)?,
            })
        });
        let listed = listed.await.map_err(std::io::Error::other).and_then(|found| found);
        listed.map_err(|e| io_problem("listing the files of Berth", &e))
    }

    /// Releases that go and that stay. Returns the images and the files of those that stay.
    async fn plan_releases(&self, plan: &mut Plan) -> Result<(HashSet<String>, HashSet<String>), Problem> {
        let (mut images, mut files) = (HashSet::new(), HashSet::new());
        for app in self.store.apps().all_environments(&Visible::All).await? {
            let pruned = self.releases_to_prune(&app).await;
            for release in self.store.releases().list(app.environment.id, false).await? {
                let name = format!("{}#{}", app.slug, release.number);
                if pruned.iter().any(|p| p.id == release.id) {
                    let (bytes, why) = (release.bytes, "older than the releases kept for rollback");
                    plan.remove(Action::Release(Box::new(release)), "release", name, bytes, why);
                    continue;
                }
                let why = match app.environment.live == Some(release.id) {
                    true => "live",
                    false if release.live_at.is_some() => "kept for rollback",
                    false => "being deployed",
                };
                plan.keep("release", name, release.bytes, why);
                match release.artifact {
                    Artifact::Image { image_id, .. } => images.insert(image_id),
                    Artifact::Static { path } => files.insert(path),
                };
            }
        }
        Ok((images, files))
    }

    /// Uploads that nobody will read, and files without a row that a killed daemon left.
    async fn plan_uploads(&self, files: BTreeMap<String, i64>, plan: &mut Plan) -> Result<(), Problem> {
        let lifetime = i64::try_from(UPLOAD_LIFETIME.as_micros()).unwrap_or(i64::MAX);
        let before = Timestamp(Timestamp::now().micros() - lifetime);
        for upload in self.store.uploads().expired(before).await? {
            let (name, why) = (upload.id.to_string(), "no deployment or proposal needs it");
            plan.remove(Action::Upload(upload.id), "upload", name, upload.bytes, why);
        }
        for (name, bytes) in files {
            let known = match name.parse::<UploadId>() {
                Ok(id) => self.store.uploads().get(&id).await?.is_some(),
                Err(_) => false,
            };
            if !known {
                let action = Action::File(self.config.data_dir.join("uploads").join(&name));
                plan.remove(action, "upload", name, bytes, "it was never received whole");
            }
        }
        Ok(())
    }

    /// Our build cache beyond its bound; that of others stays.
    async fn plan_cache(&self, bound: u64, plan: &mut Plan) {
        let Ok(own) = self.own_cache().await else { return };
        let size = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let bytes = own_bytes(&own);
        let count = own.len();
        if bytes > bound {
            let why = format!("beyond the {} MiB that are kept, least recently used first", bound >> 20);
            plan.remove(Action::BuildCache(bound), "build_cache", "build cache", size(bytes - bound), why);
        }
        plan.keep(
            "build_cache",
            format!("{count} records of Berth's builds"),
            size(bytes.min(bound)),
            "within its bound",
        );
        if let Ok(usage) = self.engine.disk_usage().await {
            let others = usage.build_cache_bytes.saturating_sub(bytes);
            let why = "it is not from Berth's builds, as far as is known; `docker builder prune` drops it";
            plan.keep("build_cache", "the rest of Docker's build cache", size(others), why);
        }
    }

    /// Removes all that; returns what was done, in a sentence. `input` says how full the disk is, if that is why.
    pub(crate) async fn clean_up(self: &Arc<Self>, input: &serde_json::Value) -> Result<String, Problem> {
        let scarce = input.get("free_bytes").and_then(serde_json::Value::as_u64);
        let bound = self.config.build_cache_bytes / if scarce.is_some() { PRESSED } else { 1 };
        let before = self.room().await.ok();
        let (mut count, mut bytes, mut kept) = (BTreeMap::<String, u64>::new(), 0_i64, Vec::new());
        for item in self.removable(bound).await?.items {
            match self.remove_item(&item.action).await {
                Ok(()) => {
                    bytes += item.shown.bytes;
                    *count.entry(item.shown.kind).or_default() += 1;
                }
                Err(problem) => {
                    kept.push(format!("{} {} ({})", item.shown.kind, item.shown.name, problem.detail))
                }
            }
        }
        let what = match count.is_empty() {
            true => "nothing".to_owned(),
            false => count.iter().map(|(kind, n)| format!("{n} {kind}")).collect::<Vec<_>>().join(", "),
        };
        let mut said = format!("Removed {what}: {} MB.", bytes / 1_000_000);
        if let Some(free) = scarce {
            let free = free / 1_000_000;
            said = format!("Only {free} MB were free. {said}");
        }
        if !kept.is_empty() {
            said.push_str(&format!(" Could not remove: {}.", kept.join("; ")));
        }
        let after = self.room().await.ok();
        let free = |room: Option<Room>| room.map(|r| r.free);
        let data = serde_json::json!({
            "removed": count, "bytes": bytes, "not_removed": kept.len(), "disk_was_scarce": scarce.is_some(),
            "free_before": free(before), "free_after": free(after),
        });
        let event =
            NewEvent { kind: "platform.cleaned", by: "berth".into(), app: None, summary: said.clone(), data };
        if let Err(error) = self.store.events().append(event).await {
            tracing::warn!(%error, "an event was not kept");
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
                if let Some(app) =
                    path.parent().filter(|p| p.parent() == Some(&self.config.data_dir.join("releases")))
                {
                    // Only an empty one goes.
                    let _ = tokio::fs::remove_dir(app).await;
                }
                Ok(())
            }
            Action::Upload(id) => self.remove_upload(id).await,
            Action::File(path) => match tokio::fs::remove_file(path).await {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    Err(io_problem("removing a file that was left", &e))
                }
                _ => Ok(()),
            },
            Action::BuildCache(keep) => self.bound_cache(*keep).await.map(drop),
        }
    }

    /// Removes an upload and its file, unless somebody came to need it meanwhile.
    pub(crate) async fn remove_upload(&self, id: &UploadId) -> Result<(), Problem> {
        // The row goes first: what is asked for in this moment is either refused or finds its file. A file whose row
        // is gone goes with the next cleanup.
        if !self.store.uploads().delete(id).await? {
            return Ok(());
        }
        match tokio::fs::remove_file(self.upload_path(id)).await {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io_problem("removing an upload", &e)),
            _ => Ok(()),
        }
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

/// Files and directories that are at least so old, with the bytes in them.
fn one_level(root: &Path, age: Duration) -> Result<BTreeMap<String, i64>, std::io::Error> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        // What vanishes meanwhile is no leftover.
        let Ok(metadata) = entry.metadata() else { continue };
        let old = metadata.modified()?.elapsed().is_ok_and(|elapsed| elapsed >= age);
        if old && let Ok(bytes) = tree_bytes(&entry.path()) {
            found.insert(entry.file_name().to_string_lossy().into_owned(), bytes);
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
