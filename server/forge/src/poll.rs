//! Missed webhooks are found by asking: `git ls-remote` every few minutes, and once after a start.
//!
//! What is found is compared with the newest push that is known of each branch and tag, so that one that was told by a
//! webhook is not told again, and with the look before, so that the first look deploys nothing.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use berth_deploy::{
    Pipeline,
    source::git::{FetchRequest, RemoteRef, Wanted, remote_refs},
};
use berth_schemas::{
    Code, Problem, Timestamp,
    app::Previews,
    push::{GitChange, PushOrigin},
};
use berth_store::{Heads, Learnt, RepositoryRow};
use tokio_util::sync::CancellationToken;

use crate::{api::request, forges::Forges, intake::new_push, webhook::open_pulls};

/// How often it is seen which repository is due.
const LOOK: Duration = Duration::from_secs(2);
/// After a start, all repositories are looked at within this time.
const AFTER_START: Duration = Duration::from_secs(5);
/// The longest that one look may take.
const TIME: Duration = Duration::from_secs(30);
/// The longest pause after failures, in minutes.
const MOST_PAUSE: i64 = 6 * 60;
/// Branches and tags that are compared; a repository with more is followed by its webhook only.
const MAX_REFS: usize = 5000;
/// Changes that one look may tell; the rest is told by the next.
const MAX_CHANGES: usize = 100;

