//! The envelope: a line of JSON, then items, each a line of JSON and a payload.
//!
//! The grammar is Sentry's (develop.sentry.dev, "Envelopes"). Clients differ in what they leave out, so everything that
//! can be understood is: an item without a length ends at its line's end, empty lines between items mean nothing, an
//! item of an unknown kind is an item. What makes the rest unreadable refuses the whole.

use serde_json::{Map, Value};

/// Most items of an envelope.
pub const MAX_ITEMS: usize = 200;
/// Longest line of headers, in bytes.
const MAX_HEADER: usize = 64 << 10;

/// A parsed envelope; payloads are parts of what was parsed.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope<'a> {
    /// What its first line says.
    pub header: Map<String, Value>,
    /// Its items, in order.
    pub items: Vec<Item<'a>>,
}

/// An item of an envelope.
#[derive(Debug, Clone, PartialEq)]
pub struct Item<'a> {
    /// What its line says.
    pub header: Map<String, Value>,
    /// Its bytes.
    pub payload: &'a [u8],
}

/// Why bytes are no envelope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The first line is no JSON object.
    #[error("the first line of an envelope is a JSON object")]
    Header,
    /// The line before an item is no JSON object with a type.
    #[error("item {0} does not begin with a JSON object that has a type")]
    ItemHeader(usize),
    /// The body ends before an item does.
    #[error("item {item} has {there} of the {said} bytes that it says")]
    Short {
        /// Which item, from 0.
        item: usize,
        /// Bytes that it says.
        said: u64,
        /// Bytes that are there.
        there: usize,
    },
    /// Something follows an item on its line.
    #[error("item {0} does not end with its line")]
    Unterminated(usize),
    /// Too many items.
    #[error("an envelope has at most {MAX_ITEMS} items")]
    TooMany,
}

impl Item<'_> {
    /// What it is, as Sentry names it.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.header.get("type").and_then(Value::as_str).unwrap_or_default()
    }
}

impl<'a> Envelope<'a> {
    /// Parses an envelope.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, EnvelopeError> {
        let (line, mut rest) = split_line(bytes);
        let header = object(line).ok_or(EnvelopeError::Header)?;
        let mut items = Vec::new();
        loop {
            while let [b'\n', tail @ ..] | [b'\r', b'\n', tail @ ..] = rest {
                rest = tail;
            }
            if rest.is_empty() {
                return Ok(Self { header, items });
            }
            if items.len() == MAX_ITEMS {
                return Err(EnvelopeError::TooMany);
            }
            let (item, tail) = item(rest, items.len())?;
            items.push(item);
            rest = tail;
        }
    }

    /// A text of the header.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.header.get(key).and_then(Value::as_str)
    }
}

fn item(bytes: &[u8], index: usize) -> Result<(Item<'_>, &[u8]), EnvelopeError> {
    let (line, rest) = split_line(bytes);
    let header = object(line).filter(|h| h.get("type").is_some_and(Value::is_string));
    let header = header.ok_or(EnvelopeError::ItemHeader(index))?;
    let Some(said) = header.get("length").and_then(Value::as_u64) else {
        let (payload, rest) = split_line(rest);
        return Ok((Item { header, payload }, rest));
    };
    let length = usize::try_from(said).ok().filter(|n| *n <= rest.len());
    let length = length.ok_or(EnvelopeError::Short { item: index, said, there: rest.len() })?;
    let (payload, rest) = rest.split_at(length);
    match rest {
        [] => Ok((Item { header, payload }, rest)),
        [b'\n', rest @ ..] => Ok((Item { header, payload }, rest)),
        _ => Err(EnvelopeError::Unterminated(index)),
    }
}

/// The bytes before the next line's end, and those after it.
fn split_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|b| *b == b'\n') {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &[]),
    }
}

fn object(line: &[u8]) -> Option<Map<String, Value>> {
    (line.len() <= MAX_HEADER).then(|| serde_json::from_slice(line).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn kinds(bytes: &[u8]) -> Result<Vec<(String, usize)>, EnvelopeError> {
        let envelope = Envelope::parse(bytes)?;
        Ok(envelope.items.iter().map(|i| (i.kind().to_owned(), i.payload.len())).collect())
    }

    #[test]
    fn a_length_is_taken_at_its_word_and_its_absence_means_a_line() {
        let of = |text: &str| kinds(text.as_bytes());
        assert_eq!(of("{}"), Ok(vec![]));
        assert_eq!(of("{}\n\n\n"), Ok(vec![]));
        let lines = "{}\n{\"type\":\"event\"}\n{\"a\":1}\n{\"type\":\"x\",\"length\":3}\na\nb";
        assert_eq!(of(lines), Ok(vec![("event".into(), 7), ("x".into(), 3)]));
        assert_eq!(of("{}\n{\"type\":\"attachment\",\"length\":0}\n\n"), Ok(vec![("attachment".into(), 0)]));
        assert_eq!(of("{}\n{\"type\":\"event\"}"), Ok(vec![("event".into(), 0)]));
        let spaced = "{}\n\n{\"type\":\"a\",\"length\":1}\nz\n\n{\"type\":\"b\"}\nzz\n";
        assert_eq!(of(spaced), Ok(vec![("a".into(), 1), ("b".into(), 2)]));
    }

    #[test]
    fn what_makes_the_rest_unreadable_is_refused() {
        let of = |text: &str| kinds(text.as_bytes()).unwrap_err();
        assert_eq!(of(""), EnvelopeError::Header);
        assert_eq!(of("[]\n"), EnvelopeError::Header);
        assert_eq!(of("{}\n{\"length\":1}\na"), EnvelopeError::ItemHeader(0));
        assert_eq!(of("{}\nevent\n"), EnvelopeError::ItemHeader(0));
        let short = EnvelopeError::Short { item: 0, said: 9, there: 1 };
        assert_eq!(of("{}\n{\"type\":\"a\",\"length\":9}\na"), short);
        let huge = "{}\n{\"type\":\"a\",\"length\":18446744073709551615}\na";
        assert!(matches!(of(huge), EnvelopeError::Short { .. }));
        assert_eq!(of("{}\n{\"type\":\"a\",\"length\":1}\nab"), EnvelopeError::Unterminated(0));
        assert_eq!(of(&format!("{{}}\n{}", "{\"type\":\"a\"}\n\n".repeat(201))), EnvelopeError::TooMany);
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Envelope::parse(&bytes);
        }

        #[test]
        fn what_was_written_is_read(payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..8)) {
            let mut bytes = b"{\"event_id\":\"x\"}\n".to_vec();
            for payload in &payloads {
                bytes.extend_from_slice(json!({"type": "attachment", "length": payload.len()}).to_string().as_bytes());
                bytes.push(b'\n');
                bytes.extend_from_slice(payload);
                bytes.push(b'\n');
            }
            let envelope = Envelope::parse(&bytes).unwrap();
            let read: Vec<_> = envelope.items.iter().map(|i| i.payload.to_vec()).collect();
            prop_assert_eq!(read, payloads);
        }
    }
}
