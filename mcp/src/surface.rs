//! Which tools a caller is shown.
//!
//! By default the core tier and three tools that reach the rest: a list that fits a model's attention. The
//! endpoint's URL changes that, see [`View`]. What a token's scopes do not allow is never shown. The list
//! depends on nothing else, so that clients and prompt caches can keep it.

use berth_store::model::Principal;
use berth_tools::{Hints, Registry, Tier, Tool};
use rmcp::model::{Tool as McpTool, ToolAnnotations};
use serde_json::{Map, Value, json};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    detail,
    view::{View, is_harmless},
};

/// Names of the tools that exist on MCP only.
pub(crate) const SEARCH: &str = "tool_search";
pub(crate) const READ: &str = "tool_read";
pub(crate) const WRITE: &str = "tool_write";

/// The tool that reaches one which is not in the list.
pub(crate) fn gateway_to(tool: &Tool) -> &'static str {
    if is_harmless(tool) { READ } else { WRITE }
}

/// The tools of a registry as MCP describes them, made once: their schemas are shared by every list.
pub(crate) struct Descriptions {
    tools: HashMap<&'static str, McpTool>,
    /// Those of the core tier that say of a large field only in which other tool of that tier it stands.
    short: HashMap<&'static str, McpTool>,
    gateways: Vec<McpTool>,
}

impl Descriptions {
    /// Describes all tools.
    pub(crate) fn of(registry: &Registry) -> Self {
        let tools = registry.tools().iter().map(|t| (t.spec.name, describe(t, detail::input(t)))).collect();
        let core = registry.tools().iter().filter(|t| t.spec.tier == Tier::Core);
        Self { tools, short: say_once(core), gateways: gateways().into() }
    }

    fn of_tool(&self, name: &str, view: &View) -> Option<McpTool> {
        let short = self.short.get(name).filter(|_| view.is_core_alone());
        short.or_else(|| self.tools.get(name)).cloned()
    }
}

/// Bytes from which on the schema of a field is not repeated in the list of core tools.
const LARGE: usize = 1000;

/// Describes the tools whose large fields stand in one before them, by that one's name.
fn say_once<'t>(tools: impl Iterator<Item = &'t Tool>) -> HashMap<&'static str, McpTool> {
    let mut said: HashMap<String, &'static str> = HashMap::new();
    let mut short = HashMap::new();
    for tool in tools {
        let mut input = detail::input(tool);
        let mut repeats = false;
        for (name, field) in input["properties"].as_object_mut().into_iter().flatten() {
            let description = field["description"].as_str().unwrap_or_default().to_owned();
            let mut bare = field.clone();
            bare.as_object_mut().map(|map| map.remove("description"));
            let bare = bare.to_string();
            if bare.len() < LARGE {
                continue;
            }
            match said.get(&bare) {
                None => drop(said.insert(bare, tool.spec.name)),
                Some(other) => {
                    let description = format!("{description} Its fields are those of {name} in {other}.");
                    *field = json!({ "type": field["type"], "description": description });
                    repeats = true;
                }
            }
        }
        if repeats {
            short.insert(tool.spec.name, describe(tool, input));
        }
    }
    short
}

/// The list for this caller and URL, sorted by name.
pub(crate) fn list(
    registry: &Registry,
    descriptions: &Descriptions,
    view: &View,
    principal: &Principal,
) -> Vec<McpTool> {
    let shown = registry.tools().iter().filter(|t| view.shows(t) && t.permits(principal).is_ok());
    let mut tools: Vec<McpTool> = shown.filter_map(|t| descriptions.of_tool(t.spec.name, view)).collect();
    let reached =
        registry.tools().iter().filter(|t| view.reaches(t) && !view.shows(t) && t.permits(principal).is_ok());
    let through: HashSet<&str> = reached.map(gateway_to).chain([SEARCH]).collect();
    let ways =
        descriptions.gateways.iter().filter(|t| view.shows_gateway(&t.name) && through.contains(&*t.name));
    tools.extend(ways.cloned());
    tools.sort_by(|a, b| a.name.cmp(&b.name));
    tools
}

fn describe(tool: &Tool, input: Value) -> McpTool {
    let spec = tool.spec;
    McpTool::new(spec.name, spec.description, object(without_patterns(input)))
        .with_title(spec.title)
        .with_raw_output_schema(object(outline(&tool.output)))
        .with_annotations(annotations(spec.hints))
}

