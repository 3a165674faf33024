//! Where a browser may be sent back to.

use std::net::IpAddr;

use url::Url;

/// Longest address.
const MAX_LENGTH: usize = 2000;
/// Schemes that a browser itself gives a meaning; an application of its own has another.
const NOT_APPS: [&str; 13] = [
    "javascript",
    "data",
    "file",
    "blob",
    "about",
    "vbscript",
    "ftp",
    "ws",
    "wss",
    "view-source",
    "chrome",
    "filesystem",
    "mailto",
];

/// Checks an address that a client registers: https, http on this very machine, or a scheme of an application.
pub(super) fn check(text: &str) -> Result<(), String> {
    let wrong =
        |why: &str| Err(format!("The redirect URI {:?} {why}.", text.chars().take(100).collect::<String>()));
    if text.len() > MAX_LENGTH || text.chars().any(|c| c.is_control() || c.is_whitespace() || !c.is_ascii()) {
        return wrong("is too long or has characters that no address has");
    }
    let Ok(url) = Url::parse(text) else { return wrong("is no absolute URL") };
    if url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return wrong("has a fragment or credentials, which it must not have");
    }
    match url.scheme() {
        "https" => Ok(()),
        "http" if is_loopback(&url) => Ok(()),
        "http" => wrong("is unencrypted and does not lead to this very machine"),
        scheme if NOT_APPS.contains(&scheme) => wrong("has a scheme that no application has"),
        _ if !text.contains("://") => wrong("has no host"),
        _ => Ok(()),
    }
}

/// Whether a client that registered `registered` may be sent to `asked`: they are the same, or differ only in the port of
/// a program on the user's machine, which gets another one each time (RFC 8252, section 7.3).
pub(super) fn matches(registered: &str, asked: &str) -> bool {
    if registered == asked {
        return true;
    }
    let (Ok(mut a), Ok(mut b)) = (Url::parse(registered), Url::parse(asked)) else { return false };
    if a.scheme() != "http" || !is_loopback(&a) || !is_loopback(&b) {
        return false;
    }
    let _ = (a.set_port(None), b.set_port(None));
    a == b && check(asked).is_ok()
}

/// For people: the host, or the application's scheme.
pub(super) fn place(text: &str) -> String {
    let Ok(url) = Url::parse(text) else { return text.chars().take(100).collect() };
    match (url.scheme(), url.host_str()) {
        ("http" | "https", Some(host)) if is_loopback(&url) => {
            format!("{host} (a program on your own machine)")
        }
        ("http" | "https", Some(host)) => host.to_owned(),
        (scheme, _) => format!("the application that opens {scheme}: links"),
    }
}

/// What a page's policy must allow so that its form may lead there in the end.
pub(super) fn source(text: &str) -> Option<String> {
    let url = Url::parse(text).ok()?;
    match url.scheme() {
        "http" | "https" => Some(url.origin().ascii_serialization()),
        scheme => Some(format!("{scheme}:")),
    }
}

/// The address with these parameters added.
pub(super) fn with(text: &str, parameters: &[(&str, &str)]) -> Option<String> {
    let mut url = Url::parse(text).ok()?;
    url.query_pairs_mut().extend_pairs(parameters);
    Some(url.into())
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_safe_addresses_are_registered() {
        for good in [
            "https://claude.ai/api/mcp/auth_callback",
            "http://localhost:3118/callback",
            "http://127.0.0.1/callback",
            "http://[::1]:1/",
            "cursor://anysphere.cursor-mcp/oauth/callback",
            "com.example.app://callback",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "http://claude.ai/callback",
            "http://localhost.evil.example/",
            "javascript://x/%0aalert(1)",
            "data:text/html,x",
            "file:///etc/passwd",
            "https://a.example/#x",
            "https://u:p@a.example/",
            "https://a.example/ x",
            "https://ä.example/",
            "/callback",
            "app:callback",
            "",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_port_of_loopback_may_differ_and_nothing_else() {
        let registered = "http://127.0.0.1/callback";
        for good in ["http://127.0.0.1/callback", "http://127.0.0.1:40001/callback"] {
            assert!(matches(registered, good), "{good}");
        }
        for bad in [
            "http://localhost:40001/callback",
            "http://127.0.0.1:40001/callback/",
            "http://127.0.0.1:40001/callback?x=1",
            "https://127.0.0.1/callback",
            "http://127.0.0.1.evil.example/callback",
            "http://u@127.0.0.1/callback",
        ] {
            assert!(!matches(registered, bad), "{bad}");
        }
        assert!(!matches("https://a.example/cb", "https://a.example:8443/cb"));
        assert!(!matches("https://a.example/cb", "https://a.example/cb/../evil"));
    }

    #[test]
    fn parameters_join_what_is_there() {
        let url = with("https://a.example/cb?x=1", &[("code", "a b"), ("iss", "https://b")]).unwrap();
        assert_eq!(url, "https://a.example/cb?x=1&code=a+b&iss=https%3A%2F%2Fb");
        assert_eq!(source("cursor://x/y").unwrap(), "cursor:");
        assert_eq!(source("https://a.example/cb").unwrap(), "https://a.example");
    }
}
