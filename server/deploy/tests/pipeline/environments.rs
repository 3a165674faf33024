//! One app in several environments.

use berth_deploy::{TrafficWish, docker::ContainerPhase};
use berth_schemas::{app::AppState, deployment::DeploymentState, job::JobState};
use berth_store::model::{AppRow, DeploymentSource, NewEnvironment, Principal};

use crate::world::{World, quick, visit_host};

impl World {
    async fn environment(&self, name: &str) -> AppRow {
        let new = NewEnvironment { name: name.parse().unwrap(), branch: None, replicas: 1 };
        let app = self.app().await;
        self.store.environments().create(&Principal::daemon(), app.id, new).await.unwrap()
    }

    async fn seen(&self, app: &AppRow) -> AppRow {
        self.store.apps().by_environment(app.environment.id).await.unwrap().unwrap()
    }

    async fn host(&self, host: &str) -> (u16, String) {
        visit_host(self.addr, host).await.unwrap_or((0, String::new()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_environments_serve_side_by_side() {
    let mut world = World::new(quick()).await;
    let staging = world.environment("staging").await;
    world.deploy_new("one").await;
    let two = world.deploy_in(&staging, "two").await;
    assert_eq!((two.number, two.environment.as_str()), (2, "staging"));
    let both = async |world: &World| (world.visit().await.1, world.host("staging--web.localhost").await.1);
    assert_eq!(both(&world).await, ("one".into(), "two".into()));
    let containers = world.containers().await;
    let names: Vec<&str> = containers.iter().map(|c| c.name.as_str()).collect();
    assert!(names.iter().any(|n| n.contains("-staging--web-2-")), "{names:?}");

    // What is done to one leaves the other alone.
    let app = world.seen(&staging).await;
    let job = world.call(|p| async move { p.stop(&Principal::daemon(), &app).await }).await.unwrap();
    assert_eq!(world.job_end(&job).await.state, JobState::Succeeded);
    assert_eq!((world.visit().await.0, world.host("staging--web.localhost").await.0), (200, 503));
    let app = world.app().await;
    let wish = TrafficWish::Maintenance { message: None, retry_after_s: None };
    world.call(|p| async move { p.set_traffic(&Principal::daemon(), &app, wish).await }).await.unwrap();
    let app = world.seen(&staging).await;
    let job = world.call(|p| async move { p.start(&Principal::daemon(), &app).await }).await.unwrap();
    assert_eq!(world.job_end(&job).await.state, JobState::Succeeded);
    assert_eq!((world.visit().await.0, world.host("staging--web.localhost").await.0), (503, 200));

    // A container that dies is healed where it belongs, and a restart finds both.
    let (container, _) = world.running().await.into_iter().find(|(_, number)| *number == 2).unwrap();
    world.engine.crash(&container, 7, false);
    world.until("it is healed", async || world.host("staging--web.localhost").await.0 == 200).await;
    world.kill().await;
    world.start().await;
    world.until("it serves again", async || world.host("staging--web.localhost").await.1 == "two").await;
    assert_eq!(world.visit().await.0, 503);
    let state = world.pipeline().app_state(&world.seen(&staging).await).await;
    assert_eq!(state, AppState::Running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_is_promoted_as_it_was_built_with_the_variables_of_its_new_place() {
    let world = World::new(quick()).await;
    let staging = world.environment("staging").await;
    world.deploy_new("one").await;
    let set = |value: &str| vec![("KEY".parse().unwrap(), value.to_owned(), true, false)];
    let variables = world.store.variables();
    variables.set(&Principal::daemon(), &staging, set("theirs")).await.unwrap();
    variables.set(&Principal::daemon(), &world.app().await, set("ours")).await.unwrap();
    let two = world.deploy_in(&staging, "two").await;
    let source = DeploymentSource::Promote { release: two.release.unwrap(), of: two.reference() };
    let promoted = world.end(world.enqueue(source).await.unwrap().id).await;
    assert_eq!((promoted.state, promoted.number), (DeploymentState::Live, 3), "{:?}", promoted.problem);
    assert_eq!(world.visit().await, (200, "two".into()));
    let releases = world.store.releases();
    let (theirs, ours) = (two.release.unwrap(), promoted.release.unwrap());
    let value = async |id| releases.variables(id).await.unwrap().variables[0].value.clone();
    assert_eq!((value(theirs).await, value(ours).await), ("theirs".into(), "ours".into()));
    let artifact = async |id| releases.get(id).await.unwrap().unwrap().artifact;
    assert_eq!(artifact(theirs).await, artifact(ours).await);

    // It does not go with the environment that it came from.
    let app = world.seen(&staging).await;
    let job =
        world.call(|p| async move { p.delete_environment(&Principal::daemon(), &app).await }).await.unwrap();
    assert_eq!(world.job_end(&job).await.state, JobState::Succeeded);
    let app = world.app().await;
    let job = world.call(|p| async move { p.stop(&Principal::daemon(), &app).await }).await.unwrap();
    world.job_end(&job).await;
    let app = world.app().await;
    let job = world.call(|p| async move { p.start(&Principal::daemon(), &app).await }).await.unwrap();
    assert_eq!(world.job_end(&job).await.state, JobState::Succeeded);
    assert_eq!(world.visit().await, (200, "two".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_environment_leaves_nothing_behind() {
    let mut world = World::new(quick()).await;
    let staging = world.environment("staging").await;
    world.deploy_new("one").await;
    world.deploy_in(&staging, "two").await;
    world.deploy_in(&world.seen(&staging).await, "three").await;
    let app = world.seen(&staging).await;
    // Marked, and killed before the job was there: whoever begins a deletion means it.
    world.store.environments().mark_deleting(&Principal::daemon(), app.environment.id).await.unwrap();
    world.kill().await;
    world.start().await;
    world
        .until("it is gone", async || {
            world.store.apps().by_environment(app.environment.id).await.unwrap().is_none()
        })
        .await;
    assert_eq!(world.host("staging--web.localhost").await.0, 404);
    let left = world.containers().await;
    assert_eq!((left.len(), left[0].phase), (1, ContainerPhase::Running));
    assert_eq!(world.visit().await, (200, "one".into()));
    world.is_true().await;
}
