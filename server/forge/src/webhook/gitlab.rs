//! Payloads of GitLab, with the fields of its "Webhook events" page: push, tag push and merge request events.

use berth_schemas::push::{GitChange, GitCommits};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Commit, Refused, RemoteIdentity, Told, bad, branch, fork_url, moved, parse, some_commit, unique,
    untrusted,
};

#[derive(Deserialize)]
struct Push {
    #[serde(rename = "ref")]
    name: String,
    before: Option<String>,
    after: Option<String>,
    /// Of a tag the commit, where `after` may be the tag's own object.
    checkout_sha: Option<String>,
    message: Option<String>,
    user_name: Option<String>,
    user_username: Option<String>,
    commits: Option<Vec<Commit<Author>>>,
    total_commits_count: Option<u64>,
    project: Project,
}

#[derive(Deserialize)]
struct Author {
    name: Option<String>,
}

#[derive(Deserialize)]
struct Project {
    id: Option<i64>,
    path_with_namespace: Option<String>,
    default_branch: Option<String>,
}

#[derive(Deserialize)]
struct Merge {
    user: Option<User>,
    project: Project,
    object_attributes: Attributes,
}

#[derive(Deserialize)]
struct User {
    name: Option<String>,
    username: Option<String>,
}

#[derive(Deserialize)]
struct Attributes {
    iid: i64,
    title: Option<String>,
    action: Option<String>,
    /// The head before, in an update that brings commits; an update of the text has none.
    oldrev: Option<String>,
    source_branch: String,
    target_branch: String,
    source_project_id: Option<i64>,
    target_project_id: Option<i64>,
    source: Option<Source>,
    last_commit: Option<Commit<Author>>,
}

#[derive(Deserialize)]
struct Source {
    git_http_url: Option<String>,
}

pub(super) fn read(event: &str, body: &[u8]) -> Result<Told, Refused> {
    match event {
        "Push Hook" | "Tag Push Hook" => push(parse(body)?),
        "Merge Request Hook" => merge(parse(body)?),
        _ => Ok(Told::Unused),
    }
}

fn push(push: Push) -> Result<Told, Refused> {
    let change =
        moved(&push.name, push.before.as_deref(), push.after.as_deref(), push.checkout_sha.as_deref())?;
    let commits = push.commits.unwrap_or_default();
    let total = push.total_commits_count.and_then(|n| usize::try_from(n).ok());
    // At most 20 are listed, and whether the push was forced is not told.
    let whole = matches!(&change, Some(GitChange::Branch { before: Some(_), .. }))
        && !commits.is_empty()
        && total == Some(commits.len());
    let paths = whole.then(|| unique(commits.iter().flat_map(Commit::paths).collect()));
    let at = push.checkout_sha.as_deref().or(push.after.as_deref());
    let head = commits.iter().position(|c| c.id.as_deref() == at).or(commits.len().checked_sub(1));
    let head = head.and_then(|at| commits.into_iter().nth(at));
    let (message, author) = match head {
        Some(head) => (head.message, head.author.and_then(|a| a.name)),
        None => (push.message, None),
    };
    let commits = GitCommits {
        message: untrusted(message),
        author: untrusted(author),
        pusher: untrusted(push.user_username.or(push.user_name)),
        paths,
    };
    Ok(Told::one(push.project.identity(), change, commits))
}

/// A merge request as the API lists it.
#[derive(Deserialize)]
struct Listed {
    iid: i64,
    title: Option<String>,
    source_branch: String,
    target_branch: String,
    sha: Option<String>,
    source_project_id: Option<i64>,
    target_project_id: Option<i64>,
}

/// What is listed of merge requests that are open. Of those from forks the list does not tell where they can be fetched:
/// only their webhook does.
pub(super) fn listed(body: &Value) -> Result<Vec<GitChange>, Refused> {
    let all = Vec::<Listed>::deserialize(body).map_err(|_| bad("it is no list of merge requests"))?;
    let own = |m: &Listed| m.source_project_id.is_some() && m.source_project_id == m.target_project_id;
    let one = |m: Listed| {
        Ok(GitChange::Pull {
            number: m.iid,
            branch: branch(&m.source_branch)?,
            base: branch(&m.target_branch)?,
            commit: some_commit(m.sha.as_deref())?,
            fork: false,
            head_url: None,
            title: untrusted(m.title),
        })
    };
    all.into_iter().filter(own).map(one).collect()
}

fn merge(merge: Merge) -> Result<Told, Refused> {
    let request = merge.object_attributes;
    if request.iid <= 0 {
        return Err(bad("the merge request has no number"));
    }
    let number = request.iid;
    let moves = match request.action.as_deref() {
        Some("open" | "reopen") => true,
        Some("update") => request.oldrev.is_some(),
        _ => false,
    };
    let message = request.last_commit.as_ref().and_then(|c| c.message.clone());
    let change = match request.action.as_deref() {
        Some("merge") => Some(GitChange::PullClosed { number, merged: true }),
        Some("close") => Some(GitChange::PullClosed { number, merged: false }),
        _ if moves => {
            let fork =
                request.source_project_id.is_none() || request.source_project_id != request.target_project_id;
            let head_url = request.source.and_then(|s| fork_url(s.git_http_url.as_deref()));
            let commit = request.last_commit.as_ref().and_then(|c| c.id.as_deref());
            Some(GitChange::Pull {
                number,
                branch: branch(&request.source_branch)?,
                base: branch(&request.target_branch)?,
                commit: some_commit(commit)?,
                fork,
                head_url: head_url.filter(|_| fork),
                title: untrusted(request.title),
            })
        }
        _ => None,
    };
    let author = request.last_commit.and_then(|c| c.author).and_then(|a| a.name);
    let commits = GitCommits {
        message: untrusted(message),
        author: untrusted(author),
        pusher: untrusted(merge.user.and_then(|u| u.username.or(u.name))),
        paths: None,
    };
    Ok(Told::one(merge.project.identity(), change, commits))
}

impl Project {
    fn identity(self) -> RemoteIdentity {
        RemoteIdentity {
            id: self.id.map(|id| id.to_string()),
            full_name: self.path_with_namespace,
            default_branch: self.default_branch.and_then(|b| branch(&b).ok()),
        }
    }
}
