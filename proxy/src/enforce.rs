//! A host's rules at work, once per request and in this order: deny and allow, rate limit, the way to HTTPS, basic auth,
//! redirects, body size. Rewrites and headers change the request as it goes to the app, and the answer as it comes back.

use http::{StatusCode, header};
use pingora::{http::RequestHeader, protocols::http::ServerSession};

use crate::{
    basic_auth::Login,
    exchange::Exchange,
    gateway::{Gateway, Own, path_and_query},
    page::Notice,
    rules::HostRules,
};

impl Gateway {
    /// What a request is answered instead of being routed, if its host's rules say so. The rules stay with the request,
    /// also while it is held.
    pub(crate) async fn enforce(&self, session: &ServerSession, exchange: &mut Exchange) -> Option<Own> {
        let request = session.req_header();
        let https_only = {
            let routes = self.shared.routes.load();
            let route = routes.find(exchange.host(), request.uri.path())?;
            exchange.rules.clone_from(&route.rules);
            route.https_only
        };
        let (ip, tls) = (exchange.origin.ip, exchange.origin.tls);
        let rules = exchange.rules.clone();
        if let Some(rules) = &rules {
            if !rules.lets_in(ip) {
                return Some(Own::Notice(Notice::forbidden()));
            }
            if let Some(wait) = rules.over_limit(ip) {
                return Some(Own::Notice(Notice::rate_limited(wait)));
            }
        }
        if https_only && !tls {
            let port = self.options.public_https_port.map(|port| format!(":{port}")).unwrap_or_default();
            let to = format!("https://{}{port}{}", exchange.host(), path_and_query(request));
            return Some(Own::Redirect(StatusCode::PERMANENT_REDIRECT, to));
        }
        let rules = rules?;
        if let Some(refused) = self.login(&rules, request, exchange).await {
            return Some(Own::Notice(refused));
        }
        if let Some((status, to)) = rules.redirect(request.uri.path(), request.uri.query()) {
            return Some(Own::Redirect(status, to));
        }
        let announced = request.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        match (rules.max_body, announced.and_then(|length| length.parse::<u64>().ok())) {
            (Some(most), Some(length)) if length > most => Some(Own::Notice(Notice::body_too_large(most))),
            _ => None,
        }
    }

    async fn login(&self, rules: &HostRules, request: &RequestHeader, exchange: &Exchange) -> Option<Notice> {
        let guard = rules.guard.as_ref().filter(|guard| !guard.is_open(request.uri.path()))?;
        match self.shared.logins.check(guard, &request.headers, exchange.origin.ip).await {
            Login::Welcome => None,
            Login::Refused => Some(Notice::login_required()),
            Login::Later(wait) => Some(Notice::rate_limited(wait)),
        }
    }
}

/// Changes a request on its way to the app.
pub(crate) fn change_request(request: &mut RequestHeader, exchange: &Exchange) -> pingora::Result<()> {
    let Some(rules) = &exchange.rules else { return Ok(()) };
    if rules.guard.as_ref().is_some_and(|guard| !guard.is_open(request.uri.path())) {
        // The password was for this door, not for the app.
        request.remove_header(&header::AUTHORIZATION);
    }
    if let Some(path) = rules.rewrite(request.uri.path()) {
        let target = match request.uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path,
        };
        request.set_raw_path(target.as_bytes())?;
    }
    rules.request_headers.apply_to_request(request)
}
