//! Environments and previews.

use berth_schemas::environment::EnvironmentKind;
use berth_store::*;

use crate::support::{World, new_deployment};

fn named(name: &str, branch: Option<&str>) -> NewEnvironment {
    NewEnvironment { name: name.parse().unwrap(), branch: branch.map(str::to_owned), replicas: 2 }
}

fn preview(head: &str, limit: i64) -> NewPreview {
    let slug = head.replace('/', "-");
    NewPreview {
        name: slug.parse().unwrap(),
        otherwise: format!("{slug}-1a2b").parse().unwrap(),
        head: head.into(),
        pull: None,
        fork: false,
        offer: None,
        expires_at: None,
        limit,
    }
}

fn offer(commit: &str) -> Option<Offer> {
    let source = DeploymentSource::Image { image: "web:1".into() };
    Some(Offer { commit: commit.into(), source, message: None })
}

pub async fn an_app_is_seen_in_each_environment(world: World) {
    let root = Principal::daemon();
    let app = world.app("web").await;
    assert_eq!(app.environment.kind, EnvironmentKind::Production);
    let environments = world.store.environments();
    let staging = environments.create(&root, app.id, named("staging", Some("main"))).await.unwrap();
    assert_eq!((staging.id, staging.title().as_str()), (app.id, "web (staging)"));
    assert_eq!(staging.environment.replicas, 2);
    for again in [named("staging", None), named("production", None)] {
        let taken = environments.create(&root, app.id, again).await;
        assert!(matches!(taken, Err(StoreError::Taken { .. })), "{taken:?}");
    }
    let branch = environments.create(&root, app.id, named("other", Some("main"))).await;
    assert!(matches!(branch, Err(StoreError::Conflict { .. })), "{branch:?}");

    // The two go their own ways, with one numbering.
    let (one, release) = world.deploy(&app).await;
    let (two, _) = world.deploy(&staging).await;
    assert_eq!((one.number, two.number, two.environment.as_str()), (1, 2, "staging"));
    assert_eq!(world.refresh(&app).await.environment.live, Some(release.id));
    let seen = environments.by_branch(app.id, "main").await.unwrap().unwrap();
    assert_eq!((seen.environment.id, seen.environment.live), (staging.environment.id, two.release));
    let apps = world.store.apps();
    assert_eq!(apps.all(&Visible::All).await.unwrap().len(), 1);
    assert_eq!(apps.all_environments(&Visible::All).await.unwrap().len(), 2);
    let here = world.store.deployments().list_in(app.id, Some(staging.environment.id), None, None, 9).await;
    assert_eq!(here.unwrap().len(), 1);

    // What is set for one is pending there alone.
    let key = ("KEY".parse().unwrap(), "value".into(), false, false);
    world.store.variables().set(&root, &staging, vec![key]).await.unwrap();
    let release = world.store.releases().get(two.release.unwrap()).await.unwrap().unwrap();
    let seen = apps.by_environment(staging.environment.id).await.unwrap().unwrap();
    assert!(seen.configured_at > release.created_at);
    assert_eq!(world.refresh(&app).await.configured_at, app.configured_at);

    let moved = environments.set_branch(&root, app.environment.id, Some("main")).await;
    assert!(matches!(moved, Err(StoreError::Conflict { .. })), "{moved:?}");
    environments.set_branch(&root, staging.environment.id, None).await.unwrap();
    environments.set_branch(&root, app.environment.id, Some("main")).await.unwrap();
}

