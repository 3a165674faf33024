//! Submodules: each at the commit that its parent recorded, by a fetch of its own.
//!
//! Their addresses are data from a repository that anybody may have written, so git's own `submodule` command is not
//! used: every address passes the same parser, guard and pinning as the app's own, its credentials are asked for
//! anew, and the names in `.gitmodules` lead to no path on this machine.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use async_trait::async_trait;
use berth_schemas::Problem;

use super::{
    CommitSha, FetchRequest, GitCredential, GitError, GitUrl, Session, SshIdentity, Wanted, one_line,
};
use crate::{command::OutputLine, source::path::TreePath};

/// Most submodules of one deployment, those of submodules included.
const MAX_COUNT: usize = 100;
/// How deep submodules may have submodules.
const MAX_DEPTH: usize = 5;
/// Largest `.gitmodules`, in bytes.
const MAX_FILE: u64 = 128 << 10;

/// How submodules are fetched.
#[derive(Debug, Clone)]
pub struct Submodules {
    /// Whether their addresses may be on this machine or unencrypted. For tests.
    pub allow_local: bool,
    /// What relative addresses are relative to, where that is not the repository's own address.
    pub base: Option<GitUrl>,
    /// Who knows who to be.
    pub who: Arc<dyn Identities>,
}

/// Who to be towards a repository.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// Over HTTPS.
    pub credential: Option<GitCredential>,
    /// Over SSH.
    pub ssh: SshIdentity,
}

/// Who knows who to be towards submodules.
#[async_trait]
pub trait Identities: Send + Sync + std::fmt::Debug {
    /// Who to be towards this one.
    async fn towards(&self, url: &GitUrl) -> Result<Identity, Problem>;
}

/// What `.gitmodules` says of one submodule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Said {
    path: Option<String>,
    url: Option<String>,
    update: Option<String>,
}

/// What a commit says of its submodules.
struct Listed {
    /// Path and commit of each.
    links: Vec<(String, String)>,
    /// Mode of `.gitmodules`, if it has one.
    file: Option<String>,
}

