//! Berth's own repository of each app: bare, below `repos/` of the data directory, made when it is first asked for.
//!
//! git works in it by argument vector, with no configuration but ours: no hooks, no helpers, no alternates, no
//! maintenance by itself. Objects of a push come into a quarantine beside the others (`receive`), and only what was
//! checked is moved over; refs move by comparing with where they were.

mod lfs;
mod pkt;
mod receive;
mod wanted;

use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_schemas::{Code, Problem};
use berth_store::model::AppId;
use tokio_util::sync::CancellationToken;

pub(crate) use self::{
    lfs::NotKept,
    pkt::{Band, FLUSH, PktError, SideBand, packet},
    receive::{Drained, Incoming, UNPACK_LIMIT, drain},
    wanted::{Kind, Move, Wanted, ZERO, wishes},
};
use crate::{
    attempt::{io_problem, remove_dir},
    command::{Captured, Command},
    source::git::GitRef,
};

/// The longest that a look at a repository may take.
const LOOK_LIMIT: Duration = Duration::from_secs(60);
/// The longest that packing the objects anew may take.
const TIDY_LIMIT: Duration = Duration::from_secs(3600);
/// Bytes of a list of refs or paths that are read.
const MAX_LIST: usize = 4 << 20;
/// Paths of one push that are of interest.
const MAX_PATHS: usize = 2000;
/// What a client is told that it can ask of a push.
const ABILITIES: &str =
    "report-status delete-refs side-band-64k quiet atomic ofs-delta push-options object-format=sha1";

/// In the names of repositories that are being made.
const HALF_MADE: &str = "berth-new-";

/// Where an app's repository is.
pub(crate) fn path(data_dir: &Path, app: AppId) -> PathBuf {
    data_dir.join("repos").join(format!("{}.git", app.0))
}

/// Where a repository keeps objects of Git LFS: where git-lfs itself would, in a bare one.
pub(crate) fn lfs_objects(repository: &Path) -> PathBuf {
    repository.join("lfs").join("objects")
}

/// What a client wants of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GitService {
    /// To fetch.
    UploadPack,
    /// To push.
    ReceivePack,
}

impl GitService {
    /// Its name in the protocol.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UploadPack => "git-upload-pack",
            Self::ReceivePack => "git-receive-pack",
        }
    }

    /// The service of this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::UploadPack, Self::ReceivePack].into_iter().find(|s| s.as_str() == text)
    }
}

/// A repository.
#[derive(Debug, Clone)]
pub(crate) struct Repository {
    dir: PathBuf,
}

/// A branch or tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ref {
    /// Full name.
    pub(crate) name: String,
    /// The object that it points to.
    pub(crate) object: String,
    /// The commit that this leads to.
    pub(crate) commit: String,
}

impl Repository {
    /// The repository of an app, made if there is none.
    pub(crate) async fn open(data_dir: &Path, app: AppId) -> Result<Self, Problem> {
        let dir = path(data_dir, app);
        let repository = Self { dir };
        if repository.exists().await {
            return Ok(repository);
        }
        // Made aside and moved into place: what is there is whole.
        let aside = repository.dir.with_extension(format!("{HALF_MADE}{}", uuid::Uuid::new_v4()));
        let made = repository.make(&aside).await;
        if made.is_err() || repository.exists().await {
            remove_dir(&aside).await.map_err(|e| io_problem("removing a half-made repository", &e))?;
        }
        made.map(|()| repository)
    }

    /// The repository of an app, if there is one.
    pub(crate) async fn find(data_dir: &Path, app: AppId) -> Option<Self> {
        let repository = Self { dir: path(data_dir, app) };
        repository.exists().await.then_some(repository)
    }

    /// Removes what was not made to its end. Nobody may be making one.
    pub(crate) async fn clear_half_made(data_dir: &Path) -> std::io::Result<()> {
        let mut entries = tokio::fs::read_dir(data_dir.join("repos")).await?;
        while let Some(entry) = entries.next_entry().await? {
            if entry.file_name().to_string_lossy().contains(HALF_MADE) {
                remove_dir(&entry.path()).await?;
            }
        }
        Ok(())
    }

    async fn exists(&self) -> bool {
        tokio::fs::try_exists(self.dir.join("HEAD")).await.unwrap_or(false)
    }

