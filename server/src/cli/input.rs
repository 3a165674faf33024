//! From parsed arguments to a tool's input.

use std::{io::Read as _, path::Path};

use berth_tools::Tool;
use clap::ArgMatches;
use serde_json::{Map, Value};

use super::{failure::Failure, tree};
use crate::schema::{self, Field, Shape};

/// The input that the arguments of a generated command stand for.
///
/// # Errors
/// A usage error that names the argument.
pub fn from_matches(tool: &Tool, matches: &ArgMatches) -> Result<Map<String, Value>, Failure> {
    let mut input = Map::new();
    for field in schema::fields(&tool.input) {
        let Some(texts) = matches.get_many::<String>(&tree::id(&field.name)) else { continue };
        let texts: Vec<&str> = texts.map(String::as_str).collect();
        let value = value(tool, &field, &texts).map_err(|e| wrong(&field.name, &e))?;
        input.insert(field.name, value);
    }
    if let Some(query) = tree::searched(tool)
        && let Some(text) = matches.get_one::<String>(tree::SEARCHED)
    {
        input.insert(query.name, text.as_str().into());
    }
    if let Some(map) = tree::trailing(tool) {
        let pairs: Vec<&str> =
            matches.get_many::<String>(tree::TRAILING).into_iter().flatten().map(String::as_str).collect();
        let more = value(tool, &map, &pairs).map_err(|e| wrong(&map.name, &e))?;
        if let Value::Object(more) = more
            && !more.is_empty()
            && let Some(have) =
                input.entry(map.name).or_insert_with(|| Value::Object(Map::new())).as_object_mut()
        {
            have.extend(more);
        }
    }
    Ok(input)
}

fn wrong(field: &str, text: &str) -> Failure {
    Failure::usage(format!("--{}: {text}", tree::kebab(field)))
}

fn value(tool: &Tool, field: &Field, texts: &[&str]) -> Result<Value, String> {
    match &field.shape {
        Shape::List(items) => {
            let parts = texts.iter().flat_map(|t| t.split(',')).filter(|t| !t.is_empty());
            parts.map(|t| items.parse(t)).collect::<Result<_, _>>().map(Value::Array)
        }
        Shape::Map(values) => object(texts, |_| Some((**values).clone())).map(Value::Object),
        Shape::Json => {
            let known = schema::nested(&tool.input, &field.name);
            let shape_of = |key: &str| match known {
                Some(known) => known.get(key).map(|s| schema::shape(s, &tool.input)),
                None => Some(Shape::Json),
            };
            let object = object(texts, shape_of)?;
            Ok(Value::Object(object))
        }
        scalar => scalar.parse(texts.last().copied().unwrap_or_default()),
    }
}

/// Collects `KEY=VALUE`, `{…}` and `@FILE` into one object. `shape_of` says what a key holds; none if there is
/// no such key.
fn object(texts: &[&str], shape_of: impl Fn(&str) -> Option<Shape>) -> Result<Map<String, Value>, String> {
    let mut out = Map::new();
    for text in texts {
        if let Some(path) = text.strip_prefix('@') {
            out.extend(from_file(path, &shape_of)?);
        } else if text.starts_with('{') {
            out.extend(json_object(text)?);
        } else {
            let (key, value) = pair(text, &shape_of)?;
            out.insert(key, value);
        }
    }
    Ok(out)
}

fn pair(text: &str, shape_of: &impl Fn(&str) -> Option<Shape>) -> Result<(String, Value), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
    let shape = shape_of(key).ok_or_else(|| format!("there is no key {key:?}"))?;
    Ok((key.to_owned(), shape.parse(value).map_err(|e| format!("{key}: {e}"))?))
}

fn json_object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|e| format!("not a JSON object: {e}"))
}

/// A JSON object, or KEY=VALUE lines as `.env` files have them.
fn from_file(path: &str, shape_of: &impl Fn(&str) -> Option<Shape>) -> Result<Map<String, Value>, String> {
    let text = read(path).map_err(|e| format!("cannot read {path}: {e}"))?;
    if text.trim_start().starts_with('{') {
        return json_object(&text);
    }
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines
        .map(|line| pair(unquoted(line.strip_prefix("export ").unwrap_or(line)).as_str(), shape_of))
        .collect()
}

/// `KEY="some value"` without its quotes.
fn unquoted(line: &str) -> String {
    if let Some((key, value)) = line.split_once('=') {
        for quote in ['"', '\''] {
            if let Some(inner) = value.strip_prefix(quote).and_then(|v| v.strip_suffix(quote)) {
                return format!("{}={inner}", key.trim_end());
            }
        }
    }
    line.to_owned()
}

/// Reads a file, or standard input for `-`.
///
/// # Errors
/// When it cannot be read or is not UTF-8.
pub fn read(path: &str) -> std::io::Result<String> {
    if path != "-" {
        return std::fs::read_to_string(Path::new(path));
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pairs_json_and_env_files_come_together() {
        let dir = tempfile::tempdir().unwrap();
        let env = dir.path().join(".env");
        std::fs::write(&env, "# comment\nexport A=\"1 2\"\nB=x=y\n").unwrap();
        let file = format!("@{}", env.display());
        let text = |_: &str| Some(Shape::Text(vec![]));
        let got = object(&[&file, "{\"C\":\"3\"}", "D="], text).unwrap();
        assert_eq!(Value::Object(got), json!({ "A": "1 2", "B": "x=y", "C": "3", "D": "" }));
        assert!(object(&["A"], text).unwrap_err().contains("KEY=VALUE"));
    }

    #[test]
    fn keys_are_typed_and_checked() {
        let shape = |key: &str| (key == "port").then_some(Shape::Integer);
        assert_eq!(Value::Object(object(&["port=3000"], shape).unwrap()), json!({ "port": 3000 }));
        assert!(object(&["prot=3000"], shape).is_err());
    }
}
