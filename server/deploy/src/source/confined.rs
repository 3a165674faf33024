//! Writing a source tree so that nothing can land outside its directory.
//!
//! Two rules make that so, each enough by itself. Files are made with `openat` below a handle of the root, one
//! name at a time, never following a link and never over something that exists. And links are made last, after
//! every file is in place and all of them together were found to lead inside.
//!
//! Not here: archive formats. [`super::archive`] and [`super::files`] feed a [`ConfinedWriter`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags};
use sha2::{Digest, Sha256};

use super::limits::{ArchiveError, Limits};
use super::path::{PathFault, TreePath, resolve_link};

/// What was unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtractReport {
    /// Files written; folders and links are not counted.
    pub files: u64,
    /// Bytes in those files.
    pub bytes: u64,
    /// SHA-256 over names, executable bits, contents and link targets in the order of names: the same tree has
    /// the same hash, however it came.
    pub sha256: [u8; 32],
    /// The one folder around everything, when it was taken away.
    pub stripped: Option<String>,
}

impl ExtractReport {
    /// The hash in hexadecimal.
    pub fn sha256_hex(&self) -> String {
        hex::encode(self.sha256)
    }
}

enum Node {
    Folder,
    File { executable: bool, bytes: u64, sha256: [u8; 32] },
    Link { target: String },
}

/// Fills a fresh directory. Dropped before [`ConfinedWriter::finish`], it removes everything again.
pub(super) struct ConfinedWriter<'a> {
    dest: PathBuf,
    root: OwnedFd,
    limits: Limits,
    cancel: &'a AtomicBool,
    nodes: BTreeMap<TreePath, Node>,
    /// The folder the last file went to: archives list a folder's files together.
    last: Option<(TreePath, OwnedFd)>,
    bytes: u64,
    finished: bool,
}

impl<'a> ConfinedWriter<'a> {
    /// Makes `dest`, which must not exist yet.
    pub(super) fn create(dest: &Path, limits: Limits, cancel: &'a AtomicBool) -> Result<Self, ArchiveError> {
        let disk = |source: std::io::Error| ArchiveError::Disk { path: dest.to_owned(), source };
        std::fs::create_dir(dest).map_err(disk)?;
        let opened = rustix::fs::open(dest, folder_flags(), Mode::empty());
        let root = opened.map_err(|errno| disk(errno.into()))?;
        Ok(Self {
            dest: dest.to_owned(),
            root,
            limits,
            cancel,
            nodes: BTreeMap::new(),
            last: None,
            bytes: 0,
            finished: false,
        })
    }

    /// True once the caller asked to stop.
    pub(super) fn check_cancel(&self) -> Result<(), ArchiveError> {
        if self.cancel.load(Ordering::Relaxed) { Err(ArchiveError::Cancelled) } else { Ok(()) }
    }

    /// Makes a folder; one that is there already is fine.
    pub(super) fn folder(&mut self, path: &TreePath) -> Result<(), ArchiveError> {
        self.check_cancel()?;
        self.open_folder(path).map(drop)
    }

