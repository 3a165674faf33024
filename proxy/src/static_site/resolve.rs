//! From a request's path to the file names it may mean, and from a file name to its headers. Pure.

use http::StatusCode;

/// An encoding that files may lie in beside themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Brotli,
    Gzip,
}

impl Encoding {
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Brotli => ".br",
            Self::Gzip => ".gz",
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }
}

/// The encodings a client takes, best first.
pub(crate) fn encodings(accept: &str) -> Vec<Encoding> {
    let taken = |name: &str| {
        accept.split(',').any(|part| {
            let (coding, weight) = part.split_once(';').unwrap_or((part, ""));
            let refused = weight.trim().strip_prefix("q=").is_some_and(|q| q.trim().parse() == Ok(0.0_f32));
            coding.trim().eq_ignore_ascii_case(name) && !refused
        })
    };
    [Encoding::Brotli, Encoding::Gzip].into_iter().filter(|encoding| taken(encoding.name())).collect()
}

/// What a request asks for.
#[derive(Debug)]
pub(crate) struct Lookup {
    /// Decoded, relative, without empty segments; `None` when the path may name nothing.
    path: Option<String>,
    trailing_slash: bool,
    accepts: Vec<Encoding>,
    spa_fallback: bool,
}

impl Lookup {
    pub(crate) fn new(path: &str, accepts: Vec<Encoding>, spa_fallback: bool) -> Self {
        Self { path: safe_path(path), trailing_slash: path.ends_with('/'), accepts, spa_fallback }
    }

    pub(crate) fn accepts(&self) -> &[Encoding] {
        &self.accepts
    }

    /// Names to try, in order: the file itself, then `about.html` for `/about`; `index.html` for a directory.
    pub(crate) fn candidates(&self) -> Vec<String> {
        match &self.path {
            None => Vec::new(),
            Some(path) if path.is_empty() => vec!["index.html".to_owned()],
            Some(path) if self.trailing_slash => vec![format!("{path}/index.html")],
            Some(path) => vec![path.clone(), format!("{path}.html")],
        }
    }

    /// The directory that `/dir` may mean, to be asked for as `/dir/`.
    pub(crate) fn directory_without_slash(&self) -> Option<&str> {
        self.path.as_deref().filter(|path| !path.is_empty() && !self.trailing_slash)
    }

    /// Whether a single-page application's own router may know the path.
    pub(crate) fn may_fall_back(&self) -> bool {
        let Some(path) = self.path.as_deref().filter(|_| self.spa_fallback) else {
            return false;
        };
        let last = path.rsplit('/').next().unwrap_or_default();
        self.trailing_slash || !last.contains('.')
    }
}

/// Decodes a path. Refuses what a file server has no business with: `..`, hidden names (but `.well-known`), NUL
/// and backslashes, bad escapes, text that is no UTF-8, and a double slash at the start.
fn safe_path(path: &str) -> Option<String> {
    let decoded = percent_decode(path.strip_prefix('/')?)?;
    if decoded.starts_with('/') || decoded.contains(['\0', '\\']) {
        return None;
    }
    let mut segments = Vec::new();
    for segment in decoded.split('/').filter(|segment| !segment.is_empty()) {
        if segment.starts_with('.') && segment != ".well-known" {
            return None;
        }
        segments.push(segment);
    }
    Some(segments.join("/"))
}

fn percent_decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'%' {
            let (digits, tail) = rest.split_at_checked(2)?;
            let digit = |d: u8| char::from(d).to_digit(16);
            bytes.push((digit(digits[0])? * 16 + digit(digits[1])?) as u8);
            rest = tail;
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

pub(crate) fn content_type(name: &str) -> String {
    let guess = mime_guess::from_path(name).first_or_octet_stream();
    let textual = guess.type_() == mime_guess::mime::TEXT
        || guess.subtype() == mime_guess::mime::JAVASCRIPT
        || guess.subtype() == mime_guess::mime::JSON;
    if textual { format!("{}; charset=utf-8", guess.essence_str()) } else { guess.essence_str().to_owned() }
}

/// A year for names that change with their contents; everything else is asked about again each time.
pub(crate) fn cache_control(name: &str, status: StatusCode) -> &'static str {
    if status == StatusCode::OK && is_content_hashed(name) {
        "public, max-age=31536000, immutable"
    } else if name.ends_with(".html") || status != StatusCode::OK {
        "public, max-age=0, must-revalidate"
    } else {
        "public, max-age=300, must-revalidate"
    }
}

