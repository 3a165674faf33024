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
            "push" | "proposal" | "attachment" | "feedback" => json!(999_999),
            "text" => json!("A=1"),
            "kind" if tool.spec.name == "telemetry_list" => json!("logs"),
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

/// What an assistant asks besides calling tools, about the app `shop`.
fn asked_by_assistants() -> [(&'static str, Value); 11] {
    let read = |uri: &str| ("resources/read", json!({ "uri": uri }));
    let complete = |argument: &str| {
        let of = json!({ "type": "ref/resource", "uri": format!("berth://{argument}s/{{{argument}}}") });
        ("completion/complete", json!({ "ref": of, "argument": { "name": argument, "value": "" } }))
    };
    [
        ("tools/list", json!({})),
        ("resources/list", json!({})),
        ("resources/templates/list", json!({})),
        ("prompts/list", json!({})),
        ("prompts/get", json!({ "name": "why_is_it_down", "arguments": { "app": "shop" } })),
        read("berth://docs/overview"),
        read("berth://apps/shop"),
        read("berth://deployments/shop/log"),
        read("berth://issues/SHOP-1"),
        complete("app"),
        complete("issue"),
    ]
}

async fn ask(rest: Rest, method: &str, params: Value) -> Answer {
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    let rest = rest.header("accept", "application/json, text/event-stream");
    rest.header("mcp-protocol-version", "2025-11-25").post("/mcp", body).await
}

/// Lets a token's time run out, while the daemon does not run.
async fn expire(berth: &Berth, token: &str) {
    use sqlx::ConnectOptions as _;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(berth.data_dir().join("berth.db"));
    let mut database = options.connect().await.expect("the store");
    let sql = sqlx::query("UPDATE tokens SET expires_at = 1 WHERE name = $1").bind(token.to_owned());
    let done = sql.execute(&mut database).await.expect("a change");
    assert_eq!(done.rows_affected(), 1);
}

#[tokio::test]
async fn assistants_without_a_good_token_are_answered_401() {
    let mut berth = Berth::without_docker().await;
    let dsn = crate::errors::dsn(&berth, "shop").await;
    let event = crate::errors::event(1, json!({}));
    assert!(crate::errors::send(&dsn, crate::errors::envelope(&event)).await.0.is_success());
    crate::errors::found(&berth, "is:open", 1).await;
    let late = berth.token("late", &["admin"], &[]).await;
    for (method, params) in asked_by_assistants() {
        ask(berth.anonymous(), method, params.clone()).await.problem(401, "unauthenticated");
        let wrong = ask(berth.rest_as("berth_wrong"), method, params.clone()).await;
        wrong.problem(401, "unauthenticated");
        // What follows says something only if a good one is answered.
        let good = ask(berth.rest_as(&late), method, params.clone()).await.ok();
        let empty = params["uri"] == "berth://deployments/shop/log";
        assert_eq!(good["result"].is_object(), !empty, "{method} {params}: {good:#}");
    }
    berth.kill().await;
    expire(&berth, "late").await;
    berth.start_again().await;
    for (method, params) in asked_by_assistants() {
        ask(berth.rest_as(&late), method, params).await.problem(401, "unauthenticated");
    }
}

#[tokio::test]
async fn assistants_see_nothing_of_a_foreign_project_or_of_tools_that_their_token_lacks() {
    let berth = Berth::without_docker().await;
    berth.rest().post("/v1/projects", json!({ "name": "other" })).await.ok();
    let dsn = crate::errors::dsn(&berth, "shop").await;
    let event = crate::errors::event(1, json!({}));
    assert!(crate::errors::send(&dsn, crate::errors::envelope(&event)).await.0.is_success());
    crate::errors::found(&berth, "is:open", 1).await;
    let foreign = berth.token("foreign", &["admin"], &["other"]).await;
    let narrow = json!({ "name": "narrow", "scopes": ["read"], "tools": ["project_list"] });
    let narrow = berth.rest().post("/v1/tokens", narrow).await.ok()["secret"].as_str().unwrap().to_owned();
    for (method, params) in asked_by_assistants() {
        let about_it = params["uri"].as_str().is_some_and(|uri| uri != "berth://docs/overview");
        for (who, token) in [("foreign", &foreign), ("narrow", &narrow)] {
            let answer = ask(berth.rest_as(token), method, params.clone()).await.ok();
            assert_eq!(answer["error"].is_object(), about_it, "{who} {method} {params}: {answer:#}");
            let told = answer["result"]["completion"]["values"].as_array().map_or(0, Vec::len);
            assert_eq!(told, 0, "{who} {params}: {answer:#}");
            let text = answer.to_string();
            assert!(!text.contains("KeyError") && !text.contains("app/cart.py"), "{who} {method}: {text}");
        }
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
