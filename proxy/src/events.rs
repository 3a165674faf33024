//! Where one event ends and the next begins in an event stream (WHATWG HTML, "server-sent events").
//!
//! A stream that must end, because its release is drained, ends between two events: then `EventSource` and its
//! like see a response that is complete, and connect again.

use http::header;
use pingora::http::ResponseHeader;

/// Whether this answers with an event stream, which may be silent for long and can be ended at any event.
pub(crate) fn is_event_stream(head: &ResponseHeader) -> bool {
    head.status.is_success()
        && head.headers.get(header::CONTENT_TYPE).is_some_and(|kind| {
            const KIND: &[u8] = b"text/event-stream";
            let kind = kind.as_bytes();
            kind.len() >= KIND.len()
                && kind[..KIND.len()].eq_ignore_ascii_case(KIND)
                && matches!(kind.get(KIND.len()), None | Some(b';' | b' '))
        })
}

/// Follows an event stream from its beginning.
#[derive(Debug, Clone)]
pub(crate) struct EventTracker {
    /// Nothing of the next event was seen.
    between: bool,
    line_is_empty: bool,
    /// The last byte was a carriage return, to which a line feed may belong.
    after_cr: bool,
}

impl Default for EventTracker {
    fn default() -> Self {
        Self { between: true, line_is_empty: true, after_cr: false }
    }
}

impl EventTracker {
    /// No event is half told.
    pub(crate) fn is_between(&self) -> bool {
        self.between
    }

    /// These bytes went to the client. Returns how many of them belong to events that are complete, if any
    /// event ended in them.
    pub(crate) fn passed(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut complete = None;
        for (at, byte) in bytes.iter().enumerate() {
            match byte {
                b'\n' if self.after_cr => self.after_cr = false,
                b'\n' | b'\r' => {
                    self.between = self.line_is_empty;
                    self.line_is_empty = true;
                    self.after_cr = *byte == b'\r';
                }
                _ => {
                    self.between = false;
                    self.line_is_empty = false;
                    self.after_cr = false;
                }
            }
            if self.between {
                complete = Some(at + 1);
            }
        }
        complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_end_with_an_empty_line_however_lines_end() {
        for end in ["\n", "\r\n", "\r"] {
            let mut tracker = EventTracker::default();
            assert!(tracker.is_between());
            let event = format!("event: tick{end}data: 1{end}{end}");
            assert_eq!(tracker.passed(event.as_bytes()), Some(event.len()), "{end:?}");
            assert!(tracker.is_between());
            let two = format!(":comment{end}{end}data: half");
            assert_eq!(tracker.passed(two.as_bytes()), Some(two.len() - 10), "{end:?}");
            assert!(!tracker.is_between());
            assert_eq!(tracker.passed(format!(" told{end}").as_bytes()), None);
            assert!(!tracker.is_between());
            tracker.passed(end.as_bytes());
            assert!(tracker.is_between());
        }
    }

    proptest::proptest! {
        #[test]
        fn ends_are_found_however_the_bytes_are_cut(text in "[a\r\n]{0,30}", cut in 0usize..30) {
            let (mut whole, mut parts) = (EventTracker::default(), EventTracker::default());
            let text = text.as_bytes();
            let cut = cut.min(text.len());
            let complete = whole.passed(text);
            let first = parts.passed(&text[..cut]);
            let second = parts.passed(&text[cut..]).map(|n| n + cut);
            proptest::prop_assert_eq!(complete, second.or(first));
            proptest::prop_assert_eq!(whole.is_between(), parts.is_between());
        }
    }

    #[test]
    fn event_streams_are_known_by_their_type() {
        let head = |status: u16, kind: &str| {
            let mut head = ResponseHeader::build(status, None).expect("a status");
            head.insert_header(header::CONTENT_TYPE, kind).expect("a value");
            is_event_stream(&head)
        };
        assert!(head(200, "text/event-stream") && head(200, "Text/Event-Stream; charset=utf-8"));
        assert!(
            !head(200, "text/event-streams") && !head(200, "text/html") && !head(500, "text/event-stream")
        );
    }
}
