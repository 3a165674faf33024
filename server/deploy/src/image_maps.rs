//! Source maps in images that Berth built: taken out of the image once its release gets visitors, and kept for reading
//! errors. The store says of which releases this is still to be done, so a restart goes on with it; nothing waits for it.
//!
//! The image is read through a container of it that is never started.

use std::{
    io::{self, Read},
    path::{Component, Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use berth_observe::errors::maps::{
    Maps,
    bundle::{MAX_FILE, Pair},
    found::{self, FoundMap, ImageScripts},
};
use berth_schemas::{Code, Problem, deployment::BuildLineKind};
use berth_store::model::{Artifact, ReleaseRow};
use sha2::{Digest, Sha256};
use tokio_util::io::{StreamReader, SyncIoBridge};

use crate::{
    attempt::io_problem,
    deployed_maps::name_damaged,
    docker::{ContainerId, ContainerSpec, ContextStream},
    fault::engine_problem,
    journal::Journal,
    limits,
    lock::lock,
    pipeline::Inner,
};

/// How often to look without being told, and how long to wait after a failure.
const PAUSE: Duration = Duration::from_secs(60);
/// Between two attempts to remove a container.
const AGAIN: Duration = Duration::from_secs(2);
/// How often an image is tried.
const TRIES: i64 = 3;
/// Bytes of an image's folders that are looked through.
const MAX_READ: u64 = 4 << 30;
/// Bytes of scripts and maps that are taken out of an image.
const MAX_KEPT: u64 = 512 << 20;
/// Scripts and maps that are taken out of an image.
const MAX_FILES: usize = 50_000;
/// Names of scripts that are kept for a release, besides one for each.
const MAX_NAMES: usize = 20_000;
/// Where images have their apps and sites, besides the working directory.
const FOLDERS: [&str; 7] = [
    "/app",
    "/srv",
    "/usr/src/app",
    "/usr/share/nginx/html",
    "/usr/share/caddy",
    "/usr/local/apache2/htdocs",
    "/var/www/html",
];
/// Beginning of the names of work directories that hold what was taken out of an image.
pub(crate) const WORK_PREFIX: &str = "maps-";

/// What was taken out of an image.
#[derive(Debug, Default)]
struct Copied {
    read: u64,
    kept: u64,
    files: usize,
    /// Some of it was left, because it is too much.
    cut: bool,
    scripts: ImageScripts,
}

/// What became of the maps of an image.
#[derive(Debug, Default)]
struct Taken {
    kept: usize,
    damaged: Vec<String>,
    cut: bool,
}

impl Inner {
    /// Takes the maps of every release whose turn it is, until the daemon goes down.
    pub(crate) async fn take_image_maps(self: Arc<Self>) {
        let Some(maps) = self.config.maps.clone() else { return };
        loop {
            if let Err(problem) = self.take_due(&maps).await {
                tracing::warn!(%problem, "source maps were not taken out of an image; trying again");
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = self.maps_due.notified() => {}
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    async fn take_due(&self, maps: &Maps) -> Result<(), Problem> {
        for (release, name) in self.store.releases().maps_due().await? {
            if self.shutdown.is_cancelled() {
                return Ok(());
            }
            self.take_of(maps, &release, &name).await?;
        }
        Ok(())
    }

    /// Takes the maps of one release, and tells its deployment's log.
    async fn take_of(&self, maps: &Maps, release: &ReleaseRow, name: &str) -> Result<(), Problem> {
        let deployment = self.deployment(release.deployment_id).await?;
        let (store, watchers) = (self.store.clone(), self.watchers.clone());
        let journal = Journal::open(store, watchers, deployment.id, deployment.state, &self.tasks);
        let tries = self.store.releases().begin_maps(release.id).await?;
        match self.take_from(maps, release, name, tries).await {
            Ok(taken) => tell(&journal, release, &taken).await,
            // The next start takes it up.
            Err(_) if self.shutdown.is_cancelled() => return Ok(()),
            Err(problem) => {
                let then = match tries < TRIES {
                    true => "that is tried again in a minute",
                    false => "its errors show code as it was built, unless its maps are uploaded",
                };
                let line =
                    format!("source maps could not be taken out of the image; {then}: {}", problem.detail);
                journal.line(BuildLineKind::Warning, None, line).await;
                if tries < TRIES {
                    return Ok(());
                }
            }
        }
        Ok(self.store.errors().maps_taken(release.app_id, release.id).await?)
    }

    async fn take_from(
        &self,
        maps: &Maps,
        release: &ReleaseRow,
        name: &str,
        tries: i64,
    ) -> Result<Taken, Problem> {
        let Artifact::Image { image_id, .. } = &release.artifact else { return Ok(Taken::default()) };
        // Whoever removes the image comes in at once.
        let gate = self.image_reads.of(image_id.clone());
        let _inside = gate.enter_patiently().await;
        let Some(image) = self.engine.inspect_image(image_id).await.map_err(|e| engine_problem(&e))? else {
            return Ok(Taken::default());
        };
        let app = self.app_in(release.environment_id).await?;
        let network = self.instance.network_name(app.project.as_str());
        let own = format!("berth-maps-{}-{}-{tries}", self.instance.short(), release.id.0);
        let _copying = Copying::begin(self, own.clone());
        let container = self.engine.create_container(ContainerSpec::new(own, image_id, network)).await;
        let container = container.map_err(|e| engine_problem(&e))?;
        let folders = folders(&image.working_dir);
        let taken = tokio::select! {
            taken = self.take_through(maps, release, name, &container, &folders) => taken,
            () = gate.wanted() => Ok(Taken::default()),
            () = self.shutdown.cancelled() => Err(Problem::new(Code::Internal, "The daemon is going down.")),
            () = tokio::time::sleep(limits::IMAGE_MAPS) => {
                Err(limits::timed_out("looking for source maps in the image", limits::IMAGE_MAPS))
            }
        };
        self.remove_reader(&container).await;
        taken
    }

    /// Removes the container that an image was read through. While Docker is away, that is tried until it is back.
    async fn remove_reader(&self, container: &ContainerId) {
        while let Err(error) = self.remove_container(container).await {
            let container = container.short();
            tracing::warn!(container, %error, "a container that an image was read through is still to be removed");
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                // The next daemon sweeps it.
                () = self.shutdown.cancelled() => return,
            }
        }
    }

    async fn take_through(
        &self,
        maps: &Maps,
        release: &ReleaseRow,
        name: &str,
        container: &ContainerId,
        folders: &[String],
    ) -> Result<Taken, Problem> {
        let failed = |e: io::Error| io_problem("looking for source maps in the image", &e);
        let work = self.config.data_dir.join("work");
        let dir = tempfile::Builder::new().prefix(WORK_PREFIX).tempdir_in(work).map_err(failed)?;
        let mut copied = Copied::default();
        let mut found = Vec::new();
        for (n, folder) in folders.iter().enumerate() {
            let archive = self.engine.copy_out(container, folder).await.map_err(|e| engine_problem(&e))?;
            let Some(archive) = archive else { continue };
            let into = dir.path().join(n.to_string());
            let here;
            (copied, here) = copy_aside(archive, into, copied).await.map_err(failed)?;
            found.extend(here.into_iter().map(|map| (folder, map)));
        }
        let mut taken = Taken { cut: copied.cut, ..Taken::default() };
        let mut names = MAX_NAMES;
        for (folder, map) in found {
            let place = map.url.trim_start_matches("~/").to_owned();
            let path = format!("{folder}/{place}");
            let read = tokio::task::spawn_blocking(move || map.read()).await.map_err(io::Error::other);
            let also = names_within(&copied.scripts, &place, &mut names);
            let kept = match read.and_then(|pair| pair).map_err(failed)? {
                Some(pair) => {
                    let pair = Pair { url: path.clone(), ..pair };
                    let kept = maps.add_deployed(release.app_id, name, pair, also).await;
                    kept.inspect_err(
                        |error| tracing::warn!(%error, "a source map of an image cannot be used"),
                    )
                    .is_ok()
                }
                None => false,
            };
            match kept {
                true => taken.kept += 1,
                false => taken.damaged.push(path),
            }
        }
        Ok(taken)
    }
}

/// The names of a script besides its path, as many as there is room for.
fn names_within(scripts: &ImageScripts, place: &str, room: &mut usize) -> Vec<String> {
    let mut names = scripts.names(place);
    names.truncate(*room);
    *room -= names.len();
    names
}

/// The name of a container that an image is read through, while it is.
struct Copying<'i> {
    inner: &'i Inner,
    name: String,
}

impl<'i> Copying<'i> {
    fn begin(inner: &'i Inner, name: String) -> Self {
        lock(&inner.copying).insert(name.clone());
        Self { inner, name }
    }
}

impl Drop for Copying<'_> {
    fn drop(&mut self) {
        lock(&self.inner.copying).remove(&self.name);
    }
}

async fn tell(journal: &Journal, release: &ReleaseRow, taken: &Taken) {
    if taken.kept > 0 {
        let whose = match &release.artifact {
            Artifact::Image { private_maps: true, .. } => "kept for reading errors and not served",
            _ => "kept for reading errors; the app may serve them, too",
        };
        journal.note(format!("{} source maps in the image are {whose}", taken.kept)).await;
    }
    name_damaged(journal, &taken.damaged).await;
    if taken.cut {
        let line = "the image holds more than is searched for source maps; those in the rest were not taken";
        journal.line(BuildLineKind::Warning, None, line.to_owned()).await;
    }
}

/// The folders of an image that are looked through: its working directory, and where apps and sites mostly lie.
fn folders(working_dir: &str) -> Vec<String> {
    let own = working_dir.trim_end_matches('/');
    let mut folders: Vec<String> = Vec::new();
    // A working directory that was not set is the root, with the whole system below it.
    let own = Some(own).filter(|own| own.starts_with('/') && !own.split('/').any(|part| part == ".."));
    for folder in own.into_iter().chain(FOLDERS) {
        let inside = |outer: &str| Path::new(folder).starts_with(outer);
        if !folders.iter().any(|known| inside(known)) {
            folders.push(folder.to_owned());
        }
    }
    folders
}

/// Takes scripts and maps out of an archive, and looks which belong together.
async fn copy_aside(
    archive: ContextStream,
    into: PathBuf,
    copied: Copied,
) -> io::Result<(Copied, Vec<FoundMap>)> {
    let reader = SyncIoBridge::new(StreamReader::new(archive));
    let stop = StopOnDrop::default();
    let seen = Arc::clone(&stop.0);
    let work = move || {
        std::fs::create_dir_all(&into)?;
        let copied = copy(reader, &into, copied, &seen)?;
        Ok((copied, found::beside(&into)?))
    };
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Tells work on another thread that nobody waits for it any more.
#[derive(Default)]
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn copy(reader: impl Read, into: &Path, mut copied: Copied, stop: &AtomicBool) -> io::Result<Copied> {
    for entry in tar::Archive::new(reader).entries()? {
        let mut entry = entry?;
        if stop.load(Ordering::Relaxed) {
            return Err(io::Error::from(io::ErrorKind::Interrupted));
        }
        let size = entry.header().size()?;
        copied.read = copied.read.saturating_add(size);
        if copied.read > MAX_READ {
            copied.cut = true;
            break;
        }
        let Some(place) = place_of(&entry.path()?) else { continue };
        let script = found::is_script(Path::new(&place));
        let wanted = script || is_map(&place);
        if !wanted || !entry.header().entry_type().is_file() || size > MAX_FILE {
            continue;
        }
        if copied.files == MAX_FILES || copied.kept.saturating_add(size) > MAX_KEPT {
            copied.cut = true;
            break;
        }
        let mut bytes = Vec::new();
        entry.by_ref().take(MAX_FILE).read_to_end(&mut bytes)?;
        copied.files += 1;
        copied.kept += bytes.len() as u64;
        if script {
            copied.scripts.add(&place, Sha256::digest(&bytes).into());
        }
        let file = into.join(&place);
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(file, bytes)?;
    }
    Ok(copied)
}

/// The place of an entry below the folder that was asked for, which is the first part of its name. None for what is no
/// plain path, and for packages: their maps are large and lead to nobody's own code.
fn place_of(path: &Path) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => parts.push(part.to_str().filter(|part| *part != "node_modules")?),
            Component::CurDir => {}
            _ => return None,
        }
    }
    (parts.len() > 1).then(|| parts[1..].join("/"))
}