    async fn make(&self, aside: &Path) -> Result<(), Problem> {
        let aside_repository = Self { dir: aside.to_owned() };
        let init = base().args(["init", "--quiet", "--bare", "--template=", "--initial-branch=main", "--"]);
        run(init.arg(aside), "making the repository").await?;
        // A deployment fetches its very commit, also when the branch has moved on.
        let set = aside_repository.git().args(["config", "uploadpack.allowAnySHA1InWant", "true"]);
        run(set, "configuring the repository").await?;
        match tokio::fs::rename(aside, &self.dir).await {
            // Somebody was faster.
            Err(_) if self.exists().await => Ok(()),
            other => other.map_err(|e| io_problem("making the repository", &e)),
        }
    }

    /// git in this repository.
    pub(super) fn git(&self) -> Command {
        base().env("GIT_DIR", &self.dir).dir(&self.dir)
    }

    pub(super) fn objects(&self) -> PathBuf {
        self.dir.join("objects")
    }

    /// Its branches and tags.
    pub(crate) async fn refs(&self) -> Result<Vec<Ref>, Problem> {
        let list = self.git().args(["for-each-ref", "--format=%(objectname) %(*objectname) %(refname)"]);
        let out = run(list.args(["refs/heads", "refs/tags"]), "reading the refs").await?;
        let parse = |line: &str| {
            let mut words = line.splitn(3, ' ');
            let (object, peeled, name) = (words.next()?, words.next()?, words.next()?);
            let commit = if peeled.is_empty() { object } else { peeled };
            Some(Ref { name: name.into(), object: object.into(), commit: commit.into() })
        };
        Ok(out.stdout.lines().filter_map(parse).collect())
    }

    /// The branch that HEAD names, whether it exists or not.
    pub(crate) async fn head(&self) -> Result<String, Problem> {
        let out = run(self.git().args(["symbolic-ref", "HEAD"]), "reading HEAD").await?;
        let name = out.stdout.trim();
        Ok(name.strip_prefix("refs/heads/").unwrap_or(name).to_owned())
    }

    /// Has HEAD name another branch.
    pub(crate) async fn set_head(&self, branch: &GitRef) -> Result<(), Problem> {
        let set = self.git().args(["symbolic-ref", "HEAD"]).arg(format!("refs/heads/{}", branch.as_str()));
        run(set, "setting HEAD").await.map(|_| ())
    }

    /// What a client that wants to push is told first.
    pub(crate) async fn advertise_receive(&self) -> Result<Vec<u8>, Problem> {
        Ok(advertised(&self.refs().await?))
    }

    /// git that serves a fetch over one exchange; with `refs` it only tells what there is.
    pub(crate) fn upload_pack(&self, protocol: Option<&str>, refs: bool) -> Command {
        let mut git = self.git().args(["upload-pack", "--strict", "--stateless-rpc"]);
        if refs {
            git = git.arg("--advertise-refs");
        }
        if let Some(protocol) = protocol {
            git = git.env("GIT_PROTOCOL", protocol);
        }
        git.arg(".")
    }

    /// The author and message of a commit.
    pub(crate) async fn describe(&self, commit: &str) -> Result<(String, String), Problem> {
        let log =
            self.git().args(["log", "-1", "--no-show-signature", "--encoding=UTF-8", "--format=A%an%n%B"]);
        let out = run(log.arg(commit).arg("--"), "reading the commit").await?;
        let (author, message) = out.stdout.split_once('\n').unwrap_or((&out.stdout, ""));
        Ok((author.strip_prefix('A').unwrap_or(author).to_owned(), message.to_owned()))
    }

    /// The paths in which two commits differ; none where they are too many.
    pub(crate) async fn paths_between(&self, old: &str, new: &str) -> Option<Vec<String>> {
        let diff = self.git().args(["-c", "core.quotePath=false", "diff-tree", "-r", "--no-renames"]);
        let diff = diff.args(["--name-only", "--no-commit-id"]).arg(old).arg(new).arg("--");
        let out = diff.capture(&CancellationToken::new(), MAX_LIST).await.ok()?;
        let paths: Vec<String> = out.stdout.lines().map(str::to_owned).collect();
        (out.finished.success() && paths.len() <= MAX_PATHS).then_some(paths)
    }

