//! A framework: Next.js with its SDK, on the server and in the browser.

use std::{path::PathBuf, time::Duration};

use serde_json::json;

use super::{dsn, found};
use crate::harness::{
    Berth,
    external::{Npm, chromium_or_skip, npm_or_skip},
};

/// The newest SDK wants a package of a version that was never published; this is the newest that can be installed.
const PACKAGES: [&str; 4] = ["@sentry/nextjs@10.78.0", "next@16.4.6", "react@19.3.1", "react-dom@19.3.1"];

const FILES: [(&str, &str); 7] = [
    ("package.json", "{\"name\":\"shop\",\"private\":true}"),
    (
        "next.config.mjs",
        r#"import path from "node:path";
import { withSentryConfig } from "@sentry/nextjs/config";
export default withSentryConfig(
  { turbopack: { root: path.resolve("..") } },
  { silent: true, telemetry: false, sourcemaps: { disable: true } },
);
"#,
    ),
    (
        "instrumentation.js",
        r#"import * as Sentry from "@sentry/nextjs";
export function register() {
  Sentry.init({ dsn: process.env.SENTRY_DSN, release: "shop@5", environment: "production", tracesSampleRate: 1 });
}
export const onRequestError = Sentry.captureRequestError;
"#,
    ),
    (
        "instrumentation-client.js",
        r#"import * as Sentry from "@sentry/nextjs";
Sentry.init({ dsn: document.documentElement.dataset.dsn, release: "shop@5", environment: "production" });
export const onRouterTransitionStart = Sentry.captureRouterTransitionStart;
"#,
    ),
    (
        "app/layout.js",
        r#"export const dynamic = "force-dynamic";
export default function Layout({ children }) {
  return <html data-dsn={process.env.SENTRY_DSN}><body>{children}</body></html>;
}
"#,
    ),
    (
        "app/page.js",
        r#""use client";
import { useEffect } from "react";
function fillBasket(basket) { return basket.items.length; }
export default function Page() {
  useEffect(() => { setTimeout(() => fillBasket({})); }, []);
  return <p>Shop</p>;
}
"#,
    ),
    (
        "app/api/cart/route.js",
        r#"export const dynamic = "force-dynamic";
function priceOf(item) { throw new RangeError("no price for " + item); }
export async function GET() { return Response.json(priceOf("pear")); }
"#,
    ),
];

/// The app, built; it is kept beside the packages, as building takes half a minute and depends on nothing else.
async fn built(npm: &Npm) -> PathBuf {
    let sources: String = FILES.iter().map(|(name, text)| format!("{name}\n{text}")).collect();
    let digest = ring::digest::digest(&ring::digest::SHA256, sources.as_bytes());
    let name: String = digest.as_ref().iter().take(6).map(|b| format!("{b:02x}")).collect();
    let dir = npm.dir.join(format!("shop-{name}"));
    if dir.join(".next/BUILD_ID").exists() {
        return dir;
    }
    for (name, text) in FILES {
        let file = dir.join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
    let ran = next(npm, &dir).arg("build").output().await.unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{told}");
    dir
}

fn next(npm: &Npm, dir: &std::path::Path) -> tokio::process::Command {
    let mut command = npm.script(&npm.dir.join("node_modules/next/dist/bin/next"));
    command.current_dir(dir).env("NEXT_TELEMETRY_DISABLED", "1");
    command
}

#[tokio::test]
async fn next_js_sends_from_the_server_and_from_the_page() {
    let Some(chromium) = chromium_or_skip() else { return };
    let Some(npm) = npm_or_skip(&PACKAGES) else { return };
    let dir = built(&npm).await;
    let berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "shop").await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut server = next(&npm, &dir)
        .args(["start", "--hostname", "127.0.0.1", "--port", &port.to_string()])
        .env("SENTRY_DSN", &dsn.dsn)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let url = format!("http://127.0.0.1:{port}");
    let mut status = 0;
    for _ in 0..150 {
        if let Ok(answer) = super::client().get(format!("{url}/api/cart")).send().await {
            status = answer.status().as_u16();
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(status, 500, "the route fails");
    let issue = found(&berth, "type:RangeError runtime:node*", 1).await.remove(0);
    assert_eq!(
        (&issue["value"], &issue["handled"]),
        (&json!("no price for pear"), &json!(false)),
        "{issue:#}"
    );
    let got = berth.rest().get(&format!("/v1/errors/{}", issue["issue"].as_str().unwrap())).await.ok();
    assert!(got["latest"]["sdk"].as_str().unwrap().starts_with("sentry.javascript.nextjs"), "{got:#}");
    let mut browser = chromium.open(&url, &berth.scratch().join("profile"));
    let issue = found(&berth, "type:TypeError browser:*chrome*", 1).await.remove(0);
    assert_eq!((&issue["handled"], &issue["first_release"]), (&json!(false), &json!("shop@5")), "{issue:#}");
    browser.kill().await.unwrap();
    server.kill().await.unwrap();
    let told = berth.rest().get("/v1/apps/shop/dsn").await.ok();
    assert_eq!(told["dropped_24h"], json!([]), "{told:#}");
}
