//! Turning a checkout into a source tree: `.git` goes, names are checked, links that lead out are removed.
//! Blocking.

use std::collections::BTreeMap;
use std::path::Path;

use super::failure::GitError;
use crate::source::confined::hash_directory;
use crate::source::limits::{Limits, shown};
use crate::source::path::{TreePath, resolve_link};

pub(super) struct Settled {
    pub(super) sha256: [u8; 32],
    pub(super) removed_links: Vec<String>,
}

pub(super) fn settle(dir: &Path, limits: &Limits, url: &str) -> Result<Settled, GitError> {
    std::fs::remove_dir_all(dir.join(".git")).map_err(GitError::Disk)?;
    let mut links = BTreeMap::new();
    let (mut entries, mut bytes) = (0_u64, 0_u64);
    let mut ahead = vec![dir.to_owned()];
    while let Some(folder) = ahead.pop() {
        for entry in std::fs::read_dir(&folder).map_err(GitError::Disk)? {
            let entry = entry.map_err(GitError::Disk)?;
            let full = entry.path();
            let kind = entry.file_type().map_err(GitError::Disk)?;
            // A submodule's own `.git` file.
            if entry.file_name() == ".git" && kind.is_file() {
                std::fs::remove_file(&full).map_err(GitError::Disk)?;
                continue;
            }
            let below = full.strip_prefix(dir).unwrap_or(&full);
            let raw = below.as_os_str().as_encoded_bytes();
            let path = TreePath::parse(raw).map_err(|why| GitError::UnsafePath { entry: shown(raw), why })?;
            entries += 1;
            if kind.is_dir() {
                ahead.push(full);
            } else if kind.is_symlink() {
                let target = std::fs::read_link(&full).map_err(GitError::Disk)?;
                // A target that is no text resolves nowhere, and is removed with the others.
                links.insert(path, target.to_str().unwrap_or("").to_owned());
            } else {
                bytes += entry.metadata().map_err(GitError::Disk)?.len();
            }
            if bytes > limits.bytes || entries > limits.entries {
                return Err(GitError::TooLarge { url: url.to_owned(), limit: limits.bytes });
            }
        }
    }
    let out: Vec<&TreePath> = links.keys().filter(|path| resolve_link(path, &links).is_err()).collect();
    for path in &out {
        std::fs::remove_file(dir.join(path.as_str())).map_err(GitError::Disk)?;
    }
    let removed_links = out.iter().map(ToString::to_string).collect();
    Ok(Settled { sha256: hash_directory(dir).map_err(GitError::Disk)?, removed_links })
}

/// The bytes of all files below `dir`; what vanishes while looking is not counted.
pub(super) fn size_on_disk(dir: &Path) -> u64 {
    let mut bytes = 0;
    let mut ahead = vec![dir.to_owned()];
    while let Some(folder) = ahead.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => ahead.push(entry.path()),
                Ok(meta) => bytes += meta.len(),
                Err(_) => {}
            }
        }
    }
    bytes
}
