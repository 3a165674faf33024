//! Events as a shop's servers would send them: several causes, users, releases and browsers, about 7 KB of JSON each.
//!
//! They follow from a number, so that every peer gets the same ones.

use std::io::Write as _;

use serde_json::{Value, json};

/// Causes, each an issue of its own.
const CAUSES: u64 = 200;
/// Users.
const USERS: u64 = 5_000;
/// Releases.
const RELEASES: u64 = 12;
const TYPES: [&str; 8] = [
    "KeyError",
    "ValueError",
    "TimeoutError",
    "ConnectionError",
    "PermissionError",
    "TypeError",
    "LookupError",
    "RuntimeError",
];
const DOING: [&str; 10] =
    ["load", "price", "reserve", "charge", "ship", "refund", "render", "sign", "import", "notify"];
const WHAT: [&str; 10] =
    ["order", "cart", "invoice", "parcel", "voucher", "account", "session", "basket", "catalogue", "address"];
const BROWSERS: [&str; 4] = [
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:149.0) Gecko/20100101 Firefox/149.0",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/19.0 Safari/605.1.15",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
];

/// An even spread from a number (SplitMix64).
#[must_use]
pub(crate) fn spread(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn of<'t>(texts: &[&'t str], number: u64) -> &'t str {
    texts.get((number % texts.len().max(1) as u64) as usize).copied().unwrap_or_default()
}

/// The id of event `n` of a load.
#[must_use]
pub(crate) fn id(load: u64, n: u64) -> String {
    format!("{:016x}{:016x}", spread(load ^ 0x5157), spread(load.wrapping_mul(1_000_003).wrapping_add(n)))
}

/// Event `n` of a load, at `now` in seconds.
#[must_use]
pub(crate) fn event(load: u64, n: u64, now: f64) -> Value {
    let chance = spread(load.rotate_left(32) ^ n);
    // A few causes are frequent, most are rare.
    let cause = (chance % CAUSES).min((chance >> 20) % CAUSES);
    let (doing, what) = (of(&DOING, cause), of(&WHAT, cause / 10));
    let (user, order, release) = (chance >> 8, (chance >> 24) % 1_000_000, (chance >> 40) % RELEASES);
    let frame = |function: &str, file: &str, line: u64, own: bool| {
        json!({
            "function": function, "filename": file, "abs_path": format!("/srv/shop/{file}"),
            "module": file.trim_end_matches(".py").replace('/', "."), "lineno": line, "in_app": own,
            "pre_context": ["    basket = self.basket", "    if basket.empty:", "        return None", "    found = []",
                "    # as the warehouse counts"],
            "context_line": format!("    return {function}(basket, found)"),
            "post_context": ["", "", "def later(self):", "    return self.queue", ""],
            "vars": {"basket": format!("<Basket {order}>"), "found": "[]", "self": format!("<Order {order}>")},
        })
    };
    let mut frames = vec![
        frame("wsgi_app", "flask/app.py", 1488, false),
        frame("full_dispatch_request", "flask/app.py", 917, false),
        frame("dispatch_request", "flask/app.py", 902, false),
    ];
    for step in 0..6 {
        frames.push(frame(&format!("step_{step}"), &format!("shop/{what}_{}.py", step % 3), 10 + step, true));
    }
    frames.push(frame(&format!("{doing}_{what}"), &format!("shop/{what}.py"), 40 + cause, true));
    let crumbs: Vec<Value> = (0..10)
        .map(|i| {
            json!({"timestamp": now - i as f64, "category": "query", "type": "default", "level": "info",
                "message": format!("SELECT * FROM {what}s WHERE id = {}", order + i)})
        })
        .collect();
    json!({
        "event_id": id(load, n), "timestamp": now, "platform": "python",
        "level": if chance.is_multiple_of(11) { "warning" } else { "error" }, "logger": "shop",
        "server_name": format!("web-{}", chance % 3), "release": format!("shop@1.4.{release}"), "environment": "production",
        "transaction": format!("shop.{doing}_{what}"),
        "sdk": {"name": "sentry.python", "version": "2.75.0", "integrations": ["flask", "logging"],
            "packages": [{"name": "pypi:sentry-sdk", "version": "2.75.0"}]},
        "tags": {"tenant": format!("tenant-{}", user % 40), "region": of(&["eu", "us", "asia"], user)},
        "user": {"id": (user % USERS).to_string(), "email": format!("u{}@shop.example", user % USERS),
            "ip_address": format!("203.0.113.{}", user % 250)},
        "request": {"url": format!("https://shop.example/{what}s/{order}"), "method": of(&["GET", "POST"], user),
            "query_string": format!("page={}", order % 9),
            "headers": {"User-Agent": of(&BROWSERS, user), "Accept": "*/*", "Host": "shop.example"}},
        "contexts": {"runtime": {"name": "CPython", "version": "3.11.7"},
            "trace": {"trace_id": id(load ^ 1, n), "span_id": format!("{:016x}", spread(order))}},
        "breadcrumbs": {"values": crumbs},
        "exception": {"values": [{"type": of(&TYPES, cause), "value": format!("could not {doing} {what} {order}"),
            "mechanism": {"type": "flask", "handled": !chance.is_multiple_of(5)}, "stacktrace": {"frames": frames}}]},
        "modules": (0..30).map(|i| (format!("package-{i}"), json!(format!("1.{i}.0")))).collect::<serde_json::Map<_, _>>(),
    })
}

/// An envelope with event `n`, compressed as clients do.
#[must_use]
pub(crate) fn envelope(load: u64, n: u64) -> Vec<u8> {
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).map_or(0.0, |t| t.as_secs_f64());
    let event = event(load, n, now).to_string();
    let mut gzip = flate2::write::GzEncoder::new(Vec::with_capacity(2048), flate2::Compression::fast());
    let head = json!({"event_id": id(load, n), "sent_at": "2026-01-01T00:00:00Z"});
    let item = json!({"type": "event", "length": event.len(), "content_type": "application/json"});
    // Writing into memory does not fail.
    let _ = write!(gzip, "{head}\n{item}\n{event}\n");
    gzip.finish().unwrap_or_default()
}
