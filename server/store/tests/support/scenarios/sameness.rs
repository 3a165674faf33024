use berth_schemas::{app::AppSettings, deployment::DeploymentState as S};
use berth_store::*;

use crate::support::{World, new_deployment, new_release};

fn exact(app: &AppRow, name: &str) -> NewDeployment {
    NewDeployment { key: Some(SourceKey::Exact(name.into())), ..new_deployment(app) }
}

fn wish(app: &AppRow, name: &str) -> NewDeployment {
    NewDeployment { key: Some(SourceKey::Wish(name.into())), ..new_deployment(app) }
}

impl World {
    /// The number of the deployment that a request led to, and whether it was there before.
    async fn once(&self, new: NewDeployment) -> (i64, bool) {
        let made = self.store.deployments().enqueue_once(new, true).await.unwrap();
        (made.row().number, matches!(made, Enqueued::Same(_)))
    }

    async fn goes_live(&self, new: NewDeployment) -> DeploymentRow {
        let d = self.store.deployments().enqueue_once(new, true).await.unwrap().into_row();
        let release = self.until_switching(&d).await;
        self.store.deployments().switch_live(d.id, release.id).await.unwrap();
        self.store.deployments().finish_live(d.id).await.unwrap()
    }
}

pub async fn the_same_twice_is_one_while_it_is_on_its_way(world: World) {
    let app = world.app("web").await;
    // Ten at the same moment.
    let calls = (0..10).map(|_| {
        let (store, new) = (world.store.clone(), exact(&app, "a"));
        tokio::spawn(async move { store.deployments().enqueue_once(new, true).await.unwrap() })
    });
    let mut made = 0;
    for call in calls.collect::<Vec<_>>() {
        let outcome = call.await.unwrap();
        assert_eq!(outcome.row().number, 1);
        made += usize::from(matches!(outcome, Enqueued::New(_)));
    }
    assert_eq!(made, 1);
    let events =
        world.store.events().list(&Visible::All, None, Some("deployment.same"), None, None, 50).await;
    let events = events.unwrap();
    assert_eq!(
        (events.len(), events[0].summary.0.as_str()),
        (9, "ci asked for what web#1 brings; it is queued.")
    );
    // Only the newest counts: what comes after something else is wanted after it.
    assert_eq!(world.once(exact(&app, "b")).await, (2, false));
    assert_eq!(world.once(exact(&app, "a")).await, (3, false));
    assert_eq!(world.once(exact(&app, "a")).await, (3, true));
    // Without cache is another wish, unless the other is that, too.
    assert_eq!(world.once(NewDeployment { no_cache: true, ..exact(&app, "a") }).await, (4, false));
    assert_eq!(world.once(NewDeployment { no_cache: true, ..exact(&app, "a") }).await, (4, true));
    assert_eq!(world.once(exact(&app, "a")).await, (4, true));
    // With other settings it is something else, and so is what is about to be cancelled.
    let settings = AppSettings { port: Some(99), ..AppSettings::default() };
    world.store.apps().update_settings(&Principal::daemon(), app.id, settings).await.unwrap();
    assert_eq!(world.once(exact(&app, "a")).await, (5, false));
    let fifth = world.store.deployments().queued(app.environment.id).await.unwrap().pop().unwrap();
    world.store.deployments().request_cancel(fifth.id, "ann").await.unwrap();
    assert_eq!(world.once(exact(&app, "a")).await, (6, false));
    assert_eq!(world.once(new_deployment(&app)).await, (7, false), "without a name nothing is the same");
    assert_eq!(world.once(new_deployment(&app)).await, (8, false));
}

pub async fn a_branch_is_the_same_only_while_it_waits(world: World) {
    let app = world.app("web").await;
    assert_eq!(world.once(wish(&app, "main")).await, (1, false));
    assert_eq!(world.once(wish(&app, "main")).await, (1, true));
    let first = world.store.deployments().queued(app.environment.id).await.unwrap().remove(0);
    world.step(&first, &[S::Queued, S::Fetching]).await;
    assert_eq!(world.once(wish(&app, "main")).await, (2, false), "it may have moved since it was fetched");
    let second = world.store.deployments().queued(app.environment.id).await.unwrap().remove(0);
    world.step(&second, &[S::Queued, S::Superseded]).await;
    // Once it is known exactly, it can be compared.
    let key = SourceKey::Exact("c1".into());
    assert_eq!(world.store.deployments().set_source_key(first.id, &key).await.unwrap(), None);
    assert_eq!(world.once(exact(&app, "c1")).await, (1, true));
    assert_eq!(world.once(wish(&app, "c1")).await, (3, false), "a branch may be named like a commit");
}

