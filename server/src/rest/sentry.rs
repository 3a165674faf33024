//! The part of Sentry's web API that `sentry-cli` and the bundler plugins call: who am I, releases, chunks, bundles.
//!
//! The organization of a path is any; a project is an app's name. The token is Berth's, with the scope deploy for what
//! writes. Chunks wait in files named by their SHA-1 until the bundle that they make is assembled.

use std::{
    io::Read as _,
    path::{Path as FilePath, PathBuf},
};

use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Multipart, Path, Query, State},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use berth_observe::errors::maps::chunks;
use berth_schemas::{AppSlug, Code, IssueRef, Problem, Scope};
use berth_store::{
    IssueFilter, IssueOrder, IssueRow,
    model::{AppRow, Principal},
};
use berth_tools::Outside;
use http::StatusCode;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Shared, caller::Caller};

/// Largest chunk when inflated, in bytes; what clients are told.
const CHUNK: usize = 8 << 20;
/// Largest request of chunks in bytes; what clients are told.
const REQUEST: usize = 32 << 20;
/// Chunks of a request.
const PER_REQUEST: usize = 64;
/// Largest bundle in bytes.
const BUNDLE: usize = 256 << 20;

/// The routes, all behind a token.
pub fn router() -> Router<Shared> {
    Router::new()
        .route("/api/0/", get(who))
        .route("/api/0/auth/", get(who))
        .route("/api/0/organizations/", get(organizations))
        .route("/api/0/organizations/{org}/", get(organization))
        .route("/api/0/organizations/{org}/projects/", get(projects))
        .route("/api/0/organizations/{org}/repos/", get(nothing))
        .route("/api/0/organizations/{org}/chunk-upload/", get(chunk_options).post(upload_chunks))
        .route("/api/0/organizations/{org}/artifactbundle/assemble/", post(assemble))
        .route("/api/0/organizations/{org}/releases/", post(create_release))
        .route("/api/0/organizations/{org}/releases/{release}/", put(update_release).get(release))
        .route("/api/0/organizations/{org}/releases/{release}/deploys/", post(create_deploy).get(nothing))
        .route("/api/0/organizations/{org}/releases/{release}/previous-with-commits/", get(no_previous))
        .route("/api/0/projects/{org}/{project}/releases/", get(releases).post(create_release_of))
        .route("/api/0/projects/{org}/{project}/issues/", get(issues))
        .route("/api/0/projects/{org}/{project}/files/difs/assemble/", post(no_native))
        .layer(DefaultBodyLimit::max(REQUEST + (1 << 20)))
}

/// Why a call is refused, as these clients show it.
struct No(Problem);

impl<E: Into<Problem>> From<E> for No {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for No {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(json!({ "detail": self.0.detail }))).into_response()
    }
}

fn bad(text: impl Into<String>) -> Problem {
    Problem::new(Code::InvalidInput, text)
}

fn internal(error: impl std::fmt::Display) -> Problem {
    Problem::new(Code::Internal, error.to_string())
}

type Answer = Result<Response, No>;

fn ok(value: Value) -> Answer {
    Ok(Json(value).into_response())
}

fn demand(principal: &Principal, scope: Scope) -> Result<(), Problem> {
    berth_tools::registry::demand("This call", principal, scope)?;
    if scope != Scope::Read && !principal.is_full() {
        let text = format!(
            "The token {:?} is limited to a mode or to tools, and this writes past them.",
            principal.name
        );
        return Err(Problem::new(Code::Forbidden, text));
    }
    Ok(())
}

async fn app(control: &Shared, principal: &Principal, name: &str) -> Result<AppRow, Problem> {
    let none = |known: &[String]| Problem::not_found("project", name, known);
    let apps = control.context.store.apps();
    let slug: AppSlug = name.parse().map_err(|_| none(&[]))?;
    match apps.by_slug(&principal.visible, &slug).await? {
        Some(app) => Ok(app),
        None => Err(none(&apps.slugs(&principal.visible).await?)),
    }
}

async fn nothing() -> Answer {
    ok(json!([]))
}

async fn no_previous() -> Answer {
    ok(json!({}))
}

