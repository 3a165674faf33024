//! How a tool's REST path names input fields, and how an input becomes a request: known once, used by the
//! server, the command line, OpenAPI and the API page.

use std::fmt::Write as _;

use berth_tools::{Method, Spec};
use serde_json::{Map, Value};

/// Names of the input fields in a path, in order.
pub fn path_fields(path: &str) -> impl Iterator<Item = &str> {
    path.split('{').skip(1).filter_map(|part| part.split('}').next())
}

/// Whether fields that are not in the path travel in the query instead of a JSON body.
#[must_use]
pub fn uses_query(method: Method) -> bool {
    matches!(method, Method::Get | Method::Delete)
}

/// A request for a tool.
#[derive(Debug, PartialEq)]
pub struct Request {
    /// Path and query, encoded.
    pub target: String,
    /// The JSON body, where the method has one.
    pub body: Option<Value>,
}

/// Spreads an input over path, query and body.
///
/// # Errors
/// The name of a path field that the input lacks.
pub fn request(spec: &Spec, mut input: Map<String, Value>) -> Result<Request, String> {
    let mut target = String::new();
    for (i, part) in spec.path.split('{').enumerate() {
        let Some((field, rest)) = part.split_once('}').filter(|_| i > 0) else {
            target.push_str(part);
            continue;
        };
        let value = input.remove(field).ok_or_else(|| field.to_owned())?;
        encode(&mut target, &text(&value));
        target.push_str(rest);
    }
    if !uses_query(spec.method) {
        return Ok(Request { target, body: Some(Value::Object(input)) });
    }
    let mut separator = '?';
    for (name, value) in &input {
        let values = match value {
            Value::Array(items) => items.as_slice(),
            one => std::slice::from_ref(one),
        };
        for value in values {
            target.push(std::mem::replace(&mut separator, '&'));
            encode(&mut target, name);
            target.push('=');
            encode(&mut target, &text(value));
        }
    }
    Ok(Request { target, body: None })
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Percent-encodes all but the unreserved characters of RFC 3986.
fn encode(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// Undoes percent-encoding, and `+` where `plus` says that it means a space; none if it is not UTF-8 or a
/// sequence is broken.
#[must_use]
pub fn decode(text: &str, plus: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' if plus => out.push(b' '),
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                out.push(u8::try_from(high * 16 + low).ok()?);
            }
            other => out.push(other),
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_tools::{Hints, Tier};
    use proptest::prelude::*;
    use serde_json::json;

    fn spec(method: Method, path: &'static str) -> Spec {
        Spec {
            name: "x_get",
            title: "",
            description: "",
            hints: Hints::READ,
            scope: berth_schemas::Scope::Read,
            tier: Tier::Core,
            method,
            path,
        }
    }

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn readers_put_fields_into_path_and_query() {
        let spec = spec(Method::Get, "/v1/deployments/{deployment}/log");
        let got = request(&spec, object(json!({ "deployment": "web#42", "limit": 5, "contains": "a b&c" })))
            .unwrap();
        assert_eq!(got.target, "/v1/deployments/web%2342/log?contains=a%20b%26c&limit=5");
        assert_eq!(got.body, None);
    }

    #[test]
    fn writers_put_them_into_path_and_body() {
        let spec = spec(Method::Post, "/v1/apps/{app}/scale");
        let got = request(&spec, object(json!({ "app": "web", "replicas": 2 }))).unwrap();
        assert_eq!((got.target.as_str(), got.body), ("/v1/apps/web/scale", Some(json!({ "replicas": 2 }))));
        assert_eq!(request(&spec, Map::new()), Err("app".into()));
    }

    proptest! {
        #[test]
        fn encoding_comes_back(text in ".{0,40}") {
            let mut encoded = String::new();
            encode(&mut encoded, &text);
            prop_assert_eq!(decode(&encoded, true), Some(text));
        }

        #[test]
        fn decoding_never_panics(text in ".{0,40}") {
            let _ = decode(&text, true);
        }
    }
}
