//! `berth deploy`: from a folder, a repository or an image to a live app.

use std::{
    fs::File,
    io::{IsTerminal as _, Seek as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use berth_deploy::source::ignore;
use berth_schemas::upload::Upload;
use bytes::Bytes;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command};
use futures_util::{Stream, StreamExt as _};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value};
use tokio_util::io::ReaderStream;

use super::{Session, block_on, client::Client, environment_arg, failure::Failure, manifest, progress, term};

/// The command.
#[must_use]
pub fn command() -> Command {
    let text = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    let switch = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    Command::new("deploy")
        .about("Deploy a folder, a git repository or an image, and follow it until it is live")
        .arg(Arg::new("dir").value_name("DIR").help("The folder. Default: this one"))
        .arg(text("app", "NAME", "Name of the app. Default: from .berth.toml, else the folder's name"))
        .arg(text("git", "URL", "Deploy a git repository instead of a folder"))
        .arg(text("ref", "REF", "Branch, tag or commit of the repository").requires("git"))
        .arg(text("image", "REF", "Deploy an image instead of a folder"))
        .group(ArgGroup::new("source").args(["dir", "git", "image"]))
        .arg(text("project", "NAME", "Project of a new app. Default: default"))
        .arg(environment_arg())
        .arg(text("message", "TEXT", "What this deployment is, in a line").short('m'))
        .arg(switch("no-cache", "Build without the cache of earlier builds"))
        .arg(switch("no-follow", "Return as soon as the deployment is queued"))
}

/// Runs the command.
///
/// # Errors
/// When the source cannot be packed, or whatever the daemon answers.
pub fn run(session: &Session, matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let dir = PathBuf::from(text("dir").unwrap_or_else(|| ".".into()));
    let app = match (text("app"), text("git").or_else(|| text("image"))) {
        // The folder's name says nothing about another source; its manifest still may.
        (None, Some(source)) => match manifest::app_of(None, &dir) {
            Ok(app) if dir.join(".berth.toml").is_file() => app,
            _ => manifest::app_of(None, Path::new(source.trim_end_matches('/')))
                .map_err(|_| Failure::usage("name the app with --app"))?,
        },
        (app, _) => manifest::app_of(app.as_deref(), &dir)?,
    };
    let mut input = Map::new();
    input.insert("app".into(), app.to_string().into());
    // A new app has no environment but production.
    let elsewhere = text("environment").is_some_and(|name| name != "production");
    input.insert("create_app".into(), (!elsewhere).into());
    input.insert("idempotency_key".into(), uuid::Uuid::new_v4().to_string().into());
    for (flag, field) in [
        ("git", "git_url"),
        ("ref", "git_ref"),
        ("image", "image"),
        ("project", "project"),
        ("environment", "environment"),
        ("message", "message"),
    ] {
        if let Some(value) = text(flag) {
            input.insert(field.into(), value.into());
        }
    }
    if matches.get_flag("no-cache") {
        input.insert("no_cache".into(), true.into());
    }
    block_on(async {
        let client = session.client()?;
        if !input.contains_key("git_url") && !input.contains_key("image") {
            let quiet = session.json || !std::io::stderr().is_terminal();
            let upload = upload_folder(&client, &dir, quiet).await?;
            input.insert("upload".into(), upload.upload.to_string().into());
        }
        let tool = session.tool("deployment_create")?;
        if matches.get_flag("no-follow") {
            let output = client.call(tool, input).await?;
            session.show(&output, &tool.output);
            return Ok(ExitCode::SUCCESS);
        }
        progress::follow(session, &client, tool, input).await
    })
}

/// Packs a folder and uploads it, showing the bytes as they go.
///
/// # Errors
/// When the folder cannot be packed, or whatever the daemon answers.
pub async fn upload_folder(client: &Client, dir: &Path, quiet: bool) -> Result<Upload, Failure> {
    let dir = dir.to_owned();
    let packed = tokio::task::spawn_blocking(move || pack(&dir));
    let (archive, files, bytes) = packed.await.map_err(|e| Failure::local(e.to_string()))??;
    if !quiet {
        anstream::eprintln!("{h}packed{h:#} {files} files, {}", term::bytes(bytes), h = term::HINT);
    }
    let bar = bar(bytes, quiet);
    let archive =
        counted(ReaderStream::with_capacity(tokio::fs::File::from_std(archive), 256 << 10), bar.clone());
    let uploaded = client.upload(bytes, archive).await;
    bar.finish_and_clear();
    uploaded
}

/// The folder as a compressed archive in an unnamed file, how many files it has and how large it is.
fn pack(dir: &Path) -> Result<(File, u64, u64), Failure> {
    if !dir.is_dir() {
        return Err(Failure::usage(format!("{} is not a folder", dir.display())));
    }
    let mut file = tempfile::tempfile()?;
    let packed = ignore::pack_directory(dir, &mut file, ignore::PackOptions::default())
        .map_err(|e| Failure::local(format!("{} could not be packed: {e}", dir.display())))?;
    let bytes = file.stream_position()?;
    file.rewind()?;
    if packed.files == 0 {
        return Err(Failure::local(format!("{} holds no files to deploy", dir.display()))
            .hint("Is everything named in .gitignore or .berthignore?"));
    }
    Ok((file, packed.files, bytes))
}

fn counted<S>(chunks: S, bar: ProgressBar) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static
where
    S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
{
    chunks.inspect(move |chunk| {
        if let Ok(chunk) = chunk {
            bar.inc(chunk.len() as u64);
        }
    })
}

fn bar(bytes: u64, quiet: bool) -> ProgressBar {
    let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(bytes), target);
    if let Ok(style) =
        ProgressStyle::with_template("uploading {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
    {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Whether a value of a call's input names a folder to upload.
#[must_use]
pub fn folder_of(input: &Map<String, Value>) -> Option<PathBuf> {
    input.get("folder").and_then(Value::as_str).filter(|f| !f.is_empty()).map(PathBuf::from)
}
