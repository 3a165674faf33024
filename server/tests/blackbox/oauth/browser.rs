//! What a person's browser does, and what a client does, each step by hand.

use std::collections::HashMap;

use reqwest::{Method, header};
use serde_json::{Value, json};
use url::form_urlencoded;

use super::{CALLBACK, CHALLENGE, VERIFIER};
use crate::harness::{Answer, Berth, Rest};

/// A browser with one cookie and one page.
#[derive(Clone)]
pub(super) struct Browser {
    rest: Rest,
    cookie: Option<String>,
    ticket: String,
}

impl Browser {
    pub(super) fn new(berth: &Berth) -> Self {
        Self { rest: berth.anonymous(), cookie: None, ticket: String::new() }
    }

    /// The same, sending a header.
    pub(super) fn with_header(&self, name: &str, value: &str) -> Self {
        Self { rest: self.rest.clone().header(name, value), ..self.clone() }
    }

    /// The same without the cookie.
    pub(super) fn without_cookie(&self) -> Self {
        Self { cookie: None, ..self.clone() }
    }

    /// Opens a page.
    pub(super) async fn open(&mut self, path: &str) -> Answer {
        let page = self.rest.get(path).await;
        if let Some(cookie) = page.header("set-cookie").split(';').next().filter(|c| !c.is_empty()) {
            self.cookie = Some(cookie.to_owned());
        }
        let after = page.text.split("name=\"ticket\" value=\"").nth(1).and_then(|t| t.split('"').next());
        self.ticket = after.unwrap_or_default().to_owned();
        page
    }

    /// Sends the page's form.
    pub(super) async fn answer(&self, fields: &[(&str, &str)]) -> Answer {
        let mut rest = self.rest.clone();
        if let Some(cookie) = &self.cookie {
            rest = rest.header("cookie", cookie);
        }
        let fields = fields.iter().copied().chain([("ticket", self.ticket.as_str())]);
        post(&rest, "/oauth/authorize", fields).await
    }
}

/// A client that registered.
pub(super) struct Flow {
    rest: Rest,
    resource: String,
    pub(super) client: String,
}

impl Flow {
    pub(super) async fn new(berth: &Berth) -> Self {
        let body = json!({ "redirect_uris": [CALLBACK], "client_name": "Test <client>" });
        let registered = berth.anonymous().post("/oauth/register", body).await.ok();
        let client = registered["client_id"].as_str().expect("an id").to_owned();
        Self { rest: berth.anonymous(), resource: format!("{}/mcp", berth.control_url), client }
    }

    /// The same as another client.
    pub(super) fn of(self, client: &str) -> Self {
        Self { client: client.to_owned(), ..self }
    }

    /// The same client after a restart of the daemon, perhaps at another port.
    pub(super) fn at(self, berth: &Berth) -> Self {
        Self { rest: berth.anonymous(), ..self }
    }

    /// The address that the person's browser opens.
    pub(super) fn url(&self, changes: &[(&str, &str)]) -> String {
        let usual = [
            ("response_type", "code"),
            ("client_id", self.client.as_str()),
            ("redirect_uri", "http://127.0.0.1:40001/callback"),
            ("state", "s&1"),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
            ("resource", self.resource.as_str()),
        ];
        let query = changed(&usual, changes);
        format!(
            "/oauth/authorize?{}",
            form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish()
        )
    }

    /// Turns a code into tokens.
    pub(super) async fn token(&self, changes: &[(&str, &str)]) -> Answer {
        let usual = [
            ("grant_type", "authorization_code"),
            ("client_id", self.client.as_str()),
            ("redirect_uri", "http://127.0.0.1:40001/callback"),
            ("code_verifier", VERIFIER),
            ("resource", self.resource.as_str()),
        ];
        post(&self.rest, "/oauth/token", changed(&usual, changes)).await
    }

    /// Takes new tokens for a refresh token.
    pub(super) async fn refresh(&self, token: &str) -> Answer {
        let fields = [("grant_type", "refresh_token"), ("client_id", &self.client), ("refresh_token", token)];
        self.post("/oauth/token", &fields).await
    }

    /// Sends a form.
    pub(super) async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        post(&self.rest, path, fields.iter().copied()).await
    }

    /// The whole way to tokens: a person with this token approves.
    pub(super) async fn approved(&self, berth: &Berth, token: &str, scopes: &[&str]) -> Value {
        let mut browser = Browser::new(berth);
        browser.open(&self.url(&[("scope", &scopes.join(" "))])).await;
        let ticks: Vec<String> = scopes.iter().map(|s| format!("scope_{s}")).collect();
        let fields = [("decision", "approve"), ("token", token)].into_iter();
        let fields: Vec<_> = fields.chain(ticks.iter().map(|t| (t.as_str(), "on"))).collect();
        let sent = browser.answer(&fields).await;
        assert_eq!(sent.status, 303, "{}", sent.text);
        self.token(&[("code", &query(sent.header("location"))["code"])]).await.ok()
    }
}

/// The parameters of an address.
pub(super) fn query(url: &str) -> HashMap<String, String> {
    let query = url.split_once('?').map(|(_, query)| query).unwrap_or_default();
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

fn changed<'a>(usual: &[(&'a str, &'a str)], changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let kept = usual.iter().filter(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
    kept.chain(changes).copied().collect()
}

async fn post<'a>(rest: &Rest, path: &str, fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Answer {
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let request = rest.request(Method::POST, path).body(body);
    let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    let response = request.send().await.expect("an answer");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Answer { status, headers, text: response.text().await.expect("a body") }
}