async fn who(Extension(principal): Extension<Principal>) -> Answer {
    let scopes: Vec<&str> = principal.scopes.iter().map(|s| s.as_str()).collect();
    let user =
        json!({ "id": "0", "email": principal.name, "name": principal.name, "username": principal.name });
    ok(json!({ "version": "0", "auth": { "scopes": scopes }, "user": user }))
}

fn organization_of(slug: &str) -> Value {
    json!({ "id": slug, "slug": slug, "name": slug, "dateCreated": "2026-01-01T00:00:00Z",
        "isEarlyAdopter": false, "require2FA": false, "status": { "id": "active", "name": "active" }, "features": [] })
}

async fn organizations(State(control): State<Shared>, Extension(principal): Extension<Principal>) -> Answer {
    demand(&principal, Scope::Read)?;
    let projects = control.context.store.projects().list(&principal.visible).await?;
    ok(projects.iter().map(|p| organization_of(p.slug.as_str())).collect())
}

async fn organization(Path(org): Path<String>) -> Answer {
    ok(organization_of(&org))
}

async fn projects(State(control): State<Shared>, Extension(principal): Extension<Principal>) -> Answer {
    demand(&principal, Scope::Read)?;
    let apps = control.context.store.apps().all(&principal.visible).await?;
    ok(apps
        .iter()
        .map(|app| {
            json!({ "id": app.id.0.to_string(), "slug": app.slug, "name": app.slug, "team": null, "teams": [],
            "dateCreated": app.created_at })
        })
        .collect())
}

async fn chunk_options(State(control): State<Shared>, Path(org): Path<String>) -> Answer {
    ok(json!({
        "url": format!("{}/api/0/organizations/{org}/chunk-upload/", control.context.control_url),
        "chunkSize": CHUNK,
        "chunksPerRequest": PER_REQUEST,
        "maxFileSize": BUNDLE,
        "maxRequestSize": REQUEST,
        "concurrency": 2,
        "hashAlgorithm": "sha1",
        "compression": ["gzip"],
        "accept": ["release_files", "artifact_bundles", "artifact_bundles_v2", "sources"],
    }))
}

/// A SHA-1 in hexadecimal, which is safe as a file's name.
fn sha1_name(text: &str) -> Option<String> {
    let fits = text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit());
    fits.then(|| text.to_ascii_lowercase())
}

fn sha1_of(bytes: &[u8]) -> String {
    digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes)
        .as_ref()
        .iter()
        .fold(String::new(), |text, b| text + format!("{b:02x}").as_str())
}

fn chunks_dir(control: &Shared) -> PathBuf {
    control.context.maps.chunks_dir()
}

/// A change by one of these clients, for the audit log.
fn door<'a>(who: &'a Principal, caller: Caller, what: &'static str, projects: &[String]) -> Outside<'a> {
    // What is no name of an app may be anything.
    let apps = projects.iter().filter_map(|p| p.parse::<AppSlug>().ok());
    let target = apps.map(|app| format!("app={app}")).take(5).collect::<Vec<_>>().join(" ");
    Outside { who, via: caller.by_rest(), what, target: Some(target).filter(|t| !t.is_empty()) }
}

async fn upload_chunks(
    State(control): State<Shared>,
    Extension(principal): Extension<Principal>,
    caller: Caller,
    form: Multipart,
) -> Answer {
    let keeping = keep_chunks(&control, &principal, form);
    door(&principal, caller, "error_chunk_upload", &[]).watched(&control.context, keeping).await?;
    ok(json!({}))
}

async fn keep_chunks(control: &Shared, principal: &Principal, mut form: Multipart) -> Result<(), Problem> {
    demand(principal, Scope::Deploy)?;
    let dir = chunks_dir(control);
    let mut count = 0;
    while let Some(field) = form.next_field().await.map_err(|e| bad(e.to_string()))? {
        count += 1;
        if count > PER_REQUEST {
            return Err(bad(format!("a request has at most {PER_REQUEST} chunks")));
        }
        let gzip = match field.name() {
            Some("file_gzip") => true,
            Some("file") => false,
            _ => continue,
        };
        let name = field.file_name().and_then(sha1_name);
        let name = name.ok_or_else(|| bad("a chunk's file name is its SHA-1"))?;
        let bytes = field.bytes().await.map_err(|e| bad(e.to_string()))?;
        let dir = dir.clone();
        tokio::task::spawn_blocking(move || keep_chunk(&dir, &name, &bytes, gzip))
            .await
            .map_err(internal)??;
    }
    Ok(())
}

