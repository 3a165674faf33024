//! Certificates, ordered from Pebble by the real daemon: issue, failure, renewal, crash, fallback.

#![allow(clippy::disallowed_methods, reason = "openssl looks on from outside")]

mod advice;
mod limits;
mod looks;
mod name_server;
mod on_demand;
mod pebble;
mod reach;
mod stand_in;

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::harness::Berth;
use advice::Advice;
use name_server::{TSIG, name_server};
use pebble::{Options, Pebble, free_port, pebble_or_skip};

/// A daemon that orders from a Pebble.
struct World {
    berth: Berth,
    pebble: Pebble,
    https: u16,
}

struct Ports {
    address: String,
    http: u16,
    https: u16,
}

impl Ports {
    fn free() -> Self {
        Self { address: "127.0.0.1".into(), http: free_port(), https: free_port() }
    }

    fn options(&self) -> Options<'static> {
        Options { http_port: self.http, tls_port: self.https, nonce_reject: 15, ..Options::default() }
    }
}

async fn berth(ports: &Ports, pebble: &Pebble, more: &[&str]) -> Berth {
    let (http, https) =
        (format!("{}:{}", ports.address, ports.http), format!("{}:{}", ports.address, ports.https));
    let root = pebble.root().display().to_string();
    let mut flags = vec![
        "--http-addr",
        &http,
        "--https-addr",
        &https,
        "--acme",
        "true",
        "--acme-ca-root",
        &root,
        "--acme-email",
        "admin@example.com",
    ];
    if !more.contains(&"--acme-directories") {
        flags.extend(["--acme-directories", &pebble.directory]);
    }
    match more {
        // The machine's own.
        ["--docker-host", "", more @ ..] => flags.extend(more),
        _ => flags.extend([&["--docker-host", "unix:///nonexistent/docker.sock"], more].concat()),
    }
    Berth::start_with(&flags).await
}

