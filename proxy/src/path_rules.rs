//! Rules about paths: redirects, rewrites and exceptions. Pure; a path is matched as it came, without its query.

use berth_schemas::{
    Problem,
    rules::{RedirectRule, RewriteRule},
};
use http::{StatusCode, Uri};

/// Longest path that is made of a rule and a request; longer ones are left alone.
const LONGEST: usize = 16 << 10;

/// A path, or a path and all below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    /// Without `/*`, and so without a slash at its end but for the exact root.
    path: Box<str>,
    below: bool,
}

impl Pattern {
    /// Reads `/old` or `/blog/*`.
    pub(crate) fn parse(text: &str, field: &str) -> Result<Self, Problem> {
        let (path, below) = match text.strip_suffix("/*") {
            Some(path) => (path, true),
            None => (text, false),
        };
        let sound =
            (path.starts_with('/') || below && path.is_empty()) && is_plain(path) && text.len() <= 1024;
        if !sound {
            let shown: String = text.chars().take(60).collect();
            return Err(Problem::invalid(
                field,
                format!("{shown:?} is no path: write /old for one path, or /blog/* for it and all below."),
            ));
        }
        Ok(Self { path: path.into(), below })
    }

    /// What stands in place of the `*`, if the path fits: empty for an exact path, and for the prefix itself.
    pub(crate) fn rest<'p>(&self, path: &'p str) -> Option<&'p str> {
        let rest = path.strip_prefix(&*self.path)?;
        match (self.below, rest.strip_prefix('/')) {
            (_, None) if rest.is_empty() => Some(""),
            (true, Some(rest)) => Some(rest),
            _ => None,
        }
    }
}

/// Visible ASCII that is a path and nothing else.
fn is_plain(path: &str) -> bool {
    path.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'*' | b'\\'))
}

/// Whether a path means the same to whoever reads it: nothing that one reader folds and another does not (dot
/// segments, doubled, encoded or backward slashes, parameters).
fn is_unambiguous(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    let folded = ["//", "/./", "/../", "\\", ";", "%2e", "%2f", "%5c", "%25", "%3b", "%00"];
    !folded.iter().any(|part| lower.contains(part)) && !lower.ends_with("/.") && !lower.ends_with("/..")
}

/// Paths to which a rule does not apply.
#[derive(Debug, Default)]
pub(crate) struct Exceptions(Vec<Pattern>);

impl Exceptions {
    pub(crate) fn parse(patterns: &[String], field: &str) -> Result<Self, Problem> {
        patterns.iter().map(|text| Pattern::parse(text, field)).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a path is excepted, beyond doubt: `/open/../secret` is not.
    pub(crate) fn have(&self, path: &str) -> bool {
        !self.0.is_empty()
            && is_unambiguous(path)
            && self.0.iter().any(|pattern| pattern.rest(path).is_some())
    }
}

/// A compiled [`RedirectRule`].
#[derive(Debug)]
pub(crate) struct Redirect {
    from: Pattern,
    /// Path or URL, up to the `*`, with the query of its own apart.
    to: Box<str>,
    query: Option<Box<str>>,
    takes_rest: bool,
    keep_query: bool,
    pub(crate) status: StatusCode,
}

impl Redirect {
    pub(crate) fn compile(rule: &RedirectRule, field: &str) -> Result<Self, Problem> {
        let from = Pattern::parse(&rule.from, &format!("{field}.from"))?;
        let to_field = format!("{field}.to");
        let status = match rule.status.unwrap_or(308) {
            status @ (301 | 302 | 307 | 308) => {
                StatusCode::from_u16(status).unwrap_or(StatusCode::PERMANENT_REDIRECT)
            }
            other => {
                let text = format!("{other} is no redirect: use 301, 302, 307 or 308.");
                return Err(Problem::invalid(&format!("{field}.status"), text));
            }
        };
        let (to, query) = match rule.to.split_once('?') {
            Some((to, query)) => (to, Some(query)),
            None => (rule.to.as_str(), None),
        };
        let (to, takes_rest) = match to.strip_suffix("/*") {
            Some(_) => (&to[..to.len() - 1], true),
            None => (to, false),
        };
        if takes_rest && !from.below {
            let text = "A target with /* at its end wants a path with /* at its end to take the rest from.";
            return Err(Problem::invalid(&to_field, text));
        }
        if !is_target(to) || query.is_some_and(|query| !is_query(query)) || rule.to.len() > 2048 {
            let text = "A target is a path (/new) or an http or https URL, without user, fragment or spaces.";
            return Err(Problem::invalid(&to_field, text));
        }
        // The plainest of circles; longer ones are stopped by browsers.
        if to.starts_with('/') && from.rest(to).is_some() {
            let text = format!("{} leads to itself, for ever.", rule.from);
            return Err(Problem::invalid(&to_field, text));
        }
        let keep_query = rule.keep_query.unwrap_or(true);
        Ok(Self { from, to: to.into(), query: query.map(Into::into), takes_rest, keep_query, status })
    }

