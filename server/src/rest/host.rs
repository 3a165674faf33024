//! Which names the control plane answers to.
//!
//! A web page can make a browser send requests to 127.0.0.1 under a name of its own (DNS rebinding); such a
//! request carries that name. So only names that the admin gave, loopback names, and the very address that
//! the connection came in on are served.

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use berth_schemas::Code;
use http::{header, uri::Authority};

use super::{Shared, listener::Local, problem::Refusal};

/// The allow-list.
#[derive(Debug, Clone)]
pub struct AllowedHosts(Vec<String>);

impl AllowedHosts {
    /// Allows loopback names and these (lower case, without ports).
    #[must_use]
    pub fn new(names: Vec<String>) -> Self {
        Self(names)
    }

    /// The names that were given, besides the loopback names.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// Whether a request for `host`, which may have a port, on a connection to `local` is served.
    #[must_use]
    pub fn allows(&self, host: &str, local: Option<SocketAddr>) -> bool {
        let Ok(authority) = host.parse::<Authority>() else { return false };
        if host.contains('@') {
            return false;
        }
        let name = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        match name.parse::<IpAddr>() {
            Ok(ip) => {
                ip.is_loopback()
                    || local.is_some_and(|l| l.ip().to_canonical() == ip)
                    || self.0.contains(&name)
            }
            Err(_) => name == "localhost" || name.ends_with(".localhost") || self.0.contains(&name),
        }
    }
}

/// Refuses requests under any other name.
pub async fn check(State(control): State<Shared>, request: Request, next: Next) -> Response {
    // The one path that apps' own hosts lead to; it wants a DSN's key.
    if request.uri().path().trim_end_matches('/') == berth_deploy::TUNNEL_PATH {
        return next.run(request).await;
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let named = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok(),
        (None, None) => request.uri().authority().map(Authority::as_str),
        // Two Host headers: whoever is in between may have believed the other one.
        _ => None,
    };
    let local = request.extensions().get::<Local>().map(|l| l.0);
    if named.is_some_and(|host| control.hosts.allows(host, local)) {
        return next.run(request).await;
    }
    Refusal::new(Code::NotFound, "The Berth API does not answer under this host name.")
        .hint("If it should, add the name to control_hosts or set public_url in the daemon's configuration.")
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_given_loopback_and_own_names_are_served() {
        let hosts = AllowedHosts::new(vec!["berth.example.com".into()]);
        let local = Some("192.0.2.1:7700".parse().unwrap());
        for good in [
            "localhost",
            "LOCALHOST:7700",
            "127.0.0.1:7700",
            "[::1]:7700",
            "berth.example.com:443",
            "192.0.2.1:7700",
        ] {
            assert!(hosts.allows(good, local), "{good}");
        }
        for bad in [
            "evil.example",
            "evil.example@localhost",
            "berth.example.com.evil.example",
            "192.0.2.2",
            "",
            "a b",
        ] {
            assert!(!hosts.allows(bad, local), "{bad}");
        }
    }
}
