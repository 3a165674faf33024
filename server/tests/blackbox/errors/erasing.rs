//! A daemon that is killed while it forgets a person goes on with it, and nothing of the person is left.

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{Dsn, client, dsn, event, found};
use crate::harness::Berth;

/// More events than are removed in one piece, so that a kill after one leaves some.
const HERS: u32 = 230;
/// The word that only what she sent has.
const WORD: &str = "zinnober";

/// An event of hers with what came along, or one of somebody else.
fn report(n: u32, hers: bool) -> Vec<u8> {
    let (who, said) = if hers { ("ann@shop.example", WORD) } else { ("bob@shop.example", "azur") };
    let exception = json!({ "values": [{ "type": "KeyError", "value": format!("no {said}"), "stacktrace": { "frames": [
        { "filename": "app/cart.py", "function": "total", "lineno": 9, "in_app": true },
    ] } }] });
    let event = event(n, json!({ "exception": exception, "user": { "email": who } }));
    let session = json!({ "sid": format!("{n:032x}"), "did": who, "status": "ok" });
    let feedback = json!({ "event_id": format!("{n:032x}"), "email": who, "comments": said });
    let mut all = format!("{{\"event_id\":\"{n:032x}\"}}\n{{\"type\":\"event\"}}\n{event}\n");
    all.push_str(&format!("{{\"type\":\"session\"}}\n{session}\n{{\"type\":\"user_report\"}}\n{feedback}\n"));
    all.push_str(&format!(
        "{{\"type\":\"attachment\",\"length\":{},\"filename\":\"{said}.txt\"}}\n{said}\n",
        said.len()
    ));
    all.into_bytes()
}

async fn sent(dsn: &Dsn) {
    let http = client();
    // The first is hers, so that the issue is called after it.
    let all = (1..=HERS).map(|n| (n, true)).chain((1..=3).map(|n| (HERS + n, false)));
    for (n, hers) in all {
        let url = format!("{}?sentry_key={}", dsn.url, dsn.key);
        assert_eq!(http.post(url).body(report(n, hers)).send().await.unwrap().status(), StatusCode::OK);
    }
}

/// Kills the daemon where it stands still while it forgets her, and looks at what the next one makes of it.
async fn killed_at(place: &str) {
    let mut berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "web").await;
    sent(&dsn).await;
    found(&berth, &format!("id:{:032x}", HERS + 3), 1).await;
    let before = berth.rest().get("/v1/errors/WEB-1").await.ok();
    assert_eq!((&before["events"], &before["users"]), (&json!(HERS + 3), &json!(2)), "{place}");
    assert_eq!(before["value"], format!("no {WORD}"));

    berth.pause_at(place);
    let path = "/v1/apps/web/errors/users/ann@shop.example";
    let begun = berth.rest().delete(&format!("{path}?confirm=ann@shop.example")).await.ok();
    let job = begun["job"]["job"].as_str().unwrap().to_owned();
    berth.paused().await;
    let still = berth.rest().get(&format!("/v1/jobs/{job}")).await.ok();
    assert_eq!(still["state"], "running", "{place}: {still:#}");
    berth.kill().await;
    berth.start_again().await;

    let done = berth.rest().get(&format!("/v1/jobs/{job}?wait_s=50")).await.ok();
    assert_eq!(done["state"], "succeeded", "{place}: {done:#}");
    let issue = berth.rest().get("/v1/errors/WEB-1").await.ok();
    assert_eq!((&issue["events"], &issue["users"]), (&json!(3), &json!(1)), "{place}: {issue:#}");
    assert_eq!((&issue["value"], &issue["feedback_count"]), (&json!("no azur"), &json!(3)), "{place}");
    for query in ["user.email:ann@shop.example", WORD] {
        assert!(found(&berth, query, 0).await.is_empty(), "{place}: {query}");
    }
    let dry = berth.rest().delete(&format!("{path}?dry_run=true")).await.ok();
    let left = dry["removes"][0].as_str().unwrap();
    assert!(left.contains("0 events, 0 messages of feedback, 0 sessions"), "{place}: {left}");
    let answers =
        ["/v1/errors/WEB-1", "/v1/errors/WEB-1/events?limit=100", "/v1/feedback?limit=100", "/v1/errors"];
    for answer in answers {
        let text = berth.rest().get(answer).await.ok().to_string();
        assert!(!text.contains(WORD) && !text.contains("ann@"), "{place}: {answer} shows {text}");
    }
    let event = berth.rest().get(&format!("/v1/errors/WEB-1/event?event={:032x}", HERS + 1)).await.ok();
    assert_eq!(
        event["event"]["attachments"].as_array().map(Vec::len),
        Some(1),
        "{place}: what is another's stays"
    );
    assert_eq!(
        issue["hours"].as_array().unwrap().iter().map(|h| h["events"].as_i64().unwrap()).sum::<i64>(),
        3
    );
    assert_eq!(done["message"].as_str().map(|m| m.contains("ann@")), Some(false), "{place}");
    let events: Value = berth.rest().get("/v1/events?limit=200").await.ok();
    let kinds = events["events"].as_array().unwrap().iter().filter(|e| e["kind"] == "error.user_deleted");
    assert!(kinds.count() >= 1, "{place}: the event log says that it is done");
}

#[tokio::test]
async fn a_kill_between_what_came_beside_and_the_events_leaves_nothing() {
    killed_at("after:erased_beside").await;
}

#[tokio::test]
async fn a_kill_before_a_piece_is_committed_leaves_nothing() {
    killed_at("before:erased_events").await;
}

#[tokio::test]
async fn a_kill_between_two_pieces_leaves_nothing() {
    killed_at("after:erased_events").await;
}

#[tokio::test]
async fn a_kill_before_issues_are_called_anew_leaves_nothing() {
    killed_at("after:erased_names").await;
}

#[tokio::test]
async fn a_kill_before_the_end_is_noted_leaves_nothing() {
    killed_at("before:job_ended").await;
}
