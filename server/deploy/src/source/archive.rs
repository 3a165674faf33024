//! Unpacking an uploaded archive: tar, tar.gz or zip, told apart by their first bytes.
//!
//! The archive is hostile until shown otherwise. Names and links are judged by [`super::path`], writing is
//! confined by [`super::confined`], and everything is counted while it streams, so that a bomb is noticed when
//! it starts to grow and not when it has filled the disk. tar is read header by header: the long-name and pax
//! headers that describe the next entry are read here, with a cap, because a library that gathers them for us
//! would gather gigabytes.
//!
//! All functions block: call them in `spawn_blocking`.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::bufread::MultiGzDecoder;

use super::confined::{ConfinedWriter, ExtractReport};
use super::limits::{ArchiveError, Limits};
use super::path::{PathFault, TreePath};

/// The most bytes of one header that describes the next entry (a long name, pax records).
const MAX_EXTENSION: u64 = 64 * 1024;

/// What an archive is, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// gzip, which must hold a tar.
    TarGz,
    /// Plain tar.
    Tar,
    /// zip.
    Zip,
}

/// How to unpack.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExtractOptions {
    /// Caps.
    pub limits: Limits,
    /// Take away the one folder around everything, if the archive is just that: forges pack so.
    pub strip_top_folder: bool,
}

/// Unpacks the archive `file` into `dest`, which must not exist yet and does not exist after an error. Blocking.
///
/// # Errors
/// [`ArchiveError`], with the entry's name where there is one.
pub fn extract(
    file: &Path,
    dest: &Path,
    options: &ExtractOptions,
    cancel: &AtomicBool,
) -> Result<ExtractReport, ArchiveError> {
    let disk = |source| ArchiveError::Disk { path: file.to_owned(), source };
    let archive = File::open(file).map_err(disk)?;
    extract_from(archive, dest, options, cancel)
}

/// As [`extract`], from anything that can be read and wound back.
///
/// # Errors
/// As [`extract`].
pub fn extract_from<R: Read + Seek>(
    mut archive: R,
    dest: &Path,
    options: &ExtractOptions,
    cancel: &AtomicBool,
) -> Result<ExtractReport, ArchiveError> {
    let unreadable = |error: std::io::Error| ArchiveError::unreadable(None, error);
    let limits = options.limits;
    let packed = archive.seek(SeekFrom::End(0)).map_err(unreadable)?;
    if packed > limits.archive_bytes {
        return Err(ArchiveError::ArchiveTooLarge { limit: limits.archive_bytes });
    }
    archive.rewind().map_err(unreadable)?;
    let mut head = Vec::with_capacity(512);
    archive.by_ref().take(512).read_to_end(&mut head).map_err(unreadable)?;
    archive.rewind().map_err(unreadable)?;
    let format = detect_format(&head)?;

    let mut writer = ConfinedWriter::create(dest, limits, cancel)?;
    match format {
        Format::Zip => unpack_zip(archive, packed, &limits, cancel, &mut writer)?,
        Format::Tar => {
            let meter = Meter::new(archive, Rc::new(Cell::new(packed)), &limits, cancel);
            unpack_tar(meter, &mut writer)?;
        }
        Format::TarGz => {
            let eaten = Rc::new(Cell::new(0));
            let counted = Counted { inner: archive, eaten: eaten.clone() };
            let gunzip = MultiGzDecoder::new(BufReader::with_capacity(64 * 1024, counted));
            unpack_tar(Meter::new(gunzip, eaten, &limits, cancel), &mut writer)?;
        }
    }
    writer.finish(options.strip_top_folder)
}

