//! git's smart HTTP protocol (gitprotocol-http) for Berth's own repositories: `/git/<app>.git`.
//!
//! Who asks is found from HTTP Basic, where the token is the password and the user name any, or from a Bearer token.
//! Fetching takes the scope read, pushing the scope deploy. Bodies are streamed both ways. Refusals are plain text,
//! because that is what git shows to its user.

use std::{io, time::Duration};

use axum::{
    Extension,
    body::Body,
    extract::{Path, Query, State},
    response::{IntoResponse as _, Response},
};
use berth_deploy::{GitPush, GitService};
use berth_schemas::{AppSlug, Code, Problem, ProjectSlug, Scope};
use berth_store::model::{AppRow, Principal};
use berth_tools::{
    Outside,
    first_push::{self, Wanted},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use tokio::{io::AsyncReadExt as _, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;

use super::{Shared, caller::Caller};

/// Longest silence within a request.
const STALL: Duration = Duration::from_secs(60);

/// What the first request asks for.
#[derive(Deserialize)]
pub struct Asked {
    service: Option<String>,
}

/// `GET /git/<app>.git/info/refs`: what there is.
pub async fn info_refs(
    State(control): State<Shared>,
    Extension(principal): Extension<Principal>,
    Path(repository): Path<String>,
    Query(asked): Query<Asked>,
    caller: Caller,
    headers: HeaderMap,
) -> Response {
    let pushes = asked.service.as_deref().and_then(GitService::parse) == Some(GitService::ReceivePack);
    let answer = async {
        let service = asked.service.as_deref().and_then(GitService::parse).ok_or_else(|| {
            Problem::new(Code::InvalidInput, "This git is too old: it does not speak the smart protocol.")
                .hint("Use git 1.6.6 or newer.")
        })?;
        let pipeline = &control.context.pipeline;
        let target = match service {
            GitService::UploadPack => {
                Target::There(Box::new(app(&control, &principal, &repository, service).await?))
            }
            GitService::ReceivePack => target(&control, &principal, &repository).await?,
        };
        let advertised = match target {
            Target::There(app) => pipeline.git_advertise(&app, service, protocol(&headers)).await?,
            // Nothing is made before something comes.
            Target::New(_) => pipeline.git_advertise_nothing(),
        };
        Ok::<_, Problem>((service, advertised))
    };
    match answer.await {
        Ok((service, advertised)) => {
            answer_with(&format!("application/x-{}-advertisement", service.as_str()), Body::from(advertised))
        }
        Err(problem) => {
            // Whoever is refused here does not come to push.
            if pushes {
                let door = outside(&principal, "git_push", &repository, caller);
                door.noted(&control.context, problem.code.as_str());
            }
            refuse(&problem)
        }
    }
}

/// `POST /git/<app>.git/git-upload-pack`: a fetch.
pub async fn upload_pack(
    State(control): State<Shared>,
    Extension(principal): Extension<Principal>,
    Path(repository): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = async {
        let app = app(&control, &principal, &repository, GitService::UploadPack).await?;
        let body = StreamReader::new(Box::pin(plain(&headers, body)?));
        control.context.pipeline.git_fetch(&app, protocol(&headers), body).await
    };
    answered(GitService::UploadPack, answer.await)
}

/// `POST /git/<app>.git/git-receive-pack`: a push.
pub async fn receive_pack(
    State(control): State<Shared>,
    Extension(principal): Extension<Principal>,
    Path(repository): Path<String>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let by = principal.clone();
    let door = outside(&by, "git_push", &repository, caller);
    let answer = async {
        let target = match target(&control, &principal, &repository).await {
            Ok(target) => target,
            Err(problem) => {
                door.noted(&control.context, problem.code.as_str());
                return Err(problem);
            }
        };
        let mut body = StreamReader::new(Box::pin(plain(&headers, body)?));
        let mut first = [0; 4];
        let broken = |_| Problem::new(Code::InvalidInput, "The push broke off.");
        body.read_exact(&mut first).await.map_err(broken)?;
        if first == *b"0000" {
            // So git asks whether it may push at all.
            return Ok(mpsc::channel(1).1);
        }
        let pushing = async {
            let mut body = first.as_slice().chain(body);
            let (app, made) = target.take(&control, &principal).await?;
            let push = GitPush { app, who: principal, most: control.limits.upload_max, made };
            control.context.pipeline.git_push(push, &mut body).await
        };
        door.watched(&control.context, pushing).await
    };
    answered(GitService::ReceivePack, answer.await)
}

/// What git sends, for the audit log.
pub(super) fn outside<'a>(
    who: &'a Principal,
    what: &'static str,
    repository: &str,
    caller: Caller,
) -> Outside<'a> {
    // What is no name of an app may be anything.
    let app = name_of(repository).parse::<AppSlug>().ok();
    Outside { who, via: caller.by_git(), what, target: app.map(|app| format!("app={app}")) }
}

