//! Payloads of GitHub, and of Gitea and Forgejo, whose fields have the same names where they are needed here.
//!
//! Fields as in GitHub's "Webhook events and payloads" (push, pull_request, ping) and in the webhook pages of Gitea's
//! and Forgejo's documentation (push, delete, pull_request, pull_request_sync).

use berth_schemas::push::{GitChange, GitCommits};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Commit, Refused, RemoteIdentity, Told, bad, branch, fork_url, moved, parse, some_commit, unique,
    untrusted,
};

/// GitHub lists at most so many commits of a push.
const LISTED: usize = 2048;

#[derive(Deserialize)]
struct Push {
    #[serde(rename = "ref")]
    name: String,
    before: Option<String>,
    after: Option<String>,
    #[serde(default)]
    forced: bool,
    commits: Option<Vec<Commit<User>>>,
    total_commits: Option<u64>,
    head_commit: Option<Commit<User>>,
    pusher: Option<User>,
    sender: Option<User>,
    repository: Repo,
}

#[derive(Deserialize)]
struct User {
    login: Option<String>,
    username: Option<String>,
    name: Option<String>,
}

#[derive(Deserialize)]
struct Repo {
    id: Option<i64>,
    full_name: Option<String>,
    clone_url: Option<String>,
    default_branch: Option<String>,
}

#[derive(Deserialize)]
struct Pull {
    action: String,
    number: Option<i64>,
    pull_request: PullRequest,
    repository: Repo,
    sender: Option<User>,
}

#[derive(Deserialize)]
struct PullRequest {
    number: Option<i64>,
    title: Option<String>,
    user: Option<User>,
    #[serde(default)]
    merged: Option<bool>,
    head: Side,
    base: Side,
}

#[derive(Deserialize)]
struct Side {
    #[serde(rename = "ref")]
    name: String,
    sha: Option<String>,
    repo: Option<Repo>,
}

#[derive(Deserialize)]
struct Deleted {
    #[serde(rename = "ref")]
    name: String,
    ref_type: String,
    repository: Repo,
}

pub(super) fn read(event: &str, body: &[u8]) -> Result<Told, Refused> {
    match event {
        // A deleted branch is a push, too.
        "push" => push(parse(body)?),
        "pull_request" => pull(parse(body)?),
        "ping" => Ok(Told::Ping),
        _ => Ok(Told::Unused),
    }
}

pub(super) fn read_gitea(event: &str, body: &[u8]) -> Result<Told, Refused> {
    match event {
        "push" => push(parse(body)?),
        "pull_request" | "pull_request_sync" => pull(parse(body)?),
        "delete" => deleted(parse(body)?),
        _ => Ok(Told::Unused),
    }
}

fn push(push: Push) -> Result<Told, Refused> {
    let head = push.head_commit.as_ref();
    let tagged = head.and_then(|c| c.id.as_deref());
    let change = moved(&push.name, push.before.as_deref(), push.after.as_deref(), tagged)?;
    let commits = push.commits.unwrap_or_default();
    let total = push.total_commits.and_then(|n| usize::try_from(n).ok()).unwrap_or(commits.len());
    // What is not told in full is not told: a new branch (nothing is known of what it brings besides), a forced one
    // (what it took away is not listed), a cut list.
    let whole = matches!(&change, Some(GitChange::Branch { before: Some(_), .. }))
        && !push.forced
        && !commits.is_empty()
        && commits.len() == total
        && commits.len() < LISTED;
    let paths = whole.then(|| commits.iter().flat_map(Commit::paths).collect());
    let head = push.head_commit.or_else(|| commits.into_iter().last());
    let (message, author) = head.map_or((None, None), |c| (c.message, c.author.and_then(User::person)));
    let pusher = push.pusher.and_then(User::account).or_else(|| push.sender.and_then(User::account));
    let commits = GitCommits {
        message: untrusted(message),
        author: untrusted(author),
        pusher: untrusted(pusher),
        paths: paths.map(|p: Vec<String>| unique(p)),
    };
    Ok(Told::one(push.repository.identity(), change, commits))
}

fn deleted(deleted: Deleted) -> Result<Told, Refused> {
    let name = deleted.name.as_str();
    let change = match deleted.ref_type.as_str() {
        "branch" => {
            let name = name.strip_prefix("refs/heads/").unwrap_or(name);
            Some(GitChange::BranchDeleted { branch: branch(name)? })
        }
        "tag" => {
            let name = name.strip_prefix("refs/tags/").unwrap_or(name);
            Some(GitChange::TagDeleted { tag: branch(name)? })
        }
        _ => None,
    };
    Ok(Told::one(deleted.repository.identity(), change, GitCommits::default()))
}

/// What is listed of pull requests that are open.
pub(super) fn listed(body: &Value) -> Result<Vec<GitChange>, Refused> {
    let all = Vec::<PullRequest>::deserialize(body).map_err(|_| bad("it is no list of pull requests"))?;
    let one = |request: &PullRequest| {
        let number = request.number.filter(|n| *n > 0).ok_or_else(|| bad("a pull request has no number"))?;
        open(number, request, None)
    };
    all.iter().map(one).collect()
}

/// A pull request that is open, in `repository` if that is told beside it.
fn open(number: i64, request: &PullRequest, repository: Option<&Repo>) -> Result<GitChange, Refused> {
    // A head without a repository is a fork that is gone.
    let fork = match (&request.head.repo, request.base.repo.as_ref().or(repository)) {
        (Some(head), Some(base)) => !head.same(base),
        _ => true,
    };
    let head_url = request.head.repo.as_ref().and_then(|r| fork_url(r.clone_url.as_deref()));
    Ok(GitChange::Pull {
        number,
        branch: branch(&request.head.name)?,
        base: branch(&request.base.name)?,
        commit: some_commit(request.head.sha.as_deref())?,
        fork,
        head_url: head_url.filter(|_| fork),
        title: untrusted(request.title.clone()),
    })
}

fn pull(pull: Pull) -> Result<Told, Refused> {
    let request = pull.pull_request;
    let number = pull
        .number
        .or(request.number)
        .filter(|n| *n > 0)
        .ok_or_else(|| bad("the pull request has no number"))?;
    let change = match pull.action.as_str() {
        "opened" | "reopened" | "synchronize" | "synchronized" => {
            Some(open(number, &request, Some(&pull.repository))?)
        }
        "closed" => Some(GitChange::PullClosed { number, merged: request.merged.unwrap_or(false) }),
        _ => None,
    };
    let commits = GitCommits {
        author: untrusted(request.user.and_then(User::account)),
        pusher: untrusted(pull.sender.and_then(User::account)),
        ..GitCommits::default()
    };
    Ok(Told::one(pull.repository.identity(), change, commits))
}

impl User {
    fn account(self) -> Option<String> {
        self.login.or(self.username).or(self.name)
    }

    fn person(self) -> Option<String> {
        self.name.or(self.username).or(self.login)
    }
}

impl Repo {
    fn identity(self) -> RemoteIdentity {
        RemoteIdentity {
            id: self.id.map(|id| id.to_string()),
            full_name: self.full_name,
            default_branch: self.default_branch.and_then(|b| branch(&b).ok()),
        }
    }

    fn same(&self, other: &Self) -> bool {
        match (self.id, other.id) {
            (Some(one), Some(two)) => one == two,
            _ => self.full_name.is_some() && self.full_name == other.full_name,
        }
    }
}