/// What an archive is, by its first 512 bytes (or all, if it is shorter).
///
/// # Errors
/// [`ArchiveError::Empty`] or [`ArchiveError::UnknownFormat`], which names what it looks like.
pub fn detect_format(head: &[u8]) -> Result<Format, ArchiveError> {
    const OTHERS: &[(&[u8], &str)] = &[
        (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
        (b"\xfd7zXZ\0", "compressed with xz"),
        (b"BZh", "compressed with bzip2"),
        (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
        (b"Rar!", "a RAR archive"),
        (b"\x7fELF", "a Linux program"),
        (b"<!", "an HTML page"),
        (b"{", "a JSON document"),
    ];
    if head.is_empty() {
        return Err(ArchiveError::Empty);
    }
    if head.starts_with(&[0x1f, 0x8b]) {
        return Ok(Format::TarGz);
    }
    if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
        return Ok(Format::Zip);
    }
    if is_tar(head) {
        return Ok(Format::Tar);
    }
    let found = OTHERS.iter().find(|(magic, _)| head.starts_with(magic));
    Err(ArchiveError::UnknownFormat { found: found.map_or("no archive known here", |(_, name)| name) })
}

/// A tar header carries its own checksum; an archive without entries is zeros.
fn is_tar(head: &[u8]) -> bool {
    let Some(block) = head.get(..512) else { return false };
    if block.iter().all(|byte| *byte == 0) {
        return true;
    }
    let sum: u32 = block[..148].iter().chain(&block[156..]).map(|byte| u32::from(*byte)).sum();
    tar::Header::from_byte_slice(block).cksum().is_ok_and(|stated| stated == sum + 8 * 32)
}

/// Counts the packed bytes on their way into the decompressor.
struct Counted<R> {
    inner: R,
    eaten: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buf)?;
        self.eaten.set(self.eaten.get() + read as u64);
        Ok(read)
    }
}

/// Why a [`Meter`] stopped a stream.
#[derive(Clone, Copy)]
enum Tripped {
    TooLarge(u64),
    Ratio(u64),
    Cancelled,
}

impl From<Tripped> for ArchiveError {
    fn from(tripped: Tripped) -> Self {
        match tripped {
            Tripped::TooLarge(limit) => Self::TooLarge { limit },
            Tripped::Ratio(limit) => Self::Ratio { limit },
            Tripped::Cancelled => Self::Cancelled,
        }
    }
}

/// Counts unpacked bytes, whatever they are for (contents, headers, what is skipped), and stops the stream at
/// the first limit. Which one it was is kept aside: an I/O error loses it on its way through a library.
struct Meter<'a, R> {
    inner: R,
    packed: Rc<Cell<u64>>,
    unpacked: u64,
    limits: Limits,
    cancel: &'a AtomicBool,
    tripped: Rc<Cell<Option<Tripped>>>,
}

impl<'a, R> Meter<'a, R> {
    fn new(inner: R, packed: Rc<Cell<u64>>, limits: &Limits, cancel: &'a AtomicBool) -> Self {
        let tripped = Rc::new(Cell::new(None));
        Self { inner, packed, unpacked: 0, limits: *limits, cancel, tripped }
    }

    fn verdict(&self) -> Option<Tripped> {
        // Headers and padding take up to three blocks per entry beside the contents.
        let overhead = self.limits.entries.saturating_mul(3 * 512).saturating_add(1 << 20);
        if self.unpacked > self.limits.bytes.saturating_add(overhead) {
            return Some(Tripped::TooLarge(self.limits.bytes));
        }
        let allowed = self.packed.get().saturating_mul(self.limits.ratio).max(self.limits.ratio_floor);
        if self.unpacked > allowed {
            return Some(Tripped::Ratio(self.limits.ratio));
        }
        self.cancel.load(Ordering::Relaxed).then_some(Tripped::Cancelled)
    }
}

impl<R: Read> Read for Meter<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buf)?;
        self.unpacked += read as u64;
        if let Some(tripped) = self.verdict() {
            self.tripped.set(Some(tripped));
            return Err(std::io::Error::other("a limit was reached"));
        }
        Ok(read)
    }
}

/// What the headers before an entry said about it.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

