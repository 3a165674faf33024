//! What callers do with tools, against the real store and pipeline and an engine in memory.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may fail this way")]

mod world;

use std::time::Duration;

use berth_deploy::docker::{
    EngineError,
    fake::{Behaviour, BuildScript},
};
use berth_schemas::{Code, Scope, deployment::DeploymentState};
use berth_store::model::{Principal, ProjectId, Visible};
use berth_tools::{Budget, Call, Progress, Update};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use world::{World, admin, eventually, somebody};

#[tokio::test]
async fn an_image_goes_live_and_the_answer_says_where() {
    let world = World::open().await;
    let deployed = world.deploy("web").await;
    assert_eq!(deployed["deployment"], "web#1");
    assert!(deployed["next"].as_str().unwrap().contains("http://web.localhost:8080"));
    let app = world.ok("app_get", json!({ "app": "web" })).await;
    assert_eq!((&app["state"], &app["live"]), (&json!("running"), &json!("web#1")));
    assert_eq!(app["settings"]["image"], "hello:1", "a new app remembers its source");
    let again = world.ok("deployment_create", json!({ "app": "web", "wait_s": 30 })).await;
    assert_eq!(
        again["nothing_new"], true,
        "the configured source is enough, and brings what is live: {again:#}"
    );
    let anew = world.ok("deployment_create", json!({ "app": "web", "no_cache": true, "wait_s": 30 })).await;
    assert_eq!(anew["state"], "live", "{anew:#}");
    let status = world.ok("platform_status", json!({})).await;
    assert_eq!((&status["apps"]["unhealthy"], &status["apps"]["running"]), (&json!([]), &json!(1)));
}

#[tokio::test]
async fn a_rollback_brings_the_release_before_back() {
    let world = World::open().await;
    world.deploy("web").await;
    let none = world.call("release_rollback", json!({ "app": "web" })).await.unwrap_err();
    assert_eq!(none.code, Code::Conflict, "{none}");
    world.deploy("web").await;
    let back = world.ok("release_rollback", json!({ "app": "web", "wait_s": 30 })).await;
    assert_eq!((&back["deployment"], &back["source"]["to"]), (&json!("web#3"), &json!("web#1")));
    assert_eq!(back["state"], "live", "{back:#}");
    let unknown = world.call("release_rollback", json!({ "app": "web", "to": 77 })).await.unwrap_err();
    assert_eq!((unknown.code, unknown.field.as_deref()), (Code::NotFound, Some("to")));
    assert!(unknown.hint.unwrap().contains('2'));
}

