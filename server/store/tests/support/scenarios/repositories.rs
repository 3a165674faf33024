use std::collections::BTreeMap;

use berth_schemas::{Code, Problem, repository::ForgeKind};
use berth_store::*;

use crate::support::World;

fn new(url: &str) -> NewRepository {
    NewRepository {
        url: url.into(),
        forge: ForgeKind::Github,
        full_name: "acme/site".into(),
        branch: None,
        credentials: Credentials::Token { user: None, token: "ghp_secret".into() },
        public_key: None,
        secret: "webhook secret".into(),
        report: true,
        poll_minutes: 5,
    }
}

pub async fn a_repository_keeps_its_secrets_sealed(mut world: World) {
    let root = Principal::daemon();
    let app = world.app("web").await;
    let made =
        world.store.repositories().connect(&root, &app, new("https://github.com/acme/site")).await.unwrap();
    assert!(!format!("{made:?}").contains("secret\""), "{made:?}");
    world.reopen().await;
    let repositories = world.store.repositories();
    let row = repositories.by_id(&made.id).await.unwrap().unwrap();
    assert_eq!((row.app.as_str(), row.full_name.as_str(), row.branch.as_deref()), ("web", "acme/site", None));
    let secrets = repositories.secrets(&row).unwrap();
    assert_eq!(secrets.credentials, new("").credentials);
    assert_eq!(secrets.webhook.0, "webhook secret");
    assert!(!format!("{secrets:?}").contains("ghp_"));
    // The same repository by another way keeps its webhook; another one is refused.
    let key = Credentials::DeployKey { private_key: "k".into() };
    let by_ssh = NewRepository {
        credentials: key.clone(),
        secret: "other".into(),
        ..new("git@github.com:acme/site.git")
    };
    let again = repositories.connect(&root, &app, by_ssh).await.unwrap();
    assert_eq!((again.id.as_str(), again.url.as_str()), (made.id.as_str(), "git@github.com:acme/site.git"));
    let secrets = repositories.secrets(&again).unwrap();
    assert_eq!((secrets.credentials, secrets.webhook.0.as_str()), (key, "webhook secret"));
    let other = NewRepository { full_name: "acme/other".into(), ..new("https://github.com/acme/other") };
    assert!(matches!(repositories.connect(&root, &app, other).await, Err(StoreError::Conflict { .. })));
    // Secrets of one row do not open in another.
    let api = world.app("api").await;
    let second = repositories.connect(&root, &api, new("https://github.com/acme/site")).await.unwrap();
    world.tamper("UPDATE repositories SET secret = (SELECT MIN(secret) FROM repositories)").await;
    let opened = [made.id, second.id].map(async |id| {
        let row = world.store.repositories().by_id(&id).await.unwrap().unwrap();
        world.store.repositories().secrets(&row).is_ok()
    });
    let [one, two] = opened;
    assert!(one.await != two.await, "a secret opened in a row that it was not sealed for");
}

pub async fn a_webhook_is_remembered_by_id_and_content(world: World) {
    let root = Principal::daemon();
    let app = world.app("web").await;
    let repositories = world.store.repositories();
    let row = repositories.connect(&root, &app, new("https://github.com/acme/site")).await.unwrap();
    assert!(!repositories.delivered(&row.id, "d1", Some("abc")).await.unwrap());
    let learnt = Learnt { remote_id: Some("7".into()), branch: Some("main".into()) };
    repositories.accept(&row.id, "d1", Some("abc"), learnt, ("push", "received")).await.unwrap();
    repositories.accept(&row.id, "d1", Some("abc"), Learnt::default(), ("push", "received")).await.unwrap();
    assert!(repositories.delivered(&row.id, "d1", None).await.unwrap());
    assert!(repositories.delivered(&row.id, "d2", Some("abc")).await.unwrap());
    assert!(!repositories.delivered(&row.id, "d2", Some("def")).await.unwrap());
    assert!(!repositories.delivered("another", "d1", Some("abc")).await.unwrap());
    let later = Learnt { remote_id: Some("8".into()), branch: Some("dev".into()) };
    repositories.learn(&row.id, later).await.unwrap();
    repositories.refuse(&row, ("push", "wrong signature"), true).await.unwrap();
    let row = repositories.of_app(app.id).await.unwrap().unwrap();
    // What is known is not learnt anew.
    assert_eq!((row.remote_id.as_deref(), row.branch.as_deref()), (Some("7"), Some("main")));
    assert_eq!(row.last_delivery.unwrap().event.0, "push");
    assert_eq!(row.last_refusal.unwrap().outcome.0, "wrong signature");
    let events =
        world.store.events().list(&Visible::All, Some(&app.slug), Some("webhook"), None, None, 9).await;
    assert_eq!(events.unwrap()[0].kind, "webhook.refused");
}