fn unpack_tar<R: Read>(meter: Meter<'_, R>, writer: &mut ConfinedWriter<'_>) -> Result<(), ArchiveError> {
    let tripped = meter.tripped.clone();
    let broken = |entry: Option<&[u8]>, error: std::io::Error| match tripped.get() {
        Some(tripped) => tripped.into(),
        None => ArchiveError::unreadable(entry, error),
    };
    let mut archive = tar::Archive::new(meter);
    let entries = archive.entries().map_err(|error| broken(None, error))?.raw(true);
    let mut next = Extensions::default();
    for entry in entries {
        let mut entry = entry.map_err(|error| broken(None, error))?;
        writer.check_cancel()?;
        if read_extension(&mut entry, &mut next, &broken)? {
            continue;
        }
        let about = std::mem::take(&mut next);
        let raw = about.path.unwrap_or_else(|| entry.header().path_bytes().into_owned());
        if about.size.is_some_and(|size| size != entry.size()) {
            return Err(ArchiveError::unreadable(Some(&raw), "its headers disagree about its size"));
        }
        let kind = entry.header().entry_type();
        if about.sparse || kind.is_gnu_sparse() {
            return Err(ArchiveError::unsafe_path(&raw, PathFault::Sparse));
        }
        let path = match TreePath::parse(&raw) {
            Ok(path) => path,
            Err(PathFault::Empty) if kind.is_dir() => continue,
            Err(why) => return Err(ArchiveError::unsafe_path(&raw, why)),
        };
        // Before ustar, a folder was a file whose name ends in a slash.
        if kind.is_dir() || (kind.is_file() && raw.ends_with(b"/")) {
            writer.folder(&path)?;
        } else if kind.is_file() || kind.is_contiguous() {
            let executable = entry.header().mode().is_ok_and(|mode| mode & 0o111 != 0);
            let expected = entry.size();
            let mut got = 0;
            let mut counting = Tally { inner: &mut entry, read: &mut got };
            writer.file(&path, executable, &mut counting, &|error| broken(Some(&raw), error))?;
            if got != expected {
                return Err(ArchiveError::unreadable(Some(&raw), "the archive ends in the middle of it"));
            }
        } else if kind.is_symlink() {
            let target = about.target.or_else(|| entry.header().link_name_bytes().map(|t| t.into_owned()));
            let target = String::from_utf8(target.unwrap_or_default())
                .map_err(|_| ArchiveError::unsafe_path(&raw, PathFault::NotUtf8))?;
            writer.link(&path, target)?;
        } else {
            let why = if kind.is_hard_link() { PathFault::HardLink } else { PathFault::Special };
            return Err(ArchiveError::unsafe_path(&raw, why));
        }
    }
    // Reading to the very end makes gzip compare its checksum and length, so that a cut-off upload is noticed.
    let mut rest = archive.into_inner();
    std::io::copy(&mut rest, &mut std::io::sink()).map_err(|error| broken(None, error))?;
    Ok(())
}

/// Takes in a header that describes the entry after it; false if this is an entry itself.
fn read_extension<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    next: &mut Extensions,
    broken: &dyn Fn(Option<&[u8]>, std::io::Error) -> ArchiveError,
) -> Result<bool, ArchiveError> {
    let kind = entry.header().entry_type();
    let known = kind.is_gnu_longname()
        || kind.is_gnu_longlink()
        || kind.is_pax_local_extensions()
        || kind.is_pax_global_extensions();
    if !known {
        return Ok(false);
    }
    if entry.size() > MAX_EXTENSION {
        return Err(ArchiveError::unreadable(None, "a name or attribute in it is unreasonably long"));
    }
    let mut data = Vec::new();
    entry.take(MAX_EXTENSION).read_to_end(&mut data).map_err(|error| broken(None, error))?;
    if kind.is_gnu_longname() {
        next.path = Some(without_nul(data));
    } else if kind.is_gnu_longlink() {
        next.target = Some(without_nul(data));
    } else if kind.is_pax_local_extensions() {
        for record in tar::PaxExtensions::new(&data) {
            let record = record.map_err(|error| broken(None, error))?;
            match record.key_bytes() {
                b"path" => next.path = Some(record.value_bytes().to_vec()),
                b"linkpath" => next.target = Some(record.value_bytes().to_vec()),
                b"size" => {
                    let size = record.value().ok().and_then(|text| text.parse().ok());
                    next.size = Some(size.unwrap_or(u64::MAX));
                }
                key if key.starts_with(b"GNU.sparse.") => next.sparse = true,
                _ => {}
            }
        }
    }
    // A global pax header (git archive writes one, with the commit) says nothing that is wanted here.
    Ok(true)
}

fn without_nul(mut data: Vec<u8>) -> Vec<u8> {
    while data.last() == Some(&0) {
        data.pop();
    }
    data
}

/// Counts what was read of one entry: the tar library ends quietly when the archive does.
struct Tally<'a, R> {
    inner: R,
    read: &'a mut u64,
}

impl<R: Read> Read for Tally<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buf)?;
        *self.read += read as u64;
        Ok(read)
    }
}

