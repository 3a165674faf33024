//! Lists page by page, as a model reads them: no row is lost between two pages.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may fail this way")]

mod world;

use std::{sync::Arc, time::Duration};

use berth_schemas::{
    IssueRef, Scope,
    alert::{AlertRule, ChannelTarget, DeliveryState},
    app::AppSettings,
    dns::DnsCredentials,
    push::{GitChange, PushOrigin},
    token::TokenMode,
};
use berth_store::{
    Approval, Artifact, ErrorItem, ItemKind, NewDelivery, NewDnsProvider, NewIntake, NewMessage, NewPreview,
    NewPush, NewRelease, NewRequest, PackedItem, Presented, Principal, PushSource, Snapshot, Visible,
};
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
        let answer = world.registry.get(list.tool).unwrap().call(call, input).await.unwrap();
        let page = answer.output;
        if let Some(next) = page["next_cursor"].as_str() {
            let text = answer.brief.to_string();
            assert!(text.contains(&format!("cursor={next:?}")), "{}: {text}", list.tool);
        }
        largest = largest.max(page.to_string().len());
        keys.extend(page[list.rows].as_array().unwrap().iter().map(|row| row[list.key].clone()));
        cursor = page["next_cursor"].clone();
        if cursor.is_null() {
            return (keys, largest);
        }
    }
}

