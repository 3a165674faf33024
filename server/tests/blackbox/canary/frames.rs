//! What of an answer stands in a frame.

use std::collections::BTreeSet;

use serde_json::Value;

/// What every canary holds, before the name of its door.
const MARK: &str = "KANARI-";

/// Every string of an answer, the names of fields among them.
fn strings<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(items) => items.iter().for_each(|v| strings(v, found)),
        Value::Object(map) => map.iter().for_each(|(name, v)| {
            found.push(name);
            strings(v, found);
        }),
        _ => {}
    }
}

/// Notes the doors whose canary is in an answer.
pub(super) fn doors(answer: &Value, seen: &mut BTreeSet<String>) {
    let mut found = Vec::new();
    strings(answer, &mut found);
    for text in found {
        for (at, _) in text.match_indices(MARK) {
            let door = text[at + MARK.len()..].chars().take_while(|c| c.is_ascii_lowercase() || *c == '_');
            seen.insert(door.collect());
        }
    }
}

/// Strings of an answer in which a canary, or a mark that only Berth may write, stands where it must not.
pub(super) fn strays(answer: &Value) -> Vec<String> {
    let mut found = Vec::new();
    strings(answer, &mut found);
    found.into_iter().filter(|text| is_stray(text)).map(str::to_owned).collect()
}

fn is_stray(text: &str) -> bool {
    let (mut rest, mut outside) = (text, String::new());
    while let Some((before, marked)) = rest.split_once("«untrusted ") {
        outside.push_str(before);
        let Some((marker, inside)) = marked.split_once('»') else { return true };
        let Some((quote, after)) = inside.split_once(&format!("«/{marker}»")) else { return true };
        if marker.len() != 6 || marker == "000000" || quote.contains("«/") || quote.contains("«untrusted") {
            return true;
        }
        rest = after;
    }
    outside.push_str(rest);
    outside.contains(MARK) || outside.contains("«/") || text.contains('\u{202e}')
}

#[test]
fn a_canary_outside_of_a_frame_is_seen() {
    for good in ["nothing", "a «untrusted 731942»KANARI-x </000000»«/731942» b"] {
        assert!(!is_stray(good), "{good}");
    }
    for bad in [
        "KANARI-x",
        "«untrusted 731942»x«/731942» KANARI-x",
        "«untrusted 731942»x «/000000» KANARI-x«/731942»",
        "«untrusted 000000»KANARI-x«/000000»",
        "«untrusted 731942»KANARI-x",
        "«/731942»",
    ] {
        assert!(is_stray(bad), "{bad}");
    }
}
