//! Numbers rather than promises: `cargo test -p berth-store --test measure -- --ignored --nocapture`.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod support;

use std::time::Instant;

use berth_schemas::Timestamp;
use berth_store::*;
use support::{World, scenarios};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn a_hundred_thousand_lines() {
    measure(World::on(None).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn a_hundred_thousand_lines_on_postgresql() {
    let server = match support::postgresql::Server::start().await {
        Ok(server) => server,
        Err(why) => return println!("skipped: {why}"),
    };
    let url = server.database("measure").await;
    measure(World::on(Some(url.clone())).await).await;
    server.remove(&url).await;
}

async fn measure(world: World) {
    let app = world.app("web").await;
    println!("on {}", world.store.kind());
    let began = Instant::now();
    for batch in 0..200 {
        let lines: Vec<_> = (0..500)
            .map(|n| {
                let n = batch * 500 + n;
                let text = format!(
                    "2026-01-31T12:00:00.000Z INFO request {n} GET /items/{} 200 in {} ms",
                    n % 977,
                    n % 83
                );
                scenarios::log_line(&app, n, &text)
            })
            .collect();
        world.store.logs().append(&lines, &[]).await.unwrap();
    }
    let took = began.elapsed();
    println!("100,000 lines in batches of 500: {took:?}");
    let volume = world.store.logs().volume().await.unwrap();
    println!("counted: {} bytes a line", volume.bytes / volume.rows);
    for (what, contains, level) in [
        ("newest 100", None, None),
        ("a word of the newest lines", Some("items/5"), None),
        ("a word of no line", Some("nothing like this"), None),
        ("a level of no line", None, Some(berth_schemas::log::Level::Error)),
    ] {
        let query =
            LogQuery { contains: contains.map(str::to_owned), level, limit: 100, ..LogQuery::default() };
        let began = Instant::now();
        let found = world.store.logs().search(app.id, &query).await.unwrap().0.len();
        println!("search for {what}: {found} lines in {:?}", began.elapsed());
    }
    let began = Instant::now();
    for batch in 0..50 {
        let requests: Vec<_> =
            (0..2000).map(|n| scenarios::request(&app, batch * 2000 + n, 200, n % 300)).collect();
        world.store.requests().append(&requests).await.unwrap();
    }
    println!("100,000 requests in batches of 2,000: {:?}", began.elapsed());
    let began = Instant::now();
    let page =
        world.store.requests().list(app.id, &RequestQuery { limit: 50, ..RequestQuery::default() }).await;
    println!("list with percentiles over {}: {:?}", page.unwrap().total, began.elapsed());
    let began = Instant::now();
    for _ in 0..100 {
        world.enqueue(&app).await;
    }
    println!("a state change: {:?}", began.elapsed() / 100);
    let began = Instant::now();
    let pruned = world.store.logs().prune(Timestamp(50_000 * 1_000_000), i64::MAX).await.unwrap();
    println!("pruned {} lines: {:?}", pruned.rows, began.elapsed());
    if world.url.is_none() {
        world.store.close().await;
        let size = std::fs::metadata(world.dir.path().join(SQLITE_FILE)).unwrap().len();
        println!("file, with 100,000 lines' and 100,000 requests' pages: {} MiB", size >> 20);
    }
}
