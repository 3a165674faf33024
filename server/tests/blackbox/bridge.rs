//! `berth mcp`: standard input and output to the daemon and back.

use serde_json::{Value, json};

use crate::harness::Berth;

/// Sends these messages and returns the answers by id.
async fn talk(berth: &Berth, flags: &[&str], messages: &[Value]) -> Vec<Value> {
    let input: String = messages.iter().map(|m| format!("{m}\n")).collect();
    let out = berth.command().input(&input).run([&["mcp"], flags].concat()).await.ok();
    let mut answers: Vec<Value> =
        out.stdout.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    answers.retain(|a| a.get("id").is_some());
    answers.sort_by_key(|a| a["id"].as_i64());
    answers
}

fn initialize() -> [Value; 2] {
    let client = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } });
    [
        json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": client }),
        json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }),
    ]
}

fn call(id: i64, tool: &str, arguments: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": tool, "arguments": arguments } })
}

#[tokio::test]
async fn the_era_with_initialize_works() {
    let berth = Berth::without_docker().await;
    let mut messages = initialize().to_vec();
    messages.push(json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }));
    messages.push(call(2, "app_list", json!({})));
    let answers = talk(&berth, &[], &messages).await;
    assert_eq!(answers.len(), 3, "{answers:?}");
    assert_eq!(answers[0]["result"]["protocolVersion"], "2025-11-25");
    assert!(answers[1]["result"]["tools"].as_array().unwrap().len() > 5);
    assert_eq!(answers[2]["result"]["structuredContent"]["total"], 0);
}

#[tokio::test]
async fn the_stateless_era_works() {
    let berth = Berth::without_docker().await;
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "1" },
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let messages = [
        json!({ "jsonrpc": "2.0", "id": 1, "method": "server/discover", "params": { "_meta": meta } }),
        json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": { "name": "app_list", "arguments": {}, "_meta": meta } }),
    ];
    let answers = talk(&berth, &[], &messages).await;
    assert!(answers[0]["result"].is_object(), "{answers:?}");
    assert_eq!(answers[1]["result"]["structuredContent"]["total"], 0, "{answers:?}");
}

#[tokio::test]
async fn a_folder_of_this_machine_is_deployed() {
    let berth = Berth::without_docker().await;
    let folder = berth.scratch().join("site");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("index.html"), "from the bridge").unwrap();
    let mut messages = initialize().to_vec();
    let arguments = json!({ "app": "site", "create_app": true, "folder": folder, "wait_s": 30 });
    messages.push(call(1, "deployment_create", arguments));
    let answers = talk(&berth, &[], &messages).await;
    assert_eq!(answers[1]["result"]["structuredContent"]["state"], "live", "{answers:?}");
    assert_eq!(berth.visit("site", "/").await.text, "from the bridge");

    messages[2] = call(1, "deployment_create", json!({ "app": "site", "folder": "/nonexistent" }));
    let answers = talk(&berth, &[], &messages).await;
    assert_eq!(answers[1]["result"]["isError"], true, "{answers:?}");
}

#[tokio::test]
async fn read_only_offers_and_does_nothing_else() {
    let berth = Berth::without_docker().await;
    let mut messages = initialize().to_vec();
    messages.push(json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }));
    messages.push(call(2, "app_create", json!({ "name": "web" })));
    messages.push(call(3, "deployment_create", json!({ "app": "web", "folder": "/tmp" })));
    let answers = talk(&berth, &["--read-only"], &messages).await;
    assert!(!answers[1].to_string().contains("\"app_create\""));
    for refused in &answers[2..] {
        assert!(refused["error"].is_object() || refused["result"]["isError"] == true, "{refused}");
    }
    assert_eq!(berth.rest().get("/v1/apps").await.ok()["total"], 0);
}

#[tokio::test]
async fn what_cannot_work_is_answered_not_dropped() {
    let berth = Berth::without_docker().await;
    let out = berth.command().input("nonsense\n[1]\n").run(["mcp"]).await.ok();
    assert!(out.stdout.contains("-32700") && out.stdout.contains("-32600"), "{}", out.stdout);
    let message = format!("{}\n", json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/list" }));
    let wrong = berth.command().env("BERTH_TOKEN", "berth_wrong").input(&message).run(["mcp"]).await.ok();
    let answer: Value = serde_json::from_str(wrong.stdout.trim()).unwrap();
    assert_eq!(answer["id"], 7);
    assert!(answer["error"]["message"].as_str().unwrap().contains("not valid"), "{answer}");
    let dead = berth.command().env("BERTH_URL", "http://127.0.0.1:1").input(&message).run(["mcp"]).await.ok();
    assert!(dead.stdout.contains("cannot reach the daemon"), "{}", dead.stdout);
}
