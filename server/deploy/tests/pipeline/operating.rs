//! Stopping, starting, scaling and deleting, and an engine that comes and goes.

use std::time::Duration;

use berth_deploy::docker::{Engine, RestartPolicy, fake::Behaviour};
use berth_schemas::{
    Code,
    app::{AppSettings, AppState, Builder},
    deployment::DeploymentState as S,
    job::{JobKind, JobState},
};
use berth_store::model::{DeploymentSource, Principal, Visible};

use crate::world::{World, answering, failing, quick};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_grows_and_shrinks() {
    let world = World::new(quick()).await;
    world.deploy_new("one").await;
    for replicas in [3, 1, 2] {
        let job =
            world.job(|p, app| async move { p.scale(&Principal::daemon(), &app, replicas).await }).await;
        assert_eq!(job.state, JobState::Succeeded, "{:?}", job.problem);
        world.is_true().await;
        assert_eq!(world.containers().await.len(), usize::try_from(replicas).unwrap());
    }
    world.deploy_new("two").await;
    world.is_true().await;
    assert_eq!(world.running().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_is_stopped_and_started_and_a_start_of_what_runs_changes_nothing() {
    let world = World::new(quick()).await;
    world.deploy_new("one").await;
    let serving = world.running().await;
    let start = |p: berth_deploy::Pipeline, app| async move { p.start(&Principal::daemon(), &app).await };
    assert_eq!(world.job(start).await.state, JobState::Succeeded);
    assert_eq!((world.visit().await, world.running().await), ((200, "one".into()), serving));
    world.job(|p, app| async move { p.stop(&Principal::daemon(), &app).await }).await;
    assert_ne!(world.visit().await.0, 200);
    world.is_true().await;
    assert_eq!(world.pipeline().app_state(&world.app().await).await, AppState::Stopped);
    assert!(world.running().await.is_empty());
    assert_eq!(world.job(start).await.state, JobState::Succeeded);
    world.is_true().await;
    assert_eq!(world.visit().await, (200, "one".into()));
    // Deploying to a stopped app is asking for it to run.
    world.job(|p, app| async move { p.stop(&Principal::daemon(), &app).await }).await;
    world.deploy_new("two").await;
    world.is_true().await;
    assert_eq!(world.visit().await, (200, "two".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_asked_for_last_is_done_last() {
    let world = World::new(quick()).await;
    world.deploy_new("one").await;
    for round in 0..4 {
        let app = world.app().await;
        let last = world
            .call(|p| async move {
                let who = Principal::daemon();
                p.stop(&who, &app).await.unwrap();
                p.scale(&who, &app, 2 + round % 2).await.unwrap();
                p.stop(&who, &app).await.unwrap();
                p.start(&who, &app).await.unwrap()
            })
            .await;
        assert_eq!(world.job_end(&last).await.state, JobState::Succeeded);
        assert!(!world.app().await.environment.stopped);
        assert_eq!(world.app().await.environment.replicas, 2 + round % 2);
    }
    world.is_true().await;
}

/// A job that waits while a deployment switches works on what is live then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_during_a_deployment_stops_what_is_live_in_the_end() {
    let world = World::new(quick()).await;
    world.deploy_new("one").await;
    world.image("two", Behaviour { listen_after: Duration::from_millis(400), ..answering("two") });
    let row = world.begin("two").await;
    world.reaches(row.id, S::Checking).await;
    world.job(|p, app| async move { p.stop(&Principal::daemon(), &app).await }).await;
    assert_eq!(world.end(row.id).await.state, S::Live);
    world.is_true().await;
    assert!(world.running().await.is_empty());
    world.job(|p, app| async move { p.start(&Principal::daemon(), &app).await }).await;
    world.is_true().await;
    assert_eq!(world.visit().await, (200, "two".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_leaves_nothing_in_whatever_state_a_deployment_is() {
    for state in [S::Queued, S::Checking, S::Draining, S::Live] {
        let world = World::new(quick()).await;
        world.deploy_new("one").await;
        let slow = berth_deploy::docker::fake::Serve::Http {
            status: 200,
            body: "slow".into(),
            takes: Duration::from_millis(700),
        };
        world.image("slow", Behaviour { serve: slow, ..Behaviour::default() });
        world.deploy("slow").await;
        let addr = world.addr;
        let open = tokio::spawn(async move { crate::world::visit(addr).await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        let listen_after = Duration::from_millis(if state == S::Checking { 300_000 } else { 0 });
        world.image("two", Behaviour { listen_after, ..answering("two") });
        let row = world.begin("two").await;
        world.reaches(row.id, state).await;
        let job = world.job(|p, app| async move { p.delete_app(&Principal::daemon(), &app).await }).await;
        assert_eq!((job.kind, job.state), (JobKind::DeleteApp, JobState::Succeeded), "{:?}", job.problem);
        let gone = world.store.apps().by_slug(&Visible::All, &"web".parse().unwrap()).await.unwrap();
        assert!(gone.is_none());
        assert!(world.containers().await.is_empty(), "after {state:?}: {:?}", world.containers().await);
        assert!(world.engine.list_networks().await.unwrap().is_empty());
        assert_eq!(world.visit().await.0, 404);
        let _ = open.await;
    }
}

/// All files of this app lie in one folder, and stay there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_only_files_is_served_and_deleted_without_an_engine() {
    let settings =
        AppSettings { builder: Some(Builder::Static), output_directory: Some("public".into()), ..quick() };
    let world = World::new(settings).await;
    world.engine.go_away();
    let files = [("public/index.html".to_owned(), "page".to_owned())];
    let upload =
        world.call(|p| async move { p.store_files(&Principal::daemon(), files.into()).await }).await.unwrap();
    let row = world.enqueue(DeploymentSource::Files { upload: upload.id, files: 1 }).await.unwrap();
    world.reaches(row.id, S::Live).await;
    assert_eq!(world.visit().await, (200, "page".into()));
    let job = world.job(|p, app| async move { p.delete_app(&Principal::daemon(), &app).await }).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.problem);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_containers_waits_for_the_engine_to_be_deleted() {
    let world = World::new(quick()).await;
    world.deploy_new("one").await;
    world.engine.go_away();
    let job = world.job(|p, app| async move { p.delete_app(&Principal::daemon(), &app).await }).await;
    assert_eq!((job.state, job.problem.unwrap().code), (JobState::Failed, Code::DockerUnavailable));
    world.engine.come_back();
    let job = world.job(|p, app| async move { p.delete_app(&Principal::daemon(), &app).await }).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.problem);
    assert!(world.containers().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_is_killed_or_removed_comes_back() {
    let world = World::new(quick()).await;
    world.deploy_new("one").await;
    world.is_true().await;
    let (id, _) = world.running().await[0].clone();
    world.engine.kill_container(&id, "SIGKILL").await.unwrap();
    world.is_true().await;
    let (id, _) = world.running().await[0].clone();
    world.engine.remove_container(&id).await.unwrap();
    world.is_true().await;
    assert_eq!(world.containers().await.len(), 1);
}

/// The report of the second death comes while the first one is being put right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_die_one_after_the_other_all_come_back() {
    let world = World::new(berth_schemas::app::AppSettings { watch_window_s: Some(60), ..quick() }).await;
    world.image("one", Behaviour { listen_after: Duration::from_millis(600), ..answering("one") });
    world.deploy("one").await;
    world.job(|p, app| async move { p.scale(&Principal::daemon(), &app, 3).await }).await;
    // Nothing restarts them but the daemon.
    for (id, _) in world.running().await {
        world.engine.set_restart_policy(&id, RestartPolicy::No).await.unwrap();
    }
    for (id, _) in world.running().await {
        world.engine.crash(&id, 1, false);
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    world.until("all run", async || world.running().await.len() == 3).await;
    world.is_true().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_keeps_dying_is_not_started_in_a_tight_loop() {
    let world = World::new(berth_schemas::app::AppSettings { watch_window_s: Some(60), ..quick() }).await;
    world.deploy_new("one").await;
    // The image goes bad under it.
    let (id, _) = world.running().await[0].clone();
    world.image("one", failing());
    world.engine.remove_container(&id).await.unwrap();
    let live = world.app().await.environment.live;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let starts = world.engine.journal().iter().filter(|l| l.starts_with("start_container")).count();
    assert!(starts < 8, "{starts} starts within 3 s");
    assert_eq!(world.app().await.environment.live, live);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_goes_away_and_comes_back_is_no_reason_to_stop_serving() {
    let mut world = World::new(quick()).await;
    world.deploy_new("one").await;
    world.is_true().await;
    world.engine.go_away();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(world.visit().await, (200, "one".into()), "containers go on without their engine");
    world.image("two", answering("two"));
    let refused = world.deploy("two").await;
    assert_eq!((refused.state, refused.problem.unwrap().code), (S::Failed, Code::DockerUnavailable));
    world.engine.come_back();
    world.is_true().await;
    // A daemon that starts without an engine serves what it can when there is one.
    world.stop().await;
    world.engine.go_away();
    world.start().await;
    assert_ne!(world.visit().await.0, 200);
    let calls = world.engine.journal().len();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let calls = world.engine.journal().len() - calls;
    assert!(calls < 20, "{calls} calls to an engine that is away");
    world.engine.come_back();
    world.serves("one").await;
    world.is_true().await;
}
