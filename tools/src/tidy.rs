//! Makes generated JSON Schemas small and portable: single types instead of nullable unions, no integer
//! formats, no null defaults, no `$schema`.

use serde_json::{Map, Value};

/// Tidies the schema of an input.
#[must_use]
pub fn input(schema: Value) -> Value {
    tidy(schema, true)
}

/// Tidies the schema of an output.
#[must_use]
pub fn output(schema: Value) -> Value {
    tidy(schema, true)
}

fn tidy(mut schema: Value, root: bool) -> Value {
    if let Value::Object(map) = &mut schema {
        if root {
            map.remove("$schema");
            map.remove("title");
        }
        walk(map);
    }
    schema
}

fn walk(map: &mut Map<String, Value>) {
    drop_null(map);
    if map.get("default").is_some_and(Value::is_null) {
        map.remove("default");
    }
    if map.get("format").and_then(Value::as_str).is_some_and(|f| f != "date-time") {
        map.remove("format");
    }
    for (key, value) in map.iter_mut() {
        match (key.as_str(), value) {
            // Examples and constants are data, not schemas.
            ("default" | "const" | "enum" | "examples", _) => {}
            ("properties" | "$defs", Value::Object(named)) => {
                for schema in named.values_mut() {
                    if let Value::Object(schema) = schema {
                        walk(schema);
                    }
                }
            }
            (_, Value::Object(inner)) => walk(inner),
            (_, Value::Array(items)) => {
                for item in items {
                    if let Value::Object(item) = item {
                        walk(item);
                    }
                }
            }
            _ => {}
        }
    }
}

/// `["string","null"]` → `"string"`, and `anyOf: [X, null]` → `X`: an absent field says the same.
fn drop_null(map: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = map.get_mut("type") {
        types.retain(|t| t != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            map.insert("type".into(), only);
        }
    }
    if let Some(Value::Array(choices)) = map.get_mut("anyOf") {
        choices.retain(|c| c.get("type").and_then(Value::as_str) != Some("null"));
        if let [Value::Object(only)] = choices.as_slice() {
            let only = only.clone();
            map.remove("anyOf");
            for (key, value) in only {
                map.entry(key).or_insert(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn optional_fields_have_one_type() {
        let schema = json!({
            "$schema": "x", "title": "T", "type": "object",
            "properties": {
                "a": { "type": ["string", "null"], "default": null },
                "b": { "anyOf": [{ "type": "string", "enum": ["x"] }, { "type": "null" }], "description": "d" },
                "format": { "type": "integer", "format": "uint32" }
            }
        });
        assert_eq!(
            super::input(schema),
            json!({
                "type": "object",
                "properties": {
                    "a": { "type": "string" },
                    "b": { "type": "string", "enum": ["x"], "description": "d" },
                    "format": { "type": "integer" }
                }
            })
        );
    }
}
