use berth_schemas::{
    Code, Problem, Timestamp,
    ids::UploadId,
    job::{JobKind, JobState as J},
    log::Level,
};
use berth_store::*;
use serde_json::{Value, json};

use crate::support::{World, new_deployment};

pub async fn deleting_an_app_takes_everything_along(world: World) {
    let root = Principal::daemon();
    let (app, other) = (world.app("web").await, world.app("api").await);
    let set = vec![("A".parse().unwrap(), "b".to_owned(), true, true)];
    let (d, release) = world.deploy(&app).await;
    world.store.variables().set(&root, &app, set).await.unwrap();
    for a in [&app, &other] {
        let lines: Vec<_> = (0..120).map(|n| super::log_line(a, n, "hello")).collect();
        world.store.logs().append(&lines, &[]).await.unwrap();
        world.store.requests().append(&[super::request(a, 1, 200, 5)]).await.unwrap();
    }
    let job =
        world.store.jobs().enqueue(JobKind::DeleteApp, Some(app.id), None, Value::Null, "ann").await.unwrap();
    world.store.apps().mark_deleting(&root, app.id).await.unwrap();
    assert!(world.refresh(&app).await.deleting);
    world.store.apps().delete(app.id, "ann").await.unwrap();
    world.store.apps().delete(app.id, "ann").await.unwrap();

    assert!(world.store.apps().by_id(app.id).await.unwrap().is_none());
    assert!(world.store.deployments().get(d.id).await.unwrap().is_none());
    assert!(world.store.releases().get(release.id).await.unwrap().is_none());
    assert!(world.store.variables().effective(&app).await.unwrap().is_empty());
    assert!(world.store.deployments().lines(d.id, None, None, 9).await.unwrap().0.is_empty());
    let query = LogQuery { limit: 1000, ..LogQuery::default() };
    assert!(world.store.logs().search(app.id, &query).await.unwrap().0.is_empty());
    assert_eq!(world.store.logs().search(other.id, &query).await.unwrap().0.len(), 120);
    assert_eq!(world.store.logs().volume().await.unwrap().rows, 120);
    assert_eq!(world.store.requests().volume().await.unwrap().rows, 1);
    // Its job and its events can still be read, and its name is free.
    let job = world.store.jobs().get(&Visible::All, &job.id).await.unwrap().unwrap();
    assert_eq!(job.app, Some(app.slug.clone()));
    let events = world.store.events().list(&Visible::All, Some(&app.slug), None, None, None, 50).await;
    let events = events.unwrap();
    assert_eq!(events[0].kind, "app.deleted");
    assert!(events.len() > 8);
    world.app("web").await;
}

pub async fn cache_records_are_noted_once_and_forgotten(world: World) {
    let cache = world.store.build_cache();
    let many: Vec<String> = (0..450).map(|n| format!("record{n:03}")).collect();
    cache.note(&many).await.unwrap();
    cache.note(&many[..10]).await.unwrap();
    cache.note(&[]).await.unwrap();
    assert_eq!(cache.all().await.unwrap(), many);
    cache.forget(&many[1..]).await.unwrap();
    assert_eq!(cache.all().await.unwrap(), ["record000"]);
}

pub async fn jobs_go_their_way(world: World) {
    let app = world.app("web").await;
    let jobs = world.store.jobs();
    let input = json!({ "replicas": 3 });
    let job = jobs
        .enqueue(JobKind::Scale, Some(app.id), Some(app.environment.id), input.clone(), "ann")
        .await
        .unwrap();
    let cleanup = jobs.enqueue(JobKind::Cleanup, None, None, Value::Null, "berth").await.unwrap();
    assert_eq!((job.state, &job.input, job.project_id), (J::Queued, &input, Some(app.project_id)));
    assert_eq!(jobs.unfinished().await.unwrap(), [job.clone(), cleanup.clone()]);
    let limited = Visible::Projects(vec![app.project_id]);
    assert!(jobs.get(&limited, &job.id).await.unwrap().is_some());
    assert!(jobs.get(&limited, &cleanup.id).await.unwrap().is_none());

    let wrong = jobs.transition(&job.id, J::Queued, J::Succeeded, None, None).await;
    assert!(matches!(wrong, Err(StoreError::IllegalJobTransition { .. })));
    let running =
        jobs.transition(&job.id, J::Queued, J::Running, Some("starting".into()), None).await.unwrap();
    assert!(running.started_at.is_some() && running.finished_at.is_none());
    jobs.set_message(&job.id, "2 of 3").await.unwrap();
    let stale = jobs.transition(&job.id, J::Queued, J::Cancelled, None, None).await;
    assert!(matches!(stale, Err(StoreError::Stale { .. })));
    let problem = Problem::new(Code::DockerUnavailable, "Docker does not answer.");
    let failed = jobs.transition(&job.id, J::Running, J::Failed, None, Some(problem.clone())).await.unwrap();
    assert_eq!((failed.message.as_deref(), failed.problem), (Some("2 of 3"), Some(problem)));
    assert!(failed.finished_at.is_some());
    assert_eq!(jobs.unfinished().await.unwrap().len(), 1);
}

