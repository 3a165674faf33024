//! What detection sees of a source: the paths of its files, and the text of small ones.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The largest file that is read, in bytes.
const MAX_READ: u64 = 1 << 20;
/// The most paths that are listed.
const MAX_PATHS: usize = 20_000;
/// How many folders deep is looked.
const MAX_DEPTH: usize = 5;
/// Never looked into: what tools make, which says nothing about the app and is large.
const SKIPPED: &[&str] = &[".git", "node_modules", ".venv", "venv", "__pycache__", ".next", "target"];

/// A source, as far as detection looks at it.
pub trait SourceTree {
    /// Files (and links to files), relative and `/`-separated; only those near the top.
    fn paths(&self) -> &BTreeSet<String>;

    /// The text of a small file; `None` if there is no such file, it is too large or not UTF-8.
    fn read(&self, path: &str) -> Option<String>;
}

/// A tree in memory: for tests, and for sources that are not on the disk yet.
#[derive(Debug, Clone, Default)]
pub struct MemoryTree {
    files: BTreeMap<String, String>,
    paths: BTreeSet<String>,
}

impl MemoryTree {
    /// A tree of these files.
    pub fn new<P: Into<String>, T: Into<String>>(files: impl IntoIterator<Item = (P, T)>) -> Self {
        let files: BTreeMap<String, String> =
            files.into_iter().map(|(path, text)| (path.into(), text.into())).collect();
        Self { paths: files.keys().cloned().collect(), files }
    }
}

impl SourceTree for MemoryTree {
    fn paths(&self) -> &BTreeSet<String> {
        &self.paths
    }

    fn read(&self, path: &str) -> Option<String> {
        self.files.get(path).cloned()
    }
}

/// A tree on the disk. Its methods block.
#[derive(Debug, Clone)]
pub struct DirectoryTree {
    root: PathBuf,
    paths: BTreeSet<String>,
}

impl DirectoryTree {
    /// Lists the directory.
    ///
    /// # Errors
    /// When the directory itself cannot be read; folders in it that cannot be are passed over.
    pub fn scan(dir: &Path) -> std::io::Result<Self> {
        let root = dir.canonicalize()?;
        std::fs::read_dir(&root)?;
        let mut paths = BTreeSet::new();
        let mut ahead = std::collections::VecDeque::from([(String::new(), 0)]);
        while let Some((folder, depth)) = ahead.pop_front() {
            let Ok(entries) = std::fs::read_dir(root.join(&folder)) else { continue };
            for entry in entries.flatten() {
                let Ok(name) = entry.file_name().into_string() else { continue };
                let Ok(kind) = entry.file_type() else { continue };
                let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
                if kind.is_dir() {
                    if depth < MAX_DEPTH && !SKIPPED.contains(&name.as_str()) {
                        ahead.push_back((path, depth + 1));
                    }
                } else if paths.len() < MAX_PATHS {
                    paths.insert(path);
                }
            }
        }
        Ok(Self { root, paths })
    }
}

impl SourceTree for DirectoryTree {
    fn paths(&self) -> &BTreeSet<String> {
        &self.paths
    }

    fn read(&self, path: &str) -> Option<String> {
        // A link may be in the way; one that leads out of the source is not followed.
        let full = self.root.join(path).canonicalize().ok()?;
        let meta = std::fs::metadata(&full).ok()?;
        if !full.starts_with(&self.root) || !meta.is_file() || meta.len() > MAX_READ {
            return None;
        }
        let text = std::fs::read_to_string(full).ok()?;
        Some(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
    }
}

/// A tree seen from one of its folders.
pub struct View<'a> {
    tree: &'a dyn SourceTree,
    root: String,
}

impl<'a> View<'a> {
    pub(super) fn new(tree: &'a dyn SourceTree, root: &str) -> Self {
        Self { tree, root: root.to_owned() }
    }

    pub(super) fn root(&self) -> &str {
        &self.root
    }

    fn full(&self, path: &str) -> String {
        if self.root.is_empty() { path.to_owned() } else { format!("{}/{path}", self.root) }
    }

    /// Paths below the folder.
    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        let prefix = self.full("");
        let skip = prefix.len();
        let from = std::ops::Bound::Included(prefix.clone());
        self.tree
            .paths()
            .range((from, std::ops::Bound::Unbounded))
            .take_while(move |path| path.starts_with(&prefix))
            .map(move |path| &path[skip..])
    }

    pub(super) fn is_empty(&self) -> bool {
        self.paths().next().is_none()
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.tree.paths().contains(&self.full(path))
    }

    pub(super) fn has_folder(&self, folder: &str) -> bool {
        folder.is_empty() || self.paths().any(|path| path.starts_with(&format!("{folder}/")))
    }

    pub(super) fn read(&self, path: &str) -> Option<String> {
        if self.has(path) { self.tree.read(&self.full(path)) } else { None }
    }

    /// The first of the paths that is there.
    pub(super) fn first_of(&self, paths: &[&'static str]) -> Option<&'static str> {
        paths.iter().copied().find(|path| self.has(path))
    }

    /// Names at the top; folders end with `/`.
    pub(super) fn top_names(&self) -> Vec<String> {
        let names: BTreeSet<String> = self
            .paths()
            .map(|path| match path.split_once('/') {
                Some((folder, _)) => format!("{folder}/"),
                None => path.to_owned(),
            })
            .collect();
        names.into_iter().collect()
    }

    /// Folders at the top.
    pub(super) fn folders(&self) -> Vec<String> {
        self.top_names().iter().filter_map(|name| name.strip_suffix('/')).map(str::to_owned).collect()
    }
}
