//! Git LFS: the files that a commit only points to, each fetched from its server, checked and put in its place.
//!
//! `git-lfs` is not needed for it. Which server is asked may be said by the repository (`.lfsconfig`), so that every
//! address passes the guard, and another one than the repository's own gets only what a submodule there would get.

use std::{
    collections::BTreeMap,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, TryStreamExt as _};
use serde::Deserialize;

use super::{
    GitCredential, GitError, GitUrl, Identities, Session, Transport,
    lfs_web::{Endpoint, Fault, Secrets, Web},
    one_line, settle,
};
use crate::{
    command::Command,
    source::lfs::{
        MAX_POINTER, Oid, Pointer,
        wire::{self, Answered, Batch, Object, Operation},
    },
};

/// Most files of one repository that are elsewhere.
const MAX_FILES: usize = 20_000;
/// Files whose attributes are asked for at once.
const ASKED_AT_ONCE: usize = 500;
/// Bytes of git's list of attributes: for each the longest path, twice.
const MAX_ATTRIBUTES: usize = 8 << 20;
/// Largest `.lfsconfig`, in bytes.
const MAX_CONFIG: u64 = 64 << 10;
/// Files fetched at the same time.
const AT_ONCE: usize = 4;
/// The longest that a host may take to say over SSH where its files are.
const SSH_LIMIT: Duration = Duration::from_secs(60);

/// How files that are kept elsewhere are fetched.
#[derive(Debug, Clone)]
pub struct Lfs {
    /// Whether their server may be reached unencrypted. For tests.
    pub allow_local: bool,
    /// Who knows who to be towards a server that the repository names.
    pub who: Arc<dyn Identities>,
}

/// An object, and where it belongs.
struct Missing {
    oid: Oid,
    size: u64,
    paths: Vec<PathBuf>,
}

/// What a host says over SSH (`git-lfs-authenticate`).
#[derive(Deserialize)]
struct Told {
    href: Option<String>,
    #[serde(default)]
    header: Option<BTreeMap<String, String>>,
}

