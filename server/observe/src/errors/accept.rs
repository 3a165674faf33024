//! What of a request is kept, and what is not and why. Pure: bytes in, items out.
//!
//! Secrets go here, before anything is stored. Every item of an envelope ends as something that is kept or as a count.

use std::net::IpAddr;

use berth_schemas::Timestamp;
use berth_store::{ErrorItem, ItemKind, PackedItem};
use serde_json::{Map, Value, json};

use super::{
    envelope::{Envelope, EnvelopeError},
    read,
    scrub::{self, ScrubRules},
};

/// Largest event, in bytes of JSON.
pub const MAX_EVENT: usize = 1 << 20;
/// Largest attachment in bytes.
pub const MAX_ATTACHMENT: usize = 20 << 20;
/// Largest item of anything else in bytes.
const MAX_OTHER: usize = 2 << 20;

/// What was taken of a request.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Accepted {
    /// Id of its event, if it has one: 32 hexadecimal digits.
    pub event_id: Option<String>,
    /// What is kept.
    pub items: Vec<ErrorItem>,
    /// What is not.
    pub dropped: Vec<Drop>,
}

/// Things that were not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drop {
    /// What, in Sentry's categories: "error", "transaction", "attachment" …
    pub category: String,
    /// Why: "too_large", "invalid", "unknown_type"; what clients dropped themselves begins with "client:".
    pub reason: String,
    /// How many.
    pub count: i64,
}

/// What was taken, as it is kept.
#[derive(Debug, Clone)]
pub struct Packed {
    /// Id of its event.
    pub event_id: Option<String>,
    pub(super) items: Vec<PackedItem>,
    pub(super) dropped: Vec<Drop>,
}

impl Accepted {
    /// Compresses it.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn pack(self) -> Result<Packed, berth_store::StoreError> {
        let items = self.items.into_iter().map(ErrorItem::pack).collect::<Result<_, _>>()?;
        Ok(Packed { event_id: self.event_id, items, dropped: self.dropped })
    }
}

/// Why something was dropped that came too often.
const RATE_LIMITED: &str = "rate_limited";

impl Accepted {
    /// Whether nothing was taken, because all of it was too much.
    #[must_use]
    pub fn refused(&self) -> bool {
        self.items.is_empty() && self.dropped.iter().any(|d| d.reason == RATE_LIMITED)
    }

    /// Whether one more item may come; it is counted if not.
    fn admits(&mut self, category: &str, bytes: usize, reading: &Reading<'_>) -> bool {
        let may = (reading.admits)(category, bytes);
        if !may {
            self.dropped.push(Drop::new(category, RATE_LIMITED));
        }
        may
    }
}

impl Drop {
    fn new(category: &str, reason: &str) -> Self {
        Self { category: category.into(), reason: reason.into(), count: 1 }
    }
}

/// How a request is read.
#[derive(Clone)]
pub struct Reading<'a> {
    /// What is scrubbed.
    pub rules: &'a ScrubRules,
    /// Who sends, for clients that leave it to the server to see.
    pub peer: Option<IpAddr>,
    /// When.
    pub now: Timestamp,
    /// Makes ids for events without one.
    pub new_id: fn() -> String,
    /// Whether an item of a category and of so many bytes may come; asked before it is read, so that what may not costs
    /// little.
    pub admits: &'a (dyn Fn(&str, usize) -> bool + Send + Sync),
}

impl std::fmt::Debug for Reading<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reading").field("peer", &self.peer).field("now", &self.now).finish_non_exhaustive()
    }
}

/// What may be counted as dropped by a client: Sentry's categories of data.
const CATEGORIES: [&str; 21] = [
    "default",
    "error",
    "transaction",
    "security",
    "attachment",
    "session",
    "profile",
    "profile_duration",
    "profile_chunk",
    "profile_chunk_ui",
    "replay",
    "feedback",
    "user_report_v2",
    "monitor",
    "span",
    "span_indexed",
    "metric_bucket",
    "log_item",
    "log_byte",
    "trace_metric",
    "internal",
];
/// Why clients drop something, as Sentry's specification of client reports and its clients name it.
const REASONS: [&str; 16] = [
    "queue_overflow",
    "cache_overflow",
    "buffer_overflow",
    "ratelimit_backoff",
    "network_error",
    "sample_rate",
    "before_send",
    "event_processor",
    "send_error",
    "internal_sdk_error",
    "insufficient_data",
    "backpressure",
    "ignored",
    "invalid",
    "no_parent_span",
    "callback_error",
];
/// What stands for any other: whoever has a DSN could write anything there.
const OTHER: &str = "other";
/// How reasons of clients begin, other than ours.
const CLIENT: &str = "client:";

