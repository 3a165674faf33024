//! How well events are grouped, as figures: a labelled set of events with the nasty cases, and for every pair whether
//! the rules agree with the label. Beside ours stand two plain rules: the one of Bugsink 2.6 (type and message without
//! parameters of the outermost exception) and type with the innermost frame.
//!
//! `cargo nextest run -p berth-observe --test grouping_quality --no-capture` prints the table.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may fail this way")]

use std::collections::HashMap;

use berth_observe::errors::{event::Event, grouping};
use serde_json::{Value, json};

/// An event and the cause that a person would name.
struct Labelled {
    cause: String,
    body: Value,
}

#[derive(Default)]
struct Set(Vec<Labelled>);

impl Set {
    fn add(&mut self, cause: impl Into<String>, body: Value) {
        self.0.push(Labelled { cause: cause.into(), body });
    }
}

fn frame(file: &str, function: &str, line: usize) -> Value {
    json!({"filename": file, "function": function, "lineno": line, "in_app": true})
}

fn library(file: &str, function: &str, line: usize) -> Value {
    json!({"filename": format!("node_modules/{file}"), "abs_path": format!("/app/node_modules/{file}"), "function": function, "lineno": line, "in_app": false})
}

fn raised(platform: &str, kind: &str, value: &str, frames: Vec<Value>) -> Value {
    json!({"platform": platform, "exception": {"values": [{"type": kind, "value": value, "stacktrace": {"frames": frames}}]}})
}

/// Six causes, each in four releases with moved lines and other hosts' paths.
fn moved_lines(set: &mut Set) {
    for cause in 0..6 {
        for release in 0..4 {
            let root = ["/srv/a", "/srv/b/releases/17", "/app", "/home/ci/build"][release];
            let shift = release * 7;
            let name = ["cart", "order", "user", "stock", "tax", "mail"][cause];
            let frames = vec![
                frame(&format!("{root}/shop/server.py"), "dispatch", 10 + shift),
                frame(&format!("{root}/shop/views_{cause}.py"), &format!("view_{name}"), 30 + shift),
                frame(&format!("{root}/shop/models.py"), &format!("load_{name}"), 80 + shift + cause),
            ];
            set.add(format!("lines-{cause}"), raised("python", "KeyError", &format!("'k{release}'"), frames));
        }
    }
}

/// Five messages with parameters, logged without an exception.
fn parametrised_messages(set: &mut Set) {
    let samples: [[&str; 4]; 5] = [
        ["user 17 not found", "user 99812 not found", "user 3 not found", "user 0 not found"],
        [
            "timeout after 30s on db-1.internal",
            "timeout after 5s on db-2.internal",
            "timeout after 31s on db-1.internal",
            "timeout after 12s on db-7.internal",
        ],
        [
            "order 7f9c24e5-1d2f-4a6b-8c3d-9e0f1a2b3c4d is late",
            "order 11111111-2222-3333-4444-555555555555 is late",
            "order 7f9c24e5-1d2f-4a6b-8c3d-9e0f1a2b3c4e is late",
            "order aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee is late",
        ],
        [
            "mail to ann@shop.example bounced",
            "mail to bob@x.example bounced",
            "mail to c.d+e@y.example bounced",
            "mail to f@z.example bounced",
        ],
        [
            "GET https://api.example/a?id=1 gave 502",
            "GET https://api.example/b gave 503",
            "GET https://api.example/c/2 gave 502",
            "GET https://api.example/d gave 500",
        ],
    ];
    for (cause, texts) in samples.iter().enumerate() {
        for text in texts {
            set.add(
                format!("message-{cause}"),
                json!({"platform": "python", "level": "error", "message": text}),
            );
        }
    }
}

/// Four callers of one helper that raises for all: the causes lie in the callers.
fn one_throw_helper(set: &mut Set) {
    for (cause, (caller, text)) in [
        ("pay", "card is missing"),
        ("ship", "address is missing"),
        ("refund", "reason is missing"),
        ("login", "password is missing"),
    ]
    .iter()
    .enumerate()
    {
        for n in 0..4 {
            let frames = vec![
                frame("src/server.ts", "handle", 5 + n),
                frame(&format!("src/{caller}.ts"), caller, 20 + n),
                frame("src/assert.ts", "required", 3),
            ];
            set.add(format!("helper-{cause}"), raised("node", "AssertionError", text, frames));
        }
    }
}