fn keep_chunk(dir: &FilePath, name: &str, bytes: &Bytes, gzip: bool) -> Result<(), Problem> {
    let io = |e: std::io::Error| internal(format!("the chunk could not be kept: {e}"));
    let mut inflated = Vec::new();
    match gzip {
        true => flate2::read::GzDecoder::new(bytes.as_ref())
            .take(CHUNK as u64 + 1)
            .read_to_end(&mut inflated)
            .map_err(|_| bad("the chunk is no gzip"))?,
        false => bytes.as_ref().take(CHUNK as u64 + 1).read_to_end(&mut inflated).map_err(io)?,
    };
    if inflated.len() > CHUNK {
        return Err(Problem::new(Code::TooLarge, format!("a chunk has at most {} MiB", CHUNK >> 20)));
    }
    if sha1_of(&inflated) != name {
        return Err(bad("the chunk's content is not what its name says"));
    }
    std::fs::create_dir_all(dir).map_err(io)?;
    chunks::make_room(dir).map_err(io)?;
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(io)?;
    std::io::Write::write_all(&mut file, &inflated).map_err(io)?;
    file.persist(dir.join(name)).map_err(|e| io(e.error))?;
    Ok(())
}

#[derive(Deserialize)]
struct Assemble {
    checksum: String,
    chunks: Vec<String>,
    #[serde(default)]
    projects: Vec<String>,
    #[serde(default)]
    version: Option<String>,
}

/// How the chunks of a bundle stand, as these clients ask until it is kept.
enum Assembled {
    Kept,
    Missing(Vec<String>),
    /// It cannot be used, and why.
    Unusable(String),
}

async fn assemble(
    State(control): State<Shared>,
    Extension(principal): Extension<Principal>,
    caller: Caller,
    Json(input): Json<Assemble>,
) -> Answer {
    let door = door(&principal, caller, "error_map_upload", &input.projects);
    let (state, missing, detail) =
        match door.watched(&control.context, keep_bundle(&control, &principal, &input)).await? {
            Assembled::Kept => ("ok", Vec::new(), None),
            Assembled::Missing(chunks) => ("not_found", chunks, None),
            Assembled::Unusable(why) => ("error", Vec::new(), Some(why)),
        };
    ok(json!({ "state": state, "missingChunks": missing, "detail": detail }))
}

async fn keep_bundle(
    control: &Shared,
    principal: &Principal,
    input: &Assemble,
) -> Result<Assembled, Problem> {
    demand(principal, Scope::Deploy)?;
    let checksum = sha1_name(&input.checksum).ok_or_else(|| bad("checksum is a SHA-1"))?;
    let chunks: Vec<String> = input.chunks.iter().filter_map(|c| sha1_name(c)).collect();
    if chunks.len() != input.chunks.len() || chunks.len() * CHUNK > BUNDLE {
        return Err(bad("chunks are SHA-1s, at most 32 of them"));
    }
    let mut apps = Vec::new();
    for project in &input.projects {
        apps.push(app(control, principal, project).await?);
    }
    if apps.is_empty() {
        return Err(bad("projects names no app"));
    }
    let dir = chunks_dir(control);
    let names = chunks.clone();
    let read = tokio::task::spawn_blocking(move || join(&dir, &names));
    let (bytes, missing) = read.await.map_err(internal)?;
    if !missing.is_empty() {
        return Ok(Assembled::Missing(missing));
    }
    if sha1_of(&bytes) != checksum {
        return Ok(Assembled::Unusable("the chunks do not make what checksum says".into()));
    }
    for app in &apps {
        if let Some(version) = &input.version {
            control.context.store.errors().add_release(app.id, version, None, false).await?;
        }
        let kept = control.context.maps.add_bundle(app.id, input.version.as_deref(), bytes.clone()).await;
        if let Err(error) = kept {
            return Ok(Assembled::Unusable(error.to_string()));
        }
    }
    let dir = chunks_dir(control);
    // They are done with; another bundle with the same content uploads them again.
    let _ = tokio::task::spawn_blocking(move || {
        chunks.iter().try_for_each(|c| std::fs::remove_file(dir.join(c)))
    })
    .await;
    Ok(Assembled::Kept)
}

