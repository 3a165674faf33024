//! What real clients once sent (`tests/fixtures/sentry`): every item of it is understood.

use std::{path::Path, time::Duration};

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{dsn, found, send};
use crate::harness::Berth;

/// Ids of the events in an envelope.
fn events(bytes: &[u8]) -> Vec<String> {
    let lines: Vec<&[u8]> = bytes.split(|b| *b == b'\n').collect();
    let event = |pair: &[&[u8]]| {
        let header: Value = serde_json::from_slice(pair[0]).ok()?;
        let body: Value = serde_json::from_slice(pair[1]).ok()?;
        (header["type"] == "event").then(|| body["event_id"].as_str().unwrap().replace('-', ""))
    };
    lines.windows(2).filter_map(event).collect()
}

#[tokio::test]
async fn all_that_was_captured_is_accepted() {
    let berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "web").await;
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sentry");
    let mut ids = std::collections::BTreeSet::new();
    let mut sent = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "envelope") {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        ids.extend(events(&bytes));
        let (status, answer) = send(&dsn, bytes).await;
        assert_eq!(status, StatusCode::OK, "{}: {answer}", path.display());
        sent += 1;
    }
    assert!(sent > 50 && ids.len() > 25, "{sent} envelopes with {} events", ids.len());
    let mut told = Value::Null;
    for _ in 0..200 {
        told = berth.rest().get("/v1/apps/web/dsn").await.ok();
        if told["accepted_24h"] == json!(ids.len()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(told["accepted_24h"], json!(ids.len()), "{told:#}");
    for dropped in told["dropped_24h"].as_array().unwrap() {
        let reason = dropped["reason"].as_str().unwrap();
        assert!(reason.starts_with("client:"), "dropped by the client itself, or not at all: {dropped}");
    }
    // What else they sent is listed, and said in a line.
    let others =
        told["kept_24h"].as_array().unwrap().iter().filter(|kept| kept["shown_by"] == "telemetry_list");
    let mut kinds = Vec::new();
    for kind in others.map(|kept| kept["kind"].as_str().unwrap()) {
        let path = format!("/v1/apps/web/telemetry?kind={kind}&raw=true&limit=100");
        let page = berth.rest().get(&path).await.ok();
        let items = page["items"].as_array().unwrap();
        let binary = ["replay_recording", "profile"].contains(&kind);
        assert!(items.iter().any(|item| binary || item["summary"].is_string()), "{kind}: {page:#}");
        assert!(items.iter().all(|item| item["raw"].is_string() != binary), "{kind}: {page:#}");
        kinds.push(kind);
    }
    assert!(kinds.contains(&"transaction") && kinds.contains(&"logs"), "{kinds:?}");
    // One of each client, found by what it said.
    for query in [
        "sdk:sentry.javascript.node*",
        "sdk:sentry.javascript.browser*",
        "sdk:sentry.python*",
        "sdk:sentry.rust*",
    ] {
        let mut issues = 0;
        for _ in 0..50 {
            let query: String = query.bytes().map(|b| format!("%{b:02X}")).collect();
            let page = berth.rest().get(&format!("/v1/errors?query={query}")).await.ok();
            issues = page["total"].as_u64().unwrap();
            if issues > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(issues > 0, "{query}");
    }
    // All in one envelope more: what was sent twice is there once.
    let before = found_total(&berth).await;
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sentry");
    let again = std::fs::read(dir.join("node-handled-002.envelope")).unwrap();
    assert_eq!(send(&dsn, again).await.0, StatusCode::OK);
    assert_eq!(
        send(&dsn, b"{}\n{\"type\":\"event\"}\n{\"message\":\"a last one\"}\n".to_vec()).await.0,
        StatusCode::OK
    );
    found(&berth, "\"a last one\"", 1).await;
    assert_eq!(found_total(&berth).await, before + 1);
}

async fn found_total(berth: &Berth) -> i64 {
    let page = berth.rest().get("/v1/errors?query=events:%3E0&limit=100").await.ok();
    page["issues"].as_array().unwrap().iter().map(|i| i["events"].as_i64().unwrap()).sum()
}
