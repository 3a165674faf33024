//! Which hosts a user may make the daemon talk to: the guard against requests forged through us.
//!
//! A name is resolved once; the addresses that are allowed are returned, and the caller must connect to those
//! and to nothing else, so that a second answer of the name server cannot undo the check. Every redirect wants
//! the guard again. For git, checks, webhooks and every other address that a user typed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// How long a name may take to resolve.
const RESOLVE_LIMIT: Duration = Duration::from_secs(10);

/// What the administrator allows beyond the public internet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostPolicy {
    /// Allow every address, also loopback and private ones: for a forge in the own network.
    pub allow_private: bool,
    /// Hosts (exact names or addresses, any case) that are allowed wherever they are.
    pub allow_hosts: Vec<String>,
}

/// Why a host cannot be reached, or may not be.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The name has no address, or the name server did not answer.
    #[error("the host {host:?} cannot be resolved: {reason}")]
    Unresolved {
        /// The host as it was asked for.
        host: String,
        /// What the resolver said.
        reason: String,
    },
    /// All its addresses are of a kind that outsiders must not reach through us.
    #[error("the host {host:?} is refused: {address} is {kind}; an administrator can allow the host")]
    Forbidden {
        /// The host as it was asked for.
        host: String,
        /// The first of its addresses.
        address: IpAddr,
        /// What that address is.
        kind: &'static str,
    },
}

/// Resolves `host` and returns the addresses that may be talked to, at least one.
///
/// # Errors
/// [`GuardError`].
pub async fn resolve_guarded(
    host: &str,
    port: u16,
    policy: &HostPolicy,
) -> Result<Vec<SocketAddr>, GuardError> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let unresolved = |reason: String| GuardError::Unresolved { host: host.to_owned(), reason };
    let found: Vec<SocketAddr> = match bare.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, port)],
        Err(_) => tokio::time::timeout(RESOLVE_LIMIT, tokio::net::lookup_host((bare, port)))
            .await
            .map_err(|_| unresolved(format!("no answer within {} s", RESOLVE_LIMIT.as_secs())))?
            .map_err(|error| unresolved(error.to_string()))?
            .collect(),
    };
    screen(host, found, policy)
}

/// The beginning of an HTTP client that talks to `host` at these addresses, which were checked just now, and follows no
/// redirect past the check: so it is one for each check.
pub fn bound_client(host: &str, addresses: &[SocketAddr]) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .tcp_nodelay(true)
        .resolve_to_addrs(host, addresses)
        .user_agent(concat!("Berth/", env!("CARGO_PKG_VERSION")))
}

/// The pure part of [`resolve_guarded`]: keeps the allowed ones of the addresses found.
///
/// # Errors
/// [`GuardError`].
pub fn screen(
    host: &str,
    found: Vec<SocketAddr>,
    policy: &HostPolicy,
) -> Result<Vec<SocketAddr>, GuardError> {
    let bare = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    let all = policy.allow_private || policy.allow_hosts.iter().any(|name| name.eq_ignore_ascii_case(bare));
    let (allowed, refused): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|address| all || forbidden_kind(address.ip()).is_none());
    if !allowed.is_empty() {
        return Ok(allowed);
    }
    match refused.first() {
        Some(address) => Err(GuardError::Forbidden {
            host: host.to_owned(),
            address: address.ip(),
            kind: forbidden_kind(address.ip()).unwrap_or("not allowed"),
        }),
        None => Err(GuardError::Unresolved { host: host.to_owned(), reason: "it has no address".to_owned() }),
    }
}

/// What an address is, when it is not a public unicast one.
pub fn forbidden_kind(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => forbidden_v4(v4),
        IpAddr::V6(v6) => forbidden_v6(v6),
    }
}

