//! What nobody sends by accident: it changes nothing but a counter, and the daemon goes on.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{dsn, envelope, event, found, send};
use crate::harness::Berth;

fn items(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = b"{}\n".to_vec();
    for part in parts {
        bytes.extend_from_slice(part);
        bytes.push(b'\n');
    }
    bytes
}

fn nested(depth: usize) -> String {
    format!("{{\"message\":\"m\",\"extra\":{}1{}}}", "{\"a\":".repeat(depth), "}".repeat(depth))
}

/// A category and a reason.
type Count = (&'static str, &'static str);

/// Bodies that hold no event, with the count that they must lead to; none where the whole is refused.
fn refused() -> Vec<(&'static str, Vec<u8>, Option<Count>)> {
    let invalid = Some(("error", "invalid"));
    let event = |payload: &[u8]| items(&[b"{\"type\":\"event\"}", payload]);
    let mut huge = b"{\"message\":\"".to_vec();
    huge.resize(2 << 20, b'x');
    huge.extend_from_slice(b"\"}");
    vec![
        ("deep lists", event("[".repeat(200_000).as_bytes()), invalid),
        ("deep objects", event(nested(100_000).as_bytes()), invalid),
        ("bad UTF-8", event(b"{\"message\":\"\xff\xfe\"}"), invalid),
        ("half a surrogate", event(b"{\"message\":\"\\ud800\"}"), invalid),
        ("a raw NUL", event(b"{\"message\":\"a\0b\"}"), invalid),
        ("cut off", event(b"{\"message\":\"a"), invalid),
        ("a list", event(b"[1,2]"), invalid),
        ("a number beyond all", event(b"{\"timestamp\":1e999}"), invalid),
        ("too large", event(&huge), Some(("error", "too_large"))),
        ("unknown", items(&[b"{\"type\":\"\\u0000unheard\"}", b"{}"]), Some(("default", "unknown_type"))),
        ("no type", items(&[b"{}", b"{}"]), None),
        ("logs that are none", items(&[b"{\"type\":\"log\"}", b"\xff"]), Some(("log_item", "invalid"))),
        (
            "a length beyond the end",
            items(&[b"{\"type\":\"event\",\"length\":18446744073709551615}", b"{}"]),
            None,
        ),
        ("too many items", items(&vec![&b"{\"type\":\"event\"}\n{}"[..]; 300]), None),
        ("no header", b"\0\0\0".to_vec(), None),
        ("nothing", Vec::new(), None),
    ]
}

async fn counted(berth: &Berth, category: &str, reason: &str) -> i64 {
    let told = berth.rest().get("/v1/apps/web/dsn").await.ok();
    let dropped = told["dropped_24h"].as_array().unwrap();
    let of = |d: &&Value| d["category"] == category && d["reason"] == reason;
    dropped.iter().find(of).map_or(0, |d| d["count"].as_i64().unwrap())
}

