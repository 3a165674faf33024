//! `--output FILE`: what an answer says can be had, kept as a file.

use std::path::{Path, PathBuf};

use berth_tools::Tool;
use clap::{Arg, ArgMatches, value_parser};
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use super::{client::Client, failure::Failure};

/// Field of an answer with the path where its bytes are.
const FIELD: &str = "download";
/// Id of the argument.
const FILE: &str = "output";

/// Whether a tool's answer says where bytes can be had.
#[must_use]
pub fn offers(tool: &Tool) -> bool {
    tool.output["properties"].get(FIELD).is_some()
}

/// The argument of such a tool's command.
#[must_use]
pub fn arg() -> Arg {
    Arg::new(FILE)
        .long(FILE)
        .short('o')
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help("Keep its bytes as this file, which must not be there yet, instead of showing it")
}

/// The file that was asked for.
#[must_use]
pub fn wanted<'m>(tool: &Tool, matches: &'m ArgMatches) -> Option<&'m Path> {
    if offers(tool) { matches.get_one::<PathBuf>(FILE).map(PathBuf::as_path) } else { None }
}

/// Keeps what an answer says can be had.
///
/// # Errors
/// When it cannot be had or kept.
pub async fn keep(client: &Client, output: &Value, file: &Path) -> Result<(), Failure> {
    let path = output[FIELD].as_str();
    let path = path.ok_or_else(|| Failure::local("the daemon does not say where its bytes are"))?;
    let response = client.send(client.request(reqwest::Method::GET, path)).await?;
    let failed = |error: std::io::Error| Failure::local(format!("cannot write {}: {error}", file.display()));
    // What strangers sent takes no file's place.
    let mut kept = tokio::fs::File::create_new(file).await.map_err(failed)?;
    let mut pieces = response.bytes_stream();
    let mut bytes = 0;
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|e| client.unreachable(&e))?;
        kept.write_all(&piece).await.map_err(failed)?;
        bytes += piece.len();
    }
    kept.flush().await.map_err(failed)?;
    anstream::println!("{} ({bytes} bytes)", file.display());
    Ok(())
}
