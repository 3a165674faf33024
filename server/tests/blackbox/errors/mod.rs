//! Errors of apps from outside: what Sentry's unmodified clients send becomes issues that lead to their cause.

mod alerts;
mod browser;
mod captured;
mod compare;
mod deployed_maps;
mod erasing;
mod hostile;
mod image_maps;
mod ingest;
mod issues;
mod keys;
mod maps;
mod next;
mod people;
mod rust_sdk;
mod sdks;
mod searching;

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::harness::Berth;

/// An app's way in, as its DSN says it.
pub(super) struct Dsn {
    pub(super) dsn: String,
    pub(super) key: String,
    /// URL of the endpoint for envelopes.
    pub(super) url: String,
}

impl Dsn {
    /// What a DSN says.
    pub(super) fn of(dsn: &str) -> Self {
        let (scheme, rest) = dsn.split_once("://").unwrap();
        let (key, place) = rest.split_once('@').unwrap();
        let (host, id) = place.rsplit_once('/').unwrap();
        let url = format!("{scheme}://{host}/api/{id}/envelope/");
        Self { key: key.to_owned(), url, dsn: dsn.to_owned() }
    }
}

pub(super) async fn dsn(berth: &Berth, app: &str) -> Dsn {
    berth.rest().post("/v1/apps", json!({ "name": app })).await.ok();
    Dsn::of(berth.rest().get(&format!("/v1/apps/{app}/dsn")).await.ok()["dsn"].as_str().unwrap())
}

pub(super) fn event(n: u32, more: Value) -> Value {
    let mut event = json!({
        "event_id": format!("{n:032x}"),
        "platform": "python",
        "release": "1.0",
        "exception": {"values": [{
            "type": "KeyError", "value": format!("'{n}'"),
            "stacktrace": {"frames": [
                {"filename": "app/main.py", "function": "main", "lineno": 3, "in_app": true, "context_line": "cart()"},
                {"filename": "app/cart.py", "function": "total", "lineno": 9, "in_app": true,
                    "pre_context": ["def total(items):"], "context_line": "    return prices[item]", "post_context": [""]},
            ]},
        }]},
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        event[name] = value.clone();
    }
    event
}

pub(super) fn envelope(event: &Value) -> Vec<u8> {
    format!("{{}}\n{{\"type\":\"event\"}}\n{event}\n").into_bytes()
}

pub(super) fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

pub(super) async fn send(dsn: &Dsn, body: Vec<u8>) -> (StatusCode, Value) {
    let url = format!("{}?sentry_key={}", dsn.url, dsn.key);
    let answer = client().post(url).body(body).send().await.unwrap();
    (answer.status(), answer.json().await.unwrap_or_default())
}

/// Searches until `wanted` issues are found.
pub(super) async fn found(berth: &Berth, query: &str, wanted: usize) -> Vec<Value> {
    let query: String = query.bytes().map(|b| format!("%{b:02X}")).collect();
    let mut last = Value::Null;
    for _ in 0..100 {
        // A tag that no indexed event has yet is no field.
        last = berth.rest().get(&format!("/v1/errors?query={query}&sort=first_seen")).await.json();
        if let Some(issues) = last["issues"].as_array()
            && issues.len() == wanted
        {
            return issues.clone();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not {wanted} issues within 10 s: {last:#}");
}
