//! The last guard against answers that a model cannot take in. Tools already fit their lists to the caller's
//! budget; this catches what they cannot foresee, such as one enormous message.

use berth_tools::{Part, Text};
use serde_json::Value;

/// About 8,000 tokens at 4.1 bytes each, for each of the two forms of an answer: clients show a model the one
/// or the other.
pub(crate) const LARGEST: usize = 32_800;
/// What a long string is cut to once the whole is too large.
const SHORT: usize = 1_000;

/// Most bytes of an output before its frames, which come later and take a little more.
const ROOM: usize = LARGEST - LARGEST / 10;

/// Cuts an output until it fits, and says so in the field `truncated`.
pub(crate) fn output(value: &mut Value) {
    if size(value) <= ROOM {
        return;
    }
    shorten(value);
    while size(value) > ROOM {
        match largest_array(value) {
            Some(items) => items.truncate(items.len() / 2),
            None => break,
        }
    }
    if let Value::Object(map) = value {
        map.insert("truncated".into(), true.into());
    }
}

fn size(value: &Value) -> usize {
    value.to_string().len()
}

fn shorten(value: &mut Value) {
    match value {
        Value::String(text) if text.len() > SHORT => {
            text.truncate(text.floor_char_boundary(SHORT));
            text.push('…');
        }
        Value::Array(items) => items.iter_mut().for_each(shorten),
        Value::Object(map) => map.values_mut().for_each(shorten),
        _ => {}
    }
}

/// The array with the most bytes that can still be halved.
fn largest_array(value: &mut Value) -> Option<&mut Vec<Value>> {
    match value {
        Value::Array(items) => {
            if items.len() > 1 {
                return Some(items);
            }
            items.first_mut().and_then(largest_array)
        }
        Value::Object(map) => {
            let mut found: Vec<_> = map.values_mut().filter_map(largest_array).collect();
            found.sort_by_key(|items| items.iter().map(size).sum::<usize>());
            found.pop()
        }
        _ => None,
    }
}

/// Cuts a brief until it fits.
pub(crate) fn text(text: Text) -> Text {
    let length = |part: &Part| match part {
        Part::Own(t) | Part::Quoted(t) => t.len(),
    };
    if text.parts().iter().map(length).sum::<usize>() <= LARGEST {
        return text;
    }
    let mut room = LARGEST;
    let mut cut = Text::new();
    for part in text.parts() {
        let (Part::Own(words) | Part::Quoted(words)) = part;
        let piece = &words[..words.floor_char_boundary(room.min(words.len()))];
        room -= piece.len();
        cut = match part {
            Part::Own(_) => cut.say(piece),
            Part::Quoted(_) => cut.quote(&piece.into()),
        };
        if piece.len() < words.len() {
            return cut.say("\n… cut here: ask for less with limit, or filter.");
        }
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_page_that_fits_its_budget_is_not_cut_again() {
        // What a page holds beside its rows: a cursor, a total, a few counts.
        const BESIDE: usize = 500;
        let berth_tools::Budget::Model { most, .. } = berth_tools::Budget::MODEL else { panic!() };
        assert!(most + BESIDE <= ROOM, "{most} of {ROOM}");
    }

    #[test]
    fn a_small_answer_is_left_alone() {
        let mut value = json!({ "a": [1, 2, 3] });
        output(&mut value);
        assert_eq!(value, json!({ "a": [1, 2, 3] }));
    }

    #[test]
    fn a_large_answer_says_that_it_was_cut() {
        let line = "x".repeat(100);
        let mut value =
            json!({ "lines": vec![line; 2000], "name": "y".repeat(5000), "inner": { "few": [1] } });
        output(&mut value);
        assert!(size(&value) < LARGEST);
        assert_eq!(value["truncated"], true);
        assert_eq!(value["inner"]["few"], json!([1]));
        assert!(value["lines"].as_array().unwrap().len() > 100);
    }

    #[test]
    fn a_long_brief_is_cut_between_characters() {
        let long = text(Text::from("a: ").quote(&"é".repeat(LARGEST).into()));
        let shown = long.to_string();
        assert!(shown.len() < LARGEST + 100 && shown.contains("cut here"), "{}", shown.len());
    }
}