pub async fn a_deleted_environment_takes_everything_along(world: World) {
    let root = Principal::daemon();
    let app = world.app("web").await;
    let environments = world.store.environments();
    let whole = environments.mark_deleting(&root, app.environment.id).await;
    assert!(matches!(whole, Err(StoreError::Conflict { .. })), "{whole:?}");
    let staging = environments.create(&root, app.id, named("staging", Some("main"))).await.unwrap();
    let (deployed, _) = world.deploy(&staging).await;
    world.deploy(&app).await;
    let line = |release| NewLogLine {
        app_id: app.id,
        release,
        replica: 1,
        stream: OutputStream::Stdout,
        level: berth_schemas::log::Level::Info,
        at: berth_schemas::Timestamp(1),
        text: format!("of {release}"),
    };
    world.store.logs().append(&[line(1), line(2)], &[]).await.unwrap();
    let of = |environment| LogQuery { environment, limit: 9, ..LogQuery::default() };
    let (lines, _) = world.store.logs().search(app.id, &of(Some(staging.environment.id))).await.unwrap();
    assert_eq!((lines.len(), lines[0].release), (1, 1));

    environments.mark_deleting(&root, staging.environment.id).await.unwrap();
    let seen = environments.by_name(app.id, &"staging".parse().unwrap()).await.unwrap().unwrap();
    assert!(seen.deleting && !world.refresh(&app).await.deleting);
    assert!(world.store.deployments().enqueue(new_deployment(&staging)).await.is_err());
    for _ in 0..2 {
        environments.delete(staging.environment.id, "ann").await.unwrap();
    }
    assert!(world.store.deployments().get(deployed.id).await.unwrap().is_none());
    let (lines, _) = world.store.logs().search(app.id, &of(None)).await.unwrap();
    assert_eq!((lines.len(), lines[0].release), (1, 2), "production's stay");
    assert_eq!(world.enqueue(&app).await.number, 3, "numbers are not given twice");
    environments.create(&root, app.id, named("staging", Some("main"))).await.unwrap();
}

pub async fn a_branch_has_one_preview(world: World) {
    let app = world.app("web").await;
    let environments = world.store.environments();
    environments.create(&Principal::daemon(), app.id, named("fix", None)).await.unwrap();
    let made = environments.ensure_preview("ann", app.id, preview("fix", 2)).await.unwrap();
    assert!(made.made);
    assert_eq!(made.app.environment.name.as_str(), "fix-1a2b", "the name was taken");
    let again = environments.ensure_preview("ann", app.id, preview("fix", 2)).await.unwrap();
    assert_eq!((again.made, again.app.environment.id), (false, made.app.environment.id));
    assert_eq!(
        environments.by_branch(app.id, "fix").await.unwrap().unwrap().environment.id,
        made.app.environment.id
    );
    // A pull request's branch is in another repository, and may be called as one of ours.
    let pull = NewPreview { pull: Some(5), name: "pr-5".parse().unwrap(), ..preview("fix", 2) };
    let of_pull = environments.ensure_preview("ann", app.id, pull).await.unwrap().app;
    assert_eq!((of_pull.environment.name.as_str(), of_pull.environment.branch), ("pr-5", None));
    assert_eq!(
        environments.by_pull(app.id, 5).await.unwrap().unwrap().environment.id,
        of_pull.environment.id
    );

    // A third is too many while both are used; one that sleeps makes room.
    world.deploy(&made.app).await;
    world.deploy(&world.store.apps().by_environment(of_pull.environment.id).await.unwrap().unwrap()).await;
    let full = environments.ensure_preview("ann", app.id, preview("more", 2)).await;
    assert!(matches!(full, Err(StoreError::Conflict { .. })), "{full:?}");
    environments.set_sleeping(made.app.environment.id, true).await.unwrap();
    let fork = NewPreview { fork: true, pull: Some(6), ..preview("more", 2) };
    let full = environments.ensure_preview("ann", app.id, fork).await;
    assert!(matches!(full, Err(StoreError::Conflict { .. })), "what nobody approved drives nothing away");
    let third = environments.ensure_preview("ann", app.id, preview("more", 2)).await.unwrap();
    assert_eq!(third.makes_room.unwrap().environment.id, made.app.environment.id);
    let back = environments.ensure_preview("ann", app.id, preview("fix", 2)).await;
    assert!(matches!(back, Err(StoreError::Conflict { .. })), "it is still going");
}

