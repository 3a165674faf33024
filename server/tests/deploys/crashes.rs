//! The daemon is killed, as by a power cut, in every state that a deployment can be in, and started again.

use std::time::{Duration, Instant};

use reqwest::Method;

use crate::support::{
    before::{Before, a_process_with, no_process_with},
    docker, *,
};

/// Wants an app's Docker things to be those of these many kept releases, one container of which runs.
async fn assert_tidy(berth: &Berth, app: &str, releases: usize) {
    let instance = &berth.instance;
    let begun = Instant::now();
    loop {
        let now = (
            docker::running(instance, app).len(),
            docker::all_of(instance, app).len(),
            docker::images(instance).len(),
            docker::networks(instance).len(),
            berth.entries("work").len(),
        );
        if now == (1, releases, releases, 1, 0) {
            return;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "(running, containers, images, networks, work directories) are {now:?}, not those of {releases} releases"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn apps_are_routed_again_within_a_second_of_the_start() {
    needs_docker!();
    let mut berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    berth.deploy_live("site", apps::site("still here")).await;
    let host = berth.visit("web", "/").await.json()["host"].clone();
    berth.kill();
    assert_eq!(docker::running(&berth.instance, "web").len(), 1, "the container outlives the daemon");
    let begun = Instant::now();
    let ready = berth.run().await;
    let page = eventually("the app's page", Duration::from_secs(5), async || {
        let page = berth.visit("web", "/").await;
        (page.status == 200).then_some(page)
    })
    .await;
    let routed = begun.elapsed();
    measured("start to ready after a kill", ready);
    measured("start to the app's page after a kill", routed);
    assert!(routed < Duration::from_millis(2500), "the app was routed after {routed:?}");
    assert_eq!(page.json()["host"], host, "by the container that ran all the time");
    assert!(berth.visit("site", "/").await.body.contains("still here"));
    assert_tidy(&berth, "web", 1).await;
    assert_eq!(berth.get("/v1/apps/web").await["state"], "running");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_died_with_the_daemon_is_started_again() {
    needs_docker!();
    let mut berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    berth.kill();
    let container = docker::running(&berth.instance, "web").remove(0);
    docker::docker(&["kill", &container]);
    berth.run().await;
    eventually("the app's page", Duration::from_secs(20), async || {
        (berth.visit("web", "/").await.status == 200).then_some(())
    })
    .await;
    assert_tidy(&berth, "web", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_somebody_removed_is_made_again() {
    needs_docker!();
    let mut berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    berth.kill();
    let container = docker::running(&berth.instance, "web").remove(0);
    docker::docker(&["rm", "--force", &container]);
    berth.run().await;
    eventually("the app's page", Duration::from_secs(20), async || {
        (berth.visit("web", "/").await.status == 200).then_some(())
    })
    .await;
    assert_tidy(&berth, "web", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_was_cut_off_is_begun_again() {
    needs_docker!();
    let mut berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    let nap = format!("6.{}", uuid::Uuid::new_v4().as_u128() % 1_000_000_000);
    let mut source = apps::probe("2");
    let text = source["files"]["Dockerfile"]
        .as_str()
        .unwrap()
        .replace("EXPOSE", &format!("RUN sleep {nap}\nEXPOSE"));
    source["files"]["Dockerfile"] = json!(text);
    let deployment = berth.begin("web", source).await;
    a_process_with(&nap).await;
    berth.kill();
    no_process_with(&nap).await;
    berth.run().await;
    let waiting = berth.get(&api::path_of(&deployment)).await;
    assert_ne!(waiting["state"], "failed", "{waiting:#}");
    assert_eq!(berth.visit("web", "/").await.json()["version"], "1", "the old release serves meanwhile");
    let detail = berth.settled(&deployment).await;
    assert_eq!(detail["state"], "live", "{detail:#}");
    let restarted = |s: &&Value| s["state"] == "queued" && s["reason"] == "the daemon was restarted";
    assert_eq!(detail["steps"].as_array().unwrap().iter().filter(restarted).count(), 1, "{detail:#}");
    assert_eq!(berth.visit("web", "/").await.json()["version"], "2");
    assert_tidy(&berth, "web", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_that_was_cut_off_leaves_no_container_behind() {
    needs_docker!();
    let mut berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    let program = "import time, http.server\ntime.sleep(4)\n\
        http.server.ThreadingHTTPServer(('0.0.0.0', 8080), http.server.SimpleHTTPRequestHandler).serve_forever()\n";
    let deployment = berth.begin("web", apps::python(program)).await;
    berth.reached(&deployment, "checking").await;
    berth.kill();
    assert_eq!(docker::running(&berth.instance, "web").len(), 2);
    berth.run().await;
    assert_eq!(berth.visit("web", "/").await.json()["version"], "1");
    let detail = berth.settled(&deployment).await;
    assert_eq!(detail["state"], "live", "{detail:#}");
    assert_tidy(&berth, "web", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_was_cut_off_has_switched() {
    needs_docker!();
    let mut berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    let (http, client) = (berth.http, berth.client.clone());
    let slow = tokio::spawn(async move {
        let url = format!("http://{http}/slow?ms=25000");
        client.get(url).header("host", "web.localhost").send().await.map(|_| ())
    });
    let deployment = berth.begin("web", apps::probe("2")).await;
    berth.reached(&deployment, "draining").await;
    berth.kill();
    assert!(slow.await.unwrap().is_err(), "the request went down with the daemon");
    berth.run().await;
    assert_eq!(berth.settled(&deployment).await["state"], "live");
    eventually("the new release", Duration::from_secs(5), async || {
        let page = berth.visit("web", "/").await;
        (page.status == 200 && page.json()["version"] == "2").then_some(())
    })
    .await;
    assert_eq!(berth.get("/v1/deployments/web%231").await["state"], "retired");
    assert_tidy(&berth, "web", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_was_asked_for_holds_across_a_restart() {
    needs_docker!();
    let mut berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    let before = Before::something(&berth).await;
    let nap = format!("600.{}", uuid::Uuid::new_v4().as_u128() % 1_000_000_000);
    let source = apps::dockerfile(&format!("FROM python:3.12-slim\nRUN sleep {nap}\n"));
    let deployment = berth.begin("web", source).await;
    a_process_with(&nap).await;
    // The answer may or may not come before the end; what was asked for must hold where it came.
    let cancelled = berth.post(&format!("{}/cancel", api::path_of(&deployment)), json!({})).await;
    assert!(["cancelled", "building"].contains(&cancelled["state"].as_str().unwrap()), "{cancelled:#}");
    berth.kill();
    berth.run().await;
    assert_eq!(berth.settled(&deployment).await["state"], "cancelled");
    no_process_with(&nap).await;
    before.assert_same(&berth).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_carried_to_their_end_after_a_restart() {
    needs_docker!();
    let mut berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    for (call, body, state) in [
        ("scale", json!({ "replicas": 3 }), "running"),
        ("stop", json!({ "confirm": "web" }), "stopped"),
        ("start", json!({}), "running"),
    ] {
        let job = berth.post(&format!("/v1/apps/web/{call}"), body).await;
        berth.kill();
        berth.run().await;
        berth.job_done(&job).await;
        assert_eq!(berth.get("/v1/apps/web").await["state"], state, "after {call}");
    }
    assert_eq!(docker::running(&berth.instance, "web").len(), 3);
    let job = berth.send(Method::DELETE, "/v1/apps/web?confirm=web", json!({})).await;
    berth.kill();
    berth.run().await;
    berth.job_done(&job).await;
    assert_eq!(docker::containers(&berth.instance), [""; 0]);
    assert_eq!(docker::images(&berth.instance), [""; 0]);
    assert_eq!(docker::networks(&berth.instance), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_was_cut_off_leaves_nothing() {
    let mut berth = Berth::start().await;
    let (sender, body) = tokio::sync::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(1);
    let request = berth
        .request(Method::POST, "/v1/uploads")
        .header("content-type", "application/gzip")
        .body(reqwest::Body::wrap_stream(tokio_stream::wrappers::ReceiverStream::new(body)));
    let upload = tokio::spawn(request.send());
    sender.send(Ok(vec![7; 1 << 20])).await.unwrap();
    eventually("the partial file", Duration::from_secs(5), async || {
        (!berth.entries("uploads").is_empty()).then_some(())
    })
    .await;
    berth.kill();
    assert!(upload.await.unwrap().is_err());
    assert_eq!(berth.entries("uploads").len(), 1, "a killed daemon cannot tidy up");
    berth.run().await;
    assert_eq!(berth.entries("uploads"), [""; 0]);
    // A client that leaves is tidied up after at once.
    let (sender, body) = tokio::sync::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(1);
    let request = berth
        .request(Method::POST, "/v1/uploads")
        .header("content-type", "application/gzip")
        .body(reqwest::Body::wrap_stream(tokio_stream::wrappers::ReceiverStream::new(body)));
    let upload = tokio::spawn(request.send());
    sender.send(Ok(vec![7; 1 << 20])).await.unwrap();
    eventually("the partial file", Duration::from_secs(5), async || {
        (!berth.entries("uploads").is_empty()).then_some(())
    })
    .await;
    upload.abort();
    eventually("its removal", Duration::from_secs(5), async || {
        berth.entries("uploads").is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_at_any_moment_lead_to_a_true_state() {
    needs_docker!();
    let mut berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("0")).await;
    let mut version = 0;
    for delay in [20, 150, 500, 1000, 1600, 2300, 3200] {
        version += 1;
        berth.begin("web", apps::probe(&version.to_string())).await;
        tokio::time::sleep(Duration::from_millis(delay)).await;
        berth.kill();
        berth.run().await;
        let page = eventually("some release's page", Duration::from_secs(20), async || {
            let page = berth.visit("web", "/").await;
            (page.status == 200).then_some(page)
        })
        .await;
        assert!(page.json()["version"].as_str().unwrap().parse::<u32>().unwrap() <= version);
    }
    version += 1;
    berth.deploy_live("web", apps::probe(&version.to_string())).await;
    assert_eq!(berth.visit("web", "/").await.json()["version"], version.to_string());
    let all = berth.get("/v1/apps/web/deployments?limit=50").await;
    let states: Vec<&str> =
        all["deployments"].as_array().unwrap().iter().map(|d| d["state"].as_str().unwrap()).collect();
    println!("states, newest first: {states:?}");
    assert_eq!(states.len(), version as usize + 1);
    assert_eq!(states.iter().filter(|s| **s == "live").count(), 1, "{states:?}");
    let settled = ["live", "retired", "superseded"];
    assert!(states.iter().all(|s| settled.contains(s)), "{all:#}");
    // The live one and the three that are kept for rollback.
    assert_tidy(&berth, "web", 4).await;
    assert_eq!(berth.get("/v1/apps/web/releases").await["releases"].as_array().unwrap().len(), 4);
}
