//! A walk past every door with every key that must not open it: each tool by REST and by MCP, and each other route, with
//! no token, a malformed, an expired and a revoked one, one without the scope and one of another project. Each is
//! answered as it must be, nothing is changed, and what may not be seen is answered like what is not there.

mod routes;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use berth_evals::harness::{
    arguments::least,
    world::{Place, Worlds},
};
use berth_schemas::Scope;
use reqwest::{Method, RequestBuilder};
use serde_json::{Map, Value, json};

use crate::{
    berth,
    hints::{WORLD, inputs},
    root, store,
};
use routes::{Guard, ROUTES};

/// An app that the stranger's project does not have, and one that nobody has.
const THERE: &str = "shop";
const NOT_THERE: &str = "shoq";

/// A tool as its schema file describes it, with a call that is right.
struct Tool {
    name: String,
    scope: Scope,
    method: Method,
    path: String,
    read_only: bool,
    input: Value,
}

fn tools() -> Vec<Tool> {
    let inputs = inputs();
    let folder = root().join("../schemas/tools");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    let read = |file: &Path| {
        let schema: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let text = |field: &str| schema[field].as_str().unwrap().to_owned();
        let input = inputs.get(&text("name")).map(|i| i.written().clone());
        Tool {
            scope: text("scope").parse().unwrap(),
            method: text("method").parse().unwrap(),
            path: text("path"),
            read_only: schema["hints"]["read_only"] == true,
            input: input.unwrap_or_else(|| least(&schema["input"])),
            name: text("name"),
        }
    };
    files.iter().map(|file| read(file)).collect()
}

/// What a caller shows at the door.
#[derive(Clone)]
enum Key {
    None,
    Bearer(String),
    /// Headers as they are.
    Raw(Vec<String>),
}

/// What came back.
struct Answer {
    status: u16,
    challenge: String,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }
}

/// One daemon, met from many addresses: whoever guesses tokens is slowed down by address, which another test is about.
struct Doors {
    place: Place,
    http: reqwest::Client,
    caller: AtomicU32,
}

impl Doors {
    fn request(&self, method: Method, target: &str, key: &Key) -> RequestBuilder {
        let n = self.caller.fetch_add(1, Ordering::Relaxed);
        let url = format!("http://{}{target}", self.place.daemon.control);
        let request = self.http.request(method, url);
        let request = request.header("x-forwarded-for", format!("198.18.{}.{}", n / 250 % 250, n % 250));
        match key {
            Key::None => request,
            Key::Bearer(token) => request.bearer_auth(token),
            Key::Raw(values) => values.iter().fold(request, |r, v| r.header("authorization", v)),
        }
    }

    async fn send(&self, request: RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        let challenge = response.headers().get("www-authenticate").and_then(|v| v.to_str().ok());
        let (status, challenge) = (response.status().as_u16(), challenge.unwrap_or_default().to_owned());
        Answer { status, challenge, text: response.text().await.unwrap() }
    }

    async fn rest(&self, tool: &Tool, input: &Value, key: &Key) -> Answer {
        let mut input: Map<String, Value> = input.as_object().cloned().unwrap_or_default();
        let mut target = String::new();
        for (i, part) in tool.path.split(['{', '}']).enumerate() {
            match i % 2 {
                0 => target.push_str(part),
                _ => target.push_str(&encoded(&plain(&input.remove(part).unwrap_or_default()))),
            }
        }
        let request = self.request(tool.method.clone(), &target, key);
        let query = matches!(tool.method, Method::GET | Method::DELETE);
        let pairs: Vec<(String, String)> = input.iter().map(|(n, v)| (n.clone(), plain(v))).collect();
        self.send(if query { request.query(&pairs) } else { request.json(&input) }).await
    }

