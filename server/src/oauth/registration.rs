//! Dynamic registration (RFC 7591), for clients that have no metadata document. Anybody may register: it gives nothing
//! but an id, is bounded in rate and number, and what nobody approves is forgotten.

use std::time::Instant;

use axum::{
    Json,
    body::Bytes,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use berth_store::NewOauthClient;
use http::{StatusCode, header};
use serde::Deserialize;
use serde_json::json;

use super::{LARGEST_BODY, client, fault::Fault, of, redirect};
use crate::rest::{Shared, auth};

/// What a client says of itself, as far as it matters here.
#[derive(Deserialize)]
struct Metadata {
    redirect_uris: Vec<String>,
    #[serde(default)]
    client_name: Option<String>,
    #[serde(default)]
    grant_types: Option<Vec<String>>,
    #[serde(default)]
    response_types: Option<Vec<String>>,
}

/// Registers a client.
pub(super) async fn register(State(control): State<Shared>, request: Request) -> Response {
    let mut response = match accept(&control, request).await {
        Ok(response) => response,
        Err(fault) => fault.into_response(),
    };
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, header::HeaderValue::from_static("*"));
    response
}

async fn accept(control: &Shared, request: Request) -> Result<Response, Fault> {
    let (parts, body) = request.into_parts();
    let address = auth::address(&parts);
    let (registrations, now) = (&of(control).registrations, Instant::now());
    registrations
        .admit(address, "", now)
        .map_err(|wait| Fault::too_often("Too many clients registered from this address.", wait))?;
    registrations.record(address, "", false, now);
    let body = read(body).await?;
    let wrong = |text: String| Fault::new("invalid_client_metadata", text);
    let asked: Metadata = serde_json::from_slice(&body)
        .map_err(|e| wrong(format!("The body is no client's metadata: {e}.")))?;
    if asked.redirect_uris.is_empty() || asked.redirect_uris.len() > client::MAX_REDIRECTS {
        let text = format!("A client has 1 to {} redirect_uris.", client::MAX_REDIRECTS);
        return Err(Fault::new("invalid_redirect_uri", text));
    }
    for uri in &asked.redirect_uris {
        redirect::check(uri).map_err(|why| Fault::new("invalid_redirect_uri", why))?;
    }
    let lacks =
        |list: &Option<Vec<String>>, word: &str| list.as_ref().is_some_and(|l| !l.iter().any(|w| w == word));
    if lacks(&asked.grant_types, "authorization_code") || lacks(&asked.response_types, "code") {
        return Err(wrong(
            "Only the grant type authorization_code with the response type code is there.".into(),
        ));
    }
    let name = client::name(asked.client_name.as_deref().unwrap_or_default());
    let new = NewOauthClient { name, redirects: asked.redirect_uris };
    let client = control.context.store.oauth_clients().register(new).await?;
    // Whatever it asked for: clients have no secrets here, and the answer says so.
    let body = json!({
        "client_id": client.id,
        "client_id_issued_at": client.created_at.0 / 1_000_000,
        "client_name": client.name,
        "redirect_uris": client.redirects,
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
    });
    Ok((StatusCode::CREATED, Json(body)).into_response())
}

/// A body of bounded size and time.
pub(super) async fn read(body: axum::body::Body) -> Result<Bytes, Fault> {
    let reading = axum::body::to_bytes(body, LARGEST_BODY);
    let read = tokio::time::timeout(std::time::Duration::from_secs(10), reading).await;
    match read {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => {
            let text = format!("The body broke off or is larger than {} KiB.", LARGEST_BODY >> 10);
            Err(Fault::new("invalid_request", text))
        }
        Err(_) => Err(Fault::new("invalid_request", "The body took longer than 10 s.")),
    }
}
