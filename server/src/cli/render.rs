//! Any tool's output for people: lists as aligned tables, objects as `key: value`, times as ages.
//!
//! Nothing here knows a tool; the output's schema says what is a time, the field's name what is a size.

use std::fmt::Write as _;

use berth_schemas::Timestamp;
use serde_json::{Map, Value};

use super::term;
use crate::schema::{self, follow};

/// Longest text in a cell, in characters.
const CELL: usize = 72;

/// The output as text with colours.
#[must_use]
pub fn output(value: &Value, schema: &Value, now: Timestamp) -> String {
    let mut out = String::new();
    let page = Page { root: schema, now };
    match value.as_object() {
        Some(object) => page.object(&mut out, object, schema, 0),
        None => out.push_str(&page.cell("", value, schema)),
    }
    out
}

struct Page<'a> {
    root: &'a Value,
    now: Timestamp,
}

impl Page<'_> {
    /// Scalars first, as `key: value`; then what needs more room.
    fn object(&self, out: &mut String, object: &Map<String, Value>, schema: &Value, depth: usize) {
        let indent = "  ".repeat(depth);
        let shown = |(key, value): &(&String, &Value)| !value.is_null() && *key != "next_cursor";
        let mut fields: Vec<(&String, &Value)> = object.iter().filter(shown).collect();
        fields.sort_by_key(|(key, _)| self.rank(schema, key));
        let (small, large): (Vec<_>, Vec<_>) = fields.into_iter().partition(|(_, v)| self.is_small(v));
        // One list and some totals: a page.
        let lists_only = depth == 0 && matches!(large.as_slice(), [(_, Value::Array(_))]);
        let width = small.iter().map(|(k, _)| k.chars().count()).max().unwrap_or_default() + 1;
        let mut scalars = String::new();
        for (key, value) in small {
            let label = format!("{}:", key.replace('_', " "));
            let text = self.cell(key, value, self.property(schema, key));
            let style = term::style_of(value.as_str().unwrap_or_default());
            let _ =
                writeln!(scalars, "{indent}{m}{label:width$}{m:#} {style}{text}{style:#}", m = term::MUTED);
        }
        // A list's totals come after it.
        if !lists_only {
            out.push_str(&scalars);
        }
        let alone = large.len() == 1 && depth == 0;
        for (key, value) in large {
            self.large(out, key, value, self.property(schema, key), depth, alone && lists_only);
        }
        if lists_only {
            out.push_str(&scalars);
        }
        if let Some(cursor) = object.get("next_cursor").and_then(Value::as_str) {
            let _ = writeln!(out, "{m}more: --cursor {}{m:#}", term::safe(cursor), m = term::MUTED);
        }
    }

    fn large(&self, out: &mut String, key: &str, value: &Value, schema: &Value, depth: usize, alone: bool) {
        let indent = "  ".repeat(depth);
        if !alone {
            let _ = writeln!(out, "{indent}{h}{}{h:#}", key.replace('_', " "), h = term::HEAD);
        }
        let inner = if alone { depth } else { depth + 1 };
        match value {
            Value::Array(items) if items.iter().all(Value::is_object) => {
                let items: Vec<&Map<String, Value>> = items.iter().filter_map(Value::as_object).collect();
                self.table(out, &items, self.items(schema), inner);
            }
            Value::Array(items) => {
                for item in items {
                    let _ =
                        writeln!(out, "{}{}", "  ".repeat(inner), self.text(key, item, self.items(schema)));
                }
            }
            Value::Object(object) => self.object(out, object, follow(schema, self.root), inner),
            other => {
                for line in self.text(key, other, schema).lines() {
                    let _ = writeln!(out, "{}{line}", "  ".repeat(inner));
                }
            }
        }
    }

    fn table(&self, out: &mut String, rows: &[&Map<String, Value>], schema: &Value, depth: usize) {
        let mut columns: Vec<&str> = Vec::new();
        for key in rows.iter().flat_map(|r| r.keys()) {
            if !columns.contains(&key.as_str()) {
                columns.push(key);
            }
        }
        columns.sort_by_key(|key| self.rank(schema, key));
        let cells: Vec<Vec<(String, &str)>> = rows
            .iter()
            .map(|row| {
                let cell = |c: &&str| {
                    let value = row.get(*c).unwrap_or(&Value::Null);
                    let text = self.cell(c, value, self.property(schema, c));
                    (cut(&text), value.as_str().unwrap_or_default())
                };
                columns.iter().map(cell).collect()
            })
            .collect();
        let width = |i: usize| {
            let head = columns.get(i).map_or(0, |c| c.chars().count());
            cells.iter().filter_map(|r| r.get(i)).map(|c| c.0.chars().count()).fold(head, usize::max)
        };
        let widths: Vec<usize> = (0..columns.len()).map(width).collect();
        let indent = "  ".repeat(depth);
        let mut head = String::new();
        for (column, width) in columns.iter().zip(&widths) {
            let _ = write!(head, "{:width$}  ", column.replace('_', " ").to_uppercase());
        }
        let _ = writeln!(out, "{indent}{m}{}{m:#}", head.trim_end(), m = term::MUTED);
        for row in &cells {
            let mut line = String::new();
            for ((text, raw), width) in row.iter().zip(&widths) {
                let style = term::style_of(raw);
                let pad = " ".repeat(width.saturating_sub(text.chars().count()) + 2);
                let _ = write!(line, "{style}{text}{style:#}{pad}");
            }
            let _ = writeln!(out, "{indent}{}", line.trim_end());
        }
    }

    fn rank(&self, schema: &Value, key: &str) -> usize {
        schema::rank(follow(schema, self.root), key)
    }

    /// A value on one line.
    fn cell(&self, key: &str, value: &Value, schema: &Value) -> String {
        self.text(key, value, schema).replace('\n', " ")
    }

    fn text(&self, key: &str, value: &Value, schema: &Value) -> String {
        let schema = follow(schema, self.root);
        match value {
            Value::Null => "–".into(),
            Value::String(text) if schema.get("format").and_then(Value::as_str) == Some("date-time") => {
                match serde_json::from_value(value.clone()) {
                    Ok(at) => term::ago(at, self.now),
                    Err(_) => term::safe(text).into_owned(),
                }
            }
            Value::String(text) => term::safe(text).into_owned(),
            Value::Number(n) => match n.as_u64() {
                Some(bytes) if key == "bytes" || key.ends_with("_bytes") => term::bytes(bytes),
                Some(ms) if key == "ms" => term::span(std::time::Duration::from_millis(ms)),
                _ => n.to_string(),
            },
            Value::Bool(true) => "yes".into(),
            Value::Bool(false) => "no".into(),
            Value::Array(items) if items.is_empty() => "none".into(),
            Value::Array(items) => {
                items.iter().map(|i| self.cell(key, i, self.items(schema))).collect::<Vec<_>>().join(", ")
            }
            Value::Object(object) => {
                let mut fields: Vec<(&String, &Value)> = object.iter().collect();
                fields.sort_by_key(|(key, value)| (self.rank(schema, key), !value.is_string()));
                let parts = fields.into_iter().map(|(k, v)| {
                    let text = self.cell(k, v, self.property(schema, k));
                    // A word says what it is, a number does not.
                    let bare = !(v.is_number() || v.is_boolean());
                    if bare {
                        text
                    } else {
                        format!("{} {text}", k.trim_end_matches("_bytes").replace('_', " "))
                    }
                });
                if object.is_empty() { "none".into() } else { parts.collect::<Vec<_>>().join(" ") }
            }
        }
    }

    /// Whether a value fits beside its key.
    fn is_small(&self, value: &Value) -> bool {
        match value {
            Value::Array(items) => {
                items.len() <= 8 && items.iter().all(|i| i.as_str().map_or(!i.is_object(), |t| t.len() <= 40))
            }
            Value::Object(object) => {
                object.len() <= 3 && object.values().all(|v| !v.is_object() && !v.is_array())
            }
            Value::String(text) => !text.contains('\n'),
            _ => true,
        }
    }

    fn property<'s>(&'s self, schema: &'s Value, key: &str) -> &'s Value {
        let schema = follow(schema, self.root);
        let of = |s: &'s Value| s.get("properties").and_then(|p| p.get(key));
        // Tagged enums have their fields in one of several branches.
        let branches = schema.get("oneOf").or_else(|| schema.get("anyOf")).and_then(Value::as_array);
        of(schema)
            .or_else(|| branches.and_then(|b| b.iter().find_map(|s| of(follow(s, self.root)))))
            .unwrap_or(&Value::Null)
    }

    fn items<'s>(&'s self, schema: &'s Value) -> &'s Value {
        follow(follow(schema, self.root).get("items").unwrap_or(&Value::Null), self.root)
    }
}

