use std::io::{Cursor, Write};

use super::*;

/// Builds a tar entry by entry, with names that a careful library would refuse to write.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn entry(mut self, kind: u8, name: &str, link: &str, mode: u32, data: &[u8]) -> Self {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.as_mut_bytes()[156] = kind;
        header.set_mode(mode);
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, data: &[u8]) -> Self {
        self.entry(b'0', name, "", 0o644, data)
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.entry(b'2', name, target, 0o777, b"")
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn zip_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, data) in files {
        out.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        out.write_all(data).unwrap();
    }
    out.finish().unwrap().into_inner()
}

struct Unpacked {
    _top: tempfile::TempDir,
    dest: std::path::PathBuf,
    result: Result<ExtractReport, ArchiveError>,
}

impl Unpacked {
    fn error(&self) -> &ArchiveError {
        let error = self.result.as_ref().expect_err("it was accepted");
        let left: Vec<_> = std::fs::read_dir(self._top.path()).unwrap().collect();
        assert!(left.is_empty(), "something is left after {error}: {left:?}");
        error
    }

    fn why(&self) -> PathFault {
        match self.error() {
            ArchiveError::UnsafePath { why, .. } => *why,
            other => panic!("another error: {other}"),
        }
    }

    fn report(&self) -> &ExtractReport {
        self.result.as_ref().expect("it was refused")
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.dest.join(path)).unwrap()
    }
}

fn unpack_with(bytes: &[u8], options: ExtractOptions) -> Unpacked {
    let top = tempfile::tempdir().unwrap();
    let dest = top.path().join("tree");
    let result = extract_from(Cursor::new(bytes), &dest, &options, &AtomicBool::new(false));
    Unpacked { _top: top, dest, result }
}

fn unpack(bytes: &[u8]) -> Unpacked {
    unpack_with(bytes, ExtractOptions::default())
}

fn limited(change: impl FnOnce(&mut Limits)) -> ExtractOptions {
    let mut options = ExtractOptions::default();
    change(&mut options.limits);
    options
}

#[test]
fn the_same_tree_has_the_same_hash_in_every_format() {
    let tar = Tar::default().file("./b/two.txt", b"2").file("one.txt", b"1").end();
    let from_tar = unpack(&tar);
    let from_gz = unpack(&gzip(&tar));
    let from_zip = unpack(&zip_of(&[("one.txt", b"1"), ("b/two.txt", b"2")]));
    assert_eq!(from_tar.report(), from_gz.report());
    assert_eq!(from_tar.report(), from_zip.report());
    assert_eq!((from_tar.report().files, from_tar.report().bytes), (2, 2));
    assert_eq!(from_zip.read("b/two.txt"), "2");
    let on_disk = super::super::hash_directory(&from_tar.dest).unwrap();
    assert_eq!(on_disk, from_tar.report().sha256);
    let other = unpack(&Tar::default().file("b/two.txt", b"3").file("one.txt", b"1").end());
    assert_ne!(other.report().sha256, from_tar.report().sha256);
}

#[test]
fn names_that_lead_out_are_refused() {
    for (name, why) in [
        ("../evil", PathFault::Parent),
        ("a/../../evil", PathFault::Parent),
        ("/etc/evil", PathFault::Absolute),
        ("C:/evil", PathFault::Drive),
        ("..\\evil", PathFault::Backslash),
    ] {
        assert_eq!(unpack(&Tar::default().file(name, b"x").end()).why(), why, "tar {name}");
        assert_eq!(unpack(&zip_of(&[(name, b"x")])).why(), why, "zip {name}");
    }
}

#[test]
fn a_file_cannot_be_written_through_a_link() {
    let out = tempfile::tempdir().unwrap();
    let target = out.path().to_str().unwrap();
    let tar = Tar::default().link("a", target).file("a/passwd", b"x").end();
    assert_eq!(unpack(&tar).why(), PathFault::ThroughFile);
    assert!(std::fs::read_dir(out.path()).unwrap().next().is_none());
    // Nor the other way round, nor through a link that stays inside.
    let turned = Tar::default().file("a/passwd", b"x").link("a", target).end();
    assert!(matches!(unpack(&turned).error(), ArchiveError::Duplicate { .. }));
    let inside = Tar::default().file("b/x", b"x").link("a", "b").file("a/y", b"y").end();
    assert_eq!(unpack(&inside).why(), PathFault::ThroughFile);
}

