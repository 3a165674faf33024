//! Errors of apps from outside: what Sentry's unmodified clients send becomes issues that lead to their cause.

use std::{io::Write as _, time::Duration};

use flate2::Compression;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{
    Berth,
    external::{npm_or_skip, python_or_skip},
};

/// An app's way in, as its DSN says it.
struct Dsn {
    dsn: String,
    key: String,
    /// URL of the endpoint for envelopes.
    url: String,
}

async fn dsn(berth: &Berth, app: &str) -> Dsn {
    berth.rest().post("/v1/apps", json!({ "name": app })).await.ok();
    let dsn = berth.rest().get(&format!("/v1/apps/{app}/dsn")).await.ok()["dsn"].as_str().unwrap().to_owned();
    let (scheme, rest) = dsn.split_once("://").unwrap();
    let (key, place) = rest.split_once('@').unwrap();
    let (host, id) = place.rsplit_once('/').unwrap();
    let url = format!("{scheme}://{host}/api/{id}/envelope/");
    Dsn { key: key.to_owned(), url, dsn: dsn.clone() }
}

fn event(n: u32, more: Value) -> Value {
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

fn envelope(event: &Value) -> Vec<u8> {
    format!("{{}}\n{{\"type\":\"event\"}}\n{event}\n").into_bytes()
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

async fn send(dsn: &Dsn, body: Vec<u8>) -> (StatusCode, Value) {
    let url = format!("{}?sentry_key={}", dsn.url, dsn.key);
    let answer = client().post(url).body(body).send().await.unwrap();
    (answer.status(), answer.json().await.unwrap_or_default())
}

/// Searches until `wanted` issues are found.
async fn found(berth: &Berth, query: &str, wanted: usize) -> Vec<Value> {
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
        "has:shop !has:nothing",
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
    let database = std::fs::read(berth.data_dir().join("berth.db")).unwrap();
    assert!(!database.windows(7).any(|w| w == b"hunter2"));
}

#[tokio::test]
async fn what_was_accepted_survives_a_kill() {
    let mut berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "web").await;
    let sends = (1..=40_u32).map(|n| {
        let more = json!({ "exception": {"values": [{ "type": format!("E{n}"), "value": "x" }]} });
        let (url, body) = (format!("{}?sentry_key={}", dsn.url, dsn.key), envelope(&event(n, more)));
        async move { client().post(url).body(body).send().await.unwrap().status() }
    });
    for status in futures_util::future::join_all(sends).await {
        assert_eq!(status, StatusCode::OK);
    }
    berth.kill().await;
    berth.start_again().await;
    let mut all = 0;
    for _ in 0..100 {
        let page = berth.rest().get("/v1/errors?limit=100").await.ok();
        all = page["issues"].as_array().unwrap().len();
        if all == 40 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(all, 40);
    found(&berth, "type:E17", 1).await;
    // The index can be thrown away.
    berth.kill().await;
    std::fs::remove_dir_all(berth.data_dir().join("index")).unwrap();
    berth.start_again().await;
    found(&berth, "type:E17", 1).await;
}

#[tokio::test]
async fn every_way_to_send_is_understood_and_every_mistake_is_answered() {
    let berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "web").await;
    let http = client();
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let mut n = 100;
    let mut next = || {
        n += 1;
        event(n, json!({ "exception": {"values": [{ "type": format!("E{n}"), "value": "x" }]} }))
    };
    let auth = format!("Sentry sentry_version=7, sentry_key={}, sentry_client=x/1", dsn.key);
    let base = dsn.url.trim_end_matches("envelope/").to_owned();
    let keyed = |path: &str| format!("{base}{path}?sentry_key={}", dsn.key);
    let mut sent = 0;
    let requests: Vec<reqwest::RequestBuilder> = vec![
        http.post(&dsn.url).header("x-sentry-auth", &auth).body(envelope(&next())),
        http.post(dsn.url.trim_end_matches('/')).header("authorization", &auth).body(envelope(&next())),
        http.post(&dsn.url).body({
            let event = next();
            format!("{}\n{{\"type\":\"event\"}}\n{event}", json!({ "dsn": dsn.dsn }))
        }),
        http.post(keyed("envelope/")).header("content-encoding", "gzip").body(gzip(&envelope(&next()))),
        http.post(keyed("envelope/")).header("content-encoding", "zstd").body(zstd::encode_all(envelope(&next()).as_slice(), 1).unwrap()),
        http.post(keyed("store/")).header("content-type", "text/plain").body(next().to_string()),
        http.post(keyed("security/")).header("content-type", "application/csp-report").body(
            json!({"csp-report": {"effective-directive": "img-src", "blocked-uri": "https://e.example/a.png"}}).to_string(),
        ),
        http.post(keyed("minidump/")).multipart(
            reqwest::multipart::Form::new()
                .part("upload_file_minidump", reqwest::multipart::Part::bytes(b"MDMP".to_vec()).file_name("a.dmp"))
                .text("sentry", "{\"release\":\"9\"}"),
        ),
    ];
    for request in requests {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "request {sent}");
        assert_eq!(answer.headers()["access-control-allow-origin"], "*");
        sent += 1;
    }
    found(&berth, "is:open", sent).await;
    let allowed = http.request(Method::OPTIONS, &dsn.url).send().await.unwrap();
    assert_eq!(allowed.status(), StatusCode::OK);
    assert!(allowed.headers()["access-control-allow-headers"].to_str().unwrap().contains("x-sentry-auth"));
    let bomb = gzip(&vec![b'x'; 60 << 20]);
    let wrong_key = "0".repeat(32);
    for (status, request) in [
        (401, http.post(&dsn.url).body("{}\n")),
        (403, http.post(format!("{}?sentry_key={wrong_key}", dsn.url)).body("{}\n")),
        (403, http.post(format!("{base}../999/envelope/?sentry_key={}", dsn.key)).body("{}\n")),
        (404, http.post(format!("{base}../x/envelope/?sentry_key={}", dsn.key)).body("{}\n")),
        (400, http.post(keyed("envelope/")).body("no json\n")),
        (400, http.post(keyed("envelope/")).header("content-encoding", "gzip").body("no gzip")),
        (400, http.post(keyed("store/")).body("[]")),
        (413, http.post(keyed("envelope/")).header("content-encoding", "gzip").body(bomb)),
    ] {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{:?}", answer.headers());
        assert!(answer.headers().contains_key("x-sentry-error"), "{status}");
    }
    let hostile = format!("{{}}\n{{\"type\":\"event\"}}\n{}\n", "[".repeat(100_000));
    assert_eq!(send(&dsn, hostile.into_bytes()).await.0, StatusCode::OK, "dropped and counted");
    let told = berth.rest().get("/v1/apps/web/dsn").await.ok();
    assert!(told["dropped_24h"].to_string().contains("invalid"), "{told:#}");
    assert_eq!(told["accepted_24h"], json!(sent));
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

#[tokio::test]
async fn more_than_may_come_is_counted_and_told() {
    let berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "web").await;
    berth
        .rest()
        .send(Method::PATCH, "/v1/apps/web/errors/rules", Some(json!({ "events_per_minute": 2 })))
        .await
        .ok();
    let mut statuses = Vec::new();
    for n in 1..=4 {
        let url = format!("{}?sentry_key={}", dsn.url, dsn.key);
        let answer = client().post(url).body(envelope(&event(n, json!({})))).send().await.unwrap();
        if answer.status() == StatusCode::TOO_MANY_REQUESTS {
            let limits = answer.headers()["x-sentry-rate-limits"].to_str().unwrap();
            assert!(limits.contains(":error;transaction:"), "{limits}");
            assert!(answer.headers().contains_key("retry-after"));
        }
        statuses.push(answer.status().as_u16());
    }
    assert_eq!(statuses, [200, 200, 429, 429]);
    for _ in 0..100 {
        let told = berth.rest().get("/v1/apps/web/dsn").await.ok();
        if told["dropped_24h"] == json!([{ "category": "error", "reason": "rate_limited", "count": 2 }]) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("what was refused is counted nowhere");
}

#[tokio::test]
async fn a_user_can_be_forgotten() {
    let berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "web").await;
    for (n, user) in [(1, "ann"), (2, "bob"), (3, "ann")] {
        send(&dsn, envelope(&event(n, json!({ "user": { "id": user } })))).await;
    }
    found(&berth, "user.id:ann", 1).await;
    let gone = berth.rest().delete("/v1/apps/web/errors/users/ann?confirm=ann").await.ok();
    assert_eq!((&gone["events"], &gone["deleted"]), (&json!(2), &json!(true)));
    found(&berth, "user.id:ann", 0).await;
    found(&berth, "user.id:bob", 1).await;
}

