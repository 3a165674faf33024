//! What stands between visitors and the live release: pause, maintenance, and a release on trial.

use std::time::Duration;

use berth_deploy::{
    EnqueueOptions, TrafficWish,
    docker::fake::{Behaviour, Serve},
};
use berth_schemas::{
    Problem,
    app::AppState,
    deployment::DeploymentState as S,
    traffic::{RolloutRule, TrafficMatch},
};
use berth_store::model::{DeploymentRow, DeploymentSource, Principal};

use crate::world::{World, answering, quick, visit, visit_as};

fn wish(percent: u8) -> RolloutRule {
    let header = TrafficMatch { name: "x-beta".into(), value: Some("yes".into()) };
    RolloutRule { percent, header: Some(header), cookie: None }
}

impl World {
    pub(crate) async fn traffic(&self, wish: TrafficWish) {
        let app = self.app().await;
        self.call(|p| async move { p.set_traffic(&Principal::daemon(), &app, wish).await }).await.unwrap();
    }

    pub(crate) async fn enqueue_rollout(&self, image: &str, percent: u8) -> DeploymentRow {
        let app = self.app().await;
        let source = DeploymentSource::Image { image: image.into() };
        let options = EnqueueOptions { rollout: Some(wish(percent)), ..EnqueueOptions::default() };
        let row = self.call(|p| async move { p.enqueue(&Principal::daemon(), &app, source, options).await });
        row.await.unwrap().into_row()
    }

    /// The rollout that goes on.
    pub(crate) async fn rollout(&self) -> Result<DeploymentRow, Problem> {
        let app = self.app().await;
        self.call(|p| async move { p.rollout(&app).await }).await
    }

    async fn roll_out(&self, image: &str, percent: u8) -> DeploymentRow {
        let row = self.enqueue_rollout(image, percent).await;
        self.reaches(row.id, S::RollingOut).await;
        self.row(row.id).await
    }

    pub(crate) async fn promote(&self, row: &DeploymentRow) -> Result<DeploymentRow, Problem> {
        let row = row.clone();
        self.call(|p| async move { p.promote(&Principal::daemon(), &row).await }).await
    }

    /// What somebody gets who asks for the release on trial.
    async fn beta(&self) -> String {
        visit_as(self.addr, "x-beta: yes\r\n").await.unwrap().1
    }

    async fn beta_gets(&self, body: &str) {
        self.until(&format!("the trial's visitors get {body}"), async || self.beta().await == body).await;
    }
}

