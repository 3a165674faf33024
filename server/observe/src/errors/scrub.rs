//! Secrets and personal data go before anything is kept.
//!
//! Two rules: a field whose name speaks of a secret loses its value, wherever it is; a text loses what looks like a
//! secret: a password in a URL, a private key, a card number, a bearer token. The address of a user is shortened.

use std::{borrow::Cow, net::IpAddr, sync::LazyLock};

use aho_corasick::AhoCorasick;
use regex::Regex;
use serde_json::Value;

/// What stands for what went, as Sentry's clients write it.
pub const FILTERED: &str = "[Filtered]";
/// Parts of objects nested deeper than this are not kept.
const MAX_DEPTH: usize = 60;

/// Words that make a field a secret, as a whole word of its name in whatever case style.
const WORDS: &[&str] = &[
    "password",
    "passwd",
    "pwd",
    "passphrase",
    "secret",
    "secrets",
    "token",
    "apikey",
    "auth",
    "authorization",
    "credential",
    "credentials",
    "privatekey",
    "cookie",
    "cookies",
    "csrf",
    "xsrf",
    "csrftoken",
    "sessionid",
    "jwt",
    "bearer",
    "ssn",
    "cvv",
    "cvc",
    "iban",
    "pin",
    "otp",
    "creditcard",
    "cardnumber",
    "signature",
    "dsn",
];
/// Pairs of words that do so together.
const PAIRS: &[(&str, &str)] = &[
    ("api", "key"),
    ("private", "key"),
    ("access", "key"),
    ("secret", "key"),
    ("session", "id"),
    ("credit", "card"),
    ("card", "number"),
    ("encryption", "key"),
    ("signing", "key"),
    ("connect", "sid"),
    ("set", "cookie"),
    ("database", "url"),
    ("redis", "url"),
    ("mongo", "url"),
];
/// Fields that are never secrets, though their names sound so.
const PLAIN: &[&str] =
    &["token_count", "tokens_used", "max_tokens", "csrf_enabled", "auth_type", "token_type"];

/// What is done beyond the defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScrubRules {
    /// More names of fields, in lower case.
    pub fields: Vec<String>,
    /// Fields that stay, in lower case.
    pub keep: Vec<String>,
    /// Keep whole addresses.
    pub keep_addresses: bool,
}

/// Beginnings of what makes a name a secret: most names have none of them, and are not looked at any further.
static SUSPECT: LazyLock<Option<AhoCorasick>> = LazyLock::new(|| {
    let beginnings = WORDS.iter().copied().chain(PAIRS.iter().map(|(first, _)| *first));
    AhoCorasick::builder().ascii_case_insensitive(true).build(beginnings).ok()
});

/// Marks without which a pattern finds nothing, with the numbers of the patterns as bits. That of the last pattern wants
/// an equals sign, too.
const MARKS: &[(&str, u8)] = &[
    ("://", 1),
    ("-----BEGIN", 1 << 1),
    ("bearer ", 1 << 2),
    ("basic ", 1 << 2),
    ("token ", 1 << 2),
    ("eyJ", 1 << 3),
    ("gho_", 1 << 3),
    ("ghp_", 1 << 3),
    ("ghr_", 1 << 3),
    ("ghs_", 1 << 3),
    ("ghu_", 1 << 3),
    ("sk_", 1 << 3),
    ("xox", 1 << 3),
    ("AKIA", 1 << 3),
    ("berth_", 1 << 3),
    ("pass", 1 << 4),
    ("pwd", 1 << 4),
    ("secret", 1 << 4),
    ("token", 1 << 4),
    ("key", 1 << 4),
    ("sig", 1 << 4),
    ("session", 1 << 4),
    ("auth", 1 << 4),
    ("jwt", 1 << 4),
];
/// Every pattern.
const ALL_PATTERNS: u8 = 0b1_1111;
/// The pattern of names and values.
const ASSIGNED: u8 = 1 << 4;

static MARKED: LazyLock<Option<AhoCorasick>> = LazyLock::new(|| {
    AhoCorasick::builder().ascii_case_insensitive(true).build(MARKS.iter().map(|(mark, _)| mark)).ok()
});

/// Patterns that may find something in a text, as bits.
fn suspected(text: &str) -> u8 {
    // Case folds beyond ASCII: what looks like another letter may count as one of ours.
    let Some(marked) = MARKED.as_ref().filter(|_| text.is_ascii()) else { return ALL_PATTERNS };
    let mut found = 0;
    for mark in marked.find_overlapping_iter(text) {
        found |= MARKS.get(mark.pattern().as_usize()).map_or(0, |(_, bits)| *bits);
    }
    if found & ASSIGNED != 0 && !text.contains('=') { found & !ASSIGNED } else { found }
}