#[tokio::test]
async fn the_python_sdk_does_not_notice() {
    let Some(venv) = python_or_skip(&["sentry-sdk==2.75.0", "flask==3.1.2"]) else { return };
    let berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "shop").await;
    let script = r#"
import sys, sentry_sdk
from sentry_sdk.crons import monitor
sentry_sdk.init(dsn=sys.argv[1], release="shop@2", environment="production", traces_sample_rate=1.0)
import flask
app = flask.Flask("shop")
def price(item):
    return {}[item]
@app.route("/cart/<item>")
def cart(item):
    sentry_sdk.add_breadcrumb(category="cart", message="opened")
    sentry_sdk.set_user({"id": "7", "email": "ann@shop.example"})
    sentry_sdk.set_tag("shop", "north")
    return price(item)
client = app.test_client()
for item in ("apple", "pear"):
    assert client.get("/cart/" + item).status_code == 500
try:
    try:
        int("x")
    except ValueError as e:
        raise RuntimeError("no number") from e
except RuntimeError:
    sentry_sdk.capture_exception()
sentry_sdk.capture_message("disk is almost full", level="warning")
with monitor(monitor_slug="nightly"):
    pass
with sentry_sdk.push_scope() as scope:
    scope.add_attachment(bytes=b"a\nb", filename="notes.txt")
    sentry_sdk.capture_message("with notes")
