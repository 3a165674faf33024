//! Validators, conditional requests and ranges (RFC 9110, sections 8.8, 13 and 14). Pure.

use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, header};

/// What tells one state of a file from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Validators {
    /// Strong: made of length and time in nanoseconds; files of a release are written once.
    pub(crate) etag: String,
    /// Since the epoch, in whole seconds.
    pub(crate) modified: Duration,
}

/// The part of a file that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ByteRange {
    Whole,
    /// Both ends included.
    Part {
        first: u64,
        last: u64,
    },
    Unsatisfiable,
}

impl Validators {
    pub(crate) fn new(length: u64, modified: Duration) -> Self {
        Self {
            etag: format!("\"{:x}-{length:x}\"", modified.as_nanos()),
            modified: Duration::from_secs(modified.as_secs()),
        }
    }

    pub(crate) fn last_modified(&self) -> String {
        httpdate::fmt_http_date(UNIX_EPOCH + self.modified)
    }

    /// Whether the client's copy is current (304). The entity tag decides when there is one.
    pub(crate) fn client_has_it(&self, headers: &HeaderMap) -> bool {
        if headers.contains_key(header::IF_NONE_MATCH) {
            return headers
                .get_all(header::IF_NONE_MATCH)
                .iter()
                .filter_map(|value| value.to_str().ok())
                .flat_map(|value| value.split(','))
                .map(str::trim)
                .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == self.etag);
        }
        headers.get(header::IF_MODIFIED_SINCE).is_some_and(|since| self.not_after(since))
    }

    fn not_after(&self, date: &http::HeaderValue) -> bool {
        date.to_str()
            .ok()
            .and_then(|date| httpdate::parse_http_date(date).ok())
            .is_some_and(|date| UNIX_EPOCH + self.modified <= date)
    }

    /// The single range asked for. Several, or one in a form that is not understood, means the whole file, as
    /// the RFC allows; so does a range of a copy that is no longer current.
    pub(crate) fn range(&self, headers: &HeaderMap, length: u64) -> ByteRange {
        let Some(wanted) = headers.get(header::RANGE).and_then(|value| value.to_str().ok()) else {
            return ByteRange::Whole;
        };
        let still_current = headers.get(header::IF_RANGE).is_none_or(|condition| {
            condition.as_bytes() == self.etag.as_bytes()
                || condition.to_str().is_ok_and(|date| date == self.last_modified())
        });
        if !still_current {
            return ByteRange::Whole;
        }
        parse_range(wanted, length).unwrap_or(ByteRange::Whole)
    }
}

fn parse_range(wanted: &str, length: u64) -> Option<ByteRange> {
    let (unit, range) = wanted.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") || range.contains(',') {
        return None;
    }
    let (first, last) = range.trim().split_once('-')?;
    let number = |text: &str| {
        (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))
            .then(|| text.parse().unwrap_or(u64::MAX))
    };
    let (first, last) = match (number(first), number(last)) {
        (Some(first), Some(last)) if first > last => return None,
        (Some(first), Some(last)) => (first, last.min(length.saturating_sub(1))),
        (Some(first), None) if last.is_empty() => (first, length.saturating_sub(1)),
        (None, Some(0)) if first.is_empty() => return Some(ByteRange::Unsatisfiable),
        (None, Some(tail)) if first.is_empty() => (length.saturating_sub(tail), length.saturating_sub(1)),
        _ => return None,
    };
    Some(if first < length { ByteRange::Part { first, last } } else { ByteRange::Unsatisfiable })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(first: u64, last: u64) -> Option<ByteRange> {
        Some(ByteRange::Part { first, last })
    }

    #[test]
    fn ranges_are_read_as_the_rfc_has_them() {
        assert_eq!(parse_range("bytes=0-9", 100), part(0, 9));
        assert_eq!(parse_range("bytes=90-", 100), part(90, 99));
        assert_eq!(parse_range("bytes=-10", 100), part(90, 99));
        assert_eq!(parse_range("bytes=-1000", 100), part(0, 99));
        assert_eq!(parse_range("bytes=50-1000", 100), part(50, 99));
        assert_eq!(parse_range("bytes=100-", 100), Some(ByteRange::Unsatisfiable));
        assert_eq!(parse_range("bytes=-0", 100), Some(ByteRange::Unsatisfiable));
        assert_eq!(parse_range("bytes=0-0", 0), Some(ByteRange::Unsatisfiable));
        for ignored in
            ["bytes=9-0", "bytes=0-1,4-5", "lines=0-9", "bytes=a-b", "bytes=-", "bytes=+1-2", "bytes"]
        {
            assert_eq!(parse_range(ignored, 100), None, "{ignored}");
        }
    }

    #[test]
    fn the_tag_outranks_the_date() {
        let file = Validators::new(10, Duration::from_secs(1_700_000_000));
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_MODIFIED_SINCE, file.last_modified().parse().expect("a date"));
        assert!(file.client_has_it(&headers));
        headers.insert(header::IF_NONE_MATCH, "\"other\"".parse().expect("a tag"));
        assert!(!file.client_has_it(&headers));
        headers.insert(header::IF_NONE_MATCH, format!("W/{}, \"x\"", file.etag).parse().expect("tags"));
        assert!(file.client_has_it(&headers));
    }

    proptest::proptest! {
        #[test]
        fn a_part_always_lies_within_the_file(wanted in "bytes=[0-9]{0,20}-[0-9]{0,20}", length in 0u64..1000) {
            if let Some(ByteRange::Part { first, last }) = parse_range(&wanted, length) {
                proptest::prop_assert!(first <= last && last < length);
            }
        }
    }
}
