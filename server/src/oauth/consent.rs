//! The consent page: plain HTML without a script. It cannot be framed, and its form leads to us and, by our redirect, to
//! the client's address and nowhere else.

use std::fmt::Write as _;

use axum::response::{Html, IntoResponse, Response};
use berth_schemas::Scope;
use http::{HeaderValue, StatusCode, header};

use super::{USUAL_SCOPES, authorize::Asked, redirect};
use crate::rest::docs::escape;

/// The page that asks.
pub(super) fn page(asked: &Asked, ticket: &str, error: Option<&str>) -> Response {
    let mut body = String::new();
    let name = escape(&asked.client_name);
    let _ = writeln!(body, "<h1>Let {name} use Berth?</h1>");
    if let Some(error) = error {
        let _ = writeln!(body, "<p id=\"error\" role=\"alert\">{}</p>", escape(error));
    }
    let _ = match &asked.vouched_by {
        Some(host) => writeln!(body, "<p>Its name is vouched for by <b>{}</b>.</p>", escape(host)),
        None => writeln!(body, "<p>This is only what it calls itself; nobody vouches for it.</p>"),
    };
    let place = redirect::place(&asked.redirect_uri);
    let _ = writeln!(
        body,
        "<p>If you approve, the access goes to <b>{}</b>. Approve only if you started this yourself, just now.</p>",
        escape(&place)
    );
    let _ = write!(
        body,
        "<form method=\"post\" action=\"/oauth/authorize\">\n<input type=\"hidden\" name=\"ticket\" value=\"{}\">\n\
         <fieldset><legend>It may</legend>\n",
        escape(ticket)
    );
    for scope in &asked.scopes {
        // What is more than usual wants a hand that ticks it.
        let checked = if USUAL_SCOPES.contains(scope) { " checked" } else { "" };
        let _ = writeln!(
            body,
            "<label><input type=\"checkbox\" name=\"scope_{0}\"{checked}> <b>{0}</b>: {1}</label>",
            scope.as_str(),
            meaning(*scope)
        );
    }
    body.push_str(
        "<label><input type=\"checkbox\" name=\"propose\"> Only propose changes: each waits until you approve it</label>\n\
         <p class=\"muted\">In any case no more than the token may that you approve it with.</p></fieldset>\n\
         <p><label for=\"projects\">Only in these projects (empty: all of the token's)</label>\n\
         <input id=\"projects\" name=\"projects\" autocomplete=\"off\" spellcheck=\"false\" maxlength=\"400\"></p>\n\
         <p><label for=\"token\">Your access token</label>\n\
         <input id=\"token\" name=\"token\" type=\"password\" autocomplete=\"off\" spellcheck=\"false\" maxlength=\"1024\"></p>\n\
         <p><button name=\"decision\" value=\"approve\">Approve</button>\n\
         <button name=\"decision\" value=\"deny\">Deny</button></p>\n</form>\n\
         <p class=\"muted\">The client does not get to see the token. End its access at any time with \
         <code>berth grant revoke</code>, or by revoking the token.</p>\n",
    );
    let status = if error.is_some() { StatusCode::FORBIDDEN } else { StatusCode::OK };
    let to = redirect::source(&asked.redirect_uri).unwrap_or_default();
    answer(status, &body, &format!("'self' {to}"))
}

/// The page that says why nothing is asked.
pub(super) fn fault(text: &str, status: StatusCode) -> Response {
    let body = format!("<h1>This does not work</h1>\n<p id=\"error\" role=\"alert\">{}</p>\n", escape(text));
    answer(status, &body, "'none'")
}

fn meaning(scope: Scope) -> &'static str {
    match scope {
        Scope::Read => "see apps, logs and everything else but the values of secrets",
        Scope::Deploy => "deploy, cancel, roll back, restart",
        Scope::Write => "create, configure and delete apps, domains and variables",
        Scope::Secrets => "reveal the values of secrets",
        Scope::Admin => "manage tokens and the platform itself: everything",
    }
}

fn answer(status: StatusCode, body: &str, form_action: &str) -> Response {
    let page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Berth: access</title>\n\
         <link rel=\"stylesheet\" href=\"/panel.css\">\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    );
    let policy = format!(
        "default-src 'none'; style-src 'self'; form-action {form_action}; frame-ancestors 'none'; base-uri 'none'"
    );
    let mut response = (status, Html(page)).into_response();
    if let Ok(policy) = HeaderValue::try_from(policy) {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    // With no referrer at all, browsers would send the form with the origin "null".
    response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    response
}