/// A schema without the patterns of names: a model takes names from lists, and one that is wrong is answered with the
/// rule and with candidates. They would take a tenth of the list's budget.
fn without_patterns(mut schema: Value) -> Value {
    match &mut schema {
        Value::Object(map) => {
            map.remove("pattern").filter(|p| !p.is_string()).map(|field| map.insert("pattern".into(), field));
            map.values_mut().for_each(|v| *v = without_patterns(v.take()));
        }
        Value::Array(list) => list.iter_mut().for_each(|v| *v = without_patterns(v.take())),
        _ => {}
    }
    schema
}

fn object(schema: Value) -> Arc<Map<String, Value>> {
    match schema {
        Value::Object(map) => Arc::new(map),
        _ => Arc::default(),
    }
}

fn annotations(hints: Hints) -> ToolAnnotations {
    ToolAnnotations::new()
        .read_only(hints.read_only)
        .destructive(hints.destructive)
        .idempotent(hints.idempotent)
        .open_world(hints.open_world)
}

/// The top level of an output's schema: names and types. The whole would take two thirds of the list's budget
/// and tell a model little that the answer does not; it is in `schemas/tools/`. Nothing is required, because
/// a problem answers in place of the output.
fn outline(output: &Value) -> Value {
    let fields = output["properties"].as_object().into_iter().flatten();
    let fields: Map<String, Value> =
        fields.map(|(name, schema)| (name.clone(), kind(output, schema, true))).collect();
    json!({ "type": "object", "properties": fields })
}

fn kind(root: &Value, schema: &Value, items: bool) -> Value {
    if let Some(target) = schema["$ref"].as_str().and_then(|r| root.pointer(r.strip_prefix('#')?)) {
        return kind(root, target, items);
    }
    match schema["type"].as_str() {
        Some("array") if items => json!({ "type": "array", "items": kind(root, &schema["items"], false) }),
        Some(kind) => json!({ "type": kind }),
        None if schema["oneOf"].is_array() || schema["properties"].is_object() => json!({ "type": "object" }),
        None => json!({}),
    }
}

