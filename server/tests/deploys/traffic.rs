//! Traffic controls as visitors feel them: pause, maintenance, gradual rollouts, and scaling under load.

use std::time::{Duration, Instant};

use crate::support::{traffic::Visitors, *};

/// How many of a hundred visitors, each with a browser of its own, get this version.
async fn visitors_of(berth: &Berth, version: &str) -> usize {
    let mut count = 0;
    for n in 0..100 {
        if ask(berth, &[("user-agent", &format!("visitor {n}"))]).await == version {
            count += 1;
        }
    }
    count
}

/// The version that answers a request with these headers.
async fn ask(berth: &Berth, headers: &[(&str, &str)]) -> String {
    let mut request = berth.client.get(format!("http://{}/", berth.http)).header("host", "web.localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let said: Value = answer.json().await.unwrap();
    said["version"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_under_load_loses_no_request_and_ends_with_503_after_its_limit() {
    needs_docker!();
    let berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    let visitors = Visitors::of(&berth, "web", 8);
    tokio::time::sleep(Duration::from_millis(300)).await;
    berth.post("/v1/apps/web/traffic/pause", json!({ "hold_s": 20 })).await;
    eventually("all visitors to wait", Duration::from_secs(10), async || {
        (berth.get("/v1/apps/web/traffic").await["waiting"] == 8).then_some(())
    })
    .await;
    assert_eq!(berth.get("/v1/apps/web").await["state"], "paused");
    let status = berth.get("/v1/platform").await;
    assert!(texts(&status["attention"]).iter().any(|a| a.contains("web is paused")), "{status:#}");
    // A deployment goes on behind.
    berth.deploy_live("web", apps::probe("2")).await;
    berth.cli(&["traffic", "resume", "web"]).await.ok();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let report = visitors.stop().await;
    report.assert_flawless(20);
    println!("measured: {} requests around a pause, {} failed", report.requests, report.failed);
    assert_eq!(berth.visit("web", "/").await.json()["version"], "2");

    berth.cli(&["traffic", "pause", "web", "--hold-s", "1"]).await.ok();
    let begun = Instant::now();
    let page = berth.visit("web", "/").await;
    assert_eq!(page.status, 503);
    measured("a request that waits 1 s at most", begun.elapsed());
    assert!((1..4).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_maintenance_page_says_what_its_owner_says_and_outlives_a_kill() {
    let mut berth = Berth::start().await;
    berth.deploy_live("web", apps::site("hello")).await;
    let page = json!({ "message": "Back at <b>noon</b>.", "retry_after_s": 90 });
    let refused =
        berth.try_send(reqwest::Method::POST, "/v1/apps/web/traffic/maintenance", page.clone()).await;
    assert_eq!(refused.unwrap_err().code(), "confirmation_required");
    let mut confirmed = page;
    confirmed["confirm"] = json!("web");
    berth.post("/v1/apps/web/traffic/maintenance", confirmed).await;
    berth.kill();
    berth.run().await;
    for (accept, wanted) in
        [("text/html", "Back at &lt;b&gt;noon&lt;/b&gt;."), ("application/json", "Back at <b>noon</b>.")]
    {
        let url = format!("http://{}/", berth.http);
        let request = berth.client.get(url).header("host", "web.localhost").header("accept", accept);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["retry-after"], "90");
        let text = answer.text().await.unwrap();
        assert!(text.contains(wanted), "{text}");
    }
    berth.post("/v1/apps/web/traffic/resume", json!({})).await;
    assert!(berth.visit("web", "/").await.body.contains("hello"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_by_header_cookie_and_percent_survives_a_kill_and_is_promoted_under_load() {
    needs_docker!();
    let mut berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    let mut wanted = apps::probe("2");
    wanted["percent"] = json!(0);
    wanted["header"] = json!({ "name": "X-Beta", "value": "yes" });
    wanted["cookie"] = json!({ "name": "beta" });
    wanted["wait_s"] = json!(50);
    let started = berth.post("/v1/apps/web/rollout", wanted).await;
    assert_eq!(started["state"], "rolling_out", "{started:#}");
    assert_eq!(ask(&berth, &[]).await, "1");
    assert_eq!(ask(&berth, &[("x-beta", "yes")]).await, "2");
    assert_eq!(ask(&berth, &[("x-beta", "no")]).await, "1");
    assert_eq!(ask(&berth, &[("cookie", "a=b; beta=1")]).await, "2");
    berth.send(reqwest::Method::PATCH, "/v1/apps/web/rollout", json!({ "percent": 30 })).await;
    let before = visitors_of(&berth, "2").await;
    assert!((15..=45).contains(&before), "30 % were {before} of 100");
    println!("measured: {before} of 100 visitors at 30 %");
    berth.kill();
    berth.run().await;
    assert_eq!(visitors_of(&berth, "2").await, before, "the same visitors as before the kill");
    assert_eq!(ask(&berth, &[("x-beta", "yes")]).await, "2");

    let visitors = Visitors::of(&berth, "web", 8);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let promoted = berth.post("/v1/apps/web/rollout/promote", json!({ "wait_s": 40 })).await;
    assert_eq!(promoted["state"], "live", "{promoted:#}");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let report = visitors.stop().await;
    println!("measured: {} requests around a promotion, {} failed", report.requests, report.failed);
    report.assert_flawless(20);
    assert_eq!(visitors_of(&berth, "2").await, 100);

    let mut third = apps::probe("3");
    third["percent"] = json!(100);
    third["wait_s"] = json!(50);
    berth.post("/v1/apps/web/rollout", third).await;
    assert_eq!(ask(&berth, &[]).await, "3");
    let visitors = Visitors::of(&berth, "web", 8);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let aborted = berth.post("/v1/apps/web/rollout/abort", json!({ "wait_s": 40 })).await;
    assert_eq!(aborted["state"], "cancelled", "{aborted:#}");
    tokio::time::sleep(Duration::from_millis(300)).await;
    visitors.stop().await.assert_flawless(20);
    assert_eq!(ask(&berth, &[]).await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn scaling_up_and_down_under_load_loses_no_request() {
    needs_docker!();
    let berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    let visitors = Visitors::of(&berth, "web", 8);
    for replicas in [3, 1, 3, 1, 3, 1] {
        let job = berth.post("/v1/apps/web/scale", json!({ "replicas": replicas })).await;
        berth.job_done(&job).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let report = visitors.stop().await;
    println!("measured: {} requests while scaling six times, {} failed", report.requests, report.failed);
    report.assert_flawless(100);
}
