//! Git LFS for Berth's own repositories: `/git/<app>.git/info/lfs`, with its batch API and the basic way of transfer.
//!
//! Who asks is found as for git itself. Objects are streamed both ways; there are no locks.

use axum::{
    Extension, Json,
    body::{Body, to_bytes},
    extract::{Path, State},
    response::{IntoResponse as _, Response},
};
use berth_deploy::{
    GitService,
    source::lfs::{
        Oid,
        wire::{self, Batch, Object, Operation},
    },
};
use berth_schemas::{Code, Problem};
use berth_store::model::Principal;
use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use super::{Shared, caller::Caller, git};

/// Bytes of a request that is no object.
const MAX_BODY: usize = 1 << 20;

/// `POST …/objects/batch`: what there is for objects, and where they come from or go to.
pub async fn batch(
    State(control): State<Shared>,
    Extension(principal): Extension<Principal>,
    Path(repository): Path<String>,
    parts: Parts,
    body: Body,
) -> Response {
    let answer = async {
        let batch: Batch = read(body).await?;
        let app = match batch.operation {
            Operation::Download => {
                git::app(&control, &principal, &repository, GitService::UploadPack).await?
            }
            // The objects of a push come before the push itself, which makes an app that there is not.
            Operation::Upload => {
                git::target(&control, &principal, &repository).await?.take(&control, &principal).await?.0
            }
        };
        let base = format!("{}/git/{}.git/info/lfs", base(&control, &parts), app.slug);
        control.context.pipeline.lfs_batch(&app, batch, &base, control.limits.upload_max).await
    };
    match answer.await {
        Ok(answer) => json_with(StatusCode::OK, &answer),
        Err(problem) => refuse(&problem),
    }
}

/// `PUT …/objects/<oid>`: an object comes.
pub async fn upload(
    State(control): State<Shared>,
    Extension(principal): Extension<Principal>,
    Path((repository, oid)): Path<(String, String)>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let door = git::outside(&principal, "git_lfs_upload", &repository, caller);
    let kept = async {
        let app = git::app(&control, &principal, &repository, GitService::ReceivePack).await?;
        let oid = parse(&oid)?;
        let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
        let body = Box::pin(git::plain(&headers, body)?);
        let most = control.limits.upload_max;
        control.context.pipeline.lfs_keep(&app, &oid, body, announced, most).await
    };
    match door.watched(&control.context, kept).await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(problem) => refuse(&problem),
    }
}

/// `GET …/objects/<oid>`: an object goes.
pub async fn download(
    State(control): State<Shared>,
    Extension(principal): Extension<Principal>,
    Path((repository, oid)): Path<(String, String)>,
) -> Response {
    let found = async {
        let app = git::app(&control, &principal, &repository, GitService::UploadPack).await?;
        let oid = parse(&oid)?;
        control.context.pipeline.lfs_open(&app, &oid).await?.ok_or_else(|| missing(&oid))
    };
    match found.await {
        Ok(object) => {
            let headers = [
                (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
                (header::CONTENT_LENGTH, HeaderValue::from(object.size)),
            ];
            (headers, Body::from_stream(object.stream())).into_response()
        }
        Err(problem) => refuse(&problem),
    }
}

/// `POST …/objects/<oid>/verify`: whether an object came.
pub async fn verify(
    State(control): State<Shared>,
    Extension(principal): Extension<Principal>,
    Path((repository, oid)): Path<(String, String)>,
    body: Body,
) -> Response {
    let checked = async {
        let app = git::app(&control, &principal, &repository, GitService::ReceivePack).await?;
        let object: Object = read(body).await?;
        let same = object.oid == parse(&oid)?;
        match same && control.context.pipeline.lfs_has(&app, &object).await? {
            true => Ok(()),
            false => Err(missing(&object.oid)),
        }
    };
    match checked.await {
        Ok(()) => json_with(StatusCode::OK, &json!({})),
        Err(problem) => refuse(&problem),
    }
}

/// `POST …/locks/verify`, which clients ask before each push: nothing is ever locked here.
pub async fn verify_locks(
    State(control): State<Shared>,
    Extension(principal): Extension<Principal>,
    Path(repository): Path<String>,
) -> Response {
    match git::target(&control, &principal, &repository).await {
        Ok(_) => json_with(StatusCode::OK, &json!({ "ours": [], "theirs": [] })),
        Err(problem) => refuse(&problem),
    }
}

/// `…/locks`, and what is below: there are none.
pub async fn no_locks(
    State(control): State<Shared>,
    Extension(principal): Extension<Principal>,
    Path(repository): Path<String>,
) -> Response {
    match git::app(&control, &principal, &repository, GitService::UploadPack).await {
        Ok(_) => {
            let text = "Berth keeps no locks: its repositories are for deploying, not for working together.";
            json_with(StatusCode::NOT_IMPLEMENTED, &json!({ "message": text }))
        }
        Err(problem) => refuse(&problem),
    }
}

/// The address under which the client reached this control plane.
fn base(control: &Shared, parts: &Parts) -> String {
    let header = |name| parts.headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    let host = header(header::HOST).or_else(|| parts.uri.authority().map(|a| a.as_str())).unwrap_or_default();
    let public = control.context.control_url.as_str();
    let of_public = public.split_once("://").map_or(public, |(_, host)| host);
    if host.eq_ignore_ascii_case(of_public) {
        return public.to_owned();
    }
    // Said by the data plane, or by a proxy on this machine. It is about the client's own next requests alone.
    let scheme = match header(header::HeaderName::from_static("x-forwarded-proto")) {
        Some("https") => "https",
        _ => "http",
    };
    format!("{scheme}://{host}")
}

fn parse(oid: &str) -> Result<Oid, Problem> {
    Oid::parse(oid).map_err(|error| Problem::invalid("oid", format!("{oid:?}: {error}.")))
}

fn missing(oid: &Oid) -> Problem {
    Problem::new(Code::NotFound, format!("The object {oid} is not here."))
        .hint("Push it with: git lfs push --all <remote>")
}

async fn read<T: DeserializeOwned>(body: Body) -> Result<T, Problem> {
    let bytes = to_bytes(body, MAX_BODY).await.map_err(|_| {
        Problem::new(
            Code::InvalidInput,
            format!("The request is larger than {MAX_BODY} bytes, or broke off."),
        )
    })?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Problem::new(Code::InvalidInput, format!("This is no request of Git LFS: {error}.")))
}

fn json_with(status: StatusCode, body: &impl Serialize) -> Response {
    let mut response = (status, Json(body)).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(wire::MEDIA_TYPE));
    response
}

/// A refusal as git-lfs shows it.
fn refuse(problem: &Problem) -> Response {
    let status =
        StatusCode::from_u16(problem.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let hint = problem.hint.as_deref().map(|hint| format!(" {hint}")).unwrap_or_default();
    json_with(status, &json!({ "message": format!("{}{hint}", problem.detail) }))
}