impl Session<'_> {
    /// Fetches the submodules of the commit that is checked out in `dest`. `count` counts all of a deployment.
    pub(super) async fn fetch_submodules(
        &self,
        submodules: &Submodules,
        dest: &Path,
        count: &mut usize,
        depth: usize,
        progress: &mut (dyn FnMut(&str) + Send),
    ) -> Result<(), GitError> {
        let Listed { links, file } = self.links(dest).await?;
        let said = match file.as_deref() {
            None => BTreeMap::new(),
            Some("100644" | "100755") => self.said(dest).await?,
            Some(_) => return Err(refused(".gitmodules", "it is a link, and no file")),
        };
        if links.len() > MAX_COUNT.saturating_sub(*count) {
            return Err(refused(".gitmodules", &format!("there are more than {MAX_COUNT} submodules")));
        }
        for (path, commit) in links {
            let Some(about) = said.values().find(|about| about.path.as_deref() == Some(&path)) else {
                progress(&format!("{path} is a submodule without an entry in .gitmodules and stays empty"));
                continue;
            };
            if about.update.as_deref() == Some("none") {
                progress(&format!("the submodule {path} is marked update = none and stays empty"));
                continue;
            }
            *count += 1;
            if depth == MAX_DEPTH {
                return Err(refused(&path, &format!("submodules are nested more than {MAX_DEPTH} deep")));
            }
            let commit = CommitSha::parse(&commit).map_err(|e| refused(&path, &e.to_string()))?;
            let (url, given) = self.address(submodules, &path, about.url.as_deref())?;
            let place = place_of(dest, &path).await?;
            progress(&format!("submodule {path} at {} from {url}", commit.short()));
            let wanted = SubmoduleOf { path: &path, url, given, commit, place: &place };
            self.fetch_submodule(submodules, wanted, count, depth, progress).await?;
        }
        Ok(())
    }

    async fn fetch_submodule(
        &self,
        submodules: &Submodules,
        wanted: SubmoduleOf<'_>,
        count: &mut usize,
        depth: usize,
        progress: &mut (dyn FnMut(&str) + Send),
    ) -> Result<(), GitError> {
        let SubmoduleOf { path, url, given, commit, place } = wanted;
        let who = submodules
            .who
            .towards(&url)
            .await
            .map_err(|problem| GitError::Failed { url: url.to_string(), output: problem.detail });
        let who = who.map_err(|error| within(path, error))?;
        let request = FetchRequest {
            url,
            // What stands in the address is for that address.
            credential: given.or(who.credential),
            ssh: who.ssh,
            wanted: Wanted::Commit(commit.clone()),
            submodules: Some(Submodules { base: None, ..submodules.clone() }),
            lfs: self.request.lfs.clone(),
            own: false,
            policy: self.request.policy.clone(),
            time_limit: self.deadline.saturating_duration_since(Instant::now()),
            limits: self.request.limits,
        };
        let fetched = async {
            let mut session = Session::open(&request, self.cancel, &self.top).await?;
            session.fetch_wanted(place, progress).await?;
            session.check_out(place, progress).await?;
            // Boxed, because a submodule may have submodules.
            Box::pin(session.complete(place, count, depth + 1, progress)).await
        };
        fetched.await.map_err(|error| within(path, error))?;
        tokio::fs::remove_dir_all(place.join(".git")).await.map_err(GitError::Disk)
    }

    /// The submodules that the commit in `dest` has.
    async fn links(&self, dest: &Path) -> Result<Listed, GitError> {
        let mut listed = Listed { links: Vec::new(), file: None };
        let mut sink = |line: OutputLine| {
            let OutputLine::Stdout(line) = line else { return };
            let Some((about, path)) = line.split_once('\t') else { return };
            let mut about = about.split(' ');
            match (about.next(), about.next(), about.next()) {
                // One more than are fetched, so that it is seen that there are too many.
                (Some("160000"), _, Some(commit)) if listed.links.len() <= MAX_COUNT => {
                    listed.links.push((path.to_owned(), commit.to_owned()));
                }
                (Some(mode), ..) if path == ".gitmodules" => listed.file = Some(mode.to_owned()),
                _ => {}
            }
        };
        let list = self.git().dir(dest).args(["-c", "core.quotePath=false", "ls-tree", "-r", "HEAD"]);
        let finished = list.run(self.cancel, &mut sink).await.map_err(|error| self.command_error(error))?;
        if finished.success() { Ok(listed) } else { Err(self.failure("git ls-tree failed")) }
    }

    /// What `.gitmodules` of the commit in `dest` says, by name.
    async fn said(&self, dest: &Path) -> Result<BTreeMap<String, Said>, GitError> {
        let size = self.git().dir(dest).args(["cat-file", "-s", "HEAD:.gitmodules"]);
        let size = self.quiet(size).await?.stdout.trim().parse::<u64>().unwrap_or(u64::MAX);
        if size > MAX_FILE {
            return Err(refused(".gitmodules", &format!("it is larger than {MAX_FILE} bytes")));
        }
        let list = self.git().dir(dest).max_line(1 << 20).args(["config", "--no-includes", "--null"]);
        let list = list.args(["--blob", "HEAD:.gitmodules", "--list"]);
        let out = list.capture(self.cancel, 1 << 20).await.map_err(|error| self.command_error(error))?;
        match out.finished.success() {
            true => read(&out.stdout),
            false => Err(refused(".gitmodules", "git cannot read it")),
        }
    }

    /// The address of a submodule, and the credentials in it.
    fn address(
        &self,
        submodules: &Submodules,
        path: &str,
        given: Option<&str>,
    ) -> Result<(GitUrl, Option<GitCredential>), GitError> {
        let given = given.ok_or_else(|| refused(path, ".gitmodules gives it no url"))?;
        let whole = if given.starts_with("./") || given.starts_with("../") {
            let base = match &submodules.base {
                Some(base) => base,
                None if self.request.own => {
                    let why = "its address is relative, and a repository on Berth has no others beside it; give a whole address, or set the app's git_url to what it is relative to";
                    return Err(refused(path, why));
                }
                None => &self.url,
            };
            relative(base.as_str(), given)
                .ok_or_else(|| refused(path, "its relative address leads nowhere"))?
        } else {
            given.to_owned()
        };
        GitUrl::parse(&whole, submodules.allow_local).map_err(|error| refused(path, &error.to_string()))
    }
}

