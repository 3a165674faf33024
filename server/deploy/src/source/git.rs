//! Fetching a repository at a branch, tag or commit, by the `git` program.
//!
//! git runs without any configuration but ours, without hooks, filters, prompts and helpers, with one transport
//! allowed. A token reaches it through its environment (never the argument list, never a file) and is bound to
//! the repository's origin. The host is resolved by [`super::guard`] and git is pinned to the addresses found
//! (git 2.37 or newer; an older git resolves again by itself). Redirects are not followed, because a redirect
//! would step around that check; the one usual case, a missing `.git`, is tried again with it.
//!
//! What comes out is a source tree and not a repository: `.git` is gone, and links that lead out are removed
//! and listed.

pub mod address;
mod describe;
mod failure;
mod lfs;
mod lfs_web;
mod settle;
mod ssh;
mod submodules;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

pub use address::{AddressError, CommitSha, GitCredential, GitRef, GitUrl, Transport, Wanted};
pub use describe::{Described, describe};
pub use failure::GitError;
pub use lfs::Lfs;
pub use ssh::{SshIdentity, known_host_keys};
pub use submodules::{Identities, Identity, Submodules};

use super::guard::{HostPolicy, resolve_guarded};
use super::limits::Limits;
use crate::command::{Captured, Command, CommandError, OutputLine};

/// The most bytes of git's output kept to tell a failure by, and of a list of refs.
const MAX_OUTPUT: usize = 512 * 1024;
/// How often the size on disk is looked at.
const SIZE_INTERVAL: Duration = Duration::from_millis(500);

/// What to fetch, and how far to go for it.
#[derive(Debug, Clone)]
pub struct FetchRequest {
    /// The repository.
    pub url: GitUrl,
    /// Who to be, over HTTPS.
    pub credential: Option<GitCredential>,
    /// Who to be and whom to trust, over SSH.
    pub ssh: SshIdentity,
    /// Which state.
    pub wanted: Wanted,
    /// Whether and how its submodules are fetched, too.
    pub submodules: Option<Submodules>,
    /// Whether and how files in Git LFS are fetched, too; else what points to them stays.
    pub lfs: Option<Lfs>,
    /// It is Berth's own repository: what git says of it names its place on this machine, and is not handed on.
    pub own: bool,
    /// Which hosts may be talked to.
    pub policy: HostPolicy,
    /// The longest the whole fetch may take, wall-clock.
    pub time_limit: Duration,
    /// Caps on the tree; `bytes` holds for tree and history together while fetching.
    pub limits: Limits,
}

impl FetchRequest {
    /// A request with the default limits: 10 minutes, no submodules, no Git LFS, public hosts only.
    pub fn new(url: GitUrl, wanted: Wanted) -> Self {
        Self {
            url,
            credential: None,
            ssh: SshIdentity::default(),
            wanted,
            submodules: None,
            lfs: None,
            own: false,
            policy: HostPolicy::default(),
            time_limit: Duration::from_secs(600),
            limits: Limits::default(),
        }
    }
}

/// A fetched source tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkout {
    /// Where it is.
    pub dir: PathBuf,
    /// The commit it is at.
    pub commit: CommitSha,
    /// The first line of the commit's message, at most 200 characters. Written by strangers.
    pub message: String,
    /// The author's name, at most 200 characters. Written by strangers.
    pub author: String,
    /// When it was committed, microseconds since 1970, UTC.
    pub committed_at_us: i64,
    /// SHA-256 of the tree, as of an uploaded one.
    pub sha256: [u8; 32],
    /// Links that led out of the tree and were removed.
    pub removed_links: Vec<String>,
}

/// A branch or tag of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteRef {
    /// The full name, as `refs/heads/main`; `HEAD` for the default branch.
    pub name: String,
    /// The commit (of an annotated tag: the tag object).
    pub commit: CommitSha,
}