sentry_sdk.flush()
"#;
    let ran = venv.command().args(["-c", script, &dsn.dsn]).output().await.unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let issues = found(&berth, "is:open", 4).await;
    let key = issues.iter().find(|i| i["kind"] == "KeyError").unwrap();
    assert_eq!(
        (&key["events"], &key["users"], &key["handled"]),
        (&json!(2), &json!(1), &json!(false)),
        "{key:#}"
    );
    assert!(key["culprit"].as_str().unwrap().starts_with("price in"), "{key:#}");
    let chained = issues.iter().find(|i| i["kind"] == "RuntimeError").unwrap();
    let got = berth.rest().get(&format!("/v1/errors/{}", chained["issue"].as_str().unwrap())).await.ok();
    let kinds: Vec<&Value> =
        got["latest"]["exceptions"].as_array().unwrap().iter().map(|e| &e["kind"]).collect();
    assert_eq!(kinds, ["RuntimeError", "ValueError"]);
    assert_eq!(found(&berth, "\"almost full\" level:warning", 1).await[0]["level"], "warning");
    let notes = found(&berth, "\"with notes\"", 1).await.remove(0);
    let got = berth.rest().get(&format!("/v1/errors/{}", notes["issue"].as_str().unwrap())).await.ok();
    assert_eq!(got["latest"]["attachments"], json!([{ "name": "notes.txt", "bytes": 3 }]));
    found(&berth, "transaction:cart shop:north release:shop@2", 1).await;
}

#[tokio::test]
async fn the_node_sdk_does_not_notice() {
    let Some(npm) = npm_or_skip(&["@sentry/node@11.12.0"]) else { return };
    let berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "web").await;
    let script = format!(
        r#"
import * as Sentry from "@sentry/node";
Sentry.init({{ dsn: {dsn:?}, release: "web@3", environment: "production", sendDefaultPii: true }});
function readOrder(order) {{ return order.lines[0]; }}
for (let i = 0; i < 3; i++) {{
  try {{ readOrder(undefined); }} catch (e) {{ e.message += " at try " + i; Sentry.captureException(e, {{ tags: {{ shop: "north" }} }}); }}
}}
Sentry.addBreadcrumb({{ category: "auth", message: "signed in" }});
Sentry.captureMessage("order 17 is late");
Sentry.captureMessage("order 18 is late");
Sentry.captureException(new Error("outer", {{ cause: new TypeError("inner") }}), {{ fingerprint: ["{{{{ default }}}}", "x"] }});
await Sentry.flush(5000);
"#,
        dsn = dsn.dsn
    );
    let ran = npm.module(&script).output().await.unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let issues = found(&berth, "is:open", 3).await;
    let read =
        issues.iter().find(|i| i["culprit"].as_str().is_some_and(|c| c.starts_with("readOrder"))).unwrap();
    assert_eq!((&read["kind"], &read["events"]), (&json!("TypeError"), &json!(3)), "{read:#}");
    let late = issues.iter().find(|i| i["kind"].as_str().unwrap().contains("is late")).unwrap();
    assert_eq!(late["events"], 2, "a message's parameters do not count");
    found(&berth, "shop:north release:web@3 runtime:node*", 1).await;
}

