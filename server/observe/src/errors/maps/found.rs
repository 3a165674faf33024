//! Source maps that lie beside the minified files of a release.

use std::{
    collections::HashMap,
    fs,
    io::{self, Read as _},
    path::{Component, Path, PathBuf},
};

use serde_json::Value;

use super::bundle::{MAX_FILE, Pair, debug_id};

/// Entries of a release that are looked at.
const MAX_ENTRIES: usize = 200_000;
/// Maps of a release.
const MAX_MAPS: usize = 20_000;
/// Ends of a path by which a script is known.
const MAX_ENDS: usize = 8;
/// Bytes at the end of a minified file in which it names its map.
const TAIL: usize = 4096;

/// A minified file and its map, not read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundMap {
    /// The minified file.
    pub source: PathBuf,
    /// Its map.
    pub map: PathBuf,
    /// The file's place below the release's root, such as `~/assets/index.js`.
    pub url: String,
}

impl FoundMap {
    /// Reads both. None if one of them is too large, or is no text. Blocking.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read(&self) -> io::Result<Option<Pair>> {
        let (Some(source), Some(map)) = (text(&self.source)?, text(&self.map)?) else { return Ok(None) };
        let debug_id = comment(&source, "debugId").as_deref().and_then(debug_id).or_else(|| {
            let map: Value = serde_json::from_str(&map).ok()?;
            debug_id(map.get("debugId").or_else(|| map.get("debug_id"))?.as_str()?)
        });
        Ok(Some(Pair { debug_id, url: self.url.clone(), source, map }))
    }
}

/// The scripts of an image, to tell by which of their names one cannot be taken for another.
///
/// An app serves its folders at paths that only itself knows, so a script is named by its path in the image, which frames
/// of a server have, and by each end of that path, such as `~/assets/index.js`, that no other script has.
#[derive(Debug, Default)]
pub struct ImageScripts(HashMap<String, Option<[u8; 32]>>);

impl ImageScripts {
    /// Adds the script at `place` below a folder of the image, with a digest of what it holds.
    pub fn add(&mut self, place: &str, digest: [u8; 32]) {
        for end in ends(place) {
            let known = self.0.entry(end).or_insert(Some(digest));
            // The same file in two places is one.
            if *known != Some(digest) {
                *known = None;
            }
        }
    }

    /// The ends of a place that lead to this script alone.
    #[must_use]
    pub fn names(&self, place: &str) -> Vec<String> {
        ends(place).filter(|end| self.0.get(end).is_some_and(Option::is_some)).collect()
    }
}

/// The ends of a path, each as a URL without host, the longest first. What Next.js builds into `.next` it serves below
/// `/_next`.
fn ends(place: &str) -> impl Iterator<Item = String> {
    let parts: Vec<&str> =
        place.split('/').map(|part| if part == ".next" { "_next" } else { part }).collect();
    let from = parts.len().saturating_sub(MAX_ENDS);
    (from..parts.len()).map(move |at| format!("~/{}", parts[at..].join("/")))
}

/// The minified files below `root` that have a map there. Links are not followed. Blocking.
///
/// # Errors
/// When a folder or file cannot be read.
pub fn beside(root: &Path) -> io::Result<Vec<FoundMap>> {
    let (mut found, mut folders, mut entries) = (Vec::new(), vec![root.to_path_buf()], 0);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            entries += 1;
            if entries > MAX_ENTRIES || found.len() >= MAX_MAPS {
                return Ok(found);
            }
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && is_script(&entry.path()) {
                found.extend(map_of(root, entry.path())?);
            }
        }
    }
    Ok(found)
}

/// Whether a file is one of JavaScript, by its name.
#[must_use]
pub fn is_script(path: &Path) -> bool {
    path.extension().is_some_and(|ext| ["js", "mjs", "cjs"].iter().any(|script| ext == *script))
}

