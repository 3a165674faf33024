//! Completing names: what a token could list, and nothing else.

use berth_schemas::Scope;
use berth_store::model::Principal;
use serde_json::{Value, json};

use crate::{Endpoint, admin};

impl Endpoint {
    /// What is offered for what was typed.
    async fn completed(&self, who: &Principal, argument: &str, typed: &str) -> Vec<String> {
        let reference = match argument {
            "app" => json!({ "type": "ref/prompt", "name": "why_is_it_down" }),
            "deployment" => json!({ "type": "ref/resource", "uri": "berth://deployments/{deployment}/log" }),
            _ => json!({ "type": "ref/resource", "uri": "berth://issues/{issue}" }),
        };
        let params = json!({ "ref": reference, "argument": { "name": argument, "value": typed } });
        let mut answer = self.ask(who.clone(), "", "completion/complete", params).await;
        serde_json::from_value(answer["result"]["completion"]["values"].take()).unwrap()
    }

    async fn token(&self, input: Value) -> Principal {
        let made = self.world.ok("token_create", input).await;
        self.world.context.store.tokens().find(made["secret"].as_str().unwrap()).unwrap()
    }
}

/// An event of an issue of its own.
fn event(id: usize, kind: &str) -> Value {
    let exception = json!({ "type": kind, "value": "it broke" });
    json!({ "event_id": format!("{id:032x}"), "platform": "python", "exception": { "values": [exception] } })
}

#[tokio::test]
async fn a_completion_names_only_what_the_token_could_list() {
    let endpoint = Endpoint::open().await;
    let world = &endpoint.world;
    for (project, app) in [("red", "web"), ("blue", "wiki")] {
        world.ok("project_create", json!({ "name": project })).await;
        world.ok("app_create", json!({ "name": app, "project": project })).await;
    }
    world.report("web", &[event(1, "KeyError"), event(2, "TypeError")], 2).await;
    world.report("wiki", &[event(3, "IndexError")], 1).await;

    // Names of apps are typed in lower case, those of issues in any.
    let all = endpoint.completed(&admin(), "issue", "w").await;
    assert_eq!(all.len(), 3, "{all:?}");
    assert!(
        all.iter().any(|i| i.starts_with("WIKI-")) && all.iter().any(|i| i.starts_with("WEB-")),
        "{all:?}"
    );
    let one = all.iter().find(|i| i.starts_with("WIKI-")).unwrap();
    assert_eq!(endpoint.completed(&admin(), "issue", one).await, [one.as_str()]);
    assert_eq!(endpoint.completed(&admin(), "issue", "nope").await, [""; 0]);
    for argument in ["app", "deployment"] {
        assert_eq!(endpoint.completed(&admin(), argument, "w").await, ["web", "wiki"]);
        assert_eq!(endpoint.completed(&admin(), argument, "we").await, ["web"]);
    }

    let red = endpoint.token(json!({ "name": "red", "projects": ["red"], "scopes": ["admin"] })).await;
    for argument in ["app", "deployment"] {
        assert_eq!(endpoint.completed(&red, argument, "").await, ["web"]);
    }
    let issues = endpoint.completed(&red, "issue", "").await;
    assert!(issues.len() == 2 && issues.iter().all(|i| i.starts_with("WEB-")), "{issues:?}");

    // A token that could not list them by a tool gets none: neither by its tools nor by its scopes.
    let tools = ["error_get", "deployment_get", "app_get", "log_search"];
    let narrow = endpoint.token(json!({ "name": "narrow", "scopes": ["admin"], "tools": tools })).await;
    let blind = crate::somebody("blind", &[] as &[Scope]);
    for who in [&narrow, &blind] {
        for argument in ["app", "deployment", "issue"] {
            assert_eq!(endpoint.completed(who, argument, "").await, [""; 0], "{argument} for {}", who.name);
        }
    }
    let errors = endpoint.token(json!({ "name": "errors", "scopes": ["read"], "tools": ["errors"] })).await;
    assert_eq!(endpoint.completed(&errors, "issue", "").await.len(), 3);
    assert_eq!(endpoint.completed(&errors, "app", "").await, [""; 0]);
}
