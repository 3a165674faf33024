//! Two sizes of an answer. What a model seldom needs is marked in the output's schema with `x-detail`; the
//! concise answer, which is the usual one, comes without it, and `response_format="detailed"` brings it back.
//! Programs that call by REST always get everything.

use std::collections::BTreeSet;

use berth_schemas::Problem;
use berth_tools::Tool;
use serde_json::{Map, Value, json};

use crate::frame::Places;

/// The argument that every tool takes here, beside its own.
const FIELD: &str = "response_format";
/// The keyword that marks a field of an output.
const KEYWORD: &str = "x-detail";

/// How much an answer holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Format {
    /// What is mostly wanted.
    #[default]
    Concise,
    /// Everything.
    Detailed,
}

impl Format {
    /// Takes the wish out of a call's input.
    ///
    /// # Errors
    /// When it is neither of the two.
    pub(crate) fn take(input: &mut Value) -> Result<Self, Problem> {
        match input.as_object_mut().and_then(|map| map.remove(FIELD)) {
            None | Some(Value::Null) => Ok(Self::default()),
            Some(Value::String(s)) if s == "concise" => Ok(Self::Concise),
            Some(Value::String(s)) if s == "detailed" => Ok(Self::Detailed),
            Some(_) => Err(Problem::invalid(FIELD, "response_format must be \"concise\" or \"detailed\".")),
        }
    }
}

/// Where an output holds details.
pub(crate) fn places(output: &Value) -> Places {
    Places::marked(output, KEYWORD)
}

/// A tool's input as a model sees it: with the wish for details, if it reads and has some.
pub(crate) fn input(tool: &Tool) -> Value {
    let mut input = tool.input.clone();
    let details = places(&tool.output);
    let names: BTreeSet<&str> = details.names().collect();
    if tool.spec.hints.read_only
        && !names.is_empty()
        && let Some(fields) = input["properties"].as_object_mut()
    {
        let names = names.into_iter().collect::<Vec<_>>().join(", ");
        let field = json!({
            "type": "string",
            "enum": ["concise", "detailed"],
            "description": format!("Default concise; detailed adds {names}."),
        });
        fields.insert(FIELD.into(), field);
    }
    input
}

/// What `whole` has and `short` does not, in the same shape.
pub(crate) fn beyond(whole: &Value, short: &Value) -> Option<Value> {
    match (whole, short) {
        (Value::Object(whole), Value::Object(short)) => {
            let more = whole.iter().filter_map(|(key, value)| match short.get(key) {
                None => Some((key.clone(), value.clone())),
                Some(left) => beyond(value, left).map(|more| (key.clone(), more)),
            });
            let more: Map<String, Value> = more.collect();
            (!more.is_empty()).then(|| more.into())
        }
        (Value::Array(whole), Value::Array(short)) => {
            let more: Vec<Option<Value>> = whole.iter().zip(short).map(|(w, s)| beyond(w, s)).collect();
            let some = more.iter().any(Option::is_some);
            some.then(|| more.into_iter().map(|m| m.unwrap_or_else(|| json!({}))).collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_and_what_stays_make_the_whole() {
        let schema = json!({ "properties": {
            "name": { "type": "string" },
            "uuid": { "type": "string", "x-detail": true },
            "parts": { "type": "array", "items": { "$ref": "#/$defs/Part" } }
        }, "$defs": { "Part": { "properties": { "id": { "x-detail": true }, "state": {} } } } });
        let whole =
            json!({ "name": "a", "uuid": "u", "parts": [{ "id": 1, "state": "up" }, { "state": "down" }] });
        let mut short = whole.clone();
        places(&schema).remove_from(&mut short);
        assert_eq!(short, json!({ "name": "a", "parts": [{ "state": "up" }, { "state": "down" }] }));
        let more = beyond(&whole, &short).unwrap();
        assert_eq!(more, json!({ "uuid": "u", "parts": [{ "id": 1 }, {}] }));
        assert_eq!(beyond(&short, &short), None);
    }

    #[test]
    fn the_wish_is_checked_and_taken_out() {
        let mut input = json!({ "app": "web", "response_format": "detailed" });
        assert_eq!(Format::take(&mut input), Ok(Format::Detailed));
        assert_eq!(input, json!({ "app": "web" }));
        assert_eq!(Format::take(&mut input), Ok(Format::Concise));
        assert!(Format::take(&mut json!({ "response_format": "long" })).is_err());
    }

    #[test]
    fn readers_with_details_offer_them_and_others_do_not() {
        let registry = berth_tools::registry();
        let offer = |name: &str| input(registry.get(name).unwrap())["properties"][FIELD].clone();
        let described = offer("deployment_get")["description"].as_str().unwrap().to_owned();
        assert!(described.contains("plan, steps"), "{described}");
        for none in ["deployment_create", "project_list"] {
            assert!(offer(none).is_null(), "{none}");
        }
        for tool in registry.tools() {
            assert!(tool.input["properties"][FIELD].is_null(), "{} has the field itself", tool.spec.name);
        }
    }
}
