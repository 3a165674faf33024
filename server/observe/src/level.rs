//! How grave a line is, guessed from its text alone. That it came from stderr says nothing: many programs
//! print everything there.

use berth_schemas::log::Level;

/// How far into a line its level is looked for, in bytes.
const HEAD: usize = 256;

/// The level of a line: what a structured line says, else what its head looks like, else info.
#[must_use]
pub fn guess_level(text: &str) -> Level {
    let plain = without_colours(text);
    let trimmed = plain.trim_start();
    if trimmed.starts_with('{')
        && let Some(level) = from_json(trimmed)
    {
        return level;
    }
    let mut end = trimmed.len().min(HEAD);
    while !trimmed.is_char_boundary(end) {
        end -= 1;
    }
    let head = &trimmed[..end];
    from_klog(head).or_else(|| from_words(head)).or_else(|| from_beginning(head)).unwrap_or(Level::Info)
}

/// The level that a word means.
fn named(word: &str) -> Option<Level> {
    const WORDS: &[(&str, Level)] = &[
        ("trace", Level::Debug),
        ("verbose", Level::Debug),
        ("debug", Level::Debug),
        ("dbg", Level::Debug),
        ("info", Level::Info),
        ("information", Level::Info),
        ("notice", Level::Info),
        ("log", Level::Info),
        ("warn", Level::Warn),
        ("warning", Level::Warn),
        ("wrn", Level::Warn),
        ("error", Level::Error),
        ("err", Level::Error),
        ("fatal", Level::Error),
        ("critical", Level::Error),
        ("crit", Level::Error),
        ("severe", Level::Error),
        ("panic", Level::Error),
        ("alert", Level::Error),
        ("emerg", Level::Error),
        ("emergency", Level::Error),
    ];
    WORDS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|(_, level)| *level)
}

/// A JSON line, as pino, zap, slog, structlog, Serilog and the like print them.
fn from_json(text: &str) -> Option<Level> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let level = ["level", "severity", "lvl", "log.level", "levelname", "@l", "level_name"]
        .iter()
        .find_map(|key| value.get(key))?;
    match level {
        serde_json::Value::String(word) => named(word),
        // pino and bunyan count in tens: 20 debug, 30 info, 40 warn, 50 error.
        serde_json::Value::Number(n) => n.as_i64().and_then(|n| match n {
            10..30 => Some(Level::Debug),
            30..40 => Some(Level::Info),
            40..50 => Some(Level::Warn),
            50..=60 => Some(Level::Error),
            _ => None,
        }),
        _ => None,
    }
}

/// glog and klog: `E0102 15:04:05.000000 …`.
fn from_klog(head: &str) -> Option<Level> {
    let bytes = head.as_bytes();
    if bytes.len() < 6 || !bytes[1..5].iter().all(u8::is_ascii_digit) || bytes[5] != b' ' {
        return None;
    }
    match bytes[0] {
        b'I' => Some(Level::Info),
        b'W' => Some(Level::Warn),
        b'E' | b'F' => Some(Level::Error),
        _ => None,
    }
}

