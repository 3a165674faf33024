//! How much a source may be, and what is said when it is too much or too strange.

use std::path::PathBuf;

use super::path::PathFault;

/// Caps on what an archive, a set of inline files or a repository may unpack to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Files, folders and links together, folders that are only implied included.
    pub entries: u64,
    /// Bytes of all files together.
    pub bytes: u64,
    /// Bytes of one file.
    pub file_bytes: u64,
    /// Bytes of the archive itself.
    pub archive_bytes: u64,
    /// Unpacked bytes per packed byte, looked at only past `ratio_floor`.
    pub ratio: u64,
    /// Unpacked bytes below which any ratio is fine: small sources of repetitive text compress well.
    pub ratio_floor: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 100_000,
            bytes: 2 << 30,
            file_bytes: 1 << 30,
            archive_bytes: 1 << 30,
            ratio: 200,
            ratio_floor: 64 << 20,
        }
    }
}

/// Why a source could not be unpacked. Nothing of it is left on the disk.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// There is no file in it.
    #[error("the upload has no files in it")]
    Empty,
    /// It is neither tar, tar.gz nor zip.
    #[error("the upload is {found}; send a .tar.gz, .tar or .zip")]
    UnknownFormat {
        /// What it looks like, with its article.
        found: &'static str,
    },
    /// It is damaged, cut off, encrypted or uses something unusual.
    #[error("the archive cannot be read{}: {reason}", at(entry.as_deref()))]
    Unreadable {
        /// The entry being read, when it is known.
        entry: Option<String>,
        /// What is wrong with it.
        reason: String,
    },
    /// An entry's name or kind is dangerous.
    #[error("the entry {entry:?} is refused: {why}")]
    UnsafePath {
        /// Its name as the archive has it, shortened.
        entry: String,
        /// What is wrong with it.
        why: PathFault,
    },
    /// Two entries have the same name: which one is meant depends on who reads it.
    #[error("the entry {entry:?} is in the archive twice")]
    Duplicate {
        /// Its name.
        entry: String,
    },
    /// More entries than allowed.
    #[error("there are more than {limit} files and folders; leave out what is not needed (see .berthignore)")]
    TooManyEntries {
        /// The limit.
        limit: u64,
    },
    /// More bytes than allowed, in all.
    #[error("it unpacks to more than {limit} bytes; leave out what is not needed (see .berthignore)")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// One file has more bytes than allowed.
    #[error("the file {entry:?} is larger than {limit} bytes")]
    FileTooLarge {
        /// Its name.
        entry: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// The archive itself has more bytes than allowed.
    #[error("the archive is larger than {limit} bytes")]
    ArchiveTooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// It unpacks to suspiciously more than it is.
    #[error("it unpacks to more than {limit} times its size, as only a decompression bomb does")]
    Ratio {
        /// The limit: unpacked bytes per packed byte.
        limit: u64,
    },
    /// An inline file's content is not what its encoding says.
    #[error("the content of {entry:?} is not valid base64")]
    BadBase64 {
        /// The file's path.
        entry: String,
    },
    /// The caller cancelled.
    #[error("unpacking was cancelled")]
    Cancelled,
    /// The disk refused.
    #[error("could not write the source to {}: {source}", path.display())]
    Disk {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl ArchiveError {
    /// An entry's name is dangerous; the name is shortened for display.
    pub(super) fn unsafe_path(raw: &[u8], why: PathFault) -> Self {
        Self::UnsafePath { entry: shown(raw), why }
    }

    pub(super) fn unreadable(entry: Option<&[u8]>, reason: impl std::fmt::Display) -> Self {
        Self::Unreadable { entry: entry.map(shown), reason: reason.to_string() }
    }
}

fn at(entry: Option<&str>) -> String {
    entry.map(|entry| format!(" at {entry:?}")).unwrap_or_default()
}

/// An entry's name as it can be shown: at most 200 characters, never with control characters.
pub(super) fn shown(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(&raw[..raw.len().min(1024)]);
    text.chars().take(200).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