fn answered(service: GitService, answer: Result<mpsc::Receiver<Bytes>, Problem>) -> Response {
    match answer {
        Ok(pieces) => {
            let body = Body::from_stream(ReceiverStream::new(pieces).map(Ok::<_, io::Error>));
            answer_with(&format!("application/x-{}-result", service.as_str()), body)
        }
        Err(problem) => refuse(&problem),
    }
}

fn answer_with(kind: &str, body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    if let Ok(kind) = HeaderValue::from_str(kind) {
        headers.insert(header::CONTENT_TYPE, kind);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, max-age=0, must-revalidate"));
    // So that a proxy in front hands on each line when it comes.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// A refusal as git shows it: with a plain text that goes to the user.
fn refuse(problem: &Problem) -> Response {
    let status =
        StatusCode::from_u16(problem.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let hint = problem.hint.as_deref().map(|hint| format!("\n{hint}")).unwrap_or_default();
    let text = format!("{}{hint}\n", problem.detail);
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

/// What a request is about.
pub(super) enum Target {
    /// An app that there is.
    There(Box<AppRow>),
    /// An app that a push would make.
    New(Wanted),
}

impl Target {
    /// The app, made if there is none yet, and the project in which it was made.
    pub(super) async fn take(
        self,
        control: &Shared,
        principal: &Principal,
    ) -> Result<(AppRow, Option<ProjectSlug>), Problem> {
        match self {
            Self::There(app) => Ok((*app, None)),
            Self::New(wanted) => {
                let app = first_push::create(&control.context, principal, wanted).await?;
                let project = app.project.clone();
                Ok((app, Some(project)))
            }
        }
    }
}

/// The app whose repository is meant, if the caller may do that with it.
pub(super) async fn app(
    control: &Shared,
    principal: &Principal,
    repository: &str,
    service: GitService,
) -> Result<AppRow, Problem> {
    let (scope, what) = match service {
        GitService::UploadPack => (Scope::Read, "Fetching"),
        GitService::ReceivePack => (Scope::Deploy, "Pushing"),
    };
    berth_tools::registry::demand(what, principal, scope)?;
    if scope != Scope::Read && !principal.is_full() {
        let detail =
            format!("{what} is not for the token {:?}: it is limited to a mode or to tools.", principal.name);
        return Err(Problem::new(Code::Forbidden, detail).hint("Use a token of mode full, for all tools."));
    }
    let name = name_of(repository);
    let apps = control.context.store.apps();
    let found = match name.parse::<AppSlug>() {
        Ok(slug) => apps.by_slug(&principal.visible, &slug).await?,
        Err(_) => None,
    };
    let Some(app) = found else {
        let known = apps.slugs(&principal.visible).await?;
        let problem = Problem::not_found("app", name, &known);
        let nearest = problem.hint.clone().unwrap_or_default();
        let make = "A push makes it, with a token that has the scope write; or: berth app create";
        return Err(problem.hint(format!("{nearest} {make} {name}").trim_start().to_owned()));
    };
    if app.deleting {
        return Err(Problem::new(Code::Conflict, format!("The app {} is being deleted.", app.slug)));
    }
    Ok(app)
}

/// The same for a push, which makes an app that there is not, if the caller may do that.
pub(super) async fn target(
    control: &Shared,
    principal: &Principal,
    repository: &str,
) -> Result<Target, Problem> {
    match app(control, principal, repository, GitService::ReceivePack).await {
        Ok(app) => Ok(Target::There(Box::new(app))),
        // Who may make none hears the same of an app that is not there and of one that may not be seen.
        Err(problem) if problem.code == Code::NotFound && principal.may(Scope::Write) => {
            Ok(Target::New(first_push::check(&control.context, principal, name_of(repository)).await?))
        }
        Err(problem) => Err(problem),
    }
}

fn name_of(repository: &str) -> &str {
    repository.strip_suffix(".git").unwrap_or(repository)
}

/// The version of the protocol that the client asks for, if it is one.
fn protocol(headers: &HeaderMap) -> Option<&'static str> {
    match headers.get("git-protocol")?.to_str().ok()?.split(':').map(str::trim).max()? {
        "version=2" => Some("version=2"),
        "version=1" => Some("version=1"),
        _ => None,
    }
}

/// The body as it was before it was packed for the way, in time.
pub(super) fn plain(
    headers: &HeaderMap,
    body: Body,
) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>, Problem> {
    let packed = match headers.get(header::CONTENT_ENCODING).map(HeaderValue::to_str) {
        None | Some(Ok("identity")) => false,
        Some(Ok("gzip" | "x-gzip")) => true,
        Some(_) => {
            return Err(Problem::invalid(
                "content-encoding",
                "The body is packed in a way that is not known here.",
            )
            .hint("Use gzip or none."));
        }
    };
    let chunks = Box::pin(body.into_data_stream());
    let state = (chunks, packed.then(|| flate2::write::MultiGzDecoder::new(Vec::new())));
    Ok(futures_util::stream::unfold(state, |(mut chunks, mut unpacker)| async move {
        loop {
            let chunk = match tokio::time::timeout(STALL, chunks.next()).await {
                Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
                Ok(None) => return None,
                Ok(Some(chunk)) => chunk.map_err(io::Error::other),
            };
            let chunk = match (&mut unpacker, chunk) {
                (Some(unpacker), Ok(chunk)) => unpack(unpacker, &chunk),
                (_, chunk) => chunk,
            };
            // Some chunks hold nothing yet.
            if chunk.as_ref().is_ok_and(Bytes::is_empty) {
                continue;
            }
            return Some((chunk, (chunks, unpacker)));
        }
    }))
}

fn unpack(unpacker: &mut flate2::write::MultiGzDecoder<Vec<u8>>, chunk: &[u8]) -> io::Result<Bytes> {
    use io::Write as _;
    unpacker.write_all(chunk)?;
    // The decoder holds back up to its buffer until it is flushed.
    unpacker.flush()?;
    Ok(std::mem::take(unpacker.get_mut()).into())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_newest_version_that_is_known_is_taken() {
        let with = |value: &'static str| {
            protocol(
                &[("git-protocol", value)]
                    .into_iter()
                    .map(|(name, value)| {
                        (header::HeaderName::from_static(name), HeaderValue::from_static(value))
                    })
                    .collect(),
            )
        };
        assert_eq!(with("version=2"), Some("version=2"));
        assert_eq!(with("version=1:version=2"), Some("version=2"));
        assert_eq!(with("version=9"), None);
        assert_eq!(with("x\u{9}y"), None);
    }

    #[tokio::test]
    async fn a_packed_body_comes_out_as_it_was() {
        let text = "0032want ".repeat(50_000);
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(text.as_bytes()).unwrap();
        let packed = packer.finish().unwrap();
        let pieces: Vec<io::Result<Bytes>> =
            packed.chunks(7).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
        let body = Body::from_stream(futures_util::stream::iter(pieces));
        let headers = [(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"))].into_iter().collect();
        let got: Vec<Bytes> = plain(&headers, body).unwrap().map(Result::unwrap).collect().await;
        assert_eq!(got.concat(), text.as_bytes());
        let odd = [(header::CONTENT_ENCODING, HeaderValue::from_static("br"))].into_iter().collect();
        assert!(plain(&odd, Body::empty()).is_err());
    }
}
