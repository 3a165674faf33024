//! A source of a few files sent inline: path → text or base64. For assistants, which write an app in their
//! answer and have no archive to send. The same confinement and limits hold as for an archive.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use base64::Engine;

use super::confined::{ConfinedWriter, ExtractReport};
use super::limits::{ArchiveError, Limits};
use super::path::TreePath;

/// The content of one inline file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InlineContent {
    /// Written as it is, in UTF-8.
    Text(String),
    /// Standard base64, with padding; white space is ignored.
    Base64(String),
}

/// Writes the files into `dest`, which must not exist yet and does not exist after an error. A file that begins
/// with `#!` becomes executable. Blocking.
///
/// # Errors
/// [`ArchiveError`], with the file's path.
pub fn write_files(
    files: &BTreeMap<String, InlineContent>,
    dest: &Path,
    limits: Limits,
    cancel: &AtomicBool,
) -> Result<ExtractReport, ArchiveError> {
    let mut writer = ConfinedWriter::create(dest, limits, cancel)?;
    for (name, content) in files {
        let raw = name.as_bytes();
        let path = TreePath::parse(raw).map_err(|why| ArchiveError::unsafe_path(raw, why))?;
        let bytes = match content {
            InlineContent::Text(text) => text.clone().into_bytes(),
            InlineContent::Base64(text) => {
                let packed: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
                base64::engine::general_purpose::STANDARD
                    .decode(packed)
                    .map_err(|_| ArchiveError::BadBase64 { entry: path.to_string() })?
            }
        };
        let executable = bytes.starts_with(b"#!");
        let broken = |error| ArchiveError::unreadable(Some(raw), error);
        writer.file(&path, executable, &mut Cursor::new(bytes), &broken)?;
    }
    writer.finish(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(files: &[(&str, InlineContent)]) -> (tempfile::TempDir, Result<ExtractReport, ArchiveError>) {
        let top = tempfile::tempdir().unwrap();
        let files = files.iter().map(|(name, content)| ((*name).to_owned(), content.clone())).collect();
        let result =
            write_files(&files, &top.path().join("tree"), Limits::default(), &AtomicBool::new(false));
        (top, result)
    }

    fn text(text: &str) -> InlineContent {
        InlineContent::Text(text.to_owned())
    }

    #[test]
    fn text_and_base64_are_written() {
        let files = [("a/index.html", text("<p>")), ("b", InlineContent::Base64("AAEC\n/w==".into()))];
        let (top, result) = write(&files);
        assert_eq!(result.unwrap().files, 2);
        assert_eq!(std::fs::read(top.path().join("tree/a/index.html")).unwrap(), b"<p>");
        assert_eq!(std::fs::read(top.path().join("tree/b")).unwrap(), [0, 1, 2, 255]);
    }

    #[test]
    fn what_an_archive_may_not_do_inline_files_may_not_either() {
        for name in ["../x", "/x", "a/../../x", ""] {
            let (top, result) = write(&[(name, text("x"))]);
            assert!(matches!(result, Err(ArchiveError::UnsafePath { .. })), "{name}");
            assert!(!top.path().join("tree").exists());
        }
        assert!(matches!(write(&[]).1, Err(ArchiveError::Empty)));
        let clash = [("a", text("")), ("a/b", text(""))];
        assert!(matches!(write(&clash).1, Err(ArchiveError::UnsafePath { .. })));
        let bad = [("a", InlineContent::Base64("!".into()))];
        assert!(matches!(write(&bad).1, Err(ArchiveError::BadBase64 { .. })));
    }
}
