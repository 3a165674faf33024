//! From JSON to a tool's typed input, with an error that names what is wrong.

use berth_schemas::{Code, Problem};
use schemars::{JsonSchema, generate::SchemaSettings};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::tidy;

/// The schema of an input, as clients get it.
pub(crate) fn schema<I: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().for_deserialize();
    tidy::tidy(settings.into_generator().into_root_schema_for::<I>().into())
}

/// Reads an input.
///
/// # Errors
/// `InvalidInput` with the path of the field that is wrong.
pub(crate) fn parse<I: DeserializeOwned + JsonSchema>(input: &Value) -> Result<I, Problem> {
    let empty = Value::Object(serde_json::Map::new());
    let input = if input.is_null() { &empty } else { input };
    serde_path_to_error::deserialize(input).map_err(|e| {
        let text = e.inner().to_string();
        let place = e.path().to_string();
        // What is missing or unknown stands in the text and mostly not in the path.
        let named = ["missing field `", "unknown field `"].iter().find_map(|p| text.strip_prefix(p));
        let named = named.and_then(|rest| rest.split('`').next());
        let field = match (place.as_str(), named) {
            (".", named) => named.map(str::to_owned),
            (place, Some(named)) if place != named && !place.ends_with(&format!(".{named}")) => {
                Some(format!("{place}.{named}"))
            }
            (place, Some(_)) => Some(place.to_owned()),
            (place, None) => Some(deeper(&schema::<I>(), input, place)),
        };
        let said = match &field {
            Some(field) if named != Some(field) => format!("{field}: {text}"),
            _ => text.clone(),
        };
        Problem { field, ..Problem::new(Code::InvalidInput, format!("The input is not valid: {said}.")) }
    })
}

/// The reader of a value that may have one of several forms loses its way there: where the schema knows better, the path
/// of what does not fit.
fn deeper(schema: &Value, input: &Value, place: &str) -> String {
    let found = misfit(schema, schema, input, "");
    found.filter(|f| f.starts_with(&format!("{place}."))).unwrap_or_else(|| place.to_owned())
}

fn misfit(root: &Value, schema: &Value, value: &Value, path: &str) -> Option<String> {
    let schema =
        schema["$ref"].as_str().and_then(|r| root.pointer(r.trim_start_matches('#'))).unwrap_or(schema);
    if let Some(variants) = schema["oneOf"].as_array() {
        let variant = variants.iter().find(|v| is_variant(v, value))?;
        return misfit(root, variant, value, path);
    }
    let fits = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("number") => value.is_number(),
        Some("integer") => value.is_i64() || value.is_u64(),
        _ => true,
    };
    let bound = |name: &str| schema[name].as_f64().zip(value.as_f64());
    let listed = schema["enum"].as_array().is_none_or(|all| all.contains(value));
    let within = bound("minimum").is_none_or(|(least, v)| v >= least)
        && bound("maximum").is_none_or(|(most, v)| v <= most);
    if !fits || !listed || !within {
        return Some(path.to_owned());
    }
    let fields = value.as_object().into_iter().flatten().filter_map(|(name, inner)| {
        let at = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        misfit(root, schema["properties"].get(name)?, inner, &at)
    });
    let items = value.as_array().into_iter().flatten().enumerate();
    let items = items.filter_map(|(i, item)| misfit(root, &schema["items"], item, &format!("{path}[{i}]")));
    fields.chain(items).next()
}

/// Whether the fixed words by which a variant is told from its siblings are there.
fn is_variant(variant: &Value, value: &Value) -> bool {
    let words = variant["properties"].as_object().into_iter().flatten();
    let mut words = words.filter_map(|(name, inner)| Some((name, inner.get("const")?))).peekable();
    words.peek().is_some() && words.all(|(name, word)| value[name] == *word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_schemas::{alert::ChannelSet, app::AppUpdate, variable::VariableSet};
    use serde_json::json;

    fn problem<I: DeserializeOwned + JsonSchema + std::fmt::Debug>(
        input: &Value,
    ) -> (Option<String>, String) {
        let problem = parse::<I>(input).unwrap_err();
        (problem.field, problem.detail)
    }

    #[test]
    fn a_wrong_input_is_told_by_its_field() {
        for (input, field) in [
            (json!({}), "app"),
            (json!({ "app": 5 }), "app"),
            (json!({ "app": "Not a name" }), "app"),
            (json!({ "app": "web", "limt": 1 }), "limt"),
            (json!({ "app": "web", "redeploy": "yes" }), "redeploy"),
            (json!({ "app": "web", "scope": "nowhere" }), "scope"),
            (json!({ "app": "web", "variables": { "A": 5 } }), "variables.A"),
        ] {
            let (found, detail) = problem::<VariableSet>(&input);
            assert_eq!(found.as_deref(), Some(field), "{input}: {detail}");
            assert!(detail.contains(field), "{detail}");
        }
        let (found, detail) = problem::<AppUpdate>(&json!({ "app": "web", "settings": { "prot": 80 } }));
        assert_eq!(found.as_deref(), Some("settings.prot"), "{detail}");
        let (found, _) = problem::<AppUpdate>(&json!({ "app": "web", "settings": { "port": "http" } }));
        assert_eq!(found.as_deref(), Some("settings.port"));
    }

    #[test]
    fn within_one_of_several_forms_the_field_is_named_too() {
        for (target, field) in [
            (json!({ "kind": "slack", "url": 7 }), "target.url"),
            (json!({ "kind": "slack" }), "target.url"),
            (json!({ "kind": "slack", "url": "https://x", "colour": 1 }), "target.colour"),
            (json!({ "kind": "email", "smtp_host": "a", "from": "b", "to": [7] }), "target.to[0]"),
            (
                json!({ "kind": "email", "smtp_host": "a", "from": "b", "to": [], "smtp_port": 65_536 }),
                "target.smtp_port",
            ),
            (
                json!({ "kind": "email", "smtp_host": "a", "from": "b", "to": [], "security": "ssl" }),
                "target.security",
            ),
            (json!({ "kind": "pigeon" }), "target.kind"),
        ] {
            let (found, detail) = problem::<ChannelSet>(&json!({ "channel": "office", "target": target }));
            assert_eq!(found.as_deref(), Some(field), "{target}: {detail}");
        }
    }
}