pub async fn events_are_told_in_order(world: World) {
    let mut heard = world.store.events().subscribe();
    let app = world.app("web").await;
    let tasks = (0..20).map(|n| {
        let (store, app) = (world.store.clone(), app.id);
        tokio::spawn(async move {
            let summary = format!("container {n} died");
            let event = NewEvent {
                kind: "container.died",
                by: "berth".into(),
                app: Some(app),
                summary,
                data: json!(n),
            };
            store.events().append(event).await.unwrap();
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let mut told = Vec::new();
    while let Ok(row) = heard.try_recv() {
        assert_eq!(row.project_id, Some(app.project_id));
        assert!(row.visible_to(&Visible::Projects(vec![app.project_id])));
        assert!(!row.visible_to(&Visible::Projects(vec![])));
        told.push(row.event);
    }
    assert_eq!(told.len(), 21);
    assert!(told.windows(2).all(|w| w[0].id < w[1].id), "in the order of their ids");
    told.reverse();
    let stored = world.store.events().list(&Visible::All, Some(&app.slug), None, None, None, 100).await;
    assert_eq!(stored.unwrap(), told);
    let page = world.store.events().list(&Visible::All, None, Some("container."), None, Some(told[4].id), 2);
    let page = page.await.unwrap();
    assert_eq!(page, told[5..7]);
    let since = Some(told[2].at);
    let recent = world.store.events().list(&Visible::All, None, None, since, None, 100).await.unwrap();
    assert_eq!(recent.len(), 3);
}

pub async fn uploads_stay_while_they_are_needed(world: World) {
    let app = world.app("web").await;
    let uploads = world.store.uploads();
    let id = |n: u8| -> UploadId { format!("00000000-0000-4000-8000-0000000000{n:02}").parse().unwrap() };
    for n in 1..=2 {
        uploads.create(id(n), 10, "abc", "ann").await.unwrap();
    }
    let source = DeploymentSource::Upload { upload: id(1), bytes: 10 };
    let d =
        world.store.deployments().enqueue(NewDeployment { source, ..new_deployment(&app) }).await.unwrap();
    world.advance(3600);
    let before = world.store.clock().now();
    let expired = uploads.expired(before).await.unwrap();
    assert_eq!(expired.iter().map(|u| &u.id).collect::<Vec<_>>(), [&id(2)]);
    assert!(!uploads.delete(&id(1)).await.unwrap(), "a deployment waits for it");
    assert!(uploads.delete(&id(2)).await.unwrap());
    use berth_schemas::deployment::DeploymentState as S;
    world.step(&d, &[S::Queued, S::Cancelled]).await;
    assert_eq!(uploads.expired(before).await.unwrap().len(), 1);
    assert!(uploads.delete(&id(1)).await.unwrap());
    assert!(uploads.get(&id(1)).await.unwrap().is_none());
}

pub async fn an_upload_stays_while_its_proposal_can_be_approved(world: World) {
    use berth_schemas::proposal::ProposalState as P;
    const DAY: i64 = 24 * 3600;
    let root = Principal::daemon();
    let scopes = vec![berth_schemas::Scope::Deploy];
    world
        .store
        .tokens()
        .create(&root, NewToken { scopes: scopes.clone(), ..super::new_token("assistant") })
        .await
        .unwrap();
    let assistant = Principal::new("assistant", scopes, Visible::All);
    let (uploads, proposals) = (world.store.uploads(), world.store.proposals());
    let id = |n: u8| -> UploadId { format!("00000000-0000-4000-8000-0000000001{n:02}").parse().unwrap() };
    let mut made = Vec::new();
    for n in 1..=4 {
        uploads.create(id(n), 10, "abc", "assistant").await.unwrap();
        let new = NewProposal {
            tool: "deployment_create",
            target: None,
            client: None,
            arguments: serde_json::json!({ "app": "web", "upload": id(n) }),
            upload: Some(id(n)),
        };
        made.push(proposals.propose(&assistant, new).await.unwrap());
    }
    proposals.reject(&root, made[0], None).await.unwrap();
    proposals.approve(&root, made[1]).await.unwrap();
    proposals.approve(&root, made[2]).await.unwrap();
    let passes = Problem::new(Code::RateLimited, "Too much at once.");
    proposals.reopen(made[2], &passes).await.unwrap();
    let reopened = proposals.get(made[2]).await.unwrap().unwrap().proposal;
    assert_eq!((reopened.state, reopened.decided_by, reopened.problem), (P::Pending, None, Some(passes)));
    world.advance(2 * DAY);
    let needless = async || -> Vec<UploadId> {
        let expired = uploads.expired(world.store.clock().now()).await.unwrap();
        expired.into_iter().map(|u| u.id).collect()
    };
    assert_eq!(needless().await, [id(1)], "what runs, waits again or waits is kept");
    assert!(!uploads.delete(&id(4)).await.unwrap() && uploads.delete(&id(1)).await.unwrap());
    proposals.ended(made[1], None).await.unwrap();
    assert_eq!(needless().await, [id(2)]);
    proposals.reopen(made[1], &Problem::new(Code::Conflict, "Too late.")).await.unwrap();
    assert_eq!(proposals.get(made[1]).await.unwrap().unwrap().proposal.state, P::Done);
    world.advance(6 * DAY);
    assert_eq!(needless().await, [id(2), id(3), id(4)], "they have expired");
}

pub async fn a_key_does_the_work_once(world: World) {
    let keys = world.store.idempotency();
    assert_eq!(keys.claim("ann", "deployment_create", "k1").await.unwrap(), None);
    let meanwhile = keys.claim("ann", "deployment_create", "k1").await;
    assert!(matches!(meanwhile, Err(StoreError::InProgress)), "{meanwhile:?}");
    assert_eq!(keys.claim("bob", "deployment_create", "k1").await.unwrap(), None, "keys are one's own");
    let result = json!({ "deployment": "web#1" });
    keys.store("ann", "deployment_create", "k1", &result).await.unwrap();
    assert_eq!(keys.claim("ann", "deployment_create", "k1").await.unwrap(), Some(result));
    keys.release("bob", "deployment_create", "k1").await.unwrap();
    assert_eq!(keys.claim("bob", "deployment_create", "k1").await.unwrap(), None, "a failed call may retry");
    world.advance(601);
    assert_eq!(keys.claim("bob", "deployment_create", "k1").await.unwrap(), None, "the first claim died");
    world.advance(24 * 3600);
    assert_eq!(keys.claim("ann", "deployment_create", "k1").await.unwrap(), None, "a day is over");
    world.advance(25 * 3600);
    assert_eq!(keys.remove_expired().await.unwrap(), 2);
    assert_eq!(keys.remove_expired().await.unwrap(), 0);
}

pub async fn text_from_outside_is_taken_as_it_is(world: World) {
    let app = world.app("web").await;
    let nasty = "NUL \0, quote ', percent %, \u{1F680}, $1, \\";
    let new = NewDeployment { message: Some(nasty.into()), by: "o'neil".into(), ..new_deployment(&app) };
    let d = world.store.deployments().enqueue(new).await.unwrap();
    assert_eq!(d.message.as_deref(), Some(nasty.replace('\0', "\u{fffd}").as_str()));
    world.store.logs().append(&[super::log_line(&app, 1, nasty)], &[]).await.unwrap();
    for part in ["quote '", "percent %,", "$1, \\", "NUL"] {
        let query = LogQuery { contains: Some(part.into()), limit: 5, ..LogQuery::default() };
        assert_eq!(world.store.logs().search(app.id, &query).await.unwrap().0.len(), 1, "{part}");
    }
    let query =
        LogQuery { contains: Some("\0".into()), level: Some(Level::Info), limit: 5, ..LogQuery::default() };
    world.store.logs().search(app.id, &query).await.unwrap();
    let page = world.store.apps().list(&Visible::All, None, Some("\0'"), 5).await.unwrap();
    assert_eq!(page.1, 1);
}

pub async fn readers_see_what_was_written(world: World) {
    let app = world.app("web").await;
    let writers = (0..8).map(|n| {
        let (store, app) = (world.store.clone(), app.clone());
        tokio::spawn(async move {
            for m in 0..10 {
                let d = store.deployments().enqueue(new_deployment(&app)).await.unwrap();
                assert!(store.deployments().get(d.id).await.unwrap().is_some(), "{n}/{m}");
            }
        })
    });
    for task in writers.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let since = Some(Timestamp(0));
    let events = world.store.events().list(&Visible::All, None, Some("deployment.queued"), since, None, 500);
    assert_eq!(events.await.unwrap().len(), 80);
}