#[test]
fn links_inside_are_kept_and_links_out_refused() {
    let good = unpack(&Tar::default().file("bin/run.js", b"r").link("run", "bin/run.js").end());
    assert_eq!(good.read("run"), "r");
    for target in ["/etc/passwd", "../x", "bin/../../x", ""] {
        let tar = Tar::default().file("bin/x", b"x").link("run", target).end();
        assert!(matches!(unpack(&tar).why(), PathFault::LinkOut | PathFault::Empty), "{target}");
    }
    let chain = Tar::default().file("x/y/f", b"").link("x/y/up", "../..").link("x/y/out", "up/../etc").end();
    assert_eq!(unpack(&chain).why(), PathFault::LinkOut);
}

#[test]
fn devices_hard_links_and_sparse_files_are_refused() {
    for (kind, why) in [
        (b'1', PathFault::HardLink),
        (b'3', PathFault::Special),
        (b'4', PathFault::Special),
        (b'6', PathFault::Special),
        (b'S', PathFault::Sparse),
    ] {
        let tar = Tar::default().file("a", b"x").entry(kind, "b", "a", 0o644, b"").end();
        assert_eq!(unpack(&tar).why(), why, "{}", kind as char);
    }
}

#[test]
fn set_id_bits_are_dropped_and_the_executable_bit_is_kept() {
    use std::os::unix::fs::PermissionsExt;
    let tar = Tar::default().entry(b'0', "run", "", 0o6755, b"").entry(b'0', "data", "", 0o600, b"").end();
    let unpacked = unpack(&tar);
    unpacked.report();
    let mode = |name| std::fs::metadata(unpacked.dest.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("run"), mode("data")), (0o755, 0o644));
}

#[test]
fn caps_hold() {
    let two = Tar::default().file("a", b"12345").file("b/c", b"12345").end();
    let error = unpack_with(&two, limited(|l| l.entries = 2));
    assert!(matches!(error.error(), ArchiveError::TooManyEntries { limit: 2 }));
    assert!(matches!(unpack_with(&two, limited(|l| l.bytes = 9)).error(), ArchiveError::TooLarge { .. }));
    let error = unpack_with(&two, limited(|l| l.file_bytes = 4));
    assert!(matches!(error.error(), ArchiveError::FileTooLarge { .. }));
    let error = unpack_with(&two, limited(|l| l.archive_bytes = 100));
    assert!(matches!(error.error(), ArchiveError::ArchiveTooLarge { .. }));
    let zipped = zip_of(&[("a", b""), ("b", b""), ("c", b"")]);
    let error = unpack_with(&zipped, limited(|l| l.entries = 2));
    assert!(matches!(error.error(), ArchiveError::TooManyEntries { .. }));
}

#[test]
fn bombs_are_noticed_by_their_ratio() {
    let zeros = vec![0; 2 << 20];
    let small = limited(|l| l.ratio_floor = 1 << 20);
    let tar = gzip(&Tar::default().file("a", &zeros).end());
    assert!(matches!(unpack_with(&tar, small).error(), ArchiveError::Ratio { limit: 200 }));
    assert!(matches!(unpack_with(&zip_of(&[("a", &zeros)]), small).error(), ArchiveError::Ratio { .. }));
    // The same bytes without compression are fine.
    unpack_with(&Tar::default().file("a", &zeros).end(), small).report();
}

#[test]
fn long_names_come_from_gnu_and_pax_headers_but_only_so_long() {
    let long = format!("{}/file", "d".repeat(200));
    let gnu = Tar::default().entry(b'L', "././@LongLink", "", 0, long.as_bytes()).file("short", b"g").end();
    assert_eq!(unpack(&gnu).read(&long), "g");
    let record = format!(" path={long}\n");
    let record = format!("{}{record}", record.len() + 3);
    let pax = Tar::default().entry(b'x', "pax", "", 0, record.as_bytes()).file("short", b"p").end();
    assert_eq!(unpack(&pax).read(&long), "p");
    let huge = Tar::default().entry(b'L', "l", "", 0, &vec![b'a'; 100_000]).file("x", b"").end();
    assert!(matches!(unpack(&huge).error(), ArchiveError::Unreadable { .. }));
    // A safe name in the header does not help an unsafe one in the extension.
    let evil = Tar::default().entry(b'L', "l", "", 0, b"../../evil\0").file("ok", b"").end();
    assert_eq!(unpack(&evil).why(), PathFault::Parent);
}