    /// Writes a file from `content`; an error while reading goes through `broken`. `executable` is all that is
    /// kept of its mode: owner, set-id bits and write permissions of others are not.
    pub(super) fn file(
        &mut self,
        path: &TreePath,
        executable: bool,
        content: &mut dyn Read,
        broken: &dyn Fn(std::io::Error) -> ArchiveError,
    ) -> Result<(), ArchiveError> {
        self.check_cancel()?;
        self.claim(path)?;
        let mut file = self.open_new(path, executable)?;
        self.count_one()?;
        let mut hash = Sha256::new();
        let mut chunk = vec![0_u8; 64 * 1024];
        let mut bytes = 0_u64;
        loop {
            self.check_cancel()?;
            let read = match content.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(broken(error)),
            };
            bytes += read as u64;
            self.bytes += read as u64;
            if bytes > self.limits.file_bytes {
                let limit = self.limits.file_bytes;
                return Err(ArchiveError::FileTooLarge { entry: path.to_string(), limit });
            }
            if self.bytes > self.limits.bytes {
                return Err(ArchiveError::TooLarge { limit: self.limits.bytes });
            }
            hash.update(&chunk[..read]);
            file.write_all(&chunk[..read]).map_err(|source| self.disk(path, source))?;
        }
        self.nodes.insert(path.clone(), Node::File { executable, bytes, sha256: hash.finalize().into() });
        Ok(())
    }

    /// Notes a symbolic link; it is judged and made by [`Self::finish`].
    pub(super) fn link(&mut self, path: &TreePath, target: String) -> Result<(), ArchiveError> {
        self.check_cancel()?;
        self.claim(path)?;
        if let Some(parent) = path.parent() {
            self.open_folder(&parent)?;
        }
        self.count_one()?;
        self.nodes.insert(path.clone(), Node::Link { target });
        Ok(())
    }

    /// Judges and makes the links, takes away the one folder around everything if `strip` is set and there is
    /// exactly that, and counts.
    pub(super) fn finish(mut self, strip: bool) -> Result<ExtractReport, ArchiveError> {
        self.check_cancel()?;
        if !self.nodes.values().any(|node| matches!(node, Node::File { .. })) {
            return Err(ArchiveError::Empty);
        }
        let stripped = if strip { self.strip_top()? } else { None };
        let links: BTreeMap<TreePath, String> = self
            .nodes
            .iter()
            .filter_map(|(path, node)| match node {
                Node::Link { target } => Some((path.clone(), target.clone())),
                _ => None,
            })
            .collect();
        for path in links.keys() {
            self.check_cancel()?;
            resolve_link(path, &links)
                .map_err(|why| ArchiveError::unsafe_path(path.as_str().as_bytes(), why))?;
        }
        for (path, target) in &links {
            let parent = self.parent_folder(path)?;
            rustix::fs::symlinkat(target, &parent, path.name())
                .map_err(|errno| self.disk(path, errno.into()))?;
        }
        let mut hash = TreeHash::default();
        let mut files = 0;
        for (path, node) in &self.nodes {
            match node {
                Node::Folder => {}
                Node::Link { target } => hash.link(path.as_str(), target),
                Node::File { executable, bytes, sha256 } => {
                    files += 1;
                    hash.file(path.as_str(), *executable, *bytes, sha256);
                }
            }
        }
        self.finished = true;
        Ok(ExtractReport { files, bytes: self.bytes, sha256: hash.finish(), stripped })
    }

    /// Moves what is in the only top folder to the top. Links are still only noted, so that they are judged by
    /// where they will really be.
    fn strip_top(&mut self) -> Result<Option<String>, ArchiveError> {
        let mut tops = self.nodes.keys().map(TreePath::top);
        let Some(top) = tops.next().map(str::to_owned) else { return Ok(None) };
        let only = tops.all(|other| other == top);
        let folder = TreePath::parse(top.as_bytes()).ok();
        let is_folder = folder.is_some_and(|path| matches!(self.nodes.get(&path), Some(Node::Folder)));
        if !only || !is_folder {
            return Ok(None);
        }
        let disk = |source: std::io::Error| ArchiveError::Disk { path: self.dest.clone(), source };
        let mut aside = self.dest.clone().into_os_string();
        aside.push(".top");
        let aside = PathBuf::from(aside);
        let moved = std::fs::rename(self.dest.join(&top), &aside)
            .and_then(|()| std::fs::remove_dir(&self.dest))
            .and_then(|()| std::fs::rename(&aside, &self.dest));
        if let Err(error) = moved {
            let _ = std::fs::remove_dir_all(&aside);
            return Err(disk(error));
        }
        let opened = rustix::fs::open(&self.dest, folder_flags(), Mode::empty());
        self.root = opened.map_err(|errno| disk(errno.into()))?;
        self.last = None;
        let nodes = std::mem::take(&mut self.nodes);
        self.nodes = nodes.into_iter().filter_map(|(path, node)| Some((path.below_top()?, node))).collect();
        Ok(Some(top))
    }

    /// Refuses a second entry of one name.
    fn claim(&self, path: &TreePath) -> Result<(), ArchiveError> {
        if self.nodes.contains_key(path) {
            return Err(ArchiveError::Duplicate { entry: path.to_string() });
        }
        Ok(())
    }

    /// Refuses one entry too many; called right before each is noted.
    fn count_one(&self) -> Result<(), ArchiveError> {
        if self.nodes.len() as u64 >= self.limits.entries {
            return Err(ArchiveError::TooManyEntries { limit: self.limits.entries });
        }
        Ok(())
    }

    fn parent_folder(&mut self, path: &TreePath) -> Result<OwnedFd, ArchiveError> {
        match path.parent() {
            Some(parent) => self.open_folder(&parent),
            None => self.root.try_clone().map_err(|source| self.disk(path, source)),
        }
    }

    /// Opens a folder below the root, making what is missing, one name at a time.
    fn open_folder(&mut self, path: &TreePath) -> Result<OwnedFd, ArchiveError> {
        if let Some((last, fd)) = &self.last
            && last == path
        {
            return fd.try_clone().map_err(|source| self.disk(path, source));
        }
        let mut fd = self.root.try_clone().map_err(|source| self.disk(path, source))?;
        let mut end = 0;
        for name in path.as_str().split('/') {
            end += name.len() + usize::from(end > 0);
            let here = TreePath::parse(&path.as_str().as_bytes()[..end])
                .map_err(|why| ArchiveError::unsafe_path(path.as_str().as_bytes(), why))?;
            match self.nodes.get(&here) {
                Some(Node::Folder) => {}
                Some(_) => {
                    let why = PathFault::ThroughFile;
                    return Err(ArchiveError::unsafe_path(path.as_str().as_bytes(), why));
                }
                None => {
                    self.count_one()?;
                    rustix::fs::mkdirat(&fd, name, Mode::from_raw_mode(0o755))
                        .map_err(|errno| self.disk(&here, errno.into()))?;
                    self.nodes.insert(here.clone(), Node::Folder);
                }
            }
            fd = rustix::fs::openat(&fd, name, folder_flags(), Mode::empty())
                .map_err(|errno| self.disk(&here, errno.into()))?;
        }
        let kept = fd.try_clone().map_err(|source| self.disk(path, source))?;
        self.last = Some((path.clone(), kept));
        Ok(fd)
    }

    fn open_new(&mut self, path: &TreePath, executable: bool) -> Result<File, ArchiveError> {
        let parent = self.parent_folder(path)?;
        let mode = Mode::from_raw_mode(if executable { 0o755 } else { 0o644 });
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(parent.as_fd(), path.name(), flags, mode)
            .map_err(|errno| self.disk(path, errno.into()))?;
        // The daemon's umask must not decide whether a container's user can read the file.
        rustix::fs::fchmod(&fd, mode).map_err(|errno| self.disk(path, errno.into()))?;
        Ok(File::from(fd))
    }

    fn disk(&self, path: &TreePath, source: std::io::Error) -> ArchiveError {
        ArchiveError::Disk { path: self.dest.join(path.as_str()), source }
    }
}