/// A submodule that is to be fetched.
struct SubmoduleOf<'a> {
    path: &'a str,
    url: GitUrl,
    given: Option<GitCredential>,
    commit: CommitSha,
    place: &'a Path,
}

fn refused(given: &str, why: &str) -> GitError {
    GitError::Submodule { given: one_line(given), why: why.to_owned() }
}

/// Says where something went wrong; what holds for the whole fetch stays what it is.
fn within(path: &str, error: GitError) -> GitError {
    match error {
        GitError::Cancelled
        | GitError::TimedOut { .. }
        | GitError::TooLarge { .. }
        | GitError::Disk(_)
        | GitError::NotInstalled { .. }
        | GitError::Submodule { .. } => error,
        other => GitError::InSubmodule { path: one_line(path), source: Box::new(other) },
    }
}

/// The folder in which a submodule goes: empty, and reached through folders alone.
async fn place_of(dest: &Path, path: &str) -> Result<PathBuf, GitError> {
    let clean = TreePath::parse(path.as_bytes()).map_err(|why| refused(path, &why.to_string()))?;
    if clean.as_str() != path || path.starts_with('-') || path.split('/').any(is_git) {
        return Err(refused(path, "its path is none that a submodule can have"));
    }
    let mut place = dest.to_owned();
    for name in path.split('/') {
        place.push(name);
        let about = tokio::fs::symlink_metadata(&place).await.map_err(GitError::Disk)?;
        if !about.is_dir() {
            return Err(refused(path, "its path leads through something that is no folder"));
        }
    }
    let mut inside = tokio::fs::read_dir(&place).await.map_err(GitError::Disk)?;
    match inside.next_entry().await.map_err(GitError::Disk)? {
        None => Ok(place),
        Some(_) => Err(refused(path, "its folder has other files in it")),
    }
}

/// Whether a name is git's own, on some file system.
fn is_git(name: &str) -> bool {
    name.eq_ignore_ascii_case(".git") || name.to_ascii_lowercase().starts_with("git~")
}

/// Reads what `git config --null --list` prints of `.gitmodules`. What git itself refuses there is refused here.
fn read(text: &str) -> Result<BTreeMap<String, Said>, GitError> {
    let mut all: BTreeMap<String, Said> = BTreeMap::new();
    for entry in text.split('\0') {
        let (key, value) = entry.split_once('\n').unwrap_or((entry, ""));
        let Some((name, field)) = key.strip_prefix("submodule.").and_then(|rest| rest.rsplit_once('.'))
        else {
            continue;
        };
        if name.is_empty() || name.split(['/', '\\']).any(|part| part == "..") {
            return Err(refused(name, "its name would lead out of the repository"));
        }
        let value = Some(value.to_owned());
        let said = all.entry(name.to_owned()).or_default();
        match field {
            "path" => said.path = value,
            "url" => said.url = value,
            "update" => said.update = value,
            _ => {}
        }
    }
    for (name, said) in &all {
        let dashed = |value: &Option<String>| value.as_ref().is_some_and(|value| value.starts_with('-'));
        if dashed(&said.path) || dashed(&said.url) {
            return Err(refused(name, "its path or address begins with \"-\", as an option does"));
        }
        if said.update.as_ref().is_some_and(|update| update.starts_with('!')) {
            return Err(refused(name, "it wants a command to be run"));
        }
    }
    Ok(all)
}

