//! The rules that every tool keeps, and the schema files that are made from them.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may fail this way")]

use std::{collections::HashSet, fs, path::Path};

use berth_tools::{Group, Method, Registry, Tier, Tool, registry};
use serde_json::{Value, json};

fn for_each(check: impl Fn(&Tool)) {
    registry().tools().iter().for_each(check);
}

fn properties(schema: &Value) -> Vec<String> {
    schema["properties"].as_object().map(|p| p.keys().cloned().collect()).unwrap_or_default()
}

#[test]
fn names_are_nouns_with_a_verb_and_unique() {
    let registry = registry();
    let names: HashSet<_> = registry.tools().iter().map(|t| t.spec.name).collect();
    assert_eq!(names.len(), registry.tools().len());
    let titles: HashSet<_> = registry.tools().iter().map(|t| t.spec.title).collect();
    assert_eq!(titles.len(), registry.tools().len());
    for name in names {
        assert!(name.len() <= 40, "{name}");
        assert!(name.contains('_') && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
    }
}

#[test]
fn texts_are_written_for_a_new_colleague() {
    for_each(|tool| {
        let spec = tool.spec;
        assert!((4..=40).contains(&spec.title.len()), "title of {}", spec.name);
        assert!(
            (40..=500).contains(&spec.description.len()),
            "description of {}: {}",
            spec.name,
            spec.description.len()
        );
        assert!(spec.description.ends_with('.'), "{}", spec.name);
    });
}

#[test]
fn hints_agree_with_the_method_and_with_each_other() {
    for_each(|tool| {
        let spec = tool.spec;
        let hints = spec.hints;
        assert_eq!(hints.read_only, spec.method == Method::Get, "{}", spec.name);
        assert!(!(hints.read_only && hints.destructive), "{}", spec.name);
        assert!(!hints.read_only || hints.idempotent, "{}", spec.name);
        if spec.method == Method::Delete {
            assert!(hints.destructive, "{}", spec.name);
        }
    });
}

#[test]
fn what_destroys_for_good_wants_a_confirmation() {
    for_each(|tool| {
        // A variable can be set again by whoever deleted it; its value stays in the kept releases.
        if tool.spec.hints.destructive && tool.spec.name != "variable_delete" {
            let fields = properties(&tool.input);
            assert!(
                fields.contains(&"confirm".into()) && fields.contains(&"dry_run".into()),
                "{}",
                tool.spec.name
            );
        }
    });
}

#[test]
fn what_starts_a_deployment_takes_an_idempotency_key() {
    for name in ["deployment_create", "release_rollback", "app_restart"] {
        let registry = registry();
        assert!(properties(&registry.get(name).unwrap().input).contains(&"idempotency_key".into()), "{name}");
    }
}

#[test]
fn paths_are_unique_and_their_fields_are_required_inputs() {
    let mut seen = HashSet::new();
    let registry = registry();
    for tool in registry.tools() {
        let spec = tool.spec;
        assert!(seen.insert((spec.method.as_str(), spec.path)), "{} {}", spec.method.as_str(), spec.path);
        assert!(spec.path.starts_with("/v1/"), "{}", spec.name);
        let required: Vec<&str> =
            tool.input["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for field in spec.path.split('{').skip(1).filter_map(|s| s.split('}').next()) {
            assert!(required.contains(&field), "{}: {field} is no required input", spec.name);
        }
    }
}

#[test]
fn schemas_are_portable() {
    for_each(|tool| {
        let name = tool.spec.name;
        assert_eq!(tool.input["type"], "object", "{name}");
        assert_eq!(tool.output["type"], "object", "{name}");
        assert_eq!(tool.input["additionalProperties"], false, "{name}: unknown fields are refused");
        for schema in [&tool.input, &tool.output] {
            let text = schema.to_string();
            for not in ["\"null\"", "$schema", "uint", "int64", "\"not\"", "?="] {
                assert!(!text.contains(not), "{name} has {not}");
            }
        }
        for (field, schema) in tool.input["properties"].as_object().into_iter().flatten() {
            assert!(schema["description"].is_string(), "{name}.{field} has no description");
        }
    });
}

#[test]
fn a_list_takes_a_limit() {
    for_each(|tool| {
        let fields = properties(&tool.output);
        if fields.contains(&"next_cursor".into()) {
            let input = properties(&tool.input);
            assert!(
                input.contains(&"limit".into()) && input.contains(&"cursor".into()),
                "{}",
                tool.spec.name
            );
        }
        if fields.contains(&"next_after".into()) {
            let input = properties(&tool.input);
            assert!(input.contains(&"limit".into()) && input.contains(&"after".into()), "{}", tool.spec.name);
        }
    });
}

/// `/mcp?tools=…` takes groups and tools alike.
#[test]
fn a_groups_name_means_one_thing() {
    let registry = registry();
    for group in Group::ALL {
        assert_eq!(Group::parse(group.as_str()), Some(group));
        assert!(registry.get(group.as_str()).is_none());
        let tools = registry.tools().iter().filter(|t| t.group == group).count();
        assert!((1..=40).contains(&tools), "{}: {tools}", group.as_str());
    }
}

/// Assistants choose badly from long menus: more tools go to the extended tier, or take one out.
#[test]
fn the_core_tier_stays_small() {
    let registry = registry();
    let core = registry.tools().iter().filter(|t| t.spec.tier == Tier::Core).count();
    assert!(core <= 22, "{core} core tools, and tool_search, tool_read and tool_write come on top");
}

fn file(tool: &Tool) -> String {
    let spec = tool.spec;
    let value = json!({
        "name": spec.name,
        "title": spec.title,
        "description": spec.description,
        "hints": {
            "read_only": spec.hints.read_only,
            "destructive": spec.hints.destructive,
            "idempotent": spec.hints.idempotent,
            "open_world": spec.hints.open_world,
        },
        "scope": spec.scope.as_str(),
        "group": tool.group.as_str(),
        "tier": if spec.tier == Tier::Core { "core" } else { "extended" },
        "method": spec.method.as_str(),
        "path": spec.path,
        "input": tool.input,
        "output": tool.output,
    });
    format!("{value:#}\n")
}

/// The files in `schemas/tools/` are what reviews see of a changed surface.
/// `BERTH_BLESS=1 cargo nextest run -p berth-tools` rewrites them.
#[test]
fn schema_files_are_up_to_date() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/tools");
    let bless = std::env::var_os("BERTH_BLESS").is_some();
    let registry: Registry = registry();
    if bless {
        fs::create_dir_all(&dir).unwrap();
    }
    let mut there: HashSet<String> =
        fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let mut stale = Vec::new();
    for tool in registry.tools() {
        let name = format!("{}.json", tool.spec.name);
        there.remove(&name);
        let wanted = file(tool);
        if fs::read_to_string(dir.join(&name)).ok().as_deref() != Some(&wanted) {
            if bless {
                fs::write(dir.join(&name), wanted).unwrap();
            } else {
                stale.push(name);
            }
        }
    }
    for name in there {
        if bless {
            fs::remove_file(dir.join(&name)).unwrap();
        } else {
            stale.push(format!("{name} (no such tool)"));
        }
    }
    assert!(stale.is_empty(), "stale: {stale:?}; run with BERTH_BLESS=1 and look at the difference");
}
