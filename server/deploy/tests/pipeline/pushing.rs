//! Pushes: taken once, decided in order, and never lost.

use std::{path::Path, time::Duration};

use berth_schemas::{
    app::{AppSettings, Builder, Previews},
    deployment::DeploymentState,
    push::{GitChange, GitCommits, PushOrigin, PushRules, PushState, PushWishes},
};
use berth_store::{NewPush, PushRow, PushSource, Received, model::PushId};

use crate::world::{World, quick};

/// A repository with a commit for each number, the page of which says that number.
struct Repository {
    dir: tempfile::TempDir,
    commits: Vec<String>,
}

#[allow(clippy::disallowed_methods, reason = "a test's repository is made by git itself")]
fn git(dir: &Path, args: &[&str]) -> String {
    let out = std::process::Command::new("git")
        .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "init.defaultBranch=main"])
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

impl Repository {
    fn new(commits: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        git(dir.path(), &["init", "--quiet", "."]);
        let mut repository = Self { dir, commits: Vec::new() };
        for n in 0..commits {
            repository.commit(&format!("page {n}"));
        }
        repository
    }

    fn commit(&mut self, page: &str) -> String {
        std::fs::write(self.dir.path().join("index.html"), page).unwrap();
        git(self.dir.path(), &["add", "."]);
        git(self.dir.path(), &["commit", "--quiet", "-m", page]);
        let commit = git(self.dir.path(), &["rev-parse", "HEAD"]);
        self.commits.push(commit.clone());
        commit
    }

    fn url(&self) -> String {
        format!("file://{}", self.dir.path().display())
    }
}

fn statics() -> AppSettings {
    AppSettings { builder: Some(Builder::Static), ..quick() }
}

impl World {
    async fn push(&self, repository: &Repository, branch: &str, commit: &str) -> Received {
        let change = GitChange::Branch { branch: branch.into(), before: None, commit: commit.into() };
        self.push_as(repository, change, |push| push).await
    }

    async fn push_as(
        &self,
        repository: &Repository,
        change: GitChange,
        with: impl FnOnce(NewPush) -> NewPush,
    ) -> Received {
        let source = PushSource::Remote { url: repository.url() };
        let push = with(NewPush::new(self.app().await.id, PushOrigin::Webhook, change, source));
        self.call(|p| async move { p.receive_push(push).await }).await.unwrap()
    }