/// The name of an app of many, as long as it may be.
fn app(n: usize) -> String {
    format!("app-{n:02}-{}", "x".repeat(33))
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

/// Apps, deployments, and by the way what event_list and audit_search list.
async fn deployments(world: &World) {
    let project = "p".repeat(40);
    world.ok("project_create", json!({ "name": project })).await;
    for n in 0..100 {
        let input = json!({ "app": app(n), "project": project, "image": "gone:1", "create_app": true });
        world.ok("deployment_create", input).await;
    }
    for n in 0..60 {
        let message = format!("{n} {}", "y".repeat(480));
        let input = json!({ "app": app(0), "image": format!("gone:{n}"), "message": message });
        world.ok("deployment_create", input).await;
    }
}

async fn decided_proposals(world: &World) {
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

async fn names_of_all_kinds(world: &World) {
    let store = &world.context.store;
    for n in 0..320 {
        world.ok("project_create", json!({ "name": format!("q{n:03}{}", "q".repeat(36)) })).await;
    }
    let groups: Vec<&str> = berth_tools::Group::ALL.iter().map(|g| g.as_str()).collect();
    for n in 0..100 {
        let name = format!("t{n:03}{}", "t".repeat(50));
        let scopes = ["read", "deploy", "write", "secrets", "admin"];
        world.ok("token_create", json!({ "name": name, "scopes": scopes, "tools": groups })).await;
        let domain = format!("d{n:03}.{}.{}.example.com", "d".repeat(60), "e".repeat(60));
        let other = format!("www.{}.{}.example.com", "d".repeat(60), "e".repeat(60));
        world.ok("domain_add", json!({ "domain": domain, "app": app(1), "redirect_to": other })).await;
    }
    for n in 0..40 {
        let zone = |z: usize| format!("z{z}.{}.{}.example", "z".repeat(60), "y".repeat(60)).parse().unwrap();
        let new = NewDnsProvider {
            name: format!("dns-{n:02}").parse().unwrap(),
            credentials: DnsCredentials::Cloudflare { api_token: "t".into() },
            zones: (0..8).map(zone).collect(),
            found: false,
            replace: false,
        };
        store.dns_providers().put(&admin(), new).await.unwrap();
    }
}

/// Grants, whose clients show the verifier and challenge of RFC 7636, appendix B.
async fn grants(world: &World) {
    let made = world.ok("token_create", json!({ "name": "owner", "scopes": ["write"] })).await;
    let owner = world.context.store.tokens().find(made["secret"].as_str().unwrap()).unwrap();
    let shown = Presented {
        client_id: "client",
        redirect_uri: Some("https://client.example/callback"),
        verifier: "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        resource: Some("https://berth.example.com/mcp"),
    };
    for _ in 0..100 {
        let approval = Approval {
            client_id: "client".into(),
            client_name: "c".repeat(200),
            redirect_uri: "https://client.example/callback".into(),
            challenge: "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM".into(),
            resource: "https://berth.example.com/mcp".into(),
            scopes: vec![Scope::Write],
            projects: Vec::new(),
            mode: TokenMode::Full,
        };
        let code = world.context.store.grants().approve(&owner, approval).await.unwrap();
        world.context.store.grants().redeem(&code, shown).await.unwrap().unwrap();
    }
}

async fn previews_and_pushes(world: &World) {
    let store = &world.context.store;
    let of = store.apps().by_slug(&Visible::All, &app(2).parse().unwrap()).await.unwrap().unwrap();
    for n in 0..100 {
        let branch = format!("b{n:03}{}", "b".repeat(240));
        let new = NewPreview {
            name: format!("preview-{n:03}").parse().unwrap(),
            otherwise: format!("preview-{n:03}-2").parse().unwrap(),
            head: branch.clone(),
            pull: None,
            fork: false,
            offer: None,
            expires_at: None,
            limit: 1000,
        };
        store.environments().ensure_preview("admin", of.id, new).await.unwrap();
        let change = GitChange::Branch { branch, before: None, commit: format!("{n:040x}") };
        let push = NewPush::new(of.id, PushOrigin::Webhook, change, PushSource::Own);
        store.pushes().receive(push).await.unwrap();
    }
}

async fn releases(world: &World) {
    let store = &world.context.store;
    world.ok("app_create", json!({ "name": "kept", "settings": { "keep_releases": 50 } })).await;
    let of = store.apps().by_slug(&Visible::All, &"kept".parse().unwrap()).await.unwrap().unwrap();
    // As many as are kept beside the one that serves. One more deployment: the pipeline, which takes them one by one,
    // is done with all before it when it takes the last.
    for n in 0..=51 {
        let input = json!({ "app": "kept", "image": format!("gone:{n}"), "message": "m".repeat(490) });
        world.ok("deployment_create", input).await;
    }
    let mut rows = Vec::new();
    for _ in 0..600 {
        rows = store.deployments().list(of.id, None, None, 100).await.unwrap();
        if rows.len() == 52 && rows.iter().all(|r| r.state.is_settled()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for row in &rows[1..] {
        let artifact = Artifact::Static { path: format!("kept/{}", row.number) };
        let variables = Snapshot { branch: None, dsn: None, variables: Vec::new() };
        let settings = AppSettings::default();
        let new = NewRelease { deployment: row.id, artifact, settings, variables, bytes: 1, maps_of: None };
        store.releases().create(new).await.unwrap();
    }
}

async fn variables(world: &World) {
    for (value, ten) in ["v", "w"].into_iter().flat_map(|value| (0..10).map(move |ten| (value, ten))) {
        let names = (0..10).map(|n| format!("{}_{ten}{n}", "N".repeat(100)));
        let some: serde_json::Map<String, Value> =
            names.map(|name| (name, value.repeat(300).into())).collect();
        world.ok("variable_set", json!({ "app": app(1), "variables": some })).await;
    }
}

/// A hundred issues, and of the first a hundred events.
async fn errors(world: &World) {
    let event = |n: usize, issue: usize| {
        let frames = json!([{ "function": format!("work_{issue}"), "filename": "a.py", "in_app": true }]);
        let kind = format!("Fault{}", "ABCDEFGHIJ".chars().nth(issue / 10).unwrap());
        let kind = format!("{kind}{}", "KLMNOPQRST".chars().nth(issue % 10).unwrap());
        let exception = json!({ "type": kind, "value": "o".repeat(400), "stacktrace": { "frames": frames } });
        json!({ "event_id": format!("{n:032x}"), "platform": "python", "exception": { "values": [exception] } })
    };
    let issues = (0..100).map(|issue| event(issue + 1, issue));
    let events: Vec<Value> = issues.chain((100..200).map(|n| event(n + 1, 0))).collect();
    world.report(&app(3), &events, 100).await;
}

/// Channels, rules that use them, and long messages that did not arrive.
async fn alerts(world: &World) {
    let alerts = world.context.store.alerts();
    let channel = |n: usize| format!("c{n:02}{}", "c".repeat(37));
    let target = ChannelTarget::Slack { url: "https://hooks.example.com/x".into() };
    for n in 0..100 {
        let name = channel(n).parse().unwrap();
        alerts.set_channel(&admin(), &name, &target, &"to@example.com, ".repeat(20), 30).await.unwrap();
    }
    let rule = |n: usize| -> AlertRule {
        let channels: Vec<String> = (0..10).map(channel).collect();
        let name = format!("a{n:02}{}", "a".repeat(37));
        serde_json::from_value(json!({ "alert": name, "when": "new_error", "channels": channels })).unwrap()
    };
    for n in 0..100 {
        alerts.set_rule(&admin(), &rule(n), None).await.unwrap();
    }
    let now = world.context.store.clock().now();
    let issue = |n: i64| (0, IssueRef { app: app(3).parse().unwrap(), number: n });
    let message = |n: usize| NewMessage {
        channel: channel(n).parse().unwrap(),
        message: json!({ "count": 50 }),
        try_at: now,
        instead_of: None,
    };
    let told = NewDelivery {
        rule: rule(0),
        issues: (1..=50).map(issue).collect(),
        messages: (0..30).map(message).collect(),
        quiet_until: now,
    };
    alerts.tell(None, &[told]).await.unwrap();
    for due in alerts.due(now, 100).await.unwrap() {
        alerts.tried(due.id, DeliveryState::Failed, Some(&"e".repeat(490)), now).await.unwrap();
    }
}

/// Requests, many of which begin in the same moment.
async fn requests(world: &World) {
    let store = &world.context.store;
    let of = store.apps().by_slug(&Visible::All, &app(0).parse().unwrap()).await.unwrap().unwrap();
    let now = store.clock().now();
    let request = |n: i64| NewRequest {
        app_id: of.id,
        at: now.plus_seconds(-60 - n / 40),
        request_id: format!("{n:032x}"),
        method: "GET".into(),
        host: format!("{}.localhost", app(0)),
        path: format!("/{}", "p".repeat(100)),
        status: 200,
        bytes_in: 0,
        bytes_out: 100,
        micros: 1000,
        app_micros: Some(900),
        release: Some(1),
        error: None,
    };
    let many: Vec<_> = (0..300).map(request).collect();
    store.requests().append(&many).await.unwrap();
}

/// What users wrote and what apps logged, which is filed with the errors that come after it.
async fn feedback(world: &World) {
    let store = &world.context.store;
    let of = store.apps().by_slug(&Visible::All, &app(3).parse().unwrap()).await.unwrap().unwrap();
    let item = |n: usize| {
        let body = json!({ "event_id": format!("{:032x}", n + 1), "comments": "f".repeat(400) }).to_string();
        let event_id = Some(format!("{:032x}", n + 1));
        ErrorItem { kind: ItemKind::UserReport, event_id, name: None, body: body.into_bytes() }
            .pack()
            .unwrap()
    };
    let request = NewIntake {
        app: of.id,
        environment: of.environment.id,
        received_at: store.clock().now(),
        items: (0..100).map(item).chain((0..100).map(|_| logged())).collect(),
        dropped: Vec::new(),
    };
    store.errors().accept(&[request]).await.unwrap();
}

fn logged() -> PackedItem {
    let body = json!({ "items": [{ "level": "info", "body": "l".repeat(200) }] }).to_string().into_bytes();
    ErrorItem { kind: ItemKind::Logs, event_id: None, name: None, body }.pack().unwrap()
}

async fn propose(world: &World, who: &Principal, n: usize) {
    let via = Via::mcp(Some(&"z".repeat(500)), None);
    let call = Call::new(Arc::clone(&world.context), who.clone()).via(via);
    let input = json!({ "name": format!("proposed-{n}") });
    world.registry.get("app_create").unwrap().call(call, input).await.unwrap_err();
}

fn lists(issue: &Value) -> Vec<List> {
    let of = |n: usize| json!({ "app": app(n) });
    let with = |list: List, input: Value| List { input, ..list };
    vec![
        list("app_list", "apps", "name", 100),
        with(list("deployment_list", "deployments", "deployment", 100), of(0)),
        list("event_list", "events", "id", 200),
        list("audit_search", "calls", "id", 200),
        with(list("proposal_list", "proposals", "proposal", 100), json!({ "state": "rejected" })),
        list("project_list", "projects", "name", 500),
        list("token_list", "tokens", "name", 500),
        list("grant_list", "grants", "grant", 500),
        with(list("domain_list", "domains", "domain", 100), of(1)),
        list("dns_provider_list", "providers", "provider", 100),
        with(list("variable_list", "variables", "name", 500), of(1)),
        with(list("variable_history", "changes", "name", 200), of(1)),
        with(list("environment_list", "environments", "name", 100), of(2)),
        with(list("push_list", "pushes", "push", 100), of(2)),
        with(list("release_list", "releases", "release", 500), json!({ "app": "kept" })),
        with(list("error_search", "issues", "issue", 100), of(3)),
        with(list("feedback_list", "feedback", "feedback", 100), of(3)),
        with(list("telemetry_list", "items", "item", 100), json!({ "app": app(3), "kind": "logs" })),
        with(list("error_event_list", "events", "event", 100), json!({ "issue": issue })),
        list("alert_list", "alerts", "alert", 500),
        list("channel_list", "channels", "channel", 500),
        with(list("request_list", "requests", "request_id", 500), of(0)),
    ]
}

/// When a list is given a cursor, it has to join the walk below; and every list is.
#[test]
fn every_list_with_a_cursor_is_walked() {
    let walked: Vec<&str> = lists(&Value::Null).iter().map(|list| list.tool).collect();
    for tool in berth_tools::registry().tools() {
        let pages = tool.output["properties"].get("next_cursor").is_some();
        let name = tool.spec.name;
        assert_eq!(pages, walked.contains(&name), "{name}");
        assert!(pages || !name.ends_with("_list"), "{name} has no cursor");
    }
}

#[tokio::test]
async fn a_model_that_pages_through_a_list_meets_every_row_once() {
    let world = World::open().await;
    deployments(&world).await;
    decided_proposals(&world).await;
    names_of_all_kinds(&world).await;
    grants(&world).await;
    previews_and_pushes(&world).await;
    releases(&world).await;
    variables(&world).await;
    feedback(&world).await;
    errors(&world).await;
    alerts(&world).await;
    requests(&world).await;
    let newest = world.ok("error_search", json!({ "app": app(3), "sort": "events", "limit": 1 })).await;
    for list in &lists(&newest["issues"][0]["issue"]) {
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

#[tokio::test]
async fn a_list_goes_on_where_it_was_when_its_last_row_is_deleted() {
    let world = World::open().await;
    world.ok("app_create", json!({ "name": "web" })).await;
    for name in ["one", "two", "three"] {
        world.ok("environment_create", json!({ "app": "web", "environment": name })).await;
    }
    let names = |page: &Value| -> Vec<String> {
        let rows = page["environments"].as_array().unwrap().iter();
        rows.map(|row| row["name"].as_str().unwrap().to_owned()).collect()
    };
    let first = world.ok("environment_list", json!({ "app": "web", "limit": 2 })).await;
    assert_eq!(names(&first), ["production", "one"]);
    let gone = json!({ "app": "web", "environment": "one", "confirm": "one" });
    let job = world.ok("environment_delete", gone).await["job"]["job"].take();
    let ended = world.ok("job_get", json!({ "job": job, "wait_s": 30 })).await;
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
    let next = json!({ "app": "web", "limit": 2, "cursor": first["next_cursor"] });
    let next = world.ok("environment_list", next).await;
    assert_eq!((names(&next), &next["next_cursor"]), (vec!["two".into(), "three".into()], &Value::Null));
}

/// The messages of a bad day do not push the rules off the page, and stand on the first only.
#[tokio::test]
async fn the_last_messages_of_alerts_leave_room_for_the_rules() {
    let world = World::open().await;
    alerts(&world).await;
    let model = async |input: Value| {
        let call = Call::new(Arc::clone(&world.context), admin()).budget(Budget::MODEL);
        world.registry.get("alert_list").unwrap().call(call, input).await.unwrap().output
    };
    let whole = world.ok("alert_list", json!({})).await;
    assert_eq!(whole["deliveries"].as_array().unwrap().len(), 20);
    let first = model(json!({})).await;
    let rows = |page: &Value, what: &str| page[what].as_array().unwrap().len();
    assert!(rows(&first, "deliveries") > 0 && rows(&first, "alerts") > 5, "{first:#}");
    let second = model(json!({ "cursor": first["next_cursor"] })).await;
    assert!(
        rows(&second, "deliveries") == 0 && rows(&second, "alerts") > rows(&first, "alerts"),
        "{second:#}"
    );
}
