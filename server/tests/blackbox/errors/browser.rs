//! A page in a real browser: built by Vite with Sentry's plugin, which uploads its maps, and opened in Chromium.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Dsn, dsn, found};
use crate::harness::{
    Berth,
    external::{Chromium, Npm, chromium_or_skip, npm_or_skip},
};

const PACKAGES: [&str; 3] = ["@sentry/browser@11.12.0", "@sentry/vite-plugin@11.9.0", "vite@8.3.8"];

const CONFIG: &str = r#"
import { sentryVitePlugin } from "@sentry/vite-plugin";
export default {
  build: { sourcemap: "hidden" },
  plugins: [sentryVitePlugin({
    url: process.env.SENTRY_URL, authToken: process.env.SENTRY_AUTH_TOKEN, org: "default", project: "shop",
    release: { name: "shop@7", setCommits: false }, telemetry: false,
    sourcemaps: { filesToDeleteAfterUpload: ["dist/**/*.map"] },
  })],
};
"#;

/// What fails, in a file of its own.
const CART: &str = r#"export interface Item { price?: { amount: number; rebate: { share: number } } }

export function priceOf(item: Item): number {
  const amount = item.price!.amount;
  return Math.round(amount * 100) / 100;
}

export function rebateOf(item: Item): number {
  const share = item.price!.rebate.share;
  return Math.round(share * 100) / 100;
}
"#;

const MAIN: &str = r#"import * as Sentry from "@sentry/browser";
import { priceOf, rebateOf } from "./cart";

const query = new URLSearchParams(location.search);
Sentry.init({
  dsn: query.get("dsn")!,
  tunnel: query.get("tunnel") ?? undefined,
  release: "shop@7",
  environment: "production",
  integrations: [Sentry.browserTracingIntegration()],
  tracesSampleRate: 1,
  enableLogs: true,
});
Sentry.setUser({ id: "7", email: "ann@shop.example" });
Sentry.setTag("via", query.get("tunnel") ? "tunnel" : "dsn");
Sentry.addBreadcrumb({ category: "cart", message: "opened the cart" });
try {
  priceOf({});
} catch (error) {
  Sentry.captureException(error);
  Sentry.captureException(new Error("the checkout failed", { cause: error }));
}
Sentry.withScope((scope) => {
  scope.addAttachment({ filename: "cart.json", data: "[]" });
  Sentry.captureMessage("a cart was kept");
});
Sentry.logger.info("the page is open");
setTimeout(() => rebateOf(JSON.parse('{"price":{"amount":1}}')), 20);
setTimeout(() => Promise.reject(new RangeError("nobody waits for this")), 40);
"#;

/// Builds the page; the folder to be served.
async fn build(berth: &Berth, npm: &Npm) -> PathBuf {
    let site = berth.scratch().join("site");
    std::fs::create_dir_all(site.join("src")).unwrap();
    std::os::unix::fs::symlink(npm.dir.join("node_modules"), site.join("node_modules")).unwrap();
    for (name, text) in [
        ("vite.config.mjs", CONFIG),
        ("src/cart.ts", CART),
        ("src/main.ts", MAIN),
        ("package.json", "{\"type\":\"module\"}"),
        ("index.html", "<!doctype html><title>Shop</title><script type=module src=/src/main.ts></script>"),
    ] {
        std::fs::write(site.join(name), text).unwrap();
    }
    let token = berth.token("ci", &["read", "deploy"], &[]).await;
    // Where the plugin's program keeps what it knows: it does not make the folder itself.
    let config = berth.scratch().join("sentry");
    std::fs::create_dir_all(&config).unwrap();
    let built = npm
        .command("vite")
        .arg("build")
        .current_dir(&site)
        .env("SENTRY_URL", &berth.control_url)
        .env("SENTRY_AUTH_TOKEN", token)
        .env("SENTRY_CONFIG_DIR", config)
        .output()
        .await
        .unwrap();
    let told =
        format!("{}{}", String::from_utf8_lossy(&built.stdout), String::from_utf8_lossy(&built.stderr));
    assert!(built.status.success() && told.contains("Successfully uploaded source maps"), "{told}");
    let dist = site.join("dist");
    let assets: Vec<String> = std::fs::read_dir(dist.join("assets"))
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    assert!(
        assets.iter().any(|n| n.ends_with(".js")) && !assets.iter().any(|n| n.ends_with(".map")),
        "{assets:?}"
    );
    dist
}

