//! Which requests are let in at all: those that cannot be read in two ways.
//!
//! Pingora refuses most malformed heads itself. What it would repair and pass on (a length beside chunked
//! coding) and what only a host router cares about (a missing or odd `Host`) is refused here.

use http::{Version, header};
use pingora::{http::RequestHeader, protocols::http::ServerSession};

use crate::router::is_host_name;

/// Why a request is refused with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("The request has no Host header.")]
    NoHost,
    #[error("The request's Host header is no host name.")]
    BadHost,
    #[error("The request has both Content-Length and Transfer-Encoding.")]
    TwoLengths,
    #[error("The request's Content-Length is no number, or there are several.")]
    BadLength,
    #[error("The request's target is neither a path nor *.")]
    BadTarget,
}

/// The host asked for: lower case, without port and trailing dot.
pub(crate) fn admit(session: &ServerSession) -> Result<String, Refusal> {
    let request = session.req_header();
    check_framing(request)?;
    if request.headers.contains_key(header::TRANSFER_ENCODING) && raw_head_has_length(session) {
        return Err(Refusal::TwoLengths);
    }
    if !request.uri.path().starts_with('/') && request.uri.path() != "*" {
        return Err(Refusal::BadTarget);
    }
    host(request)
}

fn check_framing(request: &RequestHeader) -> Result<(), Refusal> {
    let mut lengths = request.headers.get_all(header::CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        let digits = length.as_bytes();
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) || lengths.next().is_some() {
            return Err(Refusal::BadLength);
        }
    }
    Ok(())
}

/// Pingora drops `Content-Length` when it sees `Transfer-Encoding`, so only the raw head still tells.
fn raw_head_has_length(session: &ServerSession) -> bool {
    session.as_http1().is_some_and(|http1| {
        const NAME: &[u8] = b"content-length";
        http1.get_headers_raw_bytes().split(|b| *b == b'\n').any(|line| {
            line.len() > NAME.len()
                && line[..NAME.len()].eq_ignore_ascii_case(NAME)
                && matches!(line[NAME.len()], b':' | b' ' | b'\t')
        })
    })
}

fn host(request: &RequestHeader) -> Result<String, Refusal> {
    let mut hosts = request.headers.get_all(header::HOST).iter();
    let (named, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(Refusal::BadHost);
    }
    let authority = match (request.uri.authority(), named) {
        (Some(authority), _) if request.version == Version::HTTP_2 || named.is_none() => authority.as_str(),
        (_, Some(host)) => host.to_str().map_err(|_| Refusal::BadHost)?,
        (_, None) => return Err(Refusal::NoHost),
    };
    parse_host(authority).ok_or(if authority.is_empty() { Refusal::NoHost } else { Refusal::BadHost })
}

fn parse_host(authority: &str) -> Option<String> {
    let (name, port) = match authority.rsplit_once(':') {
        Some((name, port)) if !authority.ends_with(']') => (name, Some(port)),
        _ => (authority, None),
    };
    if port.is_some_and(|port| port.len() > 5 || !port.bytes().all(|b| b.is_ascii_digit())) {
        return None;
    }
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    is_host_name(&name).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_lose_port_case_and_trailing_dot() {
        for (said, meant) in [
            ("Web.Test", "web.test"),
            ("web.test:8080", "web.test"),
            ("web.test.:80", "web.test"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("127.0.0.1", "127.0.0.1"),
        ] {
            assert_eq!(parse_host(said).as_deref(), Some(meant), "{said}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for bad in
            ["", ":80", "a b", "a/b", "web.test:80a", "web..test", "ü.test", "a:1:2", "[::1", "user@web.test"]
        {
            assert_eq!(parse_host(bad), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_host_that_is_let_in_is_a_host_name(said in "\\PC{0,40}") {
            if let Some(host) = parse_host(&said) {
                proptest::prop_assert!(is_host_name(&host));
                proptest::prop_assert_eq!(parse_host(&host), Some(host.clone()));
            }
        }
    }
}
