//! A DSN gets a new key: who still has the old one loses nothing within its time, and is found by its use.

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{Dsn, client, dsn, envelope, event, found, send};
use crate::harness::Berth;

const PATH: &str = "/v1/apps/web/dsn";
const ROTATE: &str = "/v1/apps/web/dsn/rotate";

async fn shown(berth: &Berth) -> Value {
    berth.rest().get(PATH).await.ok()
}

/// Sends an event; its answer's status.
async fn sends(dsn: &Dsn, n: u32) -> StatusCode {
    send(dsn, envelope(&event(n, json!({})))).await.0
}

#[tokio::test]
async fn an_old_key_works_until_its_time_is_over_and_no_longer() {
    let mut berth = Berth::without_docker().await;
    let first = dsn(&berth, "web").await;
    assert_eq!(sends(&first, 1).await, StatusCode::OK);
    assert_eq!(shown(&berth).await["old_keys"], Value::Null);

    // A look changes nothing.
    let dry = berth.rest().post(ROTATE, json!({ "dry_run": true })).await.ok();
    assert_eq!((&dry["rotated"], &dry["dsn"]), (&json!(false), &json!(first.dsn)));
    berth.rest().post(ROTATE, json!({ "grace_hours": 9000 })).await.problem(400, "invalid_input");

    let rotated = berth.rest().post(ROTATE, json!({})).await.ok();
    let second = Dsn::of(rotated["dsn"].as_str().unwrap());
    assert_eq!(rotated["rotated"], true);
    assert!(second.key != first.key && second.url == first.url, "{rotated:#}");
    let told = shown(&berth).await;
    assert_eq!(told["dsn"], second.dsn);
    let old = &told["old_keys"][0];
    assert_eq!(
        (&old["key"], &old["accepted"], &old["until"], &old["last_used_at"]),
        (&json!(first.key), &json!(true), &rotated["old_keys_until"], &Value::Null),
        "{told:#}"
    );

    // Both are taken at once, by every way in, and the use of the old one is told at once.
    assert_eq!(sends(&second, 2).await, StatusCode::OK);
    assert_eq!(shown(&berth).await["old_keys"][0]["last_used_at"], Value::Null);
    assert_eq!(sends(&first, 3).await, StatusCode::OK);
    let tunnel = format!("{}/_berth/errors", berth.control_url);
    let through = format!("{}\n{{\"type\":\"event\"}}\n{}", json!({ "dsn": first.dsn }), event(4, json!({})));
    assert_eq!(client().post(tunnel).body(through).send().await.unwrap().status(), StatusCode::OK);
    assert_ne!(shown(&berth).await["old_keys"][0]["last_used_at"], Value::Null);
    let wrong = Dsn { key: "0".repeat(32), ..Dsn::of(&first.dsn) };
    assert_eq!(sends(&wrong, 5).await, StatusCode::FORBIDDEN);

    // Over a restart nothing of this is lost, nor when it was used.
    berth.terminate().await;
    berth.start_again().await;
    assert_ne!(shown(&berth).await["old_keys"][0]["last_used_at"], Value::Null);
    let here =
        |of: &Dsn| Dsn { url: of.url.replace(host(&of.url), host(&berth.control_url)), ..Dsn::of(&of.dsn) };
    let (first, second) = (here(&first), here(&second));
    assert_eq!((sends(&first, 6).await, sends(&second, 7).await), (StatusCode::OK, StatusCode::OK));

    // Without a time of grace it is asked for, and then the old ones are refused at once, in words of their own.
    let asked =
        berth.rest().post(ROTATE, json!({ "grace_hours": 0 })).await.problem(400, "confirmation_required");
    assert!(asked["detail"].as_str().unwrap().contains("lose their errors"), "{asked:#}");
    assert_eq!(sends(&first, 8).await, StatusCode::OK, "a question ends nothing");
    let ended = berth.rest().post(ROTATE, json!({ "grace_hours": 0, "confirm": "web" })).await.ok();
    for old in [&first, &second] {
        let (status, answer) = send(old, envelope(&event(9, json!({})))).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
        assert!(answer["detail"].as_str().unwrap().contains("was replaced"), "{answer:#}");
    }
    let third = here(&Dsn::of(ended["dsn"].as_str().unwrap()));
    assert_eq!(sends(&third, 10).await, StatusCode::OK);
    berth.kill().await;
    berth.start_again().await;
    let here =
        |of: &Dsn| Dsn { url: of.url.replace(host(&of.url), host(&berth.control_url)), ..Dsn::of(&of.dsn) };
    assert_eq!(
        (sends(&here(&first), 11).await, sends(&here(&second), 11).await, sends(&here(&third), 12).await),
        (StatusCode::FORBIDDEN, StatusCode::FORBIDDEN, StatusCode::OK),
        "a kill brings no key back"
    );
    let told = shown(&berth).await;
    let accepted: Vec<&Value> =
        told["old_keys"].as_array().unwrap().iter().map(|key| &key["accepted"]).collect();
    assert_eq!(accepted, [&json!(false), &json!(false)]);
    found(&berth, "id:0000000000000000000000000000000c", 1).await;
    let issue = found(&berth, "is:open", 1).await.remove(0);
    assert_eq!(issue["events"], 9, "each that was accepted, and no other");
}

/// Host and port of a URL: a daemon that is started again is given others.
fn host(url: &str) -> &str {
    url.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap()
}
