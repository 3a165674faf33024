//! What the sender of a push did not tell of its commits, asked for where they are: marks in messages and `watch_paths`
//! hold for what was found by asking, and for pull requests, of which forges tell no message, too.

use std::time::Duration;

use berth_schemas::{
    Code, Problem, Untrusted,
    push::{GitChange, GitCommits, PushRules},
};
use berth_store::{PushRow, PushSource};

use super::is_short;
use crate::{
    access::GitAs,
    fault::sentence,
    fetch::git_problem,
    pipeline::Inner,
    source::git::{self, AddressError, CommitSha, FetchRequest, GitError, GitUrl, Wanted},
};

/// Longest that a question to a forge may take: other pushes wait meanwhile.
const ASK_LIMIT: Duration = Duration::from_secs(15);
/// Most bytes that reading a commit may bring.
const ASK_BYTES: u64 = 16 << 20;

/// Whether something may be learnt that can matter.
pub(super) fn tells_too_little(push: &PushRow, rules: &PushRules) -> bool {
    let asked = push.wishes.force || push.wishes.skip;
    let remote = matches!(push.source, PushSource::Remote { .. });
    !asked && remote && (push.commits.message.is_none() || lacks_paths(push, rules))
}

/// Whether paths are filtered and were not told, but can be found: of what a pull request or a new branch brings they
/// cannot.
fn lacks_paths(push: &PushRow, rules: &PushRules) -> bool {
    rules.watch_paths.as_ref().is_some_and(|p| !p.is_empty())
        && push.commits.paths.is_none()
        && before(push).is_some()
}

/// The commit at which a branch was.
fn before(push: &PushRow) -> Option<CommitSha> {
    match &push.change {
        GitChange::Branch { before: Some(before), .. } => CommitSha::parse(before).ok(),
        _ => None,
    }
}

impl Inner {
    /// The push with what could be learnt of its `commit`, which is kept. Where nothing can be, it stays as it is: a
    /// build too many harms less than a change that is lost.
    pub(super) async fn learn(
        &self,
        push: &PushRow,
        rules: &PushRules,
        commit: &str,
    ) -> Result<PushRow, Problem> {
        let told = match self.ask_commit(push, rules, commit).await {
            Ok(told) => told,
            Err(problem) => {
                tracing::warn!(push = push.id.0, app = %push.app, %problem, "what a push's commit says is not known");
                return Ok(push.clone());
            }
        };
        let known = push.commits.clone();
        let commits = GitCommits {
            message: known.message.or(Some(Untrusted(told.message))),
            author: known.author.or(Some(Untrusted(told.author))),
            pusher: known.pusher,
            paths: known.paths.or(told.paths),
        };
        Ok(self.store.pushes().learn(push.id, commits).await?)
    }

    async fn ask_commit(
        &self,
        push: &PushRow,
        rules: &PushRules,
        commit: &str,
    ) -> Result<git::Described, Problem> {
        let commit = CommitSha::parse(commit).map_err(|e| bad(&e))?;
        let mut request = self.question(push, Wanted::Commit(commit)).await?;
        request.limits.bytes = ASK_BYTES;
        let before = before(push).filter(|_| lacks_paths(push, rules));
        git::describe(&request, before.as_ref(), &self.shutdown).await.map_err(|e| git_problem(&e))
    }

    /// A question to the repository that a push came from; of a pull request, where its head is.
    async fn question(&self, push: &PushRow, wanted: Wanted) -> Result<FetchRequest, Problem> {
        let PushSource::Remote { url } = &push.source else {
            return Err(Problem::new(Code::Internal, "Berth's own repositories are not asked."));
        };
        let url = match &push.change {
            GitChange::Pull { head_url: Some(head), .. } => head,
            _ => url,
        };
        let (url, credential) = GitUrl::parse(url, self.config.allow_local_sources).map_err(|e| bad(&e))?;
        let who = match &self.config.git_access {
            Some(access) => access.git_as(push.app_id, &url).await?,
            None => GitAs::default(),
        };
        let mut request = FetchRequest::new(url, wanted);
        request.credential = credential;
        request.time_limit = ASK_LIMIT;
        self.prepare_fetch(&mut request, who).await?;
        Ok(request)
    }

    /// The whole id of a commit of which a forge told only the beginning: that of its branch's head, which it is if it
    /// has not moved on. None if it has.
    pub(super) async fn whole_commit(
        &self,
        push: &PushRow,
        branch: &str,
        commit: String,
    ) -> Result<Option<String>, Problem> {
        let told =
            !matches!((&push.source, &push.change), (PushSource::Remote { .. }, GitChange::Pull { .. }));
        if told || !is_short(&commit) {
            return Ok(Some(commit));
        }
        let request = self.question(push, Wanted::DefaultBranch).await?;
        let refs = git::remote_refs(&request, &self.shutdown).await.map_err(|error| {
            let problem = git_problem(&error);
            // What may pass is tried again.
            let passing = matches!(error, GitError::HostUnreachable { .. } | GitError::Cancelled);
            if passing { Problem { code: Code::Unavailable, ..problem } } else { problem }
        })?;
        let name = format!("refs/heads/{branch}");
        let head = refs.into_iter().find(|known| known.name == name);
        let head = head.map(|known| known.commit.as_str().to_owned());
        Ok(head.filter(|head| head.starts_with(&commit.to_ascii_lowercase())))
    }
}

fn bad(error: &AddressError) -> Problem {
    Problem::new(Code::GitFailed, sentence(&error.to_string()))
}
