//! What an assistant asks for.

use serde_json::{Value, json};

use super::doors::Scene;

/// Tools that only read and are not asked, with the reason.
pub(super) const EXCUSED: [(&str, &str); 4] = [
    ("dns_provider_get", "a provider is set up by the house; its API's words are framed by its own tests"),
    (
        "proposal_get",
        "arguments and answers of a proposal come from a token of the house, and are framed whole",
    ),
    ("repository_key", "a key that Berth made, and nothing else"),
    ("tool_read", "it passes on to what is asked here"),
];

/// A call.
pub(super) struct Call {
    pub(super) arguments: Value,
    /// Whether it is to be refused: what is then offered in its place is text of strangers, too.
    pub(super) fails: bool,
}

/// The calls of a tool; none where it is not known.
pub(super) fn of(tool: &str, scene: &Scene) -> Option<Vec<Call>> {
    let apps = |more: fn(&str) -> Value| scene.apps.iter().map(|app| more(app)).collect::<Vec<_>>();
    let issues = || scene.issues.iter().map(|issue| json!({ "issue": issue })).collect::<Vec<_>>();
    let good = match tool {
        "alert_list" | "app_list" | "channel_list" | "dns_provider_list" | "domain_list" | "grant_list"
        | "platform_status" | "project_list" | "proposal_list" | "token_list" => vec![json!({})],
        "audit_search" => vec![json!({ "limit": 200 })],
        "app_get" | "deployment_list" | "dsn_get" | "environment_list" | "error_rules_get" | "log_search"
        | "push_list" | "push_rules_get" | "release_list" | "request_list" | "traffic_get"
        | "variable_export" | "variable_history" | "variable_list" => apps(|app| json!({ "app": app })),
        "deployment_get" | "deployment_log" => {
            scene.deployments.iter().map(|name| json!({ "deployment": name })).collect()
        }
        "domain_get" => vec![json!({ "domain": scene.domain })],
        "environment_get" => {
            let of = |(app, name): &(String, String)| json!({ "app": app, "environment": name });
            scene.environments.iter().map(of).collect()
        }
        "error_event_get" => scene.issues.iter().map(|i| json!({ "issue": i, "raw": true })).collect(),
        "error_event_list" | "error_get" => issues(),
        // The first that was kept.
        "error_attachment_get" => vec![json!({ "app": "web", "attachment": 1 })],
        "feedback_list" => vec![json!({}), json!({ "app": "web" })],
        "error_fields" => vec![json!({ "app": "web" })],
        "error_release_compare" => vec![json!({ "app": "web" })],
        "error_search" => vec![
            json!({ "query": "is:open" }),
            json!({ "app": "web", "query": "is:open", "facets": ["release", "transaction", "browser"] }),
        ],
        "event_list" => {
            let all = [json!({ "limit": 200 })].into_iter();
            all.chain(apps(|app| json!({ "app": app, "limit": 200 }))).collect()
        }
        "job_get" => vec![json!({ "job": scene.job })],
        "push_get" => {
            let of = |(app, push): &(String, i64)| json!({ "app": app, "push": push });
            scene.pushes.iter().map(of).collect()
        }
        "repository_get" => vec![json!({ "app": "pulls" })],
        "telemetry_list" => ["logs", "transaction", "check_in", "session"]
            .map(|kind| json!({ "app": "web", "kind": kind, "raw": true }))
            .to_vec(),
        "variable_reveal" => vec![json!({ "app": "web", "name": "PLAIN" })],
        _ => return None,
    };
    let bad = match tool {
        "error_release_compare" => vec![json!({ "app": "web", "release": "no such" })],
        "environment_get" => vec![json!({ "app": "web", "environment": "no-such" })],
        // Nearly the tag's name, which is then offered.
        "error_search" => vec![json!({ "app": "web", "query": "KANARI-kez:x" })],
        "deployment_get" => vec![json!({ "deployment": "web#999" })],
        "error_get" => vec![json!({ "issue": "WEB-ZZZ" })],
        _ => Vec::new(),
    };
    let call = |fails| move |arguments| Call { arguments, fails };
    Some(good.into_iter().map(call(false)).chain(bad.into_iter().map(call(true))).collect())
}

/// Requests that are no calls of tools.
pub(super) fn besides_tools(scene: &Scene) -> Vec<(&'static str, Value)> {
    let mut asked = vec![
        ("resources/list", json!({})),
        ("resources/templates/list", json!({})),
        ("resources/read", json!({ "uri": "berth://docs/overview" })),
        ("prompts/list", json!({})),
        ("prompts/get", json!({ "name": "why_is_it_down", "arguments": { "app": "web" } })),
    ];
    for app in &scene.apps {
        asked.push(("resources/read", json!({ "uri": format!("berth://apps/{app}") })));
    }
    for name in &scene.deployments {
        let name = name.replace('#', "%23");
        asked.push(("resources/read", json!({ "uri": format!("berth://deployments/{name}/log") })));
    }
    for issue in &scene.issues {
        asked.push(("resources/read", json!({ "uri": format!("berth://issues/{issue}") })));
    }
    for (argument, typed) in [("app", ""), ("deployment", ""), ("issue", "")] {
        let of = json!({ "type": "ref/resource", "uri": format!("berth://{argument}s/{{{argument}}}") });
        let argument = json!({ "name": argument, "value": typed });
        asked.push(("completion/complete", json!({ "ref": of, "argument": argument })));
    }
    asked
}
