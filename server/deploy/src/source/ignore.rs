//! Packing a directory: for upload by the command line, and as build context for Docker.
//!
//! Both tars are deterministic: sorted by name, with one fixed time and owner, so that the same files make the
//! same bytes. Both hold links as links and follow none. They differ in whose rules say what is left out:
//! [`pack_directory`] thinks like a person (`.gitignore`, `.berthignore`, no secrets), [`docker_context`] like
//! `docker build` (`.dockerignore` alone).
//!
//! Blocking. Needs nothing else of the deploy pipeline, because the command line uses it too.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

pub use super::ignore_rules::DockerIgnore;
use super::path::TreePath;

/// The time of every packed file: the start of 2000. Not 0, since tools that write zip files refuse years
/// before 1980.
const FIXED_TIME: u64 = 946_684_800;

/// Left out when neither `.gitignore` nor `.berthignore` says anything: what a build makes again.
const DEFAULT_IGNORES: &[&str] = &["node_modules", "target", ".venv", "__pycache__", ".next"];

/// How many skipped paths a report lists by name.
const MAX_LISTED: usize = 100;

/// The name under which a generated Dockerfile lies in a build context.
pub const GENERATED_DOCKERFILE: &str = ".berth.Dockerfile";

/// Why a directory could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file or folder could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The receiver of the archive failed.
    #[error("cannot write the archive: {0}")]
    Write(#[source] std::io::Error),
    /// A file's name cannot be packed safely.
    #[error("cannot pack {}: its name is refused: {why}", path.display())]
    Name {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: super::path::PathFault,
    },
    /// Nothing is left to pack.
    #[error("there is nothing to pack in {}: all files are ignored, or there are none", path.display())]
    Empty {
        /// The directory.
        path: PathBuf,
    },
    /// The Dockerfile is not in the context.
    #[error("there is no file {path:?} to build from")]
    NoDockerfile {
        /// Its path in the context.
        path: String,
    },
}

/// What to pack.
#[derive(Debug, Clone, Copy, Default)]
pub struct PackOptions {
    /// Pack `.env` files too.
    pub include_env: bool,
}

/// Why a path was not packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// A `.env` file: variables and secrets belong to the app's settings.
    EnvFile,
    /// A link that leads out of the directory.
    LinkOut,
    /// A device, FIFO or socket.
    Special,
}

/// A path that was not packed, though no ignore file says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Relative to the packed directory.
    pub path: String,
    /// Why.
    pub why: SkipReason,
}

/// What was packed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackReport {
    /// Files packed; folders and links are not counted.
    pub files: u64,
    /// Bytes in those files, before compression.
    pub bytes: u64,
    /// Not packed for another reason than an ignore file; at most 100 are listed.
    pub skipped: Vec<Skipped>,
    /// Packed, but by their names they may hold secrets: keys, certificates, credentials. At most 100.
    pub secrets: Vec<String>,
}

/// Packs `dir` as a deterministic tar.gz for upload. `.gitignore`, `.dockerignore` and `.berthignore` are honoured
/// (the last wins over the first), `.git` is never packed, and neither are `.env` files unless asked for. Blocking.
///
/// # Errors
/// [`PackError`].
pub fn pack_directory(dir: &Path, writer: impl Write, options: PackOptions) -> Result<PackReport, PackError> {
    let gz = flate2::GzBuilder::new().mtime(0).write(writer, flate2::Compression::default());
    let mut packer = Packer::new(dir, gz);
    for (path, full) in uploaded_paths(dir)? {
        if is_env_file(path.name()) && !options.include_env {
            packer.skip(path.as_str(), SkipReason::EnvFile);
            continue;
        }
        packer.add(&path, &full)?;
    }
    let (gz, report) = packer.finish()?;
    gz.finish().and_then(|mut writer| writer.flush()).map_err(PackError::Write)?;
    if report.files == 0 {
        return Err(PackError::Empty { path: dir.to_owned() });
    }
    Ok(report)
}

