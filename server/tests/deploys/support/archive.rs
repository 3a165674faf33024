//! Archives, good and hostile.

use std::io::Write as _;
use std::path::Path;

use flate2::{Compression, write::GzEncoder};

/// A .tar.gz of these files.
pub(crate) fn tar_gz(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, text) in files {
        let mut header = header(text.len() as u64);
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

/// A .tar.gz of a folder.
pub(crate) fn tar_gz_of(folder: &Path) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    tar.append_dir_all(".", folder).unwrap();
    tar.into_inner().unwrap().finish().unwrap()
}

/// A .zip of a folder, as Python's standard library writes it.
pub(crate) fn zip_of(folder: &Path) -> Vec<u8> {
    let script = "import shutil, sys; shutil.make_archive(sys.argv[1], 'zip', sys.argv[2])";
    let name = folder.with_extension("archive");
    let made =
        std::process::Command::new("python3").args(["-c", script]).arg(&name).arg(folder).status().unwrap();
    assert!(made.success());
    std::fs::read(name.with_extension("archive.zip")).unwrap()
}

/// A .tar.gz whose second entry is named as given, which no honest program would write.
pub(crate) fn tar_gz_with_name(name: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let page = "<p>hello</p>";
    tar.append_data(&mut header(page.len() as u64), "index.html", page.as_bytes()).unwrap();
    let mut wrong = header(6);
    // set_path refuses such names, so the field is written as bytes.
    let field = &mut wrong.as_old_mut().name;
    field[..name.len()].copy_from_slice(name.as_bytes());
    wrong.set_cksum();
    tar.append(&wrong, &b"escape"[..]).unwrap();
    tar.into_inner().unwrap().finish().unwrap()
}

/// A .tar.gz with a link that leads to `target`.
pub(crate) fn tar_gz_with_link(target: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    tar.append_data(&mut header(12), "index.html", &b"<p>hello</p>"[..]).unwrap();
    let mut link = header(0);
    link.set_entry_type(tar::EntryType::Symlink);
    tar.append_link(&mut link, "secrets", target).unwrap();
    tar.into_inner().unwrap().finish().unwrap()
}

/// A .tar.gz of a few hundred KiB that unpacks to `mebibytes` of zeros.
pub(crate) fn bomb(mebibytes: u64) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::best()));
    tar.append_data(&mut header(12), "index.html", &b"<p>hello</p>"[..]).unwrap();
    let size = mebibytes << 20;
    tar.append_data(&mut header(size), "zeros", std::io::Read::take(std::io::repeat(0), size)).unwrap();
    tar.into_inner().unwrap().finish().unwrap()
}

/// A gzip stream that is none.
pub(crate) fn noise() -> Vec<u8> {
    let mut bytes = Vec::new();
    for i in 0..4096u32 {
        bytes.write_all(&i.wrapping_mul(2_654_435_761).to_le_bytes()).unwrap();
    }
    bytes
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header
}