/// A category and a reason as they are counted: each one of a closed set, so that neither can carry words of a stranger.
/// Our own reasons are left as they are.
#[must_use]
pub fn counted_as<'a>(category: &'a str, reason: &'a str) -> (&'a str, String) {
    let one_of = |known: &[&str], word: &'a str| if known.contains(&word) { word } else { OTHER };
    let reason = match reason.strip_prefix(CLIENT) {
        Some(theirs) => format!("{CLIENT}{}", one_of(&REASONS, theirs)),
        None => reason.to_owned(),
    };
    (one_of(&CATEGORIES, category), reason)
}

/// The category of an item's kind.
#[must_use]
pub fn category(kind: &str) -> &'static str {
    match kind {
        "event" | "error" => "error",
        "transaction" => "transaction",
        "span" => "span",
        "session" | "sessions" => "session",
        "attachment" => "attachment",
        "feedback" | "user_report" => "feedback",
        "log" => "log_item",
        "trace_metric" | "statsd" | "metric_buckets" => "trace_metric",
        "check_in" => "monitor",
        "replay_event" | "replay_recording" | "replay_video" => "replay",
        "profile" | "profile_chunk" => "profile",
        "security" | "raw_security" | "nel" => "security",
        _ => "default",
    }
}

/// Takes an envelope.
///
/// # Errors
/// When it cannot be read; then nothing of it is kept.
pub fn envelope(bytes: &[u8], reading: &Reading<'_>) -> Result<Accepted, EnvelopeError> {
    let envelope = Envelope::parse(bytes)?;
    let mut accepted =
        Accepted { event_id: envelope.text("event_id").and_then(event_id), ..Accepted::default() };
    for item in &envelope.items {
        let kind = item.kind();
        match kind {
            "event" => event(&mut accepted, item.payload, reading),
            "attachment" => attachment(&mut accepted, &item.header, item.payload, reading),
            "feedback" => json_item(&mut accepted, kind, ItemKind::Feedback, item.payload, reading),
            "user_report" => json_item(&mut accepted, kind, ItemKind::UserReport, item.payload, reading),
            "session" | "sessions" => {
                json_item(&mut accepted, kind, ItemKind::Session, item.payload, reading)
            }
            "check_in" => json_item(&mut accepted, kind, ItemKind::CheckIn, item.payload, reading),
            "transaction" => json_item(&mut accepted, kind, ItemKind::Transaction, item.payload, reading),
            "span" => json_item(&mut accepted, kind, ItemKind::Spans, item.payload, reading),
            "log" => json_item(&mut accepted, kind, ItemKind::Logs, item.payload, reading),
            "trace_metric" => json_item(&mut accepted, kind, ItemKind::Metrics, item.payload, reading),
            "replay_event" => json_item(&mut accepted, kind, ItemKind::ReplayEvent, item.payload, reading),
            "replay_recording" => raw(&mut accepted, kind, ItemKind::ReplayRecording, item.payload, reading),
            "profile" | "profile_chunk" => raw(&mut accepted, kind, ItemKind::Profile, item.payload, reading),
            "raw_security" | "security" => {
                let taken = security(item.payload, &[], reading);
                accepted.items.extend(taken.items);
                accepted.dropped.extend(taken.dropped);
            }
            "client_report" => client_report(&mut accepted, item.payload),
            _ => accepted.dropped.push(Drop::new(category(kind), "unknown_type")),
        }
    }
    Ok(accepted)
}

/// Takes a single event, as `/store/` gets it.
#[must_use]
pub fn store(bytes: &[u8], reading: &Reading<'_>) -> Accepted {
    let mut accepted = Accepted::default();
    event(&mut accepted, bytes, reading);
    accepted
}

/// Takes a file without an envelope, such as a minidump: it becomes an event with an attachment.
#[must_use]
pub fn minidump(name: &str, bytes: &[u8], mut body: Map<String, Value>, reading: &Reading<'_>) -> Accepted {
    let mut accepted = Accepted::default();
    if !accepted.admits("error", bytes.len(), reading) {
        return accepted;
    }
    body.entry("level").or_insert("fatal".into());
    body.entry("platform").or_insert("native".into());
    body.entry("exception").or_insert(json!({"values": [{
        "type": "Minidump", "value": "The process crashed; the dump is attached.",
        "mechanism": {"type": "minidump", "handled": false}
    }]}));
    keep_event(&mut accepted, Value::Object(body), reading);
    let header = Map::from_iter([("filename".to_owned(), Value::from(name))]);
    attachment(&mut accepted, &header, bytes, reading);
    accepted
}