/// What a bundler leaves: one minified line, and the map to two files that people wrote.
const MINIFIED: &str =
    "function r(t){return t.price.amount}function n(){return r({})}n();\n//# sourceMappingURL=main.js.map\n";

fn minified(dir: &std::path::Path) {
    // Each segment: column in the minified line, source, line and column there, and the name that stood there before
    // (Source Map revision 3).
    let source = "function priceOf(item) {\n  return item.price.amount;\n}\n\nfunction checkout() {\n  return priceOf({});\n}\ncheckout();\n";
    let segments = [
        (0, 0, 0, None),
        (9, 0, 9, Some("A")),
        (11, 0, 17, None),
        (14, 1, 2, None),
        (21, 1, 9, None),
        (36, 4, 0, None),
        (45, 4, 9, Some("C")),
        (49, 5, 2, None),
        (56, 5, 9, None),
        (62, 7, 0, None),
    ];
    let mut mappings = Vec::new();
    let mut before = (0, 0, 0);
    for (column, line, at, name) in segments {
        let place = format!("{}A{}{}", vlq(column - before.0), vlq(line - before.1), vlq(at - before.2));
        mappings.push(format!("{place}{}", name.unwrap_or_default()));
        before = (column, line, at);
    }
    let map = json!({
        "version": 3, "file": "main.js", "sources": ["../src/cart.ts"], "sourcesContent": [source],
        "names": ["priceOf", "checkout"],
        "mappings": mappings.join(","),
    });
    std::fs::write(dir.join("main.js"), MINIFIED).unwrap();
    std::fs::write(dir.join("main.js.map"), map.to_string()).unwrap();
}

/// A number as source maps write it: base 64 of 5 bits each, the sign in the lowest.
fn vlq(number: i64) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut rest = usize::try_from(number.abs()).unwrap() << 1 | usize::from(number < 0);
    let mut text = String::new();
    loop {
        let digit = rest & 31;
        rest >>= 5;
        text.push(char::from(DIGITS[digit | if rest > 0 { 32 } else { 0 }]));
        if rest == 0 {
            return text;
        }
    }
}

