//! Request ids: what ties a visitor's complaint to an access record, an app's log line and an error event.

use std::{cell::RefCell, fmt};

/// 128 bits: the time in milliseconds, then random bits, so that ids sort by time and cannot be guessed.
/// Written as 32 hexadecimal digits, which is also a valid W3C trace id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(u128);

const POOL: usize = 512;

thread_local! {
    /// Randomness is taken from the system in blocks: one call for many requests.
    static RANDOM: RefCell<([u8; POOL], usize)> = const { RefCell::new(([0; POOL], POOL)) };
}

impl RequestId {
    pub(crate) const NIL: Self = Self(0);

    /// A new id for a request that came at `at_micros` (Unix time).
    pub(crate) fn new(at_micros: i64) -> Self {
        let millis = (at_micros / 1000) as u128 & 0xffff_ffff_ffff;
        Self(millis << 80 | random_80_bits())
    }

    /// An id that a trusted peer sent: only exactly 32 hexadecimal digits.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok().filter(|t| t.len() == 32 && !t.starts_with('+'))?;
        u128::from_str_radix(text, 16).ok().map(Self)
    }

    /// The 32 digits.
    #[must_use]
    pub fn to_hex(self) -> [u8; 32] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = [0; 32];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.0.to_be_bytes()) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        hex
    }
}

fn random_80_bits() -> u128 {
    RANDOM.with_borrow_mut(|(pool, used)| {
        if *used + 10 > POOL {
            // A system without randomness is no place for a proxy, but ids are not secrets: a pool that could
            // not be refilled is used again, and the time still tells ids apart.
            let _ = getrandom::fill(pool);
            *used = 0;
        }
        let mut bytes = [0; 16];
        bytes[6..].copy_from_slice(&pool[*used..*used + 10]);
        *used += 10;
        u128::from_be_bytes(bytes)
    })
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_sort_by_time_and_survive_a_round_trip() {
        let early = RequestId::new(1_700_000_000_000_000);
        let late = RequestId::new(1_700_000_000_002_000);
        assert!(early < late);
        assert_ne!(early, RequestId::new(1_700_000_000_000_000));
        assert_eq!(RequestId::parse(&early.to_hex()), Some(early));
        assert_eq!(early.to_string().as_bytes(), early.to_hex());
    }

    #[test]
    fn only_exact_hex_is_taken_from_a_peer() {
        for bad in ["", "abc", "+0000000000000000000000000000001", "zz000000000000000000000000000000"] {
            assert_eq!(RequestId::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
