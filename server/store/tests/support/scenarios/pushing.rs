use berth_schemas::{
    Untrusted,
    push::{GitChange, GitCommits, PushOrigin, PushRules, PushState as P},
};
use berth_store::*;

use crate::support::{World, new_deployment};

fn branch(name: &str, commit: char) -> GitChange {
    GitChange::Branch { branch: name.into(), before: None, commit: commit.to_string().repeat(40) }
}

fn push(app: &AppRow, change: GitChange) -> NewPush {
    let source = PushSource::Remote { url: "https://forge.example/web.git".into() };
    NewPush::new(app.id, PushOrigin::Webhook, change, source)
}

fn told(app: &AppRow, delivery: &str, change: GitChange) -> NewPush {
    NewPush { delivery: Some(delivery.into()), ..push(app, change) }
}

impl World {
    async fn is_new(&self, new: NewPush) -> bool {
        matches!(self.store.pushes().receive(new).await.unwrap(), Received::New(_))
    }
}

pub async fn the_same_push_is_taken_once(world: World) {
    let (app, other) = (world.app("web").await, world.app("api").await);
    // Ten at the same moment.
    let calls = (0..10).map(|_| {
        let (store, new) = (world.store.clone(), told(&app, "d1", branch("main", 'a')));
        tokio::spawn(async move { store.pushes().receive(new).await.unwrap() })
    });
    let mut made = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        if let Received::New(id) = call.await.unwrap() {
            made.push(id);
        }
    }
    assert_eq!(made.len(), 1);
    let app_of = |id| world.store.pushes().get(id);
    assert_eq!(app_of(made[0]).await.unwrap().unwrap().state, P::Received);
    // Another message, or none, of the same commit is the same push; of another app it is not.
    assert!(!world.is_new(told(&app, "d2", branch("main", 'a'))).await);
    assert!(!world.is_new(push(&app, branch("main", 'a'))).await);
    assert!(world.is_new(told(&other, "d1", branch("main", 'a'))).await);
    assert!(world.is_new(push(&app, branch("dev", 'a'))).await);
    // Moved on and back again, it is a push anew; the first message stays the first.
    assert!(world.is_new(push(&app, branch("main", 'b'))).await);
    assert!(world.is_new(push(&app, branch("main", 'a'))).await);
    assert!(!world.is_new(told(&app, "d1", branch("main", 'c'))).await);
    let gone = GitChange::BranchDeleted { branch: "main".into() };
    assert!(world.is_new(push(&app, gone.clone())).await);
    assert!(!world.is_new(push(&app, gone)).await);
    assert!(world.is_new(push(&app, branch("main", 'a'))).await);
}

