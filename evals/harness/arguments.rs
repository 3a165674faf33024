//! Arguments made from a tool's input schema: some that fit, and some that are wrong in one known way.

use serde_json::{Map, Value, json};

/// Chance that is the same at every run (splitmix64).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Dice with a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 if `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.roll() % u64::try_from(n.max(1)).unwrap_or(1)).unwrap_or(0)
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len()))
    }
}

/// Names that a stranger might try.
const NAMES: &[&str] = &["shop", "web", "api", "production", "staging", "wiki", "nothing", "shop#1"];

/// An input that fits a schema, as far as a schema says it.
#[must_use]
pub fn random(schema: &Value, dice: &mut Dice) -> Value {
    random_at(schema, schema, dice, 0)
}

/// An input with what a schema demands and no more.
#[must_use]
pub fn least(schema: &Value) -> Value {
    least_of(schema, schema)
}

fn least_of(root: &Value, schema: &Value) -> Value {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut dice = Dice::new(7);
    let fields = required
        .iter()
        .map(|name| ((*name).to_owned(), random_at(root, &schema["properties"][*name], &mut dice, 2)));
    Value::Object(fields.collect())
}

fn random_at(root: &Value, schema: &Value, dice: &mut Dice, depth: usize) -> Value {
    if let Some(target) = schema["$ref"].as_str().and_then(|r| root.pointer(r.trim_start_matches('#'))) {
        return random_at(root, target, dice, depth + 1);
    }
    if let Some(choice) = schema["enum"].as_array().and_then(|all| dice.pick(all)) {
        return choice.clone();
    }
    if let Some(choice) = schema["oneOf"].as_array().and_then(|all| dice.pick(all)) {
        return random_at(root, choice, dice, depth + 1);
    }
    if let Some(fixed) = schema.get("const") {
        return fixed.clone();
    }
    match schema["type"].as_str() {
        Some("object") => {
            let required: Vec<&str> =
                schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let mut map = Map::new();
            for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
                if required.contains(&name.as_str()) || (depth < 2 && dice.below(3) == 0) {
                    map.insert(name.clone(), random_at(root, inner, dice, depth + 1));
                }
            }
            Value::Object(map)
        }
        Some("array") if depth > 4 => json!([]),
        Some("array") => json!([random_at(root, &schema["items"], dice, depth + 1)]),
        Some("integer") => {
            let least = schema["minimum"].as_i64().unwrap_or(0);
            let most = schema["maximum"].as_i64().unwrap_or(least + 100);
            let range = usize::try_from(most.saturating_sub(least)).unwrap_or(0) + 1;
            json!(least.saturating_add(i64::try_from(dice.below(range)).unwrap_or(0)))
        }
        Some("number") => json!(schema["minimum"].as_f64().unwrap_or(1.0)),
        Some("boolean") => json!(dice.below(2) == 0),
        _ => json!(dice.pick(NAMES)),
    }
}

const A_NUMBER: &str = "a number";
const LISTS: &str = "a list of lists";

/// An input that is wrong in one way.
#[derive(Debug, Clone)]
pub struct Wrong {
    /// What was done to it.
    pub how: String,
    /// The field that a refusal must name.
    pub field: String,
    /// The input.
    pub input: Value,
    /// Whether it is no longer wrong where everything is text, as in a query: there 7 is a text, too.
    pub right_as_text: bool,
}

/// How deep objects within objects are looked into.
const DEEPEST: usize = 3;

/// Every way to be wrong that a schema rules out, made from an input that is right, also within its objects and lists of
/// objects. Each must be refused, with its field named.
#[must_use]
pub fn wrong(schema: &Value, right: &Value) -> Vec<Wrong> {
    wrong_in(schema, schema, right, 0)
}

fn wrong_in(root: &Value, schema: &Value, right: &Value, depth: usize) -> Vec<Wrong> {
    let mut found = wrong_here(root, schema, right);
    if depth == DEEPEST {
        return found;
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let inner = resolved(root, inner);
        let list = inner["type"] == "array";
        let within = if list { resolved(root, &inner["items"]) } else { inner };
        let variants = within["oneOf"].as_array().map_or_else(|| vec![within], |all| all.iter().collect());
        let there = if list { &right[name][0] } else { &right[name] };
        for variant in variants.into_iter().map(|v| resolved(root, v)).filter(|v| v["properties"].is_object())
        {
            let fits = there.is_object() && is_variant(variant, there);
            let right_within = if fits { there.clone() } else { least_of(root, variant) };
            for inner in wrong_in(root, variant, &right_within, depth + 1) {
                let mut input = right.clone();
                if let Some(map) = input.as_object_mut() {
                    map.insert(name.clone(), if list { json!([inner.input]) } else { inner.input });
                }
                found.push(Wrong { how: format!("{name}.{}", inner.how), input, ..inner });
            }
        }
    }
    found
}

fn resolved<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    schema["$ref"].as_str().and_then(|r| root.pointer(r.trim_start_matches('#'))).unwrap_or(schema)
}

/// Whether a value has the fixed words by which this variant is told from its siblings.
fn is_variant(variant: &Value, value: &Value) -> bool {
    let fields = variant["properties"].as_object().into_iter().flatten();
    fields
        .filter_map(|(name, inner)| Some((name, inner.get("const")?)))
        .all(|(name, word)| value[name] == *word)
}

