//! Every capability is on every surface, and the generated files are fresh.

use std::path::{Path, PathBuf};

use berth_tools::registry;
use serde_json::{Value, json};

use crate::harness::Berth;

fn schemas() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas")
}

/// Compares a generated file with what it would be now; `BERTH_BLESS=1` writes it.
fn fresh(path: &Path, now: &Value) {
    let text = format!("{}\n", serde_json::to_string_pretty(now).unwrap());
    if std::env::var_os("BERTH_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        kept == text,
        "{} is stale; BERTH_BLESS=1 cargo nextest run -p berth surfaces writes it",
        path.display()
    );
}

#[test]
fn the_openapi_file_is_fresh() {
    fresh(&schemas().join("openapi.json"), &berth::rest::openapi::document(&registry()));
}

#[test]
fn every_tool_has_a_schema_file() {
    for tool in registry().tools() {
        let file = schemas().join(format!("tools/{}.json", tool.spec.name));
        assert!(file.is_file(), "{} is missing", file.display());
    }
}

#[test]
fn every_tool_is_an_operation_of_openapi() {
    let document = berth::rest::openapi::document(&registry());
    for tool in registry().tools() {
        let operation = &document["paths"][tool.spec.path][tool.spec.method.as_str().to_lowercase()];
        assert_eq!(operation["operationId"], tool.spec.name);
    }
    let upload = &document["paths"]["/v1/uploads"]["post"];
    assert_eq!(upload["operationId"], "upload_create");
}

#[test]
fn every_reference_of_openapi_leads_somewhere() {
    fn references(value: &Value, out: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                out.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|v| references(v, out));
            }
            Value::Array(items) => items.iter().for_each(|v| references(v, out)),
            _ => {}
        }
    }
    let document = berth::rest::openapi::document(&registry());
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference} leads out"));
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[test]
fn every_tool_is_a_command() {
    let registry = registry();
    let mut root = berth::cli::tree::command(&registry);
    root.build();
    for tool in registry.tools() {
        let (noun, verb) = berth::cli::tree::words(tool.spec.name);
        let command = root.find_subcommand(noun).and_then(|n| n.find_subcommand(verb.replace('_', "-")));
        let command = command.unwrap_or_else(|| panic!("no command for {}", tool.spec.name));
        for field in berth::schema::fields(&tool.input) {
            let there =
                command.get_arguments().any(|a| a.get_id() == berth::cli::tree::id(&field.name).as_str());
            assert!(there, "{} lacks {}", tool.spec.name, field.name);
        }
    }
}

#[test]
fn the_command_tree_is_sound() {
    berth::cli::tree::command(&registry()).debug_assert();
}

/// The command lines of a document: those of code blocks, which are whole, and those in running text, which may leave
/// out what must be given.
fn commands(document: &str) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in document.lines() {
        if line.starts_with("```") {
            inside = !inside;
        } else if inside && line.starts_with("berth ") {
            found.push((line.to_owned(), true));
        }
        // Code spans are every other piece between backticks; in a code block, those of its comments.
        found.extend(
            line.split('`')
                .skip(1)
                .step_by(2)
                .filter(|c| c.starts_with("berth "))
                .map(|c| (c.to_owned(), false)),
        );
    }
    found
}

#[test]
fn the_commands_of_the_readme_are_commands() {
    use clap::error::ErrorKind::{
        DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, MissingRequiredArgument,
    };

    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let registry = registry();
    let all = commands(&readme);
    assert!(all.iter().filter(|(_, whole)| *whole).count() > 20, "{all:#?}");
    for (line, whole) in all {
        let words = shell_words::split(&line).unwrap_or_else(|e| panic!("{line}: {e}"));
        let matches = match berth::cli::tree::command(&registry).try_get_matches_from(words) {
            Ok(matches) => matches,
            Err(e) if e.kind() == DisplayHelp => continue,
            Err(e)
                if !whole
                    && [MissingRequiredArgument, DisplayHelpOnMissingArgumentOrSubcommand]
                        .contains(&e.kind()) =>
            {
                continue;
            }
            Err(e) => panic!("{line}: {e}"),
        };
        let Some((noun, rest)) = matches.subcommand() else { continue };
        let tool = rest
            .subcommand()
            .and_then(|(verb, rest)| berth::cli::tree::find(&registry, noun, verb).map(|tool| (tool, rest)));
        if let Some((tool, rest)) = tool {
            berth::cli::input::from_matches(tool, rest).unwrap_or_else(|e| panic!("{line}: {e:?}"));
        }
    }
}

#[tokio::test]
async fn every_tool_is_reached_by_mcp() {
    let berth = Berth::without_docker().await;
    let mcp = |method: &'static str, params: Value| {
        let rest = berth.rest().header("accept", "application/json, text/event-stream");
        let rest = rest.header("mcp-protocol-version", "2025-11-25");
        async move {
            let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
            rest.post("/mcp", body).await.ok()["result"].clone()
        }
    };
    let listed = mcp("tools/list", json!({})).await;
    let listed: Vec<&str> =
        listed["tools"].as_array().unwrap().iter().filter_map(|t| t["name"].as_str()).collect();
    for tool in registry().tools() {
        if listed.contains(&tool.spec.name) {
            continue;
        }
        let found =
            mcp("tools/call", json!({ "name": "tool_search", "arguments": { "query": tool.spec.name } }))
                .await;
        assert!(found.to_string().contains(tool.spec.name), "{} is not found: {found}", tool.spec.name);
    }
}

#[tokio::test]
async fn the_pages_show_every_tool_and_load_nothing_from_elsewhere() {
    let berth = Berth::without_docker().await;
    let page = berth.anonymous().get("/docs").await;
    for tool in registry().tools() {
        assert!(page.text.contains(&format!("id=\"{}\"", tool.spec.name)), "{}", tool.spec.name);
    }
    for path in ["/", "/docs", "/v1"] {
        let page = berth.anonymous().get(path).await;
        assert_eq!(page.status, 200);
        let policy = page.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        for attribute in ["src=\"http", "href=\"http", "src=\"//", "<script>", "style=\""] {
            assert!(!page.text.contains(attribute), "{path} has {attribute}");
        }
    }
}

#[test]
fn the_status_page_calls_routes_that_exist() {
    let registry = registry();
    let script = include_str!("../../src/rest/panel/panel.js");
    for path in ["/v1/platform", "/v1/apps"] {
        assert!(script.contains(path));
        assert!(registry.tools().iter().any(|t| t.spec.path == path && t.spec.hints.read_only), "{path}");
    }
}
