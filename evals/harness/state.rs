//! The state of an installation as one tree, read by REST: what tasks are checked on.
//!
//! Times and ids of one moment are left out, so that two readings differ only where somebody did something. The values
//! of secrets are masked, as everywhere; when one was set is in the tree, so that setting it shows. The token of the
//! agent itself is not in it.

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::api::Api;

/// Name of the agent's token.
pub const AGENT: &str = "assistant";

/// Reads everything.
///
/// # Errors
/// When the daemon refuses a reading call.
pub async fn read(api: &Api) -> Result<Value> {
    let mut apps = Map::new();
    for summary in all(api, "app_list", json!({ "limit": 100 }), "apps").await? {
        let name = text(&summary["name"]);
        apps.insert(name.clone(), app(api, &name).await?);
    }
    let mut domains = Map::new();
    for summary in all(api, "domain_list", json!({ "limit": 100 }), "domains").await? {
        let name = text(&summary["domain"]);
        let detail = api.call("domain_get", json!({ "domain": name })).await?;
        domains.insert(name, keep(&detail, &["app", "environment", "redirect_to", "rules", "challenge"]));
    }
    let projects = api.call("project_list", json!({})).await?;
    let tokens = api.call("token_list", json!({})).await?;
    let mut tokens = named(&tokens["tokens"], "name", &["scopes", "projects", "revoked_at"]);
    tokens.as_object_mut().map(|all| all.remove(AGENT));
    let providers = all(api, "dns_provider_list", json!({}), "providers").await?;
    Ok(json!({
        "projects": named(&projects["projects"], "name", &[]),
        "apps": apps,
        "domains": domains,
        "tokens": tokens,
        "dns_providers": named(&Value::Array(providers), "provider", &["zones"]),
    }))
}

async fn app(api: &Api, name: &str) -> Result<Value> {
    let detail = api.call("app_get", json!({ "app": name })).await?;
    let mut environments = Map::new();
    for found in all(api, "environment_list", json!({ "app": name, "limit": 100 }), "environments").await? {
        let environment = text(&found["name"]);
        environments.insert(environment.clone(), self::environment(api, name, &environment, &found).await?);
    }
    let issues = json!({ "app": name, "query": "events:>0", "sort": "first_seen", "limit": 100 });
    let issues = all(api, "error_search", issues, "issues").await?;
    let listed = all(api, "deployment_list", json!({ "app": name, "limit": 100 }), "deployments").await?;
    let deployments = named(&Value::Array(listed), "deployment", &["state", "environment", "message"]);
    let pushes = all(api, "push_list", json!({ "app": name, "limit": 100 }), "pushes").await?;
    let history = json!({ "app": name, "scope": "shared" });
    let shared = api.call("variable_history", history).await?;
    let repository =
        api.call_or("repository_get", json!({ "app": name }), &["not_found", "conflict"]).await?;
    Ok(json!({
        "project": detail["project"],
        "settings": detail["settings"],
        "environments": environments,
        "deployments": deployments,
        "errors": named(&Value::Array(issues), "issue", &["state", "events", "users", "assignee", "reopens"]),
        "push_rules": api.call("push_rules_get", json!({ "app": name })).await?["rules"],
        "pushes": named(&Value::Array(pushes), "push", &["state", "deployments"]),
        "shared_versions": shared["changes"].as_array().map_or(0, Vec::len),
        "repository": repository.map(|r| keep(&r, &["git_url", "branch", "auth", "poll_minutes", "report"])),
    }))
}

async fn environment(api: &Api, app: &str, name: &str, summary: &Value) -> Result<Value> {
    let of = json!({ "app": app, "environment": name });
    let detail = api.call("app_get", of.clone()).await?;
    let variables = api.call("variable_list", of.clone()).await?;
    let traffic = api.call("traffic_get", of.clone()).await?;
    let releases = api.call("release_list", of).await?;
    let mut shown = keep(summary, &["kind", "state", "branch", "live"]);
    shown["replicas_wanted"] = detail["replicas_wanted"].clone();
    shown["changes_pending"] = detail["changes_pending"].clone();
    shown["traffic"] = keep(&traffic["traffic"], &["mode", "message"]);
    shown["releases"] =
        releases["releases"].as_array().into_iter().flatten().map(|r| r["release"].clone()).collect();
    shown["variables"] = named(
        &variables["variables"],
        "name",
        &["value", "secret", "scope", "build", "updated_at", "problem"],
    );
    Ok(shown)
}

/// Every page of a list.
async fn all(api: &Api, tool: &str, mut input: Value, field: &str) -> Result<Vec<Value>> {
    let mut found = Vec::new();
    loop {
        let page = api.call(tool, input.clone()).await?;
        found.extend(page[field].as_array().cloned().unwrap_or_default());
        match page.get("next_cursor") {
            Some(next) if next.is_string() => input["cursor"] = next.clone(),
            _ => return Ok(found),
        }
    }
}

fn keep(value: &Value, fields: &[&str]) -> Value {
    let kept = fields.iter().filter_map(|f| value.get(*f).map(|v| ((*f).to_owned(), v.clone())));
    Value::Object(kept.collect())
}

fn named(list: &Value, key: &str, fields: &[&str]) -> Value {
    let items = list.as_array().into_iter().flatten();
    Value::Object(items.map(|item| (text(&item[key]), keep(item, fields))).collect())
}

fn text(value: &Value) -> String {
    super::path::text(value)
}
