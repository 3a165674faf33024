//! Deployments that succeed, fail, are cancelled, overtaken and undone.

use std::time::Duration;

use berth_deploy::docker::fake::{Behaviour, BuildScript, Serve};
use berth_schemas::{Code, app::AppSettings, deployment::DeploymentState as S};
use berth_store::model::{DeploymentSource, Principal};

use crate::world::{World, answering, failing, quick};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_goes_live_and_the_next_takes_its_place() {
    let world = World::new(quick()).await;
    let first = world.deploy_new("one").await;
    assert_eq!(world.visit().await, (200, "one".into()));
    let second = world.deploy_new("two").await;
    assert_eq!(world.visit().await, (200, "two".into()));
    assert_eq!(world.row(first.id).await.state, S::Retired);
    world.is_true().await;
    assert_eq!(world.running().await.len(), 1, "the first one is stopped");
    assert_eq!(world.containers().await.len(), 2, "and kept");
    assert_eq!(second.number, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_does_not_get_healthy_leaves_the_old_one_alone() {
    let world = World::new(quick()).await;
    world.deploy_new("one").await;
    world.image("dies", failing());
    let dies = world.deploy("dies").await;
    assert_eq!((dies.state, dies.problem.unwrap().code), (S::Failed, Code::ContainerExited));
    let sick = Serve::Http { status: 500, body: "sick".into(), takes: Duration::ZERO };
    world.image("sick", Behaviour { serve: sick, ..Behaviour::default() });
    let sick = world.deploy("sick").await;
    assert_eq!((sick.state, sick.problem.unwrap().code), (S::Failed, Code::HealthCheckFailed));
    let missing = world.deploy("nowhere").await;
    assert_eq!((missing.state, missing.problem.unwrap().code), (S::Failed, Code::ImageUnavailable));
    assert_eq!(world.visit().await, (200, "one".into()));
    world.is_true().await;
    assert_eq!(world.containers().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_dies_in_its_watch_window_is_rolled_back() {
    let world = World::new(AppSettings { watch_window_s: Some(20), ..quick() }).await;
    world.deploy_new("one").await;
    let second = world.deploy_new("two").await;
    let (container, _) = world.running().await.into_iter().find(|(_, number)| *number == 2).unwrap();
    world.engine.crash(&container, 7, false);
    world.serves("one").await;
    world.until("it is rolled back", async || world.row(second.id).await.state == S::RolledBack).await;
    let problem = world.row(second.id).await.problem.unwrap();
    assert!(problem.detail.contains("exit code 7"), "{}", problem.detail);
    world.is_true().await;
    // What serves now has proved itself: when it dies it is started again, and nothing older comes back.
    let (container, _) = world.running().await[0].clone();
    world.engine.crash(&container, 1, false);
    world.is_true().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_dies_while_the_old_one_drains_is_rolled_back_too() {
    let world =
        World::new(AppSettings { watch_window_s: Some(20), drain_timeout_s: Some(3), ..quick() }).await;
    let slow = Serve::Http { status: 200, body: "slow".into(), takes: Duration::from_millis(1500) };
    world.image("slow", Behaviour { serve: slow, ..Behaviour::default() });
    world.deploy("slow").await;
    world.image("two", answering("two"));
    let addr = world.addr;
    let open = tokio::spawn(async move { crate::world::visit(addr).await.unwrap() });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let second = world.begin("two").await;
    world.reaches(second.id, S::Draining).await;
    let (container, _) = world.running().await.into_iter().find(|(_, number)| *number == 2).unwrap();
    world.engine.crash(&container, 9, false);
    assert_eq!(open.await.unwrap(), (200, "slow".into()), "an open request is not hurt");
    world.until("it is rolled back", async || world.row(second.id).await.state == S::RolledBack).await;
    world.is_true().await;
    assert_eq!(world.visit().await, (200, "slow".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_is_cancelled_in_whatever_state_it_is() {
    let world = World::new(quick()).await;
    world.deploy_new("one").await;
    // Building: it would take minutes.
    world.engine.next_build(BuildScript { takes: Duration::from_secs(300), ..BuildScript::default() });
    let building = world.enqueue(world.files().await).await.unwrap();
    world.reaches(building.id, S::Building).await;
    // Queued: behind the one that builds.
    world.image("two", answering("two"));
    let queued = world.begin("two").await;
    assert!(world.pipeline().waits_for(&queued).unwrap().contains("building"));
    assert_eq!(world.cancel(&queued).await.unwrap().state, S::Cancelled);
    assert_eq!(world.cancel(&building).await.unwrap().state, S::Cancelled);
    // Checking: it never opens its port.
    world.image("never", Behaviour { listen_after: Duration::from_secs(300), ..Behaviour::default() });
    let checking = world.begin("never").await;
    world.reaches(checking.id, S::Checking).await;
    assert_eq!(world.cancel(&checking).await.unwrap().state, S::Cancelled);
    // Asked for twice is asked for once.
    assert_eq!(world.cancel(&checking).await.unwrap().state, S::Cancelled);
    world.is_true().await;
    assert_eq!(world.visit().await, (200, "one".into()));
    assert_eq!(world.containers().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_that_waits_supersedes_the_others() {
    let world = World::new(quick()).await;
    world.image("slow", Behaviour { listen_after: Duration::from_millis(800), ..answering("slow") });
    let first = world.begin("slow").await;
    world.reaches(first.id, S::Checking).await;
    for name in ["two", "three", "four"] {
        world.image(name, answering(name));
    }
    let (second, third, fourth) =
        (world.begin("two").await, world.begin("three").await, world.begin("four").await);
    assert_eq!(world.end(fourth.id).await.state, S::Live);
    let states = [first.id, second.id, third.id];
    let mut seen = Vec::new();
    for id in states {
        seen.push(world.row(id).await.state);
    }
    assert_eq!(seen, [S::Retired, S::Superseded, S::Superseded]);
    let steps = world.store.deployments().transitions(second.id).await.unwrap();
    assert_eq!(steps.last().unwrap().reason, Some("superseded by web#3".into()));
    assert_eq!(world.visit().await, (200, "four".into()));
    world.is_true().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_overtakes_and_reuses_the_containers_that_were_kept() {
    let world = World::new(quick()).await;
    let first = world.deploy_new("one").await;
    let kept = world.running().await[0].0.clone();
    world.deploy_new("two").await;
    world.image("never", Behaviour { listen_after: Duration::from_secs(300), ..Behaviour::default() });
    let stuck = world.begin("never").await;
    world.reaches(stuck.id, S::Checking).await;
    let back = world.rollback(&first).await;
    assert_eq!(world.end(back.id).await.state, S::Live);
    assert_eq!(world.end(stuck.id).await.state, S::Superseded);
    assert_eq!(world.visit().await, (200, "one".into()));
    world.is_true().await;
    assert!(world.running().await.iter().any(|(id, _)| *id == kept), "a new container was made");
}

/// The release before is stopped in the background, and just then somebody wants it back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_right_after_a_switch_is_not_hit_by_the_stop_of_the_old_release() {
    let world = World::new(quick()).await;
    world.image("one", Behaviour { stop_takes: Duration::from_millis(700), ..answering("one") });
    let first = world.deploy("one").await;
    for n in 0..3 {
        world.deploy_new(&format!("next{n}")).await;
        let back = world.rollback(&first).await;
        assert_eq!(world.end(back.id).await.state, S::Live);
        assert_eq!(world.visit().await, (200, "one".into()));
    }
    world.is_true().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_right_after_another_is_not_stopped_with_the_old_ones() {
    let world = World::new(quick()).await;
    for n in 0..6 {
        let name = format!("v{n}");
        world.image(&name, Behaviour { stop_takes: Duration::from_millis(300), ..answering(&name) });
        assert_eq!(world.deploy(&name).await.state, S::Live);
    }
    world.is_true().await;
    assert_eq!(world.containers().await.len(), 4, "three are kept for rollback");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_that_is_cancelled_keeps_what_was_kept() {
    let world = World::new(quick()).await;
    world.image("one", Behaviour { listen_after: Duration::from_millis(500), ..answering("one") });
    let first = world.deploy("one").await;
    world.deploy_new("two").await;
    world.is_true().await;
    let back = world.rollback(&first).await;
    world.reaches(back.id, S::Checking).await;
    assert_eq!(world.cancel(&back).await.unwrap().state, S::Cancelled);
    world.is_true().await;
    assert_eq!(world.containers().await.len(), 2, "the kept container is stopped, not removed");
    assert_eq!(world.visit().await, (200, "two".into()));
}

/// Going back to what serves, and giving that up: it must not be taken for something that was started in vain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_to_the_live_release_never_hurts_it() {
    let world = World::new(quick()).await;
    world.image("one", answering("one"));
    let first = world.deploy("one").await;
    let serving = world.running().await;
    for _ in 0..5 {
        let back = world.rollback(&first).await;
        let _ = world.cancel(&back).await;
        assert_eq!(world.visit().await, (200, "one".into()));
    }
    world.is_true().await;
    assert_eq!(world.running().await, serving);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_to_the_live_release_that_is_given_up_while_it_is_checked_does_not_hurt_it_either() {
    let world = World::new(quick()).await;
    let slow = Serve::Http { status: 200, body: "one".into(), takes: Duration::from_millis(400) };
    world.image("one", Behaviour { serve: slow, ..Behaviour::default() });
    let first = world.deploy("one").await;
    let serving = world.running().await;
    let back = world.rollback(&first).await;
    world.reaches(back.id, S::Checking).await;
    assert_eq!(world.cancel(&back).await.unwrap().state, S::Cancelled);
    world.is_true().await;
    assert_eq!(world.running().await, serving);
    let journal = world.engine.journal();
    assert!(!journal.iter().any(|l| l.starts_with("stop_container") || l.starts_with("remove_container")));
}

/// Its kept containers are restarted by the engine when they die, which would hide their death.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_was_brought_back_is_watched_like_a_new_one() {
    let world = World::new(quick()).await;
    let first = world.deploy_new("one").await;
    world.deploy_new("two").await;
    world.is_true().await;
    let settings = AppSettings { watch_window_s: Some(20), ..quick() };
    let app = world.app().await.id;
    world.store.apps().update_settings(&Principal::daemon(), app, settings).await.unwrap();
    let back = world.rollback(&first).await;
    assert_eq!(world.end(back.id).await.state, S::Live);
    let (container, _) = world.running().await.into_iter().find(|(_, number)| *number == 1).unwrap();
    world.engine.crash(&container, 1, false);
    world.until("it is rolled back", async || world.row(back.id).await.state == S::RolledBack).await;
    world.serves("two").await;
    world.is_true().await;
}

/// An engine that comes back has what is left over looked for: what is being checked or drained is not that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sweep_spares_what_is_being_checked_and_what_drains() {
    let settings = AppSettings { health_timeout_s: Some(15), drain_timeout_s: Some(10), ..quick() };
    let world = World::new(settings).await;
    let slow = Serve::Http { status: 200, body: "slow".into(), takes: Duration::from_millis(2500) };
    world.image("slow", Behaviour { serve: slow, ..Behaviour::default() });
    world.deploy("slow").await;
    world.image("two", Behaviour { listen_after: Duration::from_millis(2500), ..answering("two") });
    let second = world.begin("two").await;
    world.reaches(second.id, S::Checking).await;
    world.sweep().await;
    let addr = world.addr;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let open = tokio::spawn(async move { crate::world::visit(addr).await.unwrap() });
    world.reaches(second.id, S::Draining).await;
    world.sweep().await;
    assert_eq!(open.await.unwrap(), (200, "slow".into()));
    let ended = world.end(second.id).await;
    assert_eq!(ended.state, S::Live, "{:?}", ended.problem);
    world.is_true().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redeploy_does_not_lose_the_code_that_is_on_its_way() {
    let world = World::new(quick()).await;
    world.deploy_new("one").await;
    world.image("two", Behaviour { listen_after: Duration::from_millis(500), ..answering("two") });
    let push = world.begin("two").await;
    let variables = world.redeploy().await.unwrap();
    assert_eq!(world.end(variables.id).await.state, S::Live);
    assert_eq!(world.end(push.id).await.state, S::Retired, "it was live before the redeploy was");
    assert_eq!(world.visit().await, (200, "two".into()), "the redeploy is of what is live by then");
    world.is_true().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_goes_live_and_one_that_fails_leaves_no_image() {
    let world = World::new(quick()).await;
    world.engine.next_build(BuildScript { result: Ok(answering("web")), ..BuildScript::default() });
    let built = world.enqueue(world.files().await).await.unwrap();
    let built = world.end(built.id).await;
    assert_eq!(built.state, S::Live, "{:?}", built.problem);
    world.is_true().await;
    world.engine.next_build(BuildScript { result: Ok(failing()), ..BuildScript::default() });
    // The same source once more is something new only with other settings.
    let app = world.app().await;
    let settings = AppSettings { memory_mb: Some(64), ..quick() };
    world.store.apps().update_settings(&Principal::daemon(), app.id, settings).await.unwrap();
    let dies = world.enqueue(world.files().await).await.unwrap();
    assert_eq!(world.end(dies.id).await.state, S::Failed);
    world.is_true().await;
    // A start command that is no command is found after the build.
    let app = world.app().await;
    let settings = AppSettings { start_command: Some("open 'quote".into()), ..quick() };
    world.store.apps().update_settings(&Principal::daemon(), app.id, settings).await.unwrap();
    let odd = world.enqueue(world.files().await).await.unwrap();
    assert_eq!(world.end(odd.id).await.problem.unwrap().code, Code::BadPlan);
    world.is_true().await;
}

impl World {
    /// Has the daemon look for what is left over, and waits until it has.
    async fn sweep(&self) {
        self.engine.go_away();
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.engine.come_back();
        tokio::time::sleep(Duration::from_millis(1300)).await;
    }

    /// A source with a Dockerfile.
    async fn files(&self) -> DeploymentSource {
        let files = [("Dockerfile".to_owned(), "FROM scratch\nCOPY . /\nCMD [\"/app\"]\n".to_owned())];
        let upload = self
            .call(|p| async move { p.store_files(&Principal::daemon(), files.into()).await })
            .await
            .unwrap();
        DeploymentSource::Files { upload: upload.id, files: 1 }
    }
}