fn unpack_zip<R: Read + Seek>(
    mut archive: R,
    packed: u64,
    limits: &Limits,
    cancel: &AtomicBool,
    writer: &mut ConfinedWriter<'_>,
) -> Result<(), ArchiveError> {
    if zip_entries(&mut archive, packed).is_some_and(|entries| entries > limits.entries) {
        return Err(ArchiveError::TooManyEntries { limit: limits.entries });
    }
    let mut zip = zip::ZipArchive::new(BufReader::new(archive)).map_err(|e| zip_error(None, &e))?;
    if zip.len() as u64 > limits.entries {
        return Err(ArchiveError::TooManyEntries { limit: limits.entries });
    }
    if zip.has_duplicate_names() {
        return Err(ArchiveError::unreadable(None, "two of its entries have the same name"));
    }
    // One count over all entries: in a zip they may overlap, and share the same packed bytes.
    let mut unpacked = 0;
    for index in 0..zip.len() {
        writer.check_cancel()?;
        let mut entry = zip.by_index(index).map_err(|error| zip_error(None, &error))?;
        let raw = entry.name_raw().to_vec();
        let path = match TreePath::parse(&raw) {
            Ok(path) => path,
            Err(PathFault::Empty) if entry.is_dir() => continue,
            Err(why) => return Err(ArchiveError::unsafe_path(&raw, why)),
        };
        if entry.encrypted() {
            return Err(ArchiveError::unreadable(Some(&raw), "it is encrypted"));
        }
        let mode = entry.unix_mode();
        let kind = mode.map_or(0, |mode| mode & 0o170_000);
        if entry.is_dir() {
            writer.folder(&path)?;
            continue;
        }
        let link = entry.is_symlink();
        if !link && !matches!(kind, 0 | 0o100_000) {
            return Err(ArchiveError::unsafe_path(&raw, PathFault::Special));
        }
        let executable = mode.is_some_and(|mode| mode & 0o111 != 0);
        let mut meter = Meter::new(&mut entry, Rc::new(Cell::new(packed)), limits, cancel);
        meter.unpacked = unpacked;
        let tripped = meter.tripped.clone();
        let broken = |error: std::io::Error| match tripped.get() {
            Some(tripped) => tripped.into(),
            None => ArchiveError::unreadable(Some(&raw), error),
        };
        if link {
            let mut target = Vec::new();
            let most = super::path::MAX_PATH as u64 + 1;
            meter.by_ref().take(most).read_to_end(&mut target).map_err(broken)?;
            let target =
                String::from_utf8(target).map_err(|_| ArchiveError::unsafe_path(&raw, PathFault::NotUtf8))?;
            writer.link(&path, target)?;
        } else {
            writer.file(&path, executable, &mut meter, &broken)?;
        }
        unpacked = meter.unpacked;
    }
    Ok(())
}

fn zip_error(entry: Option<&[u8]>, error: &zip::result::ZipError) -> ArchiveError {
    ArchiveError::unreadable(entry, error)
}

/// How many entries a zip's end record claims, read before the library makes room for them.
fn zip_entries<R: Read + Seek>(archive: &mut R, packed: u64) -> Option<u64> {
    let tail_len = packed.min(22 + 65_535 + 20);
    archive.seek(SeekFrom::Start(packed - tail_len)).ok()?;
    let mut tail = Vec::new();
    archive.by_ref().take(tail_len).read_to_end(&mut tail).ok()?;
    archive.rewind().ok()?;
    let end = tail.windows(4).rposition(|window| window == b"PK\x05\x06")?;
    let count = u16::from_le_bytes(tail.get(end + 10..end + 12)?.try_into().ok()?);
    if count != u16::MAX {
        return Some(u64::from(count));
    }
    // 65,535 means: see the zip64 record. What it says is checked by the library against the size of the file;
    // one that is not there leaves this number as it is.
    let locator = end.checked_sub(20).filter(|at| tail[*at..].starts_with(b"PK\x06\x07"))?;
    let at = u64::from_le_bytes(tail.get(locator + 8..locator + 16)?.try_into().ok()?);
    let mut record = [0_u8; 40];
    archive.seek(SeekFrom::Start(at)).ok()?;
    archive.read_exact(&mut record).ok()?;
    archive.rewind().ok()?;
    Some(u64::from_le_bytes(record[32..40].try_into().ok()?))
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
