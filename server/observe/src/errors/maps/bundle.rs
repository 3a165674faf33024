//! Artifact bundles as `sentry-cli` and the bundler plugins upload them: a ZIP with minified files, their source maps
//! and a manifest that says which is which.

use std::{
    collections::HashMap,
    io::{Cursor, Read as _},
};

use serde_json::Value;

use crate::errors::read;

/// Files of a bundle.
const MAX_FILES: usize = 20_000;
/// Largest minified file or map, in bytes.
pub const MAX_FILE: u64 = 64 << 20;
/// All files of a bundle together, in bytes.
const MAX_ALL: u64 = 512 << 20;

/// A minified file with its map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// By which events name it.
    pub debug_id: Option<String>,
    /// Its place, such as `~/assets/index.js`.
    pub url: String,
    /// The minified file.
    pub source: String,
    /// Its source map.
    pub map: String,
}

/// Why a bundle is refused.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It cannot be read.
    #[error("the bundle is no readable ZIP archive: {0}")]
    Zip(#[from] zip::result::ZipError),
    /// Its manifest is missing or damaged.
    #[error("the bundle's manifest.json is missing or damaged")]
    Manifest,
    /// Too much in it.
    #[error("the bundle has more than {MAX_FILES} files or 512 MiB, or a file of more than 64 MiB")]
    TooLarge,
    /// A file cannot be read.
    #[error("a file of the bundle cannot be read: {0}")]
    Io(#[from] std::io::Error),
}

struct Listed {
    path: String,
    kind: String,
    url: String,
    debug_id: Option<String>,
    map: Option<String>,
}

/// A debug id as events name it: lower case, with hyphens.
#[must_use]
pub fn debug_id(text: &str) -> Option<String> {
    uuid::Uuid::try_parse(text).ok().map(|id| id.hyphenated().to_string())
}

/// Reads a bundle's pairs of file and map. What has no partner is left out.
///
/// # Errors
/// When it is damaged or too large.
pub fn pairs(bytes: &[u8]) -> Result<Vec<Pair>, BundleError> {
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes))?;
    if archive.len() > MAX_FILES {
        return Err(BundleError::TooLarge);
    }
    let mut left = MAX_ALL;
    let manifest = text(&mut archive, "manifest.json", &mut left)?.ok_or(BundleError::Manifest)?;
    let manifest: Value = serde_json::from_str(&manifest).map_err(|_| BundleError::Manifest)?;
    let listed = manifest.get("files").and_then(Value::as_object).ok_or(BundleError::Manifest)?;
    let listed: Vec<Listed> = listed.iter().filter_map(|(path, about)| entry(path, about)).collect();
    let maps = listed.iter().filter(|l| l.kind == "source_map");
    let by_id: HashMap<&str, &Listed> =
        maps.clone().filter_map(|m| Some((m.debug_id.as_deref()?, m))).collect();
    let by_url: HashMap<&str, &Listed> = maps.map(|m| (m.url.as_str(), m)).collect();
    let mut pairs = Vec::new();
    for file in listed.iter().filter(|l| l.kind == "minified_source") {
        let named = file.map.as_deref().map(|map| beside(&file.url, map));
        let found = file.debug_id.as_deref().and_then(|id| by_id.get(id));
        let found = found.or_else(|| named.as_deref().and_then(|url| by_url.get(url)));
        let Some(found) = found else { continue };
        let (source, map) =
            (text(&mut archive, &file.path, &mut left)?, text(&mut archive, &found.path, &mut left)?);
        if let (Some(source), Some(map)) = (source, map) {
            let debug_id = file.debug_id.clone().or_else(|| found.debug_id.clone());
            pairs.push(Pair { debug_id, url: file.url.clone(), source, map });
        }
    }
    Ok(pairs)
}

fn entry(path: &str, about: &Value) -> Option<Listed> {
    let headers = read::pairs(about.get("headers"));
    let header = |name: &str| {
        let found = headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.and_then(|(_, v)| read::text(Some(v), 2000))
    };
    Some(Listed {
        path: path.to_owned(),
        kind: read::field(about, "type", 40)?,
        url: read::field(about, "url", 2000)?,
        debug_id: header("debug-id").as_deref().and_then(debug_id),
        map: header("sourcemap"),
    })
}

/// The URL of a map that a file names by its relative path.
fn beside(file: &str, map: &str) -> String {
    match file.rsplit_once('/') {
        Some((dir, _)) if !map.contains("://") && !map.starts_with(['/', '~']) => format!("{dir}/{map}"),
        _ => map.to_owned(),
    }
}

fn text(
    archive: &mut zip::ZipArchive<Cursor<&[u8]>>,
    path: &str,
    left: &mut u64,
) -> Result<Option<String>, BundleError> {
    let file = match archive.by_name(path) {
        Ok(file) => file,
        Err(zip::result::ZipError::FileNotFound) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = Vec::new();
    let most = MAX_FILE.min(*left);
    // What the archive says of sizes is not believed.
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(BundleError::TooLarge);
    }
    *left -= bytes.len() as u64;
    Ok(String::from_utf8(bytes).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_of_the_real_tool_has_its_pair() {
        let bytes = include_bytes!("../../../tests/fixtures/artifact-bundle.zip");
        let pairs = pairs(bytes).unwrap();
        assert_eq!(pairs.len(), 1);
        assert_eq!(pairs[0].url, "~/main.js");
        assert_eq!(pairs[0].debug_id.as_deref(), Some("ff0d4cca-3c94-5250-a2dc-b3e40bb3d19b"));
        assert!(matches!(super::pairs(b"no zip"), Err(BundleError::Zip(_))));
    }

    #[test]
    fn a_relative_map_lies_beside_its_file() {
        assert_eq!(beside("~/a/b.js", "b.js.map"), "~/a/b.js.map");
        assert_eq!(beside("~/a/b.js", "https://x.example/b.js.map"), "https://x.example/b.js.map");
    }
}