#[tokio::test]
async fn a_failed_build_says_why_and_what_to_do() {
    let world = World::open().await;
    world.engine.next_build(BuildScript {
        result: Err(EngineError::OutOfDisk { what: "the build".into() }),
        ..BuildScript::default()
    });
    let files = json!({ "Dockerfile": "FROM scratch\nCOPY a /a\n", "a": "a" });
    let input = json!({ "app": "web", "files": files, "create_app": true, "wait_s": 30 });
    let answer = world.call("deployment_create", input).await.unwrap();
    assert_eq!(answer.output["state"], "failed", "{:#}", answer.output);
    assert_eq!(answer.output["problem"]["code"], "out_of_disk");
    let next = answer.output["next"].as_str().unwrap();
    assert!(next.contains("deployment_log") && next.contains("platform_status"), "{next}");
    assert!(answer.brief.to_string().contains("out_of_disk"), "{}", answer.brief);
    let log = world.ok("deployment_log", json!({ "deployment": "web" })).await;
    assert!(!log["lines"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn an_unknown_app_is_met_with_candidates() {
    let world = World::open().await;
    world.ok("app_create", json!({ "name": "shop" })).await;
    for (tool, input) in [
        ("app_get", json!({ "app": "shpo" })),
        ("deployment_get", json!({ "deployment": "shpo#1" })),
        ("log_search", json!({ "app": "shpo" })),
    ] {
        let problem = world.call(tool, input).await.unwrap_err();
        assert_eq!((problem.code, &problem.candidates), (Code::NotFound, &vec!["shop".to_owned()]), "{tool}");
    }
    let create = json!({ "app": "shpo", "image": "hello:1" });
    let problem = world.call("deployment_create", create).await.unwrap_err();
    assert!(problem.hint.unwrap().contains("create_app=true"));
}

#[tokio::test]
async fn the_same_key_is_the_same_deployment() {
    let world = World::open().await;
    world.deploy("web").await;
    let input = json!({ "app": "web", "idempotency_key": "k1" });
    let first = world.ok("deployment_create", input.clone()).await;
    // How long to wait is not part of what is wanted.
    let patient = json!({ "app": "web", "idempotency_key": "k1", "wait_s": 20 });
    let second = world.ok("deployment_create", patient).await;
    assert_eq!(first["deployment"], second["deployment"]);
    let other = json!({ "app": "web", "idempotency_key": "k1", "no_cache": true });
    let problem = world.call("deployment_create", other).await.unwrap_err();
    assert_eq!((problem.code, problem.field.as_deref()), (Code::Conflict, Some("idempotency_key")));
    let failed = json!({ "app": "nope", "image": "hello:1", "idempotency_key": "k2" });
    assert!(world.call("deployment_create", failed.clone()).await.is_err());
    let problem = world.call("deployment_create", failed).await.unwrap_err();
    assert_eq!(problem.code, Code::NotFound, "a key whose call failed is free again: {problem}");
}

#[tokio::test]
async fn destroying_wants_the_exact_name() {
    let world = World::open().await;
    world.deploy("web").await;
    let dry = world.ok("app_delete", json!({ "app": "web", "dry_run": true })).await;
    assert_eq!(dry["deleting"], false);
    assert!(dry["removes"].to_string().contains("1 container"), "{dry:#}");
    for confirm in [json!({ "app": "web" }), json!({ "app": "web", "confirm": "Web" })] {
        let problem = world.call("app_delete", confirm).await.unwrap_err();
        assert_eq!(problem.code, Code::ConfirmationRequired);
    }
    assert_eq!(world.ok("app_get", json!({ "app": "web" })).await["state"], "running");
    let gone = world.ok("app_delete", json!({ "app": "web", "confirm": "web" })).await;
    let job = world.ok("job_get", json!({ "job": gone["job"]["job"], "wait_s": 30 })).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    let problem = world.call("app_get", json!({ "app": "web" })).await.unwrap_err();
    assert_eq!(problem.code, Code::NotFound);
}

#[tokio::test]
async fn a_job_that_waits_can_be_cancelled() {
    let world = World::open().await;
    let slow = Behaviour { stop_takes: Duration::from_secs(600), ..Behaviour::default() };
    world.engine.add_image("slow:1", slow);
    let input = json!({ "app": "web", "image": "slow:1", "create_app": true, "wait_s": 30 });
    world.ok("deployment_create", input).await;
    let stop = world.ok("app_stop", json!({ "app": "web", "confirm": "web" })).await;
    let stop = json!({ "job": stop["job"]["job"] });
    eventually(async || world.ok("app_get", json!({ "app": "web" })).await["state"] == "stopped").await;
    let begun = world.call("job_cancel", stop).await.unwrap_err();
    assert!(begun.code == Code::Conflict && begun.detail.contains("has begun"), "{begun}");

    let start = world.ok("app_start", json!({ "app": "web" })).await;
    let start = json!({ "job": start["job"]["job"] });
    let foreign = Principal { visible: Visible::Projects(vec![ProjectId(77)]), ..admin() };
    let hidden = world.call_as(&foreign, "job_cancel", start.clone()).await.unwrap_err();
    assert_eq!((hidden.code, hidden.field.as_deref()), (Code::NotFound, Some("job")));
    for _ in 0..2 {
        let cancelled = world.ok("job_cancel", start.clone()).await;
        assert_eq!((&cancelled["state"], &cancelled["by"]), (&json!("cancelled"), &json!("admin")));
    }

    let gone = world.ok("app_delete", json!({ "app": "web", "confirm": "web" })).await;
    let kept = world.call("job_cancel", json!({ "job": gone["job"]["job"] })).await.unwrap_err();
    assert!(kept.detail.contains("goes on to its end"), "{kept}");
}

#[tokio::test]
async fn secrets_are_masked_and_their_reveal_leaves_a_trace() {
    let world = World::open().await;
    world.ok("app_create", json!({ "name": "web" })).await;
    let set = json!({ "app": "web", "variables": { "MODE": "fast" }, "secrets": { "KEY": "open-sesame" } });
    let answer = world.call("variable_set", set).await.unwrap();
    assert!(!format!("{answer:?}").contains("open-sesame"));
    let list = world.call("variable_list", json!({ "app": "web" })).await.unwrap();
    let shown = format!("{} {}", list.output, list.brief);
    assert!(shown.contains("fast") && !shown.contains("open-sesame"), "{shown}");

    let reveal = json!({ "app": "web", "name": "KEY" });
    let writer = somebody("writer", &[Scope::Write]);
    assert_eq!(
        world.call_as(&writer, "variable_reveal", reveal.clone()).await.unwrap_err().code,
        Code::Forbidden
    );
    let keeper = somebody("keeper", &[Scope::Secrets]);
    let revealed = world.call_as(&keeper, "variable_reveal", reveal).await.unwrap();
    assert_eq!(revealed.output["value"], "open-sesame");
    assert!(!revealed.brief.to_string().contains("open-sesame"));
    let events = world.ok("event_list", json!({ "app": "web", "kind": "variable.revealed" })).await;
    assert_eq!(events["events"][0]["by"], "keeper", "{events:#}");
    assert!(!events.to_string().contains("open-sesame"));
}

#[tokio::test]
async fn a_route_belongs_to_one_app() {
    let world = World::open().await;
    for name in ["web", "shop"] {
        world.ok("app_create", json!({ "name": name })).await;
    }
    let route = |app: &str, route: &str| json!({ "app": app, "settings": { "routes": [route] } });
    world.ok("app_update", route("web", "www.example.com/a")).await;
    world.ok("app_update", route("shop", "www.example.com/b")).await;
    for taken in ["WWW.example.com/a", "web.localhost", "other.localhost", "localhost"] {
        let problem = world.call("app_update", route("shop", taken)).await.unwrap_err();
        assert_eq!(
            (problem.code, problem.field.as_deref()),
            (Code::Conflict, Some("settings.routes")),
            "{taken}"
        );
    }
    let unset = world.ok("app_update", json!({ "app": "web", "unset": ["routes"] })).await;
    assert_eq!(unset["changed"], json!(["routes"]));
    world.ok("app_update", route("shop", "www.example.com/a")).await;
}

/// A call with a small valid input for each tool that names something of a project.
fn inputs() -> Vec<(&'static str, Value)> {
    let app = json!({ "app": "web" });
    let domain = json!({ "domain": "shop.example.com" });
    let issue = json!({ "issue": "WEB-1" });
    vec![
        ("app_get", app.clone()),
        ("app_update", json!({ "app": "web", "settings": { "port": 80 } })),
        ("app_delete", json!({ "app": "web", "confirm": "web" })),
        ("app_stop", json!({ "app": "web", "confirm": "web" })),
        ("app_start", app.clone()),
        ("app_restart", app.clone()),
        ("app_scale", json!({ "app": "web", "replicas": 2 })),
        ("deployment_create", json!({ "app": "web", "image": "hello:1" })),
        ("deployment_get", json!({ "deployment": "web#1" })),
        ("deployment_list", app.clone()),
        ("deployment_cancel", json!({ "deployment": "web#1" })),
        ("deployment_log", json!({ "deployment": "web" })),
        ("environment_create", json!({ "app": "web", "environment": "staging" })),
        ("environment_delete", json!({ "app": "web", "environment": "staging", "confirm": "staging" })),
        ("environment_get", json!({ "app": "web", "environment": "production" })),
        ("environment_list", app.clone()),
        ("environment_update", json!({ "app": "web", "environment": "production", "branch": "main" })),
        ("domain_add", json!({ "domain": "blog.example.com", "app": "web" })),
        ("domain_get", domain.clone()),
        ("domain_update", json!({ "domain": "shop.example.com", "unset": ["challenge"] })),
        ("domain_verify", domain.clone()),
        ("domain_renew", domain.clone()),
        ("domain_certificate_set", json!({ "domain": "shop.example.com", "chain": "x", "key": "y" })),
        ("domain_remove", json!({ "domain": "shop.example.com", "confirm": "shop.example.com" })),
        ("preview_approve", json!({ "app": "web", "environment": "production", "commit": "abc" })),
        ("event_list", app.clone()),
        ("dsn_get", app.clone()),
        ("dsn_rotate", json!({ "app": "web", "grace_hours": 0, "confirm": "web" })),
        ("error_search", app.clone()),
        ("error_fields", app.clone()),
        ("error_get", issue.clone()),
        ("error_event_list", issue.clone()),
        ("error_event_get", issue.clone()),
        ("error_release_compare", app.clone()),
        ("error_resolve", issue.clone()),
        ("error_ignore", issue.clone()),
        ("error_reopen", issue.clone()),
        ("error_assign", issue.clone()),
        ("error_merge", json!({ "issue": "WEB-1", "into": "WEB-2" })),
        ("error_split", json!({ "issue": "WEB-1", "event": "0123456789abcdef0123456789abcdef" })),
        ("error_delete", json!({ "issue": "WEB-1", "confirm": "WEB-1" })),
        ("error_user_delete", json!({ "app": "web", "user": "ann", "confirm": "ann" })),
        ("error_attachment_get", json!({ "app": "web", "attachment": 1 })),
        ("feedback_list", app.clone()),
        ("feedback_delete", json!({ "app": "web", "feedback": 1, "confirm": "1" })),
        ("error_rules_get", app.clone()),
        ("error_rules_set", json!({ "app": "web", "keep_addresses": true })),
        ("log_search", app.clone()),
        ("telemetry_list", json!({ "app": "web", "kind": "logs" })),
        ("project_delete", json!({ "project": "default", "confirm": "default" })),
        ("push_get", json!({ "app": "web", "push": 1 })),
        ("push_list", app.clone()),
        ("repository_connect", json!({ "app": "web", "git_url": "https://github.com/acme/site" })),
        ("repository_disconnect", json!({ "app": "web", "confirm": "web" })),
        ("repository_get", app.clone()),
        ("repository_key", app.clone()),
        ("webhook_rotate", app.clone()),
        ("push_retry", json!({ "app": "web", "push": 1 })),
        ("push_rules_get", app.clone()),
        ("push_rules_set", json!({ "app": "web", "rules": { "deploy_tags": ["v*"] } })),
        ("release_promote", json!({ "app": "web", "from": "staging" })),
        ("release_list", app.clone()),
        ("release_rollback", app.clone()),
        ("request_list", app.clone()),
        ("rollout_abort", app.clone()),
        ("rollout_promote", app.clone()),
        ("rollout_set", json!({ "app": "web", "percent": 20 })),
        ("rollout_start", json!({ "app": "web", "image": "hello:1" })),
        ("traffic_get", app.clone()),
        ("traffic_maintenance", json!({ "app": "web", "confirm": "web" })),
        ("traffic_pause", app.clone()),
        ("traffic_resume", app.clone()),
        ("variable_export", app.clone()),
        ("variable_history", app.clone()),
        ("variable_import", json!({ "app": "web", "text": "A=b" })),
        ("variable_restore", json!({ "app": "web", "name": "A", "version": 1 })),
        ("variable_list", app.clone()),
        ("variable_set", json!({ "app": "web", "variables": { "A": "b" } })),
        ("variable_delete", json!({ "app": "web", "name": "A" })),
        ("variable_reveal", json!({ "app": "web", "name": "A" })),
    ]
}

#[tokio::test]
async fn a_token_of_another_project_finds_nothing() {
    let world = World::open().await;
    world.deploy("web").await;
    world.ok("domain_add", json!({ "domain": "shop.example.com", "app": "web" })).await;
    world.ok("project_create", json!({ "name": "other" })).await;
    let stranger = Principal { visible: Visible::Projects(vec![ProjectId(999)]), ..admin() };
    for (tool, input) in inputs() {
        let outcome = world.call_as(&stranger, tool, input).await;
        let problem = outcome.err().unwrap_or_else(|| panic!("{tool} let a stranger in"));
        assert_eq!(problem.code, Code::NotFound, "{tool}: {problem}");
        assert!(problem.candidates.is_empty(), "{tool} names what a stranger must not know");
    }
    for (tool, input) in [
        ("token_list", json!({})),
        ("token_create", json!({ "name": "t" })),
        ("token_revoke", json!({ "token": "t", "confirm": "t" })),
        ("grant_list", json!({})),
        ("audit_search", json!({})),
        ("grant_revoke", json!({ "grant": "000000000000", "dry_run": true })),
        ("platform_cleanup", json!({ "dry_run": false, "confirm": "cleanup" })),
        ("project_create", json!({ "name": "third" })),
    ] {
        assert_eq!(world.call_as(&stranger, tool, input).await.unwrap_err().code, Code::Forbidden, "{tool}");
    }
    for (tool, list) in [
        ("app_list", "apps"),
        ("project_list", "projects"),
        ("event_list", "events"),
        ("domain_list", "domains"),
    ] {
        let output = world.call_as(&stranger, tool, json!({})).await.unwrap().output;
        assert_eq!(output[list], json!([]), "{tool}");
    }
    let app = world.ok("app_get", json!({ "app": "web" })).await;
    assert_eq!((&app["state"], &app["latest"]["deployment"]), (&json!("running"), &json!("web#1")));
}

#[tokio::test]
async fn whoever_may_make_apps_learns_that_a_name_is_taken_and_not_by_whom() {
    let world = World::open().await;
    for project in ["red", "blue"] {
        world.ok("project_create", json!({ "name": project })).await;
    }
    world.ok("app_create", json!({ "name": "web", "project": "red" })).await;
    let of = json!({ "name": "of-blue", "scopes": ["write"], "projects": ["blue"] });
    let made = world.ok("token_create", of).await;
    let blue = world.context.store.tokens().find(made["secret"].as_str().unwrap()).unwrap();
    let input = json!({ "name": "web", "project": "blue" });
    let taken = world.call_as(&blue, "app_create", input).await.unwrap_err();
    assert_eq!(taken.code, Code::AlreadyExists);
    let told = serde_json::to_string(&taken).unwrap();
    assert!(!told.contains("red") && taken.candidates.is_empty(), "{told}");
}

/// When a tool is added that names something, it has to join the walk above.
#[test]
fn every_tool_that_names_something_is_walked() {
    let walked: Vec<&str> = inputs().into_iter().map(|(tool, _)| tool).collect();
    for tool in berth_tools::registry().tools() {
        let names = ["{app}", "{deployment}", "{project}", "{domain}", "{issue}"]
            .iter()
            .any(|field| tool.spec.path.contains(field));
        assert!(!names || walked.contains(&tool.spec.name), "{}", tool.spec.name);
    }
}

#[tokio::test]
async fn scopes_are_asked_for() {
    let world = World::open().await;
    let deployer = somebody("ci", &[Scope::Deploy]);
    let create = json!({ "app": "web", "image": "hello:1", "create_app": true });
    let problem = world.call_as(&deployer, "deployment_create", create).await.unwrap_err();
    assert_eq!(problem.code, Code::Forbidden);
    assert!(problem.detail.contains("write"), "{problem}");
    world.deploy("web").await;
    world.call_as(&deployer, "deployment_create", json!({ "app": "web" })).await.unwrap();
    let reader = somebody("reader", &[Scope::Read]);
    for tool in world.registry.tools() {
        if !tool.spec.hints.read_only {
            let problem = world.call_as(&reader, tool.spec.name, json!({})).await.unwrap_err();
            assert_eq!(problem.code, Code::Forbidden, "{}", tool.spec.name);
        }
    }
}

#[tokio::test]
async fn a_follower_hears_every_state_and_line_once() {
    let world = World::open().await;
    world
        .engine
        .add_image("slow:1", Behaviour { listen_after: Duration::from_millis(400), ..Behaviour::default() });
    let (sender, mut told) = mpsc::channel(4);
    let call = Call::new(world.context.clone(), admin()).progress(Progress::following(sender));
    let input = json!({ "app": "web", "image": "slow:1", "create_app": true });
    let registry = world.registry.clone();
    let running =
        tokio::spawn(async move { registry.get("deployment_create").unwrap().call(call, input).await });
    let (mut states, mut lines) = (Vec::new(), Vec::new());
    while let Some(update) = told.recv().await {
        match update {
            Update::State { state, .. } => states.push(state),
            Update::BuildLine(line) => lines.push(line.line),
            _ => {}
        }
    }
    let answer = running.await.unwrap().unwrap();
    assert_eq!(answer.output["state"], "live", "{:#}", answer.output);
    assert_eq!(states.last(), Some(&DeploymentState::Live), "{states:?}");
    assert!(states.is_sorted_by(|a, b| *a as u8 <= *b as u8), "{states:?}");
    let kept = world.ok("deployment_log", json!({ "deployment": "web", "limit": 1000 })).await;
    let kept: Vec<i64> =
        kept["lines"].as_array().unwrap().iter().map(|l| l["line"].as_i64().unwrap()).collect();
    assert!(kept.starts_with(&lines) && !lines.is_empty(), "told {lines:?}, kept {kept:?}");
}

#[tokio::test]
async fn a_caller_who_hangs_up_does_not_undo_what_was_begun() {
    let world = World::open().await;
    world.deploy("web").await;
    let call = Call::new(world.context.clone(), admin());
    let input = json!({ "app": "web", "wait_s": 50, "no_cache": true, "idempotency_key": "gone" });
    let tool = world.registry.get("deployment_create").unwrap();
    // The first poll begins the work; then the caller is gone.
    let _ = tokio::time::timeout(Duration::from_millis(1), tool.call(call, input.clone())).await;
    eventually(async || world.ok("app_get", json!({ "app": "web" })).await["live"] == "web#2").await;
    let again = world.ok("deployment_create", input).await;
    assert_eq!(again["deployment"], "web#2", "the key was kept");
}

#[tokio::test]
async fn a_model_gets_no_more_lines_than_it_can_take_in() {
    let world = World::open().await;
    let output = (0..600).map(|i| format!("line {i} {}", "x".repeat(120))).collect();
    world.engine.add_image("hello:1", Behaviour { output, ..Behaviour::default() });
    let input = json!({ "app": "web", "image": "hello:1", "create_app": true, "wait_s": 30 });
    assert_eq!(world.ok("deployment_create", input).await["state"], "live");
    let lines = |output: &Value| output["lines"].as_array().unwrap().len();
    eventually(async || lines(&world.ok("log_search", json!({ "app": "web", "limit": 1000 })).await) >= 600)
        .await;
    let tool = world.registry.get("log_search").unwrap();
    let call = || Call::new(world.context.clone(), admin()).budget(Budget::MODEL);
    let usual = tool.call(call(), json!({ "app": "web" })).await.unwrap().output;
    let asked = tool.call(call(), json!({ "app": "web", "limit": 1000 })).await.unwrap().output;
    assert!(usual.to_string().len() < 8_200 && asked.to_string().len() < 32_800);
    assert!(lines(&usual) >= 20 && lines(&asked) > 2 * lines(&usual), "{} {}", lines(&usual), lines(&asked));
    assert_eq!((&usual["truncated"], &asked["truncated"]), (&json!(true), &json!(true)));
    // Reading on from the beginning meets every line once.
    let (mut after, mut seen) = (0, 0);
    loop {
        let page =
            tool.call(call(), json!({ "app": "web", "after": after, "limit": 1000 })).await.unwrap().output;
        seen += lines(&page);
        after = page["next_after"].as_i64().unwrap();
        if page["truncated"] == false {
            break;
        }
    }
    assert!(seen >= 600, "{seen}");
}

#[tokio::test]
async fn a_domain_leads_to_its_app_from_the_next_request_on() {
    let world = World::open().await;
    world.deploy("web").await;
    world.ok("app_create", json!({ "name": "api", "settings": { "routes": ["api.example.com/v1"] } })).await;
    let added = world.ok("domain_add", json!({ "domain": "Shop.Example.com.", "app": "web" })).await;
    assert_eq!((&added["domain"], &added["environment"]), (&json!("shop.example.com"), &json!("production")));
    let www = json!({ "domain": "www.example.com", "app": "web", "redirect_to": "shop.example.com" });
    world.ok("domain_add", www).await;
    let refused = [
        (json!({ "domain": "shop.example.com", "app": "api" }), Code::AlreadyExists),
        (json!({ "domain": "api.localhost", "app": "web" }), Code::Conflict),
        (json!({ "domain": "api.example.com", "app": "web" }), Code::Conflict),
        (json!({ "domain": "localhost", "app": "web" }), Code::InvalidInput),
        (json!({ "domain": "x.example.com", "app": "web", "environment": "staging" }), Code::NotFound),
        (
            json!({ "domain": "x.example.com", "app": "web", "redirect_to": "x.example.com" }),
            Code::InvalidInput,
        ),
    ];
    for (input, code) in refused {
        let problem = world.call("domain_add", input.clone()).await.unwrap_err();
        assert_eq!(problem.code, code, "{input}: {problem}");
    }
    let route = json!({ "app": "api", "settings": { "routes": ["shop.example.com"] } });
    assert_eq!(world.call("app_update", route).await.unwrap_err().code, Code::Conflict);
    let list = world.ok("domain_list", json!({ "app": "web" })).await;
    assert_eq!((&list["total"], &list["domains"][1]["redirect_to"]), (&json!(2), &json!("shop.example.com")));
    let asked = world.call("domain_remove", json!({ "domain": "shop.example.com" })).await.unwrap_err();
    assert_eq!(asked.code, Code::ConfirmationRequired);
    let gone = json!({ "domain": "shop.example.com", "confirm": "shop.example.com" });
    assert_eq!(world.ok("domain_remove", gone).await["removed"], true);
    let unknown = world.call("domain_get", json!({ "domain": "shop.example.com" })).await.unwrap_err();
    assert_eq!((unknown.code, unknown.candidates), (Code::NotFound, vec!["www.example.com".to_owned()]));
}

#[tokio::test]
async fn variables_refer_to_each_other_and_secrets_stay_so() {
    let world = World::open().await;
    world.deploy("web").await;
    world.ok("environment_create", json!({ "app": "web", "environment": "staging" })).await;
    let set = async |input: Value| world.call("variable_set", input).await.map(|answer| answer.output);
    let missing =
        set(json!({ "app": "web", "variables": { "URL": "pg://${USER}@${HOST}/" } })).await.unwrap_err();
    assert_eq!(
        (missing.code, missing.field.as_deref()),
        (Code::MissingVariable, Some("variables")),
        "{missing}"
    );
    assert!(missing.detail.contains("URL refers to USER, which is not set"), "{missing}");

    // Shared by all, it may refer to what only some have, with a word about the others.
    set(json!({ "app": "web", "variables": { "HOST": "db-1" }, "secrets": { "PASSWORD": "open-sesame" } }))
        .await
        .unwrap();
    let url = json!({ "URL": "pg://app:${PASSWORD}@${HOST}/${BERTH_ENVIRONMENT}", "PLACE": "${HOST}" });
    let shared = set(json!({ "app": "web", "scope": "shared", "variables": url })).await.unwrap();
    let warnings = shared["warnings"].to_string();
    assert!(warnings.contains("In web (staging): PLACE refers to HOST, which is not set"), "{shared:#}");
    assert!(!warnings.contains("In web:"), "{shared:#}");

    let list = async |environment: &str| -> Value {
        world.ok("variable_list", json!({ "app": "web", "environment": environment, "resolved": true })).await
    };
    let of = |list: &Value, name: &str| -> Value {
        list["variables"].as_array().unwrap().iter().find(|v| v["name"] == name).cloned().unwrap()
    };
    let production = list("production").await;
    let url = of(&production, "URL");
    assert_eq!(url["value"], "pg://app:${PASSWORD}@${HOST}/${BERTH_ENVIRONMENT}");
    assert_eq!((&url["refers_to_secret"], &url["resolved"]), (&json!(true), &json!("••••••")), "{url:#}");
    assert_eq!(of(&production, "PLACE")["resolved"], "db-1");
    assert!(!production.to_string().contains("sesame"));
    let staging = of(&list("staging").await, "URL");
    assert!(staging["problem"].as_str().unwrap().contains("which is not set"), "{staging:#}");
    let reveal = world.ok("variable_reveal", json!({ "app": "web", "name": "URL" })).await;
    assert_eq!(reveal["resolved"], "pg://app:open-sesame@db-1/production");

    // What is referred to stays, circles do not come to be, and what is no reference is refused.
    let delete = world.call("variable_delete", json!({ "app": "web", "name": "HOST" })).await.unwrap_err();
    assert_eq!(delete.code, Code::Conflict, "{delete}");
    let circle = set(json!({ "app": "web", "variables": { "HOST": "${PLACE}" } })).await.unwrap_err();
    assert!(circle.detail.contains("HOST refers to PLACE, which refers to HOST, in a circle"), "{circle}");
    let wrong = set(json!({ "app": "web", "secrets": { "KEY": "a${b-sesame" } })).await.unwrap_err();
    assert_eq!((wrong.code, wrong.field.as_deref()), (Code::InvalidInput, Some("secrets.KEY")));
    assert!(!wrong.to_string().contains("sesame") && wrong.hint.unwrap().contains("$${"));

    // A deployment where something has no value fails, and says what.
    let failed = world
        .call("deployment_create", json!({ "app": "web", "environment": "staging", "image": "hello:1" }));
    let failed = failed.await.unwrap_err();
    assert!(
        failed.detail.contains("web (staging)") && failed.detail.contains("HOST, which is not set"),
        "{failed}"
    );

    // References survive a .env file, and what stands for itself does, too.
    set(json!({ "app": "web", "variables": { "ODD": "$${PASSWORD} $HOME" } })).await.unwrap();
    let text = world.ok("variable_export", json!({ "app": "web" })).await["text"].clone();
    assert!(
        text.as_str().unwrap().contains("URL=\"pg://app:${PASSWORD}@${HOST}/${BERTH_ENVIRONMENT}\""),
        "{text}"
    );
    let import = json!({ "app": "web", "environment": "staging", "text": text, "plain": true });
    world.ok("variable_import", import).await;
    let copied = list("staging").await;
    assert_eq!(of(&copied, "URL")["resolved"], "pg://app:open-sesame@db-1/staging");
    assert_eq!(of(&copied, "ODD")["resolved"], "${PASSWORD} $HOME");
}