/// The chunks together, and those that are missing.
fn join(dir: &FilePath, names: &[String]) -> (Vec<u8>, Vec<String>) {
    let (mut bytes, mut missing) = (Vec::new(), Vec::new());
    for name in names {
        match std::fs::read(dir.join(name)) {
            Ok(chunk) => bytes.extend_from_slice(&chunk),
            Err(_) => missing.push(name.clone()),
        }
    }
    (bytes, missing)
}

#[derive(Deserialize)]
struct Release {
    version: Option<String>,
    #[serde(default)]
    projects: Vec<String>,
    #[serde(default, rename = "dateReleased")]
    released: Option<String>,
    #[serde(default)]
    commits: Option<Vec<Value>>,
    /// Only where the release ends, by repository: what `set-commits --auto` tells of a repository that is known.
    #[serde(default)]
    refs: Option<Vec<Value>>,
}

impl Release {
    /// Its commits as they are kept: id, author, message and time.
    fn kept_commits(&self) -> Option<String> {
        let heads = || {
            let heads = self.refs.as_ref()?.iter().take(100);
            Some(heads.map(|head| json!({ "id": head.get("commit") })).collect::<Vec<_>>())
        };
        let kept: Vec<Value> = self
            .commits
            .clone()
            .or_else(heads)?
            .iter()
            .take(1000)
            .map(|c| {
                let text = |key: &str, max: usize| c.get(key).and_then(Value::as_str).map(|t| t.chars().take(max).collect::<String>());
                json!({ "id": text("id", 64), "author": text("author_name", 100), "message": text("message", 500),
                    "at": text("timestamp", 40) })
            })
            .collect();
        Some(Value::Array(kept).to_string())
    }
}

fn shown(version: &str, projects: &[String], released: bool) -> Value {
    let now = berth_schemas::Timestamp::now();
    let projects: Vec<Value> = projects.iter().map(|p| json!({ "slug": p, "name": p })).collect();
    json!({ "version": version, "shortVersion": version, "url": null, "dateCreated": now,
        "dateReleased": released.then_some(now), "projects": projects, "newGroups": 0 })
}

async fn set_release(
    control: &Shared,
    principal: &Principal,
    caller: Caller,
    version: &str,
    release: &Release,
) -> Result<Value, No> {
    let door = door(principal, caller, "error_release_set", &release.projects);
    door.watched(&control.context, keep_release(control, principal, version, release)).await?;
    Ok(shown(version, &release.projects, release.released.is_some()))
}

async fn keep_release(
    control: &Shared,
    principal: &Principal,
    version: &str,
    release: &Release,
) -> Result<(), Problem> {
    demand(principal, Scope::Deploy)?;
    if version.is_empty() || version.len() > 250 {
        return Err(bad("version has 1 to 250 characters"));
    }
    let commits = release.kept_commits();
    for project in &release.projects {
        let app = app(control, principal, project).await?;
        let errors = control.context.store.errors();
        errors.add_release(app.id, version, commits.as_deref(), release.released.is_some()).await?;
    }
    if release.projects.is_empty() {
        // What was made known by its projects before is told more of.
        for app in control.context.store.apps().all(&principal.visible).await? {
            let errors = control.context.store.errors();
            if errors.releases(app.id, 1000).await?.iter().any(|r| r.name == version) {
                errors.add_release(app.id, version, commits.as_deref(), release.released.is_some()).await?;
            }
        }
    }
    Ok(())
}

async fn create_release(
    State(control): State<Shared>,
    Extension(principal): Extension<Principal>,
    caller: Caller,
    Json(input): Json<Release>,
) -> Answer {
    let version = input.version.clone().unwrap_or_default();
    let shown = set_release(&control, &principal, caller, &version, &input).await?;
    Ok((StatusCode::CREATED, Json(shown)).into_response())
}

async fn create_release_of(
    State(control): State<Shared>,
    Extension(principal): Extension<Principal>,
    Path((_, project)): Path<(String, String)>,
    caller: Caller,
    Json(input): Json<Release>,
) -> Answer {
    let input = Release { projects: vec![project], ..input };
    create_release(State(control), Extension(principal), caller, Json(input)).await
}

