//! An error event as Berth reads it: what grouping, search and answers need of the JSON that a client sent.
//!
//! The JSON itself stays what is kept; this is a view of it, made anew whenever it is needed, so that a better reading
//! serves old events, too. Limits hold here: what is beyond them is not read.

use berth_schemas::{Timestamp, issue::Level};
use serde_json::Value;

use super::{demangle, in_app, read};

/// Frames of a stack that are read; of a longer one, both ends.
const MAX_FRAMES: usize = 250;
/// Exceptions of a chain that are read, the outermost ones.
const MAX_EXCEPTIONS: usize = 20;
/// Breadcrumbs that are read, the newest ones.
const MAX_CRUMBS: usize = 100;
/// Tags that are read.
const MAX_TAGS: usize = 60;
/// Longest name: of a release, a file, a function.
const NAME: usize = 400;
/// Longest text: a message, an exception's value.
const TEXT: usize = 8192;
/// Longest line of code.
const LINE: usize = 500;

/// Frames as a stack has them: the caller first, the innermost last.
pub type Stack = Vec<Frame>;

/// One error event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// When it happened, as the client says.
    pub at: Option<Timestamp>,
    /// How bad.
    pub level: Level,
    /// Language of the client, as Sentry names it: "javascript", "node", "python" …
    pub platform: String,
    /// A message that was logged or captured.
    pub message: Option<Message>,
    /// Who logged it.
    pub logger: Option<String>,
    /// Exceptions, the root cause first, as Sentry orders them.
    pub exceptions: Vec<Exception>,
    /// The stack of an event without an exception.
    pub stack: Stack,
    /// What was being done: a route, a task, a page.
    pub transaction: Option<String>,
    /// Release.
    pub release: Option<String>,
    /// Distribution of the release.
    pub dist: Option<String>,
    /// Environment, as the client names it.
    pub environment: Option<String>,
    /// Name of the machine.
    pub server_name: Option<String>,
    /// Tags, names and values.
    pub tags: Vec<(String, String)>,
    /// Who had the error.
    pub user: User,
    /// What was asked for.
    pub request: Option<Request>,
    /// Name and version of the client.
    pub sdk: Option<String>,
    /// How the client wants it grouped.
    pub fingerprint: Vec<String>,
    /// Id of the trace.
    pub trace_id: Option<String>,
    /// What happened before, oldest first.
    pub breadcrumbs: Vec<Crumb>,
    /// Browser, operating system and device, as the client or the user agent tells.
    pub about: Vec<(&'static str, String)>,
    /// Files and their debug ids, for source maps.
    pub images: Vec<(String, String)>,
    /// A violated content security policy: directive and blocked origin.
    pub violation: Option<(String, String)>,
}

/// A message with and without its parameters filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// With.
    pub formatted: String,
    /// Without, if the client told.
    pub template: Option<String>,
}

/// An exception of a chain.
#[derive(Debug, Clone, PartialEq)]
pub struct Exception {
    /// Its type; a client may leave it out.
    pub kind: Option<String>,
    /// Its text.
    pub value: Option<String>,
    /// Module of its type.
    pub module: Option<String>,
    /// Whether something caught it, if the client tells.
    pub handled: Option<bool>,
    /// What caught it, as Sentry names it.
    pub mechanism: Option<String>,
    /// Whether it is a group of others.
    pub group: bool,
    /// Number of its parent in a tree of exceptions.
    pub parent: Option<i64>,
    /// Its number in a tree of exceptions.
    pub number: Option<i64>,
    /// Where it was raised.
    pub stack: Stack,
}

/// One frame of a stack.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Frame {
    /// Function.
    pub function: Option<String>,
    /// Module.
    pub module: Option<String>,
    /// File as a person would name it.
    pub filename: Option<String>,
    /// File with its whole path, or URL.
    pub abs_path: Option<String>,
    /// Line, from 1.
    pub line: Option<i64>,
    /// Column, from 1.
    pub column: Option<i64>,
    /// The line of code.
    pub code: Option<String>,
    /// Lines before it.
    pub before: Vec<String>,
    /// Lines after it.
    pub after: Vec<String>,
    /// Whether it is the app's own code: the client's word, corrected, or a guess.
    pub in_app: bool,
    /// Whether a source map has put it right.
    pub mapped: bool,
}

/// Who had an error.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// Id.
    pub id: Option<String>,
    /// E-mail address.
    pub email: Option<String>,
    /// Name.
    pub username: Option<String>,
    /// Address on the network, as it is kept.
    pub ip: Option<String>,
}

/// What was asked for when it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Method.
    pub method: Option<String>,
    /// URL.
    pub url: Option<String>,
}