/// Whether a bundler put a hash of the contents into the name: `app.3f2a9c1b.js`, `index-BX7dK2_q.css`. Eight or
/// more letters and digits, of which some are digits, before the extension; words and dates are not enough.
fn is_content_hashed(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    let Some((stem, _extension)) = file.split_once('.').map(|_| file.rsplit_once('.').unwrap_or((file, "")))
    else {
        return false;
    };
    if stem.is_empty() || file.ends_with(".html") {
        return false;
    }
    let Some(at) = stem.rfind(['.', '-']).filter(|at| *at > 0) else {
        return false;
    };
    let hash = &stem[at + 1..];
    (8..=64).contains(&hash.len())
        && hash.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && hash.bytes().any(|b| b.is_ascii_digit())
        && hash.bytes().any(|b| b.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &str) -> Vec<String> {
        Lookup::new(path, vec![], false).candidates()
    }

    #[test]
    fn paths_mean_files_pages_and_directories() {
        assert_eq!(names("/"), ["index.html"]);
        assert_eq!(names("/about"), ["about", "about.html"]);
        assert_eq!(names("/docs/"), ["docs/index.html"]);
        assert_eq!(names("/a//b%20c.txt"), ["a/b c.txt", "a/b c.txt.html"]);
        assert_eq!(names("/.well-known/security.txt")[0], ".well-known/security.txt");
    }

    #[test]
    fn hostile_paths_mean_nothing() {
        for path in [
            "/../etc/passwd",
            "/a/../../etc/passwd",
            "/%2e%2e/etc/passwd",
            "/..%2fetc/passwd",
            "/.env",
            "/a/.git/config",
            "/%2egit/config",
            "/a%00b",
            "/a\\..\\b",
            "//evil.test",
            "/%2fevil.test",
            "/%zz",
            "/%f",
            "/%ff",
            "relative",
        ] {
            assert!(names(path).is_empty(), "{path}");
        }
    }

    #[test]
    fn the_fallback_is_for_pages_not_for_missing_assets() {
        let falls_back = |path| Lookup::new(path, vec![], true).may_fall_back();
        assert!(falls_back("/orders/17"));
        assert!(falls_back("/v1.2/"));
        assert!(!falls_back("/app.js"));
        assert!(!falls_back("/../x"));
    }

    #[test]
    fn only_hashed_names_are_immutable() {
        for hashed in ["assets/index-BX7dK2q9.js", "app.3f2a9c1b.css", "img/logo.d41d8cd98f00b204.svg"] {
            assert!(is_content_hashed(hashed), "{hashed}");
        }
        for plain in
            ["app.js", "robots.txt", "my-javascript.js", "report-20240101.pdf", "page-1a2b3c4d.html", "x"]
        {
            assert!(!is_content_hashed(plain), "{plain}");
        }
    }

    #[test]
    fn a_refused_encoding_is_not_used() {
        assert_eq!(encodings("gzip, deflate, br;q=0.9"), [Encoding::Brotli, Encoding::Gzip]);
        assert_eq!(encodings("br;q=0, gzip"), [Encoding::Gzip]);
        assert!(encodings("identity").is_empty());
    }

    proptest::proptest! {
        #[test]
        fn no_path_ever_leads_up_or_to_a_hidden_file(path in "/[./%a-f0-9A-F\\\\]{0,40}") {
            for name in names(&path) {
                proptest::prop_assert!(!name.starts_with('/'));
                for segment in name.split('/') {
                    proptest::prop_assert!(!segment.starts_with('.') || segment.starts_with(".well-known"));
                }
            }
        }
    }
}
