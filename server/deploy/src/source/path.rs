//! Names of things in a source tree, and where its links lead. Pure: nothing here touches the disk.
//!
//! A [`TreePath`] is parsed once at the edge and trusted afterwards: relative, `/`-separated, no `.` or `..`, no
//! control characters, bounded. Links are judged all together, after the last entry, by walking them the way the
//! kernel would: looking at one target's text alone is not enough, since `x/up -> ..` is harmless, and so is
//! `x/out -> up/../file` by its letters, but together they lead outside.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

/// The longest path of a tree, in bytes.
pub const MAX_PATH: usize = 1024;
/// The longest single name, in bytes: what Linux file systems allow.
pub const MAX_NAME: usize = 255;
/// The most names in one path.
pub const MAX_DEPTH: usize = 64;
/// The most links followed while judging one link, as in the kernel.
const MAX_HOPS: usize = 40;

/// A path inside a source tree: relative, clean, and unable to leave it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreePath(String);

/// Why a name cannot be a [`TreePath`], or a link cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    /// It names the tree itself, or nothing.
    #[error("it is empty")]
    Empty,
    /// It begins with `/`.
    #[error("it is absolute")]
    Absolute,
    /// It has a `..` part.
    #[error("it goes up with \"..\"")]
    Parent,
    /// It begins with a drive letter, as `C:`.
    #[error("it begins with a drive letter")]
    Drive,
    /// It has a `\`: a separator for some programs, a letter for others.
    #[error("it has a backslash; pack it with forward slashes")]
    Backslash,
    /// It has a NUL, a line break or another control character.
    #[error("it has a control character")]
    Control,
    /// It is not UTF-8.
    #[error("it is not UTF-8")]
    NotUtf8,
    /// It is longer than [`MAX_PATH`], or one of its names longer than [`MAX_NAME`].
    #[error("it is too long (at most {MAX_PATH} bytes, {MAX_NAME} for one name)")]
    TooLong,
    /// It has more than [`MAX_DEPTH`] names.
    #[error("it is nested too deep (at most {MAX_DEPTH} levels)")]
    TooDeep,
    /// A link's target is outside the tree.
    #[error("it is a link that leads out of the archive")]
    LinkOut,
    /// A link leads to itself, or through too many others.
    #[error("it is a link that leads in a circle")]
    LinkLoop,
    /// A hard link: it could reach a file that the archive did not bring.
    #[error("hard links are not accepted; pack a copy or a symbolic link")]
    HardLink,
    /// A device, FIFO or socket.
    #[error("it is not a file, folder or link")]
    Special,
    /// A tar sparse file, whose size on disk its header does not tell.
    #[error("sparse files are not accepted; pack without --sparse")]
    Sparse,
    /// Its parent is a file or a link.
    #[error("one of its parents is not a folder")]
    ThroughFile,
}

impl TreePath {
    /// Parses the name of an entry. A trailing `/` and `.` parts are dropped.
    ///
    /// # Errors
    /// The [`PathFault`] that makes it unsafe; [`PathFault::Empty`] for the tree itself (`./`).
    pub fn parse(raw: &[u8]) -> Result<Self, PathFault> {
        let text = std::str::from_utf8(raw).map_err(|_| PathFault::NotUtf8)?;
        if text.chars().any(char::is_control) {
            return Err(PathFault::Control);
        }
        if text.contains('\\') {
            return Err(PathFault::Backslash);
        }
        if text.starts_with('/') {
            return Err(PathFault::Absolute);
        }
        if text.as_bytes().get(1) == Some(&b':') && text.as_bytes()[0].is_ascii_alphabetic() {
            return Err(PathFault::Drive);
        }
        let mut names = Vec::new();
        for name in text.split('/') {
            match name {
                "" | "." => {}
                ".." => return Err(PathFault::Parent),
                name if name.len() > MAX_NAME => return Err(PathFault::TooLong),
                name => names.push(name),
            }
        }
        if names.is_empty() {
            return Err(PathFault::Empty);
        }
        if names.len() > MAX_DEPTH {
            return Err(PathFault::TooDeep);
        }
        let path = names.join("/");
        if path.len() > MAX_PATH {
            return Err(PathFault::TooLong);
        }
        Ok(Self(path))
    }

    /// The path as text, without leading or trailing `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The parent, `None` at the top of the tree.
    pub fn parent(&self) -> Option<Self> {
        self.0.rsplit_once('/').map(|(parent, _)| Self(parent.to_owned()))
    }

