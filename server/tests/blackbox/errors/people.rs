//! What one person left behind goes by any of the person's names; what users wrote and sent along can be read.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{dsn, envelope, event, found, send};
use crate::harness::Berth;

/// An envelope of an event and more items, each with its header.
fn with(event: &Value, items: &[(Value, &[u8])]) -> Vec<u8> {
    let mut all = envelope(event);
    all.splice(0..2, format!("{{\"event_id\":{}}}", event["event_id"]).into_bytes());
    for (header, body) in items {
        all.extend(format!("{header}\n").into_bytes());
        all.extend_from_slice(body);
        all.push(b'\n');
    }
    all
}

fn attachment(name: &str, bytes: &[u8]) -> Value {
    json!({ "type": "attachment", "length": bytes.len(), "filename": name, "content_type": "text/html" })
}

/// Waits until a path's answer is as wanted.
async fn until(berth: &Berth, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    for _ in 0..100 {
        last = berth.rest().get(path).await.json();
        if wanted(&last) {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{path} is not as wanted within 10 s: {last:#}");
}

#[tokio::test]
async fn a_user_is_forgotten_by_any_name() {
    let berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "web").await;
    let rest = berth.rest();
    let users = [
        (1, json!({ "id": 7, "email": "ann@shop.example", "username": "ann" })),
        (2, json!({ "email": "Ann@shop.example" })),
        (3, json!({ "id": "7" })),
        (4, json!({ "id": "8", "email": "bob@shop.example" })),
    ];
    let session =
        json!({ "sid": "0123456789abcdef0123456789abcdef", "did": "ann@shop.example", "status": "ok" });
    let session = session.to_string().into_bytes();
    for (n, user) in users {
        let items = [
            (attachment("notes.txt", b"ab"), &b"ab"[..]),
            (json!({ "type": "session", "length": session.len() }), &session),
        ];
        let body = with(&event(n, json!({ "user": user })), &items);
        assert_eq!(send(&dsn, body).await.0, StatusCode::OK);
    }
    let report = |n: u32, email: &str| {
        let report = json!({ "event_id": format!("{n:032x}"), "comments": "It broke", "email": email });
        format!("{{}}\n{{\"type\":\"user_report\"}}\n{report}\n").into_bytes()
    };
    send(&dsn, report(4, "ann@shop.example")).await;
    send(&dsn, report(4, "bob@shop.example")).await;
    found(&berth, "user.id:8", 1).await;
    until(&berth, "/v1/feedback?app=web", |page| page["feedback"].as_array().is_some_and(|f| f.len() == 2))
        .await;
    let issue = rest.get("/v1/errors/WEB-1").await.ok();
    assert_eq!(
        (&issue["events"], &issue["users"], &issue["feedback_count"]),
        (&json!(4), &json!(3), &json!(2))
    );
    assert_eq!(issue["value"], "'1'", "it is called after its first event");

    let path = "/v1/apps/web/errors/users/ann@shop.example";
    let asked = rest.delete(path).await.problem(400, "confirmation_required");
    let told = asked["detail"].as_str().unwrap();
    assert!(told.contains("2 events, 1 message of feedback, 4 sessions and the like"), "{told}");
    let dry = rest.delete(&format!("{path}?dry_run=true")).await.ok();
    assert_eq!(dry["deleting"], false);
    let begun = rest.delete(&format!("{path}?confirm=ann@shop.example")).await.ok();
    let job = begun["job"]["job"].as_str().unwrap();
    let done = rest.get(&format!("/v1/jobs/{job}?wait_s=30")).await.ok();
    assert_eq!(done["state"], "succeeded", "{done:#}");
    let said = done["message"].as_str().unwrap();
    assert!(said.contains("2 events, 1 message of feedback") && !said.contains("ann@"), "{said}");

    let issue = rest.get("/v1/errors/WEB-1").await.ok();
    assert_eq!(
        (&issue["events"], &issue["users"], &issue["feedback_count"]),
        (&json!(2), &json!(2), &json!(1))
    );
    assert_eq!(issue["value"], "'4'", "after the newest that is left");
    found(&berth, "user.email:ann@shop.example", 0).await;
    found(&berth, "user.id:7", 1).await;
    for n in [1, 2] {
        rest.get(&format!("/v1/errors/WEB-1/event?event={n:032x}")).await.problem(404, "not_found");
    }
    // The event by her id alone is one by another name, and goes by that.
    let begun = rest.delete("/v1/apps/web/errors/users/7?confirm=7").await.ok();
    let job = begun["job"]["job"].as_str().unwrap();
    assert_eq!(rest.get(&format!("/v1/jobs/{job}?wait_s=30")).await.ok()["state"], "succeeded");
    let issue = rest.get("/v1/errors/WEB-1").await.ok();
    assert_eq!((&issue["events"], &issue["users"]), (&json!(1), &json!(1)));
    found(&berth, "user.id:8", 1).await;
    // Nothing of her is left on the disk, but for what SQLite has not overwritten yet.
    let gone = rest.delete(&format!("{path}?dry_run=true")).await.ok();
    let goes = gone["removes"][0].as_str().unwrap();
    assert!(goes.contains("0 events, 0 messages of feedback, 0 sessions"), "{goes}");
}

#[tokio::test]
async fn what_users_wrote_is_listed_also_without_an_error() {
    let berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "web").await;
    let rest = berth.rest();
    let feedback = |n: u32, message: &str| {
        let body = json!({ "event_id": format!("{n:032x}"), "platform": "javascript", "contexts": { "feedback": {
            "message": message, "name": "Ann", "contact_email": "ann@shop.example", "url": "https://shop.example/cart",
        } } });
        let mut all =
            format!("{{\"event_id\":\"{n:032x}\"}}\n{{\"type\":\"feedback\"}}\n{body}\n").into_bytes();
        let shot = b"\x89PNG\r\n\x1a\nimage";
        all.extend(format!("{}\n", attachment("shot.png", shot)).into_bytes());
        all.extend_from_slice(shot);
        all
    };
    for n in 1..=3 {
        assert_eq!(send(&dsn, feedback(n, &format!("ignore all instructions {n}"))).await.0, StatusCode::OK);
    }
    let three = |page: &Value| page["feedback"].as_array().is_some_and(|f| f.len() == 3);
    let page = until(&berth, "/v1/feedback", three).await;
    let newest = &page["feedback"][0];
    assert_eq!(
        (&newest["message"], &newest["app"], &newest["environment"], &newest["url"]),
        (
            &json!("ignore all instructions 3"),
            &json!("web"),
            &json!("production"),
            &json!("https://shop.example/cart")
        ),
        "{page:#}"
    );
    assert_eq!(newest["attachments"][0]["media_type"], "image/png");
    let first = rest.get("/v1/feedback?app=web&environment=production&limit=2").await.ok();
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = rest.get(&format!("/v1/feedback?app=web&limit=2&cursor={cursor}")).await.ok();
    assert_eq!((second["feedback"].as_array().unwrap().len(), &second["next_cursor"]), (1, &Value::Null));
    assert_eq!(second["feedback"][0]["message"], "ignore all instructions 1");
    rest.get("/v1/feedback?environment=production").await.problem(400, "invalid_input");

    let (number, file) = (&newest["feedback"], &newest["attachments"][0]["attachment"]);
    rest.delete(&format!("/v1/apps/web/feedback/{number}")).await.problem(400, "confirmation_required");
    rest.delete(&format!("/v1/apps/web/feedback/{number}?confirm={number}")).await.ok();
    rest.delete(&format!("/v1/apps/web/feedback/{number}?confirm={number}")).await.problem(404, "not_found");
    rest.get(&format!("/v1/apps/web/errors/attachments/{file}")).await.problem(404, "not_found");
    assert_eq!(rest.get("/v1/feedback").await.ok()["feedback"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_file_of_an_event_is_had_and_never_shown_as_a_page() {
    let berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "web").await;
    let rest = berth.rest();
    let page = b"<script>alert(1)</script>";
    let dump: Vec<u8> = [b"MDMP".to_vec(), (0..200_000_u32).flat_map(u32::to_be_bytes).collect()].concat();
    let body = with(
        &event(1, json!({})),
        &[(attachment("a\"b/../x.html", page), &page[..]), (attachment("core.dmp", &dump), &dump)],
    );
    assert_eq!(send(&dsn, body).await.0, StatusCode::OK);
    found(&berth, "is:open", 1).await;
    let files = rest.get("/v1/errors/WEB-1").await.ok()["latest"]["attachments"].clone();
    assert_eq!(
        (&files[0]["media_type"], &files[1]["media_type"]),
        (&json!("text/plain"), &json!("application/x-dmp"))
    );
    let path = |n: usize| format!("/v1/apps/web/errors/attachments/{}", files[n]["attachment"]);
    let html = rest.get(&path(0)).await.ok();
    assert_eq!(html["text"], "<script>alert(1)</script>");
    let download = html["download"].as_str().unwrap();
    let answer = rest.request(Method::GET, download).send().await.unwrap();
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("content-type"), "application/octet-stream");
    assert_eq!(header("content-disposition"), "attachment; filename=\"a_b_.._x.html\"");
    assert_eq!(
        (header("x-content-type-options").as_str(), header("content-security-policy").as_str()),
        ("nosniff", "default-src 'none'; sandbox")
    );
    assert_eq!(answer.bytes().await.unwrap().as_ref(), page);
    let none = rest.get(&path(1)).await.ok();
    assert_eq!((&none["text"], &none["bytes"]), (&Value::Null, &json!(dump.len())));
    // Another app's number, and none at all.
    rest.post("/v1/apps", json!({ "name": "other" })).await.ok();
    let other = format!("/v1/apps/other/errors/attachments/{}", files[0]["attachment"]);
    rest.get(&other).await.problem(404, "not_found");
    rest.get(&format!("{other}/content")).await.problem(404, "not_found");
    rest.get("/v1/apps/web/errors/attachments/x/content").await.problem(400, "invalid_input");
    berth.anonymous().get(download).await.problem(401, "unauthenticated");

    let file = berth.data_dir().join("kept.dmp");
    let number = files[1]["attachment"].to_string();
    let arguments = ["error", "attachment-get", "web", &number, "--output", file.to_str().unwrap()];
    berth.cli(arguments).await.ok();
    assert_eq!(std::fs::read(&file).unwrap(), dump);
    let again = berth.cli(arguments).await;
    assert!(again.code != 0 && again.stderr.contains("cannot write"), "{}", again.stderr);
}

#[tokio::test]
async fn commits_that_a_client_told_are_shown_with_the_release() {
    let berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "web").await;
    let rest = berth.rest();
    let commits = json!([
        { "id": "c2c2c2c2c2c2c2c2", "author_name": "Ann", "message": "Count the cart\n\nmore", "timestamp": "2026-01-02T00:00:00Z" },
        { "id": "c1c1c1c1c1c1c1c1", "author_name": "Bob", "message": "Begin" },
    ]);
    let release = json!({ "version": "1.0", "projects": ["web"], "commits": commits });
    rest.request(Method::POST, "/api/0/organizations/berth/releases/").json(&release).send().await.unwrap();
    send(&dsn, envelope(&event(1, json!({})))).await;
    found(&berth, "is:open", 1).await;
    let compared = rest.get("/v1/apps/web/errors/releases?release=1.0").await.ok();
    assert_eq!(
        (&compared["commit_count"], &compared["commits"][0]["message"]),
        (&json!(2), &json!("Count the cart"))
    );
    let issue = rest.get("/v1/errors/WEB-1").await.ok();
    assert_eq!(
        (&issue["release_commits"][1]["id"], &issue["release_commits"][1]["author"]),
        (&json!("c1c1c1c1c1c1c1c1"), &json!("Bob"))
    );
}

#[tokio::test]
async fn names_that_compilers_made_are_shown_and_grouped_as_written() {
    let berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "web").await;
    for (n, hash) in [(1, "0123456789abcdef"), (2, "fedcba9876543210")] {
        let frames = json!([
            { "function": "_ZN4shop4main17h0000000000000000E", "in_app": true },
            { "function": format!("_ZN4shop4cart5total17h{hash}E"), "in_app": true },
        ]);
        let exception = json!({ "values": [{ "type": "panic", "value": "no price", "stacktrace": { "frames": frames } }] });
        send(&dsn, envelope(&event(n, json!({ "platform": "native", "exception": exception })))).await;
    }
    let issue = until(&berth, "/v1/errors/WEB-1", |issue| issue["events"] == 2).await;
    let shown = issue["latest"]["exceptions"][0]["frames"][0]["place"].as_str().unwrap();
    assert!(shown.starts_with("shop::cart::total"), "{shown}");
    assert_eq!(found(&berth, "function:shop::cart::total", 1).await.len(), 1);
}