/// What looks like a secret within a text. Each keeps the groups that are named `a` and `b`.
static PATTERNS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    let patterns = [
        r"(?P<a>\b[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@]{0,200}:)[^\s/@]{1,500}(?P<b>@)",
        r"(?P<a>-----BEGIN [A-Z ]*PRIVATE KEY-----)(?:[^-]|-[^-])*(?P<b>(?:-----END [A-Z ]*PRIVATE KEY-----)?)",
        r"(?i)(?P<a>\b(?:bearer|basic|token) )[A-Za-z0-9._~+/=-]{12,}(?P<b>)",
        r"(?P<a>\b)(?:eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*|gh[pousr]_[A-Za-z0-9]{20,}|sk_(?:live|test)_[A-Za-z0-9]{10,}|xox[abpr]-[A-Za-z0-9-]{10,}|AKIA[0-9A-Z]{16}|berth_[A-Za-z0-9_-]{20,})(?P<b>)",
        r"(?i)(?P<a>[?&;,\s]?\b(?:[a-z_-]*(?:password|passwd|secret|token|api[_-]?key|signature|session[_-]?id)|pwd|auth|sig|jwt)=)[^&\s;,'\x22]+(?P<b>)",
    ];
    patterns.iter().filter_map(|p| Regex::new(p).ok()).collect()
});
static CARD: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\b(?:\d[ -]?){12,18}\d\b").ok());

/// Fields with a visitor's address, in events, sessions, spans and logs.
const ADDRESSES: &[&str] =
    &["ip_address", "user.ip_address", "client.address", "client_address", "http.client_ip"];

/// Takes secrets and personal data out of an event, or of anything else that a client sent as JSON.
pub fn scrub(body: &mut Value, rules: &ScrubRules) {
    walk(body, rules, 0);
    if !rules.keep_addresses {
        if let Some(Value::Object(env)) = body.pointer_mut("/request/env") {
            shorten(env.get_mut("REMOTE_ADDR"));
        }
        if let Some(headers) = body.pointer_mut("/request/headers") {
            each_pair(headers, |name, value| {
                let name = name.to_ascii_lowercase();
                if matches!(name.as_str(), "x-forwarded-for" | "x-real-ip" | "forwarded" | "cf-connecting-ip")
                {
                    shorten(Some(value));
                }
            });
        }
    }
}

fn walk(value: &mut Value, rules: &ScrubRules, depth: usize) {
    if depth > MAX_DEPTH {
        *value = Value::String("[too deep]".into());
        return;
    }
    match value {
        Value::String(text) => {
            // A body that is JSON itself has fields, too.
            if text.starts_with(['{', '['])
                && let Ok(mut inner @ (Value::Object(_) | Value::Array(_))) =
                    serde_json::from_str::<Value>(text)
            {
                walk(&mut inner, rules, depth + 1);
                *text = inner.to_string();
            } else if let Cow::Owned(clean) = scrub_text(text) {
                *text = clean;
            }
        }
        Value::Array(list) => {
            // A list of pairs, such as headers and tags.
            if let [Value::String(name), secret] = list.as_mut_slice()
                && is_secret(name, rules)
            {
                filter(secret);
                return;
            }
            list.iter_mut().for_each(|v| walk(v, rules, depth + 1));
        }
        Value::Object(object) => {
            for (name, value) in object.iter_mut() {
                if is_secret(name, rules) && !holds_structure(name, value) {
                    filter(value);
                } else if !rules.keep_addresses && ADDRESSES.contains(&name.as_str()) {
                    // Attributes of spans and logs say their type beside the value.
                    shorten(Some(if value.is_object() { &mut value["value"] } else { value }));
                } else {
                    walk(value, rules, depth + 1);
                }
            }
        }
        _ => {}
    }
}

/// Parts of the protocol whose names sound like secrets.
fn holds_structure(name: &str, value: &Value) -> bool {
    name == "cookies" && value.as_array().is_some_and(Vec::is_empty)
}

fn filter(value: &mut Value) {
    match value {
        Value::Null | Value::Bool(_) => {}
        Value::String(text) if text.is_empty() => {}
        other => *other = Value::String(FILTERED.into()),
    }
}

fn each_pair(value: &mut Value, mut with: impl FnMut(&str, &mut Value)) {
    match value {
        Value::Object(object) => object.iter_mut().for_each(|(name, value)| with(name, value)),
        Value::Array(list) => {
            for pair in list {
                if let Some([Value::String(name), value]) = pair.as_array_mut().map(Vec::as_mut_slice) {
                    with(name, value);
                }
            }
        }
        _ => {}
    }
}