/// Fetches into `dest`, which must not exist yet and does not exist after an error. Lines of progress go to
/// `progress`, without control characters and secrets.
///
/// # Errors
/// [`GitError`].
pub async fn fetch(
    request: &FetchRequest,
    dest: &Path,
    cancel: &CancellationToken,
    progress: &mut (dyn FnMut(&str) + Send),
) -> Result<Checkout, GitError> {
    tokio::fs::create_dir(dest).await.map_err(GitError::Disk)?;
    let unfinished = RemoveOnDrop(Some(dest.to_owned()));
    let mut session = Session::open(request, cancel, dest).await?;
    match session.fetch_wanted(dest, progress).await {
        Err(GitError::RefNotFound { url, name, .. }) => {
            let candidates = session.candidates(&name).await;
            return Err(GitError::RefNotFound { url, name, candidates });
        }
        other => other?,
    }
    let checkout = session.check_out(dest, progress).await?;
    session.complete(dest, &mut 0, 0, progress).await?;
    let checkout = session.settle(checkout).await?;
    unfinished.keep();
    Ok(checkout)
}

/// The branches, tags and HEAD of a repository, without fetching anything.
///
/// # Errors
/// [`GitError`].
pub async fn remote_refs(
    request: &FetchRequest,
    cancel: &CancellationToken,
) -> Result<Vec<RemoteRef>, GitError> {
    Session::open(request, cancel, Path::new("")).await?.refs().await
}

/// One conversation with a repository's host: the environment every git of it gets, and the time left.
struct Session<'a> {
    request: &'a FetchRequest,
    cancel: &'a CancellationToken,
    url: GitUrl,
    env: Vec<(String, String)>,
    secrets: Vec<String>,
    deadline: Instant,
    /// The top of everything that is fetched, whose size is bounded.
    top: PathBuf,
    /// HOME of git and ssh: empty but for our ssh configuration. Removed when this is dropped.
    home: tempfile::TempDir,
}

