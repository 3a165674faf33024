//! Programs that others wrote, against the authorization server.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::browser::Browser;
use crate::harness::{Berth, external};

/// The flow of the Python SDK from the 401 to a refresh. Only the person is ours.
#[tokio::test]
async fn the_python_sdk_gets_its_access() {
    let Some(venv) = external::python_or_skip(&["mcp==2.3.0"]) else { return };
    let berth = Berth::without_docker().await;
    let url = format!("{}/mcp", berth.control_url);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/blackbox/oauth/client.py");
    let ran = venv.command().args([script, &url, &berth.token]).output().await.expect("python to run");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}{}\n{}", String::from_utf8_lossy(&ran.stderr), berth.log());
    let seen: Value = serde_json::from_str(said.trim()).expect("JSON");
    assert_eq!(seen["scope"], json!(["read deploy write"]), "{seen}");
    for what in ["names_client", "called", "refreshed", "rotated"] {
        assert_eq!(seen[what], true, "{what}: {seen}");
    }
    assert_eq!(seen["granted"], "read deploy write");
    let tools = seen["tools"].as_array().expect("tools");
    assert!(tools.len() >= 20 && tools.contains(&json!("app_list")), "{seen}");
    let grants = berth.rest().get("/v1/grants").await.ok();
    assert_eq!(grants["grants"][0]["client"], "A test client");
}

/// The suite's scenarios for authorization servers; it opens a port for the answer, and a person's browser is ours.
#[tokio::test]
async fn the_conformance_suite_passes_the_authorization_server() {
    let Some(suite) = external::npm_or_skip(&["@modelcontextprotocol/conformance@0.2.0-alpha.12"]) else {
        return;
    };
    let berth = Berth::without_docker().await;
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        free.local_addr().expect("its address").port().to_string()
    };
    let callbacks = ["http://127.0.0.1/callback", "http://localhost/callback"];
    let body = json!({ "redirect_uris": callbacks, "client_name": "Suite" });
    let registered = berth.anonymous().post("/oauth/register", body).await.ok();
    let client = registered["client_id"].as_str().expect("an id");
    let out = tempfile::tempdir().expect("a directory");
    let resource = format!("{}/mcp", berth.control_url);
    let mut command = suite.command("conformance");
    command.args(["authorization", "--url", &berth.control_url, "--client-id", client, "--port", &port]);
    command.args(["--resource", &resource, "-o"]).arg(out.path());
    let mut running = command.stdout(std::process::Stdio::piped()).spawn().expect("the suite to start");
    let mut lines = BufReader::new(running.stdout.take().expect("its output")).lines();
    let mut said = Vec::new();
    let following = async {
        while let Some(line) = lines.next_line().await.expect("a line") {
            if let Some((_, path)) = line.split_once("/oauth/authorize?") {
                let mut browser = Browser::new(&berth);
                browser.open(&format!("/oauth/authorize?{}", path.trim())).await;
                let fields = [("decision", "approve"), ("token", berth.token.as_str()), ("scope_read", "on")];
                let sent = browser.answer(&fields).await;
                assert_eq!(sent.status, 303, "{}", sent.text);
                reqwest::get(sent.header("location")).await.expect("the suite to listen");
            }
            said.push(line);
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(60), following).await;
    assert!(ended.is_ok(), "the suite did not end: {said:#?}");
    let status = running.wait().await.expect("its end");
    assert!(status.success(), "{said:#?}");
    let mut passed = 0;
    for scenario in std::fs::read_dir(out.path()).expect("results") {
        let file = scenario.expect("an entry").path().join("checks.json");
        let Ok(text) = std::fs::read_to_string(file) else { continue };
        let checks: Value = serde_json::from_str(&text).expect("checks in JSON");
        for check in checks.as_array().into_iter().flatten() {
            assert_eq!(check["status"], "SUCCESS", "{check}");
            passed += 1;
        }
    }
    println!("{passed} checks passed");
    assert!(passed >= 2, "{said:#?}");
}