pub async fn a_push_and_what_it_leads_to_are_one(world: World) {
    let app = world.app("web").await;
    let pushes = world.store.pushes();
    let id = pushes.receive(push(&app, branch("main", 'a'))).await.unwrap().id();
    assert_eq!(pushes.undecided().await.unwrap().len(), 1);
    pushes.postpone(id, berth_schemas::Timestamp(0), "the store was busy").await.unwrap();
    let key = Some(SourceKey::Exact("git:x@a".into()));
    let new = NewDeployment { key, ..new_deployment(&app) };
    let made =
        pushes.handle(id, &[(new.clone(), true)], |made| format!("{} made", made.len())).await.unwrap();
    assert!(matches!(made[..], [Enqueued::New(_)]));
    let row = pushes.get(id).await.unwrap().unwrap();
    assert_eq!((row.state, row.outcome.as_deref(), row.attempts), (P::Handled, Some("1 made"), 1));
    // A second worker makes no second deployment.
    let again = pushes.handle(id, &[(new.clone(), true)], |_| String::new()).await;
    assert!(matches!(again, Err(StoreError::Stale { .. })), "{again:?}");
    assert_eq!(world.store.deployments().list(app.id, None, None, 10).await.unwrap().len(), 1);
    // What cannot be enqueued leaves the push as it was.
    let second = pushes.receive(push(&app, branch("main", 'b'))).await.unwrap().id();
    let nowhere = NewDeployment { environment: EnvironmentId(-1), ..new.clone() };
    assert!(pushes.handle(second, &[(new.clone(), true), (nowhere, true)], |_| String::new()).await.is_err());
    assert_eq!(pushes.get(second).await.unwrap().unwrap().state, P::Received);
    assert!(pushes.deployments(second).await.unwrap().is_empty());
    // One that brings what is on its way leads there.
    pushes.handle(second, &[(new, true)], |_| String::new()).await.unwrap();
    let led = pushes.deployments(second).await.unwrap();
    assert_eq!(led.iter().map(|d| d.number).collect::<Vec<_>>(), [1]);
    let both = pushes.of_deployment(led[0].id).await.unwrap();
    assert_eq!(both.iter().map(|p| p.id).collect::<Vec<_>>(), [second, id]);
    // The states keep their order, and only what did not deploy is tried again.
    let illegal = pushes.transition(id, P::Handled, P::Ignored, "").await;
    assert!(matches!(illegal, Err(StoreError::IllegalPushTransition { .. })));
    // It led to a deployment, which may yet be live.
    let early = pushes.retry(id, &Principal::daemon()).await;
    assert!(matches!(early, Err(StoreError::IllegalPushTransition { .. })));
    let third = pushes.receive(push(&app, branch("main", 'c'))).await.unwrap().id();
    pushes.transition(third, P::Received, P::Ignored, "no such branch").await.unwrap();
    let again = pushes.retry(third, &Principal::daemon()).await.unwrap();
    assert!(again.state == P::Received && again.wishes.force && again.settled_at.is_none());
    let kinds: Vec<String> = world
        .store
        .events()
        .list(&Visible::All, Some(&app.slug), None, None, None, 50)
        .await
        .unwrap()
        .into_iter()
        .map(|e| e.kind)
        .filter(|k| k.starts_with("push."))
        .collect();
    assert_eq!(kinds.iter().filter(|k| *k == "push.received").count(), 4, "{kinds:?}");
}

pub async fn what_strangers_push_is_kept_within_limits(world: World) {
    let app = world.app("web").await;
    let long = GitCommits {
        message: Some(Untrusted("m\0".repeat(100_000))),
        paths: Some((0..10_000).map(|n| format!("src/{n}")).collect()),
        ..GitCommits::default()
    };
    let new = NewPush { commits: long, ..push(&app, branch("main", 'a')) };
    let id = world.store.pushes().receive(new).await.unwrap().id();
    let row = world.store.pushes().get(id).await.unwrap().unwrap();
    assert!(row.commits.message.unwrap().0.len() < 50_000);
    assert_eq!(row.commits.paths, None, "a part of the paths would filter wrongly");
    // A push that was refused is no reason to call the next one known.
    let held = NewPush { held_before: Some(String::new()), ..push(&app, branch("dev", 'b')) };
    let first = world.store.pushes().receive(held.clone()).await.unwrap().id();
    world.store.pushes().transition(first, P::Received, P::Refused, "it did not build").await.unwrap();
    assert!(world.is_new(held).await);
}

pub async fn rules_for_pushes_stay_until_they_are_changed(world: World) {
    let app = world.app("web").await;
    let (pushes, root) = (world.store.pushes(), Principal::daemon());
    assert_eq!(pushes.rules(app.id).await.unwrap(), PushRules::default());
    for tags in [vec!["v*".to_owned()], vec![]] {
        let rules = PushRules { deploy_tags: Some(tags), ..PushRules::default() };
        pushes.set_rules(&root, app.id, &rules).await.unwrap();
        assert_eq!(pushes.rules(app.id).await.unwrap(), rules);
    }
    assert_eq!(world.refresh(&app).await.configured_at, app.configured_at, "no release depends on them");
    assert!(pushes.set_rules(&root, AppId(-1), &PushRules::default()).await.is_err());
    world.store.apps().delete(app.id, "ci").await.unwrap();
    assert_eq!(pushes.rules(app.id).await.unwrap(), PushRules::default());
}
