//! Releases that turn out bad after their switch.

use berth_deploy::docker::fake::{Behaviour, Serve};
use berth_schemas::{Code, app::AppSettings, deployment::DeploymentState as S};
use berth_store::model::Visible;

use crate::world::{World, answering, quick};

/// Healthy by its open port, and no answer that anybody could read.
fn unreadable(name: &str) -> Behaviour {
    Behaviour { serve: Serve::Banner("hello\r\n".into()), ..answering(name) }
}

fn watched() -> AppSettings {
    AppSettings { watch_window_s: Some(20), ..quick() }
}

async fn visit_often(world: &World) {
    for _ in 0..40 {
        let _ = world.visit().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_answers_mostly_with_errors_is_taken_back_with_the_numbers() {
    let world = World::new(watched()).await;
    world.deploy_new("one").await;
    visit_often(&world).await;
    world.image("two", unreadable("two"));
    let row = world.deploy("two").await;
    visit_often(&world).await;
    world.serves("one").await;
    let row = world.row(row.id).await;
    assert_eq!(row.state, S::RolledBack);
    let problem = row.problem.unwrap();
    assert_eq!(problem.code, Code::HealthCheckFailed);
    assert!(problem.detail.contains("answers were server errors"), "{problem}");
    world.is_true().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rule_over_errors_can_be_turned_off() {
    let world = World::new(AppSettings { error_rollback_percent: Some(0), ..watched() }).await;
    world.deploy_new("one").await;
    world.image("two", unreadable("two"));
    let row = world.deploy("two").await;
    visit_often(&world).await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(world.row(row.id).await.state, S::Live);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_keeps_dying_is_told_once() {
    let world = World::new(quick()).await;
    world.deploy_new("one").await;
    for _ in 0..4 {
        let running = world.running().await;
        world.engine.crash(&running[0].0, 9, false);
        world
            .until("another container runs", async || {
                let now = world.running().await;
                !now.is_empty() && world.visit().await.0 == 200
            })
            .await;
    }
    let app = world.app().await;
    let trouble = world.pipeline().crash_loop(&app).expect("it is a loop by now");
    assert!(trouble.detail.contains("exit code 9"), "{trouble}");
    let mut told = 0;
    world
        .until("it is in the event log", async || {
            let events =
                world.store.events().list(&Visible::All, None, Some("app.crash_looping"), None, None, 100);
            told = events.await.unwrap().len();
            told > 0
        })
        .await;
    assert_eq!(told, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_without_errors_is_known_to_the_error_tracker() {
    let world = World::new(quick()).await;
    let app = world.app().await;
    let names = async || {
        let known = world.store.errors().releases(app.id, 10).await.unwrap();
        known.into_iter().map(|release| release.name).collect::<Vec<_>>()
    };
    world.deploy_new("one").await;
    world.deploy_new("two").await;
    assert_eq!(names().await, ["web@2", "web@1"]);
    // An app that names its releases itself goes on to do so.
    world.store.errors().add_release(app.id, "shop 4.2", None, false).await.unwrap();
    world.deploy_new("three").await;
    assert_eq!(names().await, ["shop 4.2", "web@2", "web@1"]);
}
