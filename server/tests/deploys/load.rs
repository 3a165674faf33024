//! The promise of the whole: visitors notice nothing of a deployment.

use std::time::{Duration, Instant};

use crate::support::{docker, traffic::Visitors, *};

#[tokio::test(flavor = "multi_thread")]
async fn ten_deployments_under_load_lose_no_request() {
    needs_docker!();
    let berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("0")).await;
    let visitors = Visitors::of(&berth, "web", 8);
    let begun = Instant::now();
    let mut requests_before = 0;
    for n in 1..=10 {
        let detail = berth.deploy_live("web", apps::probe(&n.to_string())).await;
        let so_far = visitors.so_far();
        println!(
            "measured: {} took {}, {} requests meanwhile",
            detail["deployment"],
            overhead(&detail),
            so_far - requests_before
        );
        requests_before = so_far;
    }
    let report = visitors.stop().await;
    println!(
        "measured: {} requests during 10 deployments in {:.1} s, {} failed",
        report.requests,
        begun.elapsed().as_secs_f64(),
        report.failed
    );
    report.assert_flawless(500);
    let expected = (0..=10).map(|n| n.to_string()).collect();
    assert_eq!(report.versions, expected, "every version had visitors");
    let instance = &berth.instance;
    eventually("the removal of old releases", Duration::from_secs(60), async || {
        (docker::running(instance, "web").len() == 1 && docker::all_of(instance, "web").len() == 4)
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_static_deployments_under_load_lose_no_request() {
    let berth = Berth::start().await;
    let page = |n: u32| json!({ "files": { "index.html": format!("{{\"version\": \"{n}\"}}") } });
    berth.deploy_live("site", page(0)).await;
    let client = &berth.client;
    let url = format!("http://{}/", berth.http);
    let stop = tokio_util::sync::CancellationToken::new();
    let visits = async {
        let (mut good, mut bad) = (0, Vec::new());
        while !stop.is_cancelled() {
            match client.get(&url).header("host", "site.localhost").send().await {
                Ok(answer) if answer.status() == 200 => good += 1,
                other => bad.push(format!("{other:?}")),
            }
        }
        (good, bad)
    };
    let deploys = async {
        for n in 1..=10 {
            berth.deploy_live("site", page(n)).await;
        }
        stop.cancel();
    };
    let ((good, bad), ()) = tokio::join!(visits, deploys);
    println!("measured: {good} requests during 10 static deployments, {} failed", bad.len());
    assert!(bad.is_empty() && good > 50, "{good} good ones; {bad:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_begun_ends_on_the_release_that_it_began_on() {
    needs_docker!();
    let berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    berth.begin("web", apps::probe("2")).await;
    // Long enough to outlast the switch, short enough for the drain.
    let slow = berth.visit("web", "/slow?ms=12000");
    let switched = async {
        let detail = berth.settled("web#2").await;
        assert_eq!(detail["state"], "live");
    };
    let (slow, ()) = tokio::join!(slow, switched);
    assert_eq!((slow.status, slow.json()["version"].clone()), (200, json!("1")));
    assert_eq!(berth.visit("web", "/").await.json()["version"], "2");
}

/// Time of a deployment by its steps.
fn overhead(detail: &Value) -> String {
    let steps = detail["steps"].as_array().unwrap();
    let parts = steps
        .iter()
        .filter(|s| s["state"] != "live")
        .map(|s| format!("{} {} ms", s["state"].as_str().unwrap(), s["ms"]));
    parts.collect::<Vec<_>>().join(", ")
}
