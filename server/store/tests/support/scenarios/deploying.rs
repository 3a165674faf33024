use berth_schemas::{
    Code, DeploymentRef, Problem, Timestamp,
    deployment::{BuildLineKind, DeploymentState as S},
};
use berth_store::*;

use crate::support::{World, new_deployment, new_release};

pub async fn deployments_are_numbered_without_gaps(world: World) {
    let (web, api) = (world.app("web").await, world.app("api").await);
    let root = Principal::daemon();
    assert_eq!(world.enqueue(&web).await.number, 1);
    assert_eq!(world.enqueue(&api).await.number, 1);
    // Ten at once.
    let many = (0..10).map(|_| {
        let (store, new) = (world.store.clone(), new_deployment(&web));
        tokio::spawn(async move { store.deployments().enqueue(new).await.unwrap().number })
    });
    let mut numbers = Vec::new();
    for task in many.collect::<Vec<_>>() {
        numbers.push(task.await.unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (2..=11).collect::<Vec<_>>());
    // What is refused takes no number.
    let wrong = NewDeployment { environment: api.environment.id, ..new_deployment(&web) };
    assert!(matches!(world.store.deployments().enqueue(wrong).await, Err(StoreError::NotFound { .. })));
    let last = world.enqueue(&web).await;
    assert_eq!((last.number, last.reference().to_string()), (12, "web#12".into()));

    let list = world.store.deployments().list(web.id, None, Some(11), 3).await.unwrap();
    assert_eq!(list.iter().map(|d| d.number).collect::<Vec<_>>(), [10, 9, 8]);
    let queued = world.store.deployments().queued(web.environment.id).await.unwrap();
    assert_eq!(queued.iter().map(|d| d.number).collect::<Vec<_>>(), (1..=12).collect::<Vec<_>>());
    assert_eq!(world.store.deployments().unsettled().await.unwrap().len(), 13);
    let newest = DeploymentRef { app: web.slug.clone(), number: None };
    assert_eq!(world.store.deployments().by_ref(&Visible::All, &newest).await.unwrap(), Some(last));

    world.store.apps().mark_deleting(&root, web.id).await.unwrap();
    let late = world.store.deployments().enqueue(new_deployment(&web)).await;
    assert!(matches!(late, Err(StoreError::Conflict { .. })), "{late:?}");
}

pub async fn a_state_changes_once(world: World) {
    let app = world.app("web").await;
    let d = world.enqueue(&app).await;
    let deployments = world.store.deployments();
    let wrong = deployments.transition(d.id, S::Queued, S::Live, Change::default()).await;
    assert!(matches!(wrong, Err(StoreError::IllegalTransition { from: S::Queued, to: S::Live })));
    let both = tokio::join!(
        deployments.transition(d.id, S::Queued, S::Fetching, Change::default()),
        deployments.transition(d.id, S::Queued, S::Superseded, Change::default()),
    );
    let won = usize::from(both.0.is_ok()) + usize::from(both.1.is_ok());
    assert_eq!(won, 1, "{both:?}");
    let lost = both.0.err().or(both.1.err()).unwrap();
    assert!(matches!(lost, StoreError::Stale { .. }), "{lost:?}");
    assert_eq!(deployments.transitions(d.id).await.unwrap().len(), 2);
}

pub async fn history_has_its_durations(world: World) {
    let app = world.app("web").await;
    let d = world.enqueue(&app).await;
    let deployments = world.store.deployments();
    world.advance(2);
    world.step(&d, &[S::Queued, S::Fetching]).await;
    world.advance(3);
    let problem = Problem::new(Code::GitFailed, "The branch does not exist.").hint("Push it.");
    let change = Change { reason: None, problem: Some(problem.clone()) };
    let failed = deployments.transition(d.id, S::Fetching, S::Failed, change).await.unwrap();
    assert_eq!(failed.problem, Some(problem));
    assert!(failed.finished_at.is_some());
    let steps = deployments.transitions(d.id).await.unwrap();
    let seen: Vec<_> = steps.iter().map(|t| (t.state, t.ms.map(|ms| ms / 1000))).collect();
    assert_eq!(seen, [(S::Queued, Some(2)), (S::Fetching, Some(3)), (S::Failed, None)]);
    let events = world.store.events().list(&Visible::All, None, Some("deployment"), None, None, 1).await;
    assert_eq!(events.unwrap()[0].summary.0, "web#1 failed: The branch does not exist.");

    deployments.set_commit(d.id, "abc123", Some("ignored, the caller said something")).await.unwrap();
    deployments.set_plan(d.id, &serde_json::json!({ "builder": "node" })).await.unwrap();
    for _ in 0..2 {
        deployments.add_warning(d.id, "No lock file.").await.unwrap();
    }
    assert_eq!(deployments.bump_attempt(d.id).await.unwrap(), 1);
    let d = deployments.get(d.id).await.unwrap().unwrap();
    assert_eq!(d.commit.as_deref(), Some("abc123"));
    assert_eq!(d.message.as_deref(), Some("Fix the thing"));
    assert_eq!(d.plan.unwrap()["builder"], "node");
    assert_eq!((d.warnings.as_slice(), d.attempt), (["No lock file.".to_owned()].as_slice(), 1));
}

pub async fn the_switch_moves_the_pointer_and_the_states(world: World) {
    let app = world.app("web").await;
    let (first, old) = world.deploy(&app).await;
    assert_eq!(world.refresh(&app).await.environment.live, Some(old.id));
    let second = world.enqueue(&app).await;
    let new = world.until_switching(&second).await;
    let previous = world.store.deployments().switch_live(second.id, new.id).await.unwrap();
    assert_eq!(previous, Some(old.id));
    assert_eq!(world.refresh(&app).await.environment.live, Some(new.id));
    assert_eq!((world.state(&first).await, world.state(&second).await), (S::Live, S::Draining));
    let twice = world.store.deployments().switch_live(second.id, new.id).await;
    assert!(matches!(twice, Err(StoreError::Stale { .. })), "{twice:?}");
    let live = world.store.deployments().finish_live(second.id).await.unwrap();
    assert!(live.finished_at.is_some());
    assert_eq!((world.state(&first).await, world.state(&second).await), (S::Retired, S::Live));
    let removed = world.store.releases().mark_removed(new.id).await;
    assert!(matches!(removed, Err(StoreError::Conflict { .. })), "the live one stays");
    let before = world.store.releases().previous_live(app.environment.id, new.id).await.unwrap();
    assert_eq!(before.map(|r| r.id), Some(old.id));
    assert!(world.store.deployments().unsettled().await.unwrap().is_empty());
}

pub async fn a_rollback_reinstates_the_release_before(world: World) {
    let app = world.app("web").await;
    let env = app.environment.id;
    let (_, one) = world.deploy(&app).await;
    let (second, two) = world.deploy(&app).await;
    let (third, three) = world.deploy(&app).await;
    let deployments = world.store.deployments();
    let why = Change { reason: Some("it died 4 s after the switch".into()), problem: None };
    let rolled = deployments.roll_back(third.id, S::Live, Some(two.id), why).await.unwrap();
    assert_eq!(rolled.state, S::RolledBack);
    assert_eq!(world.refresh(&app).await.environment.live, Some(two.id));
    assert_eq!(world.state(&second).await, S::Retired);
    let before = world.store.releases().previous_live(env, two.id).await.unwrap();
    assert_eq!(before.map(|r| r.id), Some(one.id), "not the one that was rolled back");
    let twice = deployments.roll_back(third.id, S::Live, Some(one.id), Change::default()).await;
    assert!(matches!(twice, Err(StoreError::Stale { .. })));

    // A newer release that has the traffic by now is not taken from it.
    let (fourth, four) = world.deploy(&app).await;
    let fifth = world.enqueue(&app).await;
    let five = world.until_switching(&fifth).await;
    deployments.switch_live(fifth.id, five.id).await.unwrap();
    let late = deployments.roll_back(fourth.id, S::Live, Some(one.id), Change::default()).await;
    assert!(matches!(late, Err(StoreError::Stale { .. })), "{late:?}");
    assert_eq!(world.state(&fourth).await, S::Live, "the whole call was undone");
    assert_eq!(world.refresh(&app).await.environment.live, Some(five.id));
    assert!(world.store.releases().get(three.id).await.unwrap().is_some_and(|r| r.live_at.is_some()));
    assert_ne!(four.id, five.id);
}

pub async fn a_release_remembers_its_variables(world: World) {
    let app = world.app("web").await;
    let d = world.enqueue(&app).await;
    let releases = world.store.releases();
    let first = releases.create(new_release(d.id)).await.unwrap();
    let variables = releases.variables(first.id).await.unwrap();
    assert_eq!(variables, new_release(d.id).variables);
    // A second attempt of the same deployment replaces what the first one made.
    let second = releases.create(NewRelease { bytes: 7, ..new_release(d.id) }).await.unwrap();
    assert_eq!((second.id, second.bytes, second.number), (first.id, 7, 1));
    assert_eq!(world.store.deployments().get(d.id).await.unwrap().unwrap().release, Some(first.id));
    assert_eq!(releases.by_number(app.environment.id, 1).await.unwrap().map(|r| r.id), Some(first.id));
    releases.mark_removed(first.id).await.unwrap();
    assert!(releases.list(app.environment.id, false).await.unwrap().is_empty());
    assert!(releases.list(app.environment.id, true).await.unwrap()[0].removed);
}

pub async fn cancelling_is_for_what_is_not_live_yet(world: World) {
    let app = world.app("web").await;
    let d = world.enqueue(&app).await;
    let asked = world.store.deployments().request_cancel(d.id, "ann").await.unwrap();
    assert!(asked.cancel_requested);
    world.store.deployments().request_cancel(d.id, "ann").await.unwrap();
    let events = world.store.events().list(&Visible::All, None, Some("deployment.cancel_"), None, None, 9);
    assert_eq!(events.await.unwrap().len(), 1);
    let (live, _) = world.deploy(&app).await;
    let late = world.store.deployments().request_cancel(live.id, "ann").await;
    assert!(matches!(late, Err(StoreError::IllegalTransition { from: S::Live, .. })));
}

fn line(n: i64) -> NewBuildLine {
    NewBuildLine {
        at: Timestamp(n),
        state: S::Building,
        kind: BuildLineKind::Output,
        step: Some("2/7".into()),
        text: format!("Line {n} of 100%"),
    }
}

pub async fn build_logs_are_read_from_both_ends(world: World) {
    let app = world.app("web").await;
    let d = world.enqueue(&app).await;
    let deployments = world.store.deployments();
    assert_eq!(deployments.append_lines(d.id, (1..=250).map(line).collect()).await.unwrap(), 250);
    assert_eq!(deployments.append_lines(d.id, vec![]).await.unwrap(), 250);
    assert_eq!(deployments.append_lines(d.id, vec![line(251)]).await.unwrap(), 251);
    let numbers = |lines: &[berth_schemas::deployment::BuildLine]| -> Vec<i64> {
        lines.iter().map(|l| l.line).collect()
    };
    let (last, total) = deployments.lines(d.id, None, None, 3).await.unwrap();
    assert_eq!((numbers(&last), total), (vec![249, 250, 251], 251));
    let (next, _) = deployments.lines(d.id, Some(99), None, 2).await.unwrap();
    assert_eq!(numbers(&next), [100, 101]);
    let (found, total) = deployments.lines(d.id, None, Some("LINE 25"), 10).await.unwrap();
    assert_eq!((numbers(&found), total), (vec![25, 250, 251], 251));
    assert_eq!(found[0].text.0, "Line 25 of 100%");
    assert_eq!(deployments.lines(d.id, None, Some("0%"), 1).await.unwrap().0.len(), 1);
    assert!(deployments.lines(d.id, None, Some("L_ne"), 1).await.unwrap().0.is_empty());
}

pub async fn build_logs_are_capped(world: World) {
    let app = world.app("web").await;
    let d = world.enqueue(&app).await;
    let deployments = world.store.deployments();
    for _ in 0..4 {
        deployments.append_lines(d.id, (0..6000).map(line).collect()).await.unwrap();
    }
    let (last, total) = deployments.lines(d.id, None, None, 2).await.unwrap();
    assert_eq!(total, 20_000);
    assert_eq!(last[1].kind, BuildLineKind::Note);
    assert!(last[1].text.0.contains("20000"), "{}", last[1].text.0);
    assert_eq!(last[0].kind, BuildLineKind::Output);
    let long = NewBuildLine { text: "ß".repeat(5000), ..line(1) };
    let other = world.enqueue(&app).await;
    deployments.append_lines(other.id, vec![long]).await.unwrap();
    let (lines, _) = deployments.lines(other.id, None, None, 1).await.unwrap();
    assert_eq!(lines[0].text.0.chars().count(), 2049);
}