impl World {
    async fn start(options: impl FnOnce(Options<'static>) -> Options<'static>) -> Self {
        let ports = Ports::free();
        let pebble = Pebble::start(&options(ports.options())).await;
        let berth = berth(&ports, &pebble, &[]).await;
        let world = Self { berth, pebble, https: ports.https };
        world.site("site").await;
        world
    }

    async fn site(&self, app: &str) {
        let body = json!({ "files": { "index.html": app }, "create_app": true, "wait_s": 30 });
        self.berth.rest().post(&format!("/v1/apps/{app}/deployments"), body).await.ok();
    }

    async fn add(&self, body: Value) -> Value {
        self.berth.rest().post("/v1/domains", body).await.ok()
    }

    async fn get(&self, domain: &str) -> Value {
        self.berth.rest().get(&format!("/v1/domains/{domain}")).await.ok()
    }

    /// Waits until a domain is as wanted.
    async fn until(&self, domain: &str, limit: u64, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(limit);
        loop {
            let seen = self.get(domain).await;
            if wanted(&seen) {
                return seen;
            }
            assert!(Instant::now() < deadline, "{domain} is not as wanted: {seen:#}\n{}", self.pebble.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn secure(&self, domain: &str) -> Value {
        self.until(domain, 40, |d| d["status"] == "secure").await
    }

    /// A visitor that trusts Pebble's certificates and nothing else.
    async fn visitor(&self, domain: &str) -> reqwest::Client {
        let root = self.pebble.issuer().await;
        reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .tls_certs_only([reqwest::Certificate::from_pem(root.as_bytes()).unwrap()])
            .resolve(domain, ([127, 0, 0, 1], self.https).into())
            .build()
            .unwrap()
    }

    async fn visit(&self, domain: &str) -> String {
        let url = format!("https://{domain}:{}/", self.https);
        self.visitor(domain).await.get(url).send().await.unwrap().text().await.unwrap()
    }

    /// What openssl sees: the certificate's serial number and names, or nothing where the handshake is refused.
    async fn openssl(&self, domain: &str, more: &[&str]) -> String {
        let connect = format!("127.0.0.1:{}", self.https);
        let mut client = tokio::process::Command::new("openssl");
        client.args(["s_client", "-connect", &connect, "-servername", domain, "-showcerts"]).args(more);
        let output = client.stdin(Stdio::null()).stderr(Stdio::null()).output().await.unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    async fn events(&self, kind: &str) -> Vec<Value> {
        let page = self.berth.rest().get(&format!("/v1/events?kind={kind}&limit=100")).await.ok();
        page["events"].as_array().unwrap().clone()
    }
}

fn names(domain: &Value) -> Vec<&str> {
    domain["certificate"]["names"].as_array().unwrap().iter().filter_map(Value::as_str).collect()
}

#[tokio::test]
async fn a_domain_gets_its_certificate_by_http_and_then_leads_there() {
    if !pebble_or_skip() {
        return;
    }
    let world = World::start(|o| o).await;
    let added = world.add(json!({ "domain": "shop.example.com", "app": "site" })).await;
    assert!(added["next"].as_str().unwrap().contains("domain_verify"), "{added:#}");
    let waited =
        world.berth.rest().post("/v1/domains/shop.example.com/verify", json!({ "wait_s": 40 })).await.ok();
    assert_eq!(waited["status"], "secure", "{waited:#}");
    assert_eq!(names(&waited), ["shop.example.com"]);
    assert_eq!(waited["order"]["state"], "valid");
    assert_eq!(world.visit("shop.example.com").await, "site");
    let rules = json!({ "rules": { "hsts": {}, "basic_auth": { "users": [{ "name": "ann", "password": "open-sesame" }] } } });
    let ruled = world
        .berth
        .rest()
        .send(reqwest::Method::PATCH, "/v1/domains/shop.example.com", Some(rules))
        .await
        .ok();
    assert!(ruled.to_string().contains("ann") && !ruled.to_string().contains("sesame"), "{ruled:#}");
    let url = format!("https://shop.example.com:{}/", world.https);
    let visitor = world.visitor("shop.example.com").await;
    let stopped = visitor.get(&url).send().await.unwrap();
    assert_eq!(
        (stopped.status().as_u16(), stopped.headers().contains_key("strict-transport-security")),
        (401, true)
    );
    let let_in = visitor.get(&url).basic_auth("ann", Some("open-sesame")).send().await.unwrap();
    assert_eq!(let_in.text().await.unwrap(), "site");
    // The rules are the host's: no route of the app on the same host goes around them.
    let routes = json!({ "settings": { "routes": ["shop.example.com/docs", "shop.example.com"] } });
    world.berth.rest().send(reqwest::Method::PATCH, "/v1/apps/site", Some(routes)).await.ok();
    for place in ["", "docs", "docs/more"] {
        let stopped = visitor.get(format!("{url}{place}")).send().await.unwrap();
        assert_eq!(stopped.status(), 401, "{place}");
    }
    assert_eq!(waited["url"], format!("https://shop.example.com:{}", world.https));
    let http =
        reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let moved =
        http.get(format!("{}/a?b=c", world.berth.http_url)).header("host", "shop.example.com").send().await;
    let moved = moved.unwrap();
    let to = format!("https://shop.example.com:{}/a?b=c", world.https);
    assert_eq!((moved.status().as_u16(), moved.headers()["location"].to_str().unwrap()), (308, to.as_str()));
    let unknown = world.openssl("other.example.com", &[]).await;
    assert!(
        !unknown.contains("BEGIN CERTIFICATE"),
        "an unknown name gets no certificate of another: {unknown}"
    );
    assert_eq!(world.events("certificate.issued").await.len(), 1);
    // Gone with the domain, from the next handshake on.
    let gone = world.berth.rest().delete("/v1/domains/shop.example.com?confirm=shop.example.com").await.ok();
    assert_eq!(gone["removed"], true);
    assert!(!world.openssl("shop.example.com", &[]).await.contains("BEGIN CERTIFICATE"));
}

#[tokio::test]
async fn what_the_authority_says_is_shown_in_its_own_words() {
    if !pebble_or_skip() {
        return;
    }
    let world = World::start(|o| o).await;
    // Nobody listens there.
    world.pebble.point("shop.example.com", "127.0.0.9").await;
    world.add(json!({ "domain": "shop.example.com", "app": "site" })).await;
    let failing = world.until("shop.example.com", 40, |d| d["order"]["failures"].as_u64() >= Some(2)).await;
    assert_eq!(failing["status"], "failing", "{failing:#}");
    let order = &failing["order"];
    assert_eq!(order["error"]["kind"], "unauthorized", "{order:#}");
    assert!(order["error"]["detail"].as_str().unwrap().contains("127.0.0.9"), "{order:#}");
    assert_eq!(order["challenge"], "tls-alpn-01", "the other challenge was tried, too: {order:#}");
    let next = order["next_try_at"].as_str().expect("when it is tried next");
    assert!(failing["next"].as_str().unwrap().contains(next), "{failing:#}");
    let told = world.berth.rest().get("/v1/platform").await.ok();
    assert!(told["attention"].to_string().contains("shop.example.com has no certificate"), "{told:#}");
    assert!(!world.events("certificate.failed").await.is_empty());
    // Put right, and looked at again without waiting for the next try.
    world.pebble.unpoint("shop.example.com").await;
    let verified =
        world.berth.rest().post("/v1/domains/shop.example.com/verify", json!({ "wait_s": 40 })).await.ok();
    assert_eq!(
        (&verified["status"], &verified["order"]["failures"]),
        (&json!("secure"), &json!(0)),
        "{verified:#}"
    );
    assert_eq!(world.visit("shop.example.com").await, "site");
}

#[tokio::test]
async fn a_domain_gets_its_certificate_by_tls_alone() {
    if !pebble_or_skip() {
        return;
    }
    // Where the authority looks for HTTP there is nobody.
    let world = World::start(|o| Options { http_port: free_port(), ..o }).await;
    world.add(json!({ "domain": "shop.example.com", "app": "site" })).await;
    let secure = world.secure("shop.example.com").await;
    assert_eq!(secure["order"]["challenge"], "tls-alpn-01", "{secure:#}");
    world
        .add(json!({ "domain": "www.example.com", "app": "site", "challenge": "tls-alpn-01",
        "redirect_to": "shop.example.com" }))
        .await;
    let www = world.secure("www.example.com").await;
    assert_eq!((&www["order"]["challenge"], &www["order"]["failures"]), (&json!("tls-alpn-01"), &json!(0)));
    let url = format!("https://www.example.com:{}/a?b", world.https);
    let moved = world.visitor("www.example.com").await.get(url).send().await.unwrap();
    let to = moved.headers()["location"].to_str().unwrap().to_owned();
    assert_eq!((moved.status().as_u16(), to), (308, format!("https://shop.example.com:{}/a?b", world.https)));
    // TLS 1.2 and 1.3 and nothing older; h2 by ALPN.
    let one_two = world.openssl("shop.example.com", &["-tls1_2", "-alpn", "h2"]).await;
    assert!(one_two.contains("TLSv1.2") && one_two.contains("ALPN protocol: h2"), "{one_two}");
    assert!(one_two.contains("id-ecPublicKey") || one_two.contains("ECDSA"), "{one_two}");
    assert!(!world.openssl("shop.example.com", &["-tls1_1"]).await.contains("BEGIN CERTIFICATE"));
}

#[tokio::test]
async fn an_order_is_taken_up_after_a_crash() {
    if !pebble_or_skip() {
        return;
    }
    // It takes its time to look, so that the daemon dies between order and certificate.
    let mut world = World::start(|o| Options { sleep_s: 6, ..o }).await;
    world.add(json!({ "domain": "shop.example.com", "app": "site" })).await;
    let ordered = world.until("shop.example.com", 20, |d| d["order"]["state"] == "authorizing").await;
    world.berth.kill().await;
    world.berth.start_again().await;
    let secure = world.secure("shop.example.com").await;
    assert_eq!(secure["order"]["created_at"], ordered["order"]["created_at"], "the same order: {secure:#}");
    assert_eq!(world.visit("shop.example.com").await, "site");
    assert_eq!(world.events("certificate").await.len(), 1);
    // And the certificate is there from the first handshake of the next start on.
    world.berth.kill().await;
    world.berth.start_again().await;
    assert_eq!(world.visit("shop.example.com").await, "site");
}

#[tokio::test]
async fn an_authority_that_refuses_every_other_nonce_fails_no_order() {
    if !pebble_or_skip() {
        return;
    }
    let world = World::start(|o| Options { nonce_reject: 50, ..o }).await;
    for n in 1..=3 {
        let domain = format!("shop{n}.example.com");
        world.add(json!({ "domain": domain, "app": "site" })).await;
        let secure = world.secure(&domain).await;
        assert_eq!(secure["order"]["failures"], 0, "{secure:#}");
    }
    assert_eq!(world.events("certificate.issued").await.len(), 3);
}

#[tokio::test]
async fn a_crash_at_any_step_of_an_order_costs_no_second_order() {
    if !pebble_or_skip() {
        return;
    }
    let mut world = World::start(|o| o).await;
    // Placed and not noted yet is the one moment at which the authority knows of an order that we do not.
    for (n, step) in ["authorizing", "ready", "finalizing", "asked", "valid"].into_iter().enumerate() {
        let domain = format!("at-{step}.example.com");
        world.berth.pause_at(&format!("after:order_{step}"));
        world.add(json!({ "domain": domain, "app": "site" })).await;
        world.berth.paused().await;
        let before = world.get(&domain).await;
        world.berth.kill().await;
        world.berth.start_again().await;
        let secure = world.secure(&domain).await;
        let order = |d: &Value| (d["order"]["created_at"].clone(), d["order"]["failures"].clone());
        assert_eq!(order(&secure), (before["order"]["created_at"].clone(), json!(0)), "{step}: {secure:#}");
        assert_eq!(world.visit(&domain).await, "site");
        assert_eq!(world.events("certificate.issued").await.len(), n + 1, "{step}");
    }
}

#[tokio::test]
async fn an_authority_says_when_a_certificate_is_to_be_renewed() {
    if !pebble_or_skip() {
        return;
    }
    let ports = Ports::free();
    // For years, so that nothing but the authority's word has it renewed.
    let pebble = Pebble::start(&ports.options()).await;
    let advice = Advice::start(&pebble).await;
    let daemon = berth(&ports, &pebble, &["--acme-directories", &advice.directory]).await;
    let world = World { berth: daemon, pebble, https: ports.https };
    world.site("site").await;
    world.add(json!({ "domain": "shop.example.com", "app": "site" })).await;
    let first = world.secure("shop.example.com").await;
    // The window is over: renew at once (RFC 9773, 4.2).
    let renewed = world
        .until("shop.example.com", 60, |d| {
            d["certificate"]["fingerprint"] != first["certificate"]["fingerprint"]
        })
        .await;
    assert_eq!(renewed["order"]["renewal"], true, "{renewed:#}");
    // The window of the new one is far away, and so is its renewal.
    let window = advice.window_of_others();
    let at = world
        .until("shop.example.com", 20, |d| {
            let at = d["certificate"]["renew_at"].as_str().unwrap_or_default();
            window.0.as_str() <= at && at <= window.1.as_str()
        })
        .await;
    assert_eq!(at["certificate"]["fingerprint"], renewed["certificate"]["fingerprint"]);
    let asked = advice.asked();
    assert_ne!(asked[0], *asked.last().unwrap(), "it was asked of both: {asked:?}");
    assert_eq!(world.visit("shop.example.com").await, "site");
}

#[tokio::test]
async fn short_lives_are_renewed_and_no_request_is_lost() {
    if !pebble_or_skip() {
        return;
    }
    let world = World::start(|o| Options { validity_s: 15, ..o }).await;
    world.add(json!({ "domain": "shop.example.com", "app": "site" })).await;
    let first = world.secure("shop.example.com").await;
    let seen = world.openssl("shop.example.com", &[]).await;
    let visitor = world.visitor("shop.example.com").await;
    let url = format!("https://shop.example.com:{}/", world.https);
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (visitor, url, stop) = (visitor.clone(), url.clone(), stop.clone());
            tokio::spawn(async move {
                let mut answered = 0u32;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    // Every second one asks for its connection to be closed, so that there are handshakes all along.
                    let request = visitor.get(&url);
                    let request = if answered.is_multiple_of(2) {
                        request.version(reqwest::Version::HTTP_11).header("connection", "close")
                    } else {
                        request
                    };
                    let answer = request.send().await.expect("no request is lost");
                    assert_eq!(answer.text().await.expect("a whole answer"), "site");
                    answered += 1;
                }
                answered
            })
        })
        .collect();
    let renewed = world
        .until("shop.example.com", 40, |d| {
            d["certificate"]["fingerprint"] != first["certificate"]["fingerprint"]
        })
        .await;
    assert_eq!(renewed["order"]["renewal"], true, "{renewed:#}");
    assert_ne!(world.openssl("shop.example.com", &[]).await, seen, "openssl is shown the new one");
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut answered = 0;
    for task in load {
        answered += task.await.expect("no request is lost");
    }
    assert!(answered > 100, "{answered}");
    assert!(!world.events("certificate.renewed").await.is_empty());
}

#[tokio::test]
async fn another_authority_is_asked_when_the_first_is_down() {
    if !pebble_or_skip() {
        return;
    }
    let ports = Ports::free();
    let options = Options {
        eab: Some(("kid-1", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W")),
        ..ports.options()
    };
    let pebble = Pebble::start(&options).await;
    let directories = format!("https://127.0.0.1:{}/dir,{}", free_port(), pebble.directory);
    let berth = berth(
        &ports,
        &pebble,
        &[
            "--acme-directories",
            &directories,
            "--acme-eab-kid",
            "kid-1",
            "--acme-eab-key",
            "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W",
        ],
    )
    .await;
    let world = World { berth, pebble, https: ports.https };
    world.site("site").await;
    world.add(json!({ "domain": "shop.example.com", "app": "site" })).await;
    let secure = world.secure("shop.example.com").await;
    assert_eq!(secure["order"]["directory"], world.pebble.directory.as_str(), "{secure:#}");
    let failed = world.events("certificate.failed").await;
    assert!(failed[0]["summary"].as_str().unwrap().contains("unreachable"), "{failed:#?}");
    assert_eq!(world.visit("shop.example.com").await, "site");
}

#[tokio::test]
async fn a_certificate_of_ones_own_is_shown_until_it_is_dropped() {
    if !pebble_or_skip() {
        return;
    }
    let world = World::start(|o| o).await;
    world.add(json!({ "domain": "shop.example.com", "app": "site" })).await;
    world.secure("shop.example.com").await;
    let made = rcgen::generate_simple_self_signed(vec!["*.example.com".to_owned()]).unwrap();
    let key = made.signing_key.serialize_pem();
    let path = "/v1/domains/shop.example.com/certificate";
    let other = rcgen::generate_simple_self_signed(vec!["*.example.com".to_owned()]).unwrap();
    let wrong = json!({ "chain": made.cert.pem(), "key": other.signing_key.serialize_pem() });
    let refused =
        world.berth.rest().send(reqwest::Method::PUT, path, Some(wrong)).await.problem(400, "invalid_input");
    assert_eq!(refused["field"], "key");
    let own = json!({ "chain": made.cert.pem(), "key": key });
    let set = world.berth.rest().send(reqwest::Method::PUT, path, Some(own)).await.ok();
    assert_eq!((&set["certificate"]["own"], names(&set)), (&json!(true), vec!["*.example.com"]), "{set:#}");
    let body: String = made.cert.pem().lines().filter(|l| !l.starts_with('-')).collect();
    let shown: String = world.openssl("shop.example.com", &[]).await.lines().collect();
    assert!(shown.contains(&body), "openssl is shown it");
    world.berth.rest().post("/v1/domains/shop.example.com/renew", json!({})).await.problem(409, "conflict");
    assert!(!world.berth.log().contains("PRIVATE KEY"));
    let drop = json!({ "unset": ["certificate"] });
    world.berth.rest().send(reqwest::Method::PATCH, "/v1/domains/shop.example.com", Some(drop)).await.ok();
    let back = world.until("shop.example.com", 40, |d| d["certificate"]["own"] == false).await;
    assert_eq!(names(&back), ["shop.example.com"]);
}

#[tokio::test]
async fn names_of_the_platform_get_theirs_by_themselves() {
    if !pebble_or_skip() {
        return;
    }
    let ports = Ports::free();
    let pebble = Pebble::start(&ports.options()).await;
    let public = format!("https://berth.example.com:{}", ports.https);
    let more = ["--base-domain", "apps.example.com", "--public-url", &public];
    let berth = berth(&ports, &pebble, &more).await;
    let world = World { berth, pebble, https: ports.https };
    world.site("site").await;
    let deadline = Instant::now() + Duration::from_secs(40);
    while world.events("certificate.issued").await.len() < 2 {
        assert!(Instant::now() < deadline, "{:#?}", world.events("certificate").await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(world.visit("site.apps.example.com").await, "site");
    let control = world.visitor("berth.example.com").await;
    let status =
        control.get(format!("{public}/v1/platform")).bearer_auth(&world.berth.token).send().await.unwrap();
    let status: Value = status.json().await.unwrap();
    assert_eq!(status["app_url_pattern"], format!("https://<app>.apps.example.com:{}", world.https));
    let taken = json!({ "domain": "berth.example.com", "app": "site" });
    world.berth.rest().post("/v1/domains", taken).await.problem(409, "conflict");
}

#[tokio::test]
async fn a_wildcard_is_proven_by_dns() {
    if !pebble_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some((_named, server)) = name_server(dir.path(), "* A 127.0.0.1\n").await else { return };
    let ports = Ports::free();
    let pebble = Pebble::start(&Options { dns: Some(&server), ..ports.options() }).await;
    let more =
        ["--dns-resolvers", &server, "--allow-private-sources", "true", "--base-domain", "apps.example.com"];
    let berth = berth(&ports, &pebble, &more).await;
    let world = World { berth, pebble, https: ports.https };
    world.site("site").await;
    world.add(json!({ "domain": "*.shop.example.com", "app": "site" })).await;
    let waiting = world.until("*.shop.example.com", 20, |d| d["status"] == "waiting").await;
    assert_eq!(waiting["order"]["error"]["kind"], "no_dns_provider", "{waiting:#}");
    assert!(waiting["order"]["error"]["detail"].to_string().contains("dns_provider_add"), "{waiting:#}");
    let credentials =
        json!({ "kind": "rfc2136", "server": server, "tsig_name": "berth", "tsig_secret": TSIG });
    let provider = json!({ "provider": "bind", "credentials": credentials, "zones": ["example.com"] });
    world.berth.rest().post("/v1/dns-providers", provider).await.ok();
    let secure = world.secure("*.shop.example.com").await;
    assert_eq!(names(&secure), ["*.shop.example.com"], "{secure:#}");
    assert_eq!(secure["order"]["challenge"], "dns-01");
    assert_eq!(world.visit("any.shop.example.com").await, "site");
    // The platform's own names share one, too, now that one can be had.
    let deadline = Instant::now() + Duration::from_secs(40);
    while !world
        .events("certificate.issued")
        .await
        .iter()
        .any(|e| e["data"]["domain"] == "*.apps.example.com")
    {
        assert!(Instant::now() < deadline, "{:#?}", world.events("certificate").await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(!world.visit("nobody.apps.example.com").await.is_empty(), "a name without an app has it, too");
}