pub async fn a_forks_commit_is_approved_as_it_was_seen(world: World) {
    let app = world.app("web").await;
    let environments = world.store.environments();
    let fork = |commit| NewPreview { fork: true, pull: Some(7), offer: offer(commit), ..preview("main", 5) };
    let row = environments.ensure_preview("ann", app.id, fork("aaa")).await.unwrap().app;
    let preview = |row: &AppRow| row.environment.preview.clone().unwrap();
    assert!(!preview(&row).may_deploy("aaa"));
    let root = Principal::daemon();
    let row = environments.approve(&root, row.environment.id, "aaa").await.unwrap();
    assert!(preview(&row).may_deploy("aaa") && !preview(&row).may_deploy("bbb"));
    let row = environments.ensure_preview("ann", app.id, fork("bbb")).await.unwrap().app;
    assert!(!preview(&row).may_deploy("bbb"), "a new commit asks again");
    let late = environments.approve(&root, row.environment.id, "aaa").await;
    assert!(matches!(late, Err(StoreError::Conflict { .. })), "{late:?}");
    // Told otherwise later, it stays a fork's.
    let own = NewPreview { fork: false, ..fork("ccc") };
    assert!(environments.ensure_preview("ann", app.id, own).await.unwrap().app.environment.is_foreign());
    let other = Principal { visible: Visible::Projects(vec![]), ..root };
    let hidden = environments.approve(&other, row.environment.id, "ccc").await;
    assert!(matches!(hidden, Err(StoreError::NotFound { .. })), "{hidden:?}");
}

pub async fn what_is_nearer_wins_and_each_value_is_kept(world: World) {
    use berth_schemas::variable::VariableScope as Of;
    let root = Principal::daemon();
    let app = world.app("web").await;
    let environments = world.store.environments();
    let shown = environments.ensure_preview("ann", app.id, preview("fix", 2)).await.unwrap().app;
    let variables = world.store.variables();
    let one = |name: &str, value: &str| vec![(name.parse().unwrap(), value.to_owned(), true, false)];
    variables.set_in(&root, &app, Of::Shared, one("A", "shared")).await.unwrap();
    variables.set_in(&root, &app, Of::Shared, one("B", "shared")).await.unwrap();
    variables.set_in(&root, &app, Of::Previews, one("A", "previews")).await.unwrap();
    variables.set(&root, &shown, one("B", "own")).await.unwrap();
    let values = async |app: &AppRow| -> Vec<String> {
        variables
            .effective(app)
            .await
            .unwrap()
            .into_iter()
            .map(|v| format!("{}={}", v.name, v.value))
            .collect()
    };
    assert_eq!(values(&app).await, ["A=shared", "B=shared"]);
    assert_eq!(values(&shown).await, ["A=previews", "B=own"]);

    let name = "A".parse().unwrap();
    variables.set_in(&root, &app, Of::Shared, one("A", "changed")).await.unwrap();
    assert!(variables.delete(&root, &app, Of::Shared, &name).await.unwrap());
    let history = variables.history(&app, Of::Shared, Some(&name)).await.unwrap();
    let seen: Vec<_> = history.iter().map(|v| (v.version, v.deleted)).collect();
    assert_eq!(seen, [(3, true), (2, false), (1, false)]);
    let then = variables.version(&app, Of::Shared, &name, 1).await.unwrap();
    let then = then.unwrap();
    assert_eq!((then.value.as_str(), then.secret, then.build, then.refers), ("shared", true, false, false));
    assert_eq!(variables.version(&app, Of::Shared, &name, 3).await.unwrap(), None);
    assert_eq!(values(&app).await, ["B=shared"]);
    assert_eq!(values(&shown).await, ["A=previews", "B=own"]);

    // Whether `${` refers is kept with the value and its versions.
    let refers = |refers| NewVariable {
        name: "C".parse().unwrap(),
        value: "${B}".into(),
        secret: false,
        build: false,
        refers,
    };
    for (flag, changed) in [(false, 1), (true, 1), (true, 0)] {
        let set = variables.put(&root, &app, Of::Shared, vec![refers(flag)]).await.unwrap();
        assert_eq!(set.len(), changed);
    }
    let row = variables.effective(&shown).await.unwrap().pop().unwrap();
    assert!(row.name.as_str() == "C" && row.refers && row.version == 2 && !row.secret);
    let name = "C".parse().unwrap();
    assert_eq!(variables.version(&app, Of::Shared, &name, 1).await.unwrap(), Some(refers(false)));
    assert_eq!(variables.version(&app, Of::Shared, &name, 2).await.unwrap(), Some(refers(true)));
}
