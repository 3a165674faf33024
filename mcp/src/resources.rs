//! Resources: what a person attaches to a conversation. Each is a view of a tool, so that visibility and
//! framing are those of the tool.

use rmcp::model::{Resource, ResourceTemplate};
use serde_json::{Value, json};

/// How Berth works, for assistants and people.
pub(crate) const OVERVIEW: &str = include_str!("overview.md");
const OVERVIEW_URI: &str = "berth://docs/overview";

/// The tool whose answer an issue is.
const ISSUE: &str = "error_get";

/// What a URI stands for.
#[derive(Debug, PartialEq)]
pub(crate) enum Named {
    /// The overview.
    Overview,
    /// The answer of a tool.
    Tool(&'static str, Value),
}

pub(crate) fn list() -> Vec<Resource> {
    vec![
        Resource::new(OVERVIEW_URI, "overview")
            .with_title("How Berth works")
            .with_description("The words, the life of a deployment, and which tool to use when.")
            .with_mime_type("text/markdown"),
    ]
}

pub(crate) fn templates() -> Vec<ResourceTemplate> {
    vec![
        ResourceTemplate::new("berth://apps/{app}", "app")
            .with_title("An app")
            .with_description("State, URLs, replicas, settings and deployments of an app.")
            .with_mime_type("application/json"),
        ResourceTemplate::new("berth://deployments/{deployment}/log", "deployment_log")
            .with_title("A deployment's log")
            .with_description(
                "The last lines of a deployment's log; web%2342 is the deployment web#42, web the newest.",
            )
            .with_mime_type("application/json"),
        ResourceTemplate::new("berth://issues/{issue}", "issue")
            .with_title("An error issue")
            .with_description(
                "What broke and where, since when, how often, and which release brought it: WEB-7K.",
            )
            .with_mime_type("application/json"),
    ]
}

/// Reads a URI.
pub(crate) fn parse(uri: &str) -> Option<Named> {
    if uri == OVERVIEW_URI {
        return Some(Named::Overview);
    }
    let path = uri.strip_prefix("berth://")?;
    match path.split('/').collect::<Vec<_>>().as_slice() {
        ["apps", app] if !app.is_empty() => Some(Named::Tool("app_get", json!({ "app": app }))),
        ["deployments", which, "log"] if !which.is_empty() => {
            // The number sign begins a fragment in URIs, so that templates encode it.
            let which = which.replace("%23", "#");
            Some(Named::Tool("deployment_log", json!({ "deployment": which })))
        }
        ["issues", issue] if !issue.is_empty() => Some(Named::Tool(ISSUE, json!({ "issue": issue }))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_name_tools() {
        assert_eq!(parse("berth://docs/overview"), Some(Named::Overview));
        let log = Named::Tool("deployment_log", json!({ "deployment": "web#42" }));
        assert_eq!(parse("berth://deployments/web%2342/log"), Some(log));
        assert_eq!(parse("berth://apps/web"), Some(Named::Tool("app_get", json!({ "app": "web" }))));
        let issue = Named::Tool("error_get", json!({ "issue": "WEB-7K" }));
        assert_eq!(parse("berth://issues/WEB-7K"), Some(issue));
        for not in ["berth://issues/", "berth://apps/", "berth://apps/a/b", "file:///etc/passwd", "berth://"]
        {
            assert_eq!(parse(not), None, "{not}");
        }
    }

    #[test]
    fn every_template_leads_to_a_tool_and_its_input() {
        let registry = berth_tools::registry();
        for template in templates() {
            let uri = template.uri_template.replace(['{', '}'], "");
            let Some(Named::Tool(tool, input)) = parse(&uri) else { panic!("{uri}") };
            let known = &registry.get(tool).unwrap().input["properties"];
            assert!(input.as_object().unwrap().keys().all(|field| known[field].is_object()), "{uri}");
        }
    }

    #[test]
    fn the_overview_names_only_tools_that_exist() {
        let registry = berth_tools::registry();
        let names: Vec<&str> = OVERVIEW.split('`').skip(1).step_by(2).collect();
        for noun in ["app_", "deployment_", "domain_", "error_", "event_", "log_", "request_", "tool_"] {
            for name in names.iter().filter(|n| n.starts_with(noun)) {
                let gateway = ["tool_search", "tool_read", "tool_write"].contains(name);
                assert!(gateway || registry.get(name).is_some(), "{name}");
            }
        }
        assert!(names.contains(&"domain_add") && names.contains(&"error_get"));
    }

    #[test]
    fn every_resource_that_is_listed_can_be_read() {
        for resource in list() {
            assert!(parse(&resource.uri).is_some(), "{}", resource.uri);
        }
        assert!(OVERVIEW.len() < 8_000);
    }
}
