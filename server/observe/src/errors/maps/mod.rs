//! Source maps: from uploaded bundles to caches on disk, and from there to frames that a person can read.
//!
//! A map is kept as a cache (`symbolic-sourcemapcache`) that is read in microseconds, in a file named by its content;
//! the store knows which app it is for and how events name it. Nothing of it is ever served.

pub mod apply;
pub mod bundle;
pub mod chunks;
pub mod found;

use std::{
    collections::{HashMap, HashSet},
    io::Write as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use apply::Need;
use berth_store::{ErrorEventRow, Joined, MapsKept, NewMap, Remapped, Store, WantedMap, model::AppId};
use bundle::{BundleError, Pair};
use serde_json::Value;
use sha2::{Digest, Sha256};
use symbolic_sourcemapcache::{SourceMapCache, SourceMapCacheWriter};
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{event::Event, grouping, search::ErrorIndex};

/// Bytes of caches that are kept in memory.
const IN_MEMORY: usize = 64 << 20;
/// Largest cache in bytes.
const MAX_CACHE: usize = 256 << 20;
/// How long a file may lie there before its row comes.
const UNNAMED: Duration = Duration::from_secs(3600);
/// Events that are put right at a time.
const BATCH: i64 = 100;

/// Why maps could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// The bundle is damaged.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A map is damaged.
    #[error("the source map of {url} is damaged: {why}")]
    Map {
        /// Of which file.
        url: String,
        /// In the parser's words.
        why: String,
    },
    /// A file cannot be written or read.
    #[error("a file of source maps: {0}")]
    Io(#[from] std::io::Error),
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] berth_store::StoreError),
}

type Cache = Arc<Vec<u8>>;

/// Source maps of all apps; cheap to clone.
#[derive(Clone)]
pub struct Maps {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    dir: PathBuf,
    /// Newest last.
    memory: Mutex<Vec<(String, Cache)>>,
    /// Files that were read since that was last noted.
    used: Mutex<HashSet<String>>,
    /// Held while a file is written or removed, so that none is removed that somebody just found there.
    disk: Arc<Mutex<()>>,
    /// How often maps came.
    added: AtomicU64,
    wake: Notify,
    tasks: TaskTracker,
}

impl std::fmt::Debug for Maps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Maps").finish_non_exhaustive()
    }
}

/// Makes a cache of a minified file and its map.
///
/// # Errors
/// What is wrong with the map.
pub fn build(source: &str, map: &str) -> Result<Vec<u8>, String> {
    let writer = SourceMapCacheWriter::new(source, map).map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    writer.serialize(&mut bytes).map_err(|e| e.to_string())?;
    Ok(bytes)
}

impl Maps {
    /// Maps below `dir`, with a task that puts events right whose maps came late.
    #[must_use]
    pub fn start(store: Store, dir: PathBuf, index: ErrorIndex, shutdown: CancellationToken) -> Self {
        let shared = Arc::new(Shared {
            store,
            dir,
            memory: Mutex::default(),
            used: Mutex::default(),
            disk: Arc::default(),
            added: AtomicU64::new(0),
            wake: Notify::new(),
            tasks: TaskTracker::new(),
        });
        let maps = Self { shared };
        maps.shared.tasks.spawn(follow(maps.clone(), index, shutdown));
        maps.shared.tasks.close();
        maps
    }

    /// Waits until the task has ended, after the shutdown.
    pub async fn stopped(&self) {
        self.shared.tasks.wait().await;
    }

    /// Where chunks of bundles wait until they are put together.
    #[must_use]
    pub fn chunks_dir(&self) -> PathBuf {
        self.shared.dir.join("chunks")
    }

    /// Keeps the maps of a bundle; how many. What events wait for is put right soon after.
    ///
    /// # Errors
    /// When the bundle or one of its maps is damaged, or it cannot be kept; maps before the damaged one stay.
    pub async fn add_bundle(
        &self,
        app: AppId,
        release: Option<&str>,
        bytes: Vec<u8>,
    ) -> Result<usize, MapError> {
        let pairs = aside(move || Ok(bundle::pairs(&bytes)?)).await?;
        self.add(app, release, pairs).await
    }

    /// Keeps maps; how many.
    ///
    /// # Errors
    /// As [`Maps::add_bundle`].
    pub async fn add(&self, app: AppId, release: Option<&str>, pairs: Vec<Pair>) -> Result<usize, MapError> {
        self.keep(app, release, pairs.into_iter().map(|pair| (pair, Vec::new())).collect(), false).await
    }

    /// Keeps the map of a file that a deployment brings: events that name neither a debug id nor a release find it by its
    /// place alone, the newest first. `also` are other names of the file's place.
    ///
    /// # Errors
    /// As [`Maps::add_bundle`].
    pub async fn add_deployed(
        &self,
        app: AppId,
        release: &str,
        pair: Pair,
        also: Vec<String>,
    ) -> Result<(), MapError> {
        self.keep(app, Some(release), vec![(pair, also)], true).await.map(drop)
    }