fn is_secret(name: &str, rules: &ScrubRules) -> bool {
    if name.len() > 200 {
        return false;
    }
    let own = |names: &[String]| names.iter().any(|n| n.eq_ignore_ascii_case(name));
    let plain = SUSPECT.as_ref().is_some_and(|suspect| name.is_ascii() && !suspect.is_match(name));
    if plain {
        return own(&rules.fields) && !own(&rules.keep);
    }
    let lower = name.to_ascii_lowercase();
    if PLAIN.contains(&lower.as_str()) || rules.keep.contains(&lower) {
        return false;
    }
    if rules.fields.contains(&lower) {
        return true;
    }
    let words = words(name);
    words.iter().any(|w| WORDS.contains(&w.as_str()))
        || words.windows(2).any(|w| PAIRS.iter().any(|(a, b)| w[0] == *a && w[1] == *b))
        || lower.contains("password")
        || lower.contains("apikey")
}

/// The words of a name in camelCase, snake_case or kebab-case, in lower case.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut last_lower = false;
    let mut open = false;
    for c in name.chars() {
        if !c.is_alphanumeric() {
            (open, last_lower) = (false, false);
            continue;
        }
        if !open || (c.is_uppercase() && last_lower) {
            words.push(String::new());
        }
        open = true;
        last_lower = c.is_lowercase() || c.is_ascii_digit();
        if let Some(word) = words.last_mut() {
            word.extend(c.to_lowercase());
        }
    }
    words
}

/// A text without what looks like a secret; the same text if nothing does.
#[must_use]
pub fn scrub_text(text: &str) -> Cow<'_, str> {
    let mut out = Cow::Borrowed(text);
    // Most texts have none of the marks, and need no pattern.
    let suspected = if text.len() < 4 { 0 } else { suspected(text) };
    if suspected != 0 {
        for (_, pattern) in PATTERNS.iter().enumerate().filter(|(n, _)| suspected & (1 << n) != 0) {
            if let Cow::Owned(clean) = pattern.replace_all(&out, format!("${{a}}{FILTERED}${{b}}")) {
                out = Cow::Owned(clean);
            }
        }
    }
    let digits = out.bytes().filter(u8::is_ascii_digit).count();
    if digits >= 13
        && let Some(card) = &*CARD
    {
        let clean = card.replace_all(&out, |found: &regex::Captures<'_>| {
            let digits: Vec<u32> = found[0].chars().filter_map(|c| c.to_digit(10)).collect();
            if luhn(&digits) { FILTERED.to_owned() } else { found[0].to_owned() }
        });
        if let Cow::Owned(clean) = clean
            && clean != *out
        {
            out = Cow::Owned(clean);
        }
    }
    out
}

/// ISO/IEC 7812's check digit.
fn luhn(digits: &[u32]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, d)| match i % 2 {
            1 if d * 2 > 9 => d * 2 - 9,
            1 => d * 2,
            _ => *d,
        })
        .sum();
    sum.is_multiple_of(10) && digits.iter().any(|d| *d != 0)
}

fn shorten(value: Option<&mut Value>) {
    if let Some(Value::String(text)) = value
        && !text.is_empty()
    {
        let parts: Vec<String> = text
            .split(',')
            .map(|part| match part.trim().parse::<IpAddr>() {
                Ok(ip) => anonymous(ip).to_string(),
                Err(_) if part.trim() == "{{auto}}" => part.trim().to_owned(),
                Err(_) => FILTERED.to_owned(),
            })
            .collect();
        *text = parts.join(", ");
    }
}