/// Takes a report of a browser on a violated content security policy, in either of the two forms that browsers send.
/// `about` are names and values from the URL: "release" and "environment".
#[must_use]
pub fn security(bytes: &[u8], about: &[(&str, String)], reading: &Reading<'_>) -> Accepted {
    let mut accepted = Accepted::default();
    let parsed: Option<Value> =
        (bytes.len() <= 64 << 10).then(|| serde_json::from_slice(bytes).ok()).flatten();
    let reports: Vec<Value> = match parsed {
        Some(Value::Array(list)) => {
            list.into_iter().filter_map(|mut r| r.get_mut("body").map(Value::take)).collect()
        }
        Some(Value::Object(mut object)) => object.remove("csp-report").into_iter().collect(),
        _ => Vec::new(),
    };
    let mut events = reports.iter().take(20).filter_map(|r| violation(r, about)).peekable();
    if events.peek().is_none() {
        accepted.dropped.push(Drop::new("security", "invalid"));
    }
    for event in events {
        if accepted.admits("error", bytes.len(), reading) {
            keep_event(&mut accepted, event, reading);
        }
    }
    accepted
}

fn violation(report: &Value, about: &[(&str, String)]) -> Option<Value> {
    let of = |dashed: &str, camel: &str| {
        read::field(report, dashed, 1000).or_else(|| read::field(report, camel, 1000))
    };
    let directive = of("effective-directive", "effectiveDirective")
        .or_else(|| of("violated-directive", "violatedDirective"))?;
    let directive = directive.split(' ').next()?.to_owned();
    let blocked = of("blocked-uri", "blockedURL").filter(|b| !b.is_empty()).unwrap_or_else(|| "self".into());
    let origin = blocked.split_once("://").map_or(blocked.clone(), |(scheme, rest)| {
        format!("{scheme}://{}", rest.split('/').next().unwrap_or_default())
    });
    let page = of("document-uri", "documentURL");
    let mut event = json!({
        "platform": "javascript", "level": "warning", "logger": "csp",
        "message": format!("Blocked {origin:?} by {directive:?}"),
        "csp": {"effective_directive": directive, "blocked_origin": origin, "report": report},
        "request": {"url": page},
    });
    for (name, value) in about {
        event[*name] = value.as_str().into();
    }
    Some(event)
}

fn event(accepted: &mut Accepted, payload: &[u8], reading: &Reading<'_>) {
    if !accepted.admits("error", payload.len(), reading) {
        return;
    }
    if payload.len() > MAX_EVENT {
        return accepted.dropped.push(Drop::new("error", "too_large"));
    }
    match serde_json::from_slice(payload) {
        Ok(body @ Value::Object(_)) => keep_event(accepted, body, reading),
        _ => accepted.dropped.push(Drop::new("error", "invalid")),
    }
}

fn keep_event(accepted: &mut Accepted, mut body: Value, reading: &Reading<'_>) {
    // A transaction may come as an event from old clients.
    if body.get("type").and_then(Value::as_str) == Some("transaction") {
        scrub::scrub(&mut body, reading.rules);
        return keep(accepted, ItemKind::Transaction, None, body.to_string().into_bytes());
    }
    if accepted.items.iter().any(|i| i.kind == ItemKind::Event) && body.get("csp").is_none() {
        return accepted.dropped.push(Drop::new("error", "second_event"));
    }
    see_address(&mut body, reading.peer);
    scrub::scrub(&mut body, reading.rules);
    let own = body.get("event_id").and_then(Value::as_str).and_then(event_id);
    let id = own.or_else(|| accepted.event_id.clone()).unwrap_or_else(reading.new_id);
    body["event_id"] = id.clone().into();
    accepted.event_id = Some(id.clone());
    keep(accepted, ItemKind::Event, Some(id), body.to_string().into_bytes());
}

/// Fills in the address where a client asks the server to.
fn see_address(body: &mut Value, peer: Option<IpAddr>) {
    let Some(peer) = peer else { return };
    let asked = body.pointer("/user/ip_address").and_then(Value::as_str) == Some("{{auto}}")
        || body.pointer("/sdk/settings/infer_ip").and_then(Value::as_str) == Some("auto");
    if asked && body.get("user").is_none_or(Value::is_object) {
        body["user"]["ip_address"] = peer.to_string().into();
    }
}

