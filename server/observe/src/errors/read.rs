//! Lenient reading of JSON that strangers wrote: every client has its own idea of what is a list, a text or a number.

use berth_schemas::Timestamp;
use serde_json::{Map, Value};

/// A text, cut to `max` bytes; numbers and truth values are texts, too. Empty ones are none.
pub(crate) fn text(value: Option<&Value>, max: usize) -> Option<String> {
    let text = match value? {
        Value::String(text) => cut(text, max).to_owned(),
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        _ => return None,
    };
    (!text.is_empty()).then_some(text)
}

/// The text of a field of an object.
pub(crate) fn field(object: &Value, key: &str, max: usize) -> Option<String> {
    text(object.get(key), max)
}

/// The beginning of a text, at most `max` bytes.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A whole number, also if it came as text or with a fraction of zero.
pub(crate) fn int(value: Option<&Value>) -> Option<i64> {
    match value? {
        Value::Number(n) => n.as_i64().or_else(|| {
            let float = n.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9e15)?;
            #[expect(clippy::cast_possible_truncation, reason = "it is whole and in range")]
            Some(float as i64)
        }),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// The members of a list, or of an object's `values`, as `exception`, `breadcrumbs` and `threads` come.
pub(crate) fn values(value: Option<&Value>) -> &[Value] {
    match value {
        Some(Value::Array(list)) => list,
        Some(Value::Object(object)) => match object.get("values") {
            Some(Value::Array(list)) => list,
            _ => &[],
        },
        _ => &[],
    }
}

/// Pairs of an object, or of a list of pairs.
pub(crate) fn pairs(value: Option<&Value>) -> Vec<(String, &Value)> {
    match value {
        Some(Value::Object(object)) => object.iter().map(|(k, v)| (k.clone(), v)).collect(),
        Some(Value::Array(list)) => list.iter().filter_map(pair).collect(),
        _ => Vec::new(),
    }
}

fn pair(value: &Value) -> Option<(String, &Value)> {
    let (key, value) = match value {
        Value::Array(pair) => (pair.first()?, pair.get(1)?),
        Value::Object(object) => (object.get("key")?, object.get("value")?),
        _ => return None,
    };
    Some((text(Some(key), 200)?, value))
}

/// A point in time: seconds since 1970 as a number or text, or RFC 3339.
pub(crate) fn time(value: Option<&Value>) -> Option<Timestamp> {
    let seconds = |s: f64| {
        let micros = s * 1e6;
        #[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
        (0.0..=4e15).contains(&micros).then_some(Timestamp(micros as i64))
    };
    match value? {
        Value::Number(n) => seconds(n.as_f64()?),
        Value::String(text) => match text.parse::<f64>() {
            Ok(number) => seconds(number),
            // Python used to leave the zone out, and meant UTC.
            Err(_) => parse_date(text).or_else(|| parse_date(&format!("{text}Z"))),
        },
        _ => None,
    }
}

fn parse_date(text: &str) -> Option<Timestamp> {
    let at: jiff::Timestamp = text.parse().ok()?;
    Some(Timestamp(at.as_microsecond())).filter(|t| t.0 >= 0)
}

/// The object behind a key.
pub(crate) fn object<'a>(value: &'a Value, key: &str) -> Option<&'a Map<String, Value>> {
    value.get(key).and_then(Value::as_object)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn forms_of_the_same_are_the_same() {
        let at = Some(Timestamp(1_700_000_000_500_000));
        for form in [
            json!(1_700_000_000.5),
            json!("1700000000.5"),
            json!("2023-11-14T22:13:20.5Z"),
            json!("2023-11-14T22:13:20.500000"),
            json!("2023-11-14T23:13:20.5+01:00"),
        ] {
            assert_eq!(time(Some(&form)), at, "{form}");
        }
        for no in [json!(null), json!("soon"), json!(-5), json!(1e300), json!([])] {
            assert_eq!(time(Some(&no)), None, "{no}");
        }
        assert_eq!(values(Some(&json!({"values": [1]}))), values(Some(&json!([1]))));
        let pair = |v: Value| pairs(Some(&v)).into_iter().map(|(k, v)| (k, v.clone())).collect::<Vec<_>>();
        assert_eq!(pair(json!({"a": 1})), pair(json!([["a", 1], [1], "x"])));
        assert_eq!(pair(json!({"a": 1})), pair(json!([{"key": "a", "value": 1}])));
        assert_eq!(
            (int(Some(&json!("7"))), int(Some(&json!(7.0))), int(Some(&json!(7.5)))),
            (Some(7), Some(7), None)
        );
        assert_eq!(cut("aé", 2), "a");
    }
}
