//! What a tool's JSON Schema says about its fields, in the few shapes that REST, the command line and the
//! API page need: what to ask for, and how to read it from text.

use serde_json::{Map, Number, Value};

/// What a field holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// Text; with the words it must be one of, if it is a choice.
    Text(Vec<String>),
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// true or false.
    Boolean,
    /// Several of these.
    List(Box<Shape>),
    /// Names chosen by the caller, each with one of these.
    Map(Box<Shape>),
    /// Fields known by name, or anything else: given as JSON.
    Json,
}

/// A field of an object.
#[derive(Debug, Clone)]
pub struct Field {
    /// Its name on the wire.
    pub name: String,
    /// What it holds.
    pub shape: Shape,
    /// What it means.
    pub description: String,
    /// Whether it must be given.
    pub required: bool,
}

/// The fields of a tool's input, the required ones first in the order of their type.
#[must_use]
pub fn fields(root: &Value) -> Vec<Field> {
    let Some(properties) = root.get("properties").and_then(Value::as_object) else { return Vec::new() };
    let mut fields: Vec<Field> = properties
        .iter()
        .map(|(name, schema)| Field {
            name: name.clone(),
            shape: shape(schema, root),
            description: description(schema, root),
            required: rank(root, name) != usize::MAX,
        })
        .collect();
    fields.sort_by_key(|f| rank(root, &f.name));
    fields
}

/// Where a field stands among those that are always there, which schemas list in the order of their type;
/// optional ones come after.
#[must_use]
pub fn rank(schema: &Value, name: &str) -> usize {
    let required = schema.get("required").and_then(Value::as_array);
    required.and_then(|r| r.iter().position(|v| v == name)).unwrap_or(usize::MAX)
}

/// The properties of a field that is an object with known fields, such as settings.
#[must_use]
pub fn nested<'a>(root: &'a Value, field: &str) -> Option<&'a Map<String, Value>> {
    let schema = follow(root.get("properties")?.get(field)?, root);
    schema.get("properties")?.as_object()
}

/// What a schema holds.
#[must_use]
pub fn shape(schema: &Value, root: &Value) -> Shape {
    let schema = follow(schema, root);
    let words = words(schema);
    if !words.is_empty() {
        return Shape::Text(words);
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("string") => Shape::Text(Vec::new()),
        Some("integer") => Shape::Integer,
        Some("number") => Shape::Number,
        Some("boolean") => Shape::Boolean,
        Some("array") => {
            let items = schema.get("items").map_or(Shape::Text(Vec::new()), |i| shape(i, root));
            Shape::List(Box::new(items))
        }
        Some("object") if schema.get("properties").is_none() => map_values(schema, root),
        _ => Shape::Json,
    }
}

/// What a map's values hold: said by `additionalProperties`, or by `patternProperties` where the keys have a
/// grammar.
fn map_values(schema: &Value, root: &Value) -> Shape {
    let by_pattern =
        schema.get("patternProperties").and_then(Value::as_object).and_then(|p| p.values().next());
    match by_pattern.or_else(|| schema.get("additionalProperties").filter(|a| a.is_object())) {
        Some(values) => Shape::Map(Box::new(shape(values, root))),
        None => Shape::Json,
    }
}

/// The words that a choice allows, from `enum` or from a `oneOf` of constants.
fn words(schema: &Value) -> Vec<String> {
    let texts = |v: &Value| v.as_str().map(str::to_owned);
    if let Some(list) = schema.get("enum").and_then(Value::as_array) {
        return list.iter().filter_map(texts).collect();
    }
    let Some(choices) = schema.get("oneOf").and_then(Value::as_array) else { return Vec::new() };
    let mut out = Vec::new();
    for choice in choices {
        if let Some(word) = choice.get("const").and_then(texts) {
            out.push(word);
        } else if let Some(list) = choice.get("enum").and_then(Value::as_array) {
            out.extend(list.iter().filter_map(texts));
        } else {
            return Vec::new();
        }
    }
    out
}

/// Follows references into `$defs`, a few at most: schemas of ours do not nest them deeper.
#[must_use]
pub fn follow<'a>(mut schema: &'a Value, root: &'a Value) -> &'a Value {
    for _ in 0..8 {
        let Some(target) = schema.get("$ref").and_then(Value::as_str) else { break };
        let Some(found) = target.strip_prefix("#/").and_then(|p| root.pointer(&format!("/{p}"))) else {
            break;
        };
        schema = found;
    }
    schema
}