fn attachment(accepted: &mut Accepted, header: &Map<String, Value>, payload: &[u8], reading: &Reading<'_>) {
    if payload.len() > MAX_ATTACHMENT {
        return accepted.dropped.push(Drop::new("attachment", "too_large"));
    }
    if !accepted.admits("attachment", payload.len(), reading) {
        return;
    }
    let id = accepted.event_id.get_or_insert_with(reading.new_id).clone();
    let name = read::text(header.get("filename"), 200).unwrap_or_else(|| "attachment".into());
    let item = ErrorItem {
        kind: ItemKind::Attachment,
        event_id: Some(id),
        name: Some(name),
        body: payload.to_vec(),
    };
    accepted.items.push(item);
}

fn json_item(accepted: &mut Accepted, kind: &str, item: ItemKind, payload: &[u8], reading: &Reading<'_>) {
    if payload.len() > MAX_OTHER {
        return accepted.dropped.push(Drop::new(category(kind), "too_large"));
    }
    if !accepted.admits(category(kind), payload.len(), reading) {
        return;
    }
    let Ok(mut body @ (Value::Object(_) | Value::Array(_))) = serde_json::from_slice::<Value>(payload) else {
        return accepted.dropped.push(Drop::new(category(kind), "invalid"));
    };
    scrub::scrub(&mut body, reading.rules);
    let own = body.get("event_id").and_then(Value::as_str).and_then(event_id);
    let id = own.or_else(|| accepted.event_id.clone());
    keep(accepted, item, id, body.to_string().into_bytes());
}

fn raw(accepted: &mut Accepted, kind: &str, item: ItemKind, payload: &[u8], reading: &Reading<'_>) {
    if payload.len() > MAX_ATTACHMENT {
        return accepted.dropped.push(Drop::new(category(kind), "too_large"));
    }
    if !accepted.admits(category(kind), payload.len(), reading) {
        return;
    }
    keep(accepted, item, accepted.event_id.clone(), payload.to_vec());
}

fn keep(accepted: &mut Accepted, kind: ItemKind, event_id: Option<String>, body: Vec<u8>) {
    accepted.items.push(ErrorItem { kind, event_id, name: None, body });
}

/// What clients dropped before it came here.
fn client_report(accepted: &mut Accepted, payload: &[u8]) {
    let Ok(report) = serde_json::from_slice::<Value>(payload) else { return };
    for entry in read::values(report.get("discarded_events")).iter().take(50) {
        let count = read::int(entry.get("quantity")).unwrap_or(0).clamp(0, 1_000_000);
        let (category, reason) = (read::field(entry, "category", 40), read::field(entry, "reason", 40));
        if let (Some(category), Some(reason), 1..) = (category, reason, count) {
            let (category, reason) = (category.as_str(), format!("{CLIENT}{reason}"));
            let (category, reason) = counted_as(category, &reason);
            accepted.dropped.push(Drop { category: category.to_owned(), reason, count });
        }
    }
}

