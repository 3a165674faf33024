//! Builds that cannot succeed.

use std::time::{Duration, Instant};

use reqwest::Method;

use crate::support::{
    before::{Before, assert_problem, no_process_with},
    *,
};

/// A daemon with a live app, and what there is then.
pub(crate) async fn with_live_app() -> (Berth, Before) {
    let berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    let before = Before::something(&berth).await;
    (berth, before)
}

pub(crate) async fn assert_untouched(berth: &Berth, before: &Before) {
    before.assert_same(berth).await;
    let page = berth.visit("web", "/").await;
    assert!(page.status == 200 && page.json()["version"] == "1", "{page:#?}");
    let app = berth.get("/v1/apps/web").await;
    assert_eq!((&app["live"], &app["state"]), (&json!("web#1"), &json!("running")), "{app:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dockerfile_that_is_none_is_named_with_its_line() {
    needs_docker!();
    let (berth, before) = with_live_app().await;
    let source = apps::dockerfile("FROM python:3.12-slim\nRUM echo hello\n");
    let problem = berth.deploy_failing("web", source).await;
    assert_problem(&problem, "build_failed", Some("building"), &["line 2", "RUM"], &["Dockerfile"]);
    assert_untouched(&berth, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_is_named_with_its_last_lines() {
    needs_docker!();
    let (berth, before) = with_live_app().await;
    // A step that an earlier run left in the cache prints nothing.
    let source = apps::dockerfile(&format!(
        "FROM python:3.12-slim\nENV FRESH={}\nRUN echo before\n\
        RUN echo the crane is broken >&2 && exit 3\nRUN echo after\n",
        uuid::Uuid::new_v4()
    ));
    let problem = berth.deploy_failing("web", source).await;
    assert_problem(&problem, "build_failed", Some("building"), &["exit code 3", "crane"], &["log"]);
    assert_eq!(texts(&problem["log_tail"]), ["the crane is broken"], "{problem:#}");
    let log = berth.build_log("web#2").await;
    assert!(log.iter().any(|l| l == "before") && !log.iter().any(|l| l == "after"), "{log:#?}");
    assert_untouched(&berth, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_in_the_source_is_named() {
    needs_docker!();
    let (berth, before) = with_live_app().await;
    let problem =
        berth.deploy_failing("web", apps::dockerfile("FROM python:3.12-slim\nCOPY server.py /\n")).await;
    assert_problem(&problem, "build_failed", Some("building"), &["server.py"], &["source"]);
    assert_untouched(&berth, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_image_that_is_nowhere_is_named() {
    needs_docker!();
    let (berth, before) = with_live_app().await;
    let problem =
        berth.deploy_failing("web", apps::dockerfile("FROM registry.invalid/no/such:image\n")).await;
    assert_eq!(problem["step"], "building");
    assert!(
        ["build_failed", "image_unavailable"].contains(&problem["code"].as_str().unwrap()),
        "{problem:#}"
    );
    assert!(problem["detail"].as_str().unwrap().contains("registry.invalid/no/such:image"), "{problem:#}");
    assert!(problem["hint"].is_string(), "{problem:#}");
    assert_untouched(&berth, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_nowhere_is_named() {
    needs_docker!();
    let (berth, before) = with_live_app().await;
    let problem = berth.deploy_failing("web", json!({ "image": "registry.invalid/no/such:image" })).await;
    let said = ["registry.invalid/no/such:image"];
    assert_problem(&problem, "image_unavailable", Some("fetching"), &said, &[]);
    assert_untouched(&berth, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_never_ends_is_ended() {
    needs_docker!();
    let (berth, before) = with_live_app().await;
    berth.send(Method::PATCH, "/v1/apps/web", json!({ "settings": { "build_timeout_s": 10 } })).await;
    let nap = format!("600.{}", uuid::Uuid::new_v4().as_u128() % 1_000_000_000);
    let begun = Instant::now();
    let problem = berth
        .deploy_failing("web", apps::dockerfile(&format!("FROM python:3.12-slim\nRUN sleep {nap}\n")))
        .await;
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    assert_problem(&problem, "timed_out", Some("building"), &["10 s"], &["limit"]);
    no_process_with(&nap).await;
    assert_untouched(&berth, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_that_does_not_exist_is_named() {
    needs_docker!();
    let (berth, before) = with_live_app().await;
    let source = json!({ "files": {
        "requirements.txt": "flask==3.1.0\nthis-package-cannot-be-anywhere==99.99\n",
        "app.py": "from flask import Flask\napp = Flask(__name__)\n",
    } });
    let problem = berth.deploy_failing("web", source).await;
    assert_problem(&problem, "build_failed", Some("building"), &["pip"], &[]);
    let tail = texts(&problem["log_tail"]).join("\n");
    assert!(tail.contains("this-package-cannot-be-anywhere"), "{problem:#}");
    assert_untouched(&berth, &before).await;
}