/// Whether a file may be the map of a script.
fn is_map(place: &str) -> bool {
    place.ends_with(".map") && !place.ends_with(".css.map") && !place.ends_with(".d.ts.map")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_working_directory_comes_first_and_nothing_is_read_twice() {
        assert_eq!(folders("/app/")[0], "/app");
        assert_eq!(folders("/app").len(), FOLDERS.len());
        assert_eq!(folders("/"), FOLDERS);
        assert_eq!(folders(""), FOLDERS);
        assert!(!folders("/usr/src").contains(&"/usr/src/app".to_owned()));
        assert_eq!(folders("/x/../y"), FOLDERS);
    }

    #[test]
    fn names_of_scripts_are_kept_up_to_a_limit() {
        let place = |n: usize| format!("a{n}/b{n}/c{n}/d{n}/e{n}/f{n}.js");
        let mut scripts = ImageScripts::default();
        let all = MAX_NAMES / 6 + 2;
        for n in 0..all {
            scripts.add(&place(n), Sha256::digest(n.to_be_bytes()).into());
        }
        assert_eq!(scripts.names(&place(0)).len(), 6, "each of its ends is its own");
        let mut room = MAX_NAMES;
        let mut kept: Vec<Vec<String>> =
            (0..all).map(|n| names_within(&scripts, &place(n), &mut room)).collect();
        assert_eq!((kept.iter().map(Vec::len).sum::<usize>(), room), (MAX_NAMES, 0));
        // The last that has room for some keeps its longest names, and what comes after has its path alone.
        assert_eq!(kept.pop(), Some(Vec::new()));
        let some = kept.pop().unwrap();
        assert_eq!(some.len(), MAX_NAMES % 6);
        assert_eq!(some, scripts.names(&place(all - 2))[..some.len()]);
        assert!(some[0].starts_with("~/a"), "{some:?}");
    }

    #[test]
    fn only_scripts_and_their_maps_are_taken_and_never_beside_the_folder() {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, text) in [
            ("app/dist/server.js", "a()\n//# sourceMappingURL=server.js.map"),
            ("app/dist/server.js.map", "{}"),
            ("app/dist/style.css.map", "{}"),
            ("app/node_modules/x/a.js", "x()"),
            ("app/main.py", "x"),
            ("app/app2/../../../evil.js", "x"),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            // The writer would refuse a name with `..`.
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            builder.append(&header, text.as_bytes()).unwrap();
        }
        let archive = builder.into_inner().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let into = dir.path().join("0/1/2");
        std::fs::create_dir_all(&into).unwrap();
        let copied = copy(archive.as_slice(), &into, Copied::default(), &AtomicBool::new(false)).unwrap();
        assert_eq!((copied.files, copied.cut), (2, false));
        assert_eq!(copied.scripts.names("dist/server.js"), ["~/dist/server.js", "~/server.js"]);
        let found = found::beside(&into).unwrap();
        assert_eq!(found.iter().map(|f| f.url.as_str()).collect::<Vec<_>>(), ["~/dist/server.js"]);
        assert!(!dir.path().join("0/evil.js").exists() && !dir.path().join("evil.js").exists());
        let stopped = copy(archive.as_slice(), &into, Copied::default(), &AtomicBool::new(true));
        assert_eq!(stopped.unwrap_err().kind(), io::ErrorKind::Interrupted);
    }
}