#[tokio::test]
async fn hostile_bytes_change_nothing_but_a_count() {
    let berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "web").await;
    for (what, body, count) in refused() {
        let before = match count {
            Some((category, reason)) => counted(&berth, category, reason).await,
            None => 0,
        };
        let (status, answer) = send(&dsn, body).await;
        match count {
            Some((category, reason)) => {
                assert_eq!(status, StatusCode::OK, "{what}: {answer}");
                let counted = async || counted(&berth, category, reason).await;
                for _ in 0..100 {
                    if counted().await > before {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                assert_eq!(counted().await, before + 1, "{what}");
            }
            None => assert_eq!(status, StatusCode::BAD_REQUEST, "{what}: {answer}"),
        }
    }
    let told = berth.rest().get("/v1/apps/web/dsn").await.ok();
    assert_eq!(told["accepted_24h"], 0, "{told:#}");
    assert_eq!(berth.rest().get("/v1/errors").await.ok()["total"], 0);
    // It is the same daemon that goes on, and a good event is taken.
    assert_eq!(send(&dsn, envelope(&event(1, json!({})))).await.0, StatusCode::OK);
    found(&berth, "is:open", 1).await;
}

#[tokio::test]
async fn strange_events_are_kept_within_bounds() {
    let berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "web").await;
    let long = "y".repeat(200_000);
    let frame = json!({ "function": long.get(..100), "filename": long.get(..5000), "in_app": true, "lineno": -7,
        "context_line": long.get(..3000), "vars": { "a": long.get(..500) } });
    let strange = [
        (
            "many frames",
            json!({ "exception": { "values": [{ "type": "Deep", "value": "x", "stacktrace":
            { "frames": vec![json!({"function": "f", "filename": "f.py"}); 9_000] } }] } }),
        ),
        (
            "huge frames",
            json!({ "exception": { "values": [{ "type": "Huge", "value": "x", "stacktrace": { "frames": vec![frame; 60] } }] } }),
        ),
        (
            "many crumbs",
            json!({ "exception": null, "message": "crumbs", "breadcrumbs": vec![json!({"message": "c", "data": {"a": "b"}}); 10_000] }),
        ),
        (
            "a huge crumb",
            json!({ "exception": null, "message": "a crumb", "breadcrumbs": [{ "message": long }] }),
        ),
        (
            "many exceptions",
            json!({ "exception": { "values": vec![json!({"type": "Many", "value": "x"}); 5_000] } }),
        ),
        (
            "many tags",
            json!({ "exception": null, "message": "tags", "tags": (0..5_000).map(|n| (format!("tag{n}"), json!("v"))).collect::<serde_json::Map<_, _>>() }),
        ),
        (
            "NULs and marks",
            json!({ "exception": null, "message": "nul \u{0} and \u{202e}\u{200b}\u{1b}[31m", "user": { "id": "\u{0}" },
            "release": "\u{0}", "tags": { "\u{0}": "\u{0}", "": "", "a b:c\"": "x\"y" } }),
        ),
        (
            "wrong types",
            json!({ "exception": 7, "message": { "formatted": ["x"] }, "breadcrumbs": "no", "tags": 5, "user": [], "request": "r",
            "level": ["l"], "timestamp": {}, "platform": 9, "sdk": null, "contexts": [1], "threads": { "values": [null, 3] },
            "fingerprint": [[], {}, null, 3], "logentry": false, "debug_meta": { "images": [7] } }),
        ),
        (
            "many prints",
            json!({ "exception": null, "message": "prints", "fingerprint": vec!["{{ default }}"; 20_000] }),
        ),
        ("the far future", json!({ "exception": null, "message": "the future", "timestamp": 9e15 })),
        (
            "long texts",
            json!({ "exception": null, "message": long, "release": long, "transaction": long, "logger": long, "server_name": long }),
        ),
    ];
    let sent = strange.len();
    for (n, (what, more)) in strange.into_iter().enumerate() {
        let body = envelope(&event(u32::try_from(n).unwrap() + 1, more));
        let begun = Instant::now();
        let (status, answer) = send(&dsn, body).await;
        assert_eq!(status, StatusCode::OK, "{what}: {answer}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{what} took {:?}", begun.elapsed());
    }
    assert_eq!(
        send(&dsn, envelope(&event(99, json!({ "exception": null, "message": "the last" })))).await.0,
        StatusCode::OK
    );
    found(&berth, "message:\"the last\"", 1).await;
    let told = berth.rest().get("/v1/apps/web/dsn").await.ok();
    assert_eq!(told["accepted_24h"], json!(sent + 1), "{told:#}");
    // Each can be looked at, by an answer that is no dump.
    let page = berth.rest().get("/v1/errors?query=events:%3E0&limit=100").await.ok();
    for issue in page["issues"].as_array().unwrap() {
        let name = issue["issue"].as_str().unwrap();
        let got = berth.rest().get(&format!("/v1/errors/{name}")).await.ok().to_string();
        assert!(got.len() < 200_000, "{name} is told in {} bytes", got.len());
    }
    // Queries that would be costly are answered soon, or refused.
    for query in [
        "*a*b*c*d*e*f*g*h*i*j*k*l*m*n*o*p*q*r*s*t",
        "file:*y*y*y*y*y*y*y*y*y*y*y*",
        &"(".repeat(2_000),
        &"!".repeat(1_999),
        &"a OR ".repeat(300),
        "\u{0}",
        "age:<99999999999999999999d",
        "at:>1e999",
    ] {
        let begun = Instant::now();
        let encoded: String = query.bytes().map(|b| format!("%{b:02X}")).collect();
        let answer = berth.rest().get(&format!("/v1/errors?query={encoded}")).await;
        assert!([200, 400].contains(&answer.status), "{query:.40}: {} {}", answer.status, answer.json());
        assert!(begun.elapsed() < Duration::from_secs(3), "{query:.40} took {:?}", begun.elapsed());
    }
}
