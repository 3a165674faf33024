//! Which events are the same issue.
//!
//! An event gets a strict key and mostly a loose one. The strict key is what Berth would say two events are the same
//! by: the client's fingerprint, else the types of the chain and the app's own frames without anything that a rebuild,
//! a deployment or an inserted line changes. The loose key (type, innermost own frame, message without parameters)
//! catches what a changed caller tears apart: a new strict key whose loose key is known joins the issue.
//!
//! [`VERSION`] is part of every key. Rules that change get a new version, so that old keys go on to mean what they did.

use std::collections::HashSet;

use berth_schemas::issue::GroupingReason;
use sha2::{Digest, Sha256};

use super::{
    event::{Event, Exception, Frame},
    parameters::parameterized,
};

/// Version of these rules.
pub const VERSION: &str = "g1";
/// Frames of packages that count where there are none of the app's own.
const FOREIGN_FRAMES: usize = 3;
/// Own frames of one stack that count, the innermost.
const OWN_FRAMES: usize = 30;

/// By what an event is grouped.
#[derive(Debug, Clone, PartialEq)]
pub struct Grouping {
    /// Key that decides; 32 hexadecimal digits.
    pub strict: String,
    /// Key that joins, if there is one.
    pub loose: Option<String>,
    /// What went into the strict key, in words.
    pub reasons: Vec<GroupingReason>,
}

/// Groups an event of `app`, a row id: keys of different apps are never equal.
#[must_use]
pub fn group(app: i64, event: &Event) -> Grouping {
    let parts = Parts::of(event);
    let custom: Vec<&str> = event.fingerprint.iter().map(String::as_str).filter(|p| !p.is_empty()).collect();
    if custom.is_empty() || (custom.len() == 1 && is_default(custom[0])) {
        return Grouping {
            strict: key(app, "strict", &parts.strict),
            loose: parts.loose.as_ref().map(|p| key(app, "loose", p)),
            reasons: parts.reasons,
        };
    }
    let mut strict = Vec::new();
    let mut reasons = Vec::new();
    for part in custom {
        if is_default(part) {
            strict.extend(parts.strict.iter().cloned());
            reasons.extend(parts.reasons.iter().cloned());
        } else {
            let filled = fill(part, event);
            reasons.push(reason("fingerprint", &filled));
            strict.push(filled);
        }
    }
    Grouping { strict: key(app, "fingerprint", &strict), loose: None, reasons }
}

fn is_default(part: &str) -> bool {
    let inner = part.trim().strip_prefix("{{").and_then(|p| p.strip_suffix("}}"));
    inner.is_some_and(|p| p.trim() == "default")
}

/// A part of a fingerprint with its variable, such as `{{ transaction }}`, replaced.
fn fill(part: &str, event: &Event) -> String {
    let inner = part.trim().strip_prefix("{{").and_then(|p| p.strip_suffix("}}")).map(str::trim);
    let Some(name) = inner else { return part.to_owned() };
    let exception = event.outermost();
    let frame = || event.main_stack().last();
    let value = match name {
        "type" | "error.type" => exception.and_then(|e| e.kind.clone()),
        "value" | "error.value" => exception.and_then(|e| e.value.clone()),
        "message" => event.message.as_ref().map(|m| m.formatted.clone()).or_else(|| exception?.value.clone()),
        "function" | "stack.function" => frame().and_then(|f| f.function.clone()),
        "module" | "stack.module" => frame().and_then(|f| f.module.clone()),
        "package" | "stack.package" => None,
        "transaction" => event.transaction.clone(),
        "level" => Some(event.level.as_str().to_owned()),
        "logger" => event.logger.clone(),
        "release" => event.release.clone(),
        tag => {
            let tag = tag.strip_prefix("tags.").unwrap_or(tag);
            event.tags.iter().find(|(name, _)| name == tag).map(|(_, value)| value.clone())
        }
    };
    value.unwrap_or_else(|| format!("<no {name}>"))
}

fn reason(kind: &str, text: &str) -> GroupingReason {
    GroupingReason { by: kind.to_owned(), value: super::read::cut(text, 300).into() }
}