/// Opens the page and waits until its five errors are there.
async fn open(berth: &Berth, chromium: &Chromium, dsn: &Dsn, via: &str) -> Vec<Value> {
    let port = berth.http_url.rsplit_once(':').unwrap().1;
    let encoded: String = url::form_urlencoded::byte_serialize(dsn.dsn.as_bytes()).collect();
    let tunnel = if via == "tunnel" { "&tunnel=/_berth/errors" } else { "" };
    let page = format!("http://shop.localhost:{port}/?dsn={encoded}{tunnel}");
    let profile: &Path = &berth.scratch().join(format!("profile-{via}"));
    let mut browser = chromium.open(&page, profile);
    let issues = found(berth, &format!("via:{via} release:shop@7"), 5).await;
    browser.kill().await.unwrap();
    issues
}

#[tokio::test]
async fn a_page_in_a_browser_is_shown_by_its_source() {
    let Some(chromium) = chromium_or_skip() else { return };
    let Some(npm) = npm_or_skip(&PACKAGES) else { return };
    let berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "shop").await;
    let dist = build(&berth, &npm).await;
    berth.deploy_folder(&dist, "shop").await;
    let issues = open(&berth, &chromium, &dsn, "dsn").await;
    let with = |culprit: &str| {
        let found = issues.iter().find(|i| i["culprit"].as_str().is_some_and(|c| c.contains(culprit)));
        found.unwrap_or_else(|| panic!("no issue at {culprit}: {issues:#?}")).clone()
    };
    let handled = with("priceOf");
    assert_eq!((&handled["kind"], &handled["handled"]), (&json!("TypeError"), &json!(true)), "{handled:#}");
    let got = berth.rest().get(&format!("/v1/errors/{}", handled["issue"].as_str().unwrap())).await.ok();
    let frame = &got["latest"]["exceptions"][0]["frames"][0];
    assert!(frame["place"].as_str().unwrap().starts_with("priceOf (src/cart.ts:4:"), "{got:#}");
    assert!(frame["code"].as_str().unwrap().contains(">   const amount = item.price!.amount;"), "{frame:#}");
    assert!(got["latest"]["breadcrumbs"].to_string().contains("opened the cart"), "{got:#}");
    assert!(got["latest"]["user"].as_str().unwrap().contains("ann@shop.example"), "{got:#}");
    assert!(got["latest"]["tags"].to_string().contains("Chrom"), "{got:#}");
    let unhandled = with("rebateOf");
    assert_eq!(unhandled["handled"], false, "{unhandled:#}");
    let chained = issues.iter().find(|i| i["value"] == "the checkout failed").expect("the chained one");
    let got = berth.rest().get(&format!("/v1/errors/{}", chained["issue"].as_str().unwrap())).await.ok();
    let mut kinds: Vec<&str> =
        got["latest"]["exceptions"].as_array().unwrap().iter().filter_map(|e| e["kind"].as_str()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["Error", "TypeError"], "{got:#}");
    let kept = issues.iter().find(|i| i["kind"] == "a cart was kept").expect("the message");
    let got = berth.rest().get(&format!("/v1/errors/{}", kept["issue"].as_str().unwrap())).await.ok();
    let files = got["latest"]["attachments"].as_array().unwrap();
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!((&files[0]["name"], &files[0]["bytes"]), (&json!("cart.json"), &json!(2)));
    found(&berth, "function:rebateOf file:src/cart.ts handled:false", 1).await;
    // The same on the way over the app's own host; the same issues.
    let again = open(&berth, &chromium, &dsn, "tunnel").await;
    let names = |issues: &[Value]| {
        let mut names: Vec<String> = issues.iter().map(|i| i["issue"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&again), names(&issues));
    let told = berth.rest().get("/v1/apps/shop/dsn").await.ok();
    assert!(told["accepted_24h"].as_i64() >= Some(10), "{told:#}");
}
