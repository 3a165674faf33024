//! The daemon ends in every state of a deployment, in order or by a kill, and starts again on what it left.

use std::time::Duration;

use berth_deploy::{
    DeploymentUpdate,
    docker::fake::{Behaviour, BuildScript, Serve},
};
use berth_schemas::deployment::DeploymentState as S;
use berth_store::model::{Change, DeploymentSource, Principal};

use crate::world::{World, answering, quick};

/// An app that lives, with a request open on it, and a deployment of a source that is slow in every state.
async fn under_way() -> (World, berth_store::model::DeploymentRow) {
    let world = World::new(quick()).await;
    let slow = Serve::Http { status: 200, body: "web".into(), takes: Duration::from_millis(300) };
    let behaviour =
        Behaviour { listen_after: Duration::from_millis(200), serve: slow, ..Behaviour::default() };
    for _ in 0..6 {
        let takes = Duration::from_millis(200);
        world.engine.next_build(BuildScript {
            takes,
            result: Ok(behaviour.clone()),
            ..BuildScript::default()
        });
    }
    let files = || async {
        let files = [("Dockerfile".to_owned(), "FROM scratch\nCOPY . /\nCMD [\"/app\"]\n".to_owned())];
        let stored = world.call(|p| async move { p.store_files(&Principal::daemon(), files.into()).await });
        DeploymentSource::Files { upload: stored.await.unwrap().id, files: 1 }
    };
    let first = world.enqueue(files().await).await.unwrap();
    assert_eq!(world.end(first.id).await.state, S::Live);
    world.is_true().await;
    let addr = world.addr;
    tokio::spawn(async move {
        while crate::world::visit(addr).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let row = world.enqueue(files().await).await.unwrap();
    (world, row)
}

const STATES: [S; 7] =
    [S::Queued, S::Fetching, S::Building, S::Starting, S::Checking, S::Switching, S::Draining];

async fn reached(world: &World, id: berth_store::model::DeploymentId, state: S) {
    let mut updates = world.pipeline().watch(id);
    if world.row(id).await.state == state {
        return;
    }
    let seen = async {
        loop {
            match updates.recv().await {
                Ok(DeploymentUpdate::State { state: now, .. }) if now == state || now.is_settled() => return,
                Ok(_) => {}
                Err(_) => return,
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), seen).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_in_any_state_ends_with_one_live_release() {
    for state in STATES {
        let (mut world, row) = under_way().await;
        reached(&world, row.id, state).await;
        world.kill().await;
        let killed_in = world.row(row.id).await.state;
        world.start().await;
        let ended = world.end(row.id).await;
        println!(
            "killed at {}, found {}, ended {}",
            state.as_str(),
            killed_in.as_str(),
            ended.state.as_str()
        );
        assert_eq!(ended.state, S::Live, "killed in {killed_in:?}: {:?}", ended.problem);
        world.is_true().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_in_any_state_ends_with_one_live_release() {
    for state in STATES {
        let (mut world, row) = under_way().await;
        reached(&world, row.id, state).await;
        world.stop().await;
        let found = world.row(row.id).await.state;
        world.start().await;
        let ended = world.end(row.id).await;
        println!("stopped at {}, found {}, ended {}", state.as_str(), found.as_str(), ended.state.as_str());
        assert_eq!(ended.state, S::Live, "stopped in {found:?}: {:?}", ended.problem);
        world.is_true().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_begun_before_a_restart_does_not_overtake_what_came_after_it() {
    let mut world = World::new(quick()).await;
    world.deploy_new("one").await;
    world.image("two", Behaviour { listen_after: Duration::from_secs(300), ..answering("two") });
    let begun = world.begin("two").await;
    world.reaches(begun.id, S::Checking).await;
    world.image("three", answering("three"));
    let newer = world.begin("three").await;
    world.kill().await;
    world.start().await;
    assert_eq!(world.end(newer.id).await.state, S::Live);
    assert_eq!(world.end(begun.id).await.state, S::Superseded);
    assert_eq!(world.visit().await, (200, "three".into()));
    world.is_true().await;
}

/// The request came in the moment in which the switch began, and then the daemon died.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wish_to_cancel_that_came_before_a_crash_is_kept_in_every_state() {
    for state in [S::Queued, S::Fetching, S::Checking, S::Switching] {
        let mut world = World::new(quick()).await;
        world.deploy_new("one").await;
        world.stop().await;
        let app = world.app().await;
        let row = world
            .store
            .deployments()
            .enqueue(berth_store::model::NewDeployment {
                app: app.id,
                environment: app.environment.id,
                source: DeploymentSource::Image { image: "one".into() },
                key: None,
                by: "test".into(),
                message: None,
                no_cache: false,
                rollout: None,
            })
            .await
            .unwrap();
        let path = [S::Queued, S::Fetching, S::Starting, S::Checking, S::Switching];
        let until = path.iter().position(|s| *s == state).unwrap();
        for pair in path[..=until].windows(2) {
            if pair[1] == S::Switching {
                world.store.deployments().request_cancel(row.id, "test").await.unwrap();
            }
            world.store.deployments().transition(row.id, pair[0], pair[1], Change::default()).await.unwrap();
        }
        if state != S::Switching {
            world.store.deployments().request_cancel(row.id, "test").await.unwrap();
        }
        world.start().await;
        assert_eq!(world.end(row.id).await.state, S::Cancelled, "from {state:?}");
        world.is_true().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_that_ends_the_daemon_again_and_again_is_given_up() {
    let mut world = World::new(quick()).await;
    world.deploy_new("one").await;
    world.image("two", Behaviour { listen_after: Duration::from_secs(300), ..answering("two") });
    let row = world.begin("two").await;
    for _ in 0..3 {
        world.until("it is checked", async || world.row(row.id).await.state == S::Checking).await;
        world.kill().await;
        world.start().await;
    }
    let row = world.end(row.id).await;
    assert_eq!((row.state, row.problem.unwrap().code), (S::Failed, berth_schemas::Code::Interrupted));
    world.is_true().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_was_cut_off_is_taken_up() {
    let mut world = World::new(quick()).await;
    world.image("one", Behaviour { stop_takes: Duration::from_millis(500), ..answering("one") });
    world.deploy("one").await;
    let app = world.app().await;
    world.call(|p| async move { p.stop(&Principal::daemon(), &app).await }).await.unwrap();
    let app = world.app().await;
    world.call(|p| async move { p.start(&Principal::daemon(), &app).await }).await.unwrap();
    let app = world.app().await;
    let scaled = world.call(|p| async move { p.scale(&Principal::daemon(), &app, 3).await }).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    world.kill().await;
    world.start().await;
    assert_eq!(world.job_end(&scaled).await.state, berth_schemas::job::JobState::Succeeded);
    world.is_true().await;
    assert_eq!(world.running().await.len(), 3);
}
