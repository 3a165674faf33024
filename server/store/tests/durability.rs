//! What was acknowledged is there after the process was killed; what a migration changes was copied first.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod support;

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    time::Duration,
};

use berth_store::*;
use support::World;

const CHILD: &str = "BERTH_TEST_DURABILITY_CHILD";

/// In a child process: enqueues deployments and logs lines for ever, and says what was acknowledged.
#[test]
fn child() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let time = std::sync::Arc::default();
        let store = support::open(dir.as_ref(), None, &time).await.unwrap();
        let project = store.projects().list(&Visible::All).await.unwrap()[0].id;
        let name = support::app_name("web");
        let root = Principal::daemon();
        let app = match store.apps().by_slug(&Visible::All, &name).await.unwrap() {
            Some(app) => app,
            None => store.apps().create(&root, project, name, Default::default()).await.unwrap(),
        };
        let mut out = std::io::stdout();
        loop {
            let d = store.deployments().enqueue(support::new_deployment(&app)).await.unwrap();
            let n = d.number;
            let lines: Vec<_> =
                (0..50).map(|m| support::scenarios::log_line(&app, n * 50 + m, "line")).collect();
            store.logs().append(&lines, &[]).await.unwrap();
            writeln!(out, "ack {n}").unwrap();
            out.flush().unwrap();
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_daemon_loses_nothing_that_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    for round in 1..=3u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reader = std::thread::spawn(move || {
            let acks =
                lines.map_while(Result::ok).filter_map(|l| l.strip_prefix("ack ")?.parse::<i64>().ok());
            acks.last()
        });
        tokio::time::sleep(Duration::from_millis(700 + 130 * round)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        let acknowledged = reader.join().unwrap().expect("the child got somewhere");

        let time = std::sync::Arc::default();
        let store = support::open(dir.path(), None, &time).await.unwrap();
        let app = store.apps().by_slug(&Visible::All, &support::app_name("web")).await.unwrap().unwrap();
        let there = store.deployments().list(app.id, None, None, 1).await.unwrap()[0].number;
        assert!(there == acknowledged || there == acknowledged + 1, "{there} of {acknowledged}");
        let events = store.events().list(&Visible::All, None, Some("deployment.queued"), None, None, 1).await;
        assert_eq!(events.unwrap()[0].data["deployment"], format!("web#{there}"));
        let query = LogQuery {
            since: Some(berth_schemas::Timestamp(acknowledged * 50_000_000)),
            limit: 200,
            ..LogQuery::default()
        };
        assert!(store.logs().search(app.id, &query).await.unwrap().0.len() >= 50);
        let rows = store.logs().volume().await.unwrap().rows;
        // Each earlier round may have ended between a deployment and its lines, neither of them acknowledged.
        let gaps = i64::try_from(round).unwrap() - 1;
        assert!(rows >= 50 * (acknowledged - gaps), "{rows} of {acknowledged}");
        println!("round {round}: {acknowledged} acknowledged, {there} there");
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_lost_its_history_is_refused() {
    let world = World::on(None).await;
    world.tamper("UPDATE migrations SET checksum = 'x' WHERE version = 1").await;
    world.store.close().await;
    let changed = support::open(world.dir.path(), None, &world.time).await;
    assert!(matches!(changed, Err(StoreError::MigrationChanged { version: 1 })), "{changed:?}");
}
