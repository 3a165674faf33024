//! From a request to a principal: the one place.
//!
//! A token comes in the Authorization header and nowhere else; a query string ends up in logs and histories.

use std::{net::IpAddr, net::Ipv4Addr, time::Instant};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use base64::Engine as _;
use berth_mcp::Lacking;
use berth_schemas::{Code, Scope};
use berth_store::model::Principal;
use http::{HeaderMap, HeaderValue, header, request::Parts};

use super::{Shared, listener::Peer, problem::Refusal};
use crate::oauth::{OAuth, Origin};

/// Puts the caller's [`Principal`] into the request, or refuses it.
pub async fn require(State(control): State<Shared>, request: Request, next: Next) -> Response {
    let token = bearer(request.headers()).map(str::to_owned);
    pass(control, request, next, token, Door::Api).await
}

/// The same for MCP, where access tokens of grants are good, too, and a client without one is told where to get it.
pub async fn require_for_mcp(State(control): State<Shared>, request: Request, next: Next) -> Response {
    let token = bearer(request.headers()).map(str::to_owned);
    let (parts, body) = request.into_parts();
    let door = control.oauth.origin(&parts).map_or(Door::Api, Door::Mcp);
    pass(control, Request::from_parts(parts, body), next, token, door).await
}

/// The same for git, which knows passwords: the token is the password, whatever the user's name.
pub async fn require_for_git(State(control): State<Shared>, request: Request, next: Next) -> Response {
    let token = bearer(request.headers()).map(str::to_owned).or_else(|| basic(request.headers()));
    pass(control, request, next, token, Door::Git).await
}

/// Which way a request comes in.
enum Door {
    Api,
    Git,
    /// MCP under this origin.
    Mcp(Origin),
}

impl Door {
    /// What a request without a good token is told; `invalid` when it had one that is not.
    fn challenge(&self, invalid: bool) -> HeaderValue {
        let plain = match (self, invalid) {
            (Self::Mcp(origin), _) => OAuth::challenge(origin, invalid),
            (Self::Git, _) => Some(HeaderValue::from_static("Basic realm=\"berth\", charset=\"UTF-8\"")),
            (Self::Api, _) => None,
        };
        plain.unwrap_or(match invalid {
            true => HeaderValue::from_static("Bearer realm=\"berth\", error=\"invalid_token\""),
            false => HeaderValue::from_static("Bearer realm=\"berth\""),
        })
    }

    /// Whether a principal may come in here: who acts by a grant only where the grant is for.
    fn admits(&self, principal: &Principal) -> bool {
        match (self, &principal.grant) {
            (_, None) => true,
            (Self::Mcp(origin), Some(grant)) => grant.resource == origin.resource(),
            (Self::Api | Self::Git, Some(_)) => false,
        }
    }
}

async fn pass(
    control: Shared,
    mut request: Request,
    next: Next,
    token: Option<String>,
    door: Door,
) -> Response {
    match principal(&control, &request, token.as_deref(), &door) {
        Ok(principal) => {
            let (lacking, held) = (Lacking::default(), principal.scopes.clone());
            let by_grant = principal.grant.is_some();
            request.extensions_mut().insert(lacking.clone());
            request.extensions_mut().insert(principal);
            let response = next.run(request).await;
            match (door, lacking.scope()) {
                (Door::Mcp(origin), Some(scope)) if by_grant => step_up(&origin, &held, scope),
                _ => response,
            }
        }
        Err(refusal) => refusal.into_response(),
    }
}

fn principal(
    control: &Shared,
    request: &Request,
    token: Option<&str>,
    door: &Door,
) -> Result<Principal, Refusal> {
    let address = client(peer(request.extensions()), request.headers());
    let missing = "This needs a token, and the request carries none.";
    let token = token.ok_or_else(|| unauthenticated(door.challenge(false), missing))?;
    control.throttle.admit(address, token, Instant::now()).map_err(|wait| {
        Refusal::new(Code::RateLimited, "Too many wrong tokens came from this address.")
            .hint(format!("Wait {} seconds, and check the token.", wait.as_secs() + 1))
            .header(header::RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1))
    })?;
    let found = control.authenticate(token).filter(|principal| door.admits(principal));
    control.throttle.record(address, token, found.is_some(), Instant::now());
    let wrong = "The token is not valid: it is unknown, revoked, expired or not for this.";
    found.ok_or_else(|| unauthenticated(door.challenge(true), wrong))
}