/// Something that happened before.
#[derive(Debug, Clone, PartialEq)]
pub struct Crumb {
    /// When.
    pub at: Option<Timestamp>,
    /// What of: "http", "navigation", "console" …
    pub category: Option<String>,
    /// How bad.
    pub level: Option<String>,
    /// In words.
    pub message: Option<String>,
    /// The rest, as JSON.
    pub data: Option<Value>,
}

impl Event {
    /// Reads an event; none if it is no JSON object.
    #[must_use]
    pub fn read(body: &Value) -> Option<Self> {
        let object = body.as_object()?;
        let name = |key: &str| read::field(body, key, NAME);
        let platform = name("platform").unwrap_or_else(|| "other".into());
        let exceptions =
            read::values(object.get("exception").or_else(|| object.get("sentry.interfaces.Exception")));
        let skipped = exceptions.len().saturating_sub(MAX_EXCEPTIONS);
        let exceptions: Vec<_> = exceptions[skipped..].iter().map(|e| exception(e, &platform)).collect();
        let (message, crumbs) = (message(body), read::values(object.get("breadcrumbs")));
        Some(Self {
            at: read::time(object.get("timestamp")),
            level: level(body, &exceptions),
            message,
            logger: name("logger"),
            stack: if exceptions.iter().any(|e| !e.stack.is_empty()) {
                Vec::new()
            } else {
                thread(body, &platform)
            },
            exceptions,
            transaction: name("transaction").or_else(|| name("culprit")),
            release: name("release"),
            dist: name("dist"),
            environment: name("environment"),
            server_name: name("server_name"),
            tags: tags(object.get("tags")),
            user: object.get("user").map(user).unwrap_or_default(),
            request: object.get("request").and_then(request),
            sdk: object.get("sdk").and_then(sdk),
            fingerprint: fingerprint(object.get("fingerprint")),
            trace_id: trace_id(body),
            breadcrumbs: crumbs[crumbs.len().saturating_sub(MAX_CRUMBS)..].iter().map(crumb).collect(),
            about: about(body),
            images: images(body),
            violation: violation(body),
            platform,
        })
    }

    /// The exception that reached the client: the outermost one, which stands last.
    #[must_use]
    pub fn outermost(&self) -> Option<&Exception> {
        // Of a tree the first is the group; clients that number put the root of the tree last, numbered 0.
        self.exceptions.iter().find(|e| e.number == Some(0)).or_else(|| self.exceptions.last())
    }

    /// The stack that a person looks at first.
    #[must_use]
    pub fn main_stack(&self) -> &[Frame] {
        let own = self.outermost().filter(|e| !e.stack.is_empty());
        let any = || self.exceptions.iter().rev().find(|e| !e.stack.is_empty());
        own.or_else(any).map_or(self.stack.as_slice(), |e| e.stack.as_slice())
    }

    /// The stacks of the chain's other exceptions, the outermost first.
    pub fn other_stacks(&self) -> impl Iterator<Item = &[Frame]> {
        let main = self.main_stack();
        let stacks = self.exceptions.iter().rev().map(|e| e.stack.as_slice());
        stacks.filter(move |stack| !std::ptr::eq(*stack, main))
    }

    /// Whether something caught it, if the client tells.
    #[must_use]
    pub fn handled(&self) -> Option<bool> {
        let told: Vec<bool> = self.exceptions.iter().filter_map(|e| e.handled).collect();
        (!told.is_empty()).then(|| told.iter().all(|h| *h))
    }

    /// What an issue is called: the type of its exception, or the beginning of its message.
    #[must_use]
    pub fn kind(&self) -> String {
        if let Some((directive, _)) = &self.violation {
            return format!("CSP {directive}");
        }
        if let Some(kind) = self.outermost().and_then(|e| e.kind.clone()) {
            return kind;
        }
        let value = self.outermost().and_then(|e| e.value.as_deref());
        let text = value.or(self.message.as_ref().map(|m| m.formatted.as_str()));
        let line = text.and_then(|t| t.lines().find(|l| !l.trim().is_empty()));
        line.map_or_else(|| "Error without a message".into(), |l| read::cut(l.trim(), 200).to_owned())
    }

    /// What it says.
    #[must_use]
    pub fn value(&self) -> String {
        let exception = self.outermost().filter(|e| e.kind.is_some()).and_then(|e| e.value.clone());
        let message = || self.message.as_ref().map(|m| m.formatted.clone());
        exception.or_else(message).unwrap_or_default()
    }