    /// The last name.
    pub fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or(self.0.as_str(), |(_, name)| name)
    }

    /// The first name.
    pub fn top(&self) -> &str {
        self.0.split_once('/').map_or(self.0.as_str(), |(top, _)| top)
    }

    /// The path below its first name; `None` when it has only one.
    pub fn below_top(&self) -> Option<Self> {
        self.0.split_once('/').map(|(_, rest)| Self(rest.to_owned()))
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where the link `at` leads, following the other `links` of the tree: the names from the top. That there is
/// something at that place is not asked.
///
/// # Errors
/// [`PathFault::LinkOut`] or [`PathFault::LinkLoop`], and the faults of a text that cannot be a target.
pub fn resolve_link(at: &TreePath, links: &BTreeMap<TreePath, String>) -> Result<Vec<String>, PathFault> {
    let mut stack: Vec<String> = at.as_str().split('/').map(str::to_owned).collect();
    let mut ahead: VecDeque<String> = VecDeque::new();
    follow(at, links, &mut stack, &mut ahead)?;
    let mut hops = 1;
    while let Some(name) = ahead.pop_front() {
        match name.as_str() {
            "" | "." => continue,
            ".." => {
                stack.pop().ok_or(PathFault::LinkOut)?;
                continue;
            }
            _ => stack.push(name),
        }
        let here = TreePath(stack.join("/"));
        if links.contains_key(&here) {
            hops += 1;
            if hops > MAX_HOPS {
                return Err(PathFault::LinkLoop);
            }
            follow(&here, links, &mut stack, &mut ahead)?;
        }
    }
    Ok(stack)
}

/// Replaces the link on top of the stack by its target's names, still to be walked.
fn follow(
    at: &TreePath,
    links: &BTreeMap<TreePath, String>,
    stack: &mut Vec<String>,
    ahead: &mut VecDeque<String>,
) -> Result<(), PathFault> {
    let target = links.get(at).map_or("", String::as_str);
    if target.is_empty() {
        return Err(PathFault::Empty);
    }
    if target.len() > MAX_PATH {
        return Err(PathFault::TooLong);
    }
    if target.chars().any(char::is_control) {
        return Err(PathFault::Control);
    }
    if target.starts_with('/') {
        return Err(PathFault::LinkOut);
    }
    stack.pop();
    for name in target.split('/').rev() {
        ahead.push_front(name.to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn links(pairs: &[(&str, &str)]) -> BTreeMap<TreePath, String> {
        pairs.iter().map(|(at, to)| (TreePath::parse(at.as_bytes()).unwrap(), (*to).to_owned())).collect()
    }

    fn resolved(at: &str, pairs: &[(&str, &str)]) -> Result<String, PathFault> {
        resolve_link(&TreePath::parse(at.as_bytes()).unwrap(), &links(pairs)).map(|names| names.join("/"))
    }

    #[test]
    fn names_that_leave_the_tree_are_refused_with_the_reason() {
        for (raw, fault) in [
            (&b"/etc/passwd"[..], PathFault::Absolute),
            (b"a/../../b", PathFault::Parent),
            (b"..", PathFault::Parent),
            (b"C:/x", PathFault::Drive),
            (b"a\\..\\b", PathFault::Backslash),
            (b"a\0b", PathFault::Control),
            (b"a\nb", PathFault::Control),
            (b"\xff", PathFault::NotUtf8),
            (b"./", PathFault::Empty),
            (b"", PathFault::Empty),
        ] {
            assert_eq!(TreePath::parse(raw), Err(fault), "{}", String::from_utf8_lossy(raw));
        }
        assert_eq!(TreePath::parse(b"a/".repeat(65).as_slice()), Err(PathFault::TooDeep));
        assert_eq!(TreePath::parse(&[b'a'; 256]), Err(PathFault::TooLong));
        assert_eq!(TreePath::parse(b"./a//b/./c/").unwrap().as_str(), "a/b/c");
    }

    #[test]
    fn links_are_judged_together() {
        assert_eq!(resolved("a/l", &[("a/l", "../b")]), Ok("b".into()));
        assert_eq!(resolved("l", &[("l", ".")]), Ok(String::new()));
        assert_eq!(resolved("l", &[("l", "../x")]), Err(PathFault::LinkOut));
        assert_eq!(resolved("l", &[("l", "/etc")]), Err(PathFault::LinkOut));
        // Each target alone stays inside by its letters; together they do not.
        let pair = [("x/y/up", "../.."), ("x/y/out", "up/../etc")];
        assert_eq!(resolved("x/y/out", &pair), Err(PathFault::LinkOut));
        assert_eq!(resolved("a", &[("a", "b"), ("b", "a")]), Err(PathFault::LinkLoop));
    }

    proptest! {
        #[test]
        fn whatever_parses_is_clean(raw in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(path) = TreePath::parse(&raw) {
                let names: Vec<_> = path.as_str().split('/').collect();
                let clean = names.iter().all(|n| !n.is_empty() && *n != "." && *n != "..");
                prop_assert!(clean);
                prop_assert_eq!(TreePath::parse(path.as_str().as_bytes()).unwrap(), path);
            }
        }

        #[test]
        fn paths_of_dots_and_slashes_never_escape(raw in "[a./]{0,24}") {
            if let Ok(path) = TreePath::parse(raw.as_bytes()) {
                let joined = std::path::Path::new("/root").join(path.as_str());
                let up = joined.components().any(|c| matches!(c, std::path::Component::ParentDir));
                prop_assert!(joined.starts_with("/root") && !up);
            }
        }

        /// The model agrees with the kernel: whatever we allow resolves inside on a real disk.
        #[test]
        fn allowed_links_stay_inside_for_the_kernel_too(
            targets in proptest::collection::vec("(\\.\\./|a/|b/|l0/|l1/|d/l2/){1,4}", 3)
        ) {
            let top = tempfile::tempdir().unwrap();
            let root = top.path().canonicalize().unwrap().join("root");
            for dir in ["a/b", "b/a", "d"] {
                std::fs::create_dir_all(root.join(dir)).unwrap();
            }
            let all = links(&[("l0", &targets[0]), ("l1", &targets[1]), ("d/l2", &targets[2])]);
            for (at, to) in &all {
                std::os::unix::fs::symlink(to, root.join(at.as_str())).unwrap();
            }
            for at in all.keys() {
                if let Ok(real) = root.join(at.as_str()).canonicalize()
                    && resolve_link(at, &all).is_ok()
                {
                    prop_assert!(real.starts_with(&root), "{at} in {all:?} is {real:?}");
                }
            }
        }
    }
}
