//! Messages without what differs from one occurrence to the next: `user 17 not found` becomes `user <int> not found`.

use std::{borrow::Cow, sync::LazyLock};

use regex::{Captures, Regex};

/// Lines of a message that count.
const LINES: usize = 2;
/// Bytes of a message that count.
const MAX: usize = 1024;

/// What is taken out: a name and what it looks like. The first that fits at a place wins.
const KINDS: &[(&str, &str)] = &[
    ("email", r"[0-9A-Za-z_.+-]{1,64}@[0-9A-Za-z_-]{1,63}(?:\.[0-9A-Za-z_-]{1,63}){1,4}"),
    ("url", r#"(?-u:\b)(?:https?|wss?|ftp|file|redis|postgres(?:ql)?|mysql|mongodb)://[^\s'"<>)\]]+"#),
    ("uuid", r"(?-u:\b)[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}(?-u:\b)"),
    (
        "date",
        concat!(
            r"(?-u:\b)[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]+)?)?(?:Z|[+-][0-9]{2}:?[0-9]{2})?)?(?-u:\b)|",
            r"(?-u:\b)[0-9]{1,2}/(?:[0-9]{1,2}|[A-Z][a-z]{2})/[0-9]{4}(?:[: ][0-9]{2}:[0-9]{2}(?::[0-9]{2})?)?(?-u:\b)|",
            r"(?-u:\b)(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? [0-9]{1,2} [A-Z][a-z]{2} [0-9]{4}(?: [0-9]{2}:[0-9]{2}:[0-9]{2})?(?: [A-Z]{3,4})?|",
            r"(?-u:\b)[0-9]{2}:[0-9]{2}:[0-9]{2}(?:[.,][0-9]+)?(?-u:\b)",
        ),
    ),
    (
        "ip",
        concat!(
            r"(?-u:\b)(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?::[0-9]{1,5})?(?-u:\b)|",
            r"(?-u:\b)(?:[0-9a-fA-F]{1,4}:){3,7}[0-9a-fA-F]{1,4}(?-u:\b)|",
            r"(?:[0-9a-fA-F]{1,4}:){1,6}:(?:[0-9a-fA-F]{1,4}(?::[0-9a-fA-F]{1,4})*)?"
        ),
    ),
    (
        "host",
        r"(?-u:\b)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+(?:com|net|org|io|dev|app|local|internal|cloud|co|eu|de|uk|fr|example|test)(?::[0-9]{1,5})?(?-u:\b)",
    ),
    (
        "duration",
        r"(?-u:\b)[0-9]+(?:\.[0-9]+)?\s?(?:ns|us|µs|ms|s|sec|secs|seconds?|min|minutes?|hours?|h|days?)(?-u:\b)",
    ),
    (
        "hex",
        r"(?-u:\b)0[xX][0-9a-fA-F]+(?-u:\b)|(?-u:\b)[0-9a-fA-F]{32,128}(?-u:\b)|(?-u:\b)(?:[a-fA-F]+[0-9]|[0-9]+[a-fA-F])[0-9a-fA-F]{5,}(?-u:\b)",
    ),
    ("id", r"(?-u:\b)[A-Za-z]{2,8}_[A-Za-z0-9]{10,64}(?-u:\b)"),
    ("float", r"[-+]?(?-u:\b)[0-9]+\.[0-9]+(?:[eE][-+]?[0-9]+)?(?-u:\b)"),
    ("int", r"[-+]?(?-u:\b)[0-9]+(?-u:\b)|(?-u:\B)#[0-9]+(?-u:\b)"),
    ("path", r"(?:/(?:home|tmp|var|usr|app|srv|opt|data|mnt|Users|private)(?:/[0-9A-Za-z_.@%+-]+)+)"),
    ("quoted", r"=\s?'[^']{0,200}'|=\s?\x22[^\x22]{0,200}\x22"),
];

static PATTERN: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let parts: Vec<String> = KINDS.iter().map(|(name, pattern)| format!("(?P<{name}>{pattern})")).collect();
    Regex::new(&parts.join("|")).ok()
});

/// The first lines of a message with everything taken out that differs from one occurrence to the next.
#[must_use]
pub(crate) fn parameterized(message: &str) -> String {
    let lines: Vec<&str> = message.lines().map(str::trim).filter(|l| !l.is_empty()).take(LINES).collect();
    let mut text = lines.join(" ");
    let mut end = text.len().min(MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    match &*PATTERN {
        Some(pattern) => pattern.replace_all(&text, name).into_owned(),
        None => text,
    }
}

fn name(found: &Captures<'_>) -> Cow<'static, str> {
    let kind = KINDS.iter().map(|(name, _)| *name).find(|name| found.name(name).is_some());
    match kind {
        Some("quoted") => "=<quoted>".into(),
        Some(kind) => format!("<{kind}>").into(),
        None => Cow::Borrowed(""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_goes_and_words_stay() {
        for (message, wanted) in [
            ("user 17 not found", "user <int> not found"),
            ("no order #4711 for a.b@c.example", "no order <int> for <email>"),
            ("GET https://x.example/a?b=1 failed: 503", "GET <url> failed: <int>"),
            (
                "task 7f9c24e5-1d2f-4a6b-8c3d-9e0f1a2b3c4d timed out after 30s",
                "task <uuid> timed out after <duration>",
            ),
            ("connect ECONNREFUSED 10.0.0.7:5432", "connect ECONNREFUSED <ip>"),
            ("lookup db.internal: no such host", "lookup <host>: no such host"),
            ("at 2026-11-25T10:00:00.123Z", "at <date>"),
            ("segfault at 0x7fff12 in libc", "segfault at <hex> in libc"),
            ("ratio 0.25 of -3", "ratio <float> of <int>"),
            ("key='abc' value=\"d e\"", "key=<quoted> value=<quoted>"),
            ("charge ch_3PqLm4AbCdEfGh declined", "charge <id> declined"),
            ("open /home/ann/x.txt: denied", "open <path>: denied"),
            (
                "Cannot read properties of undefined (reading 'a')",
                "Cannot read properties of undefined (reading 'a')",
            ),
            ("a\n\nb\nc", "a b"),
            ("", ""),
        ] {
            assert_eq!(parameterized(message), wanted, "{message}");
        }
        assert_eq!(
            parameterized("checksum d41d8cd98f00b204e9800998ecf8427e differs"),
            "checksum <hex> differs"
        );
        assert_eq!(parameterized("commit 2b375f0 is missing"), "commit <hex> is missing");
        assert_eq!(parameterized("the facade decade"), "the facade decade");
    }

    proptest::proptest! {
        #[test]
        fn any_text_has_an_answer_and_keeps_it(text in ".{0,300}") {
            let once = parameterized(&text);
            proptest::prop_assert!(!once.contains('\n'));
        }
    }
}
