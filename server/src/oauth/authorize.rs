//! The authorization endpoint: a client asks, a person decides.
//!
//! Until the client and its address are known to belong together, nothing is sent anywhere: faults are shown to the
//! person. From then on they go to the client.

use std::time::Instant;

use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use berth_schemas::{ProjectSlug, Scope, token::TokenMode};
use berth_store::{Approval, model::Principal};
use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use serde::{Deserialize, Serialize};

use super::{
    Fields, Origin, USUAL_SCOPES,
    client::{self, Known},
    consent,
    fault::Fault,
    fields, form, of, redirect, registration,
    ticket::Tickets,
};
use crate::rest::{Shared, auth};

/// The cookie that ties an answer to the browser that was asked.
const COOKIE: &str = "berth_consent";
/// Longest state that a client may want back.
const MAX_STATE: usize = 2000;

/// What a client asks for, checked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) client_id: String,
    pub(super) client_name: String,
    /// The host that vouches for the name; none when the client only says so.
    pub(super) vouched_by: Option<String>,
    pub(super) redirect_uri: String,
    pub(super) state: Option<String>,
    pub(super) challenge: String,
    pub(super) scopes: Vec<Scope>,
    pub(super) origin: String,
}

/// Why a request is not put before a person.
enum Wrong {
    /// To be shown: nothing may be sent to the address.
    Shown(Fault),
    /// To be sent to the client.
    Sent { redirect_uri: String, state: Option<String>, fault: Fault },
}

/// Shows the consent page.
pub(super) async fn ask(State(control): State<Shared>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let Some(origin) = of(&control).origin(&parts) else {
        return consent::fault("The request names no host.", StatusCode::BAD_REQUEST);
    };
    match check(&control, &parts, &origin).await {
        Ok(asked) => page(&control, &parts.headers, &asked, None),
        Err(Wrong::Shown(fault)) => consent::fault(&fault.description, StatusCode::BAD_REQUEST),
        Err(Wrong::Sent { redirect_uri, state, fault }) => {
            let said = [("error", fault.error), ("error_description", &fault.description)];
            back(&redirect_uri, &said, state.as_deref(), origin.as_str())
        }
    }
}

async fn check(control: &Shared, parts: &Parts, origin: &Origin) -> Result<Asked, Wrong> {
    let fields = fields(parts.uri.query().unwrap_or_default()).map_err(Wrong::Shown)?;
    let id = fields.need("client_id").map_err(Wrong::Shown)?;
    let client = client::find(control, id, auth::address(parts)).await.map_err(Wrong::Shown)?;
    let redirect_uri = match (fields.get("redirect_uri"), client.redirects.as_slice()) {
        (Some(asked), known) if known.iter().any(|k| redirect::matches(k, asked)) => asked.to_owned(),
        (None, [only]) => only.clone(),
        _ => {
            let text = "The address that the client wants to be sent back to is none that it registered.";
            return Err(Wrong::Shown(Fault::new("invalid_request", text)));
        }
    };
    let state = fields.get("state").map(str::to_owned);
    match wanted(&fields, origin) {
        Ok((challenge, scopes)) => Ok(Asked {
            client_id: client.id,
            client_name: client.name,
            vouched_by: match client.known {
                Known::ByDocument { host } => Some(host),
                Known::ByItself => None,
            },
            redirect_uri,
            state,
            challenge,
            scopes,
            origin: origin.as_str().to_owned(),
        }),
        Err(fault) => {
            let state = state.filter(|s| s.len() <= MAX_STATE);
            Err(Wrong::Sent { redirect_uri, state, fault })
        }
    }
}

/// The challenge and the scopes of a request that is otherwise right.
fn wanted(fields: &Fields, origin: &Origin) -> Result<(String, Vec<Scope>), Fault> {
    if fields.need("response_type")? != "code" {
        return Err(Fault::new("unsupported_response_type", "response_type must be code."));
    }
    if fields.get("state").is_some_and(|s| s.len() > MAX_STATE) {
        return Err(Fault::new("invalid_request", "state is too long."));
    }
    if fields.need("code_challenge_method")? != "S256" {
        return Err(Fault::new("invalid_request", "code_challenge_method must be S256."));
    }
    let challenge = fields.need("code_challenge")?;
    if challenge.len() != 43
        || !challenge.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    {
        return Err(Fault::new("invalid_request", "code_challenge is no base64url of a SHA-256."));
    }
    if fields.get("resource").is_some_and(|r| !origin.means(r)) {
        return Err(Fault::new("invalid_target", format!("The resource here is {}.", origin.resource())));
    }
    let words = fields.get("scope").unwrap_or_default();
    // What is not Berth's (offline_access, openid) is left out, as OAuth has it.
    let mut scopes: Vec<Scope> = words.split(' ').filter_map(|word| word.parse().ok()).collect();
    scopes.sort_unstable();
    scopes.dedup();
    if scopes.is_empty() {
        scopes = USUAL_SCOPES.to_vec();
    }
    Ok((challenge.to_owned(), scopes))
}