    /// Where a request goes, if the rule is for it.
    pub(crate) fn location(&self, path: &str, query: Option<&str>) -> Option<String> {
        let rest = self.from.rest(path)?;
        let mut to = String::from(&*self.to);
        if self.takes_rest {
            // `//host` and `/\host` would be another host to a browser.
            to.push_str(rest.trim_start_matches(['/', '\\']));
        }
        let kept = query.filter(|query| self.keep_query && !query.is_empty());
        let mut separator = '?';
        for part in self.query.as_deref().into_iter().chain(kept) {
            to.push(separator);
            to.push_str(part);
            separator = '&';
        }
        (to.len() <= LONGEST).then_some(to)
    }
}

fn is_query(query: &str) -> bool {
    query.bytes().all(|b| b.is_ascii_graphic() && b != b'#' && b != b'\\')
}

fn is_target(to: &str) -> bool {
    if to.starts_with('/') {
        return is_plain(to) && !to.starts_with("//");
    }
    let Ok(uri) = to.parse::<Uri>() else { return false };
    let web = matches!(uri.scheme_str(), Some("http" | "https"));
    let host = uri.authority().is_some_and(|authority| {
        !authority.as_str().contains('@')
            && crate::router::is_host_name(&authority.host().to_ascii_lowercase())
    });
    web && host && is_plain(to)
}

/// A compiled [`RewriteRule`].
#[derive(Debug)]
pub(crate) struct Rewrite {
    from: Pattern,
    to: Box<str>,
}

impl Rewrite {
    pub(crate) fn compile(rule: &RewriteRule, field: &str) -> Result<Self, Problem> {
        let prefix = |text: &str, name: &str| {
            let field = format!("{field}.{name}");
            // A star would be taken for a part of the path elsewhere.
            if text.ends_with('*') {
                return Err(Problem::invalid(&field, "A rewrite names prefixes: write /api, not /api/*."));
            }
            let path = text.strip_suffix('/').unwrap_or(text);
            Pattern::parse(&format!("{path}/*"), &field)
                .ok()
                .filter(|_| text.starts_with('/') && !text.starts_with("//"))
                .ok_or_else(|| {
                    Problem::invalid(&field, "A path prefix starts with / and has no ?, # or space.")
                })
        };
        let (from, to) = (prefix(&rule.from, "from")?, prefix(&rule.to, "to")?);
        Ok(Self { from, to: to.path })
    }