    async fn keep(
        &self,
        app: AppId,
        release: Option<&str>,
        pairs: Vec<(Pair, Vec<String>)>,
        deployed: bool,
    ) -> Result<usize, MapError> {
        let mut count = 0;
        for (pair, also) in pairs {
            let (dir, disk) = (self.shared.dir.clone(), Arc::clone(&self.shared.disk));
            let (url, debug_id) = (pair.url.clone(), pair.debug_id.clone());
            let (file, size) = aside(move || {
                let cache = build(&pair.source, &pair.map)
                    .map_err(|why| MapError::Map { url: pair.url.clone(), why })?;
                let file = hex::encode(Sha256::digest(&cache));
                write(&dir, &file, &cache, &disk)?;
                Ok((file, cache.len()))
            })
            .await?;
            let named = |(n, url): (usize, String)| NewMap {
                app,
                // One row of it is enough to be found by its id.
                debug_id: debug_id.clone().filter(|_| n == 0),
                release: release.map(str::to_owned),
                url,
                file: file.clone(),
                bytes: i64::try_from(size).unwrap_or(i64::MAX),
                deployed,
            };
            let maps: Vec<NewMap> = std::iter::once(url).chain(also).enumerate().map(named).collect();
            self.shared.store.errors().add_maps(&maps).await?;
            count += 1;
        }
        self.shared.added.fetch_add(1, Ordering::AcqRel);
        self.shared.wake.notify_one();
        Ok(count)
    }

    /// Tells maps that came before from those that come later.
    pub(super) fn added(&self) -> u64 {
        self.shared.added.load(Ordering::Acquire)
    }

    /// Has events looked at that were kept without their maps, if any came since [`Maps::added`] said `before`: they
    /// were not there yet when the maps came.
    pub(super) fn kept_without(&self, before: u64) {
        if self.added() != before {
            self.shared.wake.notify_one();
        }
    }

    /// Puts an event's frames right, as far as there are maps; true if it changed. `missing` gets what there is no map
    /// for.
    ///
    /// # Errors
    /// When the store or a file cannot be read.
    pub async fn put_right(
        &self,
        app: AppId,
        body: &mut Value,
        missing: &mut Vec<Need>,
    ) -> Result<bool, MapError> {
        let mut needs = apply::needs(body);
        if needs.is_empty() {
            return Ok(false);
        }
        let errors = self.shared.store.errors();
        let deployed = errors.deployed_maps(app).await?;
        // Of what deployments alone can bring, mostly nothing is there, and this saves a look for each file.
        needs.retain(|(_, need)| {
            let otherwise = !need.is_of_place_alone() && !need.is_in_image();
            otherwise || deployed.any || need.is_due(&deployed)
        });
        let mut files: HashMap<String, Cache> = HashMap::new();
        for (path, need) in needs {
            // What lies at this place belongs to another release while this one's maps are still in its image.
            let due = need.is_due(&deployed);
            let (debug_id, release) = (need.debug_id.as_deref(), need.release.as_deref());
            match errors.find_map(app, debug_id, release, &need.url, !due).await? {
                Some(file) => drop(files.insert(path, self.load(file).await?)),
                None if !due && (need.is_of_place_alone() || need.is_in_image()) => {}
                None => missing.push(need),
            }
        }
        if files.is_empty() {
            return Ok(false);
        }
        let taken = std::mem::take(body);
        let (changed, back) = aside(move || {
            let mut body = taken;
            let parsed: HashMap<&str, SourceMapCache<'_>> = files
                .iter()
                .filter_map(|(path, bytes)| Some((path.as_str(), SourceMapCache::parse(bytes).ok()?)))
                .collect();
            let changed = apply::apply(&mut body, |path| parsed.get(path));
            Ok((changed, body))
        })
        .await?;
        *body = back;
        Ok(changed > 0)
    }

    async fn load(&self, file: String) -> Result<Cache, MapError> {
        if let Ok(mut used) = self.shared.used.lock() {
            used.insert(file.clone());
        }
        if let Ok(mut memory) = self.shared.memory.lock()
            && let Some(at) = memory.iter().position(|(name, _)| *name == file)
        {
            let entry = memory.remove(at);
            let cache = Arc::clone(&entry.1);
            memory.push(entry);
            return Ok(cache);
        }
        let path = self.shared.dir.join(&file);
        let cache =
            aside(move || Ok(Arc::new(zstd::bulk::decompress(&std::fs::read(path)?, MAX_CACHE)?))).await?;
        if let Ok(mut memory) = self.shared.memory.lock() {
            memory.push((file, Arc::clone(&cache)));
            let mut size: usize = memory.iter().map(|(_, c)| c.len()).sum();
            while size > IN_MEMORY && memory.len() > 1 {
                size -= memory.remove(0).1.len();
            }
        }
        Ok(cache)
    }

