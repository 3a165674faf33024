//! Lists of patterns as in .gitignore: the last one that fits counts, `!` excludes. A list of exclusions alone
//! means everything else.

use ignore::gitignore::{Gitignore, GitignoreBuilder};

/// Longest pattern in bytes.
const MAX_PATTERN: usize = 256;

/// A list of patterns, ready to match.
pub(crate) struct Patterns(Gitignore);

impl Patterns {
    /// For paths of files: a pattern also fits what lies below the folder that it names.
    ///
    /// # Errors
    /// Which pattern is wrong, and why.
    pub(crate) fn of_paths(patterns: &[String]) -> Result<Self, String> {
        Self::build(patterns, |pattern| pattern.to_owned())
    }

    /// For names, which a pattern fits as a whole.
    ///
    /// # Errors
    /// Which pattern is wrong, and why.
    pub(crate) fn of_names(patterns: &[String]) -> Result<Self, String> {
        Self::build(patterns, |pattern| match pattern.strip_prefix('!') {
            Some(rest) => format!("!/{rest}"),
            None => format!("/{pattern}"),
        })
    }

    fn build(patterns: &[String], anchor: impl Fn(&str) -> String) -> Result<Self, String> {
        let mut builder = GitignoreBuilder::new("");
        let mut add = |pattern: &str| match builder.add_line(None, pattern) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{pattern:?} is no pattern: {error}")),
        };
        if patterns.iter().all(|p| p.starts_with('!')) {
            add("*")?;
        }
        for pattern in patterns {
            if let Some(why) = nonsense(pattern) {
                return Err(format!("{:?} {why}", pattern.chars().take(80).collect::<String>()));
            }
            add(&anchor(pattern))?;
        }
        builder.build().map(Self).map_err(|error| error.to_string())
    }

    /// Whether the list takes this in.
    pub(crate) fn take(&self, path: &str) -> bool {
        // Patterns are relative to the top; an absolute path has no place there.
        let path = path.trim_start_matches('/');
        !path.is_empty() && self.0.matched_path_or_any_parents(path, false).is_ignore()
    }
}

/// Why a line cannot be meant as a pattern, although a file of patterns may hold it.
fn nonsense(pattern: &str) -> Option<&'static str> {
    let bare = pattern.strip_prefix('!').unwrap_or(pattern);
    if bare.trim().is_empty() {
        Some("is empty")
    } else if pattern.starts_with('#') {
        Some("is a comment; begin with \\# for a name that begins so")
    } else if pattern.len() > MAX_PATTERN {
        Some("is too long")
    } else if pattern.chars().any(char::is_control) {
        Some("holds a control character")
    } else {
        None
    }
}

/// Checks patterns for paths.
///
/// # Errors
/// Which one is wrong, and why.
pub fn check_paths(patterns: &[String]) -> Result<(), String> {
    Patterns::of_paths(patterns).map(|_| ())
}

/// Checks patterns for names.
///
/// # Errors
/// Which one is wrong, and why.
pub fn check_names(patterns: &[String]) -> Result<(), String> {
    Patterns::of_names(patterns).map(|_| ())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn takes(patterns: &[&str], path: &str) -> bool {
        let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
        Patterns::of_paths(&patterns).unwrap_or_else(|e| panic!("{e}")).take(path)
    }

    #[test]
    fn paths_are_taken_as_a_gitignore_would_ignore_them() {
        assert!(takes(&["/apps/web/"], "apps/web/src/main.js"));
        assert!(takes(&["apps/web"], "apps/web/src/main.js"));
        assert!(!takes(&["/apps/web/"], "apps/api/main.js"));
        assert!(!takes(&["/web/"], "apps/web/main.js"));
        assert!(takes(&["*.md"], "docs/deep/read.md"));
        assert!(takes(&["apps/**", "!*.md"], "apps/a.js"));
        assert!(!takes(&["apps/**", "!*.md"], "apps/a.md"));
        assert!(takes(&["!docs/**", "!*.md"], "src/a.js"), "exclusions alone mean the rest");
        assert!(!takes(&["!docs/**", "!*.md"], "docs/a.html"));
        assert!(takes(&["docs/**", "!docs/**", "docs/api/**"], "docs/api/x"), "the last that fits counts");
    }

    #[test]
    fn a_name_is_fitted_as_a_whole() {
        let tags = |patterns: &[&str], tag: &str| {
            let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
            Patterns::of_names(&patterns).unwrap_or_else(|e| panic!("{e}")).take(tag)
        };
        assert!(tags(&["v*"], "v1.2"));
        assert!(!tags(&["v*"], "nov1"));
        assert!(!tags(&["v*"], "old/v1"));
        assert!(!tags(&["v*", "!v*-rc*"], "v1.2-rc1"));
        assert!(tags(&["release/*"], "release/7"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for bad in ["", "!", "# docs", "a\nb"] {
            assert!(check_paths(&[bad.to_owned()]).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn patterns_never_panic(patterns in proptest::collection::vec("[!a-z*?/\\[\\]#. {}\\\\]{0,12}", 0..4), path in "\\PC{0,30}") {
            for built in [Patterns::of_paths(&patterns), Patterns::of_names(&patterns)].into_iter().flatten() {
                let _ = built.take(&path);
            }
        }
    }
}