    /// Packs the objects anew when there are many packs, and drops what has been in no branch for weeks.
    pub(crate) async fn tidy(&self, cancel: &CancellationToken) -> Result<(), Problem> {
        let gc =
            self.git().args(["-c", "gc.auto=2000", "-c", "gc.autoPackLimit=20", "-c", "gc.autoDetach=false"]);
        let gc = gc.args(["gc", "--auto", "--quiet"]).timeout(TIDY_LIMIT);
        let out = gc.capture(cancel, 4096).await.map_err(|e| Problem::new(Code::Internal, e.to_string()))?;
        if out.finished.success() { Ok(()) } else { Err(Problem::new(Code::Internal, out.stderr)) }
    }
}

/// What a client that wants to push is told first, of a repository with these refs.
pub(crate) fn advertised(refs: &[Ref]) -> Vec<u8> {
    let mut out = packet(b"# service=git-receive-pack\n");
    out.extend_from_slice(FLUSH);
    let agent = concat!("agent=berth/", env!("CARGO_PKG_VERSION"));
    let abilities = format!("\0{ABILITIES} {agent}\n");
    let mut lines = refs.iter().map(|r| format!("{} {}", r.object, r.name));
    let first = lines.next().unwrap_or_else(|| format!("{ZERO} capabilities^{{}}"));
    out.extend(packet(format!("{first}{abilities}").as_bytes()));
    for line in lines {
        out.extend(packet(format!("{line}\n").as_bytes()));
    }
    out.extend_from_slice(FLUSH);
    out
}

/// git with no configuration but ours.
fn base() -> Command {
    let config = [
        ("core.hooksPath", "/dev/null"),
        ("core.fsmonitor", "false"),
        ("core.fsync", "all"),
        ("core.bigFileThreshold", "16m"),
        ("core.logAllRefUpdates", "false"),
        ("core.alternateRefsCommand", "false"),
        ("safe.directory", "*"),
        ("gc.auto", "0"),
        ("maintenance.auto", "false"),
        ("pack.threads", "1"),
        ("pack.windowMemory", "64m"),
        ("transfer.bundleURI", "false"),
        ("uploadpack.allowFilter", "true"),
    ];
    let mut git = Command::new("git")
        .timeout(LOOK_LIMIT)
        .max_line(8192)
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_CONFIG_COUNT", config.len().to_string());
    for (index, (key, value)) in config.into_iter().enumerate() {
        git = git.env(format!("GIT_CONFIG_KEY_{index}"), key).env(format!("GIT_CONFIG_VALUE_{index}"), value);
    }
    git
}

/// Runs git to its end; what it says when it fails is for the daemon's log.
async fn run(git: Command, doing: &str) -> Result<Captured, Problem> {
    let out = git.capture(&CancellationToken::new(), MAX_LIST).await;
    let failed = |why: String| {
        tracing::error!(%doing, %why, "git failed in Berth's own repository");
        Problem::new(Code::Internal, format!("git failed while {doing}; the daemon's log says more."))
    };
    match out {
        Ok(out) if out.finished.success() => Ok(out),
        Ok(out) => Err(failed(out.stderr)),
        Err(crate::command::CommandError::NotInstalled { .. }) => {
            Err(Problem::new(Code::Unavailable, "git is not installed on the server.")
                .hint("Install git there, 2.37 or newer."))
        }
        Err(error) => Err(failed(error.to_string())),
    }
}

/// The branch that HEAD should name: the configured one, else a usual one, else what it names if that exists, else
/// any that there is.
pub(crate) fn head_of(branches: &[String], configured: Option<&str>, named: &str) -> Option<String> {
    let there = |name: &str| branches.iter().any(|b| b == name);
    if let Some(configured) = configured {
        return Some(configured.to_owned());
    }
    ["main", "master", named]
        .into_iter()
        .find(|name| there(name))
        .map(str::to_owned)
        .or_else(|| branches.first().cloned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_is_configured_or_usual_or_what_there_is() {
        let all = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let head = |names: &[&str], configured, named| head_of(&all(names), configured, named);
        assert_eq!(head(&["dev"], None, "main").as_deref(), Some("dev"));
        assert_eq!(head(&["dev", "main"], None, "dev").as_deref(), Some("main"));
        assert_eq!(head(&["a", "trunk"], None, "trunk").as_deref(), Some("trunk"));
        assert_eq!(head(&["main"], Some("live"), "main").as_deref(), Some("live"));
        assert_eq!(head(&[], None, "main"), None);
    }
}
