//! Chunks of bundles that wait to be put together. Who uploads may never come back, so they go by themselves.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// All chunks that wait together, in bytes.
const ALL: u64 = 2 << 30;
/// How long chunks wait.
const WAIT: Duration = Duration::from_secs(24 * 3600);

/// Removes chunks that nobody put together, and the oldest if there are too many. Blocking.
///
/// # Errors
/// When one cannot be removed.
pub fn make_room(dir: &Path) -> std::io::Result<()> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(()) };
    let mut files: Vec<(SystemTime, u64, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let about = entry.metadata().ok()?;
            Some((about.modified().ok()?, about.len(), entry.path()))
        })
        .collect();
    files.sort();
    let mut all: u64 = files.iter().map(|(_, size, _)| size).sum();
    for (at, size, path) in files {
        let old = at.elapsed().is_ok_and(|age| age > WAIT);
        if !old && all <= ALL {
            break;
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => all -= size,
        }
    }
    Ok(())
}