/// What is uploaded of a directory, sorted by name.
fn uploaded_paths(dir: &Path) -> Result<Vec<(TreePath, PathBuf)>, PackError> {
    let ruled = [".gitignore", ".berthignore"].iter().any(|name| dir.join(name).is_file());
    let docker = std::fs::read_to_string(dir.join(".dockerignore"));
    let docker = docker.map(|text| DockerIgnore::parse(&text)).unwrap_or_default();
    let root = dir.to_owned();
    let mut walk = ignore::WalkBuilder::new(dir);
    walk.hidden(false)
        .parents(false)
        .ignore(false)
        .git_global(false)
        .git_exclude(false)
        .git_ignore(true)
        .require_git(false)
        .follow_links(false)
        .add_custom_ignore_filename(".berthignore")
        .filter_entry(move |entry| {
            let is_dir = entry.file_type().is_some_and(|kind| kind.is_dir());
            let name = entry.file_name().to_str().unwrap_or("");
            let below = entry.path().strip_prefix(&root).ok().and_then(Path::to_str).unwrap_or("");
            if below.is_empty() {
                return true;
            }
            let made = is_dir && !ruled && DEFAULT_IGNORES.contains(&name);
            if name == ".git" || made {
                return false;
            }
            // The rules are for the image; what the build itself reads must arrive all the same.
            let needed = name == ".dockerignore" || name.contains("Dockerfile");
            let out = if is_dir { docker.prunes(below) } else { docker.excludes(below) };
            needed || !out
        });
    let mut paths = Vec::new();
    for entry in walk.build() {
        let entry = entry.map_err(|error| PackError::Read {
            path: dir.to_owned(),
            source: std::io::Error::other(error),
        })?;
        let below = entry.path().strip_prefix(dir).unwrap_or(entry.path());
        let is_dir = entry.file_type().is_some_and(|kind| kind.is_dir());
        if below.as_os_str().is_empty() || is_dir {
            continue;
        }
        paths.push((tree_path(below)?, entry.into_path()));
    }
    paths.sort();
    Ok(paths)
}