/// Asks the forges until `shutdown`.
pub async fn poll(forges: Arc<Forges>, pipeline: Pipeline, shutdown: CancellationToken) {
    if let Err(error) = forges.store().repositories().look_soon(AFTER_START).await {
        tracing::warn!(%error, "repositories are looked at when their time comes");
    }
    loop {
        let now = forges.store().clock().now();
        match forges.store().repositories().due(now, 10).await {
            Ok(due) => {
                for row in due {
                    if shutdown.is_cancelled() {
                        return;
                    }
                    look(&forges, &pipeline, &row, &shutdown).await;
                }
            }
            Err(error) => tracing::warn!(%error, "it could not be read which repositories to look at"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Looks at one repository, and notes how that went.
async fn look(forges: &Forges, pipeline: &Pipeline, row: &RepositoryRow, shutdown: &CancellationToken) {
    let outcome = looked(forges, pipeline, row, shutdown).await;
    if shutdown.is_cancelled() {
        return;
    }
    let now = forges.store().clock().now();
    let repositories = forges.store().repositories();
    let noted = match outcome {
        Ok((seen, learnt)) => repositories.looked(&row.id, &seen, next(row, 0, now), learnt).await,
        Err(problem) => {
            repositories.look_failed(&row.id, &problem, next(row, row.poll_failures + 1, now)).await
        }
    };
    if let Err(error) = noted {
        tracing::warn!(%error, app = %row.app, "a look at a repository was not noted");
    }
}

async fn looked(
    forges: &Forges,
    pipeline: &Pipeline,
    row: &RepositoryRow,
    shutdown: &CancellationToken,
) -> Result<(BTreeMap<String, String>, Learnt), Problem> {
    let began = forges.store().clock().now();
    let found = refs(forges, pipeline, row, shutdown).await?;
    let branch = default_branch(&found);
    let there: BTreeMap<String, String> = found
        .into_iter()
        .filter(|r| r.name.starts_with("refs/heads/") || r.name.starts_with("refs/tags/"))
        .map(|r| (r.name, r.commit.as_str().to_owned()))
        .collect();
    if there.len() > MAX_REFS {
        return Err(Problem::new(
            Code::TooLarge,
            format!(
                "The repository has more than {MAX_REFS} branches and tags: only its webhook tells of pushes."
            ),
        ));
    }
    let pulls = match pulls(forges, row).await {
        Ok(pulls) => pulls,
        Err(problem) => {
            // Branches are no less worth looking at.
            tracing::warn!(app = %row.app, %problem, "which pull requests are open was not told");
            None
        }
    };
    let there = with_pulls(there, pulls.as_ref(), row.seen.as_ref());
    let heads = forges.store().pushes().heads(row.app_id).await?;
    let (mut changes, mut seen) =
        compare(row.seen.as_ref(), &there, &heads, &pulls.unwrap_or_default(), began);
    for rest in changes.split_off(changes.len().min(MAX_CHANGES)) {
        // Not told yet, so not seen yet.
        match row.seen.as_ref().and_then(|s| s.get(&rest.0)) {
            Some(before) => seen.insert(rest.0, before.clone()),
            None => seen.remove(&rest.0),
        };
    }
    for (_, change) in changes {
        pipeline.receive_push(new_push(row, PushOrigin::Poll, change)).await?;
    }
    Ok((seen, Learnt { remote_id: None, branch }))
}

/// The pull requests that are open, by name, if the app has previews of them and the forge tells Berth. None if
/// nothing can be said, or not about all of them.
async fn pulls(forges: &Forges, row: &RepositoryRow) -> Result<Option<BTreeMap<String, GitChange>>, Problem> {
    let app = forges.store().apps().by_id(row.app_id).await?;
    if app.and_then(|app| app.settings.previews) != Some(Previews::PullRequests) {
        return Ok(None);
    }
    let Some(api) = forges.api(row).await.map_err(|failure| failure.problem)? else { return Ok(None) };
    let asked = api.call(&request::open_pulls(row.forge, &row.full_name)).await;
    let listed = asked.map_err(|failure| failure.problem)?;
    let listed = open_pulls(row.forge, &listed).map_err(|error| {
        let title = row.forge.title();
        Problem::new(
            Code::Unavailable,
            format!("What {title} lists of pull requests cannot be read: {error}."),
        )
    })?;
    if listed.len() >= request::OPEN_LISTED {
        tracing::warn!(app = %row.app, "more pull requests are open than one answer lists: only webhooks tell of them");
        return Ok(None);
    }
    Ok(Some(by_name(listed)))
}

/// Changes by what they move, as the store names it.
fn by_name(changes: impl IntoIterator<Item = GitChange>) -> BTreeMap<String, GitChange> {
    changes.into_iter().map(|change| (change.moved(), change)).collect()
}

/// The refs with the open pull requests; where nothing was said of these, with those of the last look.
fn with_pulls(
    mut there: BTreeMap<String, String>,
    pulls: Option<&BTreeMap<String, GitChange>>,
    before: Option<&BTreeMap<String, String>>,
) -> BTreeMap<String, String> {
    match pulls {
        Some(pulls) => there.extend(pulls.iter().map(|(name, change)| (name.clone(), change.towards()))),
        None => there.extend(
            before
                .into_iter()
                .flatten()
                .filter(|(name, _)| name.starts_with(GitChange::PULLS))
                .map(|(n, c)| (n.clone(), c.clone())),
        ),
    }
    there
}

/// What the repository has now.
async fn refs(
    forges: &Forges,
    pipeline: &Pipeline,
    row: &RepositoryRow,
    cancel: &CancellationToken,
) -> Result<Vec<RemoteRef>, Problem> {
    let (url, _) = forges.parse(&row.url)?;
    let mut request = FetchRequest::new(url, Wanted::DefaultBranch);
    pipeline.prepare_fetch(&mut request, forges.git_as(row).await?).await?;
    request.time_limit = TIME;
    remote_refs(&request, cancel).await.map_err(|error| berth_deploy::git_problem(&error))
}

/// The branch that HEAD is, if one alone may be meant.
fn default_branch(refs: &[RemoteRef]) -> Option<String> {
    let head = refs.iter().find(|r| r.name == "HEAD")?;
    let branches: Vec<&str> = refs
        .iter()
        .filter(|r| r.commit == head.commit)
        .filter_map(|r| r.name.strip_prefix("refs/heads/"))
        .collect();
    let usual = ["main", "master"].into_iter().find(|name| branches.contains(name));
    match (branches.as_slice(), usual) {
        ([only], _) => Some((*only).to_owned()),
        (_, usual) => usual.map(str::to_owned),
    }
}

/// What moved since the last look, or since the newest push that is known, and what to remember. Pure.
///
/// A push that came in after the look `began` may be newer than what was found: that branch is left for the next look.
fn compare(
    before: Option<&BTreeMap<String, String>>,
    there: &BTreeMap<String, String>,
    heads: &Heads,
    pulls: &BTreeMap<String, GitChange>,
    began: Timestamp,
) -> (Vec<(String, GitChange)>, BTreeMap<String, String>) {
    let mut changes = Vec::new();
    let mut seen = there.clone();
    let known = |name: &str| heads.get(name).filter(|head| head.received_at < began);
    let fresh = |name: &str| heads.get(name).is_some_and(|head| head.received_at >= began);
    for (name, commit) in there {
        let old = before.and_then(|b| b.get(name));
        if fresh(name) {
            match old {
                Some(old) => seen.insert(name.clone(), old.clone()),
                None => seen.remove(name),
            };
            continue;
        }
        let moved = match (known(name), old) {
            // A tag's own object is not the commit that a webhook names.
            (Some(head), _) if !name.starts_with("refs/tags/") => head.towards != *commit,
            (_, Some(old)) => old != commit,
            // New since the last look; the first look finds everything new, and tells nothing.
            (Some(_), None) => false,
            (None, None) => before.is_some(),
        };
        if moved {
            let change = match (name.strip_prefix("refs/heads/"), name.strip_prefix("refs/tags/")) {
                (Some(branch), _) => GitChange::Branch {
                    branch: branch.to_owned(),
                    before: old.cloned(),
                    commit: commit.clone(),
                },
                (_, Some(tag)) => GitChange::Tag { tag: tag.to_owned(), commit: commit.clone() },
                _ => match pulls.get(name) {
                    Some(pull) => pull.clone(),
                    None => continue,
                },
            };
            changes.push((name.clone(), change));
        }
    }
    for name in before.into_iter().flat_map(|b| b.keys()).filter(|name| !there.contains_key(*name)) {
        if fresh(name) {
            continue;
        }
        let change = match (name.strip_prefix("refs/heads/"), name.strip_prefix("refs/tags/")) {
            (Some(branch), _) => GitChange::BranchDeleted { branch: branch.to_owned() },
            (_, Some(tag)) => GitChange::TagDeleted { tag: tag.to_owned() },
            _ => match name.strip_prefix(GitChange::PULLS).and_then(|n| n.parse().ok()) {
                // How it was closed only its webhook tells; its preview goes either way.
                Some(number) => GitChange::PullClosed { number, merged: false },
                None => continue,
            },
        };
        changes.push((name.clone(), change));
    }
    (changes, seen)
}

/// When a repository is looked at next: a tenth earlier or later, so that not all are at once, and later after
/// failures.
fn next(row: &RepositoryRow, failures: i64, now: Timestamp) -> Timestamp {
    let minutes = row.poll_minutes.max(1);
    let minutes = minutes.saturating_mul(1 << failures.clamp(0, 8)).clamp(minutes, MOST_PAUSE.max(minutes));
    let micros = minutes * 60_000_000;
    let mut random = [0_u8; 2];
    // Without randomness all are in step, which is no fault.
    let _ = getrandom::fill(&mut random);
    let jitter = micros / 10 * i64::from(u16::from_le_bytes(random)) / i64::from(u16::MAX);
    Timestamp(now.0 + micros - micros / 20 + jitter)
}

#[cfg(test)]
mod tests {
    use berth_store::Head;

    use super::*;

    const A: &str = "1111111111111111111111111111111111111111";
    const B: &str = "2222222222222222222222222222222222222222";
    const BEGAN: Timestamp = Timestamp(1000);

    fn map(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(name, commit)| ((*name).to_owned(), (*commit).to_owned())).collect()
    }

    fn heads(list: &[(&str, &str, i64)]) -> Heads {
        let head = |towards: &str, at| Head { towards: towards.to_owned(), received_at: Timestamp(at) };
        list.iter().map(|(name, towards, at)| ((*name).to_owned(), head(towards, *at))).collect()
    }

    fn names(
        before: Option<&BTreeMap<String, String>>,
        there: &[(&str, &str)],
        known: &[(&str, &str, i64)],
    ) -> Vec<String> {
        let (changes, seen) = compare(before, &map(there), &heads(known), &BTreeMap::new(), BEGAN);
        // What was told is remembered, so that the next look does not tell it again.
        assert!(changes.iter().all(|(name, _)| seen.get(name) == map(there).get(name)));
        changes.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn the_first_look_tells_nothing_and_later_ones_what_moved() {
        let main = "refs/heads/main";
        assert!(names(None, &[(main, A)], &[]).is_empty());
        let before = map(&[(main, A), ("refs/tags/v1", A), ("refs/heads/old", A)]);
        let there = [(main, B), ("refs/tags/v1", A), ("refs/heads/new", A), ("refs/tags/v2", B)];
        let moved = names(Some(&before), &there, &[]);
        // In the order of names; what is gone comes last.
        assert_eq!(moved, ["refs/heads/main", "refs/heads/new", "refs/tags/v2", "refs/heads/old"]);
    }

    #[test]
    fn what_a_webhook_told_is_not_told_again_and_what_it_missed_is() {
        let main = "refs/heads/main";
        let before = map(&[(main, A)]);
        assert!(names(Some(&before), &[(main, B)], &[(main, B, 10)]).is_empty());
        // The newest known push is not what is there: a webhook was missed, even between two looks.
        assert_eq!(names(Some(&before), &[(main, A)], &[(main, B, 10)]), [main]);
        assert_eq!(names(None, &[(main, B)], &[(main, A, 10)]), [main]);
    }

    #[test]
    fn pull_requests_are_told_when_they_open_move_and_close() {
        let pull = |number, commit: &str, base: &str| GitChange::Pull {
            number,
            branch: "idea".into(),
            base: base.into(),
            commit: commit.into(),
            fork: false,
            head_url: None,
            title: None,
        };
        let told = |before: &BTreeMap<String, String>, pulls: &[GitChange], known: &[(&str, &str, i64)]| {
            let pulls = by_name(pulls.to_vec());
            let there = with_pulls(BTreeMap::new(), Some(&pulls), Some(before));
            let (changes, seen) = compare(Some(before), &there, &heads(known), &pulls, BEGAN);
            (changes.into_iter().map(|(_, change)| change).collect::<Vec<_>>(), seen)
        };
        let (changes, seen) = told(&map(&[]), &[pull(7, A, "main")], &[]);
        assert_eq!(changes, [pull(7, A, "main")]);
        let (changes, _) = told(&seen, &[pull(7, A, "main")], &[]);
        assert_eq!(changes, []);
        // Told by its webhook, and moved on, and aimed elsewhere.
        let known = format!("{A} main");
        let (changes, _) = told(&map(&[]), &[pull(7, A, "main")], &[("refs/pull/7", &known, 10)]);
        assert_eq!(changes, []);
        let (changes, _) = told(&seen, &[pull(7, B, "main")], &[("refs/pull/7", &known, 10)]);
        assert_eq!(changes, [pull(7, B, "main")]);
        let (changes, _) = told(&seen, &[pull(7, A, "dev")], &[("refs/pull/7", &known, 10)]);
        assert_eq!(changes, [pull(7, A, "dev")]);
        let (changes, _) = told(&seen, &[], &[("refs/pull/7", &known, 10)]);
        assert_eq!(changes, [GitChange::PullClosed { number: 7, merged: false }]);
        // Where nothing is said of them nothing is concluded.
        assert_eq!(with_pulls(BTreeMap::new(), None, Some(&seen)), seen);
    }

    #[test]
    fn a_push_that_came_while_looking_is_not_undone() {
        let main = "refs/heads/main";
        let before = map(&[(main, A)]);
        let (changes, seen) =
            compare(Some(&before), &map(&[(main, A)]), &heads(&[(main, B, 2000)]), &BTreeMap::new(), BEGAN);
        assert!(changes.is_empty());
        assert_eq!(seen[main], A);
        let (changes, _) =
            compare(Some(&before), &map(&[]), &heads(&[(main, B, 2000)]), &BTreeMap::new(), BEGAN);
        assert!(changes.is_empty());
    }

    #[test]
    fn the_default_branch_is_the_one_that_head_is() {
        let refs = |list: &[(&str, &str)]| -> Vec<RemoteRef> {
            let of = |(name, sha): &(&str, &str)| RemoteRef {
                name: (*name).to_owned(),
                commit: berth_deploy::source::git::CommitSha::parse(sha).unwrap(),
            };
            list.iter().map(of).collect()
        };
        let one = refs(&[("HEAD", A), ("refs/heads/trunk", A), ("refs/heads/x", B)]);
        assert_eq!(default_branch(&one).as_deref(), Some("trunk"));
        let two = refs(&[("HEAD", A), ("refs/heads/main", A), ("refs/heads/x", A)]);
        assert_eq!(default_branch(&two).as_deref(), Some("main"));
        assert_eq!(default_branch(&refs(&[("HEAD", A), ("refs/heads/x", A), ("refs/heads/y", A)])), None);
    }
}
