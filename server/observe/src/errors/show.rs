//! An event as people and assistants read it: the app's own frames with their code, the innermost first.

use berth_schemas::{
    EnvironmentName, IssueRef, Timestamp, Untrusted,
    issue::{CrumbShown, EventDetail, ExceptionShown, FrameShown, RequestShown, TagShown},
};
use serde_json::Value;

use super::{
    event::{Crumb, Event, Exception, Frame, User},
    read::{cut, field},
};

/// Frames of an exception that are shown.
const FRAMES: usize = 12;
/// Frames that are shown with the lines around.
const WITH_CODE: usize = 5;
/// Exceptions that are shown.
const EXCEPTIONS: usize = 6;
/// Breadcrumbs that are shown.
const CRUMBS: usize = 15;

/// What is known of an event besides what it says itself.
#[derive(Debug, Clone)]
pub struct About {
    /// Its id.
    pub event_id: String,
    /// Its issue.
    pub issue: IssueRef,
    /// When it happened.
    pub at: Timestamp,
    /// Its environment.
    pub environment: EnvironmentName,
}

/// Shows an event.
#[must_use]
pub fn detail(about: About, event: &Event, body: &Value) -> EventDetail {
    let mut tags: Vec<TagShown> = event.tags.iter().map(|(name, value)| tag(name, value)).collect();
    tags.extend(event.about.iter().map(|(name, value)| tag(name, value)));
    tags.extend(event.server_name.iter().map(|name| tag("server_name", name)));
    let mut exceptions: Vec<ExceptionShown> =
        event.exceptions.iter().rev().take(EXCEPTIONS).map(exception).collect();
    if exceptions.is_empty() && !event.stack.is_empty() {
        let (frames, frames_left_out) = frames(&event.stack);
        exceptions.push(ExceptionShown { kind: None, value: None, handled: None, frames, frames_left_out });
    }
    let crumbs = &event.breadcrumbs[event.breadcrumbs.len().saturating_sub(CRUMBS)..];
    EventDetail {
        event: about.event_id,
        issue: about.issue,
        at: about.at,
        level: event.level,
        environment: about.environment,
        release: Untrusted::maybe(event.release.clone()),
        platform: event.platform.as_str().into(),
        sdk: Untrusted::maybe(event.sdk.clone()),
        transaction: Untrusted::maybe(event.transaction.clone()),
        message: Untrusted::maybe(event.message.as_ref().map(|m| cut(&m.formatted, 2000).to_owned())),
        exceptions,
        request: event.request.as_ref().map(|r| RequestShown {
            method: Untrusted::maybe(r.method.clone()),
            url: Untrusted::maybe(r.url.clone()),
        }),
        user: Untrusted::maybe(user(&event.user)),
        tags,
        breadcrumbs: crumbs.iter().map(crumb).collect(),
        trace: event.trace_id.clone(),
        replay: replay(body),
        attachments: Vec::new(),
        map_problems: Vec::new(),
    }
}

fn tag(name: &str, value: &str) -> TagShown {
    TagShown { name: name.into(), value: value.into() }
}

/// A user in a line.
#[must_use]
pub fn user(user: &User) -> Option<String> {
    let parts = [&user.id, &user.email, &user.username, &user.ip].into_iter().flatten();
    let parts: Vec<&str> = parts.map(String::as_str).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn replay(body: &Value) -> Option<String> {
    let context = body.pointer("/contexts/replay").and_then(|r| field(r, "replay_id", 36));
    let tag = || {
        super::read::pairs(body.get("tags"))
            .into_iter()
            .find(|(k, _)| k == "replayId")?
            .1
            .as_str()
            .map(str::to_owned)
    };
    context.or_else(tag).filter(|id| id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-'))
}

fn exception(exception: &Exception) -> ExceptionShown {
    let (frames, frames_left_out) = frames(&exception.stack);
    ExceptionShown {
        kind: Untrusted::maybe(exception.kind.clone()),
        value: Untrusted::maybe(exception.value.as_deref().map(|v| cut(v, 2000).to_owned())),
        handled: exception.handled,
        frames,
        frames_left_out,
    }
}

/// The frames that say most, the innermost first: where it was raised, and the app's own.
fn frames(stack: &[Frame]) -> (Vec<FrameShown>, usize) {
    let own = stack.iter().filter(|f| f.in_app).count();
    let chosen: Vec<&Frame> = stack
        .iter()
        .rev()
        .enumerate()
        .filter(|(i, f)| *i == 0 || f.in_app || own == 0)
        .map(|(_, f)| f)
        .take(FRAMES)
        .collect();
    let left_out = stack.len() - chosen.len();
    let mut with_code = WITH_CODE;
    let shown = chosen
        .into_iter()
        .map(|f| {
            let code = code(f).filter(|_| with_code > 0);
            with_code -= usize::from(code.is_some());
            FrameShown { place: place(f).into(), in_app: f.in_app, code: Untrusted::maybe(code) }
        })
        .collect();
    (shown, left_out)
}

/// `total (src/cart.ts:12:5)`.
#[must_use]
pub fn place(frame: &Frame) -> String {
    let file =
        frame.filename.as_deref().or(frame.abs_path.as_deref()).or(frame.module.as_deref()).unwrap_or("?");
    let line = frame.line.map(|l| format!(":{l}")).unwrap_or_default();
    let column = frame.column.filter(|_| frame.line.is_some()).map(|c| format!(":{c}")).unwrap_or_default();
    match &frame.function {
        Some(function) => format!("{function} ({file}{line}{column})"),
        None => format!("{file}{line}{column}"),
    }
}

/// The lines around, the one in question marked.
fn code(frame: &Frame) -> Option<String> {
    let line = frame.code.as_deref().filter(|c| !c.trim().is_empty())?;
    // A minified line says nothing, and a lot of it.
    if line.len() > 300 && !frame.mapped {
        return None;
    }
    let mut text = String::new();
    for before in frame.before.iter().rev().take(3).rev() {
        text.push_str(&format!("  {}\n", cut(before, 200)));
    }
    text.push_str(&format!("> {}", cut(line, 200)));
    for after in frame.after.iter().take(3) {
        text.push_str(&format!("\n  {}", cut(after, 200)));
    }
    Some(text)
}

fn crumb(crumb: &Crumb) -> CrumbShown {
    let mut text = crumb.category.clone().unwrap_or_default();
    if let Some(level) = crumb.level.as_deref().filter(|l| *l != "info") {
        text.push_str(&format!(" [{level}]"));
    }
    if let Some(message) = &crumb.message {
        text.push_str(&format!(" {message}"));
    }
    if let Some(data) = &crumb.data {
        let of = |key: &str| field(data, key, 200);
        match (of("method"), of("url"), of("status_code")) {
            (method, Some(url), status) => {
                let (method, status) =
                    (method.unwrap_or_default(), status.map(|s| format!(" → {s}")).unwrap_or_default());
                text.push_str(&format!(" {method} {url}{status}"));
            }
            _ => text.push_str(&format!(" {}", cut(&data.to_string(), 200))),
        }
    }
    CrumbShown { at: crumb.at, text: cut(text.trim(), 400).into() }
}
