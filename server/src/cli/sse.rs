//! Server-sent events, read from bytes as they come.

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its name; `message` where none was given.
    pub name: String,
    /// Its data lines, joined by newlines.
    pub data: String,
}

/// Bytes that one event may have; a stream that exceeds it is broken.
const EVENT_MAX: usize = 32 << 20;

/// Cuts a byte stream into events.
#[derive(Debug, Default)]
pub struct Parser {
    buffer: Vec<u8>,
    name: Option<String>,
    data: Vec<String>,
}

impl Parser {
    /// Takes bytes and returns the events they complete; none if an event is too large.
    pub fn feed(&mut self, bytes: &[u8]) -> Option<Vec<Event>> {
        self.buffer.extend_from_slice(bytes);
        let mut events = Vec::new();
        let mut begin = 0;
        while let Some(length) = self.buffer[begin..].iter().position(|b| *b == b'\n') {
            let line = &self.buffer[begin..begin + length];
            let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned();
            begin += length + 1;
            if let Some(event) = self.line(&line) {
                events.push(event);
            }
        }
        self.buffer.drain(..begin);
        let held = self.buffer.len() + self.data.iter().map(String::len).sum::<usize>();
        (held <= EVENT_MAX).then_some(events)
    }

    fn line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let name = self.name.take();
            let data = std::mem::take(&mut self.data);
            return (!data.is_empty())
                .then(|| Event { name: name.unwrap_or_else(|| "message".into()), data: data.join("\n") });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.name = Some(value.to_owned()),
            "data" => self.data.push(value.to_owned()),
            // Comments keep the connection alive; ids and retry times are not used by our streams.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &[u8] = b": hi\n\nevent: state\ndata: {\"a\":1}\n\ndata: x\r\ndata: y\r\n\r\n";

    fn expected() -> Vec<Event> {
        vec![
            Event { name: "state".into(), data: "{\"a\":1}".into() },
            Event { name: "message".into(), data: "x\ny".into() },
        ]
    }

    proptest! {
        #[test]
        fn events_do_not_depend_on_where_the_bytes_are_cut(cut in 0..TEXT.len()) {
            let mut parser = Parser::default();
            let mut got = parser.feed(&TEXT[..cut]).unwrap();
            got.extend(parser.feed(&TEXT[cut..]).unwrap());
            prop_assert_eq!(got, expected());
        }
    }
}