/// The tools that reach those which are not in the list.
fn gateways() -> [McpTool; 3] {
    let call = |what: &str| {
        object(json!({
            "type": "object",
            "properties": {
                "name": { "type": "string", "description": format!("Name of {what}, as tool_search returned it.") },
                "arguments": { "type": "object", "description": "Its input, as its schema in tool_search says." }
            },
            "required": ["name"],
            "additionalProperties": false
        }))
    };
    [
        McpTool::new(
            SEARCH,
            "Find tools that are not in this list: domains, environments, errors, repositories, traffic, projects, access tokens, the event log (who did what), revealing variables, freeing disk space. Returns name, description and input schema of the best matches.",
            object(json!({
                "type": "object",
                "properties": {
                    "query": { "type": "string", "description": "What you want to do, in a few words." },
                    "limit": { "type": "integer", "minimum": 1, "maximum": 10, "description": "At most this many. Default 4." }
                },
                "required": ["query"],
                "additionalProperties": false
            })),
        )
        .with_title("Find more tools")
        .with_raw_output_schema(object(json!({ "type": "object", "properties": { "tools": { "type": "array", "items": { "type": "object" } } } })))
        .with_annotations(annotations(Hints::READ)),
        McpTool::new(READ, "Call a tool that only reads, found with tool_search.", call("a reading tool"))
            .with_title("Call a reading tool")
            .with_annotations(annotations(Hints::READ)),
        McpTool::new(
            WRITE,
            "Call a tool that changes or destroys something or reveals a secret, found with tool_search. Destructive ones take dry_run and want confirm.",
            call("a tool that changes something"),
        )
        .with_title("Call a changing tool")
        .with_annotations(annotations(Hints { read_only: false, destructive: true, idempotent: false, open_world: true })),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_schemas::Scope;
    use berth_store::model::Visible;

    fn principal(scopes: &[Scope]) -> Principal {
        Principal::new("test", scopes.to_vec(), Visible::All)
    }

    fn view(query: &str) -> View {
        View::of(Some(query), &berth_tools::registry()).unwrap()
    }

    fn names(query: &str, scopes: &[Scope]) -> Vec<String> {
        let registry = berth_tools::registry();
        let list = list(&registry, &Descriptions::of(&registry), &view(query), &principal(scopes));
        list.iter().map(|t| t.name.to_string()).collect()
    }

    #[test]
    fn the_default_list_is_the_core_tier_and_three_gateways() {
        let names = names("", &[Scope::Admin]);
        assert_eq!(names.len(), 25, "{names:?}");
        assert!(names.is_sorted());
        for there in ["deployment_create", SEARCH, READ, WRITE] {
            assert!(names.iter().any(|n| n == there), "{there}");
        }
        assert!(!names.iter().any(|n| n == "token_create"));
    }

    #[test]
    fn the_url_narrows_and_widens_the_list() {
        let readers = names("read_only=1", &[Scope::Admin]);
        assert!(
            readers.iter().any(|n| n == READ) && !readers.iter().any(|n| n == WRITE || n == "app_delete")
        );
        assert_eq!(names("tools=event_list,app_get", &[Scope::Admin]), ["app_get", "event_list"]);
        assert_eq!(names("tools=event_list%2Capp_delete&read_only=1", &[Scope::Admin]), ["event_list"]);
        assert!(!names("tools=all&read_only=1", &[Scope::Admin]).contains(&"variable_reveal".into()));
        assert_eq!(names("tools=all", &[Scope::Admin]).len(), berth_tools::registry().tools().len());
    }

    #[test]
    fn a_token_sees_what_it_may_do() {
        let reader = names("tools=all", &[Scope::Read]);
        assert!(reader.contains(&"app_get".into()));
        for hidden in ["app_create", "deployment_create", "variable_reveal", "token_list"] {
            assert!(!reader.iter().any(|n| n == hidden), "{hidden}");
        }
        assert!(!names("tools=deploy,domains", &[Scope::Read]).iter().any(|n| n.ends_with("_create")));
        let default = names("", &[Scope::Read]);
        assert!(default.contains(&READ.into()) && !default.contains(&WRITE.into()), "{default:?}");
    }

    #[test]
    fn a_problem_agrees_with_every_outline() {
        // Clients check structured content against the schema also when it is an error.
        let registry = berth_tools::registry();
        for tool in registry.tools() {
            let outline = outline(&tool.output);
            assert_eq!(outline.get("required"), None);
            let problem = &outline["properties"]["problem"];
            assert!(problem.is_null() || problem["type"] == "object", "{}", tool.spec.name);
        }
    }

    #[test]
    fn what_is_not_repeated_stands_in_the_tool_that_is_named() {
        let registry = berth_tools::registry();
        let descriptions = Descriptions::of(&registry);
        assert!(!descriptions.short.is_empty());
        let settings = |list: &[McpTool], tool: &str| {
            let tool = list.iter().find(|t| t.name == tool).unwrap();
            tool.input_schema["properties"]["settings"].clone()
        };
        let core = list(&registry, &descriptions, &View::default(), &principal(&[Scope::Admin]));
        let (whole, short) = (settings(&core, "app_create"), settings(&core, "app_update"));
        assert!(whole["properties"]["port"].is_object() && short["properties"].is_null());
        assert!(short["description"].as_str().unwrap().ends_with("settings in app_create."), "{short}");
        let alone = list(&registry, &descriptions, &view("tools=app_update"), &principal(&[Scope::Admin]));
        assert!(settings(&alone, "app_update")["properties"]["port"].is_object());
    }

    /// What a client puts before a model costs attention and money with every message. 4.1 bytes a token is
    /// what two public tokenizers make of this JSON.
    #[test]
    fn the_list_fits_its_budget() {
        let registry = berth_tools::registry();
        let list =
            list(&registry, &Descriptions::of(&registry), &View::default(), &principal(&[Scope::Admin]));
        let bytes = serde_json::to_string(&list).unwrap().len();
        let tokens = bytes * 10 / 41;
        println!("{} tools, {bytes} bytes, about {tokens} tokens", list.len());
        assert!(tokens <= 8_000, "{tokens} tokens in {} tools", list.len());
        assert!(list.len() <= 25);
        each_is_at_most(6_000, &list);
        let all = super::list(
            &registry,
            &Descriptions::of(&registry),
            &view("tools=all"),
            &principal(&[Scope::Admin]),
        );
        each_is_at_most(8_000, &all);
    }

    /// Bytes of JSON, as they travel.
    fn each_is_at_most(bytes: usize, list: &[McpTool]) {
        for tool in list {
            let size = serde_json::to_string(tool).unwrap().len();
            assert!(size <= bytes, "{}: {size} bytes, {bytes} at most", tool.name);
        }
    }
}
