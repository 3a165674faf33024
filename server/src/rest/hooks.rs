//! `POST /hooks/<repository>`: webhooks of forges. No token: the signature over the body is what counts.
//!
//! The answer goes out when what the webhook tells is durable. The body is bounded in size and in time, and bodies that
//! are read at the same time are bounded in number, because nothing is known of the sender before the last byte.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json,
    body::Body,
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
};
use berth_forge::{Intake, MAX_BODY};
use berth_schemas::{Code, Problem};
use futures_util::StreamExt as _;
use http::{HeaderValue, StatusCode, header};
use serde_json::json;
use tokio::sync::Semaphore;

use super::{Shared, auth, listener::Peer, problem::Refusal, throttle::Throttle};

/// The longest that a body may take.
const BODY_TIME: Duration = Duration::from_secs(10);
/// Bodies read at the same time.
const AT_ONCE: usize = 16;

/// What the endpoint shares among its requests.
#[derive(Debug)]
pub struct Hooks {
    intake: Intake,
    failures: Throttle,
    reading: Arc<Semaphore>,
}

impl Hooks {
    /// An endpoint for this way in.
    #[must_use]
    pub fn new(intake: Intake) -> Self {
        Self { intake, failures: Throttle::default(), reading: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

/// Takes a webhook.
pub async fn take(State(control): State<Shared>, Path(id): Path<String>, request: Request) -> Response {
    let peer = request.extensions().get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |p| p.0.ip());
    // Behind the data plane all have the same peer: one who guesses is not to shut out the others.
    let address = auth::client(peer, request.headers());
    let hooks = &control.hooks;
    if let Err(wait) = hooks.failures.admit(address, &id, Instant::now()) {
        let seconds = wait.as_secs() + 1;
        return Refusal::new(Code::RateLimited, "Too many webhooks from this address were refused.")
            .hint(format!("Wait {seconds} seconds, and check the webhook's secret."))
            .header(header::RETRY_AFTER, HeaderValue::from(seconds))
            .into_response();
    }
    let (taken, counts) = match accept(&control, &id, request).await {
        Ok(accepted) => (accepted, Some(true)),
        Err(refusal) => {
            // What is no sign of somebody guessing does not count: a slow sender, a store that is away.
            let guess = matches!(
                refusal.code(),
                Code::Unauthenticated | Code::NotFound | Code::Forbidden | Code::InvalidInput
            );
            (refusal.into_response(), guess.then_some(false))
        }
    };
    if let Some(good) = counts {
        hooks.failures.record(address, &id, good, Instant::now());
    }
    taken
}

async fn accept(control: &Shared, id: &str, request: Request) -> Result<Response, Refusal> {
    let hooks = &control.hooks;
    // An unknown id is told before anything is read.
    let repository = hooks.intake.repository(id).await?;
    let (parts, body) = request.into_parts();
    let form = parts.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !form.starts_with("application/json") {
        return Err(Refusal::new(Code::InvalidInput, "A webhook's body is JSON here.")
            .hint("Choose the content type application/json for the webhook at the forge.")
            .status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    let announced =
        parts.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|bytes| bytes > MAX_BODY) {
        return Err(too_large());
    }
    let reading = async {
        // Held until the body is done with.
        let turn = Arc::clone(&hooks.reading).acquire_owned().await;
        read(body).await.map(|bytes| (bytes, turn))
    };
    let (bytes, _turn) = tokio::time::timeout(BODY_TIME, reading).await.map_err(|_| {
        let text = format!("The webhook's body did not come within {} s.", BODY_TIME.as_secs());
        Refusal::new(Code::TimedOut, text).status(StatusCode::REQUEST_TIMEOUT)
    })??;
    let accepted = hooks.intake.take(&control.context.pipeline, &repository, &parts.headers, &bytes).await?;
    let body = json!({ "outcome": accepted.outcome, "pushes": accepted.pushes });
    let status = if accepted.pushes.is_empty() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(body)).into_response())
}

async fn read(body: Body) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Problem::new(Code::InvalidInput, "The webhook's body broke off."))?;
        if bytes.len() + chunk.len() > MAX_BODY {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn too_large() -> Refusal {
    Refusal::new(Code::TooLarge, format!("A webhook's body has at most {} MiB.", MAX_BODY >> 20))
        .hint("Push fewer branches at once; what this one told is found by looking.")
}
