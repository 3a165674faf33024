//! Random stories. Whatever is asked for and whatever dies, in the end `truth` holds.

use std::time::{Duration, Instant};

use berth_deploy::{TrafficWish, docker::fake::Behaviour};
use berth_schemas::{app::AppSettings, deployment::DeploymentState};
use berth_store::model::Principal;
use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};

use crate::world::{World, answering, failing, quick};

/// Stories are told for so long, unless `BERTH_MODEL_CASES` says how many.
const TIME: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, Copy)]
enum Image {
    Answers,
    Slow,
    Fails,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Deploy(Image),
    /// The newest that has not settled.
    Cancel,
    /// To a kept release: which, of all.
    Rollback(prop::sample::Index),
    Redeploy,
    Scale(i64),
    Stop,
    Start,
    /// Any container that runs.
    Crash(prop::sample::Index),
    /// The daemon ends and starts.
    Restart,
    /// The daemon is killed and starts.
    Kill,
    /// The engine is away for a while.
    Outage(u64),
    /// Milliseconds.
    Wait(u64),
    Pause,
    Maintenance,
    Open,
    /// A release on trial for so many of a hundred visitors.
    RollOut(Image, u8),
    Promote,
    Abort,
}

impl Image {
    fn behaviour(self, name: &str) -> Behaviour {
        match self {
            Self::Answers => answering(name),
            Self::Slow => Behaviour { listen_after: Duration::from_millis(200), ..answering(name) },
            Self::Fails => failing(),
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let image = prop_oneof![4 => Just(Image::Answers), 2 => Just(Image::Slow), 1 => Just(Image::Fails)];
    prop_oneof![
        6 => image.clone().prop_map(Step::Deploy),
        1 => Just(Step::Pause),
        1 => Just(Step::Maintenance),
        1 => Just(Step::Open),
        3 => (image, 0..=100_u8).prop_map(|(image, percent)| Step::RollOut(image, percent)),
        2 => Just(Step::Promote),
        1 => Just(Step::Abort),
        2 => Just(Step::Cancel),
        2 => any::<prop::sample::Index>().prop_map(Step::Rollback),
        2 => Just(Step::Redeploy),
        1 => (1..4_i64).prop_map(Step::Scale),
        1 => Just(Step::Stop),
        1 => Just(Step::Start),
        2 => any::<prop::sample::Index>().prop_map(Step::Crash),
        1 => Just(Step::Restart),
        2 => Just(Step::Kill),
        1 => (10..200_u64).prop_map(Step::Outage),
        6 => (0..250_u64).prop_map(Step::Wait),
    ]
}

async fn tell(story: &[Step]) {
    let settings = AppSettings { keep_releases: Some(2), watch_window_s: Some(1), ..quick() };
    let mut world = World::new(settings).await;
    let who = Principal::daemon();
    let mut accepted = 0;
    let mut failing_accepted = Vec::new();
    for (number, step) in story.iter().enumerate() {
        let app = world.app().await;
        match *step {
            Step::Deploy(image) => {
                let name = format!("v{number}");
                world.image(&name, image.behaviour(&name));
                let row = world.begin(&name).await;
                accepted += 1;
                assert_eq!(row.number, accepted);
                if let Image::Fails = image {
                    failing_accepted.push(row.id);
                }
            }
            Step::RollOut(image, percent) => {
                let name = format!("v{number}");
                world.image(&name, image.behaviour(&name));
                let row = world.enqueue_rollout(&name, percent).await;
                accepted += 1;
                if let Image::Fails = image {
                    failing_accepted.push(row.id);
                }
            }
            Step::Promote => {
                // There may be none, or one that ends in this moment.
                if let Ok(row) = world.rollout().await {
                    let _ = world.promote(&row).await;
                }
            }
            Step::Abort => {
                if let Ok(row) = world.rollout().await {
                    let _ = world.cancel(&row).await;
                }
            }
            Step::Pause => world.traffic(TrafficWish::Pause { hold_s: 1 }).await,
            Step::Maintenance => {
                world.traffic(TrafficWish::Maintenance { message: None, retry_after_s: None }).await;
            }
            Step::Open => world.traffic(TrafficWish::Open).await,
            Step::Cancel => {
                let rows = world.store.deployments().unsettled().await.unwrap();
                if let Some(row) = rows.last() {
                    // It may have ended or got the traffic in this moment.
                    let _ = world.cancel(row).await;
                }
            }
            Step::Rollback(which) => {
                let rows = world.store.releases().list(app.environment.id, false).await.unwrap();
                let kept: Vec<_> = rows.into_iter().filter(|r| r.live_at.is_some()).collect();
                if !kept.is_empty() {
                    let to = world.row(which.get(&kept).deployment_id).await;
                    let source = berth_store::model::DeploymentSource::Rollback {
                        release: which.get(&kept).id,
                        to: to.reference(),
                    };
                    // Unless it was pruned just now.
                    accepted += i64::from(world.enqueue(source).await.is_ok());
                }
            }
            Step::Redeploy if app.environment.live.is_some() => {
                accepted += i64::from(world.redeploy().await.is_ok());
            }
            Step::Redeploy => {}
            Step::Scale(replicas) => {
                let who = who.clone();
                world.call(|p| async move { p.scale(&who, &app, replicas).await }).await.unwrap();
            }
            Step::Stop => {
                let who = who.clone();
                world.call(|p| async move { p.stop(&who, &app).await }).await.unwrap();
            }
            Step::Start => {
                let who = who.clone();
                // Refused while there is nothing to start.
                let _ = world.call(|p| async move { p.start(&who, &app).await }).await;
            }
            Step::Crash(which) => {
                let running = world.running().await;
                if !running.is_empty() {
                    world.engine.crash(&which.get(&running).0, 1, false);
                }
            }
            Step::Restart => {
                world.stop().await;
                world.start().await;
            }
            Step::Kill => {
                world.kill().await;
                world.start().await;
            }
            Step::Outage(ms) => {
                world.engine.go_away();
                tokio::time::sleep(Duration::from_millis(ms)).await;
                world.engine.come_back();
            }
            Step::Wait(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
        }
    }
    // What waits for a decision gets one, so that all comes to rest.
    world.traffic(TrafficWish::Open).await;
    while let Ok(row) = world.rollout().await {
        let _ = world.cancel(&row).await;
    }
    world.is_true().await;
    let rows = world.store.deployments().list(world.app().await.id, None, None, 500).await.unwrap();
    assert_eq!(i64::try_from(rows.len()).unwrap(), accepted, "an accepted deployment was lost");
    for id in failing_accepted {
        let steps = world.store.deployments().transitions(id).await.unwrap();
        assert!(
            steps
                .iter()
                .all(|s| !matches!(s.state, DeploymentState::Switching | DeploymentState::RollingOut)),
            "a release that was never healthy got the traffic"
        );
    }
    world.stop().await;
}

#[test]
fn whatever_is_asked_for_and_whatever_dies_the_truth_holds_in_the_end() {
    let cases = std::env::var("BERTH_MODEL_CASES").ok().and_then(|n| n.parse().ok());
    let config = Config {
        cases: cases.unwrap_or(1000),
        max_shrink_iters: 12,
        failure_persistence: None,
        ..Config::default()
    };
    let began = Instant::now();
    let told = std::cell::Cell::new(0);
    let result = TestRunner::new(config).run(&prop::collection::vec(step(), 1..14), |story| {
        if cases.is_none() && began.elapsed() > TIME {
            return Ok(());
        }
        told.set(told.get() + 1);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let outcome =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(tell(&story))));
        runtime.shutdown_background();
        outcome.map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "it panicked".into());
            TestCaseError::fail(text)
        })
    });
    println!("{} stories in {:.0?}", told.get(), began.elapsed());
    if let Err(failure) = result {
        panic!("{failure}");
    }
}
