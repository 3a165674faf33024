//! Whatever is asked of deployments in whatever order, the promises hold.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod support;

use berth_schemas::deployment::DeploymentState as S;
use berth_store::*;
use proptest::prelude::*;
use support::World;

#[derive(Debug, Clone)]
enum Step {
    Enqueue,
    /// The n-th deployment, one step along the way to live.
    Advance(usize),
    /// The n-th deployment, to the m-th state, believing it to be where it is or somewhere else.
    Transition {
        which: usize,
        to: usize,
        stale: bool,
    },
    Release(usize),
    Switch(usize),
    Finish(usize),
    RollBack(usize, usize),
    Cancel(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0usize..4;
    prop_oneof![
        2 => Just(Step::Enqueue),
        // Without it, chance would seldom bring two deployments to live.
        20 => which.clone().prop_map(Step::Advance),
        3 => (which.clone(), 0usize..S::ALL.len(), prop::bool::weighted(0.1))
            .prop_map(|(which, to, stale)| Step::Transition { which, to, stale }),
        1 => which.clone().prop_map(Step::Release),
        2 => which.clone().prop_map(Step::Switch),
        2 => which.clone().prop_map(Step::Finish),
        2 => (which.clone(), which.clone()).prop_map(|(a, b)| Step::RollBack(a, b)),
        1 => which.prop_map(Step::Cancel),
    ]
}

/// Takes a deployment one step on along the way to live, whatever state it is in.
async fn walk(store: &Store, d: &DeploymentRow) {
    let to = match d.state {
        S::Queued => S::Fetching,
        S::Fetching => S::Building,
        S::Building => S::Starting,
        S::Starting => S::Checking,
        S::Checking => S::Switching,
        S::Switching => {
            let release = store.releases().create(support::new_release(d.id)).await.unwrap();
            store.deployments().switch_live(d.id, release.id).await.unwrap();
            return;
        }
        S::Draining => return drop(store.deployments().finish_live(d.id).await),
        _ => return,
    };
    store.deployments().transition(d.id, d.state, to, Change::default()).await.unwrap();
}

async fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let world = World::on(None).await;
    let app = world.app("web").await;
    let store = &world.store;
    let mut ids: Vec<DeploymentId> = Vec::new();
    for step in steps {
        let pick = |n: usize| (!ids.is_empty()).then(|| ids[n % ids.len()]);
        let before: Vec<DeploymentRow> = all(store, &app).await;
        match step {
            Step::Enqueue => ids.push(world.enqueue(&app).await.id),
            Step::Transition { which, to, stale } => {
                let Some(id) = pick(which) else { continue };
                let d = store.deployments().get(id).await.unwrap().unwrap();
                let expected = if stale { S::ALL[(to + which) % S::ALL.len()] } else { d.state };
                let to = S::ALL[to];
                // What moves the pointer has calls of its own.
                if !matches!(to, S::Draining | S::Live | S::RolledBack | S::Retired) {
                    let _ = store.deployments().transition(id, expected, to, Change::default()).await;
                }
            }
            Step::Advance(n) => {
                let Some(id) = pick(n) else { continue };
                let d = store.deployments().get(id).await.unwrap().unwrap();
                walk(store, &d).await;
            }
            Step::Release(n) => {
                if let Some(id) = pick(n) {
                    store.releases().create(support::new_release(id)).await.unwrap();
                }
            }
            Step::Switch(n) => {
                let Some(id) = pick(n) else { continue };
                let d = store.deployments().get(id).await.unwrap().unwrap();
                if let Some(release) = d.release {
                    let _ = store.deployments().switch_live(id, release).await;
                }
            }
            Step::Finish(n) => {
                if let Some(id) = pick(n) {
                    let _ = store.deployments().finish_live(id).await;
                }
            }
            Step::RollBack(n, to) => {
                let (Some(id), Some(to)) = (pick(n), pick(to)) else { continue };
                let to = store.deployments().get(to).await.unwrap().unwrap().release;
                let d = store.deployments().get(id).await.unwrap().unwrap();
                let _ = store.deployments().roll_back(id, d.state, to, Change::default()).await;
            }
            Step::Cancel(n) => {
                if let Some(id) = pick(n) {
                    let _ = store.deployments().request_cancel(id, "t").await;
                }
            }
        }
        check(&world, &app, &before).await?;
    }
    Ok(())
}

async fn all(store: &Store, app: &AppRow) -> Vec<DeploymentRow> {
    let mut all = store.deployments().list(app.id, None, None, 500).await.unwrap();
    all.reverse();
    all
}

async fn check(world: &World, app: &AppRow, before: &[DeploymentRow]) -> Result<(), TestCaseError> {
    let now = all(&world.store, app).await;
    let numbers: Vec<i64> = now.iter().map(|d| d.number).collect();
    let gapless: Vec<i64> = (1..=i64::try_from(now.len()).unwrap()).collect();
    prop_assert_eq!(numbers, gapless);
    prop_assert!(now.iter().filter(|d| d.state == S::Live).count() <= 1, "two are live");
    for (old, new) in before.iter().zip(&now) {
        prop_assert!(!old.state.is_final() || old.state == new.state, "{} left a final state", old.number);
        prop_assert!(
            old.state == new.state || old.state.can_become(new.state),
            "{:?} became {:?}",
            old.state,
            new.state
        );
        prop_assert_eq!(new.finished_at.is_some(), new.state.is_settled());
        prop_assert!(old.finished_at.is_none() || old.finished_at == new.finished_at);
    }
    for d in &now {
        let steps = world.store.deployments().transitions(d.id).await.unwrap();
        prop_assert_eq!(steps.last().map(|t| t.state), Some(d.state));
        prop_assert!(steps.windows(2).all(|w| w[0].state.can_become(w[1].state)));
    }
    let events = world.store.events().list(&Visible::All, None, None, None, None, 1000).await.unwrap();
    for d in &now {
        let name = d.reference().to_string();
        let newest = events
            .iter()
            .find(|e| e.data["deployment"] == name.as_str() && e.kind != "deployment.cancel_requested")
            .map(|e| e.kind.clone());
        prop_assert_eq!(newest, Some(format!("deployment.{}", d.state.as_str())));
    }
    // The live pointer shows what the states say: a release of this environment that was switched to.
    let live = world.refresh(app).await.environment.live;
    if let Some(live) = live {
        let release = world.store.releases().get(live).await.unwrap().unwrap();
        prop_assert_eq!(release.environment_id, app.environment.id);
        prop_assert!(release.live_at.is_some());
        // Until the requests to the release before have finished, that one still counts as live.
        let draining = now.iter().any(|d| d.state == S::Draining && d.release == Some(live));
        for d in now.iter().filter(|d| d.state == S::Live && !draining) {
            prop_assert_eq!(d.release, Some(live), "{} is live, but another has the traffic", d.number);
        }
    } else {
        prop_assert!(now.iter().all(|d| !matches!(d.state, S::Draining | S::Live)));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, max_shrink_iters: 100, ..ProptestConfig::default() })]
    #[test]
    fn promises_hold_in_every_order(steps in prop::collection::vec(step(), 20..120)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(run(steps))?;
    }
}

/// The random walk above must get somewhere, or it proves nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_walk_reaches_live() {
    let world = World::on(None).await;
    let app = world.app("web").await;
    let d = world.enqueue(&app).await;
    for _ in 0..7 {
        walk(&world.store, &world.store.deployments().get(d.id).await.unwrap().unwrap()).await;
    }
    assert_eq!(world.state(&d).await, S::Live);
}
