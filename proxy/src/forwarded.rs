//! Who the client is, and what the app is told about it.
//!
//! Nothing that a client says about itself in forwarding headers reaches an app: they are stripped and set
//! anew. Only peers that the configuration trusts (a load balancer or CDN in front) are believed.

use std::{fmt, net::IpAddr};

use bytes::{BufMut, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use pingora::http::RequestHeader;

use crate::{ip_list::IpList, request_id::RequestId};

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Networks whose forwarding headers and request ids are believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedPeers(IpList);

/// Not an address or a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address or network: write `10.0.0.1`, `10.0.0.0/8` or `fd00::/8`")]
pub struct ParseTrustedPeerError(String);

impl TrustedPeers {
    /// Nobody is trusted.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Trusts these addresses and networks.
    ///
    /// # Errors
    /// Names the first that cannot be read.
    pub fn parse<'a>(networks: impl IntoIterator<Item = &'a str>) -> Result<Self, ParseTrustedPeerError> {
        IpList::parse(networks).map(Self).map_err(|text| ParseTrustedPeerError(text.to_owned()))
    }

    fn has(&self, ip: IpAddr) -> bool {
        self.0.has(ip)
    }
}

/// What the proxy believes about a request's origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) ip: IpAddr,
    pub(crate) tls: bool,
    /// An id that a trusted peer gave.
    pub(crate) request_id: Option<RequestId>,
}

impl Origin {
    pub(crate) fn of(peer: IpAddr, tls: bool, headers: &HeaderMap, trusted: &TrustedPeers) -> Self {
        let peer = peer.to_canonical();
        if trusted.0.is_empty() || !trusted.has(peer) {
            return Self { ip: peer, tls, request_id: None };
        }
        // From the right, the first address that is not one of ours: what is left of it can be made up.
        let ip = headers
            .get_all(X_FORWARDED_FOR)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(|part| part.trim().parse::<IpAddr>())
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .map_while(Result::ok)
            .find(|ip| !trusted.has(*ip));
        let tls = tls || headers.get(X_FORWARDED_PROTO).is_some_and(|proto| proto == "https");
        let request_id = headers.get(X_REQUEST_ID).and_then(|id| RequestId::parse(id.as_bytes()));
        Self { ip: ip.map_or(peer, |ip| ip.to_canonical()), tls, request_id }
    }
}

/// Strips every forwarding header and writes the true ones.
pub(crate) fn rewrite(
    request: &mut RequestHeader,
    origin: Origin,
    id: RequestId,
    host: Option<HeaderValue>,
) -> pingora::Result<()> {
    let forged: Vec<HeaderName> =
        request.headers.keys().filter(|name| is_forwarding(name)).cloned().collect();
    for name in &forged {
        request.remove_header(name);
    }
    let ip = ip_value(origin.ip);
    let proto = HeaderValue::from_static(if origin.tls { "https" } else { "http" });
    request.insert_header(header::FORWARDED, forwarded_value(origin))?;
    request.insert_header(X_REAL_IP, ip.clone())?;
    request.insert_header(X_FORWARDED_FOR, ip)?;
    request.insert_header(X_FORWARDED_PROTO, proto)?;
    if let Some(host) = host {
        request.insert_header(X_FORWARDED_HOST, host)?;
    }
    request.insert_header(X_REQUEST_ID, id_value(id))?;
    Ok(())
}

pub(crate) fn is_forwarding(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.strip_prefix("x-").is_some_and(|rest| {
        rest.starts_with("forwarded")
            || rest == "real-ip"
            || rest == "request-id"
            || rest.starts_with("berth-")
    }) || name == "forwarded"
}

pub(crate) fn id_value(id: RequestId) -> HeaderValue {
    HeaderValue::from_bytes(&id.to_hex()).unwrap_or(HeaderValue::from_static(""))
}

fn ip_value(ip: IpAddr) -> HeaderValue {
    written(format_args!("{ip}"))
}

fn forwarded_value(origin: Origin) -> HeaderValue {
    let proto = if origin.tls { "https" } else { "http" };
    match origin.ip {
        IpAddr::V4(ip) => written(format_args!("for={ip};proto={proto}")),
        IpAddr::V6(ip) => written(format_args!("for=\"[{ip}]\";proto={proto}")),
    }
}

fn written(text: fmt::Arguments<'_>) -> HeaderValue {
    let mut bytes = BytesMut::with_capacity(72).writer();
    // Writing to memory does not fail, and addresses are visible ASCII.
    let _ = std::io::Write::write_fmt(&mut bytes, text);
    HeaderValue::from_maybe_shared(bytes.into_inner().freeze()).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v))).collect()
    }

    const CDN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7));

    #[test]
    fn a_stranger_is_not_believed() {
        let said = headers(&[("x-forwarded-for", "1.2.3.4"), ("x-forwarded-proto", "https")]);
        let origin = Origin::of(CDN, false, &said, &TrustedPeers::none());
        assert_eq!(origin, Origin { ip: CDN, tls: false, request_id: None });
    }

    #[test]
    fn a_trusted_peer_is_believed_up_to_the_first_untrusted_hop() {
        let trusted = TrustedPeers::parse(["10.0.0.0/8"]).expect("a network");
        let said = headers(&[
            ("x-forwarded-for", "6.6.6.6, 1.2.3.4, 10.1.1.1"),
            ("x-forwarded-proto", "https"),
            ("x-request-id", "0123456789abcdef0123456789abcdef"),
        ]);
        let origin = Origin::of(CDN, false, &said, &trusted);
        assert_eq!(origin.ip.to_string(), "1.2.3.4");
        assert!(origin.tls);
        assert!(origin.request_id.is_some());
    }

    #[test]
    fn forged_headers_are_gone_whatever_their_case_or_number() {
        let mut request = RequestHeader::build("GET", b"/", None).expect("a request");
        for (name, value) in [
            ("X-Forwarded-For", "6.6.6.6"),
            ("X-Forwarded-For", "7.7.7.7"),
            ("x-forwarded-ssl", "on"),
            ("Forwarded", "for=6.6.6.6"),
            ("X-Real-IP", "6.6.6.6"),
            ("X-Request-Id", "mine"),
        ] {
            request.append_header(name, value).expect("a header");
        }
        let origin = Origin { ip: "::1".parse().expect("an address"), tls: true, request_id: None };
        rewrite(&mut request, origin, RequestId::new(0), Some(HeaderValue::from_static("web.test")))
            .expect("room");
        let all = format!("{:?}", request.headers);
        assert!(!all.contains("6.6.6.6") && !all.contains("7.7.7.7") && !all.contains("mine"), "{all}");
        assert_eq!(request.headers.get_all("x-forwarded-for").iter().count(), 1);
        assert_eq!(request.headers["forwarded"], "for=\"[::1]\";proto=https");
        assert_eq!(request.headers["x-forwarded-host"], "web.test");
        assert!(!request.headers.contains_key("x-forwarded-ssl"));
    }
}