/// Five causes in a minified bundle, in builds with other file names and letters; maps have put names right.
fn two_builds(set: &mut Set) {
    for cause in 0..5 {
        for (build, hash) in ["BnU9Lell", "C2k7QpAx", "Dz81mmQa", "E5t6y7Uv"].iter().enumerate() {
            let name = ["priceOf", "renderCart", "applyCoupon", "sortOrders", "openMenu"][cause];
            let frames = vec![
                json!({"filename": format!("https://shop.example/assets/vendor-{hash}.js"), "function": "Yt", "lineno": 1, "colno": 900 + build, "in_app": false}),
                json!({"filename": format!("https://shop.example/assets/index-{hash}.js"), "function": name, "lineno": 1, "colno": 4000 + build * 13 + cause, "in_app": true}),
            ];
            let value = format!(
                "Cannot read properties of undefined (reading '{}')",
                ["amount", "items", "code", "date", "open"][cause]
            );
            set.add(format!("build-{cause}"), raised("javascript", "TypeError", &value, frames));
        }
    }
}

/// Four causes with async plumbing that differs from target to target of the compiler.
fn woven_async(set: &mut Set) {
    for cause in 0..4 {
        let (outer, inner) = [
            ("loadCart", "fetchPrices"),
            ("saveOrder", "writeRow"),
            ("sendMail", "connect"),
            ("sync", "pull"),
        ][cause];
        let own = [frame("src/jobs.ts", outer, 10), frame("src/io.ts", inner, 40)];
        let variants = [
            vec![own[0].clone(), own[1].clone()],
            vec![
                frame("src/jobs.ts", &format!("async {outer}"), 10),
                frame("src/io.ts", &format!("async {inner}"), 41),
            ],
            vec![
                own[0].clone(),
                frame("src/jobs.ts", "__awaiter", 2),
                frame("src/jobs.ts", "Generator.next", 2),
                own[1].clone(),
            ],
            vec![
                json!({"filename": "node:internal/process/task_queues", "function": "process.processTicksAndRejections", "in_app": false}),
                own[0].clone(),
                frame("src/jobs.ts", "step", 3),
                own[1].clone(),
            ],
        ];
        for frames in variants {
            set.add(format!("async-{cause}"), raised("node", "Error", "fetch failed", frames));
        }
    }
}

/// Three recursions of many depths.
fn recursion(set: &mut Set) {
    for cause in 0..3 {
        for depth in [1, 3, 20, 90] {
            let mut frames = vec![frame("tree.py", ["render", "count", "prune"][cause], 5)];
            for level in 0..depth {
                frames.extend([
                    frame("tree.py", "walk", 20),
                    frame("tree.py", &format!("visit_{}", ["a", "b", "c"][cause]), 30 + level % 2),
                ]);
            }
            set.add(
                format!("recursion-{cause}"),
                raised("python", "RecursionError", "maximum recursion depth exceeded", frames),
            );
        }
    }
}

/// Four root causes behind one wrapping exception.
fn wrapped(set: &mut Set) {
    for (cause, (kind, value, function)) in [
        ("ConnectionError", "refused", "connect"),
        ("TimeoutError", "timed out", "read"),
        ("JSONDecodeError", "line 3 column 9", "decode"),
        ("PermissionError", "denied: /tmp/a17", "open_file"),
    ]
    .iter()
    .enumerate()
    {
        for n in 0..4 {
            set.add(
                format!("wrapped-{cause}"),
                json!({"platform": "python", "exception": {"values": [
                    {"type": kind, "value": format!("{value} {n}"), "stacktrace": {"frames": [frame("client.py", "call", 7), frame("client.py", function, 50 + n)]}},
                    {"type": "SyncError", "value": format!("sync {n} failed"), "stacktrace": {"frames": [frame("sync.py", "run", 12 + n), frame("sync.py", "sync_all", 40)]}},
                ]}}),
            );
        }
    }
}

/// Three causes seen through different callers, where the cause is the callee.
fn other_callers(set: &mut Set) {
    for cause in 0..3 {
        let callee = ["parse_price", "load_tax", "find_stock"][cause];
        for (n, caller) in ["cart", "order", "invoice", "report"].iter().enumerate() {
            let frames = vec![
                frame("web.py", "handle", 3),
                frame(&format!("{caller}.py"), caller, 10 + n),
                frame("core.py", callee, 70 + cause),
            ];
            set.add(
                format!("callers-{cause}"),
                raised("python", "ValueError", &format!("bad value {n} in row {}", n * 31), frames),
            );
        }
    }
}

/// Three causes with stacks of packages only.
fn packages_only(set: &mut Set) {
    for cause in 0..3 {
        for n in 0..4 {
            let (package, function) =
                [("pg/client.js", "query"), ("redis/socket.js", "onError"), ("ws/sender.js", "send")][cause];
            let frames =
                vec![library("express/router.js", "next", 100 + n), library(package, function, 30 + n)];
            set.add(
                format!("packages-{cause}"),
                raised("node", "Error", &format!("connect ECONNREFUSED 10.0.0.{n}:54{n}2"), frames),
            );
        }
    }
}

