//! Git LFS: files that a repository only points to, and whose content another server keeps (or Berth itself). Pure.
//!
//! What a pointer looks like is told by git-lfs in `docs/spec.md`, how objects are asked for in `docs/api/batch.md`.

pub mod wire;

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest pointer, in bytes.
pub const MAX_POINTER: u64 = 1024;
/// Versions that a pointer can begin with; the second is what git-lfs was called first.
const VERSIONS: [&str; 2] = ["https://git-lfs.github.com/spec/v1", "https://hawser.github.com/spec/v1"];

/// The name of an object: its SHA-256, 64 hexadecimal digits, lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Oid(String);

/// What is no name of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an object's id is its SHA-256: 64 hexadecimal digits, lower case")]
pub struct NoOid;

impl Oid {
    /// Parses a name.
    ///
    /// # Errors
    /// [`NoOid`].
    pub fn parse(text: &str) -> Result<Self, NoOid> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 64 && text.bytes().all(digit) { Ok(Self(text.to_owned())) } else { Err(NoOid) }
    }

    /// The name of what has this SHA-256.
    #[must_use]
    pub fn of(digest: &[u8; 32]) -> Self {
        Self(hex::encode(digest))
    }

    /// All digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 8 digits.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..8]
    }

    /// Where git-lfs keeps it below the folder of objects.
    #[must_use]
    pub fn place(&self) -> [&str; 3] {
        [&self.0[..2], &self.0[2..4], &self.0]
    }
}

impl TryFrom<String> for Oid {
    type Error = NoOid;

    fn try_from(text: String) -> Result<Self, NoOid> {
        Self::parse(&text)
    }
}

impl From<Oid> for String {
    fn from(oid: Oid) -> Self {
        oid.0
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What stands in a repository for a file that is elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer {
    /// The object.
    pub oid: Oid,
    /// Its size in bytes.
    pub size: u64,
    /// It was made by programs of its author's (`ext-0-…`), without which the object is not the file.
    pub extended: bool,
}

impl Pointer {
    /// Reads the content of a file; none if that is no pointer.
    #[must_use]
    pub fn read(content: &[u8]) -> Option<Self> {
        if content.len() as u64 > MAX_POINTER {
            return None;
        }
        let mut lines = std::str::from_utf8(content).ok()?.lines();
        if !VERSIONS.contains(&lines.next()?.strip_prefix("version ")?) {
            return None;
        }
        let (mut oid, mut size, mut extended) = (None, None, false);
        for line in lines {
            match line.split_once(' ')? {
                ("oid", text) if oid.is_none() => oid = Some(Oid::parse(text.strip_prefix("sha256:")?).ok()?),
                ("size", text) if size.is_none() => size = Some(text.parse().ok()?),
                (key, _) if key.starts_with("ext-") => extended = true,
                _ => return None,
            }
        }
        Some(Self { oid: oid?, size: size?, extended })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGITS: &str = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393";

    #[test]
    fn a_pointer_is_read_and_nothing_else_is_one() {
        let text = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{DIGITS}\nsize 12345\n");
        let pointer = Pointer::read(text.as_bytes()).unwrap();
        assert_eq!((pointer.oid.as_str(), pointer.size, pointer.extended), (DIGITS, 12345, false));
        assert_eq!(pointer.oid.place(), ["4d", "7a", DIGITS]);
        assert_eq!(Pointer::read(text.replace('\n', "\r\n").as_bytes()), Some(pointer));
        let extended = text.replace("oid", &format!("ext-0-foo sha256:{DIGITS}\noid"));
        assert!(Pointer::read(extended.as_bytes()).unwrap().extended);
        assert!(Pointer::read(text.replace("git-lfs", "hawser").as_bytes()).is_some());
        for bad in [
            "",
            "version https://git-lfs.github.com/spec/v1\n",
            &text.replace("v1", "v9"),
            &text.replace("sha256", "md5"),
            &text.replace("12345", "-1"),
            &text.replace("4d7a", "4D7A"),
            &text.replace("4d7a", "../a"),
            &text.replace("size 12345", "size 1\nsize 2"),
            &format!("{text}more\n"),
            &format!("{text}{}", " ".repeat(1024)),
        ] {
            assert_eq!(Pointer::read(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
