//! What happens to an app after its deployment: rollback, stop and start, restart, scaling, cleanup.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use reqwest::Method;

use crate::support::{docker, traffic::Visitors, *};

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_takes_about_a_second_and_brings_the_variables_of_its_time_back() {
    needs_docker!();
    let berth = Berth::start().await;
    berth.post("/v1/apps", json!({ "name": "web" })).await;
    berth.send(Method::PUT, "/v1/apps/web/variables", json!({ "variables": { "COLOUR": "green" } })).await;
    berth.deploy_live("web", apps::probe("1")).await;
    berth.send(Method::PUT, "/v1/apps/web/variables", json!({ "variables": { "COLOUR": "red" } })).await;
    berth.deploy_live("web", apps::probe("2")).await;
    // The old release's container is stopped behind the switch; a rollback in that moment would be faster still.
    let instance = &berth.instance;
    eventually("the stop of the old release", Duration::from_secs(30), async || {
        (docker::running(instance, "web").len() == 1).then_some(())
    })
    .await;
    let env = berth.visit("web", "/env").await.json();
    assert_eq!(env["COLOUR"], "red");

    let visitors = Visitors::of(&berth, "web", 4);
    let begun = Instant::now();
    let back = berth.post("/v1/apps/web/rollback", json!({ "wait_s": 30 })).await;
    let answered = begun.elapsed();
    let serves = eventually("the switch", Duration::from_secs(10), async || {
        let page = berth.visit("web", "/").await;
        (page.status == 200 && page.json()["version"] == "1").then(|| begun.elapsed())
    })
    .await;
    let report = visitors.stop().await;
    assert_eq!(back["state"], "live", "{back:#}");
    assert_eq!(back["source"], json!({ "kind": "rollback", "to": "web#1" }));
    measured("rollback, call to answer", answered);
    measured("rollback, call to the old version on the page", serves);
    assert!(serves < Duration::from_secs(4), "a rollback took {serves:?}");
    report.assert_flawless(10);
    let env = berth.visit("web", "/env").await.json();
    assert_eq!(env["COLOUR"], "green", "the release has the variables that it had");
    // What is configured stays as it is: the next deployment takes it.
    let list = berth.get("/v1/apps/web/variables").await;
    assert_eq!((&list["variables"][0]["value"], &list["changes_pending"]), (&json!("red"), &json!(true)));

    // And forward again, by the command line.
    berth.cli(&["rollback", "web", "--to", "2"]).await.ok();
    assert_eq!(berth.visit("web", "/").await.json()["version"], "2");

    // Or back to what ran then, with what is configured today.
    let today = json!({ "to": 1, "variables": "today", "wait_s": 40 });
    let back = berth.post("/v1/apps/web/rollback", today).await;
    assert_eq!(
        (&back["state"], &back["source"]),
        (&json!("live"), &json!({ "kind": "promote", "of": "web#1" }))
    );
    assert!(!back["steps"].to_string().contains("building"), "{back:#}");
    assert_eq!(berth.visit("web", "/").await.json()["version"], "1");
    assert_eq!(berth.visit("web", "/env").await.json()["COLOUR"], "red");
    assert_eq!(berth.get("/v1/apps/web/variables").await["changes_pending"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_cannot_be_names_those_that_can() {
    let berth = Berth::start().await;
    for text in ["one", "two", "three"] {
        berth.deploy_live("site", apps::site(text)).await;
    }
    let refused =
        berth.try_send(Method::POST, "/v1/apps/site/rollback", json!({ "to": 9 })).await.unwrap_err();
    assert_eq!(refused.code(), "not_found");
    assert_eq!(texts(&refused.problem["candidates"]), ["2", "1"], "{refused:#?}");
    berth.post("/v1/apps/site/rollback", json!({ "to": 1 })).await;
    assert!(berth.visit("site", "/").await.body.contains("<p>one</p>"));
    let refused =
        berth.try_send(Method::POST, "/v1/apps/site/rollback", json!({ "to": 1 })).await.unwrap_err();
    assert_eq!(refused.code(), "conflict", "it serves already");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_as_many_releases_are_kept_as_is_set() {
    needs_docker!();
    let berth = Berth::start().await;
    berth.post("/v1/apps", json!({ "name": "web", "settings": { "keep_releases": 1 } })).await;
    for version in ["1", "2", "3"] {
        berth.deploy_live("web", apps::probe(version)).await;
    }
    let instance = &berth.instance;
    eventually("the removal of old releases", Duration::from_secs(30), async || {
        (docker::images(instance).len() == 2 && docker::containers(instance).len() == 2).then_some(())
    })
    .await;
    let kept = berth.get("/v1/apps/web/releases").await;
    let names: Vec<&str> =
        kept["releases"].as_array().unwrap().iter().map(|r| r["release"].as_str().unwrap()).collect();
    assert_eq!(names, ["web#3", "web#2"]);
    let refused =
        berth.try_send(Method::POST, "/v1/apps/web/rollback", json!({ "to": 1 })).await.unwrap_err();
    assert_eq!((refused.code(), refused.status), ("release_gone", 410), "{refused:#?}");
    assert_eq!(texts(&refused.problem["candidates"]), ["2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_app_says_so_to_visitors_and_starts_again() {
    needs_docker!();
    let berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    let refused = berth.try_send(Method::POST, "/v1/apps/web/stop", json!({})).await.unwrap_err();
    assert_eq!(refused.code(), "confirmation_required", "visitors would notice");
    let plan = berth.post("/v1/apps/web/stop", json!({ "dry_run": true })).await;
    assert_eq!(plan["job"], Value::Null);
    assert_eq!(berth.visit("web", "/").await.status, 200);

    let stop = berth.post("/v1/apps/web/stop", json!({ "confirm": "web" })).await;
    berth.job_done(&stop).await;
    assert_eq!(berth.get("/v1/apps/web").await["state"], "stopped");
    let page = berth.visit("web", "/").await;
    assert_eq!(page.status, 503);
    assert!(page.body.to_lowercase().contains("stopped"), "{page:#?}");
    assert_eq!(docker::running(&berth.instance, "web"), [""; 0]);

    let start = berth.post("/v1/apps/web/start", json!({})).await;
    berth.job_done(&start).await;
    assert_eq!(berth.visit("web", "/").await.json()["version"], "1");
    assert_eq!(berth.get("/v1/apps/web").await["state"], "running");
}

#[tokio::test(flavor = "multi_thread")]
async fn restart_and_scaling_lose_no_request() {
    needs_docker!();
    let berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    let visitors = Visitors::of(&berth, "web", 8);

    let scaled = berth.post("/v1/apps/web/scale", json!({ "replicas": 3 })).await;
    berth.job_done(&scaled).await;
    let detail = berth.get("/v1/apps/web").await;
    assert_eq!((&detail["state"], detail["replicas"].as_array().unwrap().len()), (&json!("running"), 3));
    let mut hosts = BTreeSet::new();
    for _ in 0..60 {
        hosts.insert(berth.visit("web", "/").await.json()["host"].as_str().unwrap().to_owned());
    }
    assert_eq!(hosts.len(), 3, "requests go to all replicas");

    let restarted = berth.post("/v1/apps/web/restart", json!({ "wait_s": 50 })).await;
    assert_eq!(restarted["state"], "live", "{restarted:#}");
    let after = berth.visit("web", "/").await.json()["host"].as_str().unwrap().to_owned();
    assert!(!hosts.contains(&after), "the containers are new ones");
    assert!(docker::running(&berth.instance, "web").len() >= 3, "all three are there again");

    let scaled = berth.post("/v1/apps/web/scale", json!({ "replicas": 1 })).await;
    berth.job_done(&scaled).await;
    let report = visitors.stop().await;
    println!("measured: {} requests during scaling up, restart and scaling down", report.requests);
    report.assert_flawless(200);
    let instance = &berth.instance;
    eventually("the stop of what is not needed", Duration::from_secs(40), async || {
        (docker::running(instance, "web").len() == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_dies_is_replaced_and_the_others_serve_on() {
    needs_docker!();
    let berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    let scaled = berth.post("/v1/apps/web/scale", json!({ "replicas": 2 })).await;
    berth.job_done(&scaled).await;
    let victim = docker::running(&berth.instance, "web").remove(0);
    docker::docker(&["kill", &victim]);
    let begun = Instant::now();
    let mut failed = 0;
    for _ in 0..40 {
        failed += usize::from(berth.visit("web", "/").await.status != 200);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(failed, 0, "the other replica takes its requests");
    eventually("a new replica", Duration::from_secs(45), async || {
        let detail = berth.get("/v1/apps/web").await;
        let up = detail["replicas"].as_array().unwrap().iter().filter(|r| r["state"] == "running").count();
        (detail["state"] == "running" && up == 2).then_some(())
    })
    .await;
    measured("a killed replica is replaced", begun.elapsed());
    let events = berth.get("/v1/events?kind=container.died").await;
    assert!(!events["events"].as_array().unwrap().is_empty(), "{events:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_dies_soon_after_its_switch_is_rolled_back() {
    needs_docker!();
    let berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    berth.deploy_live("web", apps::probe("2")).await;
    berth.visit("web", "/die").await;
    let begun = Instant::now();
    eventually("the rollback", Duration::from_secs(30), async || {
        let page = berth.visit("web", "/").await;
        (page.status == 200 && page.json()["version"] == "1").then_some(())
    })
    .await;
    measured("a release that died is rolled back", begun.elapsed());
    let dead = berth.get("/v1/deployments/web%232").await;
    assert_eq!(dead["state"], "rolled_back", "{dead:#}");
    assert_eq!(dead["problem"]["code"], "container_exited", "{dead:#}");
    assert!(dead["problem"]["detail"].as_str().unwrap().contains("exit code 7"), "{dead:#}");
    assert_eq!(berth.get("/v1/apps/web").await["live"], "web#1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_app_leaves_nothing_behind() {
    needs_docker!();
    let berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    berth.deploy_live("site", apps::site("hello")).await;
    let refused = berth.try_send(Method::DELETE, "/v1/apps/web", json!({})).await.unwrap_err();
    assert_eq!(refused.code(), "confirmation_required");
    for app in ["web", "site"] {
        let deleted = berth.send(Method::DELETE, &format!("/v1/apps/{app}?confirm={app}"), json!({})).await;
        berth.job_done(&deleted).await;
        assert_eq!(berth.visit(app, "/").await.status, 404);
    }
    assert_eq!(docker::containers(&berth.instance), [""; 0]);
    assert_eq!(docker::images(&berth.instance), [""; 0]);
    assert_eq!(docker::networks(&berth.instance), [""; 0]);
    assert_eq!(berth.entries("releases"), [""; 0]);
    assert_eq!(berth.entries("work"), [""; 0]);
}

/// Has an app tell an error at this line of its code, as its client would.
async fn tell_error(berth: &Berth, dsn: &str, release: &str, kind: &str, n: u32) {
    let (place, id) = dsn.rsplit_once('/').unwrap();
    let key = place.split_once("://").unwrap().1.split_once('@').unwrap().0;
    let event = json!({ "event_id": format!("{n:032x}"), "platform": "node", "release": release,
        "exception": { "values": [{ "type": kind, "value": "told", "stacktrace": { "frames": [
            { "filename": "server.js", "function": kind, "lineno": 1, "in_app": true } ] } }] } });
    let url = format!("{}/api/{id}/store/?sentry_key={key}", berth.control);
    let answer = berth.client.post(url).body(event.to_string()).send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_with_new_errors_is_taken_back_where_its_app_wants_that() {
    needs_docker!();
    let berth = Berth::start().await;
    berth.post("/v1/apps", json!({ "name": "web", "settings": { "watch_window_s": 120 } })).await;
    let dsn = berth.get("/v1/apps/web/dsn").await["dsn"].as_str().unwrap().to_owned();
    berth.deploy_live("web", apps::probe("1")).await;
    tell_error(&berth, &dsn, "web@1", "OldError", 1).await;
    eventually("the old error", Duration::from_secs(10), async || {
        (berth.get("/v1/errors?query=is:unresolved").await["total"] == 1).then_some(())
    })
    .await;
    let second = berth.deploy_live("web", apps::probe("2")).await;
    // By default nothing is taken back; nor ever for what was there before, or comes from the release before.
    for n in 10..20 {
        tell_error(&berth, &dsn, "web@2", "OldError", n).await;
        tell_error(&berth, &dsn, "web@1", "LateError", 100 + n).await;
        tell_error(&berth, &dsn, "web@2", "NewError", 200 + n).await;
    }
    let told = async |wanted: i64| {
        eventually("the errors", Duration::from_secs(10), async || {
            let all = berth.get("/v1/errors?query=NewError").await;
            (all["issues"][0]["events"] == wanted).then_some(())
        })
        .await;
    };
    told(10).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(berth.visit("web", "/").await.json()["version"], "2");
    let rules = |n: u32| json!({ "rollback_events": n });
    let set = berth.send(Method::PATCH, "/v1/apps/web/errors/rules", rules(11)).await;
    assert_eq!(set["rollback_events"], 11);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(berth.visit("web", "/").await.json()["version"], "2", "ten are not eleven");
    tell_error(&berth, &dsn, "web@2", "NewError", 300).await;
    let begun = Instant::now();
    eventually("the release before", Duration::from_secs(15), async || {
        (berth.visit("web", "/").await.json()["version"] == "1").then_some(())
    })
    .await;
    measured("a release with new errors was taken back", begun.elapsed());
    let name = second["deployment"].as_str().unwrap().replace('#', "%23");
    let taken = berth.get(&format!("/v1/deployments/{name}")).await;
    assert_eq!(taken["state"], "rolled_back", "{taken:#}");
    let problem = &taken["problem"];
    let said = problem["detail"].as_str().unwrap();
    assert!(said.contains("11 events of new errors came: WEB-3 (11), within 120 s"), "{problem:#}");
    assert!(problem["hint"].as_str().unwrap().contains("rollback_events"), "{problem:#}");
}
