//! The adapters of models against servers of their interfaces that accept nothing but what is documented, and have a model
//! behind them that looks at releases and then answers.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
    routing::post,
};
use berth_evals::harness::{
    adapters::{Agent, Kind},
    run::{self, Outcome},
    task::Task,
    world::Worlds,
};
use serde_json::{Value, json};

use crate::{berth, root};

const KEY: &str = "key-of-a-test";

/// What the interface has seen and what it complains about.
#[derive(Default)]
struct Seen {
    asked: AtomicUsize,
}

type Check = fn(&HeaderMap, &Value) -> Result<(), String>;
type Reply = fn(usize, &Value) -> Value;

#[derive(Clone)]
struct Served {
    seen: Arc<Seen>,
    check: Check,
    reply: Reply,
}

async fn answer(State(served): State<Served>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    let turn = served.seen.asked.fetch_add(1, Ordering::SeqCst);
    // Busy at first, as interfaces are.
    if turn == 0 {
        return (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "0")], "busy").into_response();
    }
    if let Err(why) = (served.check)(&headers, &body) {
        return (StatusCode::BAD_REQUEST, Json(json!({ "error": { "message": why } }))).into_response();
    }
    Json((served.reply)(turn, &body)).into_response()
}

/// Serves an interface on loopback; its base URL.
async fn serve(path: &str, check: Check, reply: Reply) -> String {
    let served = Served { seen: Arc::default(), check, reply };
    let app = Router::new().route(path, post(answer)).with_state(served);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    base
}

async fn sit(kind: Kind, base: String) -> Option<Outcome> {
    let berth = berth()?;
    let worlds = Worlds::new(berth, root().to_path_buf());
    let task = Task::named(root(), "read-live-release").unwrap();
    let agent = Agent::model_at(kind, base, KEY.into(), "a-model".into()).unwrap();
    Some(run::once(&worlds, &task, &agent, "model", 1).await.unwrap())
}

fn want(ok: bool, why: &str) -> Result<(), String> {
    if ok { Ok(()) } else { Err(why.to_owned()) }
}

fn only(value: &Value, fields: &[&str]) -> Result<(), String> {
    let map = value.as_object().ok_or_else(|| format!("{value} is no object"))?;
    match map.keys().find(|k| !fields.contains(&k.as_str())) {
        Some(other) => Err(format!("{other} is no field of {value}")),
        None => Ok(()),
    }
}

fn is_name(name: &Value) -> bool {
    let fits = |n: &str| n.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    name.as_str().is_some_and(|n| (1..=64).contains(&n.len()) && fits(n))
}

fn anthropic(headers: &HeaderMap, body: &Value) -> Result<(), String> {
    want(headers.get("x-api-key").is_some_and(|k| k == KEY), "no key")?;
    want(headers.get("anthropic-version").is_some_and(|v| v == "2023-06-01"), "no version")?;
    only(body, &["model", "max_tokens", "system", "tools", "messages"])?;
    want(body["model"] == "a-model" && body["max_tokens"].as_u64().is_some_and(|n| n > 0), "model")?;
    want(body["system"].as_str().is_some_and(|s| s.contains("Berth deploys apps")), "system")?;
    for tool in body["tools"].as_array().ok_or("tools")? {
        only(tool, &["name", "description", "input_schema", "cache_control"])?;
        want(is_name(&tool["name"]) && tool["input_schema"]["type"] == "object", "a tool")?;
    }
    let messages = body["messages"].as_array().ok_or("messages")?;
    let mut open: Vec<String> = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        only(message, &["role", "content"])?;
        let role = if index % 2 == 0 { "user" } else { "assistant" };
        want(message["role"] == role, "roles must take turns")?;
        let blocks = message["content"].as_array().cloned().unwrap_or_default();
        want(message["content"].is_string() || !blocks.is_empty(), "content")?;
        let answered = blocks.iter().filter(|b| b["type"] == "tool_result");
        let ids: Vec<String> =
            answered.map(|b| b["tool_use_id"].as_str().unwrap_or_default().to_owned()).collect();
        want(index % 2 == 1 || ids == open, "each tool_use wants its tool_result in the next message")?;
        for block in blocks.iter().filter(|b| b["type"] == "tool_result") {
            only(block, &["type", "tool_use_id", "content", "is_error"])?;
            want(block["is_error"].is_boolean() && block["content"].is_string(), "a tool_result")?;
        }
        let asked = blocks.iter().filter(|b| b["type"] == "tool_use");
        open = asked.map(|b| b["id"].as_str().unwrap_or_default().to_owned()).collect();
    }
    want(open.is_empty(), "a tool_use without its result")
}

