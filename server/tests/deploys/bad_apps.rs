//! Apps that were built well and do not run well. None of them gets a single request.

use reqwest::Method;

use crate::{
    bad_builds::{assert_untouched, with_live_app},
    support::{before::assert_problem, docker, traffic::Visitors, *},
};

/// Deploys over a live app, with these settings and visitors all the while, and wants it to fail before it is live.
async fn assert_unfit(source: Value, settings: Value, code: &str, detail: &[&str], hint: &[&str]) -> Value {
    let (berth, before) = with_live_app().await;
    let mut all = json!({ "health_timeout_s": 6 });
    all.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    berth.send(Method::PATCH, "/v1/apps/web", json!({ "settings": all })).await;
    let visitors = Visitors::of(&berth, "web", 2);
    let problem = berth.deploy_failing("web", source).await;
    let report = visitors.stop().await;
    // One that ends at once may have ended before it is checked.
    let at_once = code == "container_exited" && problem["step"] == "starting";
    let step = if at_once { "starting" } else { "checking" };
    assert_problem(&problem, code, Some(step), detail, hint);
    report.assert_flawless(20);
    assert_eq!(Vec::from_iter(report.versions), ["1"]);
    assert_untouched(&berth, &before).await;
    problem
}

/// A Python program that serves on an address after some preparation.
fn serving(address: &str, port: u16) -> Value {
    apps::python(&format!(
        "import http.server\nprint('the app is up')\n\
        http.server.ThreadingHTTPServer(('{address}', {port}), http.server.SimpleHTTPRequestHandler).serve_forever()\n"
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_exits_at_once_shows_its_last_words() {
    needs_docker!();
    let source = apps::python("import sys\nprint('no harbour in sight')\nsys.exit(3)\n");
    let problem = assert_unfit(source, json!({}), "container_exited", &["code 3"], &["last lines"]).await;
    assert_eq!(texts(&problem["log_tail"]), ["no harbour in sight"], "{problem:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_does_not_exist_is_named() {
    needs_docker!();
    let source = apps::dockerfile("FROM python:3.12-slim\nCMD [\"/no/such/program\"]\n");
    let (berth, before) = with_live_app().await;
    let problem = berth.deploy_failing("web", source).await;
    assert_eq!(problem["code"], "container_exited", "{problem:#}");
    assert!(problem["detail"].as_str().unwrap().contains("code 127"), "{problem:#}");
    assert!(texts(&problem["log_tail"]).iter().any(|l| l.contains("/no/such/program")), "{problem:#}");
    assert!(problem["hint"].is_string() && problem["step"].is_string(), "{problem:#}");
    assert_untouched(&berth, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_on_another_port_is_told_which() {
    needs_docker!();
    let detail = ["port 8080"];
    assert_unfit(
        serving("0.0.0.0", 9123),
        json!({}),
        "port_not_open",
        &detail,
        &["9123", "$PORT", "settings.port"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_on_another_port_runs_when_the_port_is_set() {
    needs_docker!();
    let berth = Berth::start().await;
    berth.post("/v1/apps", json!({ "name": "web", "settings": { "port": 9123 } })).await;
    berth.deploy_live("web", serving("0.0.0.0", 9123)).await;
    assert_eq!(berth.visit("web", "/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_only_itself_can_reach_is_told_so() {
    needs_docker!();
    let hint = ["127.0.0.1:8080", "0.0.0.0:8080"];
    assert_unfit(serving("127.0.0.1", 8080), json!({}), "port_not_open", &["port 8080"], &hint).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_opens_no_port_is_told_so() {
    needs_docker!();
    let source = apps::python("import time\nprint('thinking')\ntime.sleep(600)\n");
    let problem =
        assert_unfit(source, json!({}), "port_not_open", &["port 8080"], &["Nothing listens"]).await;
    assert_eq!(texts(&problem["log_tail"]), ["thinking"], "{problem:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_whose_health_path_fails_shows_what_it_said() {
    needs_docker!();
    let settings = json!({ "health_path": "/status?code=500" });
    let detail = ["500", "/status?code=500", "as asked"];
    assert_unfit(apps::probe("2"), settings, "health_check_failed", &detail, &["health"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_accepts_and_never_answers_is_told_so() {
    needs_docker!();
    let source = apps::python(
        "import socket, time\nlistener = socket.create_server(('0.0.0.0', 8080))\nheld = []\n\
        while True: held.append(listener.accept())\n",
    );
    let settings = json!({ "health_path": "/" });
    assert_unfit(source, settings, "health_check_failed", &[], &["health"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_takes_too_much_memory_is_told_so() {
    needs_docker!();
    let source = apps::python("held = bytearray(400 << 20)\nimport time\ntime.sleep(600)\n");
    assert_unfit(source, json!({ "memory_mb": 64 }), "container_exited", &["memory"], &["memory"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_runs_without_powers_that_it_does_not_need() {
    needs_docker!();
    let berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    let id = docker::running(&berth.instance, "web").remove(0);
    let inspected: Value = serde_json::from_str(&docker::docker(&["inspect", &id])).unwrap();
    let host = &inspected[0]["HostConfig"];
    assert_eq!(host["CapDrop"], json!(["ALL"]), "{host:#}");
    assert_eq!((&host["Privileged"], &host["Init"]), (&json!(false), &json!(true)), "{host:#}");
    assert!(texts(&host["SecurityOpt"]).iter().any(|o| o.starts_with("no-new-privileges")), "{host:#}");
    assert!(host["Memory"].as_i64() > Some(0) && host["PidsLimit"].as_i64() > Some(0), "{host:#}");
    assert!(host["PortBindings"].as_object().is_none_or(serde_json::Map::is_empty), "{host:#}");
    assert!(
        host["Binds"].is_null() || host["Binds"] == json!([]),
        "no socket, no folder of the host: {host:#}"
    );
}