#[tokio::test]
async fn sentry_cli_brings_maps_and_late_ones_count_too() {
    let Some(npm) = npm_or_skip(&["@sentry/cli@3.8.0"]) else { return };
    let berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "shop").await;
    let token = berth.token("ci", &["read", "deploy"], &[]).await;
    let dir = berth.scratch().join("dist");
    std::fs::create_dir(&dir).unwrap();
    minified(&dir);
    let cli = async |arguments: &[&str]| {
        let mut command = npm.command("sentry-cli");
        command
            .args(arguments)
            .current_dir(&dir)
            .env("SENTRY_URL", &berth.control_url)
            .env("SENTRY_AUTH_TOKEN", &token)
            .env("SENTRY_ORG", "default")
            .env("SENTRY_PROJECT", "shop")
            .env("SENTRY_DSN", &dsn.dsn);
        let ran = command.output().await.unwrap();
        let text =
            format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success(), "{arguments:?}: {text}");
        text
    };
    let info = cli(&["info"]).await;
    assert!(info.contains("ci"), "{info}");
    cli(&["sourcemaps", "inject", "."]).await;
    let script = std::fs::read_to_string(dir.join("main.js")).unwrap();
    let debug_id = script.split("debugId=").nth(1).unwrap().trim().to_owned();
    // `sourcemaps inject` puts a line before the code.
    let line = script.lines().position(|l| l.contains("function r(t)")).unwrap() + 1;
    let column = script.lines().nth(line - 1).unwrap().find("t.price").unwrap() + 1;
    let failed = |n: u32| {
        json!({
            "event_id": format!("{n:032x}"), "platform": "javascript", "release": "shop@1.0",
            "exception": {"values": [{"type": "TypeError", "value": "Cannot read properties of undefined (reading 'amount')",
                "stacktrace": {"frames": [
                    {"abs_path": "https://shop.example/main.js", "filename": "https://shop.example/main.js", "function": "r",
                        "lineno": line, "colno": column, "in_app": true}]}}]},
            "debug_meta": {"images": [{"type": "sourcemap", "code_file": "https://shop.example/main.js", "debug_id": debug_id}]},
        })
    };
    // First the error, then the map.
    assert_eq!(send(&dsn, envelope(&failed(1))).await.0, StatusCode::OK);
    let issue = found(&berth, "type:TypeError", 1).await.remove(0);
    let path = format!("/v1/errors/{}", issue["issue"].as_str().unwrap());
    let got = berth.rest().get(&path).await.ok();
    assert!(got["latest"]["map_problems"][0].as_str().unwrap().contains(&debug_id), "{got:#}");
    cli(&["releases", "new", "shop@1.0"]).await;
    let uploaded = cli(&["sourcemaps", "upload", "--release", "shop@1.0", "."]).await;
    assert!(!uploaded.to_lowercase().contains("error"), "{uploaded}");
    cli(&["releases", "finalize", "shop@1.0"]).await;
    cli(&["deploys", "new", "--release", "shop@1.0", "-e", "production"]).await;
    let mut place = String::new();
    for _ in 0..100 {
        let got = berth.rest().get(&path).await.ok();
        place = got["latest"]["exceptions"][0]["frames"][0]["place"].as_str().unwrap().to_owned();
        if place.starts_with("priceOf") {
            assert_eq!(got["culprit"], "priceOf in src/cart.ts", "{got:#}");
            assert_eq!(got["latest"].get("map_problems"), None);
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(place.starts_with("priceOf (src/cart.ts:2"), "{place}");
    found(&berth, "function:priceOf file:src/cart.ts", 1).await;
    // Now the map is there first, and the event joins its issue.
    assert_eq!(send(&dsn, envelope(&failed(2))).await.0, StatusCode::OK);
    for _ in 0..100 {
        let got = berth.rest().get(&path).await.ok();
        if got["events"] == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let event = berth.rest().get(&format!("{path}/event?event={:032x}", 2)).await.ok();
    let code = event["event"]["exceptions"][0]["frames"][0]["code"].as_str().unwrap().to_owned();
    assert!(code.contains(">   return item.price.amount;"), "{code}");
    cli(&["send-event", "-m", "sent by hand"]).await;
    found(&berth, "\"sent by hand\"", 1).await;
    assert!(cli(&["releases", "list"]).await.contains("shop@1.0"));
    let foreign = berth.token("reader", &["read"], &[]).await;
    let refused = client()
        .post(format!("{}/api/0/organizations/default/releases/", berth.control_url))
        .bearer_auth(foreign)
        .json(&json!({ "version": "x", "projects": ["shop"] }))
        .send()
        .await
        .unwrap();
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
}

/// What a webhook got: its headers and its body.
type Got = (http::HeaderMap, String);

async fn receiver() -> (String, tokio::sync::mpsc::UnboundedReceiver<Got>) {
    let (sender, received) = tokio::sync::mpsc::unbounded_channel();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let router = axum::Router::new().route(
        "/hook",
        axum::routing::post(move |headers: http::HeaderMap, body: String| {
            let sender = sender.clone();
            async move {
                let _ = sender.send((headers, body));
            }
        }),
    );
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, received)
}

#[tokio::test]
async fn alerts_reach_their_channels_once() {
    let berth = Berth::start_with(&[
        "--docker-host",
        "unix:///nonexistent/docker.sock",
        "--allow-private-sources",
        "true",
    ])
    .await;
    let dsn = dsn(&berth, "web").await;
    let rest = berth.rest();
    let (url, mut received) = receiver().await;
    let set = async |path: &str, body: Value| berth.rest().send(Method::PUT, path, Some(body)).await;
    let channel = set("/v1/channels/hook", json!({ "target": { "kind": "webhook", "url": url } })).await.ok();
    let secret = channel["secret"].as_str().unwrap().to_owned();
    assert!(!rest.get("/v1/channels").await.ok().to_string().contains(&secret), "shown once");
    set("/v1/alerts/new", json!({ "when": "new_error", "channels": ["nowhere"] }))
        .await
        .problem(404, "not_found");
    set("/v1/alerts/new", json!({ "when": "new_error", "channels": ["hook"] })).await.ok();
    set(
        "/v1/alerts/often",
        json!({ "when": "frequency", "threshold": 3, "channels": ["hook"], "quiet_minutes": 60 }),
    )
    .await
    .ok();
    rest.delete("/v1/channels/hook?confirm=hook").await.problem(409, "conflict");
    let tested = rest.post("/v1/channels/hook/test", json!({})).await.ok();
    assert_eq!(tested["delivered"], true, "{tested:#}");
    let (headers, body) = received.recv().await.unwrap();
    assert!(body.contains("This channel works"));
    let header = |name: &str| headers[name].to_str().unwrap().to_owned();
    let signed = format!("{}.{}.{body}", header("webhook-id"), header("webhook-timestamp"));
    let key =
        base64::Engine::decode(&base64::prelude::BASE64_STANDARD, secret.strip_prefix("whsec_").unwrap())
            .unwrap();
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key);
    let tag = header("webhook-signature");
    let tag =
        base64::Engine::decode(&base64::prelude::BASE64_STANDARD, tag.strip_prefix("v1,").unwrap()).unwrap();
    ring::hmac::verify(&key, signed.as_bytes(), &tag).unwrap();
    for n in 1..=5 {
        assert_eq!(send(&dsn, envelope(&event(n, json!({})))).await.0, StatusCode::OK);
    }
    let mut told = Vec::new();
    while let Ok(Some((_, body))) = tokio::time::timeout(Duration::from_secs(30), received.recv()).await {
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["data"]["issues"][0]["issue"], "WEB-1", "{body:#}");
        told.push(body["data"]["alert"].as_str().unwrap().to_owned());
        if told.len() == 2 {
            break;
        }
    }
    told.sort();
    assert_eq!(told, ["new", "often"]);
    assert_eq!(send(&dsn, envelope(&event(6, json!({})))).await.0, StatusCode::OK);
    let more = tokio::time::timeout(Duration::from_secs(4), received.recv()).await;
    assert!(more.is_err(), "the same is told once: {more:?}");
    for _ in 0..50 {
        let page = rest.get("/v1/alerts").await.ok();
        let states: Vec<&Value> =
            page["deliveries"].as_array().unwrap().iter().map(|d| &d["state"]).collect();
        if states == ["sent", "sent"] {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("a message is not noted as sent");
}

#[tokio::test]
async fn an_alert_goes_by_mail() {
    let Some(venv) = python_or_skip(&["aiosmtpd==1.4.6"]) else { return };
    let berth = Berth::start_with(&[
        "--docker-host",
        "unix:///nonexistent/docker.sock",
        "--allow-private-sources",
        "true",
    ])
    .await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut relay = venv
        .command()
        .args([
            "-u",
            "-m",
            "aiosmtpd",
            "-n",
            "-l",
            &format!("127.0.0.1:{port}"),
            "-c",
            "aiosmtpd.handlers.Debugging",
            "stdout",
        ])
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let target = json!({ "kind": "email", "smtp_host": "127.0.0.1", "smtp_port": port, "security": "none",
        "from": "Berth <berth@shop.example>", "to": ["ann@shop.example"] });
    berth.rest().send(Method::PUT, "/v1/channels/mail", Some(json!({ "target": target }))).await.ok();
    let mut tested = Value::Null;
    for _ in 0..50 {
        tested = berth.rest().post("/v1/channels/mail/test", json!({})).await.ok();
        if tested["delivered"] == true {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(tested["delivered"], true, "{tested:#}");
    let mut mail = String::new();
    let mut lines = tokio::io::BufReader::new(relay.stdout.take().unwrap());
    while !mail.contains("This channel works") {
        let read = tokio::io::AsyncBufReadExt::read_line(&mut lines, &mut mail);
        assert!(tokio::time::timeout(Duration::from_secs(10), read).await.unwrap().unwrap() > 0, "{mail}");
    }
    assert!(
        mail.contains("Subject: Berth: a test of this channel") && mail.contains("To: ann@shop.example"),
        "{mail}"
    );
    relay.kill().await.unwrap();
}
