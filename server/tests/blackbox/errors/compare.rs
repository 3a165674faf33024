//! Whether a release is worse than the one before it.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{Dsn, dsn, envelope, event, send};
use crate::harness::Berth;

fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}

/// An event of a release, so many minutes ago.
async fn happens(dsn: &Dsn, n: u32, release: &str, kind: &str, minutes: f64) {
    let more = json!({
        "release": release, "timestamp": now() - minutes * 60.0, "user": { "id": format!("u{n}") },
        "exception": {"values": [{ "type": kind, "value": "x" }]},
    });
    assert_eq!(send(dsn, envelope(&event(n, more))).await.0, StatusCode::OK);
}

/// The comparison, once the release had so many events.
async fn compared(berth: &Berth, query: &str, events: i64) -> Value {
    let mut last = Value::Null;
    for _ in 0..100 {
        let answer = berth.rest().get(&format!("/v1/apps/web/errors/releases{query}")).await;
        if answer.status == 200 {
            last = answer.json();
            if last["release"]["events"] == events {
                return last;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not {events} events: {last:#}");
}

#[tokio::test]
async fn a_release_is_compared_by_rates_and_weight() {
    let berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "web").await;
    let staging = berth.rest().post("/v1/apps/web/environments", json!({ "environment": "staging" })).await;
    staging.ok();
    // A usual hour of release 1, which a session tells of, too.
    for n in 1..=30_u32 {
        happens(&dsn, n, "1", "Usual", 55.0 - f64::from(n)).await;
    }
    let alone = compared(&berth, "", 30).await;
    assert_eq!((&alone["verdict"], &alone["worse"]), (&json!("nothing_before"), &json!(false)), "{alone:#}");
    // Release 2 begins with as many, and one new error that one user has.
    for n in 31..=45_u32 {
        happens(&dsn, n, "2", "Usual", 51.0 - f64::from(n)).await;
    }
    happens(&dsn, 46, "2", "Rare", 0.0).await;
    let first = compared(&berth, "", 16).await;
    assert_eq!((&first["verdict"], &first["worse"]), (&json!("low_volume"), &json!(false)), "{first:#}");
    assert_eq!(first["environment"], "production");
    assert!(first["reason"].as_str().unwrap().contains("WEB-2 is new (1 events, 1 users): low volume"));
    assert_eq!((&first["with"]["release"], &first["with"]["events_in_all"]), (&json!("1"), &json!(30)));
    assert_eq!(
        (&first["issues"][0]["by"], &first["issues"][0]["low_volume"]),
        (&json!("new"), &json!(true)),
        "{first:#}"
    );
    let margin = first["margin"].as_f64().unwrap();
    assert!((0.5..2.5).contains(&margin), "about as many an hour: {first:#}");
    // What staging sees of release 3 is nothing to production, and the other way round.
    let staging = berth.rest().get("/v1/apps/web/dsn?environment=staging").await.ok();
    let place = staging["dsn"].as_str().unwrap().rsplit_once('/').unwrap().1.to_owned();
    let key =
        staging["dsn"].as_str().unwrap().split_once("://").unwrap().1.split_once('@').unwrap().0.to_owned();
    let own = dsn.url.split("/api/").next().unwrap();
    let there = Dsn { dsn: String::new(), key, url: format!("{own}/api/{place}/envelope/") };
    for n in 50..=60_u32 {
        happens(&there, n, "3", "Staged", 0.0).await;
    }
    let staged = compared(&berth, "?environment=staging", 11).await;
    assert_eq!((&staged["verdict"], &staged["release"]["release"]), (&json!("nothing_before"), &json!("3")));
    let unchanged = compared(&berth, "", 16).await;
    assert_eq!(unchanged["release"]["release"], "2", "{unchanged:#}");
    // The rare one is no longer rare.
    for n in 61..=66 {
        happens(&dsn, n, "2", "Rare", 0.0).await;
    }
    let worse = compared(&berth, "", 22).await;
    assert_eq!((&worse["verdict"], &worse["worse"]), (&json!("worse"), &json!(true)), "{worse:#}");
    assert!(worse["reason"].as_str().unwrap().contains("WEB-2 is new (7 events, 7 users)"), "{worse:#}");
    assert_eq!(worse["new_issues"][0]["issue"], "WEB-2");
    // The other way round nothing is new in the earlier one.
    let back = compared(&berth, "?release=1&with=2", 30).await;
    assert_eq!(back["worse"], false, "{back:#}");
    let said = berth.cli(["error", "release-compare", "web"]).await;
    assert!(said.stdout.contains("It is worse") && said.stdout.contains("events in all"), "{said:?}");
    for query in ["?release=9", "?with=9", "?environment=nowhere"] {
        berth.rest().get(&format!("/v1/apps/web/errors/releases{query}")).await.problem(404, "not_found");
    }
    let same = berth.rest().get("/v1/apps/web/errors/releases?release=2&with=2").await;
    same.problem(400, "invalid_input");
}

#[tokio::test]
async fn sessions_tell_how_many_are_free_of_crashes() {
    let berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "web").await;
    happens(&dsn, 1, "1", "Usual", 50.0).await;
    compared(&berth, "", 1).await;
    let sums = |release: &str, exited: u32, crashed: u32| {
        json!({ "aggregates": [{ "started": "2026-01-01T00:00:00Z", "exited": exited, "crashed": crashed }],
            "attrs": { "release": release } })
    };
    let report = async |body: Value| {
        let body = format!("{{}}\n{{\"type\":\"sessions\"}}\n{body}\n");
        assert_eq!(send(&dsn, body.into_bytes()).await.0, StatusCode::OK);
    };
    report(sums("1", 995, 5)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    happens(&dsn, 2, "2", "Usual", 0.0).await;
    compared(&berth, "", 1).await;
    report(sums("2", 900, 100)).await;
    let mut told = Value::Null;
    for _ in 0..100 {
        told = compared(&berth, "", 1).await;
        if told["release"]["sessions"] == 1000 && told["with"]["sessions"] == 1000 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(
        (&told["release"]["crash_free_percent"], &told["with"]["crash_free_percent"]),
        (&json!(90.0), &json!(99.5)),
        "{told:#}"
    );
    assert_eq!(told["verdict"], "worse");
    assert!(
        told["reason"].as_str().unwrap().contains("90.0 % of its sessions are free of crashes"),
        "{told:#}"
    );
}