    async fn mcp(&self, tool: &str, input: &Value, key: &Key) -> Answer {
        let call = json!({ "name": tool, "arguments": input });
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call });
        let request = self.request(Method::POST, "/mcp?tools=all", key).json(&body);
        let request = request.header("accept", "application/json, text/event-stream");
        self.send(request.header("mcp-protocol-version", "2025-11-25")).await
    }

    /// A request of a route that belongs to no tool, with a body that it takes.
    async fn outside(&self, method: &str, path: &str, key: &Key) -> Answer {
        let request = self.request(method.parse().unwrap(), &target(path), key);
        let about = if path.contains(NOT_THERE) { NOT_THERE } else { THERE };
        let request = match method {
            "GET" => request,
            _ if path.ends_with("chunk-upload/") => {
                request.header("content-type", "multipart/form-data; boundary=x").body("--x--\r\n")
            }
            _ => {
                let object = json!({ "oid": "0".repeat(64), "size": 1 });
                request.json(&json!({
                    "version": "r1", "projects": [about], "checksum": "0".repeat(40), "chunks": [],
                    "operation": "upload", "objects": [object], "oid": "0".repeat(64), "size": 1,
                }))
            }
        };
        self.send(request).await
    }

    async fn token(&self, input: Value) -> String {
        let made = self.place.api.call("token_create", input).await.unwrap();
        made["secret"].as_str().unwrap().to_owned()
    }

    async fn dump(&self) -> store::Dump {
        store::dump(&self.place.daemon.data()).await
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn encoded(text: &str) -> String {
    let safe = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if safe(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// How often which key was answered how, and what was answered otherwise.
#[derive(Default)]
struct Findings {
    counts: BTreeMap<(&'static str, &'static str), BTreeMap<String, usize>>,
    wrong: Vec<String>,
}

impl Findings {
    fn note(&mut self, surface: &'static str, key: &'static str, answered: impl ToString) {
        *self.counts.entry((key, surface)).or_default().entry(answered.to_string()).or_default() += 1;
    }

    fn want(&mut self, right: bool, what: impl FnOnce() -> String) {
        if !right {
            self.wrong.push(what());
        }
    }

    fn table(&self) -> String {
        let mut lines = vec!["| key | surface | answers |".to_owned(), "|---|---|---|".to_owned()];
        for ((key, surface), answers) in &self.counts {
            let answers: Vec<String> = answers.iter().map(|(what, n)| format!("{n} × {what}")).collect();
            lines.push(format!("| {key} | {surface} | {} |", answers.join(", ")));
        }
        lines.join("\n")
    }
}

fn target(target: &str) -> String {
    target.replace("OID", &"0".repeat(64))
}

#[tokio::test]
async fn no_key_opens_a_door_that_is_not_its_own() {
    let Some(berth) = berth() else { return };
    let place = Worlds::new(berth, root().to_path_buf()).unhurried().place(WORLD).await.unwrap();
    let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    let doors = Doors { place, http: http.build().unwrap(), caller: AtomicU32::new(0) };
    let mut found = Findings::default();
    let tools = tools();

    let good = doors.token(json!({ "name": "good", "scopes": ["admin"] })).await;
    let expired = doors.token(json!({ "name": "late", "scopes": ["admin"], "expires_in_days": 1 })).await;
    let revoked = doors.token(json!({ "name": "gone", "scopes": ["admin"] })).await;
    store::expire(&doors.place.daemon.data(), "late").await;
    // What is kept of tokens in memory is read anew with this.
    doors.place.api.call("token_revoke", json!({ "token": "gone", "confirm": "gone" })).await.unwrap();
    let cut = good[..good.len() - 1].to_owned();
    let keys = [
        ("no token", Key::None),
        ("malformed token", Key::Bearer(cut)),
        ("malformed token", Key::Raw(vec![format!("Token {good}")])),
        ("malformed token", Key::Raw(vec![format!("Bearer {good}"), format!("Bearer {good}")])),
        ("expired token", Key::Bearer(expired)),
        ("revoked token", Key::Bearer(revoked)),
    ];
    let before = doors.dump().await;
    for (name, key) in &keys {
        for tool in &tools {
            for (surface, answer) in [
                ("REST tools", doors.rest(tool, &tool.input, key).await),
                ("MCP tools", doors.mcp(&tool.name, &tool.input, key).await),
            ] {
                found.note(surface, name, answer.status);
                let challenged = answer.challenge.starts_with("Bearer ")
                    && (surface == "REST tools" || answer.challenge.contains("resource_metadata=\"http"));
                found.want(answer.status == 401 && challenged && !answer.text.contains(THERE), || {
                    format!("{} by {surface} with {name}: {} {}", tool.name, answer.status, answer.text)
                });
            }
        }
        for (route, method, path, guard) in ROUTES {
            let answer = doors.send(doors.request(method.parse().unwrap(), &target(path), key)).await;
            match guard {
                Guard::Open => found.note("open routes", name, answer.status),
                Guard::Own => found.note("routes with keys of their own", name, answer.status),
                Guard::Api | Guard::Git | Guard::Mcp => found.note("other routes", name, answer.status),
            }
            let right = match guard {
                Guard::Open => answer.status == 200 && !answer.text.contains("storefront"),
                Guard::Own => {
                    (400..500).contains(&answer.status) && answer.status != 404 || {
                        // Of a webhook's address it is not told whether it is one.
                        route.starts_with("/hooks") && answer.status == 404
                    }
                }
                _ => answer.status == 401 && !answer.challenge.is_empty(),
            };
            found.want(right, || format!("{method} {path} with {name}: {} {}", answer.status, answer.text));
        }
    }
    let changed = store::changed(&before, &doors.dump().await);
    found.want(changed.is_empty(), || format!("{changed:?} changed by callers without a good token"));

    without_the_scope(&doors, &tools, &mut found).await;
    from_another_project(&doors, &tools, &mut found).await;
    println!("{} tools, {} other routes\n{}", tools.len(), ROUTES.len(), found.table());
    assert!(found.wrong.is_empty(), "{} wrong: {:#?}", found.wrong.len(), found.wrong);
}

/// Every token that lacks a tool's scope is refused by it, with the scope named.
async fn without_the_scope(doors: &Doors, tools: &[Tool], found: &mut Findings) {
    let scopes = [Scope::Read, Scope::Deploy, Scope::Write, Scope::Secrets];
    let mut keys = Vec::new();
    for scope in scopes {
        let name = format!("only-{}", scope.as_str());
        let token = doors.token(json!({ "name": name, "scopes": [scope.as_str()] })).await;
        keys.push((scope, Key::Bearer(token)));
    }
    let before = doors.dump().await;
    for tool in tools {
        for (_, key) in keys.iter().filter(|(held, _)| !held.covers(tool.scope)) {
            let rest = doors.rest(tool, &tool.input, key).await;
            found.note("REST tools", "wrong scope", rest.status);
            let told = format!("needs the scope {}", tool.scope.as_str());
            found.want(rest.status == 403 && rest.text.contains(&told), || {
                format!("{} by REST without its scope: {} {}", tool.name, rest.status, rest.text)
            });
            let mcp = doors.mcp(&tool.name, &tool.input, key).await;
            let answer = mcp.json();
            let code = answer["result"]["structuredContent"]["problem"]["code"].as_str().unwrap_or("none");
            found.note("MCP tools", "wrong scope", format!("{} {code}", mcp.status));
            found.want(mcp.status == 200 && code == "forbidden" && mcp.text.contains(&told), || {
                format!("{} by MCP without its scope: {} {}", tool.name, mcp.status, mcp.text)
            });
        }
    }
    let reader = &keys[0].1;
    for (_, method, path, guard) in ROUTES {
        let changes = matches!(*guard, Guard::Api | Guard::Git)
            && (path.ends_with("receive-pack") || matches!(*method, "PUT" | "POST"))
            // A fetch is a POST, too, and what native code would need is not taken from anybody.
            && !path.ends_with("git-upload-pack")
            && !path.ends_with("difs/assemble/");
        if changes {
            let answer = doors.outside(method, path, reader).await;
            found.note("other routes", "wrong scope", answer.status);
            found.want(answer.status == 403, || {
                format!("{method} {path} without its scope: {} {}", answer.status, answer.text)
            });
        }
    }
    let changed = store::changed(&before, &doors.dump().await);
    found.want(changed.is_empty(), || format!("{changed:?} changed by callers without the scope"));
}

/// Names of the world, and names that nothing has.
const NAMES: [(&str, &str); 7] = [
    (THERE, NOT_THERE),
    ("SHOP-", "SHOQ-"),
    ("storefront", "storefronu"),
    ("wiki", "wikj"),
    ("archive", "archivf"),
    ("landing", "landinh"),
    ("reports", "reportt"),
];

/// The same call about what is not there.
fn astray(input: &Value) -> Value {
    let text = NAMES.iter().fold(input.to_string(), |text, (there, not)| text.replace(there, not));
    serde_json::from_str(&text).unwrap()
}

/// What was answered, as if it had been about what is there.
fn unnamed(text: &str) -> String {
    NAMES.iter().fold(text.to_owned(), |text, (there, not)| text.replace(not, there))
}

/// A token of another project sees of an app what it would see if there were none, and changes nothing of it.
async fn from_another_project(doors: &Doors, tools: &[Tool], found: &mut Findings) {
    let api = &doors.place.api;
    api.call("project_create", json!({ "name": "elsewhere" })).await.unwrap();
    let token = json!({ "name": "stranger", "scopes": ["admin"], "projects": ["elsewhere"] });
    let key = Key::Bearer(doors.token(token).await);
    for tool in tools {
        let names_it = astray(&tool.input) != tool.input;
        let before = doors.dump().await;
        for surface in ["REST tools", "MCP tools"] {
            let ask = async |input: &Value| match surface {
                "REST tools" => doors.rest(tool, input, &key).await,
                _ => doors.mcp(&tool.name, input, &key).await,
            };
            let answer = ask(&tool.input).await;
            let code = match surface {
                "REST tools" => answer.json()["code"].clone(),
                _ => answer.json()["result"]["structuredContent"]["problem"]["code"].clone(),
            };
            let code = code.as_str().unwrap_or("ok").to_owned();
            let status = answer.status;
            let what = if names_it { "foreign project, named" } else { "foreign project, not named" };
            found.note(surface, what, format!("{status} {code}"));
            let where_ = format!("{} by {surface} from another project", tool.name);
            found.want(status < 500, || format!("{where_}: {status} {}", answer.text));
            if names_it {
                found.want(matches!(code.as_str(), "not_found" | "forbidden"), || {
                    format!("{where_}: {status} {}", answer.text)
                });
                let other = ask(&astray(&tool.input)).await;
                found.want(other.status == status && unnamed(&other.text) == unnamed(&answer.text), || {
                    format!("{where_} tells whether it is there: {} / {}", answer.text, other.text)
                });
            } else {
                let told = ["shop.example", "sk_live", "storefront", "CURRENCY"];
                found.want(!told.iter().any(|t| answer.text.contains(t)), || {
                    format!("{where_} tells of others: {}", answer.text)
                });
            }
        }
        let changed = store::changed(&before, &doors.dump().await);
        found.want(changed.is_empty() || (!names_it && !tool.read_only), || {
            format!("{} from another project changed {changed:?}", tool.name)
        });
    }
    // Who may make apps learns from a push that a name is taken, as from app_create: names are the installation's. Who
    // may only deploy learns nothing.
    let token = json!({ "name": "stranger-ci", "scopes": ["deploy"], "projects": ["elsewhere"] });
    let key = Key::Bearer(doors.token(token).await);
    let before = doors.dump().await;
    for (_, method, path, guard) in ROUTES.iter().filter(|(_, _, path, _)| path.contains(THERE)) {
        let answer = doors.outside(method, path, &key).await;
        let other = doors.outside(method, &path.replace(THERE, NOT_THERE), &key).await;
        found.note("other routes", "foreign project, named", answer.status);
        let same = answer.status == other.status && unnamed(&other.text) == unnamed(&answer.text);
        let refused = answer.status == 404 || path.ends_with("difs/assemble/");
        let guarded = matches!(guard, Guard::Api | Guard::Git);
        found.want(guarded && refused && same, || {
            format!(
                "{method} {path} from another project: {} {} / {} {}",
                answer.status, answer.text, other.status, other.text
            )
        });
    }
    let changed = store::changed(&before, &doors.dump().await);
    found.want(changed.is_empty(), || format!("{changed:?} changed by routes from another project"));
    let shop = api.call("app_get", json!({ "app": THERE })).await.unwrap();
    found.want(shop["state"] == "running", || format!("{shop}"));
}