/// Takes the person's decision.
pub(super) async fn decide(State(control): State<Shared>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let read = match registration::read(body).await.and_then(|body| form(&parts.headers, &body)) {
        Ok(fields) => fields,
        Err(fault) => return consent::fault(&fault.description, StatusCode::BAD_REQUEST),
    };
    let asked =
        of(&control).origin(&parts).filter(|origin| is_own_page(&parts.headers, origin)).and_then(|origin| {
            let browser = cookie(&parts.headers)?;
            let asked: Asked = of(&control).tickets.read(read.get("ticket")?, browser, now(&control))?;
            (asked.origin == origin.as_str()).then_some(asked)
        });
    let Some(asked) = asked else {
        let text = "This page is too old, or the answer did not come from it. Start again in the client.";
        return consent::fault(text, StatusCode::FORBIDDEN);
    };
    if read.get("decision") != Some("approve") {
        let said = [("error", "access_denied"), ("error_description", "The person said no.")];
        return back(&asked.redirect_uri, &said, asked.state.as_deref(), &asked.origin);
    }
    match approve(&control, &parts, &asked, &read).await {
        Ok(code) => back(&asked.redirect_uri, &[("code", &code)], asked.state.as_deref(), &asked.origin),
        Err(why) => page(&control, &parts.headers, &asked, Some(&why)),
    }
}

async fn approve(control: &Shared, parts: &Parts, asked: &Asked, read: &Fields) -> Result<String, String> {
    let owner = owner(control, parts, read.get("token").unwrap_or_default().trim())?;
    let chosen = asked.scopes.iter().filter(|s| read.get(&format!("scope_{}", s.as_str())).is_some());
    let scopes: Vec<Scope> = chosen.copied().filter(|s| owner.may(*s)).collect();
    if scopes.is_empty() {
        return Err(
            "Nothing is left that the client may do: choose something that your token may do itself.".into(),
        );
    }
    let names = read.get("projects").unwrap_or_default();
    let names = names.split([',', ' ']).map(str::trim).filter(|n| !n.is_empty());
    let projects =
        names.map(str::parse).collect::<Result<Vec<ProjectSlug>, _>>().map_err(|e| format!("{e}."))?;
    let approval = Approval {
        client_id: asked.client_id.clone(),
        client_name: asked.client_name.clone(),
        redirect_uri: asked.redirect_uri.clone(),
        challenge: asked.challenge.clone(),
        resource: format!("{}/mcp", asked.origin),
        scopes,
        projects,
        mode: if read.get("propose").is_some() { TokenMode::Propose } else { TokenMode::Full },
    };
    let code = control.context.store.grants().approve(&owner, approval).await;
    code.map_err(|e| berth_schemas::Problem::from(e).to_string())
}

/// Whose token it is. Wrong ones count as they do everywhere.
fn owner(control: &Shared, parts: &Parts, token: &str) -> Result<Principal, String> {
    if token.is_empty() || token.len() > 1024 {
        return Err("Give an access token of yours.".into());
    }
    let address = auth::address(parts);
    control.throttle.admit(address, token, Instant::now()).map_err(|wait| {
        format!("Too many wrong tokens came from this address. Wait {} seconds.", wait.as_secs() + 1)
    })?;
    let found = control.context.store.tokens().find(token).filter(|p| p.grant.is_none());
    control.throttle.record(address, token, found.is_some(), Instant::now());
    found.ok_or_else(|| "The token is not valid: it is unknown, revoked or expired.".into())
}

fn page(control: &Shared, headers: &HeaderMap, asked: &Asked, error: Option<&str>) -> Response {
    let browser = cookie(headers).map(str::to_owned).or_else(Tickets::browser);
    let made = browser.and_then(|browser| {
        let ticket = of(control).tickets.make(asked, &browser, now(control))?;
        let secure = if asked.origin.starts_with("https://") { "; Secure" } else { "" };
        let cookie =
            format!("{COOKIE}={browser}; Path=/oauth/authorize; Max-Age=600; HttpOnly; SameSite=Lax{secure}");
        Some((ticket, HeaderValue::try_from(cookie).ok()?))
    });
    let Some((ticket, cookie)) = made else {
        return consent::fault("The daemon has no randomness. Try again.", StatusCode::SERVICE_UNAVAILABLE);
    };
    let mut response = consent::page(asked, &ticket, error);
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    response
}

/// Sends the browser back to the client.
fn back(redirect_uri: &str, said: &[(&str, &str)], state: Option<&str>, issuer: &str) -> Response {
    let parameters: Vec<(&str, &str)> =
        said.iter().copied().chain(state.map(|s| ("state", s))).chain([("iss", issuer)]).collect();
    let to = redirect::with(redirect_uri, &parameters).and_then(|to| HeaderValue::try_from(to).ok());
    match to {
        Some(to) => (StatusCode::SEE_OTHER, [(header::LOCATION, to)]).into_response(),
        None => consent::fault("The client's address cannot be used.", StatusCode::BAD_REQUEST),
    }
}

/// Whether a form came from our own page, as far as the browser tells.
fn is_own_page(headers: &HeaderMap, origin: &Origin) -> bool {
    let told = |name: &str| headers.get(name).map(|v| v.to_str().unwrap_or_default());
    told("origin").is_none_or(|o| o.eq_ignore_ascii_case(origin.as_str()))
        && told("sec-fetch-site").is_none_or(|s| s == "same-origin")
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok());
    let mut pairs = cookies.flat_map(|c| c.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.find(|(name, _)| *name == COOKIE)?;
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    (value.len() == 32 && value.bytes().all(good)).then_some(value)
}

fn now(control: &Shared) -> i64 {
    control.context.store.clock().now().0 / 1_000_000
}