/// An app "one" that lives and a release "two" on trial that only its header reaches.
async fn on_trial(behaviour: Behaviour) -> (World, DeploymentRow) {
    let world = World::new(quick()).await;
    world.deploy_new("one").await;
    world.image("two", behaviour);
    let row = world.roll_out("two", 0).await;
    world.beta_gets("two").await;
    assert_eq!(world.visit().await, (200, "one".into()));
    (world, row)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_apps_requests_wait_and_go_on_when_it_is_resumed() {
    let mut world = World::new(quick()).await;
    world.deploy_new("one").await;
    world.traffic(TrafficWish::Pause { hold_s: 20 }).await;
    let waits = tokio::spawn(visit(world.addr));
    world.until("it waits", async || world.pipeline().waiting(&world.app().await) == 1).await;
    // Deployments go on behind.
    world.deploy_new("two").await;
    assert_eq!(world.pipeline().app_state(&world.app().await).await, AppState::Paused);
    world.traffic(TrafficWish::Open).await;
    assert_eq!(waits.await.unwrap().unwrap(), (200, "two".into()));
    world.traffic(TrafficWish::Pause { hold_s: 1 }).await;
    world.kill().await;
    world.start().await;
    assert_eq!(world.visit().await.0, 503, "it was still paused");
    world.traffic(TrafficWish::Open).await;
    world.is_true().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maintenance_outlives_a_kill_and_gives_way_to_stopped() {
    let mut world = World::new(quick()).await;
    world.deploy_new("one").await;
    let message = Some("Back at <noon>".to_owned());
    world.traffic(TrafficWish::Maintenance { message, retry_after_s: Some(60) }).await;
    let (status, body) = world.visit().await;
    assert!(status == 503 && body.contains("Back at") && !body.contains("<noon>"), "{body}");
    world.kill().await;
    world.start().await;
    assert!(world.visit().await.1.contains("Back at"));
    world.deploy_new("two").await;
    assert_eq!(world.visit().await.0, 503, "a deployment does not end it");
    world.job(|p, app| async move { p.stop(&Principal::daemon(), &app).await }).await;
    assert_eq!(world.pipeline().app_state(&world.app().await).await, AppState::Stopped);
    assert!(!world.visit().await.1.contains("Back at"));
    world.job(|p, app| async move { p.start(&Principal::daemon(), &app).await }).await;
    assert!(world.visit().await.1.contains("Back at"));
    world.traffic(TrafficWish::Open).await;
    world.serves("two").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_is_changed_and_promoted() {
    let (world, row) = on_trial(answering("two")).await;
    let of_all = RolloutRule { percent: 100, header: None, cookie: None };
    let changed = row.clone();
    world.call(|p| async move { p.set_rollout(&Principal::daemon(), &changed, of_all).await }).await.unwrap();
    assert_eq!(world.visit().await, (200, "two".into()));
    // It counts as needed, and a later deployment waits for it and says so.
    world.image("three", answering("three"));
    let later = world.begin("three").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let waits_for = world.pipeline().waits_for(&world.row(later.id).await).unwrap();
    assert!(waits_for.contains("rollout of web#2"), "{waits_for}");
    world.promote(&row).await.unwrap();
    world.reaches(row.id, S::Live).await;
    assert_eq!(world.end(later.id).await.state, S::Live);
    world.serves("three").await;
    world.is_true().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aborted_rollout_leaves_nothing_and_says_who_did_it() {
    let (world, row) = on_trial(answering("two")).await;
    let row = world.cancel(&row).await.unwrap();
    assert_eq!(row.state, S::Cancelled);
    let steps = world.store.deployments().transitions(row.id).await.unwrap();
    assert_eq!(steps.last().unwrap().reason, Some("rollout aborted by berth".into()));
    assert_eq!(world.beta().await, "one");
    world.is_true().await;
    assert!(world.promote(&row).await.is_err(), "it is over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_that_dies_loses_its_part_of_the_traffic() {
    let (world, row) = on_trial(answering("two")).await;
    let own = world.running().await.into_iter().find(|(_, number)| *number == row.number).unwrap();
    world.engine.crash(&own.0, 7, false);
    let row = world.end(row.id).await;
    assert_eq!(row.state, S::Failed);
    assert!(row.problem.unwrap().detail.contains("exit code 7"));
    assert_eq!(world.beta().await, "one");
    world.is_true().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_that_answers_5xx_loses_its_part_of_the_traffic() {
    // Healthy by its open port, and no answer that anybody could read.
    let world = World::new(quick()).await;
    world.deploy_new("one").await;
    world.image("two", Behaviour { serve: Serve::Banner("hello\r\n".into()), ..answering("two") });
    let row = world.roll_out("two", 0).await;
    for _ in 0..60 {
        let _ = visit_as(world.addr, "x-beta: yes\r\n").await;
    }
    let row = world.end(row.id).await;
    assert_eq!(row.state, S::Failed);
    assert!(row.problem.unwrap().detail.contains("server errors"));
    assert_eq!(world.beta().await, "one");
    world.is_true().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_goes_on_after_a_kill_and_after_a_stop() {
    let (mut world, row) = on_trial(answering("two")).await;
    world.kill().await;
    world.start().await;
    assert_eq!(world.beta().await, "two", "the split was there from the first moment");
    assert_eq!(world.row(row.id).await.state, S::RollingOut);
    world.stop().await;
    // The machine was off: nothing runs.
    for (container, _) in world.running().await {
        world.engine.crash(&container, 137, false);
    }
    world.start().await;
    world.serves("one").await;
    world.beta_gets("two").await;
    assert_eq!(world.row(row.id).await.state, S::RollingOut);
    world.promote(&row).await.unwrap();
    world.kill().await;
    world.start().await;
    assert_eq!(world.end(row.id).await.state, S::Live, "the wish to promote survives");
    world.serves("two").await;
    world.is_true().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_ends_a_rollout() {
    let world = World::new(quick()).await;
    let zero = world.deploy_new("zero").await;
    world.deploy_new("one").await;
    world.image("two", answering("two"));
    let row = world.roll_out("two", 0).await;
    let back = world.rollback(&zero).await;
    assert_eq!(world.end(back.id).await.state, S::Live);
    assert_eq!(world.row(row.id).await.state, S::Superseded);
    assert_eq!((world.visit().await.1, world.beta().await), ("zero".into(), "zero".into()));
    world.is_true().await;
}
