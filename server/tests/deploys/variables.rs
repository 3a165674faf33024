//! Variables and secrets: they reach the app by a redeploy, and secrets appear nowhere else.

use reqwest::Method;

use crate::support::{docker, mcp, mcp::Way, *};

/// A value that must turn up nowhere but in the app.
const SESAME: &str = "sesame-6f1d2a9c-open";

#[tokio::test(flavor = "multi_thread")]
async fn variables_apply_by_a_redeploy_that_says_so() {
    needs_docker!();
    let berth = Berth::start().await;
    let first = berth
        .try_send(Method::PUT, "/v1/apps/web/variables", json!({ "variables": { "GREETING": "hello" } }))
        .await;
    assert_eq!(first.unwrap_err().code(), "not_found", "there is no app yet");
    berth.post("/v1/apps", json!({ "name": "web" })).await;
    let set = json!({ "variables": { "GREETING": "hello" } });
    let answer = berth.send(Method::PUT, "/v1/apps/web/variables", set).await;
    assert_eq!(answer["applies"], "With the first deployment.");
    berth.deploy_live("web", apps::probe("1")).await;
    assert_eq!(berth.visit("web", "/env").await.json()["GREETING"], "hello");

    // A change does not reach what runs, and says how it will.
    let set = json!({ "variables": { "GREETING": "good evening" } });
    let answer = berth.send(Method::PUT, "/v1/apps/web/variables", set).await;
    assert!(answer["applies"].as_str().unwrap().contains("app_restart"), "{answer:#}");
    assert_eq!(berth.visit("web", "/env").await.json()["GREETING"], "hello");
    assert_eq!(berth.get("/v1/apps/web").await["changes_pending"], true);

    let set = json!({ "variables": { "EXTRA": "x" }, "redeploy": true });
    let answer = berth.send(Method::PUT, "/v1/apps/web/variables", set).await;
    let redeploy = berth.settled(answer["deployment"].as_str().unwrap()).await;
    assert_eq!(redeploy["state"], "live");
    assert_eq!(redeploy["source"], json!({ "kind": "redeploy", "of": "web#1" }));
    assert!(
        !redeploy["steps"].as_array().unwrap().iter().any(|s| s["state"] == "building"),
        "nothing is built again: {redeploy:#}"
    );
    let env = berth.visit("web", "/env").await.json();
    assert_eq!((&env["GREETING"], &env["EXTRA"]), (&json!("good evening"), &json!("x")));
    assert_eq!(berth.get("/v1/apps/web").await["changes_pending"], false);

    // By the command line, with its own words.
    let ran = berth.cli(&["env", "delete", "web", "EXTRA", "--redeploy", "--json"]).await.ok();
    berth.settled(ran.json()["deployment"].as_str().unwrap()).await;
    assert_eq!(berth.visit("web", "/env").await.json()["EXTRA"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_seen_by_the_app_and_by_nobody_else() {
    needs_docker!();
    let berth = Berth::start().await;
    berth.post("/v1/apps", json!({ "name": "web" })).await;
    let set = json!({ "secrets": { "DOOR": SESAME } });
    let mut answers = vec![berth.send(Method::PUT, "/v1/apps/web/variables", set).await.to_string()];
    berth.deploy_live("web", apps::probe("1")).await;
    assert_eq!(berth.visit("web", "/env").await.json()["DOOR"], SESAME);

    let list = berth.get("/v1/apps/web/variables").await;
    assert_eq!(list["variables"][0]["secret"], true);
    assert_eq!(list["variables"][0]["value"], "••••••");
    for path in [
        "/v1/apps/web",
        "/v1/apps/web/variables",
        "/v1/apps/web/releases",
        "/v1/apps/web/deployments",
        "/v1/apps/web/logs",
        "/v1/deployments/web",
        "/v1/deployments/web/log?limit=1000",
        "/v1/events",
        "/v1/platform",
    ] {
        answers.push(berth.get(path).await.to_string());
    }
    answers.push(format!("{:?}", berth.cli(&["env", "list", "web"]).await));
    if let Some(python) = mcp::python().await {
        let steps = json!([
            { "tool": "variable_list", "arguments": { "app": "web" } },
            { "tool": "app_get", "arguments": { "app": "web" } },
        ]);
        answers.extend(mcp::run(&berth, &python, Way::Http, &steps).await.iter().map(Value::to_string));
    }
    for answer in &answers {
        assert!(!answer.contains(SESAME), "{answer}");
    }
    assert!(!berth.log().contains(SESAME));
    for file in ["berth.db", "berth.db-wal"] {
        let bytes = std::fs::read(berth.data().join(file)).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&bytes).contains(SESAME), "{file} holds it in clear");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_revealed_to_who_may_see_secrets() {
    let berth = Berth::start().await;
    berth.post("/v1/apps", json!({ "name": "web" })).await;
    berth.send(Method::PUT, "/v1/apps/web/variables", json!({ "secrets": { "DOOR": SESAME } })).await;
    let path = "/v1/apps/web/variables/DOOR/value";
    assert_eq!(berth.get(path).await["value"], SESAME, "an admin may");
    let traces = berth.get("/v1/events?kind=variable.revealed").await;
    assert_eq!(traces["events"].as_array().unwrap().len(), 1, "each look leaves a trace: {traces:#}");

    let deployer = json!({ "name": "ci", "scopes": ["read", "deploy", "write"] });
    let token = berth.post("/v1/tokens", deployer).await["secret"].as_str().unwrap().to_owned();
    let response =
        berth.client.get(format!("{}{path}", berth.control)).bearer_auth(token).send().await.unwrap();
    assert_eq!(response.status(), 403);
    let problem: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    assert_eq!(problem["code"], "forbidden");
    assert!(problem["detail"].as_str().unwrap().contains("secrets"), "{problem:#}");
    assert!(!problem.to_string().contains(SESAME));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_secret_reaches_the_build_and_stays_out_of_image_and_log() {
    needs_docker!();
    let berth = Berth::start().await;
    berth.post("/v1/apps", json!({ "name": "web" })).await;
    let set = json!({ "secrets": { "DOOR": SESAME }, "build": true });
    berth.send(Method::PUT, "/v1/apps/web/variables", set).await;
    let fresh = uuid::Uuid::new_v4();
    let source = json!({ "files": {
        "Dockerfile": format!("FROM python:3.12-slim\nENV FRESH={fresh}\n\
            RUN --mount=type=secret,id=DOOR echo \"it has $(wc -c < /run/secrets/DOOR) bytes: $(cat /run/secrets/DOOR)\"\n\
            EXPOSE 8000\nCMD [\"python3\", \"-m\", \"http.server\", \"8000\"]\n"),
    } });
    let detail = berth.deploy_live("web", source).await;
    let log = berth.build_log(detail["deployment"].as_str().unwrap()).await.join("\n");
    assert!(log.contains(&format!("it has {} bytes: ", SESAME.len())), "{log}");
    assert!(!log.contains(SESAME), "{log}");
    assert!(!berth.log().contains(SESAME));
    let built = docker::images(&berth.instance);
    let image = built[0].split(' ').next().unwrap();
    let history = docker::docker(&["history", "--no-trunc", image]);
    assert!(!history.contains(SESAME), "{history}");
    let inspected = docker::docker(&["image", "inspect", image]);
    assert!(!inspected.contains(SESAME), "{inspected}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_without_a_required_variable_is_refused_before_anything_is_built() {
    needs_docker!();
    let berth = Berth::start().await;
    berth.deploy_live("web", apps::probe("1")).await;
    let settings = json!({ "settings": { "required_variables": ["DATABASE_URL", "DOOR"] } });
    berth.send(Method::PATCH, "/v1/apps/web", settings).await;
    berth.send(Method::PUT, "/v1/apps/web/variables", json!({ "secrets": { "DOOR": SESAME } })).await;
    let refused = match berth.try_send(Method::POST, "/v1/apps/web/deployments", apps::probe("2")).await {
        Err(refused) => refused.problem,
        Ok(detail) => berth.settled(detail["deployment"].as_str().unwrap()).await["problem"].clone(),
    };
    assert_eq!(refused["code"], "missing_variable", "{refused:#}");
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.contains("DATABASE_URL") && !detail.contains("DOOR"), "{refused:#}");
    assert!(refused["hint"].as_str().unwrap().contains("variable_set"), "{refused:#}");
    assert_eq!(berth.visit("web", "/").await.json()["version"], "1", "what is live serves on");
    assert_eq!(docker::images(&berth.instance).len(), 1);

    berth.send(Method::PUT, "/v1/apps/web/variables", json!({ "variables": { "DATABASE_URL": "db" } })).await;
    berth.deploy_live("web", apps::probe("2")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variable_that_cannot_be_is_refused_without_repeating_its_value() {
    let berth = Berth::start().await;
    berth.post("/v1/apps", json!({ "name": "web" })).await;
    for (set, field) in [
        (json!({ "secrets": { "PORT": SESAME } }), "secrets.PORT"),
        (json!({ "secrets": { "A": format!("{SESAME}\0") } }), "secrets.A"),
    ] {
        let refused = berth.try_send(Method::PUT, "/v1/apps/web/variables", set).await.unwrap_err();
        assert_eq!(
            (refused.code(), &refused.problem["field"]),
            ("invalid_input", &json!(field)),
            "{refused:#?}"
        );
        assert!(!refused.problem.to_string().contains(SESAME), "{refused:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_is_told_where_its_errors_go_unless_somebody_says_otherwise() {
    needs_docker!();
    // An address that apps could reach; without one they are told none.
    let berth = Berth::start_with(Options::default().with("public-url", "https://berth.example.com")).await;
    berth.post("/v1/apps", json!({ "name": "web" })).await;
    let dsn = berth.get("/v1/apps/web/dsn").await;
    assert_eq!(dsn["injected"], true, "{dsn:#}");
    berth.deploy_live("web", apps::probe("1")).await;
    let env = async || berth.visit("web", "/env").await.json();
    let told = env().await;
    assert_eq!(told["SENTRY_DSN"], dsn["dsn"]);
    assert!(dsn["dsn"].as_str().unwrap().contains("@berth.example.com/"), "{dsn:#}");
    assert_eq!(
        (&told["SENTRY_RELEASE"], &told["SENTRY_ENVIRONMENT"]),
        (&json!("web@1"), &json!("production"))
    );
    // A new key comes with the next deployment, also of the same; until then it is said who has the old one.
    let rotated = berth.send(Method::POST, "/v1/apps/web/dsn/rotate", json!({})).await;
    assert_eq!(rotated["old_key_in"], "web#1", "{rotated:#}");
    assert_eq!(env().await["SENTRY_DSN"], dsn["dsn"]);
    assert_eq!(berth.get("/v1/apps/web/dsn").await["old_key_in"], "web#1");
    berth.deploy_live("web", apps::probe("1")).await;
    assert_eq!(env().await["SENTRY_DSN"], rotated["dsn"]);
    let dsn = berth.get("/v1/apps/web/dsn").await;
    assert_eq!((&dsn["dsn"], &dsn["old_key_in"]), (&rotated["dsn"], &Value::Null));
    // A variable of one's own wins, and leaves the rest.
    let own = "https://key@elsewhere.example/7";
    let set = json!({ "variables": { "SENTRY_DSN": own }, "redeploy": true });
    let answer = berth.send(Method::PUT, "/v1/apps/web/variables", set).await;
    berth.settled(answer["deployment"].as_str().unwrap()).await;
    let told = env().await;
    assert_eq!((&told["SENTRY_DSN"], &told["SENTRY_RELEASE"]), (&json!(own), &json!("web@3")));
    berth.cli(&["env", "delete", "web", "SENTRY_DSN", "--json"]).await.ok();
    // Switched off, nothing is told from the next deployment on.
    berth.send(Method::PATCH, "/v1/apps/web/errors/rules", json!({ "inject_dsn": false })).await;
    assert_eq!(berth.get("/v1/apps/web/dsn").await["injected"], false);
    berth.deploy_live("web", apps::probe("2")).await;
    let told = env().await;
    for name in ["SENTRY_DSN", "SENTRY_RELEASE", "SENTRY_ENVIRONMENT"] {
        assert_eq!(told[name], Value::Null, "{name}");
    }
}