/// Three causes that the app names itself by a fingerprint, with unlike texts and stacks.
fn fingerprints(set: &mut Set) {
    for cause in 0..3 {
        for n in 0..4 {
            let mut body = raised(
                "python",
                ["A", "B", "C", "D"][n],
                &format!("text {n}"),
                vec![frame(&format!("m{n}.py"), &format!("func_{}", ["x", "y", "z", "w"][n]), 1)],
            );
            body["fingerprint"] = json!([format!("payment-{}", ["visa", "paypal", "sepa"][cause])]);
            set.add(format!("fingerprint-{cause}"), body);
        }
    }
}

fn labelled() -> Vec<Labelled> {
    let mut set = Set::default();
    for add in [
        moved_lines,
        parametrised_messages,
        one_throw_helper,
        two_builds,
        woven_async,
        recursion,
        wrapped,
        other_callers,
        packages_only,
        fingerprints,
    ] {
        add(&mut set);
    }
    set.0
}

/// Groups as the digest does: by the strict key, else by the loose one, else anew.
fn ours(set: &[Labelled]) -> Vec<usize> {
    let mut keys: HashMap<String, usize> = HashMap::new();
    let mut next = 0;
    set.iter()
        .map(|l| {
            let of = grouping::group(1, &Event::read(&l.body).unwrap());
            let known = keys.get(&of.strict).or_else(|| of.loose.as_ref().and_then(|k| keys.get(k))).copied();
            let group = known.unwrap_or_else(|| {
                next += 1;
                next
            });
            for key in [Some(of.strict), of.loose].into_iter().flatten() {
                keys.entry(key).or_insert(group);
            }
            group
        })
        .collect()
}

fn by(set: &[Labelled], key: impl Fn(&Event) -> String) -> Vec<usize> {
    let mut keys: HashMap<String, usize> = HashMap::new();
    set.iter()
        .map(|l| {
            let next = keys.len();
            *keys.entry(key(&Event::read(&l.body).unwrap())).or_insert(next)
        })
        .collect()
}

/// Digits, addresses and ids taken out, as Bugsink's rule does by its patterns.
fn plain(text: &str) -> String {
    let words = text.lines().next().unwrap_or_default().split(' ');
    words
        .map(|w| if w.chars().any(|c| c.is_ascii_digit() || c == '@') { "*" } else { w })
        .collect::<Vec<_>>()
        .join(" ")
}

struct Figures {
    precision: f64,
    recall: f64,
}

fn figures(set: &[Labelled], groups: &[usize]) -> Figures {
    let (mut both, mut grouped, mut same) = (0_u32, 0_u32, 0_u32);
    for a in 0..set.len() {
        for b in a + 1..set.len() {
            let (label, group) = (set[a].cause == set[b].cause, groups[a] == groups[b]);
            same += u32::from(label);
            grouped += u32::from(group);
            both += u32::from(label && group);
        }
    }
    Figures {
        precision: f64::from(both) / f64::from(grouped.max(1)),
        recall: f64::from(both) / f64::from(same),
    }
}

#[test]
fn grouping_agrees_with_people_better_than_plain_rules() {
    let set = labelled();
    let causes: std::collections::HashSet<&str> = set.iter().map(|l| l.cause.as_str()).collect();
    assert!(set.len() >= 150 && causes.len() >= 40, "{} events of {} causes", set.len(), causes.len());
    let groups = ours(&set);
    let berth = figures(&set, &groups);
    let message = figures(
        &set,
        &by(&set, |e| match e.fingerprint.is_empty() {
            true => format!("{}: {}", e.kind().split(' ').next().unwrap_or_default(), plain(&e.value())),
            false => e.fingerprint.join("/"),
        }),
    );
    let frame = figures(
        &set,
        &by(&set, |e| format!("{} {:?}", e.kind(), e.main_stack().last().and_then(|f| f.function.clone()))),
    );
    println!("{} events of {} causes, by pairs", set.len(), causes.len());
    println!("{:<28} {:>9} {:>7}", "rule", "precision", "recall");
    for (name, of) in
        [("Berth g1", &berth), ("type and message (Bugsink)", &message), ("type and innermost frame", &frame)]
    {
        println!("{name:<28} {:>9.3} {:>7.3}", of.precision, of.recall);
    }
    let wrong: Vec<String> = set
        .iter()
        .zip(&groups)
        .filter(|(l, g)| set.iter().zip(&groups).any(|(m, h)| (l.cause == m.cause) != (*g == h)))
        .map(|(l, g)| format!("{} in {g}", l.cause))
        .collect();
    println!("not as labelled: {wrong:?}");
    let f1 = |f: &Figures| 2.0 * f.precision * f.recall / (f.precision + f.recall);
    assert!(
        berth.precision >= 0.97 && berth.recall >= 0.97,
        "precision {}, recall {}",
        berth.precision,
        berth.recall
    );
    assert!(f1(&berth) > f1(&message) && f1(&berth) > f1(&frame));
}
