//! What was acknowledged is there after the process was killed; what a migration changes was copied first.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod support;

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
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
        let mut kept = 0;
        loop {
            kept += 1;
            store.errors().accept(&[sent(&app)]).await.unwrap();
            if kept % 7 == 0 {
                digest_all(&store).await;
            }
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

/// An event and a file that belongs to it, as a client sends them.
fn sent(app: &AppRow) -> NewIntake {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    // Different in every run of the child.
    let event = n.wrapping_add(std::process::id().wrapping_mul(100_003));
    let item = |kind| support::scenarios::item(event, kind, "{}");
    NewIntake {
        app: app.id,
        environment: app.environment.id,
        received_at: berth_schemas::Timestamp(support::START),
        items: vec![item(ItemKind::Event), item(ItemKind::Attachment)],
        dropped: Vec::new(),
    }
}

async fn attachments(dir: &std::path::Path) -> i64 {
    use sqlx::Row as _;
    let url = format!("sqlite://{}?mode=ro", dir.join(SQLITE_FILE).display());
    let pool = sqlx::any::AnyPoolOptions::new().max_connections(1).connect(&url).await.unwrap();
    let row = sqlx::query("SELECT COUNT(*) FROM error_attachments").fetch_one(&pool).await.unwrap();
    row.try_get(0).unwrap()
}

async fn digest_all(store: &Store) {
    loop {
        // An odd number, so that an event and its file part now and then.
        let rows = store.errors().waiting(None, 9).await.unwrap();
        if rows.is_empty() {
            return;
        }
        let (events, others): (Vec<_>, Vec<_>) = rows.into_iter().partition(|r| r.kind == ItemKind::Event);
        let events: Vec<_> = events.iter().map(|r| support::scenarios::read(r, "A", "1", "ann")).collect();
        store.errors().digest(&events, &others, &[]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_daemon_loses_nothing_that_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = 0;
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
        // Each deployment was acknowledged after an event with its file was: none is missing, and no file is there twice.
        digest_all(&store).await;
        let issue = store.errors().issue(&Visible::All, &"WEB-1".parse().unwrap()).await.unwrap().unwrap();
        let files = attachments(dir.path()).await;
        assert_eq!(issue.events, files);
        assert!(issue.events >= acknowledged && issue.events > all, "{} of {acknowledged}", issue.events);
        all = issue.events;
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
