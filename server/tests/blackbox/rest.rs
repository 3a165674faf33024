//! REST: inputs from everywhere, errors of one shape, streams, and answers that keep browsers careful.

use reqwest::Method;
use serde_json::json;

use crate::harness::Berth;

#[tokio::test]
async fn inputs_come_from_path_query_and_body() {
    let berth = Berth::without_docker().await;
    let rest = berth.rest();
    for app in ["web", "api", "docs"] {
        rest.post("/v1/apps", json!({ "name": app, "settings": { "port": 3000 } })).await.ok();
    }
    let page = rest.get("/v1/apps?limit=2").await.ok();
    assert_eq!(page["apps"].as_array().unwrap().len(), 2);
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest_of = rest.get(&format!("/v1/apps?limit=2&cursor={cursor}")).await.ok();
    assert_eq!(rest_of["apps"][0]["name"], "web");
    assert_eq!(rest.get("/v1/apps/web").await.ok()["settings"]["port"], 3000);
    let patched =
        rest.send(Method::PATCH, "/v1/apps/web", Some(json!({ "settings": { "port": 4000 } }))).await.ok();
    assert_eq!(patched["settings"]["port"], 4000);
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let berth = Berth::without_docker().await;
    let rest = berth.rest();
    rest.post("/v1/apps", json!({ "name": "web" })).await.ok();

    let typo = rest.get("/v1/apps/wbe").await.problem(404, "not_found");
    assert_eq!(typo["candidates"], json!(["web"]));
    let number = rest.get("/v1/apps?limit=many").await.problem(400, "invalid_input");
    assert_eq!(number["field"], "limit");
    let unknown = rest.get("/v1/apps?limt=5").await.problem(400, "invalid_input");
    assert_eq!(unknown["field"], "limt");
    assert!(unknown["detail"].as_str().unwrap().contains("limit"));
    let twice = rest.post("/v1/apps/web/scale", json!({ "app": "web", "replicas": 2 })).await;
    assert_eq!(twice.problem(400, "invalid_input")["field"], "app");
    rest.post("/v1/apps?x=1", json!({ "name": "b" })).await.problem(400, "invalid_input");
    rest.post("/v1/apps", json!([1])).await.problem(400, "invalid_input");
    rest.get("/v1/nothing").await.problem(404, "not_found");
    let method = rest.send(Method::PUT, "/v1/apps", None).await;
    method.problem(405, "invalid_input");
    assert!(method.header("allow").contains("POST"));
    let large = rest.post("/v1/apps", json!({ "name": "x".repeat(2 << 20) })).await;
    large.problem(413, "too_large");
    let form = rest
        .request(Method::POST, "/v1/apps")
        .header("content-type", "text/plain")
        .body("{}")
        .send()
        .await
        .unwrap();
    assert_eq!(form.status(), 400);
    rest.get("/v1/apps?limit=%zz").await.problem(400, "invalid_input");
}

#[tokio::test]
async fn inline_files_may_be_larger_than_other_inputs() {
    let berth = Berth::without_docker().await;
    let files = json!({ "index.html": "x".repeat(3 << 20) });
    let answer =
        berth.rest().post("/v1/apps/big/deployments", json!({ "files": files, "create_app": true })).await;
    assert!(answer.status != 413, "{}", answer.text);
    let files = json!({ "index.html": "x".repeat(9 << 20) });
    let answer =
        berth.rest().post("/v1/apps/big/deployments", json!({ "files": files, "create_app": true })).await;
    answer.problem(413, "too_large");
}

#[tokio::test]
async fn any_call_can_be_a_stream() {
    let berth = Berth::without_docker().await;
    let stream = berth.rest().header("accept", "text/event-stream");
    let events = stream.get("/v1/projects").await.events();
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].0.as_str(), &events[0].1["projects"][0]["name"]), ("result", &json!("default")));
    let events = stream.get("/v1/apps/nope").await.events();
    assert_eq!((events[0].0.as_str(), &events[0].1["code"]), ("problem", &json!("not_found")));
}

#[tokio::test]
async fn a_static_deployment_is_told_as_it_happens() {
    let berth = Berth::without_docker().await;
    let body = json!({ "files": { "index.html": "<h1>hello</h1>" }, "create_app": true });
    let stream = berth.rest().header("accept", "text/event-stream");
    let events = stream.post("/v1/apps/hello/deployments", body).await.events();
    let states: Vec<&str> =
        events.iter().filter(|e| e.0 == "state").filter_map(|e| e.1["state"].as_str()).collect();
    assert_eq!(states.last(), Some(&"live"), "{events:?}");
    assert!(events.iter().any(|e| e.0 == "build_line"));
    assert_eq!(events.last().unwrap().0, "result");
    let page = berth.visit("hello", "/").await;
    assert_eq!((page.status, page.text.as_str()), (200, "<h1>hello</h1>"));
}

#[tokio::test]
async fn an_idempotency_key_makes_one_deployment_of_two_calls() {
    let berth = Berth::without_docker().await;
    let call = || {
        let rest = berth.rest().header("idempotency-key", "once");
        let body = json!({ "files": { "index.html": "x" }, "create_app": true, "wait_s": 30 });
        async move { rest.post("/v1/apps/web/deployments", body).await.ok()["deployment"].clone() }
    };
    assert_eq!(call().await, "web#1");
    assert_eq!(call().await, "web#1");
    let differs = berth.rest().header("idempotency-key", "a");
    let body = json!({ "files": { "index.html": "x" }, "idempotency_key": "b" });
    differs.post("/v1/apps/web/deployments", body).await.problem(400, "invalid_input");
}

#[tokio::test]
async fn every_answer_keeps_browsers_careful() {
    let berth = Berth::without_docker().await;
    for path in ["/", "/docs", "/v1/apps", "/v1/openapi.json", "/healthz", "/nothing"] {
        let answer = berth.anonymous().get(path).await;
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("x-frame-options"), "DENY", "{path}");
        assert!(answer.header("content-security-policy").contains("frame-ancestors 'none'"), "{path}");
        assert_eq!(answer.header("x-request-id").len(), 36, "{path}");
    }
    assert_eq!(berth.anonymous().get("/healthz").await.ok()["status"], "ok");
    assert_eq!(berth.anonymous().get("/v1/openapi.json").await.ok()["openapi"], "3.1.0");
}
