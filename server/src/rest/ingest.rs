//! What Sentry's clients talk to: `/api/<id>/envelope/` and its siblings, without a token but with a DSN's key.
//!
//! Clients are many and old, so a request is read for what it can be: the key in any of four places, any content type,
//! four compressions, chunked or not. Browsers must be able to read every answer, also a refusal.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, Request, State},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::{MethodRouter, post},
};
use berth_observe::errors::{
    Ingest, Refused, Target,
    accept::{self, Accepted, Reading},
    auth::{self, PublicKey},
    envelope::Envelope,
};
use berth_schemas::Timestamp;
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts};
use serde_json::{Value, json};
use tower_http::{decompression::RequestDecompressionLayer, limit::RequestBodyLimitLayer};

use super::{Shared, auth::client, listener::Peer};

/// Largest request as it comes, in bytes.
const MAX_WIRE: usize = 20 << 20;
/// Largest request when inflated, in bytes.
const MAX_INFLATED: usize = 40 << 20;
/// Bodies larger than this are read beside the runtime.
const LARGE: usize = 64 << 10;
/// The longest that a body may take.
const BODY_TIME: Duration = Duration::from_secs(30);
const ERROR: HeaderName = HeaderName::from_static("x-sentry-error");
const LIMITS: HeaderName = HeaderName::from_static("x-sentry-rate-limits");

/// The routes, each with and without its last slash, as both are used.
pub fn router() -> Router<Shared> {
    let mut router = Router::new();
    let routes: [(&str, MethodRouter<Shared>); 5] = [
        ("/api/{id}/envelope", post(envelope)),
        ("/api/{id}/store", post(store)),
        ("/api/{id}/security", post(security)),
        ("/api/{id}/csp-report", post(security)),
        ("/api/{id}/minidump", post(minidump)),
    ];
    for (path, method) in routes {
        let method = method.options(|| async { StatusCode::OK });
        router = router.route(path, method.clone()).route(&format!("{path}/"), method);
    }
    router
        .route(berth_deploy::TUNNEL_PATH, post(tunnel).options(|| async { StatusCode::OK }))
        // The innermost counts inflated bytes as they come, the outermost those on the wire.
        .layer(axum::extract::DefaultBodyLimit::disable())
        .layer(RequestDecompressionLayer::new())
        .layer(RequestBodyLimitLayer::new(MAX_WIRE))
        .layer(from_fn(readable))
}

/// Lets every page read every answer: the key in a page is no secret, and a refusal must be heard.
async fn readable(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "POST, OPTIONS"),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "content-type, x-sentry-auth, authorization, content-encoding, sentry-trace, baggage, x-requested-with, accept, origin, referer",
        ),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, "x-sentry-error, x-sentry-rate-limits, retry-after"),
        (header::ACCESS_CONTROL_MAX_AGE, "3600"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // A page of another origin may send here, whatever the panel's own pages may do.
    headers.insert(
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("cross-origin"),
    );
    response
}

/// Why a request is refused, as these clients understand it.
struct No {
    status: StatusCode,
    detail: String,
    wait: Option<u64>,
}

impl No {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), wait: None }
    }
}

impl From<Refused> for No {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Unknown => Self::new(
                StatusCode::FORBIDDEN,
                "There is no such project, or the DSN's key is not its own; dsn_get shows the right DSN.",
            ),
            Refused::Ended => Self::new(
                StatusCode::FORBIDDEN,
                "The DSN's key was replaced, and is accepted no more; dsn_get shows the right DSN.",
            ),
            Refused::Busy(wait) => Self {
                wait: Some(wait),
                ..Self::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "More events came than may; they are counted as dropped.",
                )
            },
            Refused::Failed(problem) => {
                tracing::warn!(%problem, "errors of an app were not kept");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "The event could not be kept; send it again.")
            }
        }
    }
}

impl IntoResponse for No {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({ "detail": self.detail }))).into_response();
        let headers = response.headers_mut();
        if let Ok(value) = HeaderValue::from_str(&self.detail) {
            headers.insert(ERROR, value);
        }
        if let Some(wait) = self.wait {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait));
            let limits = format!("{wait}:error;transaction:project:quota");
            if let Ok(limits) = HeaderValue::from_str(&limits) {
                headers.insert(LIMITS, limits);
            }
        }
        response
    }
}