/// An address without the part that tells one machine from its neighbours: the last 8 bits of IPv4, 80 of IPv6.
#[must_use]
pub fn anonymous(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) & 0xffff_ff00).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !((1 << 80) - 1)).into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_are_shortened_wherever_clients_put_them() {
        let session = scrubbed(json!({"sid": "s", "attrs": {"ip_address": "203.0.113.7"}}));
        assert_eq!(session["attrs"]["ip_address"], "203.0.113.0");
        let spans = scrubbed(json!({"items": [{"attributes": {
            "user.ip_address": {"type": "string", "value": "203.0.113.7"},
            "client.address": {"type": "string", "value": "2001:db8:1:2:3::4"},
            "server.address": {"type": "string", "value": "203.0.113.7"},
        }}]}));
        let attributes = &spans["items"][0]["attributes"];
        assert_eq!(attributes["user.ip_address"]["value"], "203.0.113.0");
        assert_eq!(attributes["client.address"]["value"], "2001:db8:1::");
        assert_eq!(attributes["server.address"]["value"], "203.0.113.7", "not a visitor's");
    }

    fn scrubbed(mut body: Value) -> Value {
        scrub(&mut body, &ScrubRules::default());
        body
    }

    #[test]
    fn secret_fields_lose_their_values_wherever_they_are() {
        let body = scrubbed(json!({
            "request": {"headers": {"Authorization": "Basic x", "X-Api-Key": "k", "Accept": "a"},
                "cookies": {"a": "b"}, "data": "{\"user\":{\"newPassword\":\"p\",\"name\":\"n\"}}",
                "query_string": "page=2&access_token=abc"},
            "exception": {"values": [{"stacktrace": {"frames": [{"vars": {"db_password": "p", "author": "ann"}}]}}]},
            "tags": [["session_id", "x"], ["a", "b"]],
            "extra": {"apiKey": 7, "token_count": 3, "secret": null}
        }));
        assert_eq!(
            body["request"]["headers"],
            json!({"Authorization": FILTERED, "X-Api-Key": FILTERED, "Accept": "a"})
        );
        assert_eq!(body["request"]["cookies"], FILTERED);
        assert_eq!(
            body["request"]["data"],
            json!({"user": {"newPassword": FILTERED, "name": "n"}}).to_string()
        );
        assert_eq!(body["request"]["query_string"], format!("page=2&access_token={FILTERED}"));
        assert_eq!(
            body["exception"]["values"][0]["stacktrace"]["frames"][0]["vars"],
            json!({"db_password": FILTERED, "author": "ann"})
        );
        assert_eq!(body["tags"], json!([["session_id", FILTERED], ["a", "b"]]));
        assert_eq!(body["extra"], json!({"apiKey": FILTERED, "token_count": 3, "secret": null}));
    }

    #[test]
    fn texts_lose_what_looks_like_a_secret() {
        for (text, wanted) in [
            ("postgres://shop:hunter2@db/x failed", "postgres://shop:[Filtered]@db/x failed"),
            ("Authorization: Bearer abcdefghijklmnop", "Authorization: Bearer [Filtered]"),
            ("card 4111 1111 1111 1111 refused", "card [Filtered] refused"),
            ("order 4111 1111 1111 1112 refused", "order 4111 1111 1111 1112 refused"),
            ("GET /a?token=abc&x=1", "GET /a?token=[Filtered]&x=1"),
            (
                "key -----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY----- end",
                "key -----BEGIN RSA PRIVATE KEY-----[Filtered]-----END RSA PRIVATE KEY----- end",
            ),
            ("with ghp_0123456789abcdefghijABCD", "with [Filtered]"),
            ("TOKEN abcdefghijklmnop is no good", "TOKEN [Filtered] is no good"),
            ("größe, pwd=hunter2", "größe, pwd=[Filtered]"),
            ("API-KEY=abc&my_session-id=d", "API-KEY=[Filtered]&my_session-id=[Filtered]"),
            ("sig=a", "sig=[Filtered]"),
            ("nothing to see at 10:30", "nothing to see at 10:30"),
            ("http://x.example/a@b", "http://x.example/a@b"),
        ] {
            assert_eq!(scrub_text(text), wanted);
        }
    }

    #[test]
    fn addresses_are_shortened_unless_kept() {
        let body = json!({"user": {"ip_address": "203.0.113.77"}, "request": {"headers": [["X-Forwarded-For", "203.0.113.77, 2001:db8:1:2::3"]]}});
        let short = scrubbed(body.clone());
        assert_eq!(short["user"]["ip_address"], "203.0.113.0");
        assert_eq!(short["request"]["headers"][0][1], "203.0.113.0, 2001:db8:1::");
        let mut kept = body.clone();
        scrub(&mut kept, &ScrubRules { keep_addresses: true, ..ScrubRules::default() });
        assert_eq!(kept, body);
        let mut own = json!({"colour": "red", "token": "x"});
        scrub(
            &mut own,
            &ScrubRules { fields: vec!["colour".into()], keep: vec!["token".into()], keep_addresses: false },
        );
        assert_eq!(own, json!({"colour": FILTERED, "token": "x"}));
    }

    #[test]
    fn depth_has_an_end() {
        let mut body = json!("x");
        for _ in 0..200 {
            body = json!([body]);
        }
        assert!(scrubbed(body).to_string().contains("[too deep]"));
    }
}