pub async fn a_look_is_due_when_its_time_has_come(world: World) {
    let root = Principal::daemon();
    let app = world.app("web").await;
    let repositories = world.store.repositories();
    let row = repositories.connect(&root, &app, new("https://github.com/acme/site")).await.unwrap();
    let now = || world.store.clock().now();
    assert_eq!(repositories.due(now(), 10).await.unwrap().len(), 1, "at once");
    let seen = BTreeMap::from([("refs/heads/main".to_owned(), "1".repeat(40))]);
    let next = berth_schemas::Timestamp(now().0 + 300_000_000);
    repositories.looked(&row.id, &seen, next, Learnt::default()).await.unwrap();
    assert!(repositories.due(now(), 10).await.unwrap().is_empty());
    world.advance(301);
    let due = repositories.due(now(), 10).await.unwrap();
    assert_eq!(due[0].seen.as_ref(), Some(&seen));
    let far = berth_schemas::Timestamp(now().0 + 3_600_000_000);
    repositories.look_failed(&row.id, &Problem::new(Code::GitFailed, "No."), far).await.unwrap();
    assert!(repositories.due(now(), 10).await.unwrap().is_empty());
    repositories.look_soon(std::time::Duration::from_secs(10)).await.unwrap();
    world.advance(11);
    let due = repositories.due(now(), 10).await.unwrap();
    assert_eq!((due[0].poll_failures, due[0].poll_problem.as_ref().unwrap().code), (1, Code::GitFailed));
    assert!(repositories.disconnect(&root, &row).await.unwrap());
    assert!(!repositories.disconnect(&root, &row).await.unwrap());
    assert!(repositories.by_id(&row.id).await.unwrap().is_none());
}

pub async fn a_report_is_the_newest_and_sent_once(world: World) {
    let root = Principal::daemon();
    let app = world.app("web").await;
    let row =
        world.store.repositories().connect(&root, &app, new("https://github.com/acme/site")).await.unwrap();
    let reports = world.store.forge_reports();
    let now = || world.store.clock().now();
    // What happened before somebody listened is not told.
    let (events, upto) = reports.events("c", "app.", 10).await.unwrap();
    assert!(events.is_empty() && upto > 0);
    reports.want("c", upto, Vec::new()).await.unwrap();
    world.app("api").await;
    world.app("job").await;
    let (events, upto) = reports.events("c", "app.", 1).await.unwrap();
    assert_eq!((events.len(), events[0].event.id), (1, upto));
    let said = |body: &str| vec![(row.id.clone(), "status x".to_owned(), body.to_owned())];
    reports.want("c", upto, said("1")).await.unwrap();
    reports.want("c", upto, said("2")).await.unwrap();
    let gone = vec![("no such repository".to_owned(), "s".to_owned(), "b".to_owned())];
    reports.want("c", upto, gone).await.unwrap();
    let (events, _) = reports.events("c", "app.", 10).await.unwrap();
    assert_eq!(events[0].event.app.as_ref().unwrap().as_str(), "job");
    let due = reports.due(now(), 10).await.unwrap();
    assert_eq!((due.len(), due[0].body.as_str(), due[0].remote.as_deref()), (1, "2", None));
    let later = berth_schemas::Timestamp(now().0 + 60_000_000);
    reports.put_off(&due[0], later, &Problem::new(Code::Unavailable, "Away.")).await.unwrap();
    assert!(reports.due(now(), 10).await.unwrap().is_empty());
    let problem = world.store.repositories().of_app(app.id).await.unwrap().unwrap().report_problem;
    assert_eq!(problem.unwrap().code, Code::Unavailable);
    world.advance(61);
    let due = reports.due(now(), 10).await.unwrap();
    assert_eq!(due[0].attempts, 1);
    // What became wanted while it was sent is still due, with what the forge called it.
    reports.want("c", upto, said("3")).await.unwrap();
    reports.sent(&due[0], Some("99")).await.unwrap();
    let due = reports.due(now(), 10).await.unwrap();
    assert_eq!((due[0].body.as_str(), due[0].remote.as_deref()), ("3", Some("99")));
    reports.sent(&due[0], None).await.unwrap();
    assert!(reports.due(now(), 10).await.unwrap().is_empty());
    assert!(world.store.repositories().of_app(app.id).await.unwrap().unwrap().report_problem.is_none());
}
