//! `/healthz` and `/readyz`: for load balancers and service managers; no token, no details.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use berth_schemas::Code;
use serde_json::json;

use super::{Shared, problem::Refusal};

/// The daemon is alive: the store answers.
pub async fn alive(State(control): State<Shared>) -> Response {
    match control.store_answers().await {
        Ok(()) => Json(json!({ "status": "ok" })).into_response(),
        Err(error) => {
            tracing::error!(%error, "the store does not answer");
            Refusal::new(Code::Unavailable, "The store does not answer.").into_response()
        }
    }
}

/// The daemon takes work: it has started, and is not stopping.
pub async fn ready(State(control): State<Shared>) -> Response {
    if control.shutdown.is_cancelled() {
        return Refusal::new(Code::Unavailable, "The daemon is stopping.").into_response();
    }
    alive(State(control)).await
}
