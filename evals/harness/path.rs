//! Places in JSON, written as `apps/shop/environments/0/live`.
//!
//! A step is a field's name, an index of a list, `name=shop` (the first item of a list whose field has that value; `latest.state=failed` looks into a field), `*`
//! (every item or value, which makes a list of what the rest finds), `*state=running` (all items of a list whose field has
//! that value, as a list) or `#` (how many there are). Names may hold dots, as
//! those of domains do; none of Berth's holds a slash.

use serde_json::Value;

/// What stands at a place; none if there is nothing.
#[must_use]
pub fn at(value: &Value, path: &str) -> Option<Value> {
    let steps: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    walk(value, &steps)
}

fn walk(value: &Value, steps: &[&str]) -> Option<Value> {
    let Some((step, rest)) = steps.split_first() else { return Some(value.clone()) };
    match (*step, value) {
        ("#", Value::Array(items)) => Some(items.len().into()),
        ("#", Value::Object(map)) => Some(map.len().into()),
        ("*", Value::Array(items)) => Some(items.iter().filter_map(|v| walk(v, rest)).collect()),
        (step, Value::Array(items)) if step.starts_with('*') => {
            let (field, wanted) = step.strip_prefix('*')?.split_once('=')?;
            let found = items.iter().filter(|v| text(inner(v, field)) == wanted).cloned().collect();
            walk(&Value::Array(found), rest)
        }
        ("*", Value::Object(map)) => Some(map.values().filter_map(|v| walk(v, rest)).collect()),
        (step, Value::Object(map)) => walk(map.get(step)?, rest),
        (step, Value::Array(items)) => {
            let item = match step.split_once('=') {
                Some((field, wanted)) => items.iter().find(|v| text(inner(v, field)) == wanted),
                None => items.get(step.parse::<usize>().ok()?),
            };
            walk(item?, rest)
        }
        _ => None,
    }
}

/// A field of an item; dots lead into fields of fields.
fn inner<'v>(item: &'v Value, field: &str) -> &'v Value {
    field.split('.').fold(item, |value, name| &value[name])
}

/// A value as a person would write it: text without quotes, the rest as JSON.
#[must_use]
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Places at which two values differ, each as deep as it can be told.
#[must_use]
pub fn differences(before: &Value, after: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare(before, after, "", &mut found);
    found
}

fn compare(before: &Value, after: &Value, path: &str, found: &mut Vec<String>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
    match (before, after) {
        (Value::Object(a), Value::Object(b)) => {
            let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for name in names {
                match (a.get(name), b.get(name)) {
                    (Some(a), Some(b)) => compare(a, b, &below(name), found),
                    _ => found.push(below(name)),
                }
            }
        }
        _ if before != after => found.push(path.to_owned()),
        _ => {}
    }
}

/// Whether a place lies at or below `root`.
#[must_use]
pub fn within(path: &str, root: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn places_are_found_by_name_index_field_and_number() {
        let value = json!({ "domains": { "a.example": { "app": "shop" } }, "list": [{ "name": "x", "n": 1 }, { "name": "y", "n": 2, "deep": { "er": 1 } }] });
        for (path, wanted) in [
            ("domains/a.example/app", json!("shop")),
            ("list/1/n", json!(2)),
            ("list/name=y/n", json!(2)),
            ("list/*/n", json!([1, 2])),
            ("list/#", json!(2)),
            ("list/*name=y/#", json!(1)),
            ("list/*name=y/*/n", json!([2])),
            ("list/deep.er=1/name", json!("y")),
            ("domains/#", json!(1)),
        ] {
            assert_eq!(at(&value, path), Some(wanted), "{path}");
        }
        assert_eq!(at(&value, "list/name=z/n"), None);
        assert_eq!(at(&value, "list/9"), None);
    }

    #[test]
    fn a_difference_is_told_as_deep_as_it_is() {
        let before = json!({ "a": { "b": 1, "c": [1] }, "d": 1 });
        let after = json!({ "a": { "b": 2, "c": [1] }, "e": 1 });
        assert_eq!(differences(&before, &after), ["a/b", "d", "e"]);
        assert!(within("a/b", "a") && within("a", "a") && !within("ab", "a"));
    }
}
