//! Source maps in an image that Berth built: errors of the server and of the page show the code that a person wrote, and
//! visitors do not see it.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{dsn, envelope, found, send};
use crate::harness::{Berth, docker_or_skip};

const FILES: [(&str, &str); 4] = [
    (
        "package.json",
        r#"{"name":"shop","private":true,"dependencies":{"@sentry/node":"11.12.0","esbuild":"0.28.2"}}"#,
    ),
    (
        "Dockerfile",
        r#"FROM node:22-slim
WORKDIR /app
COPY package.json ./
RUN npm install --no-audit --no-fund
COPY src ./src
RUN npx esbuild src/server.ts --bundle --minify --sourcemap --platform=node --external:@sentry/node --outfile=dist/server.js
RUN npx esbuild src/page.ts --bundle --minify --sourcemap --outfile=dist/public/assets/page.js
CMD ["node", "dist/server.js"]
"#,
    ),
    // What the SDK sends stays in the container, for the test to fetch: it need not reach the daemon from there.
    (
        "src/server.ts",
        r#"import * as fs from "node:fs";
import * as http from "node:http";
import * as zlib from "node:zlib";
import * as Sentry from "@sentry/node";

const sent: string[] = [];
http.createServer((request, response) => {
  const parts: Buffer[] = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    const body = Buffer.concat(parts);
    sent.push((request.headers["content-encoding"] === "gzip" ? zlib.gunzipSync(body) : body).toString("base64"));
    response.end("{}");
  });
}).listen(9999, "127.0.0.1");

Sentry.init({ dsn: "http://key@127.0.0.1:9999/1", release: "shop@1", environment: "production" });

interface Item { price?: { amount: number } }

function priceOf(item: Item): number {
  return item.price!.amount;
}

http.createServer(async (request, response) => {
  const url = request.url ?? "/";
  if (url === "/fail") {
    try {
      priceOf({});
    } catch (error) {
      Sentry.captureException(error);
    }
    await Sentry.flush(5000);
    return response.end("failed");
  }
  if (url === "/sent") return response.end(JSON.stringify(sent));
  if (url.startsWith("/assets/") && !url.includes("..")) {
    return response.end(fs.readFileSync("dist/public" + url));
  }
  response.end("shop");
}).listen(Number(process.env.PORT));
"#,
    ),
    (
        "src/page.ts",
        r#"function countItems(cart: { items?: string[] }): number {
  return cart.items!.length;
}

document.title = String(countItems((window as any).cart));
"#,
    ),
];

/// Waits until an issue shows all of these words.
async fn shows(berth: &Berth, query: &str, words: &[&str]) {
    let mut detail = String::new();
    for _ in 0..100 {
        let issue = found(berth, query, 1).await.remove(0);
        let path = format!("/v1/errors/{}", issue["issue"].as_str().unwrap());
        detail = berth.rest().get(&path).await.ok().to_string();
        if words.iter().all(|word| detail.contains(word)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("{words:?} are not all in {detail}");
}

#[tokio::test]
async fn maps_of_an_image_are_kept_private_and_used() {
    if !docker_or_skip() {
        return;
    }
    let berth = Berth::start().await;
    let dsn = dsn(&berth, "shop").await;
    let folder = berth.scratch().join("shop");
    for (name, text) in FILES {
        let file = folder.join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
    let live = berth.deploy_folder(&folder, "shop").await;

    // At once, whether the maps were taken by now or not.
    assert_eq!(berth.visit("shop", "/fail").await.status, 200);
    let sent: Vec<String> = serde_json::from_value(berth.visit("shop", "/sent").await.json()).unwrap();
    for body in &sent {
        assert_eq!(send(&dsn, STANDARD.decode(body).unwrap()).await.0, StatusCode::OK);
    }
    shows(&berth, "type:TypeError", &["priceOf (src/server.ts:22", "return item.price!.amount;"]).await;

    let name = live.deployment.replace('#', "%23");
    let log = berth.rest().get(&format!("/v1/deployments/{name}/log")).await.ok().to_string();
    assert!(log.contains("2 source maps in the image are kept for reading errors and not served"), "{log}");

    // A page names neither a release nor a debug id, and knows the script by where the app serves it.
    let script = berth.visit("shop", "/assets/page.js").await;
    assert_eq!(script.status, 200);
    let script = script.text;
    let column = script.lines().next().unwrap().find(".items").unwrap() + 2;
    let frame = json!({ "abs_path": "https://shop.example/assets/page.js", "function": "e", "lineno": 1,
        "colno": column, "in_app": true });
    let event = json!({ "event_id": format!("{:032x}", 7), "platform": "javascript", "exception": { "values": [
        { "type": "RangeError", "value": "no items", "stacktrace": { "frames": [frame] } }] } });
    assert_eq!(send(&dsn, envelope(&event)).await.0, StatusCode::OK);
    shows(&berth, "type:RangeError", &["src/page.ts:2", "return cart.items!.length;"]).await;

    let status = async |path: &str| berth.visit("shop", path).await.status;
    assert_eq!((status("/assets/page.js.map").await, status("/assets/page.js%2emap").await), (404, 404));
    let public = json!({ "public_maps": true });
    berth.rest().send(Method::PATCH, "/v1/apps/shop/errors/rules", Some(public)).await.ok();
    assert_eq!(status("/assets/page.js.map").await, 404, "it counts from the next deployment");
    let set = json!({ "variables": { "EXTRA": "x" }, "redeploy": true });
    berth.rest().send(Method::PUT, "/v1/apps/shop/variables", Some(set)).await.ok();
    let served = async {
        while status("/assets/page.js.map").await != 200 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), served).await.expect("the map to be served");
}