    /// Removes maps that nobody will ask for, files that no row speaks of any more, and chunks of bundles that were never put
    /// together; how many maps.
    ///
    /// # Errors
    /// When the store or the directory does not answer.
    pub async fn prune(&self, kept: MapsKept) -> Result<i64, MapError> {
        let used = self.shared.used.lock().map(|mut used| std::mem::take(&mut *used)).unwrap_or_default();
        let errors = self.shared.store.errors();
        errors.maps_used(&used.into_iter().collect::<Vec<_>>()).await?;
        let gone = errors.prune_maps(kept).await?;
        self.sweep().await?;
        let chunks = self.chunks_dir();
        aside(move || Ok(chunks::make_room(&chunks)?)).await?;
        Ok(gone)
    }

    /// Removes files that no row speaks of.
    async fn sweep(&self) -> Result<(), MapError> {
        let kept = self.shared.store.errors().map_files().await?;
        let (dir, disk) = (self.shared.dir.clone(), Arc::clone(&self.shared.disk));
        aside(move || {
            let Ok(entries) = std::fs::read_dir(&dir) else { return Ok(()) };
            for entry in entries.flatten() {
                if entry.file_name().to_str().is_some_and(|name| kept.contains(name)) {
                    continue;
                }
                let _alone = disk.lock();
                // A file is written before its row.
                let old = entry.metadata().is_ok_and(|about| {
                    let at = about.modified().ok().filter(|_| about.is_file());
                    at.and_then(|at| at.elapsed().ok()).is_some_and(|age| age > UNNAMED)
                });
                if old {
                    std::fs::remove_file(entry.path())?;
                }
            }
            Ok(())
        })
        .await
    }
}

async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, MapError> + Send + 'static,
) -> Result<T, MapError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| MapError::Io(std::io::Error::other(e)))?
}

/// Writes a cache so that it is whole or not there.
fn write(dir: &Path, file: &str, cache: &[u8], disk: &Mutex<()>) -> std::io::Result<()> {
    let path = dir.join(file);
    let _alone = disk.lock();
    match std::fs::File::options().write(true).open(&path) {
        // As good as new: its row comes.
        Ok(there) => return there.set_modified(std::time::SystemTime::now()),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Err(_) => {}
    }
    std::fs::create_dir_all(dir)?;
    let mut temporary = tempfile::NamedTempFile::new_in(dir)?;
    temporary.write_all(&zstd::bulk::compress(cache, 3)?)?;
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|e| e.error)?;
    std::fs::File::open(dir)?.sync_all()
}

/// Puts events right whose maps came after them.
async fn follow(maps: Maps, index: ErrorIndex, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        match batch(&maps, &index).await {
            Ok(0) => tokio::select! {
                () = maps.shared.wake.notified() => {}
                () = shutdown.cancelled() => return,
            },
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "events were not put right by their source maps; trying again");
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs(10)) => {}
                    () = shutdown.cancelled() => return,
                }
            }
        }
    }
}

async fn batch(maps: &Maps, index: &ErrorIndex) -> Result<usize, MapError> {
    let errors = maps.shared.store.errors();
    let rows = errors.mappable(BATCH).await?;
    let mut issues = std::collections::BTreeSet::new();
    for row in &rows {
        let (done, missing) = remap(maps, row).await?;
        issues.insert(row.issue_id);
        if let Some(Joined { gone, into }) = errors.remapped(row, done, &missing).await? {
            index.remove_issue(gone).await;
            issues.remove(&gone);
            issues.insert(into);
        }
    }
    for issue in issues {
        index.read_again(issue).await;
    }
    Ok(rows.len())
}

/// What an event becomes by the maps that there are, and those that it still wants.
async fn remap(maps: &Maps, row: &ErrorEventRow) -> Result<(Option<Remapped>, Vec<WantedMap>), MapError> {
    let mut body: Value = serde_json::from_slice(&row.body).unwrap_or_default();
    let mut missing = Vec::new();
    let changed = maps.put_right(row.app_id, &mut body, &mut missing).await?;
    let done = if changed { regrouped(row, &body) } else { None };
    Ok((done, missing.iter().map(Need::wanted).collect()))
}

/// An event as it is to be kept, grouped by what its frames say now; none if it cannot be read.
fn regrouped(row: &ErrorEventRow, body: &Value) -> Option<Remapped> {
    let event = Event::read(body)?;
    let grouping = grouping::group(row.app_id.0, &event);
    Some(Remapped {
        body: body.to_string().into_bytes(),
        kind: event.kind(),
        value: event.value(),
        culprit: event.culprit(),
        strict: grouping.strict,
        loose: grouping.loose,
        reasons: grouping.reasons,
    })
}
