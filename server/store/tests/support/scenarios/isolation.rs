use berth_schemas::{DeploymentRef, Scope, app::AppSettings, job::JobKind, variable::VariableScope};
use berth_store::*;
use serde_json::Value;

use crate::support::{World, app_name, new_release};

fn only(project: ProjectId) -> Principal {
    Principal::new("t", vec![Scope::Write], Visible::Projects(vec![project]))
}

pub async fn names_are_taken_once(world: World) {
    let root = Principal::daemon();
    let web = world.app("web").await;
    let again = world
        .store
        .apps()
        .create(&root, web.project_id, app_name("web"), AppSettings::default())
        .await
        .unwrap_err();
    assert!(matches!(&again, StoreError::Taken { kind: "app", name } if name == "web"), "{again:?}");
    let project = world.store.projects().create(&root, "default".parse().unwrap()).await;
    assert!(matches!(project, Err(StoreError::Taken { kind: "project", .. })));
    // A refused write leaves the writer usable.
    world.app("api").await;
    let (page, total) = world.store.apps().list(&Visible::All, None, None, 1).await.unwrap();
    assert_eq!((page.len(), page[0].slug.as_str(), total), (1, "api", 2));
    let (page, _) = world.store.apps().list(&Visible::All, None, Some("api"), 5).await.unwrap();
    assert_eq!(page, [web]);
}

pub async fn settings_that_do_not_differ_change_nothing(world: World) {
    let root = Principal::daemon();
    let app = world.app("web").await;
    let settings = AppSettings { port: Some(3000), cpus: Some(0.5), ..AppSettings::default() };
    let changed = world.store.apps().update_settings(&root, app.id, settings.clone()).await.unwrap();
    assert_eq!(changed.settings, settings);
    assert!(changed.configured_at > app.configured_at);
    let same = world.store.apps().update_settings(&root, app.id, settings).await.unwrap();
    assert_eq!(same, changed);
    let events = world.store.events().list(&Visible::All, None, Some("app.updated"), None, None, 10).await;
    let events = events.unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].data["changed"], serde_json::json!(["cpus", "port"]));
}

pub async fn variables_are_sealed_and_events_name_them_only(world: World) {
    let root = Principal::daemon();
    let app = world.app("web").await;
    let variables = world.store.variables();
    let plain = ("GREETING".parse().unwrap(), "grüße".to_owned(), false, true);
    let secret = ("API_KEY".parse().unwrap(), "hunter2-hunter2".to_owned(), true, false);
    let changed = variables.set(&root, &app, vec![plain.clone(), secret.clone()]).await.unwrap();
    assert_eq!(changed.len(), 2);
    assert!(world.refresh(&app).await.configured_at > app.configured_at);
    assert!(variables.set(&root, &app, vec![plain]).await.unwrap().is_empty(), "nothing changed");

    let list = variables.effective(&app).await.unwrap();
    let shown: Vec<_> = list.iter().map(|v| (v.name.as_str(), v.value.as_str(), v.secret, v.build)).collect();
    assert_eq!(shown, [("API_KEY", "hunter2-hunter2", true, false), ("GREETING", "grüße", false, true)]);
    let events = world.store.events().list(&Visible::All, Some(&app.slug), Some("variable"), None, None, 9);
    let text = format!("{:?}", events.await.unwrap());
    assert!(text.contains("API_KEY") && !text.contains("hunter2"), "{text}");
    if world.url.is_none() {
        world.store.close().await;
        for file in std::fs::read_dir(world.dir.path()).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            assert!(!bytes.windows(7).any(|w| w == b"hunter2" || w == b"gr\xc3\xbc\xc3\x9fe"));
        }
        return;
    }
    assert!(variables.delete(&root, &app, VariableScope::Environment, &secret.0).await.unwrap());
    assert!(!variables.delete(&root, &app, VariableScope::Environment, &secret.0).await.unwrap());
}

