//! The token endpoint, and revocation.

use std::{net::IpAddr, time::Instant};

use axum::{
    Json,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use berth_store::{Issued, Presented};
use http::{StatusCode, header};
use serde_json::json;

use super::{Fields, Origin, client, document::Documents, fault::Fault, form, of, registration, scopes};
use crate::rest::{Shared, auth};

/// Gives tokens for a code or a refresh token.
pub(super) async fn token(State(control): State<Shared>, request: Request) -> Response {
    open(give(&control, request).await)
}

/// Takes a token back (RFC 7009).
pub(super) async fn revoke(State(control): State<Shared>, request: Request) -> Response {
    open(take_back(&control, request).await)
}

/// Clients that run in a browser may read the answer: it goes by no cookie.
fn open(answer: Result<Response, Fault>) -> Response {
    let mut response = answer.unwrap_or_else(IntoResponse::into_response);
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, header::HeaderValue::from_static("*"));
    response
}

async fn give(control: &Shared, request: Request) -> Result<Response, Fault> {
    let (parts, body) = request.into_parts();
    let address = auth::address(&parts);
    let origin = of(control).origin(&parts);
    let origin = origin.ok_or_else(|| Fault::new("invalid_request", "The request names no host."))?;
    let fields = form(&parts.headers, &registration::read(body).await?)?;
    let client_id = fields.need("client_id")?;
    let resource = resource(&fields, &origin)?;
    let issued = match fields.need("grant_type")? {
        "authorization_code" => {
            let code = fields.need("code")?;
            admit(control, address, code)?;
            let verifier = fields.need("code_verifier")?;
            let redirect_uri = fields.get("redirect_uri");
            let shown = Presented { client_id, redirect_uri, verifier, resource: resource.as_deref() };
            let issued = control.context.store.grants().redeem(code, shown).await?;
            control.throttle.record(address, code, issued.is_some(), Instant::now());
            issued
        }
        "refresh_token" => {
            let refresh = fields.need("refresh_token")?;
            admit(control, address, refresh)?;
            let issued =
                control.context.store.grants().refresh(refresh, client_id, resource.as_deref()).await?;
            control.throttle.record(address, refresh, issued.is_some(), Instant::now());
            issued
        }
        _ => {
            let text = "grant_type is authorization_code or refresh_token.";
            return Err(Fault::new("unsupported_grant_type", text));
        }
    };
    match issued {
        Some(issued) => Ok(Json(answer(&issued)).into_response()),
        None => Err(refused(control, client_id, address).await),
    }
}

fn answer(issued: &Issued) -> serde_json::Value {
    json!({
        "access_token": issued.access,
        "token_type": "Bearer",
        "expires_in": issued.expires_in,
        "refresh_token": issued.refresh,
        "scope": scopes(&issued.scopes),
    })
}

/// A client that is not known any more is told so: it registers again by itself.
async fn refused(control: &Shared, client_id: &str, address: IpAddr) -> Fault {
    if !Documents::is_url(client_id)
        && let Err(fault) = client::find(control, client_id, address).await
    {
        return fault;
    }
    Fault::new("invalid_grant", "It is unknown, expired, used or not for this client, address or resource.")
}

fn admit(control: &Shared, address: IpAddr, secret: &str) -> Result<(), Fault> {
    let admitted = control.throttle.admit(address, secret, Instant::now());
    admitted.map_err(|wait| Fault::too_often("Too many wrong codes and tokens came from this address.", wait))
}

/// The resource in its one spelling, if the request names one.
fn resource(fields: &Fields, origin: &Origin) -> Result<Option<String>, Fault> {
    match fields.get("resource") {
        None => Ok(None),
        Some(named) if origin.means(named) => Ok(Some(origin.resource())),
        Some(_) => Err(Fault::new("invalid_target", format!("The resource here is {}.", origin.resource()))),
    }
}

async fn take_back(control: &Shared, request: Request) -> Result<Response, Fault> {
    let (parts, body) = request.into_parts();
    let fields = form(&parts.headers, &registration::read(body).await?)?;
    let (secret, client_id) = (fields.need("token")?, fields.need("client_id")?);
    let address = auth::address(&parts);
    admit(control, address, secret)?;
    let known = control.context.store.grants().give_back(secret, client_id).await?;
    control.throttle.record(address, secret, known, Instant::now());
    // What is unknown works no more, which is what was wanted.
    Ok(StatusCode::OK.into_response())
}