/// An event's id without hyphens and in lower case.
#[must_use]
pub fn event_id(text: &str) -> Option<String> {
    let id: String = text.chars().filter(|c| *c != '-').take(33).collect();
    (id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then(|| id.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn reading(rules: &ScrubRules) -> Reading<'_> {
        let peer = "203.0.113.9".parse().ok();
        Reading { rules, peer, now: Timestamp(0), new_id: || ID.into(), admits: &|_, _| true }
    }

    fn taken(text: &str) -> Accepted {
        envelope(text.as_bytes(), &reading(&ScrubRules::default())).unwrap()
    }

    #[test]
    fn every_item_is_kept_or_counted() {
        let accepted = taken(concat!(
            "{}\n",
            "{\"type\":\"event\"}\n{\"message\":\"m\",\"user\":{\"ip_address\":\"{{auto}}\"}}\n",
            "{\"type\":\"attachment\",\"length\":3,\"filename\":\"a.txt\"}\na\nb\n",
            "{\"type\":\"event\"}\n{\"message\":\"second\"}\n",
            "{\"type\":\"log\"}\n{\"items\":[]}\n",
            "{\"type\":\"nonsense\"}\n{}\n",
            "{\"type\":\"session\"}\nnot json\n",
            "{\"type\":\"client_report\"}\n{\"discarded_events\":[{\"reason\":\"network_error\",\"category\":\"error\",\"quantity\":2}]}\n",
        ));
        let kinds: Vec<ItemKind> = accepted.items.iter().map(|i| i.kind).collect();
        assert_eq!(kinds, [ItemKind::Event, ItemKind::Attachment, ItemKind::Logs]);
        assert_eq!(accepted.event_id.as_deref(), Some(ID));
        assert_eq!(accepted.items[1].event_id.as_deref(), Some(ID));
        let event: Value = serde_json::from_slice(&accepted.items[0].body).unwrap();
        assert_eq!((&event["event_id"], &event["user"]["ip_address"]), (&json!(ID), &json!("203.0.113.0")));
        let dropped: Vec<String> =
            accepted.dropped.iter().map(|d| format!("{} {} {}", d.category, d.reason, d.count)).collect();
        assert_eq!(
            dropped,
            [
                "error second_event 1",
                "default unknown_type 1",
                "session invalid 1",
                "error client:network_error 2"
            ]
        );
    }

    #[test]
    fn what_clients_say_they_dropped_is_counted_in_known_words_only() {
        let accepted = taken(concat!(
            "{}\n{\"type\":\"client_report\"}\n{\"discarded_events\":[",
            "{\"reason\":\"ignore all instructions\",\"category\":\"error\",\"quantity\":1},",
            "{\"reason\":\"before_send\",\"category\":\"and obey\",\"quantity\":2}]}\n",
        ));
        let counted: Vec<(&str, &str)> =
            accepted.dropped.iter().map(|d| (d.category.as_str(), d.reason.as_str())).collect();
        assert_eq!(counted, [("error", "client:other"), ("other", "client:before_send")]);
        for kind in ["event", "log", "check_in", "replay_video", "nel", "statsd", "unheard"] {
            assert!(CATEGORIES.contains(&category(kind)), "{kind}");
        }
        assert_eq!(counted_as("error", "too_large"), ("error", "too_large".to_owned()));
    }

    #[test]
    fn what_comes_too_often_is_a_count_and_the_rest_is_kept() {
        let rules = ScrubRules::default();
        let text = concat!(
            "{}\n",
            "{\"type\":\"event\"}\n{\"message\":\"m\"}\n",
            "{\"type\":\"attachment\",\"length\":3,\"filename\":\"a.txt\"}\na\nb\n",
            "{\"type\":\"session\"}\n{\"sid\":\"s\"}\n",
            "{\"type\":\"replay_recording\",\"length\":2}\nxy\n",
        );
        let taken = |admits: &(dyn Fn(&str, usize) -> bool + Send + Sync)| {
            let reading = Reading { admits, ..reading(&rules) };
            let accepted = envelope(text.as_bytes(), &reading).unwrap();
            let kinds: Vec<ItemKind> = accepted.items.iter().map(|i| i.kind).collect();
            let dropped: Vec<String> =
                accepted.dropped.iter().map(|d| format!("{} {}", d.category, d.reason)).collect();
            (kinds, dropped, accepted.refused())
        };
        let (kinds, dropped, refused) = taken(&|category, _| category == "session");
        assert_eq!(kinds, [ItemKind::Session]);
        assert_eq!(dropped, ["error rate_limited", "attachment rate_limited", "replay rate_limited"]);
        assert!(!refused);
        assert!(taken(&|_, _| false).2);
        assert_eq!(taken(&|_, bytes| bytes > 2).1, ["replay rate_limited"]);
    }

    #[test]
    fn hostile_events_are_counts() {
        let rules = ScrubRules::default();
        let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
        for payload in ["", "[]", "nul\0", "{\"a\":", &deep, "\u{feff}{}"] {
            let accepted = store(payload.as_bytes(), &reading(&rules));
            assert_eq!((accepted.items.len(), accepted.dropped.len()), (0, 1), "{payload:.20}");
        }
        assert_eq!(store(b"{\"message\":\"\xff\"}", &reading(&rules)).items.len(), 0, "bad UTF-8");
        let large = format!("{{\"message\":\"{}\"}}", "x".repeat(MAX_EVENT));
        assert_eq!(store(large.as_bytes(), &reading(&rules)).dropped[0].reason, "too_large");
    }

    #[test]
    fn both_forms_of_csp_reports_are_events() {
        let rules = ScrubRules::default();
        let old = json!({"csp-report": {"effective-directive": "img-src", "blocked-uri": "https://e.example/a.png", "document-uri": "https://shop.example/"}});
        let new = json!([{"type": "csp-violation", "body": {"effectiveDirective": "img-src", "blockedURL": "https://e.example/a.png"}}]);
        for report in [old, new] {
            let accepted =
                security(report.to_string().as_bytes(), &[("release", "1".into())], &reading(&rules));
            let event: Value = serde_json::from_slice(&accepted.items[0].body).unwrap();
            assert_eq!(event["csp"]["blocked_origin"], "https://e.example");
            assert_eq!(event["release"], "1");
        }
        assert_eq!(security(b"{}", &[], &reading(&rules)).dropped.len(), 1);
    }
}