fn wrong_here(root: &Value, schema: &Value, right: &Value) -> Vec<Wrong> {
    let mut found = Vec::new();
    let mut add = |how: &str, field: &str, value: Option<Value>| {
        let shape = resolved(root, &schema["properties"][field]);
        let texts = shape["type"] == "string" || shape["items"]["type"] == "string";
        let free =
            shape["pattern"].is_null() && shape["enum"].is_null() && shape["items"]["pattern"].is_null();
        let right_as_text = texts && free && matches!(how, A_NUMBER | LISTS);
        let mut input = right.clone();
        match (input.as_object_mut(), value) {
            (Some(map), Some(value)) => drop(map.insert(field.to_owned(), value)),
            (Some(map), None) => drop(map.remove(field)),
            _ => {}
        }
        found.push(Wrong { how: format!("{field}: {how}"), field: field.to_owned(), input, right_as_text });
    };
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        add("left out", name, None);
    }
    if schema["additionalProperties"] == false {
        add("unknown", "no_such_field", Some(json!(1)));
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let inner = resolved(root, inner);
        let number = matches!(inner["type"].as_str(), Some("integer" | "number"));
        match inner["type"].as_str() {
            Some("string") => add(A_NUMBER, name, Some(json!(7))),
            Some("integer" | "number" | "boolean") => add("a text", name, Some(json!("seven"))),
            Some("array") => add(A_NUMBER, name, Some(json!(7))),
            Some("object") => add("a text", name, Some(json!("seven"))),
            _ => {}
        }
        if inner["type"].is_string() {
            add(LISTS, name, Some(json!([[[]]])));
        }
        if inner["enum"].is_array() || inner["const"].is_string() {
            add("none of its values", name, Some(json!("no_such_value")));
        }
        if number && inner["maximum"].is_number() {
            add("too large", name, Some(json!(inner["maximum"].as_f64().map_or(0, |m| m as i64 + 1))));
        }
        if number && inner["minimum"].as_f64().is_some_and(|m| m >= 0.0) {
            add("negative", name, Some(json!(-1)));
        }
        if inner["pattern"].is_string() {
            for (how, text) in [
                ("a path", "../../etc/passwd".to_owned()),
                ("empty", String::new()),
                ("too long", "a".repeat(5000)),
                ("with control characters", "sh\u{0}op\u{1b}[2J".to_owned()),
                ("in another script", "ѕһор".to_owned()),
                ("a command", "shop; rm -rf /".to_owned()),
            ] {
                add(how, name, Some(json!(text)));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_inputs_differ_from_the_right_one_in_their_field() {
        let schema = json!({
            "type": "object", "required": ["app"],
            "properties": {
                "app": { "type": "string", "pattern": "^[a-z]+$" },
                "limit": { "type": "integer", "minimum": 1, "maximum": 9 },
                "kind": { "type": "string", "enum": ["a", "b"] }
            }
        });
        let right = json!({ "app": "shop" });
        let all = wrong(&schema, &right);
        assert!(all.len() > 14, "{}", all.len());
        for one in &all {
            assert_ne!(one.input, right, "{}", one.how);
            let mut without = one.input.clone();
            without.as_object_mut().unwrap().remove(&one.field);
            let mut right = right.clone();
            right.as_object_mut().unwrap().remove(&one.field);
            assert_eq!(without, right, "{}", one.how);
        }
    }

    #[test]
    fn wrong_inputs_are_made_within_objects_and_lists_of_them() {
        let schema = json!({
            "type": "object", "required": ["name"], "additionalProperties": false,
            "properties": {
                "name": { "type": "string" },
                "target": { "oneOf": [
                    { "type": "object", "required": ["kind", "url"], "additionalProperties": false,
                      "properties": { "kind": { "const": "web" }, "url": { "type": "string" } } },
                    { "type": "object", "required": ["kind"], "additionalProperties": false,
                      "properties": { "kind": { "const": "none" } } }
                ] },
                "rules": { "type": "array", "items": { "$ref": "#/$defs/rule" } }
            },
            "$defs": { "rule": { "type": "object", "additionalProperties": false, "required": ["age"],
                                 "properties": { "age": { "type": "integer", "minimum": 1 } } } }
        });
        let right = json!({ "name": "x", "target": { "kind": "web", "url": "http://x" } });
        let all = wrong(&schema, &right);
        let made = |how: &str| all.iter().find(|w| w.how == how).unwrap_or_else(|| panic!("{how}: {all:#?}"));
        assert_eq!(made("target.url: left out").input, json!({ "name": "x", "target": { "kind": "web" } }));
        let other = json!({ "name": "x", "target": { "kind": "none", "no_such_field": 1 } });
        assert!(all.iter().any(|w| w.input == other), "{all:#?}");
        let rules = made("rules.age: negative");
        assert_eq!((&rules.input["rules"], rules.field.as_str()), (&json!([{ "age": -1 }]), "age"));
    }

    #[test]
    fn the_same_seed_has_the_same_inputs() {
        let schema = json!({ "type": "object", "required": ["n"], "properties": { "n": { "type": "integer", "minimum": 1, "maximum": 50 } } });
        let inputs =
            |seed: u64| (0..5).map(|i| random(&schema, &mut Dice::new(seed + i))).collect::<Vec<_>>();
        assert_eq!(inputs(1), inputs(1));
        assert_ne!(inputs(1), inputs(100));
        assert!(inputs(1).iter().all(|v| (1..=50).contains(&v["n"].as_i64().unwrap())));
    }
}
