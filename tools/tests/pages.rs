//! Lists page by page, as a model reads them: no row is lost between two pages.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may fail this way")]

mod world;

use std::sync::Arc;

use berth_store::model::Principal;
use berth_tools::{Budget, Call, Via};
use serde_json::{Value, json};
use world::{World, admin};

/// Most bytes of a page that MCP passes on as it is, for callers who did and did not say how much they want.
const MOST: usize = 29_500;
const USUAL: usize = 8_700;

/// The keys of all rows, page by page, and the bytes of the largest page.
async fn walk(world: &World, list: &List, limit: Option<u32>, budget: Budget) -> (Vec<Value>, usize) {
    let (mut keys, mut largest, mut cursor) = (Vec::new(), 0, Value::Null);
    loop {
        let mut input = list.input.clone();
        input["limit"] = json!(limit);
        input["cursor"] = cursor;
        let call = Call::new(Arc::clone(&world.context), admin()).budget(budget);
        let page = world.registry.get(list.tool).unwrap().call(call, input).await.unwrap().output;
        largest = largest.max(page.to_string().len());
        keys.extend(page[list.rows].as_array().unwrap().iter().map(|row| row[list.key].clone()));
        cursor = page["next_cursor"].clone();
        if cursor.is_null() {
            return (keys, largest);
        }
    }
}

struct List {
    tool: &'static str,
    rows: &'static str,
    key: &'static str,
    input: Value,
    most: u32,
}

fn list(tool: &'static str, rows: &'static str, key: &'static str, most: u32) -> List {
    List { tool, rows, key, input: json!({}), most }
}

async fn fill(world: &World) {
    let long = "x".repeat(33);
    let project = "p".repeat(40);
    world.ok("project_create", json!({ "name": project })).await;
    for n in 0..100 {
        let app = format!("app-{n:02}-{long}");
        let input = json!({ "app": app, "project": project, "image": "gone:1", "create_app": true });
        world.ok("deployment_create", input).await;
    }
    for n in 0..60 {
        let message = format!("{n} {}", "y".repeat(480));
        let input =
            json!({ "app": format!("app-00-{long}"), "image": format!("gone:{n}"), "message": message });
        world.ok("deployment_create", input).await;
    }
    let made = world
        .ok("token_create", json!({ "name": "assistant", "scopes": ["write"], "mode": "propose" }))
        .await;
    let assistant = world.context.store.tokens().find(made["secret"].as_str().unwrap()).unwrap();
    for n in 0..48 {
        propose(world, &assistant, n).await;
    }
    let pending = world.ok("proposal_list", json!({ "limit": 100 })).await;
    for row in pending["proposals"].as_array().unwrap() {
        let input = json!({ "proposal": row["proposal"], "reason": "r".repeat(490) });
        world.ok("proposal_reject", input).await;
    }
}

async fn propose(world: &World, who: &Principal, n: usize) {
    let via = Via::mcp(Some(&"z".repeat(500)), None);
    let call = Call::new(Arc::clone(&world.context), who.clone()).via(via);
    let input = json!({ "name": format!("proposed-{n}") });
    world.registry.get("app_create").unwrap().call(call, input).await.unwrap_err();
}

#[tokio::test]
async fn a_model_that_pages_through_a_list_meets_every_row_once() {
    let world = World::open().await;
    fill(&world).await;
    let deployments = list("deployment_list", "deployments", "deployment", 100);
    let proposals = list("proposal_list", "proposals", "proposal", 100);
    let lists = [
        list("app_list", "apps", "name", 100),
        List { input: json!({ "app": format!("app-00-{}", "x".repeat(33)) }), ..deployments },
        list("event_list", "events", "id", 200),
        list("audit_search", "calls", "id", 200),
        List { input: json!({ "state": "rejected" }), ..proposals },
    ];
    for list in &lists {
        let tool = list.tool;
        let (all, bytes) = walk(&world, list, Some(list.most), Budget::Unlimited).await;
        assert!(bytes > MOST, "{tool} has too little to be cut: {bytes}");
        for (limit, most) in [(None, USUAL), (Some(list.most), MOST)] {
            let (seen, largest) = walk(&world, list, limit, Budget::MODEL).await;
            assert!(largest <= most, "{tool}: a page of {largest} bytes");
            // What happens meanwhile stands before the first page.
            let of_them = seen.iter().filter(|key| all.contains(key)).count();
            assert_eq!(of_them, all.len(), "{tool} with limit {limit:?}");
        }
    }
}