fn forbidden_v4(address: Ipv4Addr) -> Option<&'static str> {
    let [a, b, c, _] = address.octets();
    Some(match (a, b, c) {
        (0, ..) => "this host",
        (127, ..) => "a loopback address",
        (10, ..) | (172, 16..=31, _) | (192, 168, _) => "a private address",
        (169, 254, _) => "a link-local address, where clouds keep their metadata service",
        (100, 64..=127, _) => "a shared carrier address",
        (192, 0, 0) | (192, 0, 2) | (198, 51, 100) | (203, 0, 113) => "a reserved address",
        (198, 18..=19, _) => "a benchmarking address",
        (192, 88, 99) => "a 6to4 relay",
        (224..=239, ..) => "a multicast address",
        (240..=255, ..) => "a reserved address",
        // Metadata of Azure and of Oracle's older platform, though public by number.
        (168, 63, 129) => "a cloud's platform address",
        _ => return None,
    })
}

fn forbidden_v6(address: Ipv6Addr) -> Option<&'static str> {
    let segments = address.segments();
    if address.is_loopback() {
        return Some("a loopback address");
    }
    if address.is_unspecified() {
        return Some("this host");
    }
    // An IPv4 address in another coat is judged as what it is.
    if let Some(v4) = embedded_v4(&segments) {
        return forbidden_v4(v4);
    }
    Some(match segments[0] {
        0xfc00..=0xfdff => "a private address",
        0xfe80..=0xfebf => "a link-local address",
        0xfec0..=0xfeff => "a site-local address",
        0xff00..=0xffff => "a multicast address",
        0x2001 if segments[1] == 0xdb8 => "a reserved address",
        0x2001 if segments[1] == 0 => "a Teredo address",
        // Only 2000::/3 is handed out as public unicast.
        0x2000..=0x3fff => return None,
        _ => "a reserved address",
    })
}

/// The IPv4 address inside v4-mapped, v4-compatible, NAT64 and 6to4 addresses.
fn embedded_v4(segments: &[u16; 8]) -> Option<Ipv4Addr> {
    let pair = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match *segments {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] => Some(pair(high, low)),
        [0, 0, 0, 0, 0xffff, 0, high, low] => Some(pair(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(pair(high, low)),
        [0x2002, high, low, ..] => Some(pair(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_not_public_is_forbidden() {
        for text in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.127.0.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
            "::1",
            "::",
            "fd00::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "fd00:ec2::254",
            "2001:db8::1",
            "64:ff9b:1::1",
            "100::1",
        ] {
            assert!(forbidden_kind(address(text)).is_some(), "{text} passed");
        }
        for text in ["1.1.1.1", "140.82.121.3", "172.32.0.1", "2606:4700::1", "::ffff:1.1.1.1"] {
            assert_eq!(forbidden_kind(address(text)), None, "{text}");
        }
    }

    #[tokio::test]
    async fn names_and_literals_go_through_the_same_check() {
        let strict = HostPolicy::default();
        for host in ["127.0.0.1", "[::1]", "localhost"] {
            let error = resolve_guarded(host, 443, &strict).await.unwrap_err();
            assert!(matches!(error, GuardError::Forbidden { .. }), "{host}: {error}");
        }
        let named = HostPolicy { allow_hosts: vec!["LOCALHOST".into()], ..HostPolicy::default() };
        assert!(!resolve_guarded("localhost", 443, &named).await.unwrap().is_empty());
        assert!(resolve_guarded("127.0.0.1", 443, &named).await.is_err());
        let open = HostPolicy { allow_private: true, ..HostPolicy::default() };
        assert_eq!(resolve_guarded("[::1]", 1, &open).await.unwrap(), [SocketAddr::new(address("::1"), 1)]);
    }

    #[test]
    fn of_mixed_addresses_only_the_public_ones_are_used() {
        let both = vec![SocketAddr::new(address("10.0.0.1"), 1), SocketAddr::new(address("1.1.1.1"), 1)];
        let kept = screen("x.example", both, &HostPolicy::default()).unwrap();
        assert_eq!(kept, [SocketAddr::new(address("1.1.1.1"), 1)]);
    }

    proptest! {
        #[test]
        fn a_mapped_address_is_judged_as_the_one_inside(raw in any::<u32>()) {
            let v4 = Ipv4Addr::from(raw);
            prop_assert_eq!(forbidden_kind(v4.into()), forbidden_kind(v4.to_ipv6_mapped().into()));
        }
    }
}
