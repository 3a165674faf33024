//! Searching errors with a token for some projects only.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may fail this way")]

mod world;

use berth_schemas::Code;
use berth_store::model::{Principal, Visible};
use serde_json::{Value, json};
use world::{World, admin, eventually};

/// An app of a project with one error, which has one tag.
async fn app(world: &World, project: &str, app: &str, n: usize, tag: &str) -> Principal {
    world.ok("project_create", json!({ "name": project })).await;
    world.ok("app_create", json!({ "name": app, "project": project })).await;
    let event = json!({
        "event_id": format!("{n:032x}"), "message": format!("{app} broke"), "level": "error", "tags": { tag: "x" },
    });
    world.report(app, &[event], 1).await;
    let tags = json!({ "app": app });
    let indexed = async || world.ok("error_fields", tags.clone()).await.to_string().contains(tag);
    eventually(indexed).await;
    let projects = world.context.store.projects().list(&Visible::All).await.unwrap();
    let id = projects.iter().find(|p| p.slug.as_str() == project).unwrap().id;
    Principal { visible: Visible::Projects(vec![id]), ..admin() }
}

#[tokio::test]
async fn a_tag_of_a_foreign_app_is_neither_offered_nor_known() {
    let world = World::open().await;
    let ours = app(&world, "ours", "shop", 1, "basket").await;
    let theirs = app(&world, "theirs", "bank", 2, "ledger").await;
    let search = async |who: &Principal, query: &str| {
        world.call_as(who, "error_search", json!({ "query": query })).await
    };
    let found = |output: &Value| output["issues"].as_array().unwrap().len();

    for (who, own, foreign, near_foreign) in
        [(&ours, "basket", "ledger", "ledgre"), (&theirs, "ledger", "basket", "baskte")]
    {
        let answer = search(who, &format!("{own}:x")).await.unwrap();
        assert_eq!(found(&answer.output), 1, "{:#}", answer.output);
        // Written right or nearly right, it is a word that means nothing.
        for query in [format!("{foreign}:x"), format!("{near_foreign}:x"), format!("has:{foreign}")] {
            let problem = search(who, &query).await.unwrap_err();
            assert_eq!(problem.code, Code::InvalidInput, "{query}: {problem:?}");
            let offered = format!("{:?} {:?}", problem.candidates, problem.hint);
            assert!(!offered.contains(foreign), "{query}: {problem:?}");
        }
        let facets = json!({ "query": "level:error", "facets": [own] });
        let counted = world.call_as(who, "error_search", facets).await.unwrap().output;
        assert_eq!(counted["facets"][0]["values"], json!([{ "value": "x", "events": 1 }]), "{counted:#}");
        let facets = json!({ "query": "level:error", "facets": [foreign] });
        let problem = world.call_as(who, "error_search", facets).await.unwrap_err();
        assert_eq!(problem.field.as_deref(), Some("facets"), "{problem:?}");
    }
    // Nearly right, one's own is offered.
    let problem = search(&ours, "baskte:x").await.unwrap_err();
    assert_eq!((problem.candidates, problem.quotes), (vec!["basket:…".to_owned()], true));
    // An unrestricted token knows both, and one whose projects have no app none.
    for tag in ["basket", "ledger"] {
        assert_eq!(found(&search(&admin(), &format!("{tag}:x")).await.unwrap().output), 1, "{tag}");
    }
    let nowhere = Principal { visible: Visible::Projects(Vec::new()), ..admin() };
    assert_eq!(found(&search(&nowhere, "broke").await.unwrap().output), 0);
    assert_eq!(search(&nowhere, "basket:x").await.unwrap_err().code, Code::InvalidInput);
}
