//! Payloads of Bitbucket Cloud, with the fields of its "Event payloads" page: repo:push and pullrequest:*.

use berth_schemas::push::{GitChange, GitCommits};
use serde::Deserialize;
use serde_json::Value;

use super::{Refused, RemoteIdentity, Told, bad, branch, fork_url, parse, some_commit, untrusted};

#[derive(Deserialize)]
struct Push {
    actor: Option<Actor>,
    repository: Repo,
    push: Changes,
}

#[derive(Deserialize)]
struct Changes {
    #[serde(default)]
    changes: Vec<Change>,
}

#[derive(Deserialize)]
struct Change {
    new: Option<State>,
    old: Option<State>,
}

#[derive(Deserialize)]
struct State {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    hash: Option<String>,
    message: Option<String>,
    author: Option<Author>,
}

#[derive(Deserialize)]
struct Author {
    raw: Option<String>,
    user: Option<Actor>,
}

#[derive(Deserialize)]
struct Actor {
    nickname: Option<String>,
    display_name: Option<String>,
}

#[derive(Deserialize)]
struct Repo {
    uuid: Option<String>,
    full_name: Option<String>,
    mainbranch: Option<Name>,
}

#[derive(Deserialize)]
struct Name {
    name: Option<String>,
}

#[derive(Deserialize)]
struct Pull {
    actor: Option<Actor>,
    repository: Repo,
    pullrequest: PullRequest,
}

#[derive(Deserialize)]
struct PullRequest {
    id: i64,
    title: Option<String>,
    source: Side,
    destination: Side,
}

#[derive(Deserialize)]
struct Side {
    branch: Name,
    commit: Option<Target>,
    repository: Option<Repo>,
}

pub(super) fn read(event: &str, body: &[u8]) -> Result<Told, Refused> {
    match event {
        "repo:push" => push(parse(body)?),
        "pullrequest:created" | "pullrequest:updated" => pull(parse(body)?, None),
        "pullrequest:fulfilled" => pull(parse(body)?, Some(true)),
        "pullrequest:rejected" => pull(parse(body)?, Some(false)),
        _ => Ok(Told::Unused),
    }
}

fn push(push: Push) -> Result<Told, Refused> {
    let pusher = push.actor.and_then(Actor::name);
    let mut changes = Vec::new();
    for change in push.push.changes {
        let Some(state) = change.new.as_ref().or(change.old.as_ref()) else { continue };
        let (name, kind) = (branch(&state.name)?, state.kind.clone());
        // Tags are "tag", branches "branch"; there are Mercurial's words in old payloads, which are neither.
        let what = match (kind.as_str(), change.new) {
            ("branch", Some(new)) => {
                let before = change.old.and_then(|o| o.target).and_then(|t| t.hash);
                let target = new.target.ok_or_else(|| bad("a branch in it leads to no commit"))?;
                let moved = GitChange::Branch {
                    branch: name,
                    before: super::commit(before.as_deref())?,
                    commit: some_commit(target.hash.as_deref())?,
                };
                (moved, target.commits(pusher.clone()))
            }
            ("branch", None) => (GitChange::BranchDeleted { branch: name }, GitCommits::default()),
            ("tag", Some(new)) => {
                let target = new.target.ok_or_else(|| bad("a tag in it leads to no commit"))?;
                let moved = GitChange::Tag { tag: name, commit: some_commit(target.hash.as_deref())? };
                (moved, target.commits(pusher.clone()))
            }
            ("tag", None) => (GitChange::TagDeleted { tag: name }, GitCommits::default()),
            _ => continue,
        };
        changes.push(what);
    }
    Ok(Told::Moved { repository: push.repository.identity(), changes })
}

fn pull(pull: Pull, merged: Option<bool>) -> Result<Told, Refused> {
    let request = pull.pullrequest;
    let number = request.id;
    if number <= 0 {
        return Err(bad("the pull request has no number"));
    }
    let commits = GitCommits { pusher: untrusted(pull.actor.and_then(Actor::name)), ..GitCommits::default() };
    let change = match merged {
        Some(merged) => GitChange::PullClosed { number, merged },
        None => open(request)?,
    };
    Ok(Told::Moved { repository: pull.repository.identity(), changes: vec![(change, commits)] })
}

/// What is listed of pull requests that are open.
pub(super) fn listed(body: &Value) -> Result<Vec<GitChange>, Refused> {
    let wrong = || bad("it is no list of pull requests");
    let values = body.get("values").ok_or_else(wrong)?;
    let all = Vec::<PullRequest>::deserialize(values).map_err(|_| wrong())?;
    all.into_iter().filter(|request| request.id > 0).map(open).collect()
}

/// A pull request that is open.
fn open(request: PullRequest) -> Result<GitChange, Refused> {
    let fork = match (&request.source.repository, &request.destination.repository) {
        (Some(source), Some(destination)) => !source.same(destination),
        _ => true,
    };
    let source = request.source.repository.as_ref().and_then(|r| r.full_name.as_deref());
    let head_url = source.and_then(|name| fork_url(Some(&format!("https://bitbucket.org/{name}.git"))));
    // Bitbucket tells only the first 12 digits here; the head is then found by asking.
    let commit = request.source.commit.and_then(|c| c.hash);
    Ok(GitChange::Pull {
        number: request.id,
        branch: branch(request.source.branch.name.as_deref().unwrap_or_default())?,
        base: branch(request.destination.branch.name.as_deref().unwrap_or_default())?,
        commit: short_commit(commit.as_deref())?,
        fork,
        head_url: head_url.filter(|_| fork),
        title: untrusted(request.title),
    })
}

/// A commit id of 12 digits or more.
fn short_commit(text: Option<&str>) -> Result<String, Refused> {
    let text = text.unwrap_or_default();
    let fits = (12..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    if fits { Ok(text.to_ascii_lowercase()) } else { Err(bad("it names no commit")) }
}

impl Target {
    /// What a push tells of its head. The list of commits has no paths, and ends after five.
    fn commits(self, pusher: Option<String>) -> GitCommits {
        let author = self.author.and_then(|a| a.raw.or_else(|| a.user.and_then(Actor::name)));
        // "Ada Lovelace <ada@example.org>"
        let author = author.map(|a| a.split(" <").next().unwrap_or_default().to_owned());
        GitCommits {
            message: untrusted(self.message),
            author: untrusted(author),
            pusher: untrusted(pusher),
            paths: None,
        }
    }
}

impl Actor {
    fn name(self) -> Option<String> {
        self.nickname.or(self.display_name)
    }
}

impl Repo {
    fn identity(self) -> RemoteIdentity {
        RemoteIdentity {
            id: self.uuid,
            full_name: self.full_name,
            default_branch: self.mainbranch.and_then(|b| b.name).and_then(|b| branch(&b).ok()),
        }
    }

    fn same(&self, other: &Self) -> bool {
        match (&self.uuid, &other.uuid) {
            (Some(one), Some(two)) => one == two,
            _ => self.full_name.is_some() && self.full_name == other.full_name,
        }
    }
}
