//! The exam's own exam, without a model: every task can be done and cannot be passed by chance.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may fail this way")]

mod by_hand;
mod command_line;
mod hints;
mod lint;
mod models;
mod security;
mod store;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use berth_evals::{
    harness::{
        gate,
        qa::Evaluation,
        retrieval,
        session::Session,
        task::{Kind, Task},
        world::{World, Worlds},
    },
    program::program,
};

/// Tasks at the same time: the tests around this one want cores, too.
const JOBS: usize = 3;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The daemon's program, if it has been built; says so where it has not, and fails where it must have been.
/// `BERTH_TEST_PROGRAM` names another one.
fn berth() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_BIN_EXE_berth-evals")).with_file_name("berth");
    let path = std::env::var_os("BERTH_TEST_PROGRAM").map_or(beside, PathBuf::from);
    if program(&path).arg("--version").output().is_ok_and(|o| o.status.success()) {
        return Some(path);
    }
    let required = std::env::var_os("BERTH_TEST_REQUIRE_BERTH").is_some();
    assert!(!required, "berth is not built: cargo build -p berth");
    println!("skipped: berth is not built (cargo build -p berth)");
    None
}

/// Tasks whose world this machine can make; says which it cannot.
fn possible(tasks: Vec<Task>) -> Vec<Task> {
    let worlds: BTreeMap<String, bool> = tasks
        .iter()
        .map(|t| (t.world.clone(), World::read(root(), &t.world).unwrap().lacks().is_empty()))
        .collect();
    tasks
        .into_iter()
        .filter(|t| {
            let can = worlds[&t.world];
            if !can {
                println!("skipped: {} (its world needs what this machine lacks)", t.id);
            }
            can
        })
        .collect()
}

#[tokio::test]
async fn every_task_can_be_done_and_nothing_wrong_passes() {
    let Some(berth) = berth() else { return };
    let tasks = possible(Task::all(root()).unwrap());
    let worlds = Arc::new(Worlds::new(berth, root().to_path_buf()));
    let wrong = gate::check_all(worlds, tasks, JOBS).await.unwrap();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What an agent reads of times is the same in every sitting, but for a few seconds.
#[tokio::test]
async fn worlds_are_made_and_met_at_the_same_time() {
    let Some(berth) = berth() else { return };
    if std::env::var_os("BERTH_TEST_PROGRAM").is_some() {
        println!("skipped: only a debug build can be told the time");
        return;
    }
    for _ in 0..2 {
        // Not copied from one that was made before.
        let worlds = Worlds::new(berth.clone(), root().to_path_buf());
        let place = worlds.place("harbour").await.unwrap();
        let apps = place.api.call("app_list", serde_json::json!({})).await.unwrap();
        let events = place.api.call("event_list", serde_json::json!({ "limit": 100 })).await.unwrap();
        let times: Vec<&str> =
            events["events"].as_array().unwrap().iter().filter_map(|e| e["at"].as_str()).collect();
        assert!(!times.is_empty() && apps["total"].as_u64().is_some_and(|n| n > 0));
        let fixed =
            |time: &&str| time.starts_with("2026-01-05T09:0") || time.starts_with("2026-01-05T10:00:");
        let odd: Vec<&&str> = times.iter().filter(|t| !fixed(t)).collect();
        assert!(odd.is_empty(), "{odd:?}");
        let status = place.api.call("platform_status", serde_json::json!({})).await.unwrap();
        assert!(status.to_string().contains("2026-01-05T10:00:0"), "{status}");
    }
}

#[test]
fn the_exam_has_tasks_of_every_kind() {
    let tasks = Task::all(root()).unwrap();
    for kind in Kind::ALL {
        assert!(tasks.iter().any(|t| t.kind == kind), "no task is of the kind {kind:?}");
    }
}

/// Floors, with room for tools that are still to come; what is found today is printed.
#[tokio::test]
async fn what_people_say_finds_the_tool_they_mean() {
    let Some(berth) = berth() else { return };
    let queries = retrieval::queries(root()).unwrap();
    assert!(queries.len() >= 100);
    let place = Worlds::new(berth, root().to_path_buf()).place("empty").await.unwrap();
    let (control, token) = (place.daemon.control, &place.daemon.token);
    let mut session = Session::open(control, token, "", queries.len()).await.unwrap();
    let score = retrieval::score(&mut session, &queries).await.unwrap();
    println!("{} queries: hit@1 {:.3}, hit@3 {:.3}", score.asked, score.hit_at_1(), score.hit_at_3());
    assert!(score.hit_at_1() >= 0.75 && score.hit_at_3() >= 0.9, "{score:#?}");
    let tools = place.api.tools();
    for query in &queries {
        assert!(
            query.tools.iter().all(|t| tools.contains_key(t)),
            "{query:?} names a tool that is not there"
        );
    }
    let unasked = tools.keys().filter(|t| !queries.iter().any(|q| q.tools.contains(t)));
    let unasked: Vec<_> = unasked.collect();
    assert!(unasked.is_empty(), "nothing is said in evals/retrieval/queries.jsonl for {unasked:?}");
}

#[tokio::test]
async fn every_answer_follows_from_its_world() {
    let Some(berth) = berth() else { return };
    let worlds = Worlds::new(berth, root().to_path_buf());
    for (name, evaluation) in Evaluation::all(root()).unwrap() {
        let place = worlds.place(&evaluation.world).await.unwrap();
        assert_eq!(evaluation.pairs.len(), 10, "{name}");
        for pair in &evaluation.pairs {
            let derived =
                pair.derive(&place.api).await.unwrap_or_else(|e| panic!("{}: {e:#}", pair.question));
            assert_eq!(derived, pair.answer, "{}", pair.question);
        }
    }
}