impl Session<'_> {
    /// Puts the content of files in place of what points to it, in the checkout in `dest`.
    pub(super) async fn fetch_lfs(
        &self,
        lfs: &Lfs,
        dest: &Path,
        progress: &mut (dyn FnMut(&str) + Send),
    ) -> Result<(), GitError> {
        let found = blocking({
            let dest = dest.to_owned();
            move || pointers(&dest)
        })
        .await??;
        if found.is_empty() {
            return Ok(());
        }
        if found.len() > MAX_FILES {
            return Err(self.lfs_error(format!("there are more than {MAX_FILES} of them")));
        }
        let tracked = self.tracked(dest, found).await?;
        let mut missing = self.gathered(tracked, dest)?;
        if missing.is_empty() {
            return Ok(());
        }
        self.check_room(&missing).await?;
        let (files, bytes) = (missing.len(), missing.iter().map(|m| m.size).sum::<u64>());
        let work = async {
            let aside = dest.join(".git").join("berth-lfs");
            tokio::fs::create_dir_all(&aside).await.map_err(GitError::Disk)?;
            if self.request.own {
                missing = self.take_own(missing, &aside).await?;
            }
            if !missing.is_empty() {
                let web = Web::new(self.request.policy.clone(), lfs.allow_local);
                let endpoint = self.lfs_endpoint(lfs, &web, dest, &missing).await?;
                let host = endpoint.url.host_str().unwrap_or_default().to_owned();
                progress(&format!("Git LFS: {files} files, {:.1} MB, from {host}", bytes as f64 / 1e6));
                self.take_from(&web, &endpoint, missing, &aside).await?;
            } else {
                progress(&format!("Git LFS: {files} files, {:.1} MB", bytes as f64 / 1e6));
            }
            tokio::fs::remove_dir_all(&aside).await.map_err(GitError::Disk)
        };
        let left = self.deadline.saturating_duration_since(Instant::now());
        tokio::select! {
            done = work => done,
            () = self.cancel.cancelled() => Err(GitError::Cancelled),
            () = tokio::time::sleep(left) => {
                Err(GitError::TimedOut { url: self.url.to_string(), limit: self.request.time_limit })
            }
        }
    }

    /// Those of the files for which the repository says that Git LFS keeps them: any text may look like a pointer.
    async fn tracked(
        &self,
        dest: &Path,
        found: Vec<(PathBuf, Pointer)>,
    ) -> Result<Vec<(PathBuf, Pointer)>, GitError> {
        let mut tracked = Vec::new();
        let mut rest = found.into_iter().peekable();
        while rest.peek().is_some() {
            let some: Vec<_> = rest.by_ref().take(ASKED_AT_ONCE).collect();
            let mut input = Vec::new();
            for (path, _) in &some {
                input.extend_from_slice(path.as_os_str().as_encoded_bytes());
                input.push(0);
            }
            let check = self.git().dir(dest).max_line(MAX_ATTRIBUTES).env("GIT_ATTR_NOSYSTEM", "1");
            let check = check.args(["check-attr", "--stdin", "-z", "filter"]).input(input);
            let out = check.capture(self.cancel, MAX_ATTRIBUTES).await.map_err(|e| self.command_error(e))?;
            if !out.finished.success() {
                return Err(self.failure(&out.stderr));
            }
            // Path, attribute and value of each, in the order in which they were asked for.
            let values: Vec<&str> = out.stdout.split('\0').skip(2).step_by(3).collect();
            if values.len() != some.len() {
                return Err(self.lfs_error("git did not say which files are in it".into()));
            }
            let pairs = some.into_iter().zip(values);
            tracked.extend(pairs.filter(|(_, value)| *value == "lfs").map(|(file, _)| file));
        }
        Ok(tracked)
    }

    /// The objects of the files, each once.
    fn gathered(&self, files: Vec<(PathBuf, Pointer)>, dest: &Path) -> Result<Vec<Missing>, GitError> {
        let mut by_oid: BTreeMap<Oid, Missing> = BTreeMap::new();
        for (path, pointer) in files {
            let shown = one_line(&path.to_string_lossy());
            if pointer.extended {
                return Err(self.lfs_error(format!("{shown} was made by an extension, which is not here")));
            }
            if pointer.size > self.request.limits.file_bytes {
                let limit = self.request.limits.file_bytes;
                return Err(self.lfs_error(format!("{shown} is larger than {limit} bytes")));
            }
            let oid = pointer.oid.clone();
            let known =
                by_oid.entry(pointer.oid).or_insert(Missing { oid, size: pointer.size, paths: Vec::new() });
            if known.size != pointer.size {
                return Err(self.lfs_error(format!("{shown} gives another size for {}", known.oid.short())));
            }
            known.paths.push(dest.join(path));
        }
        Ok(by_oid.into_values().collect())
    }

    /// Refuses what would be more than is allowed for all together, before any of it is fetched.
    async fn check_room(&self, missing: &[Missing]) -> Result<(), GitError> {
        let top = self.top.clone();
        let there = blocking(move || settle::size_on_disk(&top)).await?;
        let limit = self.request.limits.bytes;
        let more = missing.iter().map(|m| m.size.saturating_mul(m.paths.len() as u64));
        match more.fold(there, u64::saturating_add) > limit {
            true => Err(GitError::TooLarge { url: self.url.to_string(), limit }),
            false => Ok(()),
        }
    }

    /// Takes what was pushed to Berth itself; returns the others.
    async fn take_own(&self, missing: Vec<Missing>, aside: &Path) -> Result<Vec<Missing>, GitError> {
        let objects = crate::repository::lfs_objects(Path::new(self.url.as_str()));
        let mut others = Vec::new();
        for object in missing {
            let from = objects.join(object.oid.place().iter().collect::<PathBuf>());
            let copy = aside.join(object.oid.as_str());
            match tokio::fs::copy(&from, &copy).await {
                Ok(bytes) if bytes == object.size => place(&object, &copy).await?,
                Ok(_) => {
                    let name = object.oid.short();
                    return Err(self.lfs_error(format!("{name} has another size than its pointer says")));
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => others.push(object),
                Err(error) => return Err(GitError::Disk(error)),
            }
        }
        Ok(others)
    }

    /// Fetches objects from a server.
    async fn take_from(
        &self,
        web: &Web,
        endpoint: &Endpoint,
        missing: Vec<Missing>,
        aside: &Path,
    ) -> Result<(), GitError> {
        for some in missing.chunks(wire::MAX_BATCH) {
            let objects = some.iter().map(|m| Object { oid: m.oid.clone(), size: m.size }).collect();
            let batch = Batch {
                operation: Operation::Download,
                transfers: vec![wire::BASIC.into()],
                objects,
                hash_algo: Some(wire::SHA256.into()),
            };
            let answer = web.batch(endpoint, &batch).await.map_err(|e| self.lfs_fault(endpoint, e, None))?;
            if answer.transfer.is_some_and(|way| way != wire::BASIC) {
                return Err(
                    self.lfs_error("its server wants a way of transfer that is not known here".into())
                );
            }
            let answers: BTreeMap<Oid, Answered> =
                answer.objects.into_iter().map(|answered| (answered.oid.clone(), answered)).collect();
            let each = some.iter().map(|object| {
                let answered = answers.get(&object.oid);
                self.take_one(web, endpoint, object, answered, aside)
            });
            futures_util::stream::iter(each.collect::<Vec<_>>())
                .buffer_unordered(AT_ONCE)
                .try_collect::<Vec<()>>()
                .await?;
        }
        Ok(())
    }

    async fn take_one(
        &self,
        web: &Web,
        endpoint: &Endpoint,
        object: &Missing,
        answered: Option<&Answered>,
        aside: &Path,
    ) -> Result<(), GitError> {
        let fault = |fault| self.lfs_fault(endpoint, fault, Some(object));
        let Some(answered) = answered else {
            return Err(fault(Fault::Other("its server says nothing of it".into())));
        };
        if let Some(error) = &answered.error {
            let text = format!("its server says {} ({:?})", error.code, one_line(&error.message));
            return Err(fault(Fault::Other(text)));
        }
        let Some(action) = answered.actions.as_ref().and_then(|actions| actions.download.as_ref()) else {
            return Err(fault(Fault::Other("its server does not say where it is".into())));
        };
        let copy = aside.join(object.oid.as_str());
        let what = (&object.oid, object.size);
        web.download(endpoint, action, answered.authenticated, what, &copy).await.map_err(fault)?;
        place(object, &copy).await
    }

    /// The server that keeps the repository's files.
    async fn lfs_endpoint(
        &self,
        lfs: &Lfs,
        web: &Web,
        dest: &Path,
        missing: &[Missing],
    ) -> Result<Endpoint, GitError> {
        if let Some(text) = self.lfs_url(dest).await?
            && !self.is_own_server(&text)
        {
            let parse = |text: &str| {
                GitUrl::parse(text, lfs.allow_local)
                    .map_err(|error| self.lfs_error(format!("its address in .lfsconfig: {error}")))
            };
            let (url, given) = parse(&text)?;
            // The repository that it belongs to, if it says so.
            let (of, _) = parse(text.trim_end_matches('/').trim_end_matches("/info/lfs"))?;
            let who = lfs.who.towards(&of).await.map_err(|problem| self.lfs_error(problem.detail))?;
            if url.transport() == Transport::Ssh {
                let home = tempfile::Builder::new().prefix("berth-lfs-").tempdir().map_err(GitError::Disk)?;
                let addresses = super::resolve_guarded(url.host(), url.port(), &self.request.policy).await?;
                let pinned = addresses.first().map(std::net::SocketAddr::ip);
                who.ssh.prepare(home.path(), url.host(), pinned).await?;
                return self.authenticate(&url, home.path(), web).await;
            }
            return self.web_endpoint(web, &url, url.as_str(), given.or(who.credential).as_ref());
        }
        match self.url.transport() {
            Transport::Ssh => self.authenticate(&self.url, self.home.path(), web).await,
            _ if self.url.http_origin().is_some() => {
                let home = self.url.with_git_suffix();
                let home = home.as_ref().unwrap_or(&self.url).as_str().trim_end_matches('/');
                let text = format!("{home}/info/lfs");
                self.web_endpoint(web, &self.url, &text, self.request.credential.as_ref())
            }
            _ => {
                let path = missing.first().map(|missing| self.shown(missing)).unwrap_or_default();
                Err(self.lfs_error(format!("{path} was not pushed with the commit")))
            }
        }
    }

    /// Whether an address is where the repository's files are anyway.
    fn is_own_server(&self, text: &str) -> bool {
        let bare = |text: &str| text.trim_end_matches('/').trim_end_matches(".git").to_owned();
        let of = text.trim_end_matches('/').strip_suffix("/info/lfs");
        of.is_some_and(|of| bare(of) == bare(self.url.as_str()))
    }

    fn web_endpoint(
        &self,
        web: &Web,
        of: &GitUrl,
        text: &str,
        credential: Option<&GitCredential>,
    ) -> Result<Endpoint, GitError> {
        let url = web.address(text).map_err(|_| self.lfs_error("its server has no https address".into()))?;
        Ok(Endpoint { url, secrets: Secrets::of(credential, of.host()) })
    }

    /// Asks a host over SSH where its files are, and with what to ask there.
    async fn authenticate(&self, url: &GitUrl, home: &Path, web: &Web) -> Result<Endpoint, GitError> {
        let Some((login, path)) = url.ssh_login_and_path() else {
            return Err(self.lfs_error("its address is none of SSH".into()));
        };
        let left = self.deadline.saturating_duration_since(Instant::now()).min(SSH_LIMIT);
        let ssh = Command::new("ssh").timeout(left).env("HOME", home).arg("-F").arg(home.join("ssh_config"));
        let ssh = ssh.arg("-p").arg(url.port().to_string()).arg("--").arg(login);
        // The far end is a shell that a host made for git; the path has no letter that one minds.
        let ssh = ssh.arg(format!("git-lfs-authenticate {path} download")).max_line(64 << 10);
        let out = match ssh.capture(self.cancel, 64 << 10).await {
            Err(crate::command::CommandError::TimedOut { .. }) => {
                return Err(self.lfs_error(format!("{} did not say where its server is", url.host())));
            }
            other => other.map_err(|error| self.command_error(error))?,
        };
        if !out.finished.success() {
            let said = out.stderr.lines().next_back().map(one_line).unwrap_or_default();
            return Err(self.lfs_error(format!("{} does not say where its server is: {said:?}", url.host())));
        }
        let no =
            || self.lfs_error(format!("{} says nothing of its server that can be understood", url.host()));
        let told: Told = serde_json::from_str(out.stdout.trim()).map_err(|_| no())?;
        let href = told.href.ok_or_else(no)?;
        let at = web.address(&href).map_err(|_| no())?;
        let secrets = Secrets::told(told.header.iter().flatten()).map_err(|_| no())?;
        Ok(Endpoint { url: at, secrets })
    }

    /// The server that `.lfsconfig` of the commit in `dest` names.
    async fn lfs_url(&self, dest: &Path) -> Result<Option<String>, GitError> {
        let size = self.git().dir(dest).args(["cat-file", "-s", "HEAD:.lfsconfig"]);
        let size = size.capture(self.cancel, 4096).await.map_err(|error| self.command_error(error))?;
        if !size.finished.success() {
            return Ok(None);
        }
        if size.stdout.trim().parse::<u64>().unwrap_or(u64::MAX) > MAX_CONFIG {
            return Err(self.lfs_error(format!(".lfsconfig is larger than {MAX_CONFIG} bytes")));
        }
        let list = self.git().dir(dest).args(["config", "--no-includes", "--null"]).max_line(256 << 10);
        let list = list.args(["--blob", "HEAD:.lfsconfig", "--list"]);
        let out = list.capture(self.cancel, 256 << 10).await.map_err(|error| self.command_error(error))?;
        if !out.finished.success() {
            return Err(self.lfs_error("git cannot read .lfsconfig".into()));
        }
        let value = |wanted: &str| {
            let entries = out.stdout.split('\0').filter_map(|entry| entry.split_once('\n'));
            entries.filter(|(key, _)| *key == wanted).map(|(_, value)| value.to_owned()).next_back()
        };
        Ok(value("lfs.url").or_else(|| value("remote.origin.lfsurl")))
    }

    fn lfs_error(&self, why: String) -> GitError {
        // Berth's own repository is named by no path of this machine.
        let url = if self.request.own { "this repository".to_owned() } else { self.url.to_string() };
        GitError::Lfs { url, why }
    }

    /// The first of the places where an object belongs.
    fn shown(&self, missing: &Missing) -> String {
        let path = missing.paths.first().map(|path| path.strip_prefix(&self.top).unwrap_or(path));
        path.map(|path| one_line(&path.to_string_lossy())).unwrap_or_default()
    }

    fn lfs_fault(&self, endpoint: &Endpoint, fault: Fault, of: Option<&Missing>) -> GitError {
        let at = endpoint.url.host_str().unwrap_or_default();
        let path = of.map(|missing| format!("{}: ", self.shown(missing))).unwrap_or_default();
        match fault {
            Fault::Guard(error) => error.into(),
            Fault::Disk(error) => GitError::Disk(error),
            Fault::Unauthorized { with_credential: false } => {
                self.lfs_error(format!("{path}{at} wants credentials"))
            }
            Fault::Unauthorized { with_credential: true } => {
                self.lfs_error(format!("{path}{at} refused the credentials"))
            }
            Fault::Passing(why) | Fault::Other(why) => self.lfs_error(format!("{path}{at}: {why}")),
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, GitError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| GitError::Disk(std::io::Error::other(error)))
}

/// The files below a folder that look like pointers, with their paths in it. Blocking.
fn pointers(dest: &Path) -> Result<Vec<(PathBuf, Pointer)>, GitError> {
    let mut found = Vec::new();
    let mut ahead = vec![dest.to_owned()];
    while let Some(folder) = ahead.pop() {
        for entry in std::fs::read_dir(&folder).map_err(GitError::Disk)? {
            let entry = entry.map_err(GitError::Disk)?;
            let kind = entry.file_type().map_err(GitError::Disk)?;
            if kind.is_dir() && entry.file_name() != ".git" {
                ahead.push(entry.path());
            }
            if !kind.is_file() || entry.metadata().map_err(GitError::Disk)?.size() > MAX_POINTER {
                continue;
            }
            let content = std::fs::read(entry.path()).map_err(GitError::Disk)?;
            if let Some(pointer) = Pointer::read(&content) {
                let path = entry.path();
                found.push((path.strip_prefix(dest).unwrap_or(&path).to_owned(), pointer));
            }
            if found.len() > MAX_FILES {
                return Ok(found);
            }
        }
    }
    Ok(found)
}

/// Puts a fetched object where its pointers are.
async fn place(object: &Missing, from: &Path) -> Result<(), GitError> {
    for (at, path) in object.paths.iter().enumerate() {
        let mode = tokio::fs::symlink_metadata(path).await.map_err(GitError::Disk)?.permissions().mode();
        let last = at + 1 == object.paths.len();
        let whole = from.with_extension("copy");
        if last {
            tokio::fs::rename(from, &whole).await.map_err(GitError::Disk)?;
        } else {
            tokio::fs::copy(from, &whole).await.map_err(GitError::Disk)?;
        }
        let mode = std::fs::Permissions::from_mode(mode & 0o777);
        tokio::fs::set_permissions(&whole, mode).await.map_err(GitError::Disk)?;
        tokio::fs::rename(&whole, path).await.map_err(GitError::Disk)?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "lfs_tests.rs"]
mod tests;