pub async fn a_moved_or_changed_secret_does_not_open(world: World) {
    let root = Principal::daemon();
    let app = world.app("web").await;
    let set = vec![
        ("MINE".parse().unwrap(), "mine".to_owned(), true, false),
        ("THEIRS".parse().unwrap(), "theirs".to_owned(), true, false),
    ];
    world.store.variables().set(&root, &app, set.clone()).await.unwrap();
    let swap = "UPDATE variables SET sealed = (SELECT v.sealed FROM variables v WHERE v.name = 'THEIRS')
         WHERE name = 'MINE'";
    assert_eq!(world.tamper(swap).await, 1);
    let opened = world.store.variables().effective(&app).await;
    assert!(matches!(opened, Err(StoreError::Unsealable(_))), "{opened:?}");
    // Setting it anew repairs it.
    world.store.variables().set(&root, &app, set).await.unwrap();
    assert_eq!(world.store.variables().effective(&app).await.unwrap().len(), 2);

    let (_, first) = world.deploy(&app).await;
    world.deploy(&app).await;
    assert!(world.store.releases().variables(first.id).await.is_ok());
    let swap =
        "UPDATE releases SET variables = (SELECT MAX(r.variables) FROM releases r WHERE r.id <> releases.id)";
    assert_eq!(world.tamper(swap).await, 2);
    assert!(matches!(world.store.releases().variables(first.id).await, Err(StoreError::Unsealable(_))));
}

pub async fn a_foreign_project_is_invisible_by_name(world: World) {
    let mine = world.app_in("mine", "web").await;
    let theirs = world.app_in("theirs", "vault").await;
    let (deployment, release) = world.deploy(&theirs).await;
    let job =
        world.store.jobs().enqueue(JobKind::Stop, Some(theirs.id), None, Value::Null, "x").await.unwrap();
    let me = only(mine.project_id);
    let view = &me.visible;
    let store = &world.store;

    assert!(store.apps().by_slug(view, &theirs.slug).await.unwrap().is_none());
    assert_eq!(store.apps().slugs(view).await.unwrap(), ["web"]);
    assert_eq!(store.apps().all(view).await.unwrap().len(), 1);
    assert_eq!(store.apps().list(view, None, None, 10).await.unwrap().1, 1);
    let by_project = store.apps().list(view, Some(theirs.project_id), None, 10).await.unwrap();
    assert_eq!((by_project.0.len(), by_project.1), (0, 0));
    assert_eq!(store.projects().list(view).await.unwrap().len(), 1);
    assert!(store.projects().by_slug(view, &theirs.project).await.unwrap().is_none());
    for number in [None, Some(deployment.number)] {
        let name = DeploymentRef { app: theirs.slug.clone(), number };
        assert!(store.deployments().by_ref(view, &name).await.unwrap().is_none());
        assert!(store.deployments().by_ref(&Visible::All, &name).await.unwrap().is_some());
    }
    assert!(store.jobs().get(view, &job.id).await.unwrap().is_none());
    assert!(store.jobs().get(&Visible::All, &job.id).await.unwrap().is_some());
    let events = store.events().list(view, Some(&theirs.slug), None, None, None, 100).await.unwrap();
    assert!(events.is_empty(), "{events:?}");
    let events = store.events().list(view, None, None, None, None, 100).await.unwrap();
    assert!(!events.is_empty() && events.iter().all(|e| e.app.as_ref().is_none_or(|a| *a == mine.slug)));

    let slug = app_name("new");
    let create = store.apps().create(&me, theirs.project_id, slug, AppSettings::default()).await;
    assert!(matches!(create, Err(StoreError::NotFound { .. })));
    let update = store.apps().update_settings(&me, theirs.id, AppSettings::default()).await;
    assert!(matches!(update, Err(StoreError::NotFound { .. })));
    assert!(matches!(store.apps().mark_deleting(&me, theirs.id).await, Err(StoreError::NotFound { .. })));
    let set = vec![("A".parse().unwrap(), "b".to_owned(), false, false)];
    assert!(matches!(store.variables().set(&me, &theirs, set).await, Err(StoreError::NotFound { .. })));
    let name = "A".parse().unwrap();
    assert!(matches!(
        store.variables().delete(&me, &theirs, VariableScope::Environment, &name).await,
        Err(StoreError::NotFound { .. })
    ));
    assert!(matches!(
        store.projects().delete(&me, theirs.project_id).await,
        Err(StoreError::NotFound { .. })
    ));
    // A release of another environment cannot be made live.
    let d = world.enqueue(&mine).await;
    world.until_switching(&d).await;
    let foreign = store.deployments().switch_live(d.id, release.id).await;
    assert!(matches!(foreign, Err(StoreError::NotFound { kind: "release", .. })), "{foreign:?}");
    let own = store.releases().create(new_release(d.id)).await.unwrap();
    store.deployments().switch_live(d.id, own.id).await.unwrap();
}
