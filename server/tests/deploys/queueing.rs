//! Deployments that wait, repeat, overtake and are cancelled.

use reqwest::Method;

use crate::support::{
    before::{Before, a_process_with, assert_problem, no_process_with},
    docker, *,
};

/// A source whose build sleeps for this many seconds, told apart by the number itself.
fn sleepy(seconds: &str) -> Value {
    apps::dockerfile(&format!(
        "FROM python:3.12-slim\nRUN sleep {seconds}\nCMD [\"python3\", \"-m\", \"http.server\", \"8080\"]\n"
    ))
}

/// Seconds with a fraction that no other process of the machine sleeps.
fn odd(seconds: u32) -> String {
    format!("{seconds}.{}", uuid::Uuid::new_v4().as_u128() % 1_000_000_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_stops_the_build_for_real() {
    needs_docker!();
    let berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    let before = Before::something(&berth).await;
    let nap = odd(600);
    let deployment = berth.begin("web", sleepy(&nap)).await;
    berth.reached(&deployment, "building").await;
    a_process_with(&nap).await;
    let cancel = format!("{}/cancel", api::path_of(&deployment));
    berth.post(&cancel, json!({})).await;
    let detail = berth.settled(&deployment).await;
    assert_eq!((&detail["state"], &detail["problem"]), (&json!("cancelled"), &Value::Null), "{detail:#}");
    no_process_with(&nap).await;
    before.assert_same(&berth).await;
    assert_eq!(berth.visit("web", "/").await.json()["version"], "1");
    // Cancelling again changes nothing; what is over otherwise cannot be cancelled.
    assert_eq!(berth.post(&cancel, json!({})).await["state"], "cancelled");
    let refused =
        berth.try_send(Method::POST, "/v1/deployments/web%231/cancel", json!({})).await.unwrap_err();
    assert_problem(&refused.problem, "conflict", None, &["web#1", "live"], &["release_rollback"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_while_health_is_checked_removes_the_new_containers() {
    needs_docker!();
    let berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    let before = Before::something(&berth).await;
    let deployment = berth.begin("web", apps::python("import time; time.sleep(600)")).await;
    berth.reached(&deployment, "checking").await;
    berth.post(&format!("{}/cancel", api::path_of(&deployment)), json!({})).await;
    assert_eq!(berth.settled(&deployment).await["state"], "cancelled");
    before.assert_same(&berth).await;
    assert_eq!(berth.visit("web", "/").await.json()["version"], "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_those_that_wait_only_the_newest_is_built() {
    needs_docker!();
    let berth = Berth::start().await;
    let first = berth.begin("web", sleepy(&odd(4))).await;
    berth.reached(&first, "building").await;
    let second = berth.begin("web", apps::probe("2")).await;
    let waiting = berth.get(&api::path_of(&second)).await;
    assert_eq!(waiting["state"], "queued");
    assert!(waiting["waits_for"].as_str().unwrap().contains("building"), "{waiting:#}");
    let third = berth.begin("web", apps::probe("3")).await;
    let second = berth.settled(&second).await;
    assert_eq!(second["state"], "superseded");
    let steps = second["steps"].as_array().unwrap();
    assert!(steps.last().unwrap()["reason"].as_str().unwrap().contains("web#3"), "{second:#}");
    assert_eq!(
        berth.settled(&first).await["state"].as_str().map(|s| s == "live" || s == "retired"),
        Some(true)
    );
    assert_eq!(berth.settled(&third).await["state"], "live");
    assert_eq!(berth.visit("web", "/").await.json()["version"], "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_does_not_wait_for_a_build() {
    needs_docker!();
    let berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    berth.deploy_live("web", apps::probe("2")).await;
    let nap = odd(600);
    let building = berth.begin("web", sleepy(&nap)).await;
    a_process_with(&nap).await;
    let back = berth.post("/v1/apps/web/rollback", json!({ "wait_s": 30 })).await;
    assert_eq!(back["state"], "live", "{back:#}");
    assert_eq!(berth.visit("web", "/").await.json()["version"], "1");
    assert_eq!(berth.settled(&building).await["state"], "superseded");
    no_process_with(&nap).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_makes_one_deployment() {
    let berth = Berth::start().await;
    let wanted = |text: &str| {
        let mut body = apps::site(text);
        body["create_app"] = json!(true);
        body["idempotency_key"] = json!("push-4711");
        body
    };
    let path = "/v1/apps/site/deployments";
    let once = berth.post(path, wanted("one")).await;
    let again = berth.post(path, wanted("one")).await;
    assert_eq!((&once["deployment"], &again["deployment"]), (&json!("site#1"), &json!("site#1")));
    let refused = berth.try_send(Method::POST, path, wanted("another")).await.unwrap_err();
    assert_problem(&refused.problem, "conflict", None, &["idempotency_key"], &["new key"]);
    // The header of the same name says the same.
    let request = berth.request(Method::POST, path).header("idempotency-key", "other");
    let answer = request.json(&apps::site("two")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let all = berth.get(path).await;
    assert_eq!(all["deployments"].as_array().unwrap().len(), 2, "{all:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_at_the_same_time_makes_one_deployment() {
    let berth = Berth::start().await;
    berth.post("/v1/apps", json!({ "name": "site" })).await;
    let mut body = apps::site("one");
    body["idempotency_key"] = json!("retry");
    let path = "/v1/apps/site/deployments";
    let calls = (0..8).map(|_| berth.try_send(Method::POST, path, body.clone()));
    for answer in futures_util::future::join_all(calls).await {
        match answer {
            Ok(detail) => assert_eq!(detail["deployment"], "site#1"),
            // Whoever comes while the first is at work is told to try again.
            Err(refused) => assert_eq!(refused.code(), "conflict", "{refused:#?}"),
        }
    }
    assert_eq!(berth.get(path).await["deployments"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_apps_are_deployed_at_the_same_time() {
    needs_docker!();
    let berth = Berth::start().await;
    let names: Vec<String> = (1..=6).map(|n| format!("app-{n}")).collect();
    let all = names.iter().map(|name| berth.deploy_live(name, apps::probe(name)));
    futures_util::future::join_all(all).await;
    for name in &names {
        assert_eq!(berth.visit(name, "/").await.json()["version"], name.as_str());
    }
    assert_eq!(docker::networks(&berth.instance).len(), 1, "one network for the project");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_is_repeated_from_the_cache_unless_told_otherwise() {
    needs_docker!();
    let berth = Berth::start().await;
    let source = sleepy(&odd(2));
    berth.deploy_live("web", source.clone()).await;
    let kinds = |page: &Value| {
        let lines = page["lines"].as_array().unwrap().clone();
        let of = |kind: &str| {
            lines
                .iter()
                .filter(|l| l["kind"] == kind && l["text"].as_str().unwrap().contains("RUN sleep"))
                .count()
        };
        (of("cached"), of("step"))
    };
    // The same once more would be no deployment at all.
    let mut changed = source.clone();
    changed["files"]["unused.txt"] = json!("changed");
    let second = berth.deploy_live("web", changed).await;
    let path = |d: &Value| format!("{}/log?limit=1000", api::path_of(d["deployment"].as_str().unwrap()));
    assert_eq!(kinds(&berth.get(&path(&second)).await).0, 1);
    let mut fresh = source;
    fresh["no_cache"] = json!(true);
    let third = berth.deploy_live("web", fresh).await;
    assert_eq!(kinds(&berth.get(&path(&third)).await), (0, 1));
}