    /// The path that the app sees, if the rule is for it.
    pub(crate) fn path(&self, path: &str) -> Option<String> {
        let rest = self.from.rest(path)?;
        let whole = path.len() == self.from.path.len();
        let path = match (whole, self.to.is_empty()) {
            (true, false) => self.to.to_string(),
            _ => format!("{}/{rest}", self.to),
        };
        (path.len() <= LONGEST).then_some(path)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn redirect(from: &str, to: &str) -> Result<Redirect, Problem> {
        let rule = RedirectRule { from: from.into(), to: to.into(), status: None, keep_query: None };
        Redirect::compile(&rule, "redirects[0]")
    }

    fn rewrite(from: &str, to: &str) -> Result<Rewrite, Problem> {
        Rewrite::compile(&RewriteRule { from: from.into(), to: to.into() }, "rewrites[0]")
    }

    #[test]
    fn redirects_keep_what_they_are_asked_to() {
        for (from, to, path, query, expected) in [
            ("/old", "/new", "/old", None, Some("/new")),
            ("/old", "/new", "/old/", None, None),
            ("/old", "/new", "/older", None, None),
            ("/old", "/new", "/old", Some("a=b"), Some("/new?a=b")),
            ("/old", "/new?x=1", "/old", Some("a=b"), Some("/new?x=1&a=b")),
            ("/blog/*", "/posts/*", "/blog/2024/a", Some("p=2"), Some("/posts/2024/a?p=2")),
            ("/blog/*", "/posts/*", "/blog", None, Some("/posts/")),
            ("/blog/*", "/posts/*", "/blogs", None, None),
            ("/blog/*", "/closed", "/blog/x", None, Some("/closed")),
            ("/*", "https://new.example/*", "/a/b", Some("q"), Some("https://new.example/a/b?q")),
            ("/*", "https://new.example:8443/at/*", "/", None, Some("https://new.example:8443/at/")),
            ("/go/*", "/*", "/go//evil.example/x", None, Some("/evil.example/x")),
            ("/go/*", "/*", "/go/\\/evil.example", None, Some("/evil.example")),
            ("/", "/home", "/", None, Some("/home")),
            ("/", "/home", "/x", None, None),
        ] {
            let rule = redirect(from, to).expect("a sound rule");
            assert_eq!(rule.location(path, query).as_deref(), expected, "{from} {to} {path}");
        }
        let rule =
            RedirectRule { from: "/a".into(), to: "/b".into(), status: Some(302), keep_query: Some(false) };
        let rule = Redirect::compile(&rule, "r").expect("a sound rule");
        assert_eq!((rule.location("/a", Some("x")).as_deref(), rule.status.as_u16()), (Some("/b"), 302));
    }

    #[test]
    fn unsound_rules_say_which_field() {
        for (from, to, field) in [
            ("old", "/new", "redirects[0].from"),
            ("/a?b", "/new", "redirects[0].from"),
            ("/a*", "/new", "redirects[0].from"),
            ("/a", "//evil.example", "redirects[0].to"),
            ("/a", "/\\evil.example", "redirects[0].to"),
            ("/a", "javascript:alert(1)", "redirects[0].to"),
            ("/a", "https://user@host.example/", "redirects[0].to"),
            ("/a", "https://", "redirects[0].to"),
            ("/a", "/b#c", "redirects[0].to"),
            ("/a", "/b c", "redirects[0].to"),
            ("/a", "/b\r\nx: y", "redirects[0].to"),
            ("/a", "/b/*", "redirects[0].to"),
            ("/a", "/a", "redirects[0].to"),
            ("/*", "/maintenance", "redirects[0].to"),
            ("/a/*", "/a/b/*", "redirects[0].to"),
            ("/a/*", "https://host.example*", "redirects[0].to"),
        ] {
            let problem = redirect(from, to).expect_err(&format!("{from} {to}"));
            assert_eq!(problem.field.as_deref(), Some(field), "{from} {to}");
        }
        for (from, to) in [("/a/*", "/b"), ("a", "/b"), ("/a", "b"), ("/a", "//b"), ("/a?", "/b")] {
            assert!(rewrite(from, to).is_err(), "{from} {to}");
        }
    }

    #[test]
    fn rewrites_replace_whole_segments() {
        for (from, to, path, expected) in [
            ("/api", "/", "/api/v1", Some("/v1")),
            ("/api", "/", "/api", Some("/")),
            ("/api/", "/v2/", "/api/x", Some("/v2/x")),
            ("/api", "/v2", "/api", Some("/v2")),
            ("/api", "/v2", "/api/", Some("/v2/")),
            ("/api", "/v2", "/apis", None),
            ("/", "/app", "/x", Some("/app/x")),
            ("/", "/app", "/", Some("/app/")),
        ] {
            assert_eq!(
                rewrite(from, to).expect("sound").path(path).as_deref(),
                expected,
                "{from} {to} {path}"
            );
        }
    }

    #[test]
    fn an_exception_is_for_plain_paths_alone() {
        let open = Exceptions::parse(&["/health".into(), "/open/*".into()], "f").expect("patterns");
        for path in ["/health", "/open", "/open/", "/open/a/b.css"] {
            assert!(open.have(path), "{path}");
        }
        for path in [
            "/",
            "/healthy",
            "/health/x",
            "/open/../admin",
            "/open/%2e%2e/admin",
            "/open/%2E./admin",
            "/open//admin",
            "/open/..",
            "/open/.",
            "/open/..;/admin",
            "/open/..%2fadmin",
            "/open/%252e%252e/admin",
            "/open/..\\admin",
            "/opened",
        ] {
            assert!(!open.have(path), "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_redirect_to_a_path_stays_on_its_host(rest in "[ -~]{0,30}", query in "[ -~]{0,10}") {
            for (from, to) in [("/go/*", "/*"), ("/go/*", "/x/*")] {
                let rule = redirect(from, to).expect("sound");
                if let Some(location) = rule.location(&format!("/go/{rest}"), Some(&query)) {
                    prop_assert!(location.starts_with('/'));
                    prop_assert!(!location[1..].starts_with(['/', '\\']), "{}", location);
                }
            }
        }

        #[test]
        fn reading_never_panics_and_what_is_taken_is_plain(from in "\\PC{0,20}", to in "\\PC{0,20}") {
            if let Ok(rule) = redirect(&from, &to) {
                prop_assert!(rule.to.is_ascii() && !rule.to.contains(['\r', '\n', ' ']));
            }
            let _ = rewrite(&from, &to);
        }

        #[test]
        fn a_rewrite_gives_a_path(rest in "[!-~]{0,30}") {
            for (from, to) in [("/a", "/"), ("/", "/b"), ("/a", "/b")] {
                if let Some(path) = rewrite(from, to).expect("sound").path(&format!("/a/{rest}")) {
                    prop_assert!(path.starts_with('/'));
                }
            }
        }
    }
}
