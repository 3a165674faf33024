//! The control plane over HTTP: REST from the registry, uploads, MCP, the API page and the status page.
//!
//! A request passes, from the outside in: [`envelope`] (id, span, headers), the panic catcher, the [`host`]
//! check, then its route; routes that touch anything pass [`auth`] too. No route of a tool is written by hand.

pub mod attachments;
pub mod auth;
pub mod call;
pub mod caller;
pub mod docs;
pub mod envelope;
pub mod git;
pub mod health;
pub mod hooks;
pub mod host;
pub mod ingest;
pub mod input;
pub mod lfs;
pub mod listener;
pub mod openapi;
pub mod panel;
pub mod problem;
pub mod sentry;
pub mod state;
pub mod throttle;
pub mod uploads;

use std::{any::Any, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{DefaultBodyLimit, OriginalUri, RawPathParams, Request},
    middleware::{from_fn, from_fn_with_state},
    response::{IntoResponse as _, Response},
    routing::{MethodFilter, get, on, post},
};
use berth_schemas::Code;
use berth_tools::Method;
use http::StatusCode;
use tower_http::catch_panic::CatchPanicLayer;

use crate::oauth;
use call::Endpoint;
use problem::Refusal;
pub use state::{Control, Limits, Shared};

/// Every route of the control plane. `mcp` answers below `/mcp`, behind the same authentication.
pub fn router(control: &Shared, mcp: Option<Router>) -> Router {
    let mut guarded: Router<Shared> = tools(control).merge(sentry::router());
    guarded = guarded.route("/v1/uploads", post(uploads::create).layer(DefaultBodyLimit::disable()));
    guarded =
        guarded.route("/v1/apps/{app}/errors/attachments/{attachment}/content", get(attachments::download));
    let mut guarded = guarded.route_layer(from_fn_with_state(Arc::clone(control), auth::require));
    if let Some(mcp) = mcp {
        let mcp = Router::new().nest_service("/mcp", mcp);
        guarded =
            guarded.merge(mcp.route_layer(from_fn_with_state(Arc::clone(control), auth::require_for_mcp)));
    }
    let repositories = Router::new()
        .route("/git/{repository}/info/refs", get(git::info_refs))
        .route("/git/{repository}/git-upload-pack", post(git::upload_pack))
        .route("/git/{repository}/git-receive-pack", post(git::receive_pack))
        .route("/git/{repository}/info/lfs/objects/batch", post(lfs::batch))
        .route("/git/{repository}/info/lfs/objects/{oid}", get(lfs::download).put(lfs::upload))
        .route("/git/{repository}/info/lfs/objects/{oid}/verify", post(lfs::verify))
        .route("/git/{repository}/info/lfs/locks", get(lfs::no_locks).post(lfs::no_locks))
        .route("/git/{repository}/info/lfs/locks/verify", post(lfs::verify_locks))
        .layer(DefaultBodyLimit::disable())
        .route_layer(from_fn_with_state(Arc::clone(control), auth::require_for_git));
    Router::new()
        .merge(guarded)
        .merge(repositories)
        .merge(ingest::router())
        .merge(oauth::routes())
        .route("/", get(panel::page))
        .route("/panel.js", get(panel::script))
        .route("/panel.css", get(panel::style))
        .route("/v1", get(docs::page))
        .route("/docs", get(docs::page))
        .route("/v1/openapi.json", get(docs::openapi))
        .route("/hooks/{id}", post(hooks::take).layer(DefaultBodyLimit::disable()))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(from_fn_with_state(Arc::clone(control), host::check))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn(envelope::wrap))
        .with_state(Arc::clone(control))
}

/// One route per tool.
fn tools(control: &Shared) -> Router<Shared> {
    let mut router = Router::new();
    for (index, tool) in control.registry.tools().iter().enumerate() {
        let endpoint = Endpoint::new(Arc::clone(control), index, tool);
        let handler = move |path: RawPathParams, request: Request| {
            let (parts, body) = request.into_parts();
            endpoint.answer(path, parts, body)
        };
        router = router.route(tool.spec.path, on(filter(tool.spec.method), handler));
    }
    router
}

fn filter(method: Method) -> MethodFilter {
    match method {
        Method::Get => MethodFilter::GET,
        Method::Post => MethodFilter::POST,
        Method::Put => MethodFilter::PUT,
        Method::Patch => MethodFilter::PATCH,
        Method::Delete => MethodFilter::DELETE,
    }
}

async fn no_route(OriginalUri(uri): OriginalUri) -> Response {
    Refusal::new(Code::NotFound, format!("There is no route {:?}.", uri.path()))
        .hint("GET /v1 shows every route; GET /v1/openapi.json is the same for programs.")
        .into_response()
}

async fn no_method(OriginalUri(uri): OriginalUri, method: http::Method) -> Response {
    Refusal::new(Code::InvalidInput, format!("{:?} does not take {method}.", uri.path()))
        .hint("The Allow header names the methods it takes.")
        .status(StatusCode::METHOD_NOT_ALLOWED)
        .into_response()
}

#[expect(clippy::needless_pass_by_value, reason = "the signature is the layer's")]
fn panicked(panic: Box<dyn Any + Send + 'static>) -> http::Response<Body> {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = text.unwrap_or("no message"), "a request handler panicked");
    Refusal::new(Code::Internal, "Berth made a mistake while answering this request.")
        .hint("The daemon's log has the details under this answer's x-request-id.")
        .into_response()
}
