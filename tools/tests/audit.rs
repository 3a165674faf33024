//! The audit log and the brake, through the one way by which tools are called.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may fail this way")]

mod world;

use std::sync::Arc;

use berth_schemas::{Code, Scope};
use berth_tools::{Call, Via};
use futures_util::FutureExt as _;
use serde_json::{Value, json};
use world::{DESTRUCTIVE, World, admin, somebody};

async fn outcomes(world: &World, input: Value) -> Vec<String> {
    let page = world.ok("audit_search", input).await;
    let calls = page["calls"].as_array().unwrap().iter();
    calls
        .map(|c| {
            format!(
                "{} {} {}",
                c["principal"].as_str().unwrap(),
                c["tool"].as_str().unwrap(),
                c["outcome"].as_str().unwrap()
            )
        })
        .collect()
}

#[tokio::test]
async fn every_call_is_in_the_audit_log_without_its_secrets() {
    let world = World::open().await;
    world.ok("app_create", json!({ "name": "shop" })).await;
    let variables = json!({ "app": "shop", "variables": { "KEY": "s3cret-value" } });
    world.ok("variable_set", variables).await;
    let reader = somebody("reader", &[Scope::Read]);
    world.call_as(&reader, "app_create", json!({ "name": "other" })).await.unwrap_err();
    world.call_as(&reader, "app_get", json!({ "app": "nowhere" })).await.unwrap_err();
    world.call_as(&reader, "app_get", json!({ "app": "shop", "wrong": 1 })).await.unwrap_err();
    world.call("app_create", json!({ "name": "Not a name" })).await.unwrap_err();
    let call = Call::new(Arc::clone(&world.context), admin())
        .via(Via::mcp(Some("assistant\u{1b}[2J 1.0"), Some("request-1".into())));
    world.registry.get("app_list").unwrap().call(call, json!({})).await.unwrap();

    let page = world.ok("audit_search", json!({ "tool": "app_list" })).await;
    let call = &page["calls"][0];
    assert_eq!(
        (&call["surface"], &call["client"], &call["request_id"]),
        (&json!("mcp"), &json!("assistant 1.0"), &json!("request-1"))
    );
    assert!(call["duration_ms"].is_i64() && call["at"].is_string(), "{call}");
    let all = world.ok("audit_search", json!({ "limit": 200 })).await;
    assert!(!all.to_string().contains("s3cret"), "{all}");
    assert_eq!(
        outcomes(&world, json!({ "principal": "reader" })).await,
        ["reader app_get invalid_input", "reader app_get not_found", "reader app_create forbidden"]
    );
    assert_eq!(
        outcomes(&world, json!({ "target": "app=shop", "outcome": "ok" })).await,
        ["admin variable_set ok"]
    );
    let failed = outcomes(&world, json!({ "outcome": "failed" })).await;
    assert!(failed.contains(&"admin app_create invalid_input".into()) && failed.len() == 4, "{failed:?}");
    let first = world.ok("audit_search", json!({ "limit": 2 })).await;
    let next = world.ok("audit_search", json!({ "limit": 2, "cursor": first["next_cursor"] })).await;
    let id = |page: &Value, at: usize| page["calls"][at]["id"].as_i64().unwrap();
    assert!(id(&first, 1) > id(&next, 0));
    // It is the admin's alone.
    for scope in [Scope::Read, Scope::Write, Scope::Secrets] {
        let refused = world.call_as(&somebody("s", &[scope]), "audit_search", json!({})).await.unwrap_err();
        assert_eq!(refused.code, Code::Forbidden);
    }
}

#[tokio::test]
async fn a_caller_who_hangs_up_is_in_the_audit_log() {
    let world = World::open().await;
    // It begins, and is given up before the store has answered.
    assert!(world.call("app_list", json!({})).now_or_never().is_none());
    assert_eq!(outcomes(&world, json!({ "tool": "app_list" })).await, ["admin app_list cancelled"]);
}

#[tokio::test]
async fn who_destroys_too_much_at_once_has_to_wait() {
    let world = World::open().await;
    let doomed = |n: u32| json!({ "name": format!("doomed-{n}") });
    for n in 0..DESTRUCTIVE + 2 {
        world.ok("project_create", doomed(n)).await;
    }
    let delete = |n: u32| json!({ "project": format!("doomed-{n}"), "confirm": format!("doomed-{n}") });
    for n in 0..DESTRUCTIVE {
        // Asking first costs nothing.
        world.call("project_delete", json!({ "project": format!("doomed-{n}") })).await.unwrap_err();
        world.ok("project_delete", delete(n)).await;
    }
    let refused = world.call("project_delete", delete(DESTRUCTIVE)).await.unwrap_err();
    assert_eq!(refused.code, Code::RateLimited);
    assert!(refused.retry_after_s.is_some_and(|s| (1..=60).contains(&s)), "{refused:?}");
    let other = somebody("other", &[Scope::Admin]);
    world.call_as(&other, "project_delete", delete(DESTRUCTIVE)).await.unwrap();
    let left = world.ok("project_list", json!({})).await;
    assert!(left.to_string().contains(&format!("doomed-{}", DESTRUCTIVE + 1)), "{left}");
}
