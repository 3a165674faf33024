//! Uploaded bytes: whatever they are, nothing lands beside the destination, and nothing stays after an error.
#![no_main]

use std::io::Cursor;
use std::sync::atomic::AtomicBool;

use berth_deploy::source::archive::{ExtractOptions, extract_from};
use berth_deploy::source::Limits;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let top = tempfile::tempdir().expect("a temporary directory");
    let dest = top.path().join("tree");
    let limits = Limits { entries: 200, bytes: 1 << 20, file_bytes: 1 << 20, ratio_floor: 1 << 20, ..Limits::default() };
    let options = ExtractOptions { limits, strip_top_folder: data.first().is_some_and(|byte| byte % 2 == 0) };
    let result = extract_from(Cursor::new(data), &dest, &options, &AtomicBool::new(false));
    let left = std::fs::read_dir(top.path()).expect("the directory is there").count();
    assert_eq!(left, usize::from(result.is_ok()));
});