/// An address relative to another, as git understands it; none if it leads above the host.
fn relative(base: &str, given: &str) -> Option<String> {
    let base = base.trim_end_matches('/');
    let (host, path) = match (base.split_once("://"), base.split_once(':')) {
        (Some((scheme, rest)), _) => {
            let (authority, path) = rest.split_once('/')?;
            (format!("{scheme}://{authority}/"), path)
        }
        (None, Some((host, path))) if !base.starts_with('/') => match path.strip_prefix('/') {
            Some(path) => (format!("{host}:/"), path),
            None => (format!("{host}:"), path),
        },
        _ => ("/".to_owned(), base.strip_prefix('/')?),
    };
    let mut parts: Vec<&str> = path.split('/').collect();
    let mut rest = given;
    loop {
        if let Some(after) = rest.strip_prefix("./") {
            rest = after;
        } else if let Some(after) = rest.strip_prefix("../") {
            parts.pop()?;
            rest = after;
        } else {
            break;
        }
    }
    // Further on, a path that goes up is none that any host needs.
    if rest.is_empty() || rest.split('/').any(|part| part == "..") {
        return None;
    }
    parts.push(rest);
    Some(format!("{host}{}", parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_addresses_are_taken_as_git_takes_them() {
        for (base, given, whole) in [
            ("https://h/a/b.git", "../c.git", Some("https://h/a/c.git")),
            ("https://h/a/b.git/", "./c", Some("https://h/a/b.git/c")),
            ("https://h/a/b", "../../x/c", Some("https://h/x/c")),
            ("https://h/a", "../../c", None),
            ("git@h:a/b.git", "../c.git", Some("git@h:a/c.git")),
            ("git@h:b.git", "../c.git", Some("git@h:c.git")),
            ("git@h:/srv/b.git", "../c.git", Some("git@h:/srv/c.git")),
            ("git@h:b.git", "../../c.git", None),
            ("ssh://git@h:22/a/b", "../c", Some("ssh://git@h:22/a/c")),
            ("file:///srv/b", "../c", Some("file:///srv/c")),
            ("/srv/b", "../c", Some("/srv/c")),
            ("https://h/a/b", "../", None),
            ("https://h/a/b", "../c/../../d", None),
        ] {
            assert_eq!(relative(base, given).as_deref(), whole, "{base} {given}");
        }
    }

    #[tokio::test]
    async fn a_submodule_goes_into_an_empty_folder_of_the_tree_and_nowhere_else() {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(top.path().join("libs/one")).unwrap();
        std::fs::create_dir_all(top.path().join("full/x")).unwrap();
        std::os::unix::fs::symlink("/tmp", top.path().join("out")).unwrap();
        std::os::unix::fs::symlink("libs", top.path().join("in")).unwrap();
        std::fs::write(top.path().join("file"), "x").unwrap();
        assert!(place_of(top.path(), "libs/one").await.is_ok());
        for bad in ["full", "out", "in/one", "file", "../x", "/tmp", "libs//one", ".GIT/hooks", "libs/git~1"]
        {
            assert!(place_of(top.path(), bad).await.is_err(), "{bad}");
        }
    }

    #[test]
    fn what_git_refuses_in_gitmodules_is_refused() {
        let one = |field: &str, value: &str| format!("submodule.lib.{field}\n{value}\0");
        let read_one = |text: &str| read(text).map(|all| all["lib"].clone());
        let said = read_one(&(one("path", "lib") + one("url", "../a.b").as_str())).unwrap();
        assert_eq!((said.path.as_deref(), said.url.as_deref()), (Some("lib"), Some("../a.b")));
        for bad in [
            one("url", "--upload-pack=touch /tmp/x"),
            one("path", "-x"),
            one("update", "!touch /tmp/x"),
            "submodule.../../x.path\na\0".to_owned(),
            "submodule.a\\..\\b.url\nb\0".to_owned(),
        ] {
            assert!(matches!(read(&bad), Err(GitError::Submodule { .. })), "{bad:?}");
        }
        assert!(read("core.x\ny\0garbage").unwrap().is_empty());
    }
}
