//! What clients read first: which server protects `/mcp` (RFC 9728) and what that server can do (RFC 8414).

use axum::{
    Json,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use berth_schemas::Scope;
use http::{HeaderValue, header};
use serde_json::{Value, json};

use super::{Origin, USUAL_SCOPES, fault::Fault, of};
use crate::rest::Shared;

/// The protected resource.
pub(super) async fn resource(State(control): State<Shared>, request: Request) -> Response {
    answer(&control, request, |origin| {
        json!({
            "resource": origin.resource(),
            "resource_name": "Berth",
            "authorization_servers": [origin.as_str()],
            "scopes_supported": USUAL_SCOPES.map(Scope::as_str),
            "bearer_methods_supported": ["header"],
            "resource_documentation": format!("{}/docs", origin.as_str()),
        })
    })
}

/// The authorization server.
pub(super) async fn server(State(control): State<Shared>, request: Request) -> Response {
    answer(&control, request, |origin| {
        let at = |path: &str| format!("{}{path}", origin.as_str());
        json!({
            "issuer": origin.as_str(),
            "authorization_endpoint": at("/oauth/authorize"),
            "token_endpoint": at("/oauth/token"),
            "registration_endpoint": at("/oauth/register"),
            "revocation_endpoint": at("/oauth/revoke"),
            "scopes_supported": Scope::ALL.map(Scope::as_str),
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "grant_types_supported": ["authorization_code", "refresh_token"],
            "token_endpoint_auth_methods_supported": ["none"],
            "revocation_endpoint_auth_methods_supported": ["none"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": true,
            "client_id_metadata_document_supported": true,
            "protected_resources": [origin.resource()],
            "service_documentation": at("/docs"),
        })
    })
}

fn answer(control: &Shared, request: Request, document: impl Fn(&Origin) -> Value) -> Response {
    let (parts, _) = request.into_parts();
    let Some(origin) = of(control).origin(&parts) else {
        return Fault::new("invalid_request", "The request names no host.").into_response();
    };
    let mut response = Json(document(&origin)).into_response();
    // Nothing in it is secret, and clients that run in a browser read it, too.
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}