/// The Dockerfile of a build context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContextDockerfile<'a> {
    /// One of the source's own, by its path from the context's root. If `<path>.dockerignore` exists, it is used
    /// instead of `.dockerignore`.
    InTree(&'a str),
    /// A generated one, added as [`GENERATED_DOCKERFILE`].
    Generated(&'a str),
}

/// Writes the build context of `dir` as a deterministic, uncompressed tar, by the rules of `.dockerignore` and
/// then `more_ignores`. The Dockerfile and `.dockerignore` are always in it, ignored or not. Returns what was
/// packed and the Dockerfile's name in the context. Blocking.
///
/// # Errors
/// [`PackError`].
pub fn docker_context(
    dir: &Path,
    dockerfile: &ContextDockerfile<'_>,
    more_ignores: &[String],
    writer: impl Write,
) -> Result<(PackReport, String), PackError> {
    let (own, name) = match dockerfile {
        ContextDockerfile::InTree(path) => {
            let clean = TreePath::parse(path.as_bytes())
                .map_err(|why| PackError::Name { path: PathBuf::from(path), why })?;
            if !dir.join(clean.as_str()).is_file() {
                return Err(PackError::NoDockerfile { path: clean.to_string() });
            }
            (Some(clean.to_string()), clean.to_string())
        }
        ContextDockerfile::Generated(_) => (None, GENERATED_DOCKERFILE.to_owned()),
    };
    let beside = own.as_ref().map(|own| dir.join(format!("{own}.dockerignore")));
    let rules_file = beside.filter(|path| path.is_file()).unwrap_or_else(|| dir.join(".dockerignore"));
    let mut rules = match std::fs::read_to_string(&rules_file) {
        Ok(text) => DockerIgnore::parse(&text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => DockerIgnore::default(),
        Err(source) => return Err(PackError::Read { path: rules_file, source }),
    };
    rules.extend(more_ignores);

    let mut packer = Packer::new(dir, writer);
    let mut paths = BTreeSet::new();
    let mut ahead = vec![dir.to_owned()];
    while let Some(folder) = ahead.pop() {
        let read = |source| PackError::Read { path: folder.clone(), source };
        for entry in std::fs::read_dir(&folder).map_err(read)? {
            let entry = entry.map_err(read)?;
            let full = entry.path();
            let path = tree_path(full.strip_prefix(dir).unwrap_or(&full))?;
            let always = Some(path.as_str()) == own.as_deref() || path.as_str() == ".dockerignore";
            let holds_own = own.as_deref().is_some_and(|own| own.starts_with(&format!("{path}/")));
            if entry.file_type().map_err(read)?.is_dir() {
                if holds_own || !rules.prunes(path.as_str()) {
                    ahead.push(full.clone());
                }
                if !rules.excludes(path.as_str()) {
                    paths.insert((path, full));
                }
            } else if always || !rules.excludes(path.as_str()) {
                paths.insert((path, full));
            }
        }
    }
    for (path, full) in &paths {
        if path.as_str() != GENERATED_DOCKERFILE || own.is_some() {
            packer.add(path, full)?;
        }
    }
    if let ContextDockerfile::Generated(text) = dockerfile {
        packer.add_text(GENERATED_DOCKERFILE, text)?;
    }
    let (mut writer, report) = packer.finish()?;
    writer.flush().map_err(PackError::Write)?;
    Ok((report, name))
}

fn tree_path(below: &Path) -> Result<TreePath, PackError> {
    TreePath::parse(below.as_os_str().as_encoded_bytes())
        .map_err(|why| PackError::Name { path: below.to_owned(), why })
}

/// `.env` and `.env.production`, but not the samples that are meant to be shared.
fn is_env_file(name: &str) -> bool {
    let sample = [".example", ".sample", ".template", ".dist", ".defaults"];
    name == ".env" || (name.starts_with(".env.") && !sample.iter().any(|end| name.ends_with(end)))
}

fn may_be_secret(name: &str) -> bool {
    let low = name.to_ascii_lowercase();
    let ends = [".pem", ".key", ".p12", ".pfx", ".jks", ".keystore", ".kdbx"];
    let names = [
        "id_rsa",
        "id_dsa",
        "id_ecdsa",
        "id_ed25519",
        ".npmrc",
        ".pypirc",
        ".netrc",
        ".htpasswd",
        "credentials.json",
        "service-account.json",
        "secrets.json",
        "secrets.yml",
        "secrets.yaml",
        "terraform.tfstate",
    ];
    ends.iter().any(|end| low.ends_with(end)) || names.contains(&low.as_str()) || is_env_file(&low)
}

/// Writes the entries of a deterministic tar, and counts.
struct Packer<W: Write> {
    root: PathBuf,
    tar: tar::Builder<W>,
    report: PackReport,
}

impl<W: Write> Packer<W> {
    fn new(root: &Path, writer: W) -> Self {
        Self { root: root.to_owned(), tar: tar::Builder::new(writer), report: PackReport::default() }
    }

    fn skip(&mut self, path: &str, why: SkipReason) {
        if self.report.skipped.len() < MAX_LISTED {
            self.report.skipped.push(Skipped { path: path.to_owned(), why });
        }
    }

    fn add(&mut self, path: &TreePath, full: &Path) -> Result<(), PackError> {
        let read = |source| PackError::Read { path: full.to_owned(), source };
        let meta = std::fs::symlink_metadata(full).map_err(read)?;
        if meta.is_dir() {
            let mut header = header(tar::EntryType::Directory, 0o755, 0);
            let name = format!("{path}/");
            return self.tar.append_data(&mut header, name, std::io::empty()).map_err(PackError::Write);
        }
        if meta.is_symlink() {
            let target = std::fs::read_link(full).map_err(read)?;
            if !leads_inside(path, &target) {
                self.skip(path.as_str(), SkipReason::LinkOut);
                return Ok(());
            }
            let mut header = header(tar::EntryType::Symlink, 0o777, 0);
            return self.tar.append_link(&mut header, path.as_str(), target).map_err(PackError::Write);
        }
        if !meta.is_file() {
            self.skip(path.as_str(), SkipReason::Special);
            return Ok(());
        }
        let mut file = std::fs::File::open(full).map_err(read)?;
        let length = file.metadata().map_err(read)?.len();
        let mut header =
            header(tar::EntryType::Regular, if executable(&meta) { 0o755 } else { 0o644 }, length);
        // A file that grows while it is packed is cut at the length in its header; one that shrinks is filled
        // up, as anything else would make the archive unreadable behind it.
        let mut content = std::io::Read::chain(std::io::Read::take(&mut file, length), std::io::repeat(0));
        let content = std::io::Read::take(&mut content, length);
        self.tar.append_data(&mut header, path.as_str(), content).map_err(PackError::Write)?;
        self.report.files += 1;
        self.report.bytes += length;
        if may_be_secret(path.name()) && self.report.secrets.len() < MAX_LISTED {
            self.report.secrets.push(path.to_string());
        }
        Ok(())
    }

    fn add_text(&mut self, name: &str, text: &str) -> Result<(), PackError> {
        let mut header = header(tar::EntryType::Regular, 0o644, text.len() as u64);
        self.tar.append_data(&mut header, name, text.as_bytes()).map_err(PackError::Write)?;
        self.report.files += 1;
        self.report.bytes += text.len() as u64;
        Ok(())
    }

    fn finish(self) -> Result<(W, PackReport), PackError> {
        tracing::debug!(dir = %self.root.display(), files = self.report.files, "packed");
        Ok((self.tar.into_inner().map_err(PackError::Write)?, self.report))
    }
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(FIXED_TIME);
    header.set_size(size);
    header
}

#[cfg(unix)]
fn executable(meta: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    meta.permissions().mode() & 0o111 != 0
}

#[cfg(not(unix))]
fn executable(_meta: &std::fs::Metadata) -> bool {
    false
}

/// By its letters alone: a packed link is judged again, together with all others, by who unpacks it.
fn leads_inside(at: &TreePath, target: &Path) -> bool {
    let Some(target) = target.to_str().filter(|target| !target.starts_with('/')) else { return false };
    let mut depth = at.as_str().matches('/').count();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => match depth.checked_sub(1) {
                Some(up) => depth = up,
                None => return false,
            },
            _ => depth += 1,
        }
    }
    !target.is_empty()
}

#[cfg(test)]
#[path = "ignore_tests.rs"]
mod tests;