/// The first word that stands where loggers put their level: in capitals on its own, in brackets, after
/// `level=`, or before a colon at the beginning.
fn from_words(head: &str) -> Option<Level> {
    let bytes = head.as_bytes();
    let mut start = 0;
    let mut words = 0;
    while start < bytes.len() {
        if !bytes[start].is_ascii_alphabetic() {
            start += 1;
            continue;
        }
        let end = bytes[start..].iter().position(|b| !is_word(*b)).map_or(bytes.len(), |n| start + n);
        if let Some(level) = named(&head[start..end])
            && stands_as_level(bytes, start, end, words)
        {
            return Some(level);
        }
        words += 1;
        start = end;
    }
    None
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

fn stands_as_level(bytes: &[u8], start: usize, end: usize, words_before: usize) -> bool {
    let before = start.checked_sub(1).map(|i| bytes[i]);
    let after = bytes.get(end).copied();
    let word = &bytes[start..end];
    // Part of a path, a host, an option or a compound name.
    if matches!(before, Some(b'/' | b'.' | b'-' | b'\'' | b'?' | b'&'))
        || matches!(after, Some(b'/' | b'-' | b'.'))
    {
        return false;
    }
    let capitals = word.len() >= 3 && word.iter().all(u8::is_ascii_uppercase);
    let bracketed = matches!((before, after), (Some(b'['), Some(b']')) | (Some(b'<'), Some(b'>')));
    let key = &bytes[..start];
    let assigned =
        [b"level=".as_slice(), b"level=\"", b"lvl=", b"severity="].iter().any(|k| key.ends_with(k));
    let leads = words_before == 0 && (after == Some(b':') || after == Some(b'!'));
    // "app error: …", as many command line programs have it; but "Log: …" in a sentence is no level.
    capitals || bracketed || assigned || leads
}

/// Beginnings that only errors and warnings have.
fn from_beginning(head: &str) -> Option<Level> {
    const ERRORS: &[&str] = &[
        "Traceback (most recent call last)",
        "Exception in thread",
        "Unhandled",
        "Uncaught",
        "npm ERR!",
        "Segmentation fault",
        "goroutine 1 [running]",
    ];
    if ERRORS.iter().any(|e| head.starts_with(e))
        || (head.starts_with("thread '") && head.contains("panicked at"))
    {
        return Some(Level::Error);
    }
    // "TypeError: x is not a function", "java.lang.IllegalStateException: …", "DeprecationWarning: …".
    // Node.js puts its process in front.
    let head = match head.strip_prefix("(node:").and_then(|rest| rest.split_once(") ")) {
        Some((_, rest)) => rest,
        None => head,
    };
    let name = head.split(':').next().filter(|n| n.len() < head.len() && !n.contains(' '))?;
    if name.ends_with("Error") || name.ends_with("Exception") {
        Some(Level::Error)
    } else if name.ends_with("Warning") {
        Some(Level::Warn)
    } else {
        None
    }
}

/// The text without ANSI escape sequences.
fn without_colours(text: &str) -> std::borrow::Cow<'_, str> {
    if !text.contains('\u{1b}') {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\u{1b}' {
            out.push(c);
        } else if chars.next() == Some('[') {
            // Parameters, up to the letter that ends the sequence.
            for c in chars.by_ref() {
                if c.is_ascii_alphabetic() {
                    break;
                }
            }
        }
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_loggers_print_is_understood() {
        let cases = [
            (r#"{"level":"error","msg":"x"}"#, Level::Error),
            (r#"{"level":50,"msg":"pino"}"#, Level::Error),
            (r#"{"severity":"WARNING","message":"gcp"}"#, Level::Warn),
            (r#"{"msg":"no level, though it says error"}"#, Level::Info),
            ("2026-01-31 12:00:00,123 ERROR [main] c.e.App - it broke", Level::Error),
            ("12:00:00.123 [main] WARN  com.example.App - hm", Level::Warn),
            ("ERROR:root:it broke", Level::Error),
            ("WARNING:django.request:Not Found: /error", Level::Warn),
            ("DEBUG:urllib3:x", Level::Debug),
            ("2026-01-31T12:00:00.000Z  WARN berth::proxy: slow", Level::Warn),
            ("\u{1b}[2m2026-01-31T12:00:00Z\u{1b}[0m \u{1b}[31mERROR\u{1b}[0m app: broke", Level::Error),
            ("time=2026-01-31 level=warn msg=\"hm\"", Level::Warn),
            ("2026/01/31 12:00:00 [error] 12#12: *1 open() failed", Level::Error),
            ("[Sat Jan 31 12:00:00 2026] [notice] started", Level::Info),
            ("E0131 12:00:00.000000       1 server.go:1] broke", Level::Error),
            ("2026-01-31 12:00:00 UTC [1] FATAL:  password authentication failed", Level::Error),
            ("TypeError: x is not a function", Level::Error),
            ("Error: listen EADDRINUSE", Level::Error),
            ("Traceback (most recent call last):", Level::Error),
            ("thread 'main' (17) panicked at src/main.rs:1:1:", Level::Error),
            ("panic: runtime error: index out of range", Level::Error),
            ("(node:17) DeprecationWarning: x", Level::Warn),
            ("npm ERR! code ELIFECYCLE", Level::Error),
            ("error: could not compile", Level::Error),
            ("warning: unused variable", Level::Warn),
        ];
        for (text, level) in cases {
            assert_eq!(guess_level(text), level, "{text}");
        }
    }

    #[test]
    fn ordinary_lines_are_information() {
        for text in [
            "",
            "Listening on :8080",
            "GET /error 200 3ms",
            "GET /docs/ERROR.html 200",
            "0 errors, 0 warnings",
            "an error handler was registered",
            "127.0.0.1 - - [31/Jan/2026] \"GET /?level=x&error=1 HTTP/1.1\" 200",
            "catalog: 12 items",
            "--error-limit 5",
        ] {
            assert_eq!(guess_level(text), Level::Info, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_has_a_level(text in "(\\PC|\u{1b}|\\[|[A-Z]{3,8}|\\{|\"level\":){0,60}") {
            let _ = guess_level(&text);
        }
    }
}
