//! Source maps: from the minified frame to the line that somebody wrote.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::json;

use super::{client, dsn, envelope, found, send};
use crate::harness::{Berth, external::npm_or_skip};

/// What a bundler leaves: one minified line, and the map to two files that people wrote.
const MINIFIED: &str =
    "function r(t){return t.price.amount}function n(){return r({})}n();\n//# sourceMappingURL=main.js.map\n";

fn minified(dir: &std::path::Path) {
    // Each segment: column in the minified line, source, line and column there, and the name that stood there before
    // (Source Map revision 3).
    let source = "function priceOf(item) {\n  return item.price.amount;\n}\n\nfunction checkout() {\n  return priceOf({});\n}\ncheckout();\n";
    let segments = [
        (0, 0, 0, None),
        (9, 0, 9, Some("A")),
        (11, 0, 17, None),
        (14, 1, 2, None),
        (21, 1, 9, None),
        (36, 4, 0, None),
        (45, 4, 9, Some("C")),
        (49, 5, 2, None),
        (56, 5, 9, None),
        (62, 7, 0, None),
    ];
    let mut mappings = Vec::new();
    let mut before = (0, 0, 0);
    for (column, line, at, name) in segments {
        let place = format!("{}A{}{}", vlq(column - before.0), vlq(line - before.1), vlq(at - before.2));
        mappings.push(format!("{place}{}", name.unwrap_or_default()));
        before = (column, line, at);
    }
    let map = json!({
        "version": 3, "file": "main.js", "sources": ["../src/cart.ts"], "sourcesContent": [source],
        "names": ["priceOf", "checkout"],
        "mappings": mappings.join(","),
    });
    std::fs::write(dir.join("main.js"), MINIFIED).unwrap();
    std::fs::write(dir.join("main.js.map"), map.to_string()).unwrap();
}

/// A number as source maps write it: base 64 of 5 bits each, the sign in the lowest.
fn vlq(number: i64) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut rest = usize::try_from(number.abs()).unwrap() << 1 | usize::from(number < 0);
    let mut text = String::new();
    loop {
        let digit = rest & 31;
        rest >>= 5;
        text.push(char::from(DIGITS[digit | if rest > 0 { 32 } else { 0 }]));
        if rest == 0 {
            return text;
        }
    }
}

#[tokio::test]
async fn sentry_cli_brings_maps_and_late_ones_count_too() {
    let Some(npm) = npm_or_skip(&["@sentry/cli@3.8.0"]) else { return };
    let berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "shop").await;
    let token = berth.token("ci", &["read", "deploy"], &[]).await;
    let dir = berth.scratch().join("dist");
    std::fs::create_dir(&dir).unwrap();
    minified(&dir);
    let cli = async |arguments: &[&str]| {
        let mut command = npm.command("sentry-cli");
        command
            .args(arguments)
            .current_dir(&dir)
            .env("SENTRY_URL", &berth.control_url)
            .env("SENTRY_AUTH_TOKEN", &token)
            .env("SENTRY_ORG", "default")
            .env("SENTRY_PROJECT", "shop")
            .env("SENTRY_DSN", &dsn.dsn);
        let ran = command.output().await.unwrap();
        let text =
            format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success(), "{arguments:?}: {text}");
        text
    };
    let info = cli(&["info"]).await;
    assert!(info.contains("ci"), "{info}");
    cli(&["sourcemaps", "inject", "."]).await;
    let script = std::fs::read_to_string(dir.join("main.js")).unwrap();
    let debug_id = script.split("debugId=").nth(1).unwrap().trim().to_owned();
    // `sourcemaps inject` puts a line before the code.
    let line = script.lines().position(|l| l.contains("function r(t)")).unwrap() + 1;
    let column = script.lines().nth(line - 1).unwrap().find("t.price").unwrap() + 1;
    let failed = |n: u32| {
        json!({
            "event_id": format!("{n:032x}"), "platform": "javascript", "release": "shop@1.0",
            "exception": {"values": [{"type": "TypeError", "value": "Cannot read properties of undefined (reading 'amount')",
                "stacktrace": {"frames": [
                    {"abs_path": "https://shop.example/main.js", "filename": "https://shop.example/main.js", "function": "r",
                        "lineno": line, "colno": column, "in_app": true}]}}]},
            "debug_meta": {"images": [{"type": "sourcemap", "code_file": "https://shop.example/main.js", "debug_id": debug_id}]},
        })
    };
    // First the error, then the map.
    assert_eq!(send(&dsn, envelope(&failed(1))).await.0, StatusCode::OK);
    let issue = found(&berth, "type:TypeError", 1).await.remove(0);
    let path = format!("/v1/errors/{}", issue["issue"].as_str().unwrap());
    let got = berth.rest().get(&path).await.ok();
    assert!(got["latest"]["map_problems"][0].as_str().unwrap().contains(&debug_id), "{got:#}");
    cli(&["releases", "new", "shop@1.0"]).await;
    let uploaded = cli(&["sourcemaps", "upload", "--release", "shop@1.0", "."]).await;
    assert!(!uploaded.to_lowercase().contains("error"), "{uploaded}");
    cli(&["releases", "finalize", "shop@1.0"]).await;
    cli(&["deploys", "new", "--release", "shop@1.0", "-e", "production"]).await;
    let mut place = String::new();
    for _ in 0..100 {
        let got = berth.rest().get(&path).await.ok();
        place = got["latest"]["exceptions"][0]["frames"][0]["place"].as_str().unwrap().to_owned();
        if place.starts_with("priceOf") {
            assert_eq!(got["culprit"], "priceOf in src/cart.ts", "{got:#}");
            assert_eq!(got["latest"].get("map_problems"), None);
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(place.starts_with("priceOf (src/cart.ts:2"), "{place}");
    found(&berth, "function:priceOf file:src/cart.ts", 1).await;
    // Now the map is there first, and the event joins its issue.
    assert_eq!(send(&dsn, envelope(&failed(2))).await.0, StatusCode::OK);
    for _ in 0..100 {
        let got = berth.rest().get(&path).await.ok();
        if got["events"] == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let event = berth.rest().get(&format!("{path}/event?event={:032x}", 2)).await.ok();
    let code = event["event"]["exceptions"][0]["frames"][0]["code"].as_str().unwrap().to_owned();
    assert!(code.contains(">   return item.price.amount;"), "{code}");
    cli(&["send-event", "-m", "sent by hand"]).await;
    found(&berth, "\"sent by hand\"", 1).await;
    assert!(cli(&["releases", "list"]).await.contains("shop@1.0"));
    let foreign = berth.token("reader", &["read"], &[]).await;
    let refused = client()
        .post(format!("{}/api/0/organizations/default/releases/", berth.control_url))
        .bearer_auth(foreign)
        .json(&json!({ "version": "x", "projects": ["shop"] }))
        .send()
        .await
        .unwrap();
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
}
