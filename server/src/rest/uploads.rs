//! `POST /v1/uploads`: a source archive, streamed to disk.
//!
//! The answer goes out only when the bytes, the name and the store's row would survive a power cut. Whatever
//! breaks off before leaves nothing behind: the file is removed when its guard is dropped, and leftovers of a
//! killed daemon are swept at the next start.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use berth_deploy::Room;
use berth_schemas::{Code, Problem, Scope, Timestamp, ids::UploadId, token::TokenMode, upload::Upload};
use berth_store::model::Principal;
use berth_tools::Outside;
use futures_util::StreamExt as _;
use http::{HeaderMap, StatusCode, header};
use sha2::{Digest as _, Sha256};
use tokio::{fs, io::AsyncWriteExt as _};

use super::{Shared, caller::Caller, problem::Refusal};

/// How long an upload is kept that no deployment uses.
pub const KEPT: Duration = Duration::from_hours(24);
/// Longest silence within an upload.
const STALL: Duration = Duration::from_secs(60);
/// Suffix of files that are still being written.
const PARTIAL: &str = ".part";

const TYPES: [&str; 5] = [
    "application/gzip",
    "application/x-gzip",
    "application/x-tar",
    "application/zip",
    "application/octet-stream",
];

/// Receives an upload.
pub async fn create(
    State(control): State<Shared>,
    Extension(principal): Extension<Principal>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let door = Outside { who: &principal, via: caller.by_rest(), what: "upload_create", target: None };
    let receiving = receive(&control, &principal, &headers, body);
    match door.watched(&control.context, receiving).await {
        Ok(upload) => (StatusCode::CREATED, Json(upload)).into_response(),
        Err(problem) => Refusal::from(problem).into_response(),
    }
}

async fn receive(
    control: &Shared,
    principal: &Principal,
    headers: &HeaderMap,
    body: Body,
) -> Result<Upload, Problem> {
    if !principal.may(Scope::Deploy) {
        return Err(Problem::new(
            Code::Forbidden,
            format!("Uploading needs the scope deploy, which the token {:?} lacks.", principal.name),
        )
        .hint("Use a token with the scope deploy; an admin makes one with token_create."));
    }
    if principal.mode == TokenMode::ReadOnly {
        let detail = format!("The token {:?} may not upload: its mode is read_only.", principal.name);
        return Err(Problem::new(Code::Forbidden, detail).hint("Use a token of another mode."));
    }
    check_type(headers)?;
    let announced =
        headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    if announced.is_some_and(|n| n > control.limits.upload_max) {
        return Err(too_large(control.limits.upload_max));
    }
    let dir = directory(&control.context.data_dir);
    check_disk(&dir, control.limits.min_free_disk, announced.unwrap_or_default())?;

    let id: UploadId = uuid::Uuid::now_v7().to_string().parse().map_err(internal)?;
    let partial = Partial(dir.join(format!("{id}{PARTIAL}")));
    let (bytes, sha256) = write(&partial.0, body, control.limits.upload_max).await.map_err(|e| match e {
        Broken::Client(problem) => problem,
        Broken::Disk(error) => disk(&error),
    })?;
    if bytes == 0 {
        return Err(Problem::new(Code::EmptySource, "The upload is empty.")
            .hint("Send a .tar.gz, .tar or .zip as the body."));
    }
    partial.keep_as(&dir.join(id.as_str())).await.map_err(|e| disk(&e))?;
    let size = i64::try_from(bytes).unwrap_or(i64::MAX);
    let row = match control.record_upload(id.clone(), size, &sha256, &principal.name).await {
        Ok(row) => row,
        Err(problem) => {
            let _ = fs::remove_file(dir.join(id.as_str())).await;
            return Err(problem);
        }
    };
    let expires_at = Timestamp(row.created_at.0 + i64::try_from(KEPT.as_micros()).unwrap_or(0));
    Ok(Upload { upload: id, bytes: size, sha256, expires_at })
}

