//! Certificates for names that nobody added and an app approves, got while their visitors wait.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    Ports, World, berth,
    pebble::{Options, Pebble, pebble_or_skip},
};
use crate::harness::docker_or_skip;

/// A shop with customers' names: `/ask` says whether it knows one, `/allow` and `/deny` change that, and `/asked` tells
/// how often it was asked.
const SHOP: &str = r#"
const known = new Set();
const asked = {};
require("node:http").createServer((req, res) => {
  const url = new URL(req.url, "http://shop");
  const name = url.searchParams.get("domain");
  const say = (status, text) => { res.writeHead(status); res.end(text); };
  switch (url.pathname) {
    case "/ask":
      asked[name] = (asked[name] ?? 0) + 1;
      return say(known.has(name) ? 200 : 404, "");
    case "/allow":
      name.split(",").forEach((n) => known.add(n));
      return say(200, "");
    case "/deny":
      known.delete(name);
      return say(200, "");
    case "/asked":
      return say(200, JSON.stringify(asked));
    default:
      return say(200, `the shop of ${req.headers.host.split(":")[0]}`);
  }
}).listen(8080, "0.0.0.0");
"#;

/// A daemon with Docker, a shop that is asked about names, and a site that is not.
async fn world(options: impl FnOnce(Options<'static>) -> Options<'static>) -> World {
    let ports = Ports::free();
    let pebble = Pebble::start(&options(ports.options())).await;
    let berth = berth(&ports, &pebble, &["--docker-host", ""]).await;
    let world = World { berth, pebble, https: ports.https };
    world.site("site").await;
    let app = json!({ "name": "shop", "settings": { "on_demand_ask": "/ask?by=berth", "port": 8080 } });
    world.berth.rest().post("/v1/apps", app).await.ok();
    let files = json!({
        "Dockerfile": "FROM node:22-slim\nCOPY server.js /server.js\nCMD [\"node\", \"/server.js\"]\n",
        "server.js": SHOP,
    });
    let body = json!({ "files": files, "wait_s": 50 });
    let live = world.berth.rest().post("/v1/apps/shop/deployments", body).await.ok();
    assert_eq!(live["state"], "live", "{live:#}");
    world
}

impl World {
    async fn shop(&self, path: &str) -> String {
        self.berth.visit("shop", path).await.text
    }

    async fn settings(&self, body: Value) {
        self.berth.rest().send(reqwest::Method::PATCH, "/v1/apps/shop", Some(body)).await.ok();
    }

    async fn refuses(&self, domain: &str) -> bool {
        !self.openssl(domain, &[]).await.contains("BEGIN CERTIFICATE")
    }

    async fn listed(&self) -> Vec<(String, String)> {
        let page = self.berth.rest().get("/v1/domains").await.ok();
        let text = |d: &Value, key: &str| d[key].as_str().unwrap().to_owned();
        page["domains"].as_array().unwrap().iter().map(|d| (text(d, "domain"), text(d, "origin"))).collect()
    }
}

#[tokio::test]
async fn a_name_that_an_app_approves_is_served_while_its_first_visitor_waits() {
    if !pebble_or_skip() || !docker_or_skip() {
        return;
    }
    let mut world = world(|o| o).await;
    world.add(json!({ "domain": "site.example.com", "app": "site" })).await;
    assert!(world.refuses("stranger.example.net").await, "no app approves it");
    assert!(world.shop("/asked").await.contains("stranger.example.net"), "and it was asked");

    world.shop("/allow?domain=ann.example.net,bob.example.net,cid.example.net,dan.example.net").await;
    assert_eq!(world.visit("ann.example.net").await, "the shop of ann.example.net");
    let seen = world.get("ann.example.net").await;
    assert_eq!(
        (&seen["origin"], &seen["status"], &seen["app"]),
        (&json!("on_demand"), &json!("secure"), &json!("shop")),
        "{seen:#}"
    );
    // A crowd at a new name: one question, one order, and all of them are served.
    let crowd: Vec<_> = (0..20).map(|_| world.visit("bob.example.net")).collect();
    for said in futures_util::future::join_all(crowd).await {
        assert_eq!(said, "the shop of bob.example.net");
    }
    let asked: Value = serde_json::from_str(&world.shop("/asked").await).unwrap();
    assert_eq!(asked["bob.example.net"], 1, "{asked}");
    let orders = world.events("certificate.issued").await;
    assert_eq!(orders.iter().filter(|e| e["data"]["domain"] == "bob.example.net").count(), 1);
    let wanted =
        [("ann.example.net", "on_demand"), ("bob.example.net", "on_demand"), ("site.example.com", "added")];
    let listed = world.listed().await;
    assert_eq!(listed.iter().map(|(n, o)| (n.as_str(), o.as_str())).collect::<Vec<_>>(), wanted);
    // The platform's names, and those of other apps, are nobody's to approve.
    world.shop("/allow?domain=site.example.com").await;
    world.secure("site.example.com").await;
    assert_eq!(world.visit("site.example.com").await, "site");

    // It is there at the next start, without anybody being asked.
    world.berth.kill().await;
    world.berth.start_again().await;
    assert_eq!(world.visit("ann.example.net").await, "the shop of ann.example.net");

    // What the app does not approve any more goes, with its certificate.
    world.shop("/deny?domain=ann.example.net").await;
    let verify = "/v1/domains/ann.example.net/verify";
    let gone = world.berth.rest().post(verify, json!({})).await.problem(404, "not_found");
    assert!(gone["detail"].as_str().unwrap().contains("answered 404"), "{gone:#}");
    assert!(world.refuses("ann.example.net").await);
    assert_eq!(world.events("domain.dropped").await.len(), 1);

    // As many as its settings allow in a day: two were approved, and one that has gone counts.
    world.settings(json!({ "settings": { "on_demand_limit": 2 } })).await;
    assert!(world.refuses("cid.example.net").await, "the day's share is used up");
    world.settings(json!({ "settings": { "on_demand_limit": 3 } })).await;
    assert_eq!(world.visit("dan.example.net").await, "the shop of dan.example.net");

    // One that somebody adds stays when the app approves none any more; the others go.
    world.add(json!({ "domain": "bob.example.net", "app": "shop" })).await;
    assert_eq!(world.visit("bob.example.net").await, "the shop of bob.example.net");
    world.settings(json!({ "unset": ["on_demand_ask"] })).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while world.listed().await.iter().any(|(_, origin)| origin == "on_demand") {
        assert!(Instant::now() < deadline, "{:?}", world.listed().await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(world.refuses("dan.example.net").await);
    assert_eq!(world.visit("bob.example.net").await, "the shop of bob.example.net");
}

#[tokio::test]
async fn a_name_that_does_not_lead_here_is_dropped_after_both_challenges() {
    if !pebble_or_skip() || !docker_or_skip() {
        return;
    }
    let world = world(|o| o).await;
    world.pebble.point("far.example.net", "127.0.0.9").await;
    world.shop("/allow?domain=far.example.net").await;
    assert!(world.refuses("far.example.net").await);
    let deadline = Instant::now() + Duration::from_secs(40);
    while world.events("domain.dropped").await.is_empty() {
        assert!(Instant::now() < deadline, "{:#?}", world.events("").await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let failed = world.events("certificate.failed").await;
    assert_eq!(failed.len(), 2, "{failed:#?}");
    assert!(world.listed().await.is_empty());
}