async fn update_release(
    State(control): State<Shared>,
    Extension(principal): Extension<Principal>,
    Path((_, version)): Path<(String, String)>,
    caller: Caller,
    Json(input): Json<Release>,
) -> Answer {
    ok(set_release(&control, &principal, caller, &version, &input).await?)
}

async fn release(
    State(control): State<Shared>,
    Extension(principal): Extension<Principal>,
    Path((_, version)): Path<(String, String)>,
) -> Answer {
    demand(&principal, Scope::Read)?;
    let mut projects = Vec::new();
    for app in control.context.store.apps().all(&principal.visible).await? {
        if control.context.store.errors().releases(app.id, 1000).await?.iter().any(|r| r.name == version) {
            projects.push(app.slug.to_string());
        }
    }
    match projects.is_empty() {
        true => Err(Problem::new(Code::NotFound, format!("There is no release {version:?}.")).into()),
        false => ok(shown(&version, &projects, false)),
    }
}

async fn create_deploy(
    State(control): State<Shared>,
    Extension(principal): Extension<Principal>,
    Path((_, version)): Path<(String, String)>,
    caller: Caller,
    Json(input): Json<Value>,
) -> Answer {
    let release = Release {
        version: None,
        projects: Vec::new(),
        released: Some(String::new()),
        commits: None,
        refs: None,
    };
    set_release(&control, &principal, caller, &version, &release).await?;
    let environment = input.get("environment").and_then(Value::as_str).unwrap_or("production");
    let now = berth_schemas::Timestamp::now();
    let shown = json!({ "id": "1", "environment": environment, "name": input.get("name"), "dateStarted": now, "dateFinished": now });
    Ok((StatusCode::CREATED, Json(shown)).into_response())
}

async fn releases(
    State(control): State<Shared>,
    Extension(principal): Extension<Principal>,
    Path((_, project)): Path<(String, String)>,
) -> Answer {
    demand(&principal, Scope::Read)?;
    let app = app(&control, &principal, &project).await?;
    let rows = control.context.store.errors().releases(app.id, 100).await?;
    ok(rows
        .iter()
        .map(|r| json!({ "version": r.name, "dateCreated": r.first_seen, "dateReleased": r.first_seen, "lastEvent": null,
            "newGroups": 0, "projects": [{ "slug": project, "name": project }] }))
        .collect())
}

#[derive(Deserialize)]
struct Listing {
    #[serde(default)]
    query: Option<String>,
}

async fn issues(
    State(control): State<Shared>,
    Extension(principal): Extension<Principal>,
    Path((_, project)): Path<(String, String)>,
    Query(listing): Query<Listing>,
) -> Answer {
    demand(&principal, Scope::Read)?;
    let app = app(&control, &principal, &project).await?;
    let filter = match listing.query.as_deref().filter(|q| !q.is_empty()) {
        Some(query) => {
            let now = control.context.store.clock().now();
            let view = &principal.visible;
            control.context.error_index.seek(query, view, Some(app.id), now).await?.filter
        }
        None => IssueFilter::All(Vec::new()),
    };
    let errors = control.context.store.errors();
    let (rows, _) =
        errors.issues(&principal.visible, Some(app.id), &filter, IssueOrder::LastSeen, (0, 100)).await?;
    ok(rows.iter().map(issue).collect())
}

fn issue(row: &IssueRow) -> Value {
    let reference: IssueRef = row.reference();
    json!({ "id": row.id.to_string(), "shortId": reference.to_string(), "title": format!("{}: {}", row.kind, row.value),
        "culprit": row.culprit, "level": row.level.as_str(), "count": row.events.to_string(), "userCount": row.users,
        "status": if row.state.as_str() == "open" { "unresolved" } else { row.state.as_str() },
        "firstSeen": row.first_seen, "lastSeen": row.last_seen })
}

/// Native debug files are not read yet, which is said rather than taking them and doing nothing.
async fn no_native(Json(input): Json<serde_json::Map<String, Value>>) -> Answer {
    let detail = "Berth reads source maps; debug files of native code are not used yet.";
    let each = |(sha1, _): (String, Value)| {
        (sha1, json!({ "state": "error", "missingChunks": [], "detail": detail }))
    };
    ok(Value::Object(input.into_iter().map(each).collect()))
}
