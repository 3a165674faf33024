//! The master key: 32 random bytes in `secret.key`, from which every sealed value of the database hangs.
//!
//! It is made once, at the first start, and never replaced silently: a daemon that finds data but no key,
//! or a key that others may read, does not start. Whether the key fits the data is checked against a
//! sealed canary when the store opens.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use zeroize::{Zeroize, Zeroizing};

/// Name of the key's file in the data directory.
pub const KEY_FILE: &str = "secret.key";

/// Why there is no usable key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is data, but no key.
    #[error("{path} is missing although there is data sealed with it; put it back from your backup")]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// It is not 64 hexadecimal digits, or plainly not random.
    #[error("{path} does not hold a strong key (64 random hexadecimal digits); put it back from your backup")]
    Weak {
        /// Which file.
        path: PathBuf,
    },
    /// Others may read or write it.
    #[error(
        "{path} can be read or changed by other users (mode {mode:03o}); run `chmod 600` on it, and consider \
         what it sealed as seen"
    )]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It does not fit the data.
    #[error(
        "the secret key is not the one that this database was sealed with; put the right secret.key back"
    )]
    Wrong,
    /// It could not be read or written.
    #[error("cannot use {path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The system gave no random bytes.
    #[error("the system gave no random bytes: {0}")]
    NoEntropy(String),
}

/// The key that seals secrets; wiped from memory when dropped.
#[derive(Clone)]
pub struct MasterKey(Zeroizing<[u8; 32]>);

impl MasterKey {
    /// Reads the key of `data_dir`, or makes one if the directory holds no database yet. Makes the
    /// directory too, readable by its owner only.
    ///
    /// # Errors
    /// When the key is missing beside data, weak, exposed to other users, or cannot be read or written.
    pub fn load_or_create(data_dir: &Path) -> Result<Self, KeyError> {
        let path = data_dir.join(KEY_FILE);
        match fs::symlink_metadata(&path) {
            Ok(_) => Self::load(&path),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if data_dir.join(crate::database::SQLITE_FILE).exists() {
                    return Err(KeyError::Missing { path });
                }
                create_private_dir(data_dir)
                    .map_err(|source| KeyError::File { path: data_dir.to_owned(), source })?;
                let key = Self::generate()?;
                key.write(&path).map_err(|source| KeyError::File { path, source })?;
                Ok(key)
            }
            Err(source) => Err(KeyError::File { path, source }),
        }
    }

    /// A fresh random key that is kept nowhere.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate() -> Result<Self, KeyError> {
        let mut bytes = Zeroizing::new([0u8; 32]);
        getrandom::fill(bytes.as_mut_slice()).map_err(|e| KeyError::NoEntropy(e.to_string()))?;
        Ok(Self(bytes))
    }

    /// Another secret that follows from the key, for one purpose, and does not lead back to it (HMAC-SHA-256).
    pub(crate) fn derived(&self, purpose: &str) -> Zeroizing<Vec<u8>> {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, self.bytes());
        Zeroizing::new(ring::hmac::sign(&key, purpose.as_bytes()).as_ref().to_vec())
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn load(path: &Path) -> Result<Self, KeyError> {
        let file = |source| KeyError::File { path: path.to_owned(), source };
        let meta = fs::metadata(path).map_err(file)?;
        let mode = meta.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed { path: path.to_owned(), mode });
        }
        let weak = || KeyError::Weak { path: path.to_owned() };
        if meta.len() > 256 {
            return Err(weak());
        }
        let text = Zeroizing::new(fs::read_to_string(path).map_err(file)?);
        let mut bytes = Zeroizing::new([0u8; 32]);
        hex::decode_to_slice(text.trim(), bytes.as_mut_slice()).map_err(|_| weak())?;
        if !looks_random(&bytes) {
            return Err(weak());
        }
        Ok(Self(bytes))
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let mut text = hex::encode(self.0.as_slice());
        text.push('\n');
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        text.zeroize();
        written?;
        // The name itself must survive a power cut as well: without the key the data is lost.
        match path.parent() {
            Some(dir) => fs::File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    }
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey(…)")
    }
}

/// Makes `dir` and what leads to it; a directory that this makes is readable by its owner only.
pub(crate) fn create_private_dir(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if dir.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Whether 32 bytes could be random: of 32 random bytes fewer than 16 different ones practically never occur.
fn looks_random(bytes: &[u8; 32]) -> bool {
    let mut seen = [false; 256];
    bytes.iter().for_each(|b| seen[usize::from(*b)] = true);
    seen.iter().filter(|s| **s).count() >= 16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_first_start_makes_a_private_key_and_the_second_finds_it() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("berth");
        let first = MasterKey::load_or_create(&data).unwrap();
        assert_eq!(mode(&data.join(KEY_FILE)), 0o600);
        assert_eq!(mode(&data), 0o700);
        assert_eq!(first.bytes(), MasterKey::load_or_create(&data).unwrap().bytes());
    }

    #[test]
    fn data_without_its_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(crate::database::SQLITE_FILE), "x").unwrap();
        assert!(matches!(MasterKey::load_or_create(dir.path()), Err(KeyError::Missing { .. })));
        assert!(!dir.path().join(KEY_FILE).exists());
    }

    #[test]
    fn weak_and_exposed_keys_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEY_FILE);
        for text in ["", "secret", &"00".repeat(32), &"0123456789abcdef".repeat(4), &"zz".repeat(32)] {
            let _ = fs::remove_file(&path);
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap();
            assert!(matches!(MasterKey::load_or_create(dir.path()), Err(KeyError::Weak { .. })), "{text}");
        }
        fs::remove_file(&path).unwrap();
        MasterKey::load_or_create(dir.path()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(MasterKey::load_or_create(dir.path()), Err(KeyError::Exposed { mode: 0o640, .. })));
    }
}