impl<'a> Session<'a> {
    async fn open(
        request: &'a FetchRequest,
        cancel: &'a CancellationToken,
        top: &Path,
    ) -> Result<Self, GitError> {
        let home = tempfile::Builder::new().prefix("berth-git-").tempdir().map_err(GitError::Disk)?;
        let home_text = home.path().to_string_lossy().into_owned();
        let mut env: Vec<(String, String)> = [
            ("HOME", home_text.as_str()),
            ("XDG_CONFIG_HOME", home_text.as_str()),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_LFS_SKIP_SMUDGE", "1"),
            ("GIT_ALLOW_PROTOCOL", allowed_protocol(&request.url)),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();

        let mut config: Vec<(String, String)> = [
            ("core.hooksPath", "/dev/null"),
            ("core.fsmonitor", "false"),
            ("core.askPass", ""),
            ("credential.helper", ""),
            ("http.followRedirects", "false"),
            ("http.lowSpeedLimit", "1000"),
            ("http.lowSpeedTime", "60"),
            ("transfer.bundleURI", "false"),
            ("submodule.recurse", "false"),
            ("gc.auto", "0"),
            ("maintenance.auto", "false"),
            ("advice.detachedHead", "false"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
        let url = &request.url;
        let mut secrets = Vec::new();
        let addresses = match url.transport() {
            Transport::Local => Vec::new(),
            _ => resolve_guarded(url.host(), url.port(), &request.policy).await?,
        };
        // A literal address is not resolved, and curl's list of pins has no form for an IPv6 one.
        if url.transport() == Transport::Https
            && url.host().parse::<std::net::Ipv4Addr>().is_err()
            && !url.host().starts_with('[')
        {
            let list: Vec<String> = addresses.iter().map(|address| bracketed(address.ip())).collect();
            config.push((
                "http.curloptResolve".to_owned(),
                format!("{}:{}:{}", url.host(), url.port(), list.join(",")),
            ));
        }
        if let (Some(origin), Some(credential)) = (url.http_origin(), &request.credential) {
            let user = credential.user.as_deref().unwrap_or_else(|| token_user(url.host()));
            let basic =
                base64::engine::general_purpose::STANDARD.encode(format!("{user}:{}", credential.secret));
            config.push((format!("http.{origin}.extraHeader"), format!("Authorization: Basic {basic}")));
            secrets = vec![credential.secret.clone(), basic];
        }
        if url.transport() == Transport::Ssh {
            let pinned = addresses.first().map(std::net::SocketAddr::ip);
            env.extend(request.ssh.prepare(home.path(), url.host(), pinned).await?);
        }
        env.push(("GIT_CONFIG_COUNT".to_owned(), config.len().to_string()));
        for (index, (key, value)) in config.into_iter().enumerate() {
            env.push((format!("GIT_CONFIG_KEY_{index}"), key));
            env.push((format!("GIT_CONFIG_VALUE_{index}"), value));
        }
        let deadline = Instant::now() + request.time_limit;
        Ok(Self { request, cancel, url: url.clone(), env, secrets, deadline, top: top.to_owned(), home })
    }

    fn git(&self) -> Command {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let git = Command::new("git").timeout(left);
        self.env.iter().fold(git, |git, (name, value)| git.env(name, value))
    }

    /// Makes the empty repository in `dest` and brings the wanted state to FETCH_HEAD.
    async fn fetch_wanted(
        &mut self,
        dest: &Path,
        progress: &mut (dyn FnMut(&str) + Send),
    ) -> Result<(), GitError> {
        match self.fetch_from_here(dest, progress).await {
            Err(GitError::Redirected { url }) => match self.request.url.with_git_suffix() {
                Some(suffixed) => {
                    self.url = suffixed;
                    self.fetch_from_here(dest, progress).await
                }
                None => Err(GitError::Redirected { url }),
            },
            other => other,
        }
    }

    async fn fetch_from_here(
        &self,
        dest: &Path,
        progress: &mut (dyn FnMut(&str) + Send),
    ) -> Result<(), GitError> {
        // The empty template keeps out hooks and whatever else an administrator's templates hold.
        self.quiet(self.git().args(["init", "--quiet", "--template="]).arg("--").arg(dest)).await?;
        match &self.request.wanted {
            Wanted::DefaultBranch => self.fetch_ref(dest, "HEAD", true, progress).await,
            Wanted::Ref(name) if name.as_str().starts_with("refs/") => {
                self.fetch_ref(dest, name.as_str(), true, progress).await
            }
            // A branch is what people mean; a tag of the same name comes second.
            Wanted::Ref(name) => {
                let branch = format!("refs/heads/{name}");
                match self.fetch_ref(dest, &branch, true, progress).await {
                    Err(GitError::RefNotFound { .. }) => {
                        self.fetch_ref(dest, &format!("refs/tags/{name}"), true, progress).await
                    }
                    other => other,
                }
            }
            Wanted::Commit(commit) => match self.fetch_ref(dest, commit.as_str(), true, progress).await {
                // A host that hands out no single commits still has it in the history of some branch.
                Err(GitError::CommitNotFound { .. }) => {
                    self.fetch_ref(dest, "+refs/heads/*:refs/berth/*", false, progress).await
                }
                other => other,
            },
        }
    }

    async fn fetch_ref(
        &self,
        dest: &Path,
        refspec: &str,
        shallow: bool,
        progress: &mut (dyn FnMut(&str) + Send),
    ) -> Result<(), GitError> {
        let mut git = self.git().dir(dest).args(["fetch", "--progress", "--no-tags"]);
        git = git.args(["--no-recurse-submodules", "--no-write-commit-graph", "--no-auto-maintenance"]);
        if shallow {
            git = git.arg("--depth=1");
        }
        self.watched(git.arg("--").arg(self.url.as_str()).arg(refspec), progress).await
    }

    async fn check_out(
        &self,
        dest: &Path,
        progress: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Checkout, GitError> {
        let state = match &self.request.wanted {
            Wanted::Commit(commit) => format!("{commit}^{{commit}}"),
            _ => "FETCH_HEAD^{commit}".to_owned(),
        };
        let checkout = self.git().dir(dest).args(["checkout", "--quiet", "--detach", "--force"]);
        self.watched(checkout.arg(state).arg("--"), progress).await?;
        // Each line begins with a letter, because an empty one would not arrive.
        let format = "--format=tformat:C%H%nA%an%nT%ct%nS%s";
        let show =
            self.git().dir(dest).args(["show", "--no-patch", "--no-show-signature", "--encoding=UTF-8"]);
        let shown = self.quiet(show.arg(format).args(["HEAD", "--"])).await?;
        let field = |letter: char| shown.stdout.lines().find_map(|line| line.strip_prefix(letter));
        let commit = CommitSha::parse(field('C').unwrap_or("")).map_err(|error| GitError::Failed {
            url: self.url.to_string(),
            output: format!("git printed no commit id: {error}"),
        })?;
        let seconds: i64 = field('T').and_then(|text| text.parse().ok()).unwrap_or(0);
        let (message, author) = (one_line(field('S').unwrap_or("")), one_line(field('A').unwrap_or("")));
        Ok(Checkout {
            dir: dest.to_owned(),
            commit,
            message,
            author,
            committed_at_us: seconds.saturating_mul(1_000_000),
            sha256: [0; 32],
            removed_links: Vec::new(),
        })
    }

    /// Fetches what the commit in `dest` only names.
    async fn complete(
        &self,
        dest: &Path,
        count: &mut usize,
        depth: usize,
        progress: &mut (dyn FnMut(&str) + Send),
    ) -> Result<(), GitError> {
        if let Some(lfs) = &self.request.lfs {
            self.fetch_lfs(lfs, dest, progress).await?;
        }
        if let Some(submodules) = &self.request.submodules {
            self.fetch_submodules(submodules, dest, count, depth, progress).await?;
        }
        Ok(())
    }

    /// Makes a source tree of a checkout.
    async fn settle(&self, checkout: Checkout) -> Result<Checkout, GitError> {
        let (dir, limits, url) = (checkout.dir.clone(), self.request.limits, self.url.to_string());
        let settled = tokio::task::spawn_blocking(move || settle::settle(&dir, &limits, &url))
            .await
            .map_err(|error| GitError::Disk(std::io::Error::other(error)))??;
        Ok(Checkout { sha256: settled.sha256, removed_links: settled.removed_links, ..checkout })
    }

    async fn refs(&self) -> Result<Vec<RemoteRef>, GitError> {
        let list = self.git().args(["ls-remote", "--quiet", "--"]).arg(self.url.as_str());
        let listed = self.quiet(list).await?;
        Ok(listed
            .stdout
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .filter(|(_, name)| {
                *name == "HEAD" || name.starts_with("refs/heads/") || name.starts_with("refs/tags/")
            })
            .filter(|(_, name)| !name.ends_with("^{}"))
            .filter_map(|(sha, name)| {
                Some(RemoteRef { name: name.to_owned(), commit: CommitSha::parse(sha).ok()? })
            })
            .collect())
    }

    /// Names to offer instead of one that is not there. Best effort: the error itself is known already.
    async fn candidates(&self, wanted: &str) -> Vec<String> {
        let refs = self.refs().await.unwrap_or_default();
        let short = |name: &str| {
            name.strip_prefix("refs/heads/").or_else(|| name.strip_prefix("refs/tags/")).map(str::to_owned)
        };
        failure::nearest(wanted, refs.iter().filter_map(|known| short(&known.name)).collect())
    }

    /// Runs git to its end and keeps what it printed.
    async fn quiet(&self, git: Command) -> Result<Captured, GitError> {
        let out = git.capture(self.cancel, MAX_OUTPUT).await.map_err(|error| self.command_error(error))?;
        if out.finished.success() { Ok(out) } else { Err(self.failure(&out.stderr)) }
    }

    /// Runs git to its end, hands on its progress, and stops it when the directory grows too large.
    async fn watched(&self, git: Command, progress: &mut (dyn FnMut(&str) + Send)) -> Result<(), GitError> {
        let mut stderr = String::new();
        let mut sink = |line: OutputLine| {
            let (OutputLine::Stderr(text) | OutputLine::Stdout(text)) = line;
            if let Some(shown) = progress_line(&self.redact(&text)) {
                if stderr.len() + shown.len() < MAX_OUTPUT {
                    stderr.push_str(&shown);
                    stderr.push('\n');
                }
                if !self.request.own {
                    progress(&shown);
                }
            }
        };
        let finished = tokio::select! {
            finished = git.run(self.cancel, &mut sink) => finished.map_err(|error| self.command_error(error))?,
            () = grows_beyond(&self.top, self.request.limits.bytes) => {
                let limit = self.request.limits.bytes;
                return Err(GitError::TooLarge { url: self.url.to_string(), limit });
            }
        };
        if finished.success() { Ok(()) } else { Err(self.failure(&stderr)) }
    }

    fn failure(&self, stderr: &str) -> GitError {
        let clean = self.redact(stderr);
        let keyed = self.request.credential.is_some() || self.request.ssh.has_key();
        failure::classify(&clean, self.url.as_str(), &self.request.wanted, keyed)
    }

    fn redact(&self, text: &str) -> String {
        let known = self.secrets.iter().filter(|secret| !secret.is_empty());
        known.fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "[secret]"))
    }

    fn command_error(&self, error: CommandError) -> GitError {
        match error {
            CommandError::NotInstalled { program } => GitError::NotInstalled { program },
            CommandError::Cancelled { .. } => GitError::Cancelled,
            CommandError::TimedOut { .. } => {
                GitError::TimedOut { url: self.url.to_string(), limit: self.request.time_limit }
            }
            CommandError::Io { source, .. } => GitError::Disk(source),
        }
    }
}

/// Ends when the directory holds more than `limit` bytes.
async fn grows_beyond(dir: &Path, limit: u64) {
    loop {
        tokio::time::sleep(SIZE_INTERVAL).await;
        let dir = dir.to_owned();
        let size = tokio::task::spawn_blocking(move || settle::size_on_disk(&dir)).await.unwrap_or(0);
        if size > limit {
            return;
        }
    }
}

fn allowed_protocol(url: &GitUrl) -> &'static str {
    match url.transport() {
        Transport::Https => "https",
        Transport::Ssh => "ssh",
        Transport::Local => "file:http",
    }
}

fn bracketed(address: std::net::IpAddr) -> String {
    match address {
        std::net::IpAddr::V4(v4) => v4.to_string(),
        std::net::IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

/// The user name that a forge wants beside a bare token; most ignore it.
fn token_user(host: &str) -> &'static str {
    match host {
        "bitbucket.org" => "x-token-auth",
        host if host.contains("github") => "x-access-token",
        _ => "oauth2",
    }
}

fn one_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// A line fit for a log: no control characters, and of a progress meter only its end.
fn progress_line(line: &str) -> Option<String> {
    let clean: String = line.chars().filter(|c| !c.is_control()).collect();
    let clean = clean.trim_end().to_owned();
    let unfinished = clean.contains("% (") && !clean.contains("done");
    (!clean.is_empty() && !unfinished).then_some(clean)
}

/// Removes a directory on drop, unless it is kept.
struct RemoveOnDrop(Option<PathBuf>);

impl RemoveOnDrop {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        if let Some(dir) = self.0.take() {
            // Blocking, but the caller is on its way out with an error, and a half-fetched tree must not stay.
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

#[cfg(test)]
#[path = "git_tests.rs"]
mod tests;