    /// Where it happened: the function of the innermost frame of the app's own code, else what was being done.
    #[must_use]
    pub fn culprit(&self) -> Option<String> {
        let stack = self.main_stack();
        let frame = stack.iter().rev().find(|f| f.in_app).or_else(|| stack.last());
        let place = frame.and_then(|f| {
            let file = f.module.as_deref().or(f.filename.as_deref())?;
            Some(match &f.function {
                Some(function) => format!("{function} in {file}"),
                None => file.to_owned(),
            })
        });
        place.or_else(|| self.transaction.clone()).map(|c| read::cut(&c, NAME).to_owned())
    }

    /// What tells one user from another, if something does.
    #[must_use]
    pub fn user_key(&self) -> Option<String> {
        let user = &self.user;
        let of = |kind: &str, value: &Option<String>| value.as_ref().map(|v| format!("{kind}:{v}"));
        of("id", &user.id)
            .or_else(|| of("email", &user.email))
            .or_else(|| of("username", &user.username))
            .or_else(|| of("ip", &user.ip))
    }
}

impl Crumb {
    /// What was asked for or gone to, at most 500 bytes of it.
    #[must_use]
    pub fn url(&self) -> Option<&str> {
        let data = self.data.as_ref()?;
        let url = ["url", "to"].into_iter().find_map(|key| data.get(key)?.as_str())?;
        Some(read::cut(url, 500))
    }
}

fn message(body: &Value) -> Option<Message> {
    let entry = ["logentry", "sentry.interfaces.Message"].into_iter().find_map(|k| read::object(body, k));
    let of = |key: &str| entry.and_then(|e| read::text(e.get(key), TEXT));
    let template = of("message");
    let plain = || match body.get("message") {
        Some(Value::Object(message)) => {
            read::text(message.get("formatted").or_else(|| message.get("message")), TEXT)
        }
        other => read::text(other, TEXT),
    };
    let formatted = of("formatted").or_else(plain).or_else(|| template.clone())?;
    Some(Message { formatted, template })
}

fn level(body: &Value, exceptions: &[Exception]) -> Level {
    let told = read::field(body, "level", 20).and_then(|l| Level::lenient(&l));
    told.unwrap_or(if exceptions.is_empty() && body.get("message").is_some() {
        Level::Info
    } else {
        Level::Error
    })
}

fn exception(value: &Value, platform: &str) -> Exception {
    let mechanism = value.get("mechanism").filter(|m| m.is_object());
    let of = |key: &str| mechanism.and_then(|m| m.get(key));
    let kind = read::field(value, "type", NAME);
    Exception {
        value: value.get("value").and_then(|v| match v {
            Value::Object(_) | Value::Array(_) => Some(read::cut(&v.to_string(), TEXT).to_owned()),
            other => read::text(Some(other), TEXT),
        }),
        module: read::field(value, "module", NAME),
        handled: of("handled").and_then(Value::as_bool),
        mechanism: read::text(of("type"), 100),
        group: of("is_exception_group").and_then(Value::as_bool).unwrap_or(false),
        parent: read::int(of("parent_id")),
        number: read::int(of("exception_id")),
        stack: stack(value.get("stacktrace").or_else(|| value.get("raw_stacktrace")), platform),
        kind,
    }
}

/// The stack of the thread that crashed, or of the event itself.
fn thread(body: &Value, platform: &str) -> Stack {
    let threads = read::values(body.get("threads"));
    let is = |t: &&Value, key: &str| t.get(key).and_then(Value::as_bool) == Some(true);
    let thread =
        threads.iter().find(|t| is(t, "crashed")).or_else(|| threads.iter().find(|t| is(t, "current")));
    let stack_of = |value: &Value| stack(value.get("stacktrace"), platform);
    let own = stack_of(body);
    if own.is_empty() { thread.or(threads.first()).map(stack_of).unwrap_or_default() } else { own }
}

fn stack(value: Option<&Value>, platform: &str) -> Stack {
    let Some(Value::Array(frames)) = value.and_then(|v| v.get("frames")) else { return Vec::new() };
    let half = MAX_FRAMES / 2;
    let chosen: Vec<&Value> = match frames.len() > MAX_FRAMES {
        true => frames[..half].iter().chain(&frames[frames.len() - half..]).collect(),
        false => frames.iter().collect(),
    };
    chosen.into_iter().filter(|f| f.is_object()).map(|f| frame(f, platform)).collect()
}