impl Drop for ConfinedWriter<'_> {
    fn drop(&mut self) {
        if !self.finished {
            // There is nobody to tell; the caller gets the error that led here.
            let _ = std::fs::remove_dir_all(&self.dest);
        }
    }
}

fn folder_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// The source hash: fed in the order of names.
#[derive(Default)]
struct TreeHash(Sha256);

impl TreeHash {
    fn file(&mut self, path: &str, executable: bool, bytes: u64, sha256: &[u8; 32]) {
        self.name(if executable { b'x' } else { b'f' }, path);
        self.0.update(bytes.to_le_bytes());
        self.0.update(sha256);
    }

    fn link(&mut self, path: &str, target: &str) {
        self.name(b'l', path);
        self.0.update((target.len() as u64).to_le_bytes());
        self.0.update(target);
    }

    fn name(&mut self, kind: u8, path: &str) {
        self.0.update([kind]);
        self.0.update((path.len() as u64).to_le_bytes());
        self.0.update(path);
    }

    fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// The source hash of a directory that is there already, as in [`ExtractReport::sha256`]; `.git` at the top is
/// left out. Blocking.
///
/// # Errors
/// What the disk refused.
pub fn hash_directory(dir: &Path) -> std::io::Result<[u8; 32]> {
    let mut entries = BTreeMap::new();
    let mut ahead = vec![String::new()];
    while let Some(folder) = ahead.pop() {
        for entry in std::fs::read_dir(dir.join(&folder))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            if path == ".git" {
                continue;
            }
            if entry.file_type()?.is_dir() {
                ahead.push(path);
            } else {
                entries.insert(path, entry.path());
            }
        }
    }
    let mut hash = TreeHash::default();
    for (path, full) in entries {
        let meta = std::fs::symlink_metadata(&full)?;
        if meta.is_symlink() {
            hash.link(&path, &std::fs::read_link(&full)?.to_string_lossy());
        } else if meta.is_file() {
            use std::os::unix::fs::PermissionsExt;
            let mut content = Sha256::new();
            let bytes = std::io::copy(&mut File::open(&full)?, &mut content)?;
            let executable = meta.permissions().mode() & 0o111 != 0;
            hash.file(&path, executable, bytes, &content.finalize().into());
        }
    }
    Ok(hash.finish())
}
