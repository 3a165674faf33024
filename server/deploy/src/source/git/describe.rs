//! What a commit says and touches, without its files.

use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::{CommitSha, FetchRequest, GitError, Session, Wanted};

/// Paths that are of interest; of a commit that touches more it is not known which.
const MAX_PATHS: usize = 2000;

/// What is known of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Its message, without empty lines. Written by strangers.
    pub message: String,
    /// The author's name. Written by strangers.
    pub author: String,
    /// The paths in which it differs from the commit before; none where that is not known, or they are too many.
    pub paths: Option<Vec<String>>,
}

/// Reads the commit that `request` wants; the paths only if there is one `before`. Of a host that cannot leave out
/// the files they come, too, up to the request's limit.
///
/// # Errors
/// [`GitError`]; that the commit before is not there is none.
pub async fn describe(
    request: &FetchRequest,
    before: Option<&CommitSha>,
    cancel: &CancellationToken,
) -> Result<Described, GitError> {
    let dir = tempfile::Builder::new().prefix("berth-commit-").tempdir().map_err(GitError::Disk)?;
    let dir = dir.path();
    let mut session = Session::open(request, cancel, dir).await?;
    session.quiet(session.git().args(["init", "--quiet", "--template="]).arg("--").arg(dir)).await?;
    let commit = match &request.wanted {
        Wanted::Commit(commit) => commit.as_str(),
        _ => "HEAD",
    };
    // Which paths differ is told by the trees of both.
    let filter = if before.is_some() { "blob:none" } else { "tree:0" };
    session.fetch_light(dir, commit, filter).await?;
    let commit = "FETCH_HEAD^{commit}";
    let show = session.git().dir(dir).args(["show", "--no-patch", "--no-show-signature", "--encoding=UTF-8"]);
    let shown = session.quiet(show.arg("--format=tformat:A%an%n%B").args([commit, "--"])).await?;
    let (author, message) = shown.stdout.split_once('\n').unwrap_or((&shown.stdout, ""));
    let mut described = Described {
        message: message.to_owned(),
        author: author.strip_prefix('A').unwrap_or(author).to_owned(),
        paths: None,
    };
    if let (Some(before), Wanted::Commit(commit)) = (before, &request.wanted) {
        // A commit that was forced away may be gone, which is no reason not to read the message.
        described.paths = session.paths_since(dir, before, commit).await.ok().flatten();
    }
    Ok(described)
}

impl Session<'_> {
    /// Fetches one commit, and nothing that is as large as a file.
    async fn fetch_light(&mut self, dir: &Path, commit: &str, filter: &str) -> Result<(), GitError> {
        match self.fetch_filtered(dir, commit, filter).await {
            Err(GitError::Redirected { url }) => match self.request.url.with_git_suffix() {
                Some(suffixed) => {
                    self.url = suffixed;
                    self.fetch_filtered(dir, commit, filter).await
                }
                None => Err(GitError::Redirected { url }),
            },
            other => other,
        }
    }

    async fn fetch_filtered(&self, dir: &Path, commit: &str, filter: &str) -> Result<(), GitError> {
        let fetch = self.git().dir(dir).args(["fetch", "--quiet", "--no-tags", "--depth=1"]);
        let fetch = fetch.arg(format!("--filter={filter}"));
        let fetch =
            fetch.args(["--no-recurse-submodules", "--no-write-commit-graph", "--no-auto-maintenance"]);
        self.watched(fetch.arg("--").arg(self.url.as_str()).arg(commit), &mut |_| {}).await
    }

    /// The paths in which a commit that is here differs from one that is not; none where they are too many.
    async fn paths_since(
        &mut self,
        dir: &Path,
        old: &CommitSha,
        new: &CommitSha,
    ) -> Result<Option<Vec<String>>, GitError> {
        self.fetch_light(dir, old.as_str(), "blob:none").await?;
        let diff = self.git().dir(dir).args(["-c", "core.quotePath=false", "diff-tree", "-r"]);
        let diff = diff.args(["--no-renames", "--name-only", "--no-commit-id"]);
        let shown = self.quiet(diff.arg(old.as_str()).arg(new.as_str()).arg("--")).await?;
        let paths: Vec<String> = shown.stdout.lines().map(str::to_owned).collect();
        Ok((paths.len() <= MAX_PATHS).then_some(paths))
    }
}
