//! An OAuth 2.1 authorization server for remote MCP clients, beside the resource that it protects: `/mcp`.
//!
//! What it does: metadata (RFC 9728, RFC 8414), the authorization code grant with PKCE (S256 only) and a consent page,
//! rotating refresh tokens, revocation (RFC 7009), clients by the URL of their metadata document or registered by
//! themselves (RFC 7591). Clients have no secrets; a person proves who he is by a Berth token, and a client gets at most
//! what that token may ([`berth_store::Grants`]). Access tokens are good for `/mcp` at the origin that they were made
//! for, and for nothing else.

mod authorize;
mod client;
mod consent;
mod document;
mod fault;
mod metadata;
mod origin;
mod redirect;
mod registration;
mod ticket;
mod tokens;

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    routing::{get, post},
};
use berth_deploy::source::guard::HostPolicy;
use berth_schemas::Scope;
use http::{HeaderMap, HeaderValue};

use crate::rest::{Shared, throttle::Throttle};

pub use origin::Origin;

/// Largest body of a request in bytes.
const LARGEST_BODY: usize = 32 * 1024;
/// What a client gets that does not say what it wants: all that needs no second thought.
pub const USUAL_SCOPES: [Scope; 3] = [Scope::Read, Scope::Deploy, Scope::Write];

/// How the authorization server is reached and what it may reach.
#[derive(Debug, Clone, Default)]
pub struct OAuthConfig {
    /// The URL that people use, if it was configured.
    pub public_url: Option<String>,
    /// Which hosts documents of clients are fetched from.
    pub policy: HostPolicy,
    /// Whether documents may come unencrypted from this machine.
    pub allow_local: bool,
}

/// What the authorization server shares among its requests.
pub struct OAuth {
    config: OAuthConfig,
    documents: document::Documents,
    tickets: ticket::Tickets,
    registrations: Throttle,
    fetches: Throttle,
}

impl OAuth {
    /// An authorization server.
    #[must_use]
    pub fn new(config: OAuthConfig) -> Self {
        let documents = document::Documents::new(config.policy.clone(), config.allow_local);
        Self {
            config,
            documents,
            tickets: ticket::Tickets::new(),
            registrations: Throttle::default(),
            fetches: Throttle::default(),
        }
    }

    /// The origin under which a request came in.
    #[must_use]
    pub fn origin(&self, request: &http::request::Parts) -> Option<Origin> {
        Origin::of(request, self.config.public_url.as_deref())
    }

    /// What a request for `/mcp` is told that has no good token: where to get one (RFC 9728, section 5.1).
    #[must_use]
    pub fn challenge(origin: &Origin, invalid: bool) -> Option<HeaderValue> {
        Self::bearer(origin, invalid.then_some("invalid_token"), &USUAL_SCOPES)
    }

    /// What a client is told whose grant does not cover what it wanted: with which scopes it is to ask its person anew.
    /// Those that it holds are among them, because what is granted then takes the place of what was before.
    #[must_use]
    pub fn step_up(origin: &Origin, held: &[Scope], lacking: Scope) -> Option<HeaderValue> {
        let mut wanted = held.to_vec();
        wanted.push(lacking);
        wanted.sort();
        wanted.dedup();
        Self::bearer(origin, Some("insufficient_scope"), &wanted)
    }

    fn bearer(origin: &Origin, error: Option<&str>, wanted: &[Scope]) -> Option<HeaderValue> {
        let error = error.map(|error| format!(", error=\"{error}\"")).unwrap_or_default();
        let value = format!(
            "Bearer realm=\"berth\"{error}, resource_metadata=\"{}/.well-known/oauth-protected-resource/mcp\", scope=\"{}\"",
            origin.as_str(),
            scopes(wanted)
        );
        HeaderValue::try_from(value).ok()
    }
}

/// Its routes.
pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/.well-known/oauth-protected-resource", get(metadata::resource))
        .route("/.well-known/oauth-protected-resource/mcp", get(metadata::resource))
        .route("/.well-known/oauth-authorization-server", get(metadata::server))
        .route("/oauth/register", post(registration::register))
        .route("/oauth/authorize", get(authorize::ask).post(authorize::decide))
        .route("/oauth/token", post(tokens::token))
        .route("/oauth/revoke", post(tokens::revoke))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
}

/// Scopes as OAuth writes them.
fn scopes(scopes: &[Scope]) -> String {
    scopes.iter().map(|s| s.as_str()).collect::<Vec<_>>().join(" ")
}

/// The fields of a form or a query. One that comes twice is a fault (RFC 6749, section 3.1).
fn fields(text: &str) -> Result<Fields, fault::Fault> {
    let mut fields = Vec::new();
    for (name, value) in url::form_urlencoded::parse(text.as_bytes()) {
        if fields.iter().any(|(known, _)| *known == name) {
            return Err(fault::Fault::new("invalid_request", format!("{name:.40} is given twice.")));
        }
        fields.push((name.into_owned(), value.into_owned()));
    }
    Ok(Fields(fields))
}

/// Fields by name.
#[derive(Debug, Clone, Default)]
struct Fields(Vec<(String, String)>);

impl Fields {
    /// A field that is there and not empty.
    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
            .filter(|v| !v.is_empty())
    }

    /// A field that must be there.
    fn need(&self, name: &str) -> Result<&str, fault::Fault> {
        self.get(name).ok_or_else(|| fault::Fault::new("invalid_request", format!("{name} is missing.")))
    }
}

/// The fields of a body that is a form.
fn form(headers: &HeaderMap, body: &[u8]) -> Result<Fields, fault::Fault> {
    let kind = headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(fault::Fault::new(
            "invalid_request",
            "The body's Content-Type is not application/x-www-form-urlencoded.",
        ));
    }
    let text = std::str::from_utf8(body)
        .map_err(|_| fault::Fault::new("invalid_request", "The body is not text."))?;
    fields(text)
}

/// The shared state's part.
fn of(control: &Shared) -> &Arc<OAuth> {
    &control.oauth
}