pub async fn what_is_live_is_not_deployed_again(world: World) {
    let app = world.app("web").await;
    let live = world.goes_live(exact(&app, "a")).await;
    assert_eq!(world.once(exact(&app, "a")).await, (1, true));
    let down = world.store.deployments().enqueue_once(exact(&app, "a"), false).await.unwrap();
    assert!(matches!(&down, Enqueued::New(d) if d.number == 2), "what does not serve may be deployed again");
    world.step(down.row(), &[S::Queued, S::Failed]).await;
    assert_eq!(world.once(exact(&app, "a")).await, (1, true), "what failed changes nothing");
    assert_eq!(world.once(NewDeployment { no_cache: true, ..exact(&app, "a") }).await.0, 3);
    world.store.apps().set_stopped(app.environment.id, true, "ann").await.unwrap();
    let third = world.store.deployments().queued(app.environment.id).await.unwrap().remove(0);
    world.step(&third, &[S::Queued, S::Cancelled]).await;
    assert_eq!(world.once(exact(&app, "a")).await, (4, false), "deploying to a stopped app starts it");
    let fourth = world.store.deployments().queued(app.environment.id).await.unwrap().remove(0);
    world.store.apps().set_stopped(app.environment.id, false, "ann").await.unwrap();
    // Found out when it is fetched.
    let key = SourceKey::Exact("a".into());
    let same = world.store.deployments().set_source_key(fourth.id, &key).await.unwrap();
    assert_eq!(same.map(|d| d.id), Some(live.id));
    world.step(&fourth, &[S::Queued, S::Superseded]).await;
    // A change of settings or variables makes it something new, even if the clock is set back.
    world.advance(-86_400);
    let set = vec![("A".parse().unwrap(), "b".to_owned(), true, true)];
    world.store.variables().set(&Principal::daemon(), &app, set).await.unwrap();
    assert_eq!(world.once(exact(&app, "a")).await, (5, false));
}

pub async fn what_was_undone_is_not_the_same(world: World) {
    let app = world.app("web").await;
    let first = world.goes_live(exact(&app, "a")).await;
    let second = world.goes_live(exact(&app, "b")).await;
    let back = Change { reason: Some("it died".into()), problem: None };
    world.store.deployments().roll_back(second.id, S::Live, first.release, back).await.unwrap();
    let third = world.once(exact(&app, "b")).await;
    assert_eq!(third, (3, false), "it died then; it may not now");
}

pub async fn the_order_holds_when_the_clock_is_set_back(world: World) {
    let app = world.app("web").await;
    let (_, old) = world.deploy(&app).await;
    world.advance(-86_400);
    let (_, new) = world.deploy(&app).await;
    let before = world.store.releases().previous_live(app.environment.id, new.id).await.unwrap();
    assert_eq!(before.map(|r| r.id), Some(old.id), "there is something to go back to");
    let d = world.enqueue(&app).await;
    world.advance(-86_400);
    world.step(&d, &[S::Queued, S::Fetching]).await;
    let steps = world.store.deployments().transitions(d.id).await.unwrap();
    assert_eq!(steps[0].ms, Some(0));
    use berth_schemas::job::JobKind;
    let jobs = world.store.jobs();
    let mut asked = Vec::new();
    for kind in [JobKind::Stop, JobKind::Scale, JobKind::Start] {
        asked.push(jobs.enqueue(kind, Some(app.id), None, serde_json::Value::Null, "ann").await.unwrap().id);
        world.advance(-3600);
    }
    let order: Vec<_> = jobs.unfinished().await.unwrap().into_iter().map(|j| j.id).collect();
    assert_eq!(order, asked);
    world.store.releases().create(new_release(d.id)).await.unwrap();
}