fn key(app: i64, kind: &str, parts: &[String]) -> String {
    let mut hash = Sha256::new();
    hash.update(app.to_be_bytes());
    for part in [VERSION, kind].into_iter().chain(parts.iter().map(String::as_str)) {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hex::encode(&hash.finalize()[..16])
}

/// What goes into the keys.
struct Parts {
    strict: Vec<String>,
    loose: Option<Vec<String>>,
    reasons: Vec<GroupingReason>,
}

impl Parts {
    fn of(event: &Event) -> Self {
        if let Some((directive, blocked)) = &event.violation {
            let reasons = vec![reason("directive", directive), reason("blocked origin", blocked)];
            return Self {
                strict: vec!["csp".into(), directive.clone(), blocked.clone()],
                loose: None,
                reasons,
            };
        }
        if event.exceptions.is_empty() { Self::of_message(event) } else { Self::of_exceptions(event) }
    }

    fn of_exceptions(event: &Event) -> Self {
        let chosen = chain(event);
        let (mut strict, mut reasons) = (Vec::new(), Vec::new());
        let mut framed = false;
        for exception in &chosen {
            if let Some(kind) = &exception.kind {
                strict.push(format!("type {kind}"));
                reasons.push(reason("exception type", kind));
            }
            let frames = frames(&exception.stack);
            framed |= !frames.is_empty();
            for frame in frames {
                reasons.push(reason("frame", &frame));
                strict.push(format!("frame {frame}"));
            }
        }
        let outermost = event.outermost();
        let value = outermost.and_then(|e| e.value.as_deref()).map(parameterized).unwrap_or_default();
        // Without a type the text is the only thing that tells what it is about.
        if !framed || outermost.is_some_and(|e| e.kind.is_none()) {
            strict.push(format!("value {value}"));
            reasons.push(reason("message without parameters", &value));
        }
        let kind = outermost.and_then(|e| e.kind.clone()).unwrap_or_default();
        let inner = own_frame(event.main_stack());
        // What was only wrapped is told apart by what it was.
        let roots = chosen.iter().skip(1).flat_map(|root| [root.kind.clone(), own_frame(&root.stack)]);
        let roots: Vec<String> = roots.map(Option::unwrap_or_default).collect();
        let loose = inner.map(|frame| [vec![kind, frame, value], roots].concat());
        Self { strict, loose, reasons }
    }

    fn of_message(event: &Event) -> Self {
        let message = event.message.as_ref();
        let text = message.map(|m| match &m.template {
            Some(template) if *template != m.formatted => template.clone(),
            _ => parameterized(&m.formatted),
        });
        let text = text.unwrap_or_default();
        let (mut strict, mut reasons) = (Vec::new(), Vec::new());
        if let Some(logger) = &event.logger {
            strict.push(format!("logger {logger}"));
            reasons.push(reason("logger", logger));
        }
        // A message that was captured with its stack is told from the same words elsewhere.
        for frame in frames(&event.stack) {
            reasons.push(reason("frame", &frame));
            strict.push(format!("frame {frame}"));
        }
        strict.push(format!("message {text}"));
        reasons.push(reason("message without parameters", &text));
        Self { strict, loose: None, reasons }
    }
}

/// The exceptions that count: of a chain the outermost and the root cause, of a group the kinds of its leaves.
fn chain(event: &Event) -> Vec<Exception> {
    let all = &event.exceptions;
    let Some(outermost) = event.outermost() else { return Vec::new() };
    if outermost.group {
        let parents: HashSet<i64> = all.iter().filter_map(|e| e.parent).collect();
        let mut leaves: Vec<&Exception> =
            all.iter().filter(|e| e.number.is_none_or(|n| !parents.contains(&n))).collect();
        leaves.sort_by(|a, b| a.kind.cmp(&b.kind));
        leaves.dedup_by(|a, b| a.kind == b.kind);
        return leaves.into_iter().cloned().collect();
    }
    let root = match outermost.number {
        Some(0) => all.iter().max_by_key(|e| e.number),
        _ => all.first(),
    };
    match root {
        Some(root) if !std::ptr::eq(root, outermost) => vec![outermost.clone(), root.clone()],
        _ => vec![outermost.clone()],
    }
}

/// The frames of a stack as they count: the app's own, or the innermost ones that have a function.
fn frames(stack: &[Frame]) -> Vec<String> {
    let own: Vec<String> =
        stack.iter().filter(|f| f.in_app && !is_plumbing(f)).filter_map(component).collect();
    if !own.is_empty() {
        let own = folded(own);
        return own[own.len().saturating_sub(OWN_FRAMES)..].to_vec();
    }
    let foreign = stack.iter().filter(|f| f.function.is_some() && !is_plumbing(f)).filter_map(component);
    let foreign = folded(foreign.collect());
    foreign[foreign.len().saturating_sub(FOREIGN_FRAMES)..].to_vec()
}

/// The innermost frame of the app's own.
fn own_frame(stack: &[Frame]) -> Option<String> {
    stack.iter().rev().filter(|f| f.in_app && !is_plumbing(f)).find_map(component)
}

/// Each frame once, so that the depth of a recursion does not matter.
fn folded(frames: Vec<String>) -> Vec<String> {
    let mut seen = HashSet::new();
    frames.into_iter().filter(|f| seen.insert(f.clone())).collect()
}

/// What compilers and runtimes put between an async function and its caller.
fn is_plumbing(frame: &Frame) -> bool {
    const NAMES: &[&str] = &[
        "__awaiter",
        "fulfilled",
        "rejected",
        "step",
        "asyncGeneratorStep",
        "_next",
        "_throw",
        "tryCatch",
        "Generator.next",
        "Generator.throw",
        "Generator.<anonymous>",
        "_asyncToGenerator",
        "new Promise",
        "Promise.then",
        "process.processTicksAndRejections",
        "processTicksAndRejections",
        "Array.forEach",
        "Array.map",
        "Promise.all (index 0)",
    ];
    let Some(function) = frame.function.as_deref() else { return false };
    let function = function.strip_prefix("async ").unwrap_or(function);
    NAMES.contains(&function)
        || function.contains("Future>::poll")
        || function.contains("as core::future::future::Future")
}

/// A frame without what changes from build to build: where (module, or the file's name) and what (function, or the
/// line of code where there is no telling name). None if it has neither.
fn component(frame: &Frame) -> Option<String> {
    let place = frame.module.as_deref().map(module).or_else(|| {
        let file = frame.filename.as_deref().or(frame.abs_path.as_deref())?;
        Some(file_name(file))
    });
    let function = frame.function.as_deref().map(function_name).filter(|f| is_telling(f, frame));
    // Minified code stands in one long line, which says nothing.
    let code = || {
        let code = frame.code.as_deref().filter(|c| c.len() <= 160)?;
        let folded = code.split_whitespace().collect::<Vec<_>>().join(" ");
        (!folded.is_empty()).then(|| parameterized(&folded))
    };
    let what = function.or_else(code);
    match (place, what) {
        (Some(place), Some(what)) => Some(format!("{what} in {place}")),
        (None, Some(what)) => Some(what),
        // A file alone tells something only of code that was not minified.
        (Some(place), None) if frame.function.is_none() => Some(place),
        (_, None) => None,
    }
}

/// Whether a function's name was given by a person.
fn is_telling(name: &str, frame: &Frame) -> bool {
    let file = frame.filename.as_deref().or(frame.abs_path.as_deref()).unwrap_or_default();
    let may_be_minified = !frame.mapped && (file.ends_with("js") || file.starts_with("http"));
    let minified = may_be_minified && name.chars().count() <= 2;
    let nameless = name.is_empty() || name.contains("<anonymous>") || name.contains("<unknown>");
    !minified && !nameless
}

/// The function without what generators append and what it is called through.
fn function_name(name: &str) -> String {
    let name = name.strip_prefix("async ").unwrap_or(name);
    let name = name.strip_prefix("new ").unwrap_or(name);
    // Rust: parameters of types differ by caller, `{closure#0}` counts closures, `::h<16 hex>` is a hash.
    let mut out = String::with_capacity(name.len());
    let mut depth = 0_u32;
    for c in name.chars() {
        match c {
            '<' => depth += 1,
            '>' if depth > 0 => depth -= 1,
            c if depth == 0 => out.push(c),
            _ => {}
        }
    }
    let out = if out.trim_matches([':', '.']).is_empty() { name.to_owned() } else { out };
    let out = out.split("::h").next().map_or(out.clone(), |head| {
        let tail = &out[head.len()..];
        if tail.len() == 19 && tail[3..].bytes().all(|b| b.is_ascii_hexdigit()) {
            head.to_owned()
        } else {
            out.clone()
        }
    });
    let last = out.rsplit_once('.').map_or(out.as_str(), |(_, last)| last);
    without_suffix(if last.is_empty() { &out } else { last })
}

/// `handler_3fa9c1` → `handler`, `lambda$1` → `lambda`.
fn without_suffix(name: &str) -> String {
    if let Some((head, tail)) = name.rsplit_once(['_', '$', '#'])
        && !head.is_empty()
        && !tail.is_empty()
        && (tail.bytes().all(|b| b.is_ascii_digit())
            || (tail.len() >= 6
                && tail.bytes().all(|b| b.is_ascii_hexdigit())
                && tail.bytes().any(|b| b.is_ascii_digit())))
    {
        return head.to_owned();
    }
    name.to_owned()
}

fn module(name: &str) -> String {
    // JavaScript clients make modules of paths: `dist.assets/index-BnU9Lell`.
    let last = name.rsplit('/').next().unwrap_or(name);
    without_hash(last)
}

/// The last part of a path, without the hash that a bundler put into it, in lower case.
fn file_name(path: &str) -> String {
    let path = path.split(['?', '#']).next().unwrap_or(path);
    let last = path.rsplit(['/', '\\', ':']).find(|p| !p.is_empty()).unwrap_or(path);
    without_hash(last).to_lowercase()
}

/// `index-BnU9Lell.js`, `main.3fa9c1d2.chunk.js` → `index.js`, `main.chunk.js`.
fn without_hash(name: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in name.split('.') {
        let kept = match part.rsplit_once('-') {
            Some((head, tail)) if !head.is_empty() && is_hash(tail) => head,
            _ if !parts.is_empty() && is_hash(part) => continue,
            _ => part,
        };
        parts.push(kept.to_owned());
    }
    parts.join(".")
}

/// Whether a part of a file's name was made by a bundler: 6 to 40 characters that no person would write.
fn is_hash(part: &str) -> bool {
    let plain = part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let digits = part.bytes().filter(u8::is_ascii_digit).count();
    let mixed = part.bytes().any(|b| b.is_ascii_uppercase()) && part.bytes().any(|b| b.is_ascii_lowercase());
    plain
        && (6..=40).contains(&part.len())
        && (digits > 0 && (digits < part.len() || part.len() >= 8) || mixed)
}

#[cfg(test)]
#[path = "grouping_tests.rs"]
mod tests;