fn description(schema: &Value, root: &Value) -> String {
    let of = |s: &Value| s.get("description").and_then(Value::as_str).map(str::to_owned);
    // Doc comments are wrapped for the source; here a paragraph is one line.
    of(schema).or_else(|| of(follow(schema, root))).unwrap_or_default().replace('\n', " ")
}

impl Shape {
    /// Reads one text as a value of this shape.
    ///
    /// # Errors
    /// Says what the text must be.
    pub fn parse(&self, text: &str) -> Result<Value, String> {
        match self {
            // The tool itself names the words of a choice; here only the type is settled.
            Self::Text(_) => Ok(Value::String(text.to_owned())),
            Self::Integer => text
                .parse::<i64>()
                .map(|n| Value::Number(n.into()))
                .map_err(|_| format!("{text:?} is not a whole number")),
            Self::Number => text
                .parse::<f64>()
                .ok()
                .and_then(Number::from_f64)
                .map(Value::Number)
                .ok_or_else(|| format!("{text:?} is not a number")),
            Self::Boolean => match text {
                "true" | "1" => Ok(Value::Bool(true)),
                "false" | "0" => Ok(Value::Bool(false)),
                _ => Err(format!("{text:?} is neither true nor false")),
            },
            Self::List(items) => text
                .split(',')
                .filter(|t| !t.is_empty())
                .map(|t| items.parse(t))
                .collect::<Result<_, _>>()
                .map(Value::Array),
            Self::Map(_) | Self::Json => {
                serde_json::from_str(text).map_err(|e| format!("{text:?} is not JSON: {e}"))
            }
        }
    }

    /// What to write in its place in a usage line.
    #[must_use]
    pub fn placeholder(&self) -> &'static str {
        match self {
            Self::Text(words) if words.is_empty() => "TEXT",
            Self::Text(_) => "WORD",
            Self::Integer => "N",
            Self::Number => "NUMBER",
            Self::Boolean => "true|false",
            Self::List(items) => items.placeholder(),
            Self::Map(_) => "KEY=VALUE",
            Self::Json => "JSON",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemars::{JsonSchema, generate::SchemaSettings};

    #[derive(serde::Deserialize, JsonSchema)]
    #[expect(dead_code, reason = "only its schema is looked at")]
    struct Input {
        app: berth_schemas::AppSlug,
        limit: Option<u32>,
        level: Option<berth_schemas::log::Level>,
        scopes: Vec<berth_schemas::Scope>,
        variables: std::collections::BTreeMap<berth_schemas::VariableName, String>,
        files: Option<std::collections::BTreeMap<String, String>>,
        settings: berth_schemas::app::AppSettings,
    }

    fn input() -> Value {
        SchemaSettings::draft2020_12()
            .for_deserialize()
            .into_generator()
            .into_root_schema_for::<Input>()
            .into()
    }

    #[test]
    fn shapes_are_read_from_generated_schemas() {
        let mut root = input();
        root["properties"]["limit"]["type"] = "integer".into();
        let shape = |name: &str| fields(&root).into_iter().find(|f| f.name == name).map(|f| f.shape).unwrap();
        assert_eq!(shape("app"), Shape::Text(vec![]));
        assert_eq!(shape("limit"), Shape::Integer);
        assert!(
            matches!(shape("scopes"), Shape::List(s) if matches!(&*s, Shape::Text(w) if w.contains(&"deploy".into())))
        );
        assert_eq!(shape("variables"), Shape::Map(Box::new(Shape::Text(vec![]))));
        assert_eq!(shape("settings"), Shape::Json);
        assert!(nested(&root, "settings").unwrap().contains_key("health_path"));
    }

    #[test]
    fn texts_become_typed_values() {
        assert_eq!(Shape::Integer.parse("20"), Ok(20.into()));
        assert!(Shape::Integer.parse("2.5").is_err());
        assert_eq!(Shape::List(Box::new(Shape::Integer)).parse("1,2"), Ok(serde_json::json!([1, 2])));
        assert!(Shape::Boolean.parse("yes").is_err());
    }
}
