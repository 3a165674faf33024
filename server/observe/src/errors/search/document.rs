//! What is indexed of an event: its fields as words `name:value`, and its texts.

use berth_store::model::AppId;

use crate::errors::event::{Event, Frame};

/// Longest value that is indexed as a whole, in bytes.
const MAX_VALUE: usize = 300;
/// Longest text of a document in bytes.
const MAX_TEXT: usize = 16 << 10;
/// Frames of a stack whose words are indexed, the innermost ones.
const TEXT_FRAMES: usize = 30;
/// The app's own frames of a stack that can be searched by field, the innermost ones.
const FIELD_FRAMES: usize = 10;
/// The same of all stacks but the main one together.
const OTHER_FRAMES: usize = 30;

/// What is indexed of an event.
#[derive(Debug, Clone)]
pub(super) struct Entry<'e> {
    /// Its row.
    pub(super) row: i64,
    /// Row of its issue.
    pub(super) issue: i64,
    /// Its app.
    pub(super) app: AppId,
    /// Name of its environment at Berth.
    pub(super) environment: &'e str,
    /// Its id.
    pub(super) event_id: &'e str,
    /// When it happened, in microseconds.
    pub(super) at: i64,
    /// The event.
    pub(super) event: &'e Event,
}

/// `name:value`, the value in lower case and not too long.
pub(super) fn pair(name: &str, value: &str) -> String {
    format!("{name}:{}", crate::errors::read::cut(value, MAX_VALUE).to_lowercase())
}

/// Every field of an event that can be searched by name.
pub(super) fn pairs(entry: &Entry<'_>) -> Vec<(String, String)> {
    let event = entry.event;
    let mut pairs: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, value: Option<&str>| {
        if let Some(value) = value.filter(|v| !v.is_empty()) {
            pairs.push((name.to_owned(), value.to_owned()));
        }
    };
    add("level", Some(event.level.as_str()));
    add("environment", Some(entry.environment));
    add("id", Some(entry.event_id));
    add("platform", Some(&event.platform));
    add("release", event.release.as_deref());
    add("dist", event.dist.as_deref());
    add("transaction", event.transaction.as_deref());
    add("logger", event.logger.as_deref());
    add("server_name", event.server_name.as_deref());
    add("sdk", event.sdk.as_deref());
    add("trace", event.trace_id.as_deref());
    add("culprit", event.culprit().as_deref());
    add("user.id", event.user.id.as_deref());
    add("user.email", event.user.email.as_deref());
    add("user.username", event.user.username.as_deref());
    add("user.ip", event.user.ip.as_deref());
    if let Some(request) = &event.request {
        add("url", request.url.as_deref());
        add("method", request.method.as_deref());
    }
    if let Some(handled) = event.handled() {
        add("handled", Some(if handled { "true" } else { "false" }));
    }
    for exception in &event.exceptions {
        add("type", exception.kind.as_deref());
        add("mechanism", exception.mechanism.as_deref());
    }
    for (name, value) in &event.about {
        add(name, Some(value));
        // `browser:chrome` finds "Chrome 149", too.
        let plain = value.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.').trim_end();
        if plain != value {
            add(name, Some(plain));
        }
    }
    let own = |stack| -> Vec<&Frame> {
        let frames: std::slice::Iter<'_, Frame> = <[Frame]>::iter(stack);
        frames.rev().filter(|f| f.in_app).take(FIELD_FRAMES).collect()
    };
    let others = event.other_stacks().flat_map(own).take(OTHER_FRAMES);
    for frame in own(event.main_stack()).into_iter().chain(others) {
        add("function", frame.function.as_deref());
        add("file", frame.filename.as_deref());
        add("module", frame.module.as_deref());
    }
    for (name, value) in &event.tags {
        add(name, Some(value));
    }
    pairs
}

/// All words of an event.
pub(super) fn text(event: &Event) -> String {
    let mut text = String::new();
    let mut add = |part: Option<&str>| {
        if let Some(part) = part.filter(|_| text.len() < MAX_TEXT) {
            text.push_str(crate::errors::read::cut(part, MAX_TEXT));
            text.push('\n');
        }
    };
    for exception in event.exceptions.iter().rev() {
        add(exception.kind.as_deref());
        add(exception.value.as_deref());
    }
    if let Some(message) = &event.message {
        add(Some(&message.formatted));
    }
    add(event.transaction.as_deref());
    for frame in event.main_stack().iter().rev().take(TEXT_FRAMES) {
        add(frame.function.as_deref());
        add(frame.filename.as_deref());
        add(frame.code.as_deref().filter(|c| c.len() < 200));
    }
    add(event.request.as_ref().and_then(|r| r.url.as_deref()));
    for crumb in event.breadcrumbs.iter().rev().take(30) {
        add(crumb.message.as_deref());
        add(crumb.url());
    }
    for (_, value) in &event.tags {
        add(Some(value));
    }
    // Last, because a long chain could leave no room for the rest.
    for frame in event.other_stacks().flat_map(|stack| stack.iter().rev().take(TEXT_FRAMES)) {
        add(frame.function.as_deref());
        add(frame.filename.as_deref());
    }
    text
}