fn frame(value: &Value, platform: &str) -> Frame {
    let name = |key: &str| read::field(value, key, NAME);
    let lines = |key: &str, keep: fn(&[Value]) -> &[Value]| -> Vec<String> {
        let all = value.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        keep(all).iter().map(|l| read::cut(l.as_str().unwrap_or_default(), LINE).to_owned()).collect()
    };
    let frame = Frame {
        function: read::field(value, "function", demangle::LONGEST)
            .filter(|f| f != "?")
            .map(|f| demangle::readable(f, NAME)),
        module: name("module"),
        filename: name("filename"),
        abs_path: name("abs_path"),
        line: read::int(value.get("lineno")),
        column: read::int(value.get("colno")),
        code: value.get("context_line").and_then(|v| read::text(Some(v), LINE)),
        before: lines("pre_context", |all| &all[all.len().saturating_sub(5)..]),
        after: lines("post_context", |all| &all[..all.len().min(5)]),
        in_app: false,
        mapped: value.pointer("/data/sourcemap").is_some(),
    };
    let own = read::field(value, "platform", 40);
    let said = value.get("in_app").and_then(Value::as_bool);
    Frame { in_app: in_app::is_own(&frame, said, own.as_deref().unwrap_or(platform)), ..frame }
}

fn tags(value: Option<&Value>) -> Vec<(String, String)> {
    let pairs = read::pairs(value).into_iter();
    pairs.filter_map(|(key, value)| Some((key, read::text(Some(value), 200)?))).take(MAX_TAGS).collect()
}

fn user(value: &Value) -> User {
    let of = |key: &str| read::field(value, key, 200);
    User {
        id: of("id"),
        email: of("email"),
        username: of("username").or_else(|| of("name")),
        ip: of("ip_address"),
    }
}

fn request(value: &Value) -> Option<Request> {
    let (method, url) = (read::field(value, "method", 20), read::field(value, "url", 2000));
    (method.is_some() || url.is_some()).then_some(Request { method, url })
}

fn sdk(value: &Value) -> Option<String> {
    let name = read::field(value, "name", 100)?;
    Some(match read::field(value, "version", 50) {
        Some(version) => format!("{name}/{version}"),
        None => name,
    })
}

fn fingerprint(value: Option<&Value>) -> Vec<String> {
    let Some(Value::Array(parts)) = value else { return Vec::new() };
    parts.iter().filter_map(|p| read::text(Some(p), 200)).take(20).collect()
}

fn crumb(value: &Value) -> Crumb {
    let of = |key: &str| read::field(value, key, 500);
    Crumb {
        at: read::time(value.get("timestamp")),
        category: of("category").or_else(|| of("type")),
        level: of("level"),
        message: of("message"),
        data: value.get("data").filter(|d| d.as_object().is_some_and(|o| !o.is_empty())).cloned(),
    }
}

/// Contexts that people search by.
fn about(body: &Value) -> Vec<(&'static str, String)> {
    const OF: &[(&str, &str)] = &[
        ("browser", "browser"),
        ("os", "os"),
        ("os", "client_os"),
        ("device", "device"),
        ("runtime", "runtime"),
    ];
    let mut found: Vec<(&'static str, String)> = Vec::new();
    for &(name, context) in OF {
        let Some(context) = body.pointer("/contexts").and_then(|c| c.get(context)) else { continue };
        let kind = read::field(context, "name", 100).or_else(|| read::field(context, "model", 100));
        let Some(kind) = kind.filter(|_| found.iter().all(|(n, _)| *n != name)) else { continue };
        let version = read::field(context, "version", 100).map(|v| format!(" {v}")).unwrap_or_default();
        found.push((name, format!("{kind}{version}")));
    }
    let agent = read::pairs(body.pointer("/request/headers"));
    let agent = agent.iter().find(|(name, _)| name.eq_ignore_ascii_case("user-agent"));
    if let Some(agent) = agent.and_then(|(_, value)| value.as_str()) {
        for (name, value) in super::agent::about(agent) {
            if found.iter().all(|(n, _)| *n != name) {
                found.push((name, value));
            }
        }
    }
    found
}

/// The id of the trace, without hyphens; nothing where it is none, as it is shown as a fact and not as a quote.
fn trace_id(body: &Value) -> Option<String> {
    body.pointer("/contexts/trace/trace_id").and_then(Value::as_str).and_then(super::accept::event_id)
}

fn images(body: &Value) -> Vec<(String, String)> {
    let Some(Value::Array(images)) = body.pointer("/debug_meta/images") else { return Vec::new() };
    let maps = images.iter().filter(|i| i.get("type").and_then(Value::as_str) == Some("sourcemap"));
    let named =
        maps.filter_map(|i| Some((read::field(i, "code_file", 2000)?, read::field(i, "debug_id", 64)?)));
    named.take(200).collect()
}

fn violation(body: &Value) -> Option<(String, String)> {
    let csp = body.get("csp")?;
    let directive = read::field(csp, "effective_directive", 100)?;
    Some((directive, read::field(csp, "blocked_origin", 500).unwrap_or_else(|| "self".into())))
}