fn cut(text: &str) -> String {
    if text.chars().count() <= CELL {
        return text.to_owned();
    }
    text.chars().take(CELL - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(tool: &str, value: &Value) -> String {
        let registry = berth_tools::registry();
        let schema = &registry.get(tool).unwrap().output;
        let now = "2026-01-01T00:10:00Z".parse::<jiff::Timestamp>().unwrap();
        anstream::adapter::strip_str(&output(value, schema, Timestamp(now.as_microsecond()))).to_string()
    }

    #[test]
    fn a_list_is_a_table_with_its_totals_below() {
        let page = json!({
            "apps": [
                { "name": "web", "project": "default", "state": "running", "url": "http://web.localhost", "live": "web#2",
                  "latest": { "deployment": "web#2", "state": "live", "created_at": "2026-01-01T00:00:00Z" } },
                { "name": "api", "project": "default", "state": "empty", "url": "http://api.localhost" },
            ],
            "total": 2, "next_cursor": "abc",
        });
        insta::assert_snapshot!(shown("app_list", &page), @r"
        NAME  PROJECT  STATE    URL                   LATEST                 LIVE
        web   default  running  http://web.localhost  web#2 live 10 min ago  web#2
        api   default  empty    http://api.localhost  –                      –
        total: 2
        more: --cursor abc
        ");
    }

    #[test]
    fn a_terminal_escape_in_a_message_does_nothing() {
        let page = json!({ "events": [{ "id": 1, "summary": "x\u{1b}[2Jy" }] });
        assert!(!output(&page, &Value::Null, Timestamp(0)).contains("\u{1b}[2J"));
    }
}
