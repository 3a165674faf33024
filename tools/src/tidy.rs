//! Makes generated JSON Schemas small and portable: single types instead of nullable unions, no integer
//! formats, no null defaults, no `$schema`, plain enums, and every type that is used once where it is used.

use serde_json::{Map, Value};

/// Tidies the schema of an input or an output.
#[must_use]
pub(crate) fn tidy(mut schema: Value) -> Value {
    if let Value::Object(root) = &mut schema {
        root.remove("$schema");
        root.remove("title");
        root.remove("description");
        walk(root);
        inline(root);
    }
    schema
}

fn walk(map: &mut Map<String, Value>) {
    drop_null(map);
    plain_enum(map);
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

/// `oneOf: [{const: a, description}, …]` → `enum: [a, …]`: the variants' names speak for themselves.
fn plain_enum(map: &mut Map<String, Value>) {
    let Some(Value::Array(choices)) = map.get("oneOf") else { return };
    let mut names = Vec::new();
    for choice in choices {
        match (choice.get("const"), choice.get("enum")) {
            (Some(name), None) => names.push(name.clone()),
            (None, Some(Value::Array(some))) => names.extend(some.iter().cloned()),
            _ => return,
        }
    }
    map.remove("oneOf");
    map.insert("type".into(), "string".into());
    map.insert("enum".into(), Value::Array(names));
}

/// Puts the definitions that are used once in place of their reference.
fn inline(root: &mut Map<String, Value>) {
    loop {
        let Some(Value::Object(definitions)) = root.get("$defs") else { return };
        let text = Value::Object(root.clone()).to_string();
        let once = definitions.iter().find(|(name, body)| {
            let reference = reference(name);
            text.matches(&reference).count() <= 1 && !body.to_string().contains(&reference)
        });
        let Some((name, body)) = once.map(|(n, b)| (n.clone(), b.clone())) else { return };
        if let Some(Value::Object(definitions)) = root.get_mut("$defs") {
            definitions.remove(&name);
            if definitions.is_empty() {
                root.remove("$defs");
            }
        }
        if let Value::Object(body) = body {
            for value in root.values_mut() {
                replace(value, &format!("#/$defs/{name}"), &body);
            }
        }
    }
}

/// The reference to a definition as it stands in the schema's text.
fn reference(name: &str) -> String {
    format!("\"$ref\":\"#/$defs/{name}\"")
}

fn replace(value: &mut Value, reference: &str, body: &Map<String, Value>) {
    match value {
        Value::Object(map) => {
            if map.get("$ref").and_then(Value::as_str) == Some(reference) {
                map.remove("$ref");
                for (key, value) in body {
                    // What is said at the place of use counts more than what is said of the type.
                    map.entry(key.clone()).or_insert_with(|| value.clone());
                }
            } else {
                map.values_mut().for_each(|v| replace(v, reference, body));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|v| replace(v, reference, body)),
        _ => {}
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
            super::tidy(schema),
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

    #[test]
    fn what_is_used_once_stands_where_it_is_used() {
        let schema = json!({
            "type": "object",
            "properties": {
                "a": { "$ref": "#/$defs/Once", "description": "here" },
                "b": { "$ref": "#/$defs/Twice" },
                "c": { "type": "array", "items": { "$ref": "#/$defs/Twice" } }
            },
            "$defs": {
                "Once": { "oneOf": [{ "const": "x", "description": "X" }, { "const": "y" }], "description": "type" },
                "Twice": { "type": "object" }
            }
        });
        assert_eq!(
            super::tidy(schema),
            json!({
                "type": "object",
                "properties": {
                    "a": { "type": "string", "enum": ["x", "y"], "description": "here" },
                    "b": { "$ref": "#/$defs/Twice" },
                    "c": { "type": "array", "items": { "$ref": "#/$defs/Twice" } }
                },
                "$defs": { "Twice": { "type": "object" } }
            })
        );
    }
}
