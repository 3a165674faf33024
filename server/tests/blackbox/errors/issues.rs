//! Issues: what is known of them, how they are searched, and decisions about them.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::json;

use super::{dsn, envelope, event, found, send};
use crate::harness::Berth;

#[tokio::test]
async fn an_issue_leads_to_its_cause_and_keeps_no_secret() {
    let berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "web").await;
    let more = json!({
        "user": {"id": "7", "email": "ann@shop.example", "ip_address": "203.0.113.77"},
        "tags": {"shop": "north"},
        "request": {"method": "GET", "url": "https://shop.example/cart?token=hunter2",
            "headers": {"Authorization": "Bearer hunter2hunter2", "User-Agent": "Mozilla/5.0 (X11; Linux) Firefox/149.0"}},
        "breadcrumbs": [{"category": "http", "data": {"method": "GET", "url": "/prices", "status_code": 503}}],
        "extra": {"db_password": "hunter2"},
    });
    for n in 1..=3 {
        let (status, answer) = send(&dsn, envelope(&event(n, more.clone()))).await;
        assert_eq!((status, answer["id"].as_str().unwrap()), (StatusCode::OK, format!("{n:032x}").as_str()));
    }
    // The same event again is the same event.
    assert_eq!(send(&dsn, envelope(&event(3, more.clone()))).await.0, StatusCode::OK);
    found(&berth, &format!("id:{:032x}", 3), 1).await;
    let issue = found(&berth, "is:open", 1).await.remove(0);
    assert_eq!((&issue["issue"], &issue["kind"]), (&json!("WEB-1"), &json!("KeyError")));
    assert_eq!(issue["culprit"], "total in app/cart.py");
    let got = berth.rest().get("/v1/errors/WEB-1").await.ok();
    assert_eq!(
        (&got["events"], &got["users"], &got["events_24h"]),
        (&json!(3), &json!(1), &json!(3)),
        "{got:#}"
    );
    let latest = &got["latest"];
    assert_eq!(latest["exceptions"][0]["frames"][0]["place"], "total (app/cart.py:9)");
    let code = latest["exceptions"][0]["frames"][0]["code"].as_str().unwrap();
    assert!(code.contains("> ") && code.contains("return prices[item]"), "{code}");
    assert!(latest["breadcrumbs"][0]["text"].as_str().unwrap().contains("/prices → 503"));
    assert!(
        got["grouped_by"].as_array().unwrap().iter().any(|r| r["value"] == "total in cart.py"),
        "{got:#}"
    );
    for query in [
        "prices",
        "\"KeyError 3\"",
        "user.email:ann@shop.example",
        "shop:north",
        "browser:firefox",
        "release:1.*",
        "function:total",
        "file:*cart.py",
        "has:shop !has:logger",
        "level:error environment:production",
        "is:open (shop:south OR shop:north)",
        "events:>=3 users:1",
        "age:<1h",
        "first_seen:>1h",
        "type:[KeyError, x]",
    ] {
        found(&berth, query, 1).await;
    }
    for query in
        ["shop:south", "is:resolved", "level:fatal", "events:>3", "nowhere", "!shop:north", "age:>1h"]
    {
        found(&berth, query, 0).await;
    }
    let mistake = berth.rest().get("/v1/errors?query=levl:error").await.problem(400, "invalid_input");
    assert!(mistake["hint"].as_str().unwrap().contains("level:"), "{mistake:#}");
    let faceted = berth.rest().get("/v1/errors?facets=shop&facets=level").await.ok();
    assert_eq!(faceted["facets"][0]["values"], json!([{ "value": "north", "events": 3 }]), "{faceted:#}");
    let raw = berth.rest().get("/v1/errors/WEB-1/event?raw=true").await.ok().to_string();
    assert!(raw.contains("[Filtered]") && !raw.contains("hunter2"), "{raw}");
    assert!(raw.contains("203.0.113.0") && !raw.contains("203.0.113.77"));
    for file in ["berth.db", "intake.db"] {
        let database = std::fs::read(berth.data_dir().join(file)).unwrap();
        assert!(!database.windows(7).any(|w| w == b"hunter2"), "{file}");
    }
}

#[tokio::test]
async fn decisions_hold_until_a_newer_release_shows_the_error_again() {
    let berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "web").await;
    let rest = berth.rest();
    let state = async || berth.rest().get("/v1/errors/WEB-1").await.ok();
    let send_in = async |n: u32, release: &str| {
        let events = state_events(&berth).await;
        assert_eq!(send(&dsn, envelope(&event(n, json!({ "release": release })))).await.0, StatusCode::OK);
        for _ in 0..100 {
            if state_events(&berth).await > events {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("event {n} was not digested");
    };
    send_in(1, "1.0").await;
    let resolved = rest.post("/v1/errors/WEB-1/resolve", json!({ "in_next_release": true })).await.ok();
    assert_eq!(resolved["state"], "resolved");
    send_in(2, "1.0").await;
    assert_eq!(state().await["state"], "resolved", "the old release is still running");
    send_in(3, "1.1").await;
    let got = state().await;
    assert_eq!((&got["state"], &got["regressed"]), (&json!("open"), &json!(true)));
    found(&berth, "is:regressed", 1).await;
    rest.post("/v1/errors/WEB-1/ignore", json!({ "events": 2 })).await.ok();
    send_in(4, "1.1").await;
    assert_eq!(state().await["state"], "ignored");
    send_in(5, "1.1").await;
    assert_eq!(state().await["state"], "open", "the limit is reached");
    let compared = rest.get("/v1/apps/web/errors/releases").await.ok();
    assert_eq!(
        (&compared["release"]["release"], &compared["with"]["release"]),
        (&json!("1.1"), &json!("1.0"))
    );
    // Two become one, and one becomes two again.
    let other = json!({ "exception": {"values": [{ "type": "Other", "value": "y" }]} });
    send(&dsn, envelope(&event(9, other.clone()))).await;
    found(&berth, "type:Other", 1).await;
    let merged = rest.post("/v1/errors/WEB-2/merge", json!({ "into": "WEB-1" })).await.ok();
    assert_eq!(merged["events"], 6);
    send(&dsn, envelope(&event(10, other))).await;
    let issue = found(&berth, "type:Other", 1).await.remove(0);
    assert_eq!(issue["issue"], "WEB-1", "new events follow");
    let apart = rest.post("/v1/errors/WEB-1/split", json!({ "event": format!("{:032x}", 10) })).await.ok();
    assert_eq!((&apart["issue"], &apart["events"]), (&json!("WEB-3"), &json!(2)), "{apart:#}");
    assert_eq!(found(&berth, "type:Other", 1).await[0]["issue"], "WEB-3");
    rest.delete("/v1/errors/WEB-3").await.problem(400, "confirmation_required");
    rest.delete("/v1/errors/WEB-3?confirm=WEB-3").await.ok();
    found(&berth, "is:open", 1).await;
    rest.get("/v1/errors/WEB-3").await.problem(404, "not_found");
}

async fn state_events(berth: &Berth) -> i64 {
    let page = berth.rest().get("/v1/errors?query=events:%3E0").await.ok();
    page["issues"][0]["events"].as_i64().unwrap_or(0)
}
