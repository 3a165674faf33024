use std::time::Duration;

use berth_schemas::{Timestamp, audit::Surface};
use berth_store::*;

use crate::support::World;

fn call(world: &World, tool: &'static str, principal: &str, target: Option<&str>) -> NewCall {
    NewCall {
        at: world.store.clock().now(),
        principal: principal.into(),
        grant: None,
        client: Some("test/1".into()),
        surface: Surface::Rest,
        tool,
        target: target.map(str::to_owned),
        request_id: Some("r1".into()),
    }
}

fn ended(outcome: &'static str) -> Ended {
    Ended { outcome, took: Duration::from_millis(7) }
}

async fn found(world: &World, query: CallQuery<'_>) -> Vec<String> {
    let limit = if query.limit == 0 { 100 } else { query.limit };
    let calls = world.store.calls().search(CallQuery { limit, ..query }).await.unwrap();
    calls.into_iter().map(|c| format!("{} {} {}", c.principal, c.tool, c.outcome)).collect()
}

pub async fn every_call_is_found_again(mut world: World) {
    let calls = world.store.calls();
    calls.note(call(&world, "app_list", "admin", None), ended("ok"));
    calls.note(call(&world, "app_get", "admin/0123456789ab", Some("app=shop")), ended("not_found"));
    let id = calls.begin(call(&world, "app_delete", "ci", Some("app=shop_1"))).await.unwrap();
    let unfinished = calls.begin(call(&world, "app_stop", "ci", Some("app=shop"))).await.unwrap();
    assert!(unfinished > id);
    calls.end(id, ended("ok")).await.unwrap();
    // A store that is closed has written what was noted.
    world.reopen().await;
    let of = |query| found(&world, query);
    let all = of(CallQuery::default()).await;
    assert_eq!(all.len(), 4, "{all:?}");
    assert!(all.contains(&"ci app_stop unfinished".into()), "{all:?}");
    let query = |tool, principal, outcome, target| CallQuery {
        tool,
        principal,
        outcome,
        target,
        ..CallQuery::default()
    };
    assert_eq!(of(query(Some("app_list"), None, None, None)).await, ["admin app_list ok"]);
    assert_eq!(of(query(None, Some("admin"), None, None)).await.len(), 2, "with its grants");
    assert_eq!(
        of(query(None, Some("admin/0123456789ab"), None, None)).await,
        ["admin/0123456789ab app_get not_found"]
    );
    assert_eq!(of(query(None, None, Some("failed"), None)).await.len(), 2);
    assert_eq!(of(query(None, None, Some("unfinished"), None)).await, ["ci app_stop unfinished"]);
    assert_eq!(
        of(query(None, None, None, Some("shop_1"))).await,
        ["ci app_delete ok"],
        "_ is a letter like others"
    );
    let newest = world.store.calls().search(CallQuery { limit: 1, ..CallQuery::default() }).await.unwrap();
    let rest = of(CallQuery { before: Some(newest[0].id), ..CallQuery::default() }).await;
    assert_eq!(rest.len(), 3);
    assert_eq!((newest[0].surface, newest[0].request_id.as_deref()), (Surface::Rest, Some("r1")));
}

pub async fn calls_are_kept_within_limits(world: World) {
    let calls = world.store.calls();
    for _ in 0..5 {
        calls.note(call(&world, "app_list", "old", None), ended("ok"));
    }
    world.advance(3600);
    let noon = world.store.clock().now();
    for _ in 0..5 {
        world.store.calls().note(call(&world, "app_list", "new", None), ended("ok"));
    }
    world.store.calls().flush().await.unwrap();
    let calls = world.store.calls();
    assert_eq!(calls.prune(noon, 100).await.unwrap().rows, 5);
    assert_eq!(calls.prune(Timestamp(0), 3).await.unwrap().rows, 2);
    assert_eq!(calls.prune(Timestamp(0), 3).await.unwrap().rows, 0);
    assert_eq!(found(&world, CallQuery::default()).await, ["new app_list ok"; 3]);
}
