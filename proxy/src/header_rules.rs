//! Changes to the headers of requests and answers: checked once, then nothing but map operations.

use std::collections::BTreeMap;

use berth_schemas::{Problem, rules::HeaderRules};
use http::{HeaderName, HeaderValue, header};
use pingora::http::{RequestHeader, ResponseHeader};

/// Most names of each kind.
const MOST: usize = 50;
/// Longest value, in bytes; policies of content security are long.
const LONGEST_VALUE: usize = 4096;

/// Changes that are safe to make.
#[derive(Debug, Default)]
pub(crate) struct HeaderChanges {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderChanges {
    /// Checks the headers of `field`.
    pub(crate) fn compile(rules: &HeaderRules, field: &str) -> Result<Self, Problem> {
        let removed = format!("{field}.remove");
        at_most(rules.remove.len(), &removed)?;
        Ok(Self {
            remove: rules.remove.iter().map(|name| header_name(name, &removed)).collect::<Result<_, _>>()?,
            set: lines(&rules.set, &format!("{field}.set"))?,
            add: lines(&rules.add, &format!("{field}.add"))?,
        })
    }

    /// Whether a header is set or added.
    pub(crate) fn has(&self, name: &HeaderName) -> bool {
        self.set.iter().chain(&self.add).any(|(n, _)| n == name)
    }

    pub(crate) fn apply_to_request(&self, request: &mut RequestHeader) -> pingora::Result<()> {
        for name in &self.remove {
            request.remove_header(name);
        }
        for (name, value) in &self.set {
            request.insert_header(name, value)?;
        }
        for (name, value) in &self.add {
            request.append_header(name, value)?;
        }
        Ok(())
    }

    pub(crate) fn apply_to_response(&self, response: &mut ResponseHeader) -> pingora::Result<()> {
        for name in &self.remove {
            response.remove_header(name);
        }
        for (name, value) in &self.set {
            response.insert_header(name, value)?;
        }
        for (name, value) in &self.add {
            response.append_header(name, value)?;
        }
        Ok(())
    }
}

fn lines(said: &BTreeMap<String, String>, field: &str) -> Result<Vec<(HeaderName, HeaderValue)>, Problem> {
    at_most(said.len(), field)?;
    said.iter().map(|(name, value)| Ok((header_name(name, field)?, header_value(value, field)?))).collect()
}

fn at_most(n: usize, field: &str) -> Result<(), Problem> {
    if n <= MOST {
        return Ok(());
    }
    Err(Problem::invalid(field, format!("{n} headers are too many; at most {MOST} are taken.")))
}

fn header_name(text: &str, field: &str) -> Result<HeaderName, Problem> {
    let shown: String = text.chars().take(60).collect();
    let name = HeaderName::from_bytes(text.as_bytes())
        .ok()
        .filter(|name| name.as_str().len() <= 100)
        .ok_or_else(|| Problem::invalid(field, format!("{shown:?} is no header name.")))?;
    if let Some(why) = reserved(&name) {
        return Err(Problem::invalid(field, format!("{shown} cannot be changed: {why}.")));
    }
    Ok(name)
}

fn header_value(text: &str, field: &str) -> Result<HeaderValue, Problem> {
    let sound = text.len() <= LONGEST_VALUE
        && text.bytes().all(|b| b == b' ' || b == b'\t' || b.is_ascii_graphic())
        && text.trim() == text;
    let value = HeaderValue::from_str(text).ok().filter(|_| sound);
    value.ok_or_else(|| {
        let rule = format!("visible ASCII without space at its ends, at most {LONGEST_VALUE} bytes");
        Problem::invalid(field, format!("A header's value is {rule}."))
    })
}

/// Why a header may not be changed, if so.
fn reserved(name: &HeaderName) -> Option<&'static str> {
    let text = name.as_str();
    if *name == header::CONTENT_LENGTH || *name == header::TRANSFER_ENCODING || *name == header::TRAILER {
        return Some("it says where a message ends");
    }
    if is_hop_by_hop(name) || *name == header::UPGRADE || *name == header::EXPECT {
        return Some("it belongs to one connection, not to the message");
    }
    if text.starts_with("sec-websocket-") {
        return Some("it is part of a WebSocket's handshake");
    }
    if *name == header::HOST {
        return Some("requests are routed by it");
    }
    crate::forwarded::is_forwarding(name).then_some("Berth sets it")
}

/// Whether a header means the next hop alone (RFC 9110, 7.6.1).
pub(crate) fn is_hop_by_hop(name: &HeaderName) -> bool {
    *name == header::CONNECTION
        || *name == header::TE
        || *name == header::TRAILER
        || *name == header::TRANSFER_ENCODING
        || *name == header::PROXY_AUTHENTICATE
        || *name == header::PROXY_AUTHORIZATION
        || matches!(name.as_str(), "keep-alive" | "proxy-connection" | "http2-settings")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules(set: &[(&str, &str)], remove: &[&str]) -> HeaderRules {
        HeaderRules {
            set: set.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            remove: remove.iter().map(|n| (*n).to_owned()).collect(),
            ..HeaderRules::default()
        }
    }

    #[test]
    fn what_frames_a_message_or_is_set_by_the_platform_is_refused() {
        for name in [
            "Content-Length",
            "transfer-encoding",
            "Connection",
            "keep-alive",
            "Upgrade",
            "TE",
            "Host",
            "X-Forwarded-For",
            "X-Real-IP",
            "x-request-id",
            "x-berth-error",
            "Sec-WebSocket-Accept",
            "Proxy-Authorization",
            ":path",
            "a b",
            "a:b",
            "",
        ] {
            assert!(
                HeaderChanges::compile(&rules(&[(name, "1")], &[]), "request_headers").is_err(),
                "{name}"
            );
            assert!(HeaderChanges::compile(&rules(&[], &[name]), "request_headers").is_err(), "{name}");
        }
        let problem =
            HeaderChanges::compile(&rules(&[], &["Host"]), "request_headers").expect_err("reserved");
        assert_eq!(problem.field.as_deref(), Some("request_headers.remove"));
    }

    #[test]
    fn changes_come_in_order() {
        let mut all = rules(&[("x-a", "set")], &["server", "x-a"]);
        all.add.insert("x-a".into(), "added".into());
        let changes = HeaderChanges::compile(&all, "response_headers").expect("sound");
        let mut head = ResponseHeader::build(200, None).expect("a head");
        for (name, value) in [("server", "nginx"), ("x-a", "1"), ("x-a", "2"), ("x-b", "stays")] {
            head.append_header(name, value).expect("room");
        }
        changes.apply_to_response(&mut head).expect("room");
        let values = |name: &str| {
            let all = head.headers.get_all(name).iter();
            all.map(|v| v.to_str().expect("text").to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(
            (values("server"), values("x-a"), values("x-b")),
            (vec![], vec!["set".to_owned(), "added".to_owned()], vec!["stays".to_owned()])
        );
    }

    proptest! {
        #[test]
        fn no_value_that_is_taken_can_end_its_line(value in "\\PC{0,30}|[\\x00-\\x7f]{0,30}") {
            if HeaderChanges::compile(&rules(&[("x-a", &value)], &[]), "f").is_ok() {
                prop_assert!(!value.contains(['\r', '\n', '\0']) && value.is_ascii());
            }
        }
    }
}
