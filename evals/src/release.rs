//! Release archives, as `deploy.sh` fetches them: `berth-VERSION-ARCH-linux.tar.gz`, its SHA-256 beside it, and
//! `latest.json`, which names the newest version.
//!
//! The same files give the same archive, byte for byte: entries are sorted, owned by root, and carry one time. So
//! anybody can rebuild a release and compare.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use flate2::{Compression, GzBuilder};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// One release of one architecture.
#[derive(Debug, Clone)]
pub struct Release {
    /// The version, without a `v`.
    pub version: String,
    /// The processor, as `uname -m` names it: `x86_64` or `aarch64`.
    pub arch: String,
    /// Time of every entry, in seconds since 1970.
    pub epoch: u64,
    /// How hard gzip tries, 0 to 9: 9 for what is published, less for what is unpacked at once.
    pub level: u32,
    /// Path inside the archive's one folder → content. `berth` and nothing else is executable.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// Where the files of a release ended up.
#[derive(Debug)]
pub struct Written {
    /// The archive.
    pub archive: PathBuf,
    /// Its SHA-256 in lower-case hex.
    pub sha256: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// `latest.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Latest {
    /// The newest version.
    pub version: String,
    /// Its archives by architecture.
    pub archives: BTreeMap<String, Archive>,
}

/// One archive in `latest.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Archive {
    /// File name beside `latest.json`.
    pub file: String,
    /// SHA-256 in lower-case hex.
    pub sha256: String,
    /// Size in bytes.
    pub bytes: u64,
}

impl Release {
    /// Name of the archive's folder, and of the archive without its ending.
    #[must_use]
    pub fn name(&self) -> String {
        format!("berth-{}-{}-linux", self.version, self.arch)
    }

    /// The archive's bytes.
    ///
    /// # Errors
    /// When a path is longer than a tar header holds.
    pub fn archive(&self) -> anyhow::Result<Vec<u8>> {
        let gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::new(self.level));
        let mut tar = tar::Builder::new(gzip);
        let mut folder = self.header(tar::EntryType::Directory, 0o755, 0);
        tar.append_data(&mut folder, format!("{}/", self.name()), io::empty())?;
        for (path, content) in &self.files {
            let mode = if path == "berth" { 0o755 } else { 0o644 };
            let mut header = self.header(tar::EntryType::Regular, mode, content.len() as u64);
            tar.append_data(&mut header, format!("{}/{path}", self.name()), content.as_slice())
                .with_context(|| format!("{path} does not fit into the archive"))?;
        }
        Ok(tar.into_inner()?.finish()?)
    }

    fn header(&self, kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(self.epoch);
        header.set_uid(0);
        header.set_gid(0);
        header
    }

    /// Writes archive, checksum and `latest.json` into `folder`. A `latest.json` of the same version that is there
    /// keeps its other architectures.
    ///
    /// # Errors
    /// When a file cannot be written, or a `latest.json` that is there cannot be read.
    pub fn write(&self, folder: &Path) -> anyhow::Result<Written> {
        ensure!(self.files.contains_key("berth"), "a release needs the program berth");
        if self.version.is_empty()
            || !self.version.bytes().all(|b| b.is_ascii_alphanumeric() || b".+-".contains(&b))
        {
            bail!("{:?} is no version: use letters, digits and . + -", self.version);
        }
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let bytes = self.archive()?;
        let sha256 = hex::encode(Sha256::digest(&bytes));
        let file = format!("{}.tar.gz", self.name());
        let archive = folder.join(&file);
        fs::write(&archive, &bytes).with_context(|| format!("cannot write {}", archive.display()))?;
        fs::write(folder.join(format!("{file}.sha256")), format!("{sha256}  {file}\n"))?;
        let written = Written { archive, sha256: sha256.clone(), bytes: bytes.len() as u64 };
        self.announce(folder, Archive { file, sha256, bytes: written.bytes })?;
        Ok(written)
    }

    fn announce(&self, folder: &Path, archive: Archive) -> anyhow::Result<()> {
        let path = folder.join("latest.json");
        let before: Option<Latest> = match fs::read(&path) {
            Ok(text) => Some(
                serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))?,
            ),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
        };
        let mut archives =
            before.filter(|l| l.version == self.version).map(|l| l.archives).unwrap_or_default();
        archives.insert(self.arch.clone(), archive);
        let latest = Latest { version: self.version.clone(), archives };
        fs::write(&path, serde_json::to_string_pretty(&latest)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(version: &str, arch: &str) -> Release {
        let files =
            BTreeMap::from([("berth".into(), b"program".to_vec()), ("README.md".into(), b"text".to_vec())]);
        Release { version: version.into(), arch: arch.into(), epoch: 0, level: 9, files }
    }

    #[test]
    fn the_same_files_give_the_same_archive() {
        let one = release("1.0.0", "x86_64").archive().unwrap();
        assert_eq!(one, release("1.0.0", "x86_64").archive().unwrap());
        assert_ne!(one, Release { epoch: 1, ..release("1.0.0", "x86_64") }.archive().unwrap());
    }

    #[test]
    fn only_the_program_is_executable_and_all_is_roots() {
        let bytes = release("1.0.0", "x86_64").archive().unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(bytes.as_slice()));
        let entries: Vec<_> = archive.entries().unwrap().map(Result::unwrap).collect();
        let shown: Vec<_> = entries
            .iter()
            .map(|e| {
                let h = e.header();
                let path = e.path().unwrap().display().to_string();
                format!("{path} {:o} {} {}", h.mode().unwrap(), h.uid().unwrap(), h.mtime().unwrap())
            })
            .collect();
        assert_eq!(
            shown,
            [
                "berth-1.0.0-x86_64-linux/ 755 0 0",
                "berth-1.0.0-x86_64-linux/README.md 644 0 0",
                "berth-1.0.0-x86_64-linux/berth 755 0 0"
            ]
        );
    }

    #[test]
    fn a_second_architecture_joins_and_a_new_version_replaces() {
        let dir = tempfile::tempdir().unwrap();
        release("1.0.0", "x86_64").write(dir.path()).unwrap();
        release("1.0.0", "aarch64").write(dir.path()).unwrap();
        let latest = || -> Latest {
            serde_json::from_slice(&fs::read(dir.path().join("latest.json")).unwrap()).unwrap()
        };
        assert_eq!(latest().archives.len(), 2);
        release("1.1.0", "x86_64").write(dir.path()).unwrap();
        assert_eq!((latest().version.as_str(), latest().archives.len()), ("1.1.0", 1));
    }

    #[test]
    fn a_version_stays_within_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        assert!(release("../1", "x86_64").write(dir.path()).is_err());
    }
}
