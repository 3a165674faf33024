//! Previews: made, asleep, awake, approved, gone.

use berth_deploy::{EnqueueOptions, PreviewFor, PreviewOf};
use berth_schemas::{
    Code,
    app::{AppSettings, AppState, Previews},
    deployment::DeploymentState as S,
    job::JobState,
    variable::VariableScope,
};
use berth_store::model::{AppRow, DeploymentSource, NewPreview, NewVariable, Offer, Principal};

use crate::world::{World, answering, quick, visit_host};

fn branches() -> AppSettings {
    AppSettings { previews: Some(Previews::Branches), preview_sleep_s: Some(1), ..quick() }
}

fn of_branch(branch: &str) -> PreviewFor {
    PreviewFor { branch: branch.into(), pull: None, fork: false, offer: None }
}

impl World {
    async fn preview(&self, wanted: PreviewFor) -> AppRow {
        let app = self.app().await;
        self.call(|p| async move { p.ensure_preview(&app, wanted).await }).await.unwrap()
    }

    async fn now(&self, app: &AppRow) -> Option<AppRow> {
        self.store.apps().by_environment(app.environment.id).await.unwrap()
    }

    async fn falls_asleep(&self, app: &AppRow) {
        self.until("it sleeps", async || {
            let app = self.now(app).await.unwrap();
            self.pipeline().app_state(&app).await == AppState::Sleeping && self.running().await.is_empty()
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preview_sleeps_when_nobody_comes_and_wakes_for_visitors() {
    let mut world = World::new(branches()).await;
    let preview = world.preview(of_branch("fix/login")).await;
    let host = format!("{}--web.localhost", preview.environment.name);
    assert_eq!(visit_host(world.addr, &host).await.unwrap().0, 503, "it is there, and not deployed");
    world.deploy_in(&preview, "one").await;
    assert_eq!(visit_host(world.addr, &host).await.unwrap(), (200, "one".into()));
    world.falls_asleep(&preview).await;

    // Nobody is turned away, however many come at once.
    let visits = (0..20).map(|_| visit_host(world.addr, &host));
    for visit in futures_util::future::join_all(visits).await {
        assert_eq!(visit.unwrap(), (200, "one".into()));
    }
    assert_eq!(world.running().await.len(), 1);
    world.falls_asleep(&preview).await;

    // A kill forgets neither that it sleeps nor how to wake it.
    world.kill().await;
    world.start().await;
    assert_eq!(world.running().await.len(), 0);
    assert_eq!(visit_host(world.addr, &host).await.unwrap(), (200, "one".into()));

    // What is deployed to one that sleeps wakes it.
    world.falls_asleep(&preview).await;
    world.deploy_in(&world.now(&preview).await.unwrap(), "two").await;
    assert_eq!(visit_host(world.addr, &host).await.unwrap(), (200, "two".into()));
    let asleep = world.store.environments().set_sleeping(preview.environment.id, true).await.unwrap();
    assert!(asleep.environment.sleeping());
    // Killed right after it was marked: its containers still run, and are stopped.
    world.kill().await;
    world.start().await;
    world.falls_asleep(&preview).await;

    let app = world.app().await.id;
    let of = PreviewOf::Branch("fix/login".into());
    let job = world.call(|p| async move { p.remove_preview(app, &of).await }).await.unwrap().unwrap();
    assert_eq!(world.job_end(&job).await.state, JobState::Succeeded);
    assert_eq!(visit_host(world.addr, &host).await.unwrap().0, 404);
    assert_eq!(world.containers().await.len(), 0);
    let of = PreviewOf::Branch("fix/login".into());
    assert!(world.call(|p| async move { p.remove_preview(app, &of).await }).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_waits_for_approval_and_gets_no_secrets() {
    let world = World::new(AppSettings { previews: Some(Previews::PullRequests), ..quick() }).await;
    world.image("theirs", answering("theirs"));
    let app = world.app().await;
    let refused = world.call(|p| async move { p.ensure_preview(&app, of_branch("fix")).await }).await;
    assert_eq!(refused.unwrap_err().code, Code::Conflict, "branches have none here");
    let source = DeploymentSource::Image { image: "theirs".into() };
    let pull = |commit: &str| PreviewFor {
        branch: "main".into(),
        pull: Some(7),
        fork: true,
        offer: Some(Offer { commit: commit.into(), source: source.clone(), message: None }),
    };
    let preview = world.preview(pull("aaa")).await;
    assert_eq!(preview.environment.name.as_str(), "pr-7");
    let root = Principal::daemon();
    let set = |name: &str, value: &str, secret| NewVariable {
        name: name.parse().unwrap(),
        value: value.into(),
        secret,
        build: false,
        refers: true,
    };
    // Whoever refers to a secret is one, through whatever scope and however many others.
    let variables = world.store.variables();
    let shared = vec![set("HIDDEN", "sesame", true), set("LINK", "x-${HIDDEN}", false)];
    variables.put(&root, &preview, VariableScope::Shared, shared).await.unwrap();
    variables
        .put(&root, &preview, VariableScope::Previews, vec![set("LINKED", "${LINK}", false)])
        .await
        .unwrap();
    let own = vec![
        set("PLAIN", "${OTHER} at ${BERTH_ENVIRONMENT}", false),
        set("OTHER", "value", false),
        set("ALSO", "${LINKED}", false),
        set("SECRET", "${OTHER}", true),
    ];
    variables.put(&root, &preview, VariableScope::Environment, own).await.unwrap();
    let asked = world.ask_in(preview.clone(), source.clone()).await;
    assert_eq!(asked.unwrap_err().code, Code::Conflict);

    // Approved was the commit that was seen, and another one came.
    world.preview(pull("bbb")).await;
    let approve = async |commit: &'static str| {
        let app = world.now(&preview).await.unwrap();
        world.call(|p| async move { p.approve_preview(&Principal::daemon(), &app, commit).await }).await
    };
    assert_eq!(approve("aaa").await.unwrap_err().code, Code::Conflict);
    let row = world.end(approve("bbb").await.unwrap().into_row().id).await;
    assert_eq!(row.state, S::Live, "{:?}", row.problem);
    let variables = world.store.releases().variables(row.release.unwrap()).await.unwrap();
    let seen: Vec<_> = variables.variables.iter().map(|v| (v.name.as_str(), v.value.as_str())).collect();
    assert_eq!(seen, [("OTHER", "value"), ("PLAIN", "value at pr-7")]);
    let other = DeploymentSource::Image { image: "other".into() };
    let app = world.now(&preview).await.unwrap();
    let asked = world
        .call(
            |p| async move { p.enqueue(&Principal::daemon(), &app, other, EnqueueOptions::default()).await },
        )
        .await;
    assert_eq!(asked.unwrap_err().code, Code::Conflict);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preview_goes_when_its_time_is_over() {
    let world = World::new(branches()).await;
    let app = world.app().await;
    let new = NewPreview {
        name: "old".parse().unwrap(),
        otherwise: "old-1".parse().unwrap(),
        head: "old".into(),
        pull: None,
        fork: false,
        offer: None,
        expires_at: Some(berth_schemas::Timestamp(1)),
        limit: 5,
    };
    let preview = world.store.environments().ensure_preview("t", app.id, new).await.unwrap().app;
    world.until("it is gone", async || world.now(&preview).await.is_none()).await;
}