/// A request whose sender is known.
struct Known {
    target: Arc<Target>,
    peer: Option<IpAddr>,
    query: String,
    bytes: Bytes,
}

async fn envelope(
    State(control): State<Shared>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, No> {
    let (parts, body) = request.into_parts();
    let bytes = read(body).await?;
    let key = shown_key(&parts).or_else(|| dsn_of(&bytes).map(|(key, _)| key));
    let known = known(&control, &parts, number(&id)?, key, bytes).await?;
    take_envelope(&control.ingest, known).await
}

/// For an app's own origin: no key and no project but in the DSN of the envelope.
async fn tunnel(State(control): State<Shared>, request: Request) -> Result<Response, No> {
    let (parts, body) = request.into_parts();
    let bytes = read(body).await?;
    let (key, id) = dsn_of(&bytes).ok_or_else(|| {
        No::new(StatusCode::BAD_REQUEST, "An envelope that comes through a tunnel names its DSN.")
    })?;
    let known = known(&control, &parts, id, Some(key), bytes).await?;
    take_envelope(&control.ingest, known).await
}

async fn take_envelope(ingest: &Ingest, known: Known) -> Result<Response, No> {
    keep(ingest, known, |known, reading| {
        accept::envelope(&known.bytes, reading).map_err(|e| No::new(StatusCode::BAD_REQUEST, format!("{e}.")))
    })
    .await
}

async fn store(
    State(control): State<Shared>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, No> {
    let known = identified(&control, &id, request).await?;
    keep(&control.ingest, known, |known, reading| {
        let accepted = accept::store(&known.bytes, reading);
        match accepted.items.is_empty() && !accepted.refused() {
            true => {
                Err(No::new(StatusCode::BAD_REQUEST, "The event is no JSON object, or larger than 1 MiB."))
            }
            false => Ok(accepted),
        }
    })
    .await
}

async fn security(
    State(control): State<Shared>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, No> {
    let known = identified(&control, &id, request).await?;
    keep(&control.ingest, known, |known, reading| {
        let of = |name: &str| {
            let mut pairs = url::form_urlencoded::parse(known.query.as_bytes());
            pairs.find(|(n, _)| n == name).map(|(_, value)| value.into_owned())
        };
        let about = [("release", of("sentry_release")), ("environment", of("sentry_environment"))];
        let about: Vec<(&str, String)> = about.into_iter().filter_map(|(n, v)| Some((n, v?))).collect();
        Ok(accept::security(&known.bytes, &about, reading))
    })
    .await
}

/// A form with a dump and perhaps an event in `sentry`.
async fn minidump(
    State(control): State<Shared>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, No> {
    let (parts, body) = request.into_parts();
    let known = known(&control, &parts, number(&id)?, shown_key(&parts), Bytes::new()).await?;
    let bad = |_| {
        No::new(StatusCode::BAD_REQUEST, "A minidump comes as multipart/form-data with upload_file_minidump.")
    };
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let boundary = multer::parse_boundary(kind).map_err(bad)?;
    let constraints =
        multer::Constraints::new().size_limit(multer::SizeLimit::new().whole_stream(MAX_INFLATED as u64));
    let mut form = multer::Multipart::with_constraints(body.into_data_stream(), boundary, constraints);
    let (mut dump, mut event) = (None, serde_json::Map::new());
    let reading = async {
        while let Some(field) = form.next_field().await.map_err(bad)? {
            match field.name() {
                Some("upload_file_minidump") => {
                    let name = field.file_name().unwrap_or("minidump.dmp").to_owned();
                    dump = Some((name, field.bytes().await.map_err(bad)?));
                }
                Some("sentry") => {
                    if let Ok(Value::Object(told)) =
                        serde_json::from_slice(&field.bytes().await.map_err(bad)?)
                    {
                        event = told;
                    }
                }
                _ => {}
            }
        }
        Ok::<_, No>(())
    };
    let late = |_| No::new(StatusCode::REQUEST_TIMEOUT, "The body took too long.");
    tokio::time::timeout(BODY_TIME, reading).await.map_err(late)??;
    let (name, bytes) =
        dump.ok_or_else(|| No::new(StatusCode::BAD_REQUEST, "The form has no upload_file_minidump."))?;
    let known = Known { bytes, ..known };
    keep(&control.ingest, known, move |known, reading| {
        Ok(accept::minidump(&name, &known.bytes, event, reading))
    })
    .await
}

async fn identified(control: &Shared, id: &str, request: Request) -> Result<Known, No> {
    let (parts, body) = request.into_parts();
    let id = number(id)?;
    let key = shown_key(&parts);
    // Known before its body is read.
    let known = known(control, &parts, id, key, Bytes::new()).await?;
    Ok(Known { bytes: read(body).await?, ..known })
}

async fn known(
    control: &Shared,
    parts: &Parts,
    id: i64,
    key: Option<PublicKey>,
    bytes: Bytes,
) -> Result<Known, No> {
    let key = key.ok_or_else(|| {
        No::new(
            StatusCode::UNAUTHORIZED,
            "The request shows no key: give it as sentry_key in the query or in X-Sentry-Auth.",
        )
    })?;
    let target = control.ingest.target(id, &key).await?;
    control.ingest.open_to(&target)?;
    let peer = parts.extensions.get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |p| p.0.ip());
    let peer = client(peer, &parts.headers);
    let query = parts.uri.query().unwrap_or_default().to_owned();
    Ok(Known { target, peer: Some(peer), query, bytes })
}

/// Reads, scrubs, keeps and answers.
async fn keep<F>(ingest: &Ingest, known: Known, take: F) -> Result<Response, No>
where
    F: FnOnce(&Known, &Reading<'_>) -> Result<Accepted, No> + Send + 'static,
{
    let (target, size) = (Arc::clone(&known.target), known.bytes.len());
    let door = ingest.clone();
    let work = move || {
        let admits = |category: &str, bytes| door.admits(&known.target, category, bytes);
        let reading = Reading {
            rules: &known.target.scrub,
            peer: known.peer,
            now: Timestamp::now(),
            new_id,
            admits: &admits,
        };
        let accepted = take(&known, &reading)?;
        if accepted.refused() {
            return Err(door.refuse(&known.target, &accepted.dropped).into());
        }
        accepted.pack().map_err(|e| No::from(Refused::Failed(e.into())))
    };
    let packed = if size > LARGE {
        tokio::task::spawn_blocking(work).await.map_err(|_| {
            No::new(StatusCode::INTERNAL_SERVER_ERROR, "Berth made a mistake with this event.")
        })??
    } else {
        work()?
    };
    let answer = match &packed.event_id {
        Some(id) => json!({ "id": id }),
        None => json!({}),
    };
    ingest.keep(&target, packed).await?;
    Ok(Json(answer).into_response())
}

async fn read(body: Body) -> Result<Bytes, No> {
    let reading = async {
        let mut bytes = Vec::new();
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(broken)?;
            if bytes.len() + chunk.len() > MAX_INFLATED {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Bytes::from(bytes))
    };
    let late = |_| No::new(StatusCode::REQUEST_TIMEOUT, "The body took too long.");
    tokio::time::timeout(BODY_TIME, reading).await.map_err(late)?
}

fn broken(error: axum::Error) -> No {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(error) = source {
        if error.is::<http_body_util::LengthLimitError>() {
            return too_large();
        }
        source = error.source();
    }
    No::new(StatusCode::BAD_REQUEST, "The body broke off, or its compression is damaged.")
}

fn too_large() -> No {
    No::new(StatusCode::PAYLOAD_TOO_LARGE, "A request has at most 20 MiB, and 40 MiB when inflated.")
}

fn shown_key(parts: &Parts) -> Option<PublicKey> {
    let in_header =
        |headers: &HeaderMap, name: &str| headers.get(name)?.to_str().ok().and_then(auth::in_header);
    parts
        .uri
        .query()
        .and_then(auth::in_query)
        .or_else(|| in_header(&parts.headers, "x-sentry-auth"))
        .or_else(|| in_header(&parts.headers, "authorization"))
}

fn dsn_of(bytes: &[u8]) -> Option<(PublicKey, i64)> {
    let line = bytes.split(|b| *b == b'\n').next()?;
    let envelope = Envelope::parse(line).ok()?;
    auth::in_dsn(envelope.text("dsn")?)
}

fn number(id: &str) -> Result<i64, No> {
    let number = id.parse().ok().filter(|n| *n > 0);
    number.ok_or_else(|| No::new(StatusCode::NOT_FOUND, "A project's id is a number; dsn_get shows it."))
}

fn new_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}
