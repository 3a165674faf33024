//! Tokens that may only propose, only read, or only use some tools.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may fail this way")]

mod world;

use std::collections::BTreeMap;

use berth_schemas::{Code, Scope};
use berth_store::model::Principal;
use serde_json::{Value, json};
use world::{World, admin, somebody};

/// A token that was made by the tool, as whoever uses it is known.
async fn token(world: &World, input: Value) -> Principal {
    let made = world.ok("token_create", input).await;
    world.context.store.tokens().find(made["secret"].as_str().unwrap()).unwrap()
}

async fn proposer(world: &World) -> Principal {
    token(world, json!({ "name": "assistant", "scopes": ["write"], "mode": "propose" })).await
}

fn number(problem: &berth_schemas::Problem) -> i64 {
    assert_eq!(problem.code, Code::ApprovalRequired, "{problem}");
    let text = problem.detail.split("proposal ").nth(1).unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_write_waits_for_a_person_and_runs_once() {
    let world = World::open().await;
    let assistant = proposer(&world).await;
    let create = json!({ "name": "shop" });
    let id = number(&world.call_as(&assistant, "app_create", create.clone()).await.unwrap_err());
    assert_eq!(
        number(&world.call_as(&assistant, "app_create", create).await.unwrap_err()),
        id,
        "it waits already"
    );
    assert_eq!(world.ok("app_list", json!({})).await["total"], 0, "nothing was done");
    world.call_as(&assistant, "app_list", json!({})).await.expect("reading is free");
    let listed = world.call_as(&assistant, "proposal_list", json!({})).await.unwrap().output;
    assert_eq!(
        (&listed["proposals"][0]["proposal"], &listed["proposals"][0]["target"]),
        (&json!(id), &json!("name=shop"))
    );

    // Neither the proposer nor somebody without the right decides.
    let confirmed = json!({ "proposal": id, "confirm": id.to_string() });
    for (who, tool) in [(&assistant, "proposal_approve"), (&assistant, "proposal_reject")] {
        assert_eq!(
            world.call_as(who, tool, confirmed.clone()).await.unwrap_err().code,
            Code::Forbidden,
            "{tool}"
        );
    }
    let deployer = somebody("deployer", &[Scope::Deploy]);
    let refused = world.call_as(&deployer, "proposal_approve", confirmed.clone()).await.unwrap_err();
    assert!(refused.code == Code::Forbidden && refused.detail.contains("app_create"), "{refused}");
    let asked = world.call("proposal_approve", json!({ "proposal": id })).await.unwrap_err();
    assert_eq!(asked.code, Code::ConfirmationRequired);
    world.ok("proposal_approve", json!({ "proposal": id, "dry_run": true })).await;
    assert_eq!(world.ok("app_list", json!({})).await["total"], 0);

    let done = world.ok("proposal_approve", confirmed.clone()).await;
    assert_eq!((&done["state"], &done["decided_by"]), (&json!("done"), &json!("admin")));
    assert_eq!(world.ok("app_list", json!({})).await["total"], 1);
    let again = world.call("proposal_approve", confirmed).await.unwrap_err();
    assert!(again.code == Code::Conflict && again.detail.contains("done"), "{again}");
    let audit = world.ok("audit_search", json!({ "tool": "app_create", "outcome": "ok" })).await;
    assert_eq!(audit["calls"][0]["client"], format!("proposal {id} of assistant"), "{audit}");
    let seen = world.call_as(&assistant, "proposal_get", json!({ "proposal": id })).await.unwrap().output;
    assert_eq!(seen["state"], "done");
}

#[tokio::test]
async fn secrets_of_a_proposal_are_sealed_and_masked() {
    let world = World::open().await;
    let assistant = proposer(&world).await;
    world.ok("app_create", json!({ "name": "shop" })).await;
    let input = json!({ "app": "shop", "variables": { "KEY": "s3cret-value" } });
    let id = number(&world.call_as(&assistant, "variable_set", input).await.unwrap_err());
    let seen = world.ok("proposal_get", json!({ "proposal": id })).await.to_string();
    assert!(seen.contains("KEY") && !seen.contains("s3cret"), "{seen}");
    let bytes = std::fs::read(world.context.data_dir.join("berth.db")).unwrap();
    let wal = std::fs::read(world.context.data_dir.join("berth.db-wal")).unwrap_or_default();
    assert!(!String::from_utf8_lossy(&[bytes, wal].concat()).contains("s3cret-value"));
    world.ok("proposal_approve", json!({ "proposal": id, "confirm": id.to_string() })).await;
    let value = world.ok("variable_reveal", json!({ "app": "shop", "name": "KEY" })).await;
    assert!(value.to_string().contains("s3cret-value"), "{value}");
}

#[tokio::test]
async fn a_proposal_shows_which_token_goes_but_no_address_of_a_webhook() {
    let world = World::open().await;
    let assistant =
        token(&world, json!({ "name": "assistant", "scopes": ["admin"], "mode": "propose" })).await;
    let reader = somebody("reader", &[Scope::Read]);
    let shown = async |tool: &str, input: Value| {
        let id = number(&world.call_as(&assistant, tool, input).await.unwrap_err());
        let seen = world.call_as(&reader, "proposal_get", json!({ "proposal": id })).await.unwrap();
        seen.output.to_string()
    };
    for kind in ["slack", "discord", "webhook"] {
        let url = "https://hooks.example.com/services/s3cret";
        let channel = json!({ "channel": "ops", "target": { "kind": kind, "url": url } });
        let seen = shown("channel_set", channel).await;
        assert!(seen.contains(kind) && !seen.contains("s3cret"), "{seen}");
    }
    let seen = shown("token_revoke", json!({ "token": "deploys-of-shop", "confirm": "x" })).await;
    let arguments = seen.split("arguments").nth(1).unwrap();
    assert!(arguments.contains("deploys-of-shop"), "{seen}");
}

#[tokio::test]
async fn what_is_wrong_incomplete_or_rejected_does_not_run() {
    let world = World::open().await;
    let assistant = proposer(&world).await;
    world.ok("app_create", json!({ "name": "shop" })).await;
    let wrong = world.call_as(&assistant, "app_create", json!({ "nme": "x" })).await.unwrap_err();
    assert_eq!(wrong.code, Code::InvalidInput);
    let open = world.call_as(&assistant, "app_delete", json!({ "app": "shop" })).await.unwrap_err();
    assert_eq!(open.code, Code::ConfirmationRequired);
    world
        .call_as(&assistant, "app_delete", json!({ "app": "shop", "dry_run": true }))
        .await
        .expect("a dry run");
    assert_eq!(world.ok("proposal_list", json!({})).await["proposals"], json!([]));
    let delete = json!({ "app": "shop", "confirm": "shop" });
    let id = number(&world.call_as(&assistant, "app_delete", delete.clone()).await.unwrap_err());
    let no = world.ok("proposal_reject", json!({ "proposal": id, "reason": "It is in use." })).await;
    assert_eq!((&no["state"], &no["reason"]), (&json!("rejected"), &json!("It is in use.")));
    let late = world
        .call("proposal_approve", json!({ "proposal": id, "confirm": id.to_string() }))
        .await
        .unwrap_err();
    assert_eq!(late.code, Code::Conflict);
    // What its token proposed goes with the token.
    let id = number(&world.call_as(&assistant, "app_delete", delete).await.unwrap_err());
    world.ok("token_revoke", json!({ "token": "assistant", "confirm": "assistant" })).await;
    let void = world
        .call("proposal_approve", json!({ "proposal": id, "confirm": id.to_string() }))
        .await
        .unwrap_err();
    assert!(void.code == Code::Conflict && void.detail.contains("expired"), "{void}");
    assert_eq!(world.ok("app_list", json!({})).await["total"], 1);
    // One that fails says why, and does not run again.
    let other = token(&world, json!({ "name": "other", "scopes": ["write"], "mode": "propose" })).await;
    let twice = json!({ "name": "shop" });
    let id = number(&world.call_as(&other, "app_create", twice).await.unwrap_err());
    let failed = world
        .call("proposal_approve", json!({ "proposal": id, "confirm": id.to_string() }))
        .await
        .unwrap_err();
    assert_eq!(failed.code, Code::AlreadyExists);
    assert!(failed.hint.unwrap().contains("have it proposed anew"));
    let seen = world.ok("proposal_get", json!({ "proposal": id })).await;
    assert_eq!((&seen["state"], &seen["problem"]["code"]), (&json!("failed"), &json!("already_exists")));
}

#[tokio::test]
async fn an_upload_is_the_proposers_also_when_somebody_else_approves() {
    let world = World::open().await;
    let assistant = proposer(&world).await;
    world.ok("app_create", json!({ "name": "shop" })).await;
    let files = BTreeMap::from([("index.html".to_owned(), "hello".to_owned())]);
    let of = async |who: &Principal| {
        world.context.pipeline.store_files(who, files.clone()).await.unwrap().id.to_string()
    };
    let boss = somebody("boss", &[Scope::Deploy]);
    let foreign = json!({ "app": "shop", "upload": of(&boss).await });
    let refused = world.call_as(&assistant, "deployment_create", foreign).await.unwrap_err();
    assert_eq!((refused.code, refused.field.as_deref()), (Code::NotFound, Some("upload")), "{refused}");

    let own = json!({ "app": "shop", "upload": of(&assistant).await });
    let id = number(&world.call_as(&assistant, "deployment_create", own.clone()).await.unwrap_err());
    assert_eq!(
        world.call_as(&boss, "deployment_create", own).await.unwrap_err().code,
        Code::NotFound,
        "by himself he has no such upload"
    );
    let approve = json!({ "proposal": id, "confirm": id.to_string() });
    let done = world.call_as(&boss, "proposal_approve", approve).await.unwrap().output;
    assert_eq!(done["state"], "done", "{done}");
    let deployment = world.ok("deployment_get", json!({ "deployment": "shop#1", "wait_s": 30 })).await;
    assert_eq!(deployment["state"], "live", "{deployment:#}");
}

#[tokio::test]
async fn approving_counts_once_and_a_refusal_by_the_brake_leaves_the_proposal_open() {
    let world = World::open().await;
    let assistant = proposer(&world).await;
    let mut ids = Vec::new();
    for app in ["shop", "blog"] {
        world.ok("app_create", json!({ "name": app })).await;
        let delete = json!({ "app": app, "confirm": app });
        ids.push(number(&world.call_as(&assistant, "app_delete", delete).await.unwrap_err()));
    }
    // All but one of what a minute allows.
    for _ in 1..world::DESTRUCTIVE {
        let none = world.call("app_delete", json!({ "app": "none", "confirm": "none" })).await.unwrap_err();
        assert_eq!(none.code, Code::NotFound);
    }
    let approve = |id: i64| json!({ "proposal": id, "confirm": id.to_string() });
    assert_eq!(world.ok("proposal_approve", approve(ids[0])).await["state"], "done");
    let braked = world.call("proposal_approve", approve(ids[1])).await.unwrap_err();
    assert_eq!(braked.code, Code::RateLimited, "{braked}");
    let seen = world.ok("proposal_get", json!({ "proposal": ids[1] })).await;
    assert_eq!((&seen["state"], &seen["decided_by"]), (&json!("pending"), &Value::Null));
    // It is the token that has to slow down, not the proposal.
    let other = somebody("other", &[Scope::Write]);
    world.call_as(&other, "proposal_approve", approve(ids[1])).await.unwrap();
}

#[tokio::test]
async fn a_proposal_waits_on_when_its_call_was_refused_for_what_passes() {
    let world = World::open().await;
    let assistant = proposer(&world).await;
    world.ok("app_create", json!({ "name": "shop" })).await;
    let set = json!({ "app": "shop", "variables": { "HOST": "db-1", "PLACE": "${HOST}" } });
    world.ok("variable_set", set).await;
    let delete = json!({ "app": "shop", "name": "HOST" });
    let id = number(&world.call_as(&assistant, "variable_delete", delete).await.unwrap_err());
    let approve = json!({ "proposal": id, "confirm": id.to_string() });
    let refused = world.call("proposal_approve", approve.clone()).await.unwrap_err();
    assert_eq!(refused.code, Code::Conflict);
    assert!(refused.hint.as_ref().unwrap().contains(&format!("Proposal {id} waits on")), "{refused}");
    let seen = world.ok("proposal_get", json!({ "proposal": id })).await;
    assert_eq!((&seen["state"], &seen["problem"]["code"]), (&json!("pending"), &json!("conflict")), "{seen}");
    world.ok("variable_delete", json!({ "app": "shop", "name": "PLACE" })).await;
    let done = world.ok("proposal_approve", approve).await;
    assert_eq!((&done["state"], &done["problem"]), (&json!("done"), &Value::Null), "{done}");
}

#[tokio::test]
async fn a_token_keeps_to_its_mode_and_its_tools() {
    let world = World::open().await;
    world.ok("app_create", json!({ "name": "shop" })).await;
    let reads = token(&world, json!({ "name": "reads", "scopes": ["admin"], "mode": "read_only" })).await;
    world.call_as(&reads, "app_get", json!({ "app": "shop" })).await.unwrap();
    for (tool, input) in [
        ("app_create", json!({ "name": "x" })),
        ("variable_reveal", json!({ "app": "shop", "name": "KEY" })),
        ("token_create", json!({ "name": "full" })),
    ] {
        let refused = world.call_as(&reads, tool, input).await.unwrap_err();
        assert!(refused.code == Code::Forbidden && refused.detail.contains("read_only"), "{tool}: {refused}");
    }
    let some = json!({ "name": "some", "scopes": ["admin"], "tools": ["apps", "token_create"] });
    let some = token(&world, some).await;
    world.call_as(&some, "app_create", json!({ "name": "more" })).await.unwrap();
    let refused = world.call_as(&some, "project_list", json!({})).await.unwrap_err();
    assert!(refused.code == Code::Forbidden && refused.detail.contains("project_list"), "{refused}");
    // It cannot make one that goes further than itself.
    let wider = world.call_as(&some, "token_create", json!({ "name": "wider" })).await.unwrap_err();
    assert_eq!(wider.code, Code::Forbidden);
    world.call_as(&some, "environment_list", json!({ "app": "shop" })).await.unwrap();
    for (typo, meant) in [("app", "apps"), ("deply", "deploy"), ("app_gte", "app_get")] {
        let unknown = json!({ "name": "typo", "tools": [typo] });
        let unknown = world.call_as(&admin(), "token_create", unknown).await.unwrap_err();
        let offers = unknown.candidates.iter().any(|c| c == meant);
        assert!(unknown.code == Code::InvalidInput && offers, "{unknown:?}");
        assert!(unknown.hint.unwrap().contains("variables"), "a hint names the groups");
    }
    let listed = world.ok("token_list", json!({})).await.to_string();
    assert!(
        listed.contains("\"mode\":\"read_only\"") && listed.contains("\"tools\":[\"apps\",\"token_create\"]"),
        "{listed}"
    );
}
