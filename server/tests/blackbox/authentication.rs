//! Who may do what, on every route.

use berth_tools::{Method, Tool, registry};
use reqwest::Method as Http;
use serde_json::{Map, Value, json};

use crate::harness::{Answer, Berth, Rest};

fn method(tool: &Tool) -> Http {
    match tool.spec.method {
        Method::Get => Http::GET,
        Method::Post => Http::POST,
        Method::Put => Http::PUT,
        Method::Patch => Http::PATCH,
        Method::Delete => Http::DELETE,
    }
}

/// A request for a tool with an input that would be valid, for the app `shop`.
async fn call(rest: &Rest, tool: &Tool) -> Answer {
    let mut input = Map::new();
    for field in berth::schema::fields(&tool.input).into_iter().filter(|f| f.required) {
        let value = match field.name.as_str() {
            "app" => json!("shop"),
            "deployment" => json!("shop#1"),
            "job" => json!("00000000-0000-0000-0000-000000000000"),
            "replicas" | "version" => json!(1),
            "project" => json!("private"),
            "domain" => json!("shop.example.com"),
            "grant" => json!("000000000000"),
            "name" if tool.spec.name.starts_with("variable") => json!("SECRET"),
            "push" | "proposal" => json!(999_999),
            "text" => json!("A=1"),
            _ => json!("unused-name"),
        };
        input.insert(field.name, value);
    }
    // What destroys is only asked what it would do.
    if berth::schema::fields(&tool.input).iter().any(|f| f.name == "dry_run") {
        input.insert("dry_run".into(), true.into());
    }
    if tool.spec.name == "deployment_create" {
        input.insert("image".into(), "example:1".into());
    }
    if tool.spec.name == "rollout_set" {
        input.insert("percent".into(), 10.into());
    }
    if tool.spec.name == "variable_set" {
        input.insert("variables".into(), json!({ "A": "1" }));
    }
    let request = berth::route::request(&tool.spec, input).expect("a complete input");
    rest.send(method(tool), &request.target, request.body).await
}

#[tokio::test]
async fn without_a_good_token_every_route_answers_401() {
    let berth = Berth::without_docker().await;
    for tool in registry().tools() {
        let answer = call(&berth.anonymous(), tool).await;
        answer.problem(401, "unauthenticated");
        assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"berth\"", "{}", tool.spec.name);
    }
    for path in ["/v1/uploads", "/mcp"] {
        berth.anonymous().post(path, json!({})).await.problem(401, "unauthenticated");
        let wrong = berth.rest_as("berth_wrong").post(path, json!({})).await;
        wrong.problem(401, "unauthenticated");
        assert!(wrong.header("www-authenticate").contains("invalid_token"));
    }
    // Never in the query, where logs would keep it.
    let path = format!("/v1/apps?token={}", berth.token);
    berth.anonymous().get(&path).await.problem(401, "unauthenticated");
}

#[tokio::test]
async fn a_token_does_what_its_scopes_say_and_no_more() {
    let berth = Berth::without_docker().await;
    berth.rest().post("/v1/apps", json!({ "name": "shop" })).await.ok();
    for scope in ["read", "deploy", "write", "secrets"] {
        let token = berth.token(scope, &[scope], &[]).await;
        let held: berth_schemas::Scope = scope.parse().unwrap();
        for tool in registry().tools() {
            let answer = call(&berth.rest_as(&token), tool).await;
            let forbidden =
                answer.status == 403 && answer.json()["detail"].to_string().contains("needs the scope");
            assert_eq!(
                forbidden,
                !held.covers(tool.spec.scope),
                "{} with {scope}: {}",
                tool.spec.name,
                answer.text
            );
        }
    }
    let reader = berth.token("only-looks", &["read"], &[]).await;
    berth.rest_as(&reader).upload("application/gzip", b"x".to_vec()).await.problem(403, "forbidden");
}

#[tokio::test]
async fn a_foreign_projects_token_finds_nothing() {
    let berth = Berth::without_docker().await;
    for project in ["private", "other"] {
        berth.rest().post("/v1/projects", json!({ "name": project })).await.ok();
    }
    berth.rest().post("/v1/apps", json!({ "name": "shop", "project": "private" })).await.ok();
    let domain = json!({ "domain": "shop.example.com", "app": "shop" });
    berth.rest().post("/v1/domains", domain).await.ok();
    let variables = json!({ "variables": { "SECRET": "s3cret" } });
    let set = registry();
    let set = set.get("variable_set").expect("variable_set");
    let target =
        berth::route::request(&set.spec, Map::from_iter([("app".to_owned(), json!("shop"))])).unwrap().target;
    berth.rest().send(method(set), &target, Some(variables)).await.ok();

    let foreign = berth.rest_as(&berth.token("foreign", &["admin"], &["other"]).await);
    for tool in registry().tools() {
        let names_it = berth::schema::fields(&tool.input)
            .iter()
            .any(|f| f.required && matches!(f.name.as_str(), "app" | "deployment" | "project" | "domain"));
        let answer = call(&foreign, tool).await;
        if names_it {
            answer.problem(404, "not_found");
        }
        let about_it =
            answer.text.contains("s3cret") || answer.json()["candidates"].to_string().contains("shop");
        assert!(!about_it, "{} tells of a foreign app: {}", tool.spec.name, answer.text);
    }
    for path in ["/v1/apps", "/v1/domains"] {
        let listed = foreign.get(path).await.ok();
        assert_eq!(listed["total"], 0, "{listed}");
    }
}

#[tokio::test]
async fn a_revoked_token_stops_at_once() {
    let berth = Berth::without_docker().await;
    let token = berth.token("ci", &["read"], &[]).await;
    berth.rest_as(&token).get("/v1/apps").await.ok();
    berth.cli(["token", "revoke", "ci", "--confirm", "ci"]).await.ok();
    berth.rest_as(&token).get("/v1/apps").await.problem(401, "unauthenticated");
}

#[tokio::test]
async fn guessing_tokens_is_slowed_and_good_ones_still_work() {
    let berth = Berth::without_docker().await;
    berth.rest().get("/v1/apps").await.ok();
    let mut last: Option<Answer> = None;
    for i in 0..40 {
        last = Some(berth.rest_as(&format!("berth_guess{i}")).get("/v1/apps").await);
    }
    let last = last.expect("answers");
    last.problem(429, "rate_limited");
    assert!(last.header("retry-after").parse::<u32>().is_ok_and(|s| s >= 1));
    berth.rest().get("/v1/apps").await.ok();
}

#[tokio::test]
async fn other_host_names_get_nothing() {
    let berth = Berth::without_docker_with(&["--control-hosts", "berth.example.com"]).await;
    for path in ["/", "/v1/apps", "/mcp", "/healthz", "/docs"] {
        berth.rest().host("evil.example").get(path).await.problem(404, "not_found");
    }
    for host in ["localhost", "berth.example.com:7700", "127.0.0.1"] {
        assert_eq!(berth.rest().host(host).get("/v1/apps").await.status, 200, "{host}");
    }
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" });
    let mcp = berth.rest().host("berth.example.com").header("accept", "application/json, text/event-stream");
    let listed: Value = mcp.header("mcp-protocol-version", "2025-11-25").post("/mcp", body).await.ok();
    assert!(listed["result"]["tools"].is_array());
}