fn map_of(root: &Path, source: PathBuf) -> io::Result<Option<FoundMap>> {
    let Some(place) = source.strip_prefix(root).ok().and_then(Path::to_str) else { return Ok(None) };
    let url = format!("~/{place}");
    let named = comment(&tail(&source)?, "sourceMappingURL").and_then(|name| resolved(root, &source, &name));
    let mut usual = source.clone().into_os_string();
    usual.push(".map");
    let map = named.into_iter().chain([PathBuf::from(usual)]).find(|map| is_file(map));
    Ok(map.map(|map| FoundMap { source, map, url }))
}

/// Whether it is a file itself: no link to one.
fn is_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file())
}

/// The file that a minified one names as its map, if it lies below `root`.
fn resolved(root: &Path, source: &Path, name: &str) -> Option<PathBuf> {
    let name = name.split(['?', '#']).next()?;
    if name.contains(':') || name.starts_with("//") {
        return None;
    }
    let base = if name.starts_with('/') { root } else { source.parent()? };
    let mut path = base.to_path_buf();
    for part in Path::new(name.trim_start_matches('/')).components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::ParentDir => drop(path.pop()),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (path.starts_with(root) && path.extension().is_some_and(|ext| ext == "map")).then_some(path)
}

/// The value of the last `//# name=value` line.
fn comment(source: &str, name: &str) -> Option<String> {
    source.lines().rev().take(20).find_map(|line| {
        let rest = line.trim().strip_prefix("//# ").or_else(|| line.trim().strip_prefix("//@ "))?;
        Some(rest.strip_prefix(name)?.strip_prefix('=')?.trim().to_owned())
    })
}

fn tail(path: &Path) -> io::Result<String> {
    use std::io::{Seek as _, SeekFrom};
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL as u64)))?;
    let mut bytes = Vec::new();
    file.take(TAIL as u64).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn text(path: &Path) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    Ok(if bytes.len() as u64 > MAX_FILE { None } else { String::from_utf8(bytes).ok() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_found_where_their_files_say_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("site");
        fs::create_dir_all(root.join("assets/maps")).unwrap();
        let write = |place: &str, text: &str| fs::write(root.join(place), text).unwrap();
        write("assets/a.js", "a()\n//# sourceMappingURL=maps/a.js.map?x\n");
        write("assets/maps/a.js.map", "{}");
        write("b.mjs", "b()\n//# debugId=FF0D4CCA3C945250A2DCB3E40BB3D19B\n");
        write("b.mjs.map", "{}");
        write("c.js", "c()\n//# sourceMappingURL=../../outside.map");
        fs::write(dir.path().join("outside.map"), "{}").unwrap();
        write("d.js", "d()\n//# sourceMappingURL=data:application/json;base64,e30=");
        write("e.js", "e()");
        std::os::unix::fs::symlink(dir.path().join("outside.map"), root.join("e.js.map")).unwrap();
        write("f.css", "f{}");
        write("f.css.map", "{}");
        let mut found = beside(&root).unwrap();
        found.sort_by(|a, b| a.url.cmp(&b.url));
        let urls: Vec<&str> = found.iter().map(|f| f.url.as_str()).collect();
        assert_eq!(urls, ["~/assets/a.js", "~/b.mjs"]);
        assert_eq!(found[0].map, root.join("assets/maps/a.js.map"));
        let pair = found[1].read().unwrap().unwrap();
        assert_eq!(pair.debug_id.as_deref(), Some("ff0d4cca-3c94-5250-a2dc-b3e40bb3d19b"));
    }

    #[test]
    fn scripts_of_an_image_are_known_by_what_no_other_ends_with() {
        let mut scripts = ImageScripts::default();
        for (place, digest) in
            [("dist/index.js", 1), ("public/index.js", 2), ("dist/client/a.js", 3), ("out/a.js", 3)]
        {
            scripts.add(place, [digest; 32]);
        }
        scripts.add(".next/static/chunks/b.js", [4; 32]);
        assert_eq!(scripts.names("dist/index.js"), ["~/dist/index.js"]);
        assert_eq!(scripts.names("dist/client/a.js"), ["~/dist/client/a.js", "~/client/a.js", "~/a.js"]);
        let names = scripts.names(".next/static/chunks/b.js");
        assert_eq!(names[0], "~/_next/static/chunks/b.js");
        assert_eq!(ends(&"x/".repeat(50)).count(), MAX_ENDS);
    }
}