/// Directory of the uploads.
#[must_use]
pub fn directory(data_dir: &Path) -> PathBuf {
    data_dir.join("uploads")
}

/// Makes the directory and removes what a killed daemon left half written.
///
/// # Errors
/// When the directory cannot be made or read.
pub fn prepare(data_dir: &Path) -> std::io::Result<()> {
    let dir = directory(data_dir);
    std::fs::create_dir_all(&dir)?;
    for entry in std::fs::read_dir(&dir)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(PARTIAL) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

enum Broken {
    Client(Problem),
    Disk(std::io::Error),
}

async fn write(path: &Path, body: Body, max: u64) -> Result<(u64, String), Broken> {
    let mut file = fs::File::create_new(path).await.map_err(Broken::Disk)?;
    let mut chunks = body.into_data_stream();
    let mut hash = Sha256::new();
    let mut bytes = 0u64;
    loop {
        let stalled = |_| {
            Broken::Client(Problem::new(
                Code::TimedOut,
                format!("Nothing of the upload came for {} s.", STALL.as_secs()),
            ))
        };
        let Some(chunk) = tokio::time::timeout(STALL, chunks.next()).await.map_err(stalled)? else { break };
        let chunk =
            chunk.map_err(|_| Broken::Client(Problem::new(Code::InvalidInput, "The upload broke off.")))?;
        bytes += chunk.len() as u64;
        if bytes > max {
            return Err(Broken::Client(too_large(max)));
        }
        hash.update(&chunk);
        file.write_all(&chunk).await.map_err(Broken::Disk)?;
    }
    file.flush().await.map_err(Broken::Disk)?;
    file.sync_all().await.map_err(Broken::Disk)?;
    let digest =
        hash.finalize().iter().fold(String::new(), |text, byte| text + format!("{byte:02x}").as_str());
    Ok((bytes, digest))
}

/// A file that is removed unless it is kept.
struct Partial(PathBuf);

impl Partial {
    async fn keep_as(self, path: &Path) -> std::io::Result<()> {
        fs::rename(&self.0, path).await?;
        // The name is only safe when its directory is.
        if let Some(dir) = path.parent() {
            fs::File::open(dir).await?.sync_all().await?;
        }
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After keep_as there is nothing under this name.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    if TYPES.iter().any(|t| t.eq_ignore_ascii_case(essence)) {
        return Ok(());
    }
    Err(Problem::invalid("content-type", format!("An upload cannot have the Content-Type {essence:?}."))
        .hint(format!("Use one of {}.", TYPES.join(", "))))
}

/// Refuses what would not leave the configured space free.
fn check_disk(dir: &Path, min_free: u64, bytes: u64) -> Result<(), Problem> {
    let free = Room::of(dir).map_err(|e| disk(&e))?.free;
    if free >= min_free.saturating_add(bytes) {
        return Ok(());
    }
    Err(Problem::new(
        Code::OutOfDisk,
        format!(
            "Only {} MiB are free on the daemon's disk, of which {} MiB must stay so.",
            free >> 20,
            min_free >> 20
        ),
    )
    .hint("Free space with platform_cleanup, or lower min_free_disk_mb."))
}

fn too_large(max: u64) -> Problem {
    Problem::new(Code::TooLarge, format!("The upload is larger than {} MiB.", max >> 20)).hint(
        "Leave out build results with .berthignore, or raise upload_max_mb in the daemon's configuration.",
    )
}

fn disk(error: &std::io::Error) -> Problem {
    tracing::error!(%error, "an upload could not be written");
    if error.kind() == std::io::ErrorKind::StorageFull {
        return Problem::new(Code::OutOfDisk, "The daemon's disk is full.")
            .hint("Free space with platform_cleanup.");
    }
    Problem::new(Code::Internal, format!("The upload could not be written to disk: {error}."))
}

fn internal(error: impl std::fmt::Display) -> Problem {
    Problem::new(Code::Internal, error.to_string())
}