    async fn decided(&self, id: PushId) -> PushRow {
        let row =
            self.call(|p| async move { p.wait_decided(id, Duration::from_secs(20)).await }).await.unwrap();
        assert_ne!(row.state, PushState::Received, "{:?}", row.outcome);
        row
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_pushes_the_newest_deploys_and_none_is_lost_across_kills() {
    let repository = Repository::new(40);
    let mut world = World::new(statics()).await;
    let mut received = Vec::new();
    for (n, commit) in repository.commits.iter().enumerate() {
        received.push(world.push(&repository, "main", commit).await.id());
        if n % 13 == 5 {
            tokio::time::sleep(Duration::from_millis(7 * n as u64)).await;
            world.kill().await;
            world.start().await;
        }
    }
    world.serves("page 39").await;
    for id in &received {
        let push = world.decided(*id).await;
        assert!(matches!(push.state, PushState::Handled | PushState::Superseded), "{push:?}");
    }
    let newest = world.store.pushes().deployments(received[39]).await.unwrap();
    assert_eq!(newest.len(), 1);
    assert_eq!(newest[0].commit.as_deref(), repository.commits.last().map(String::as_str));
    let newest = world.end(newest[0].id).await;
    assert_eq!(newest.state, DeploymentState::Live);
    // Nothing follows the newest, and each push led to at most one deployment.
    let all = world.store.deployments().list(world.app().await.id, None, None, 100).await.unwrap();
    assert_eq!(all[0].id, newest.id);
    let commits: std::collections::HashSet<_> = all.iter().map(|d| d.commit.clone()).collect();
    assert_eq!(commits.len(), all.len(), "a commit was deployed twice");
    let again = world.push(&repository, "main", &repository.commits[39]).await;
    assert_eq!(again, Received::Known(received[39]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_very_commit_deploys_even_when_the_branch_has_moved_on() {
    let mut repository = Repository::new(2);
    let world = World::new(statics()).await;
    let first = repository.commits[0].clone();
    let push = world.push(&repository, "main", &first).await;
    world.serves("page 0").await;
    let push = world.decided(push.id()).await;
    assert_eq!(push.state, PushState::Handled);
    assert!(push.outcome.as_ref().unwrap().contains("web#1"), "{push:?}");
    // Forced back: the commit is in no branch any more, and the server still hands it out.
    git(repository.dir.path(), &["config", "uploadpack.allowAnySHA1InWant", "true"]);
    let lost = repository.commit("lost");
    git(repository.dir.path(), &["reset", "--quiet", "--hard", &first]);
    world.push(&repository, "main", &lost).await;
    world.serves("lost").await;
    // A commit that is nowhere is told as such.
    let nowhere = world.push(&repository, "main", &"ab".repeat(20)).await.id();
    world.decided(nowhere).await;
    let failed = world.store.pushes().deployments(nowhere).await.unwrap();
    let failed = world.end(failed[0].id).await;
    assert_eq!(failed.state, DeploymentState::Failed);
    assert!(failed.problem.unwrap().detail.contains("abab"), "the commit is named");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_deploy_says_why_and_can_be_asked_for_again() {
    let repository = Repository::new(3);
    let world = World::new(statics()).await;
    let branch = |name: &str, n: usize| GitChange::Branch {
        branch: name.into(),
        before: None,
        commit: repository.commits[n].clone(),
    };
    let said = async |received: Received| {
        let push = world.decided(received.id()).await;
        assert!(world.store.pushes().deployments(push.id).await.unwrap().is_empty(), "{push:?}");
        (push.state, push.outcome.unwrap())
    };
    let marked = |push: NewPush| NewPush {
        commits: GitCommits { message: Some("Docs [skip ci]".into()), ..GitCommits::default() },
        ..push
    };
    let skipped = world.push_as(&repository, branch("main", 0), marked).await;
    let (state, why) = said(skipped).await;
    assert!(state == PushState::Ignored && why.contains("[skip ci]"), "{why}");
    let (state, why) = said(world.push(&repository, "dev", &repository.commits[1]).await).await;
    assert!(state == PushState::Ignored && why.contains("dev"), "{why}");
    let asked =
        |push: NewPush| NewPush { wishes: PushWishes { skip: true, ..PushWishes::default() }, ..push };
    let (state, why) = said(world.push_as(&repository, branch("main", 2), asked).await).await;
    assert!(state == PushState::Ignored && why.contains("asked"), "{why}");
    // Asked for again, the mark does not count.
    let id = skipped.id();
    let who = berth_store::model::Principal::daemon();
    world.call(|p| async move { p.retry_push(&who, id).await }).await.unwrap();
    assert_eq!(world.decided(id).await.state, PushState::Handled);
    world.serves("page 0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_push_does_not_tell_of_its_commit_is_asked() {
    let mut repository = Repository::new(1);
    let docs = repository.dir.path().join("docs");
    std::fs::create_dir(&docs).unwrap();
    std::fs::write(docs.join("read.md"), "read").unwrap();
    let marked = repository.commit("Docs\n\n[skip ci]");
    let world = World::new(AppSettings { previews: Some(Previews::PullRequests), ..statics() }).await;
    // Told by nobody: found by asking, or of a pull request.
    let pull = GitChange::Pull {
        number: 7,
        branch: "main".into(),
        base: "main".into(),
        commit: marked.clone(),
        fork: false,
        head_url: None,
        title: None,
    };
    let branch = |before: Option<&String>, commit: &str| GitChange::Branch {
        branch: "main".into(),
        before: before.cloned(),
        commit: commit.into(),
    };
    let polled = |push: NewPush| NewPush { origin: PushOrigin::Poll, ..push };
    for change in [branch(None, &marked), pull] {
        let id = world.push_as(&repository, change, polled).await.id();
        let push = world.decided(id).await;
        assert_eq!(push.state, PushState::Ignored, "{push:?}");
        assert!(push.outcome.as_ref().unwrap().contains("the commit's message says [skip ci]"), "{push:?}");
        assert_eq!(push.first_line().as_deref(), Some("Docs"));
    }
    // Paths are those in which the branch's heads differ.
    let app = world.app().await.id;
    let rules = PushRules { watch_paths: Some(vec!["/docs/".into()]), ..PushRules::default() };
    let root = berth_store::model::Principal::daemon();
    world.store.pushes().set_rules(&root, app, &rules).await.unwrap();
    let elsewhere = repository.commit("page");
    let id = world.push_as(&repository, branch(Some(&marked), &elsewhere), polled).await.id();
    let push = world.decided(id).await;
    assert_eq!(
        (push.state, push.commits.paths.as_deref()),
        (PushState::Ignored, Some(&["index.html".to_owned()][..]))
    );
    assert!(push.outcome.unwrap().contains("watch_paths"));
    std::fs::write(docs.join("read.md"), "anew").unwrap();
    let inside = repository.commit("page with docs");
    let id = world.push_as(&repository, branch(Some(&elsewhere), &inside), polled).await.id();
    assert_eq!(world.decided(id).await.state, PushState::Handled);
    world.serves("page with docs").await;
    // Where the commit before is gone it is not known which, and the push deploys.
    let lost = "ab".repeat(20);
    let last = repository.commit("last");
    let id = world.push_as(&repository, branch(Some(&lost), &last), polled).await.id();
    let push = world.decided(id).await;
    assert_eq!((push.state, push.first_line().as_deref()), (PushState::Handled, Some("last")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_that_is_skipped_does_not_take_the_place_of_one_that_waits() {
    let repository = Repository::new(4);
    let mut world = World::new(statics()).await;
    let app = world.app().await.id;
    world.stop().await;
    // All of them wait when the daemon starts.
    let waits = async |world: &World, n: usize, commits: GitCommits| {
        let change =
            GitChange::Branch { branch: "main".into(), before: None, commit: repository.commits[n].clone() };
        let source = PushSource::Remote { url: repository.url() };
        let new = NewPush { commits, ..NewPush::new(app, PushOrigin::Webhook, change, source) };
        world.store.pushes().receive(new).await.unwrap().id()
    };
    let marked = || GitCommits { message: Some("Docs [skip ci]".into()), ..GitCommits::default() };
    let older = waits(&world, 0, GitCommits::default()).await;
    let newer = waits(&world, 1, GitCommits::default()).await;
    let skipped = waits(&world, 2, marked()).await;
    let after = waits(&world, 3, marked()).await;
    world.start().await;
    world.serves("page 1").await;
    let state = async |id| world.decided(id).await.state;
    assert_eq!(state(older).await, PushState::Superseded);
    assert_eq!(state(newer).await, PushState::Handled);
    assert_eq!((state(skipped).await, state(after).await), (PushState::Ignored, PushState::Ignored));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_head_of_a_pull_request_is_found_by_how_it_begins() {
    let mut repository = Repository::new(2);
    let world = World::new(AppSettings { previews: Some(Previews::PullRequests), ..statics() }).await;
    let pull = |number: i64, commit: &str, fork: bool, url: &str| GitChange::Pull {
        number,
        branch: "main".into(),
        base: "main".into(),
        commit: commit[..12].into(),
        fork,
        head_url: Some(url.to_owned()),
        title: None,
    };
    let url = repository.url();
    let head = repository.commits[1].clone();
    let id = world.push_as(&repository, pull(7, &head, false, &url), |push| push).await.id();
    assert_eq!(world.decided(id).await.state, PushState::Handled);
    let made = world.store.pushes().deployments(id).await.unwrap();
    assert_eq!(made[0].environment.as_str(), "pr-7");
    let live = world.end(made[0].id).await;
    assert_eq!((live.state, live.commit.as_deref()), (DeploymentState::Live, Some(head.as_str())));
    // A fork's waits, and its push knows what the approval led to.
    let id = world.push_as(&repository, pull(8, &head, true, &url), |push| push).await.id();
    let push = world.decided(id).await;
    assert!(push.outcome.as_ref().unwrap().contains("preview_approve"), "{push:?}");
    assert!(world.store.pushes().deployments(id).await.unwrap().is_empty());
    let app = world.app().await;
    let preview = world.store.environments().by_pull(app.id, 8).await.unwrap().unwrap();
    let commit = head.clone();
    let row = world
        .call(|p| async move {
            p.approve_preview(&berth_store::model::Principal::daemon(), &preview, &commit).await
        })
        .await
        .unwrap()
        .into_row();
    let linked = world.store.pushes().deployments(id).await.unwrap();
    assert_eq!(linked.iter().map(|d| d.id).collect::<Vec<_>>(), [row.id]);
    assert_eq!(world.end(row.id).await.state, DeploymentState::Live);
    // Once the branch has moved on there is nothing of which this is the beginning.
    repository.commit("newer");
    let id = world.push_as(&repository, pull(9, &head, false, &url), |push| push).await.id();
    let push = world.decided(id).await;
    assert_eq!(push.state, PushState::Ignored);
    assert!(push.outcome.unwrap().contains("moved on"));
    // A repository that is not there fails it, and says why.
    let nowhere = pull(10, &head, false, "file:///nowhere/at/all");
    let id = world.push_as(&repository, nowhere, |push| push).await.id();
    assert_eq!(world.decided(id).await.state, PushState::Failed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_waits_for_the_end_of_the_environment_that_its_branch_had() {
    let repository = Repository::new(3);
    let world = World::new(AppSettings { previews: Some(Previews::Branches), ..statics() }).await;
    let root = berth_store::model::Principal::daemon();
    let environments = world.store.environments();
    let app = world.app().await;
    let waits = async |id: PushId| {
        world
            .until("it is tried again", async || {
                let push = world.store.pushes().get(id).await.unwrap().unwrap();
                assert_eq!(push.state, PushState::Received, "{:?}", push.outcome);
                push.attempts > 0
            })
            .await;
    };
    // A preview, whose branch comes back while it is being deleted.
    let first = world.push(&repository, "idea", &repository.commits[0]).await.id();
    assert_eq!(world.decided(first).await.state, PushState::Handled);
    let preview = environments.by_branch(app.id, "idea").await.unwrap().unwrap();
    environments.mark_deleting(&root, preview.environment.id).await.unwrap();
    let id = world.push(&repository, "idea", &repository.commits[1]).await.id();
    waits(id).await;
    let gone = preview.clone();
    world
        .call(|p| async move { p.delete_environment(&berth_store::model::Principal::daemon(), &gone).await })
        .await
        .unwrap();
    assert_eq!(world.decided(id).await.state, PushState::Handled);
    let made = world.store.pushes().deployments(id).await.unwrap();
    assert_ne!(made[0].environment_id, preview.environment.id);
    assert_eq!(world.end(made[0].id).await.state, DeploymentState::Live);
    // An environment by hand: when it is gone, its branch has a preview.
    let new = berth_store::model::NewEnvironment {
        name: "staging".parse().unwrap(),
        branch: Some("develop".into()),
        replicas: 1,
    };
    let staging = environments.create(&root, app.id, new).await.unwrap();
    environments.mark_deleting(&root, staging.environment.id).await.unwrap();
    let id = world.push(&repository, "develop", &repository.commits[2]).await.id();
    waits(id).await;
    environments.delete(staging.environment.id, "ann").await.unwrap();
    assert_eq!(world.decided(id).await.state, PushState::Handled);
    assert_eq!(world.store.pushes().deployments(id).await.unwrap()[0].environment.as_str(), "develop");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_app_refuses_fails_and_is_kept() {
    let repository = Repository::new(1);
    let required_variables = Some(vec!["TOKEN".to_owned()]);
    let world = World::new(AppSettings { required_variables, ..statics() }).await;
    let push = world.push(&repository, "main", &repository.commits[0]).await;
    let push = world.decided(push.id()).await;
    assert_eq!(push.state, PushState::Failed);
    assert!(push.outcome.unwrap().contains("TOKEN"));
    assert!(
        world
            .call(|p| async move { p.retry_push(&berth_store::model::Principal::daemon(), push.id).await })
            .await
            .is_ok()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ref_without_a_push_gets_one_and_a_repository_goes_with_its_app() {
    let mut world = World::new(statics()).await;
    let app = world.app().await;
    let top = world.dir.path().join("repos").join(format!("{}.git", app.id.0));
    let service = berth_deploy::GitService::ReceivePack;
    let asked = app.clone();
    world.call(|p| async move { p.git_advertise(&asked, service, None).await }).await.unwrap();
    let repository = Repository::new(2);
    world.stop().await;
    // What a daemon leaves that was killed between moving a ref and keeping the push, and in the middle of another.
    git(repository.dir.path(), &["push", "--quiet", top.to_str().unwrap(), "main", "main:idea"]);
    let left = top.join("objects/berth-incoming-x");
    std::fs::create_dir(&left).unwrap();
    let orphan = world.dir.path().join("repos/999.git");
    std::fs::create_dir(&orphan).unwrap();
    world.start().await;
    world.serves("page 1").await;
    world.until("what is left is gone", async || !left.exists() && !orphan.exists()).await;
    let pushes = world.store.pushes().list(app.id, None, None, 10).await.unwrap();
    assert_eq!(pushes.len(), 2, "{pushes:#?}");
    assert_eq!(pushes[0].commits.author, Some("Ada".into()));
    // A second look finds nothing; a branch that is gone is noticed.
    world.stop().await;
    git(repository.dir.path(), &["push", "--quiet", top.to_str().unwrap(), ":idea"]);
    world.start().await;
    world
        .until("the branch is gone", async || {
            world.store.pushes().list(app.id, None, None, 10).await.unwrap().len() == 3
        })
        .await;
    let job = world
        .job(|p, app| async move { p.delete_app(&berth_store::model::Principal::daemon(), &app).await })
        .await;
    assert_eq!(job.state, berth_schemas::job::JobState::Succeeded, "{:?}", job.problem);
    assert!(!top.exists());
}
