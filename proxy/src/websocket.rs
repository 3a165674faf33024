//! Where WebSocket frames end in the stream from app to client (RFC 6455, section 5.2).
//!
//! The proxy passes frames through untouched and unread. It follows their lengths for one purpose: at the
//! deadline of a drain it must put a close frame of its own *between* two frames of the app.

/// A close frame as a server sends it: status 1012, "service restart" (RFC 6455, section 7.4, IANA registry).
pub(crate) const CLOSE_SERVICE_RESTART: [u8; 4] = [0x88, 0x02, 0x03, 0xf4];

const OPCODE_CLOSE: u8 = 0x8;

/// Follows one direction of an upgraded connection, from its 101 response on.
#[derive(Debug, Default)]
pub(crate) struct FrameTracker {
    at: At,
    /// The app itself has sent a close frame; nothing may follow it.
    closed: bool,
}

#[derive(Debug)]
enum At {
    /// Inside the 101 response's head; how many bytes of `\r\n\r\n` were seen last.
    Head(u8),
    /// Inside a frame's own head, of which `seen` bytes are in `head`.
    Frame { head: [u8; 10], seen: u8 },
    /// Inside a payload with so many bytes (mask included) left.
    Payload(u64),
}

impl Default for At {
    fn default() -> Self {
        Self::Head(0)
    }
}

const FRAME_START: At = At::Frame { head: [0; 10], seen: 0 };

impl FrameTracker {
    /// Between two frames, with the head of the response behind.
    pub(crate) fn at_boundary(&self) -> bool {
        matches!(self.at, At::Frame { seen: 0, .. })
    }

    /// The app has said goodbye itself.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed && self.at_boundary()
    }

    /// How many of these bytes can be passed until the next boundary (all, if it lies beyond them).
    pub(crate) fn until_boundary(&self, bytes: &[u8]) -> usize {
        let mut probe = Self { at: self.at.clone_state(), closed: self.closed };
        let mut passed = 0;
        while passed < bytes.len() && !probe.at_boundary() {
            passed += probe.step(&bytes[passed..]);
        }
        passed
    }

    /// These bytes went to the client.
    pub(crate) fn passed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let n = self.step(bytes);
            bytes = &bytes[n..];
        }
    }

    /// Takes at least one byte, and never more than up to the next boundary.
    fn step(&mut self, bytes: &[u8]) -> usize {
        match &mut self.at {
            At::Head(matched) => {
                *matched = match (bytes[0], *matched) {
                    (b'\r', 0 | 2) | (b'\n', 1 | 3) => *matched + 1,
                    (b'\r', _) => 1,
                    _ => 0,
                };
                if *matched == 4 {
                    self.at = FRAME_START;
                }
                1
            }
            At::Frame { head, seen } => {
                head[usize::from(*seen)] = bytes[0];
                *seen += 1;
                if let Some((opcode, payload)) = parse_head(&head[..usize::from(*seen)]) {
                    self.closed |= opcode == OPCODE_CLOSE;
                    self.at = if payload == 0 { FRAME_START } else { At::Payload(payload) };
                }
                1
            }
            At::Payload(left) => {
                let n = (*left).min(bytes.len() as u64);
                *left -= n;
                if *left == 0 {
                    self.at = FRAME_START;
                }
                n as usize
            }
        }
    }
}

impl At {
    fn clone_state(&self) -> Self {
        match self {
            Self::Head(matched) => Self::Head(*matched),
            Self::Frame { head, seen } => Self::Frame { head: *head, seen: *seen },
            Self::Payload(left) => Self::Payload(*left),
        }
    }
}

/// Opcode and the bytes that follow the head (mask included), once the length is known.
fn parse_head(head: &[u8]) -> Option<(u8, u64)> {
    let (first, second) = (*head.first()?, *head.get(1)?);
    let mask = if second & 0x80 != 0 { 4 } else { 0 };
    let length = match second & 0x7f {
        126 => u64::from(u16::from_be_bytes(head.get(2..4)?.try_into().ok()?)),
        127 => u64::from_be_bytes(head.get(2..10)?.try_into().ok()?),
        short => u64::from(short),
    };
    Some((first & 0x0f, length.saturating_add(mask)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";

    fn frame(opcode: u8, payload: usize) -> Vec<u8> {
        let mut frame = vec![0x80 | opcode];
        match payload {
            0..126 => frame.push(payload as u8),
            126..65536 => {
                frame.push(126);
                frame.extend((payload as u16).to_be_bytes());
            }
            _ => {
                frame.push(127);
                frame.extend((payload as u64).to_be_bytes());
            }
        }
        frame.resize(frame.len() + payload, b'x');
        frame
    }

    #[test]
    fn the_head_is_no_boundary_and_its_end_is_one() {
        let mut tracker = FrameTracker::default();
        tracker.passed(&HEAD[..HEAD.len() - 1]);
        assert!(!tracker.at_boundary());
        tracker.passed(b"\n");
        assert!(tracker.at_boundary());
    }

    #[test]
    fn after_the_apps_close_frame_nothing_may_follow() {
        let mut tracker = FrameTracker::default();
        tracker.passed(HEAD);
        tracker.passed(&frame(1, 3));
        assert!(!tracker.is_closed());
        tracker.passed(&CLOSE_SERVICE_RESTART);
        assert!(tracker.is_closed());
    }

    proptest::proptest! {
        #[test]
        fn boundaries_are_found_however_the_bytes_are_cut(
            payloads in proptest::collection::vec(0usize..70_000, 1..5),
            cuts in proptest::collection::vec(1usize..5_000, 1..50),
        ) {
            let mut stream = HEAD.to_vec();
            let mut ends = vec![stream.len()];
            for payload in payloads {
                stream.extend(frame(2, payload));
                ends.push(stream.len());
            }
            let mut tracker = FrameTracker::default();
            let (mut at, mut cuts) = (0, cuts.into_iter().cycle());
            while at < stream.len() {
                let to = (at + cuts.next().unwrap_or(1)).min(stream.len());
                let next_end = ends.iter().copied().find(|end| *end > at || (*end == at && tracker.at_boundary()));
                let expected = next_end.map_or(to - at, |end| end.min(to) - at);
                proptest::prop_assert_eq!(tracker.until_boundary(&stream[at..to]), expected);
                tracker.passed(&stream[at..to]);
                at = to;
                proptest::prop_assert_eq!(tracker.at_boundary(), ends.contains(&at));
            }
        }
    }
}