/// The answer to a client whose grant does not go far enough: it can ask its person for more, which a token's owner
/// would have to do by hand and so reads in the tool's answer.
fn step_up(origin: &Origin, held: &[Scope], lacking: Scope) -> Response {
    let detail = format!("This needs the scope {}, which was not granted.", lacking.as_str());
    let refusal = Refusal::new(Code::Forbidden, detail)
        .hint("Ask the person for it: authorize again with the scopes that WWW-Authenticate names.");
    match OAuth::step_up(origin, held, lacking) {
        Some(value) => refusal.header(header::WWW_AUTHENTICATE, value),
        None => refusal,
    }
    .into_response()
}

/// Whom failures of a request are counted for.
#[must_use]
pub fn address(parts: &Parts) -> IpAddr {
    client(peer(&parts.extensions), &parts.headers)
}

fn peer(extensions: &http::Extensions) -> IpAddr {
    extensions.get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |p| p.0.ip())
}

/// Whom failures are counted for: what comes through the data plane, or another proxy on this machine, comes from the
/// last address that it names.
pub(super) fn client(peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let last = headers.get_all("x-forwarded-for").iter().next_back();
    let last = last.filter(|_| peer.is_loopback()).and_then(|value| value.to_str().ok());
    last.and_then(|value| value.rsplit(',').next()?.trim().parse().ok()).unwrap_or(peer)
}

fn unauthenticated(challenge: HeaderValue, detail: &str) -> Refusal {
    Refusal::new(Code::Unauthenticated, detail)
        .hint("Send `Authorization: Bearer <token>`; on the command line, `berth login` keeps one for you.")
        .header(header::WWW_AUTHENTICATE, challenge)
}

/// The token of a request that has exactly one well-formed Authorization header.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    credential(headers, "bearer")
}

/// The password of HTTP Basic (RFC 7617).
fn basic(headers: &HeaderMap) -> Option<String> {
    let decoded = base64::engine::general_purpose::STANDARD.decode(credential(headers, "basic")?).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (_, password) = text.split_once(':')?;
    (!password.is_empty()).then(|| password.to_owned())
}

fn credential<'a>(headers: &'a HeaderMap, wanted: &str) -> Option<&'a str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case(wanted) && !token.is_empty() && token.len() <= 1024).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_on_this_machine_is_believed_about_the_client() {
        let headers: HeaderMap = [("x-forwarded-for", "192.0.2.1, 192.0.2.2")]
            .iter()
            .map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap()))
            .collect();
        let (here, there): (IpAddr, IpAddr) = ("127.0.0.1".parse().unwrap(), "192.0.2.9".parse().unwrap());
        assert_eq!(client(here, &headers), "192.0.2.2".parse::<IpAddr>().unwrap());
        assert_eq!(client(there, &headers), there);
        assert_eq!(client(here, &HeaderMap::new()), here);
    }

    #[test]
    fn one_bearer_header_is_a_token() {
        let headers = |values: &[&'static str]| {
            values.iter().map(|v| (header::AUTHORIZATION, HeaderValue::from_static(v))).collect::<HeaderMap>()
        };
        assert_eq!(bearer(&headers(&["bearer  abc "])), Some("abc"));
        assert_eq!(bearer(&headers(&["Basic abc"])), None);
        assert_eq!(bearer(&headers(&["Bearer a", "Bearer b"])), None);
        assert_eq!(bearer(&headers(&["Bearer "])), None);
        let password = |value| basic(&headers(&[value]));
        assert_eq!(password("Basic Z2l0OmE6Yg=="), Some("a:b".into()));
        for bad in ["Basic Z2l0Og==", "Basic Z2l0", "Basic !", "Bearer Z2l0OmE6Yg=="] {
            assert_eq!(password(bad), None, "{bad}");
        }
    }
}
