//! Under which origin a request came in. Issuer, resource and all URLs follow from it, because clients compare them with
//! what their users typed.

use std::net::IpAddr;

use http::{HeaderMap, header, request::Parts, uri::Authority};

use crate::rest::listener::Peer;

/// Scheme, host and port, without a slash at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

impl Origin {
    /// The origin of a request whose Host was checked.
    #[must_use]
    pub fn of(parts: &Parts, public_url: Option<&str>) -> Option<Self> {
        let host = parts.headers.get(header::HOST).and_then(|v| v.to_str().ok());
        let host = host.or_else(|| parts.uri.authority().map(Authority::as_str))?;
        let near = parts.extensions.get::<Peer>().is_some_and(|p: &Peer| near(p.0.ip()));
        Self::from_host(host, &parts.headers, near, public_url)
    }

    fn from_host(host: &str, headers: &HeaderMap, near: bool, public_url: Option<&str>) -> Option<Self> {
        let host = host.parse::<Authority>().ok()?.as_str().to_ascii_lowercase();
        if let Some(public) = public_url
            && let Some((scheme, rest)) = public.split_once("://")
        {
            let authority = rest.split('/').next().unwrap_or_default().to_ascii_lowercase();
            let default = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
            if host.trim_end_matches(default) == authority.trim_end_matches(default) {
                return Some(Self(format!("{}://{authority}", scheme.to_ascii_lowercase())));
            }
        }
        // Only a proxy on this machine, or our own data plane, knows better than we how its client came.
        let told = headers.get("x-forwarded-proto").and_then(|v| v.to_str().ok()).unwrap_or_default();
        let scheme = if near && told.trim().eq_ignore_ascii_case("https") { "https" } else { "http" };
        Some(Self(format!("{scheme}://{host}")))
    }

    /// The origin as text: it is the issuer, too.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The URL of what is protected.
    #[must_use]
    pub fn resource(&self) -> String {
        format!("{}/mcp", self.0)
    }

    /// The resource that a client means, if it is ours: clients differ in a slash, a query or the path.
    #[must_use]
    pub fn means(&self, resource: &str) -> bool {
        let plain = resource.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
        let (scheme, rest) = plain.split_once("://").unwrap_or(("", plain));
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let origin = format!("{}://{}", scheme.to_ascii_lowercase(), host.to_ascii_lowercase());
        origin == self.0 && matches!(path, "" | "mcp")
    }
}

fn near(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_url_counts_under_its_name_and_the_host_elsewhere() {
        let https: HeaderMap =
            [("x-forwarded-proto".parse().unwrap(), "https".parse().unwrap())].into_iter().collect();
        let none = HeaderMap::new();
        let of =
            |host, headers: &HeaderMap, near, url| Origin::from_host(host, headers, near, url).unwrap().0;
        let url = Some("https://Berth.example.com");
        assert_eq!(of("berth.example.com", &none, false, url), "https://berth.example.com");
        assert_eq!(of("berth.example.com:443", &none, false, url), "https://berth.example.com");
        assert_eq!(of("127.0.0.1:7700", &none, true, url), "http://127.0.0.1:7700");
        assert_eq!(of("b.example", &https, true, None), "https://b.example");
        assert_eq!(of("b.example", &https, false, None), "http://b.example");
    }

    #[test]
    fn only_the_own_endpoint_is_meant() {
        let origin = Origin("https://berth.example.com".into());
        for good in ["/mcp", "/mcp/", "", "/", "/mcp?tools=all"] {
            assert!(origin.means(&format!("https://berth.example.com{good}")), "{good}");
        }
        for bad in [
            "http://berth.example.com/mcp",
            "https://berth.example.com.evil.example/mcp",
            "https://berth.example.com:8443/mcp",
            "https://berth.example.com/v1",
            "https://evil.example/mcp",
            "",
        ] {
            assert!(!origin.means(bad), "{bad}");
        }
    }
}
