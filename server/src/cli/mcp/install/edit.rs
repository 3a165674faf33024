//! One entry in a text that somebody else wrote: everything but the entry's own keys stays, to the character.

use jsonc_parser::{
    ParseOptions,
    cst::{CstInputValue, CstObject, CstRootNode},
};
use toml_edit::{Array, DocumentMut, Item, Table, TableLike, value};

/// How a client reaches Berth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// It starts a program.
    Program { command: String, args: Vec<String> },
    /// It calls a URL.
    Http { url: String },
}

impl Entry {
    /// Keys of the other way, which would contradict.
    fn contradicting(&self) -> &'static [&'static str] {
        match self {
            Self::Program { .. } => &["url", "headers", "serverUrl", "bearer_token_env_var", "http_headers"],
            Self::Http { .. } => &["command", "args"],
        }
    }
}

/// Sets `servers.name` in JSON, which may have comments; `typed` where the client wants to be told of which type it is.
pub(super) fn json(
    text: &str,
    servers: &str,
    name: &str,
    entry: &Entry,
    typed: bool,
) -> Result<String, String> {
    let options = ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    };
    let empty = text.trim().is_empty();
    let root = CstRootNode::parse(if empty { "{}\n" } else { text }, &options)
        .map_err(|e| format!("it is no JSON: {e}"))?;
    let no_object = |what: &str| format!("{what} is no object");
    let top = root.object_value_or_create().ok_or_else(|| no_object("it"))?;
    let list = top.object_value_or_create(servers).ok_or_else(|| no_object(servers))?;
    let own = list.object_value_or_create(name).ok_or_else(|| no_object(name))?;
    let string = |text: &str| CstInputValue::String(text.to_owned());
    match entry {
        Entry::Program { command, args } => {
            if typed {
                set(&own, "type", string("stdio"), &"stdio".into());
            }
            set(&own, "command", string(command), &command.as_str().into());
            let list = CstInputValue::Array(args.iter().map(|a| string(a)).collect());
            set(&own, "args", list, &args.clone().into());
        }
        Entry::Http { url } => {
            if typed {
                set(&own, "type", string("http"), &"http".into());
            }
            set(&own, "url", string(url), &url.as_str().into());
        }
    }
    for key in entry.contradicting() {
        if let Some(property) = own.get(key) {
            property.remove();
        }
    }
    Ok(root.to_string())
}

/// Sets a key, unless it has the value already: then its spelling stays.
fn set(object: &CstObject, key: &str, new: CstInputValue, same: &serde_json::Value) {
    match object.get(key) {
        Some(property) if property.to_serde_value().as_ref() == Some(same) => {}
        Some(property) => property.set_value(new),
        None => drop(object.append(key, new)),
    }
}

/// Sets `mcp_servers.name` in TOML.
pub(super) fn toml(text: &str, name: &str, entry: &Entry) -> Result<String, String> {
    let mut document: DocumentMut =
        text.parse().map_err(|e: toml_edit::TomlError| format!("it is no TOML: {}", e.message()))?;
    let implicit = || {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    };
    let servers = document.entry("mcp_servers").or_insert_with(implicit);
    let servers = servers.as_table_like_mut().ok_or("mcp_servers is no table")?;
    let own = servers.entry(name).or_insert_with(|| Item::Table(Table::new()));
    let own = own.as_table_like_mut().ok_or_else(|| format!("mcp_servers.{name} is no table"))?;
    match entry {
        Entry::Program { command, args } => {
            put(own, "command", value(command.as_str()));
            put(own, "args", value(args.iter().map(String::as_str).collect::<Array>()));
        }
        Entry::Http { url } => put(own, "url", value(url.as_str())),
    }
    for key in entry.contradicting() {
        own.remove(key);
    }
    Ok(document.to_string())
}

fn put(table: &mut dyn TableLike, key: &str, new: Item) {
    let plain = |item: &Item| item.to_string().split_whitespace().collect::<String>();
    if table.get(key).is_none_or(|old| plain(old) != plain(&new)) {
        table.insert(key, new);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json as object};

    use super::*;

    fn program() -> Entry {
        Entry::Program {
            command: "/opt/berth".into(),
            args: vec!["mcp".into(), "--context".into(), "home".into()],
        }
    }

    fn http() -> Entry {
        Entry::Http { url: "https://b.example/mcp".into() }
    }

    #[test]
    fn an_empty_file_gets_the_entry_alone() {
        let text = json("", "mcpServers", "berth", &program(), true).unwrap();
        let parsed: Value = serde_json::from_str(&text).unwrap();
        let own = object!({ "type": "stdio", "command": "/opt/berth", "args": ["mcp", "--context", "home"] });
        assert_eq!(parsed, object!({ "mcpServers": { "berth": own } }));
        let text = toml("", "berth", &program()).unwrap();
        assert_eq!(
            text,
            "[mcp_servers.berth]\ncommand = \"/opt/berth\"\nargs = [\"mcp\", \"--context\", \"home\"]\n"
        );
    }

    #[test]
    fn what_others_wrote_stays_to_the_character() {
        let before = "// top\n{\n    \"zeta\": 1, /* kept */\n    \"mcpServers\": {\n        \"other\": {\"command\":\"x\"}, // theirs\n    },\n    \"alpha\": [1,2]\n}\n";
        let after = json(before, "mcpServers", "berth", &http(), false).unwrap();
        for kept in [
            "// top\n",
            "\"zeta\": 1, /* kept */",
            "\"other\": {\"command\":\"x\"}",
            "// theirs",
            "\"alpha\": [1,2]",
        ] {
            assert!(after.contains(kept), "{kept}: {after}");
        }
        assert!(after.contains("https://b.example/mcp"), "{after}");
        assert_eq!(json(&after, "mcpServers", "berth", &http(), false).unwrap(), after);

        let before = "# mine\nmodel = \"x\" # why\n\n[mcp_servers.other]\ncommand = \"y\"\n";
        let after = toml(before, "berth", &program()).unwrap();
        assert!(after.starts_with(before), "{after}");
        assert_eq!(toml(&after, "berth", &program()).unwrap(), after);
    }

    #[test]
    fn an_entry_keeps_its_other_keys_and_loses_what_contradicts() {
        let before = r#"{ "servers": { "berth": { "command": "old", "args": [], "env": { "A": "1" } } } }"#;
        let after = json(before, "servers", "berth", &http(), true).unwrap();
        let parsed: Value = serde_json::from_str(&after).unwrap();
        let own = object!({ "type": "http", "url": "https://b.example/mcp", "env": { "A": "1" } });
        assert_eq!(parsed["servers"]["berth"], own, "{after}");
        let back = json(&after, "servers", "berth", &program(), true).unwrap();
        let parsed: Value = serde_json::from_str(&back).unwrap();
        assert_eq!(
            (&parsed["servers"]["berth"]["type"], parsed["servers"]["berth"].get("url")),
            (&object!("stdio"), None)
        );

        let before = "[mcp_servers.berth]\nurl = \"x\"\nenabled = false\n";
        let after = toml(before, "berth", &program()).unwrap();
        assert!(after.contains("enabled = false") && !after.contains("url"), "{after}");
    }
}
