//! No wait is silent: whoever asks for progress hears what a call waits for.

use std::time::Duration;

use berth_deploy::docker::fake::Behaviour;
use http::StatusCode;
use serde_json::{Value, json};

use crate::{Endpoint, admin, post};

/// A tool and its input.
type Step = (&'static str, Value);

/// Each tool that takes `wait_s`, with what it waits for, and what has to be done before, in this order.
fn waits() -> Vec<(&'static str, Value, Vec<Step>)> {
    let slow = json!({ "app": "slow", "image": "slow:1", "create_app": true });
    let app = || json!({ "app": "web" });
    let image = |image: &str| json!({ "app": "web", "image": image, "wait_s": 20 });
    let staging = json!({ "app": "web", "environment": "staging" });
    let elsewhere = json!({ "app": "web", "environment": "staging", "image": "hello:2", "wait_s": 20 });
    vec![
        ("deployment_create", json!({ "app": "web", "image": "hello:2" }), vec![]),
        ("app_restart", app(), vec![("deployment_create", image("hello:3"))]),
        ("release_rollback", app(), vec![("deployment_create", image("hello:4"))]),
        (
            "release_promote",
            json!({ "app": "web", "from": "staging" }),
            vec![
                ("deployment_create", image("hello:5")),
                ("environment_create", staging),
                ("deployment_create", elsewhere),
            ],
        ),
        ("rollout_start", json!({ "app": "web", "image": "hello:6" }), vec![]),
        ("rollout_promote", app(), vec![("deployment_get", json!({ "deployment": "web", "wait_s": 20 }))]),
        ("rollout_abort", app(), vec![("rollout_start", image("hello:7"))]),
        ("log_search", json!({ "app": "web", "contains": "nothing says this" }), vec![]),
        ("deployment_get", json!({ "deployment": "slow" }), vec![("deployment_create", slow)]),
        ("deployment_log", json!({ "deployment": "slow", "after": 1_000_000 }), vec![]),
        (
            "domain_verify",
            json!({ "domain": "shop.example.com" }),
            vec![("domain_add", json!({ "domain": "shop.example.com", "app": "web" }))],
        ),
        ("job_get", json!({}), vec![]),
    ]
}

/// What a call tells before it answers, and its answer.
async fn told(endpoint: &Endpoint, tool: &str, arguments: &Value) -> (Vec<String>, Value) {
    let passed = json!({ "name": tool, "arguments": arguments });
    let write = !endpoint.world.registry.get(tool).unwrap().spec.hints.read_only;
    let listed = endpoint.tools(admin(), "").await.iter().any(|t| t == tool);
    let mut params = match (listed, write) {
        (true, _) => passed,
        (false, true) => json!({ "name": "tool_write", "arguments": passed }),
        (false, false) => json!({ "name": "tool_read", "arguments": passed }),
    };
    params["_meta"] = json!({ "progressToken": "p" });
    let (status, body) = endpoint.send(post(admin(), "", "tools/call", params)).await;
    assert_eq!(status, StatusCode::OK, "{tool}: {body}");
    let data = body.lines().filter_map(|line| line.strip_prefix("data:"));
    let mut messages: Vec<Value> = data.filter_map(|d| serde_json::from_str(d).ok()).collect();
    let answer = messages.pop().unwrap_or_else(|| serde_json::from_str(&body).unwrap());
    let texts = messages.iter().filter(|m| m["method"] == "notifications/progress");
    let texts = texts.map(|m| m["params"]["message"].as_str().unwrap_or_default().to_owned());
    (texts.collect(), answer["result"].clone())
}

/// A tool that is given `wait_s` has to join the walk below.
#[test]
fn every_tool_that_waits_is_walked() {
    let walked: Vec<&str> = waits().into_iter().map(|(tool, ..)| tool).collect();
    for tool in berth_tools::registry().tools() {
        let waits = tool.input["properties"].get("wait_s").is_some();
        assert_eq!(waits, walked.contains(&tool.spec.name), "{}", tool.spec.name);
    }
}

#[tokio::test]
async fn every_wait_tells_what_is_waited_for() {
    let endpoint = Endpoint::open().await;
    let world = &endpoint.world;
    world.deploy("web").await;
    for n in 2..8 {
        world.engine.add_image(&format!("hello:{n}"), Behaviour::default());
    }
    let late = Behaviour { listen_after: Duration::from_secs(50), ..Behaviour::default() };
    world.engine.add_image("slow:1", late);
    world
        .engine
        .add_image("held:1", Behaviour { stop_takes: Duration::from_secs(600), ..Behaviour::default() });
    for (tool, mut arguments, before) in waits() {
        for (tool, input) in before {
            world.ok(tool, input).await;
        }
        let mut seconds = 1;
        if tool == "job_get" {
            let held = json!({ "app": "held", "image": "held:1", "create_app": true, "wait_s": 20 });
            world.ok("deployment_create", held).await;
            let stop = world.ok("app_stop", json!({ "app": "held", "confirm": "held" })).await;
            arguments["job"] = stop["job"]["job"].clone();
            seconds = 7;
        }
        arguments["wait_s"] = seconds.into();
        let (texts, answer) = told(&endpoint, tool, &arguments).await;
        assert_eq!(answer["isError"], false, "{tool}: {answer:#}");
        assert!(!texts.is_empty(), "{tool} waits in silence");
        assert!(texts.iter().all(|text| text.len() > 5), "{tool}: {texts:?}");
        if tool == "job_get" {
            assert!(texts.len() >= 3, "a long wait says so every few seconds: {texts:?}");
            assert!(texts[0].contains("the job stop of held"), "{texts:?}");
        }
    }
}
