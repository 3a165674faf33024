//! Docker is not there, goes away, or has no room.

use std::time::Duration;

use reqwest::Method;

use crate::support::{
    archive,
    before::{Before, a_process_with, assert_problem, no_process_with},
    disk::SmallDisk,
    relay::Relay,
    *,
};

#[tokio::test(flavor = "multi_thread")]
async fn without_docker_static_sites_are_served_and_the_rest_is_explained() {
    let nowhere = Options::default().with("docker-host", "unix:///nonexistent/docker.sock");
    let berth = Berth::start_with(nowhere).await;
    berth.deploy_live("site", apps::site("no containers here")).await;
    assert!(berth.visit("site", "/").await.body.contains("no containers here"));
    for (source, step) in
        [(json!({ "image": "python:3.12-slim" }), "fetching"), (apps::probe("1"), "building")]
    {
        let problem = berth.deploy_failing("web", source).await;
        let said = ["Docker", "socket"];
        assert_problem(&problem, "docker_unavailable", Some(step), &said, &["/nonexistent/docker.sock"]);
    }
    let status = berth.get("/v1/platform").await;
    assert_eq!((&status["healthy"], &status["docker"]["available"]), (&json!(false), &json!(false)));
    assert!(status["docker"]["problem"].as_str().unwrap().contains("/nonexistent/docker.sock"), "{status:#}");
    assert!(texts(&status["attention"]).iter().any(|a| a.contains("Docker")), "{status:#}");
    eventually("the removal of work directories", Duration::from_secs(5), async || {
        berth.entries("work").is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_that_goes_away_in_a_build_fails_it_and_nothing_else() {
    needs_docker!();
    let socket = tempfile::tempdir().unwrap();
    let relay = Relay::open(&socket.path().join("docker.sock"));
    let berth = Berth::start_with(Options::default().with("docker-host", &relay.url())).await;
    berth.deploy_live("web", apps::probe("1")).await;
    let before = Before::something(&berth).await;
    let nap = format!("600.{}", uuid::Uuid::new_v4().as_u128() % 1_000_000_000);
    let source = apps::dockerfile(&format!("FROM python:3.12-slim\nRUN sleep {nap}\n"));
    let deployment = berth.begin("web", source).await;
    a_process_with(&nap).await;
    relay.cut();
    let detail = berth.settled(&deployment).await;
    assert_eq!(detail["state"], "failed", "{detail:#}");
    assert_problem(&detail["problem"], "docker_unavailable", Some("building"), &["Docker"], &[]);
    assert_eq!(berth.visit("web", "/").await.json()["version"], "1", "apps are served without Docker's help");
    assert_eq!(berth.get("/v1/platform").await["docker"]["available"], false);

    relay.mend();
    no_process_with(&nap).await;
    before.assert_same(&berth).await;
    eventually("Docker's return", Duration::from_secs(20), async || {
        (berth.get("/v1/platform").await["docker"]["available"] == true).then_some(())
    })
    .await;
    berth.deploy_live("web", apps::probe("2")).await;
    assert_eq!(berth.visit("web", "/").await.json()["version"], "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_starts_before_docker_routes_apps_when_it_comes() {
    needs_docker!();
    let socket = tempfile::tempdir().unwrap();
    let relay = Relay::open(&socket.path().join("docker.sock"));
    let mut berth = Berth::start_with(Options::default().with("docker-host", &relay.url())).await;
    berth.deploy_live("web", apps::probe("1")).await;
    berth.kill();
    relay.cut();
    berth.run().await;
    let page = berth.visit("web", "/").await;
    assert_eq!(page.status, 503, "{page:#?}");
    assert!(page.headers.contains_key("retry-after"), "{page:#?}");
    relay.mend();
    eventually("the app's page", Duration::from_secs(20), async || {
        (berth.visit("web", "/").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_not_fit_is_refused_with_numbers() {
    needs_docker!();
    let mut berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    let before = Before::something(&berth).await;
    berth.kill();
    berth.set("min-free-disk-mb", "16000000");
    berth.run().await;
    let refused =
        berth.try_upload(archive::tar_gz(&[("index.html", "x")]), "application/gzip").await.unwrap_err();
    assert_eq!(refused.status, 507);
    assert_problem(&refused.problem, "out_of_disk", None, &["16000000 MiB"], &["platform_cleanup"]);
    let numbers = |text: &str| text.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty()).count();
    assert!(numbers(refused.problem["detail"].as_str().unwrap()) >= 2, "{refused:#?}");

    let problem = berth.deploy_failing("web", apps::probe("2")).await;
    assert_problem(&problem, "out_of_disk", Some("building"), &["free"], &["platform_cleanup"]);
    assert!(numbers(problem["detail"].as_str().unwrap()) >= 2, "{problem:#}");
    before.assert_same(&berth).await;
    assert_eq!(berth.visit("web", "/").await.json()["version"], "1");
    let status = berth.get("/v1/platform").await;
    assert_eq!(status["healthy"], false, "{status:#}");
    assert!(texts(&status["attention"]).iter().any(|a| a.to_lowercase().contains("disk")), "{status:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_fails_a_deployment_cleanly() {
    // A small file system of its own is needed, which takes the right to mount one.
    let disk = tempfile::tempdir().unwrap();
    let Some(_mounted) = SmallDisk::mount(disk.path(), 24) else { return };
    let berth = Berth::start_with(
        Options::default()
            .with("data-dir", disk.path().join("data").to_str().unwrap())
            .with("min-free-disk-mb", "0"),
    )
    .await;
    berth.deploy_live("site", apps::site("small")).await;
    let noise = |seed: u64| {
        let mut x = seed;
        let bytes = (0..3 << 20).map(|_| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b'a' + ((x >> 60) as u8))
        });
        bytes.collect::<String>()
    };
    let mut problem = Value::Null;
    for n in 0..10 {
        let page = noise(n);
        let uploaded = berth
            .try_upload(archive::tar_gz(&[("index.html", "x"), ("big.txt", &page)]), "application/gzip")
            .await;
        let detail = match uploaded {
            Ok(upload) => berth.deploy("site", json!({ "upload": upload["upload"] })).await,
            Err(refused) => json!({ "state": "failed", "problem": refused.problem }),
        };
        if detail["state"] == "failed" {
            problem = detail["problem"].clone();
            break;
        }
    }
    assert_problem(
        &problem,
        "out_of_disk",
        problem["step"].as_str(),
        &["disk is full"],
        &["platform_cleanup"],
    );
    assert_eq!(berth.visit("site", "/").await.status, 200, "what is live serves on");
    let deleted = berth.try_send(Method::DELETE, "/v1/apps/site?confirm=site", json!({})).await;
    assert!(deleted.is_ok(), "a full disk can be emptied through Berth: {deleted:#?}");
}