fn anthropic_says(turn: usize, body: &Value) -> Value {
    let usage = json!({ "input_tokens": 100, "output_tokens": 10, "cache_read_input_tokens": 5 });
    let (content, reason) = if turn == 1 {
        let content = json!([
            { "type": "text", "text": "I look." },
            { "type": "tool_use", "id": "toolu_1", "name": "release_list", "input": { "app": "shop" } },
            { "type": "tool_use", "id": "toolu_2", "name": "app_get", "input": { "app": "shpo" } },
        ]);
        (content, "tool_use")
    } else {
        let results = body["messages"][2]["content"].to_string();
        let seen = results.contains("Summer catalogue") && results.contains("\"is_error\":true");
        let text =
            if seen { "shop#3 serves (Summer catalogue), before it shop#2." } else { "I saw nothing." };
        (json!([{ "type": "text", "text": text }]), "end_turn")
    };
    json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "a-model", "content": content,
        "stop_reason": reason, "stop_sequence": null, "usage": usage,
    })
}

fn openai(headers: &HeaderMap, body: &Value) -> Result<(), String> {
    want(headers.get("authorization").is_some_and(|k| k == format!("Bearer {KEY}").as_str()), "no key")?;
    only(body, &["model", "messages", "tools", "tool_choice"])?;
    for tool in body["tools"].as_array().ok_or("tools")? {
        only(tool, &["type", "function"])?;
        only(&tool["function"], &["name", "description", "parameters"])?;
        want(tool["type"] == "function" && is_name(&tool["function"]["name"]), "a tool")?;
        want(tool["function"]["parameters"]["type"] == "object", "parameters")?;
    }
    let messages = body["messages"].as_array().ok_or("messages")?;
    let mut open: Vec<String> = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        match (index, message["role"].as_str()) {
            (0, Some("system")) | (1, Some("user")) => only(message, &["role", "content"])?,
            (_, Some("assistant")) => {
                only(message, &["role", "content", "tool_calls"])?;
                want(open.is_empty(), "tool calls without answers")?;
                let calls = message["tool_calls"].as_array().into_iter().flatten();
                open = calls.map(|c| c["id"].as_str().unwrap_or_default().to_owned()).collect();
            }
            (_, Some("tool")) => {
                only(message, &["role", "tool_call_id", "content"])?;
                let id = message["tool_call_id"].as_str().unwrap_or_default();
                want(open.iter().any(|o| o == id), "an answer to no call")?;
                open.retain(|o| o != id);
            }
            _ => return Err(format!("message {index}: {message}")),
        }
    }
    want(open.is_empty(), "tool calls without answers")
}

fn openai_says(turn: usize, body: &Value) -> Value {
    let call = |id: &str, name: &str, arguments: &str| json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } });
    let (message, reason) = if turn == 1 {
        let calls = json!([
            call("call_1", "release_list", "{\"app\":\"shop\"}"),
            call("call_2", "app_get", "{broken"),
            call("call_3", "platform_status", ""),
        ]);
        (json!({ "role": "assistant", "content": null, "tool_calls": calls, "refusal": null }), "tool_calls")
    } else {
        let messages = body["messages"].to_string();
        let seen = messages.contains("Summer catalogue") && messages.contains("not valid JSON");
        let text =
            if seen { "shop#3 serves (Summer catalogue), before it shop#2." } else { "I saw nothing." };
        (json!({ "role": "assistant", "content": text }), "stop")
    };
    json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "a-model",
        "choices": [{ "index": 0, "message": message, "finish_reason": reason }],
        "usage": { "prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110 },
    })
}

#[tokio::test]
async fn a_model_behind_the_messages_api_sits_a_task() {
    let base = serve("/v1/messages", anthropic, anthropic_says).await;
    let Some(outcome) = sit(Kind::Anthropic, base).await else { return };
    assert!(outcome.passed, "{:?}: {}", outcome.wrong, outcome.answer);
    assert_eq!((outcome.calls, outcome.errors, outcome.billed), (2, 1, Some(230)));
}

#[tokio::test]
async fn a_model_behind_chat_completions_sits_a_task() {
    let base = serve("/chat/completions", openai, openai_says).await;
    let Some(outcome) = sit(Kind::Openai, base).await else { return };
    assert!(outcome.passed, "{:?}: {}", outcome.wrong, outcome.answer);
    assert_eq!((outcome.calls, outcome.billed), (2, Some(220)));
}

#[tokio::test]
async fn a_refusal_of_the_interface_is_told_as_it_is() {
    let refuse: Check = |_, _| Err("this model is not for you".into());
    let base = serve("/v1/messages", refuse, anthropic_says).await;
    let Some(berth) = berth() else { return };
    let worlds = Worlds::new(berth, root().to_path_buf());
    let task = Task::named(root(), "read-live-release").unwrap();
    let agent = Agent::model_at(Kind::Anthropic, base, KEY.into(), "a-model".into()).unwrap();
    let error = run::once(&worlds, &task, &agent, "model", 1).await.unwrap_err();
    assert!(format!("{error:#}").contains("this model is not for you"), "{error:#}");
    assert!(!format!("{error:#}").contains(KEY));
}
