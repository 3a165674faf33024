//! Which paths are those of source maps.

use std::borrow::Cow;

/// Whether a path is that of a script's source map, however it is written. Mostly three bytes tell that it is not.
pub(crate) fn is_script_map(path: &str) -> bool {
    let encoded = path.contains('%');
    let path = if encoded { Cow::Owned(decoded(path)) } else { Cow::Borrowed(path.as_bytes()) };
    // What a server may take off the end before it looks for a file.
    let end = path.iter().rposition(|b| !matches!(b, b'/' | b'.')).map_or(0, |at| at + 1);
    let path = &path[..end];
    ends(path, b"map") && [".js.map", ".mjs.map", ".cjs.map"].iter().any(|end| ends(path, end.as_bytes()))
}

/// Whether a text ends so, in whatever case.
fn ends(text: &[u8], end: &[u8]) -> bool {
    text.len() >= end.len() && text[text.len() - end.len()..].eq_ignore_ascii_case(end)
}

/// A path with its `%XX` as the bytes that they mean.
fn decoded(path: &str) -> Vec<u8> {
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digit = |n: usize| bytes.get(at + n).and_then(|b| char::from(*b).to_digit(16));
        match (bytes[at], digit(1), digit(2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or_default());
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_of_a_script_is_known_however_it_is_written() {
        for path in [
            "/main.js.map",
            "/a/b.mjs.map",
            "/c.cjs.map/",
            "/main.JS.MAP",
            "/main.js%2Emap",
            "/main.j%73.map",
            "/main.js.map%2f",
            "/main.js.map/.",
        ] {
            assert!(is_script_map(path), "{path}");
        }
        for path in
            ["/", "/main.js", "/level.map", "/main.css.map", "/map", "/%", "/a%zz.map", "/.js.map.txt"]
        {
            assert!(!is_script_map(path), "{path}");
        }
    }
}