#[test]
fn damaged_and_foreign_uploads_are_named() {
    let whole = gzip(&Tar::default().file("a", &[7; 5000]).end());
    for cut in [20, whole.len() / 2, whole.len() - 1] {
        assert!(matches!(unpack(&whole[..cut]).error(), ArchiveError::Unreadable { .. }), "cut at {cut}");
    }
    let plain = Tar::default().file("a", &[7; 5000]).end();
    assert!(matches!(unpack(&plain[..2000]).error(), ArchiveError::Unreadable { .. }));
    assert!(matches!(unpack(b"").error(), ArchiveError::Empty));
    assert!(matches!(unpack(&[0; 1024]).error(), ArchiveError::Empty));
    assert!(matches!(
        unpack(&Tar::default().entry(b'5', "d/", "", 0o755, b"").end()).error(),
        ArchiveError::Empty
    ));
    assert!(unpack(b"Rar!xxxx").error().to_string().contains("a RAR archive"));
    assert!(matches!(
        unpack(&gzip(b"not a tar")).error(),
        ArchiveError::Unreadable { .. } | ArchiveError::Empty
    ));
    let twice = Tar::default().file("a", b"1").file("./a", b"2").end();
    assert!(matches!(unpack(&twice).error(), ArchiveError::Duplicate { .. }));
}

#[test]
fn the_one_folder_around_everything_can_be_taken_away() {
    let strip = ExtractOptions { strip_top_folder: true, ..ExtractOptions::default() };
    let forge = zip_of(&[("repo-main/a", b"a"), ("repo-main/src/b", b"b")]);
    let stripped = unpack_with(&forge, strip);
    assert_eq!((stripped.read("a"), stripped.read("src/b")), ("a".into(), "b".into()));
    assert_eq!(stripped.report().stripped.as_deref(), Some("repo-main"));
    assert_eq!(stripped.report().sha256, unpack(&zip_of(&[("a", b"a"), ("src/b", b"b")])).report().sha256);
    assert_eq!(unpack_with(&zip_of(&[("r/a", b""), ("b", b"")]), strip).report().stripped, None);
    // A link that stayed inside only thanks to that folder leads out without it.
    let tar = Tar::default().file("r/a", b"").link("r/up", "../r/a").end();
    assert_eq!(unpack_with(&tar, strip).why(), PathFault::LinkOut);
}

#[test]
fn cancelling_stops_and_cleans_up() {
    let top = tempfile::tempdir().unwrap();
    let dest = top.path().join("tree");
    let tar = Tar::default().file("a", b"x").end();
    let options = ExtractOptions::default();
    let result = extract_from(Cursor::new(tar), &dest, &options, &AtomicBool::new(true));
    assert!(matches!(result, Err(ArchiveError::Cancelled)));
    assert!(!dest.exists());
}

proptest::proptest! {
    /// Whatever bytes come, nothing is written beside the destination and nothing is left after an error.
    #[test]
    fn hostile_bytes_leave_nothing_behind(
        flips in proptest::collection::vec((0usize..3000, proptest::num::u8::ANY), 0..8),
        gz in proptest::bool::ANY,
    ) {
        let mut bytes = Tar::default().file("a/b", &[1; 700]).link("l", "a/b").file("c", b"c").end();
        if gz { bytes = gzip(&bytes); }
        for (at, value) in flips {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        let unpacked = unpack(&bytes);
        if unpacked.result.is_err() {
            unpacked.error();
        } else {
            let names: Vec<_> = std::fs::read_dir(unpacked._top.path()).unwrap().collect();
            proptest::prop_assert_eq!(names.len(), 1);
        }
    }
}
