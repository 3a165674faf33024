//! Searching issues: in which order they come, also while the index is built anew; and what is kept besides errors.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{Dsn, client, dsn, envelope, event, found, send};
use crate::harness::Berth;

fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Events of one kind: their users, and how many minutes ago they happened.
async fn happen(dsn: &Dsn, first: u32, kind: &str, value: &str, seen: &[(&str, f64)]) {
    for (n, (user, minutes)) in seen.iter().enumerate() {
        let more = json!({
            "timestamp": now() - minutes * 60.0, "user": { "id": user },
            "exception": {"values": [{ "type": kind, "value": value }]},
        });
        let body = envelope(&event(first + u32::try_from(n).unwrap(), more));
        assert_eq!(send(dsn, body).await.0, StatusCode::OK);
    }
}

#[tokio::test]
async fn issues_come_in_the_order_that_is_asked_for() {
    let berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "web").await;
    // No two of the orders are the same.
    happen(&dsn, 10, "Old", "the pool is empty", &[("a", 50.0), ("b", 40.0), ("c", 9.0)]).await;
    let twice = [("a", 30.0), ("a", 29.0), ("a", 28.0), ("a", 27.0), ("a", 5.0)];
    happen(&dsn, 20, "Often", "pool pool pool: the pool of the pool is no pool", &twice).await;
    happen(
        &dsn,
        30,
        "Fresh",
        "the pool and a great many other words that have nothing to do with it",
        &[("a", 2.0), ("b", 1.0)],
    )
    .await;
    found(&berth, "pool", 3).await;
    found(&berth, "events:>=2", 3).await;
    for _ in 0..100 {
        let events = berth.rest().get("/v1/errors").await.ok();
        let all =
            events["issues"].as_array().unwrap().iter().map(|i| i["events"].as_i64().unwrap()).sum::<i64>();
        if all == 10 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let order = async |query: &str, sort: &str| {
        let page = berth.rest().get(&format!("/v1/errors?query={query}{sort}")).await.ok();
        let kinds = page["issues"].as_array().unwrap().iter().map(|i| i["kind"].as_str().unwrap().to_owned());
        kinds.collect::<Vec<_>>()
    };
    for (query, sort, wanted) in [
        ("pool", "", ["Fresh", "Often", "Old"]),
        ("pool", "&sort=last_seen", ["Fresh", "Often", "Old"]),
        ("pool", "&sort=first_seen", ["Fresh", "Often", "Old"]),
        ("pool", "&sort=events", ["Often", "Old", "Fresh"]),
        ("pool", "&sort=users", ["Old", "Fresh", "Often"]),
        ("is:open", "&sort=users", ["Old", "Fresh", "Often"]),
        ("is:open", "&sort=relevance", ["Fresh", "Often", "Old"]),
    ] {
        assert_eq!(order(query, sort).await, wanted, "{query} {sort}");
    }
    assert_eq!(order("pool", "&sort=relevance").await[0], "Often", "it speaks of nothing else");
    assert_eq!(order("great%20pool", "&sort=relevance").await, ["Fresh"]);
    // First and last seen are two orders.
    happen(&dsn, 40, "Old", "the pool is empty", &[("a", 0.1)]).await;
    for _ in 0..100 {
        if order("pool", "&sort=last_seen").await[0] == "Old" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(order("pool", "&sort=last_seen").await, ["Old", "Fresh", "Often"]);
    assert_eq!(order("pool", "&sort=first_seen").await, ["Fresh", "Often", "Old"]);
    // Pages are parts of the same order.
    let mut kinds = Vec::new();
    let mut cursor = String::new();
    loop {
        let page =
            berth.rest().get(&format!("/v1/errors?query=pool&sort=relevance&limit=1{cursor}")).await.ok();
        kinds.push(page["issues"][0]["kind"].as_str().unwrap().to_owned());
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(kinds, order("pool", "&sort=relevance").await);
    berth.rest().get("/v1/errors?sort=age").await.problem(400, "invalid_input");
}

#[tokio::test]
async fn an_index_is_rebuilt_while_events_come_and_searches_are_served() {
    let berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "web").await;
    let tagged = |n: u32| envelope(&event(n, json!({ "tags": { "shop": "north" } })));
    for n in 1..=100 {
        assert_eq!(send(&dsn, tagged(n)).await.0, StatusCode::OK);
    }
    found(&berth, &format!("id:{:032x}", 100), 1).await;
    let sending = async {
        let http = client();
        let url = format!("{}?sentry_key={}", dsn.url, dsn.key);
        for n in 101..=400 {
            let status = http.post(&url).body(tagged(n)).send().await.unwrap().status();
            assert_eq!(status, StatusCode::OK);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let rebuilding = async {
        for _ in 0..5 {
            let begun = berth.cli(["error", "index-rebuild", "--json"]).await;
            assert_eq!(begun.json()["begun"], true, "{begun:?}");
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    // What was found before is found all the time, also by a tag.
    let searching = async {
        for _ in 0..60 {
            let page = berth.rest().get("/v1/errors?query=shop:north&facets=shop").await.ok();
            assert_eq!(page["total"], 1, "{page:#}");
            assert!(page["facets"][0]["values"][0]["events"].as_u64().unwrap() >= 100, "{page:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::join!(sending, rebuilding, searching);
    found(&berth, &format!("id:{:032x}", 400), 1).await;
    let page = berth.rest().get("/v1/errors?query=shop:north&facets=shop").await.ok();
    let each = json!([{ "value": "north", "events": 400 }]);
    assert_eq!(page["facets"][0]["values"], each, "nothing is lost, nothing doubled");
}

#[tokio::test]
async fn what_is_kept_besides_errors_is_counted_by_kind() {
    let berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "web").await;
    let item = |kind: &str, body: Value| format!("{{\"type\":\"{kind}\"}}\n{body}\n");
    let mut body = "{}\n".to_owned();
    body.push_str(&item("session", json!({ "sid": "s", "status": "ok", "attrs": { "release": "1" } })));
    body.push_str(&item("transaction", json!({ "transaction": "/cart", "spans": [] })));
    body.push_str(&item("transaction", json!({ "transaction": "/pay", "spans": [] })));
    body.push_str(&item(
        "check_in",
        json!({ "check_in_id": "c", "monitor_slug": "nightly", "status": "ok" }),
    ));
    body.push_str(&item("log", json!({ "items": [{ "body": "hello", "level": "info" }] })));
    body.push_str(&item("event", event(1, json!({}))));
    assert_eq!(send(&dsn, body.into_bytes()).await.0, StatusCode::OK);
    let wanted = json!([
        { "kind": "check_in", "count": 1, "shown_by": "telemetry_list" },
        { "kind": "logs", "count": 1, "shown_by": "telemetry_list" },
        { "kind": "session", "count": 1, "shown_by": "error_release_compare" },
        { "kind": "transaction", "count": 2, "shown_by": "telemetry_list" },
    ]);
    let mut told = Value::Null;
    for _ in 0..100 {
        told = berth.rest().get("/v1/apps/web/dsn").await.ok();
        if told["kept_24h"] == wanted && told["accepted_24h"] == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{told:#}");
}
