//! The rules of a domain as visitors meet them.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use berth_proxy::{
    AccessFault, ChallengeTable, Destination, Hold, HostRules, ProxyConfig, ReleaseLabel, ReleaseTarget,
    RouteTable, StaticSite, StatusPage, TrustedPeers, hash_passwords,
};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{App, Proxy, raw_app, read_all, read_head, release, until};

fn rules(json: serde_json::Value) -> Arc<HostRules> {
    let said = serde_json::from_value(json).expect("rules");
    let kept = hash_passwords(said, None).expect("passwords");
    HostRules::compile(&kept, None).expect("sound rules")
}

impl Proxy {
    /// Routes `web.test` to an app behind rules.
    fn guard(&self, app: SocketAddr, json: serde_json::Value) {
        self.guard_to(Destination::Release(release(1, &[app])), json);
    }

    fn guard_to(&self, destination: Destination, json: serde_json::Value) {
        let routes = RouteTable::builder().host("web.test").rules(rules(json)).to(destination).build();
        self.handle.set_routes(routes.expect("one route"));
    }
}

async fn status(answer: reqwest::RequestBuilder) -> u16 {
    answer.send().await.expect("an answer").status().as_u16()
}

#[tokio::test]
async fn addresses_are_judged_as_trusted_peers_name_them() {
    let app = App::start("web").await;
    let mut proxy = Proxy::with(ProxyConfig {
        trusted_peers: TrustedPeers::parse(["127.0.0.0/8"]).expect("a network"),
        ..ProxyConfig::default()
    });
    proxy.guard(app.addr, json!({"allow": ["192.0.2.0/24", "2001:db8::/32"], "deny": ["192.0.2.66"]}));
    let client = proxy.client();
    for (from, expected) in [
        ("192.0.2.1", 200),
        ("2001:db8::1", 200),
        ("192.0.2.66", 403),
        ("198.51.100.1", 403),
        ("192.0.2.1, 198.51.100.1", 403),
        ("198.51.100.1, 192.0.2.1", 200),
    ] {
        assert_eq!(
            status(client.get(proxy.url("/")).header("x-forwarded-for", from)).await,
            expected,
            "{from}"
        );
    }
    assert_eq!(app.hits(), 3);
    let mut faults = Vec::new();
    for _ in 0..6 {
        faults.push(proxy.record().await.fault);
    }
    assert_eq!(faults.iter().filter(|fault| **fault == Some(AccessFault::Forbidden)).count(), 3);
    // A stranger's word counts for nothing.
    let proxy = Proxy::start();
    proxy.guard(app.addr, json!({"allow": ["192.0.2.0/24"]}));
    let said = proxy.client().get(proxy.url("/")).header("x-forwarded-for", "192.0.2.1");
    assert_eq!(status(said).await, 403);
}

#[tokio::test]
async fn beyond_the_rate_an_address_is_told_when_to_come_again() {
    let app = App::start("web").await;
    let proxy = Proxy::start();
    let client = proxy.http2_client();
    proxy.guard(app.addr, json!({"rate_limit": {"requests": 1, "per_s": 3600, "burst": 3}}));
    for (url, expected) in [
        (proxy.url("/"), 200),
        (proxy.https_url("/"), 200),
        (proxy.url("/"), 200),
        (proxy.https_url("/"), 429),
        (proxy.url("/"), 429),
    ] {
        let client = if url.starts_with("https") { &client } else { &proxy.client() };
        let answer = client.get(url).send().await.expect("an answer");
        assert_eq!(answer.status(), expected);
        if expected == 429 {
            assert_eq!(answer.headers()["x-berth-error"], "rate_limited");
            let wait: u64 =
                answer.headers()["retry-after"].to_str().expect("text").parse().expect("a number");
            assert!((3500..=3600).contains(&wait), "{wait}");
        }
    }
    assert_eq!(app.hits(), 3);
}

#[tokio::test]
async fn rules_say_whether_plain_http_is_redirected_and_what_browsers_remember() {
    let app = App::start("web").await;
    let proxy = Proxy::start();
    let client = proxy.http2_client();
    proxy.guard(app.addr, json!({"https": true, "hsts": {"include_subdomains": true}}));
    let moved = proxy.get("/a?b=c").await;
    assert_eq!(
        (moved.status().as_u16(), moved.headers()["location"].to_str().expect("text")),
        (308, "https://web.test/a?b=c")
    );
    assert!(!moved.headers().contains_key("strict-transport-security"), "not over plain HTTP");
    let answer = client.get(proxy.https_url("/")).send().await.expect("an answer");
    assert_eq!(answer.headers()["strict-transport-security"], "max-age=31536000; includeSubDomains");
    // On the platform's own pages, too.
    proxy.guard_to(
        Destination::Page(StatusPage::Stopped { app: "web".into() }),
        json!({"hsts": {"max_age_s": 60}}),
    );
    let answer = client.get(proxy.https_url("/")).send().await.expect("an answer");
    assert_eq!(
        (answer.status().as_u16(), answer.headers()["strict-transport-security"].to_str().expect("text")),
        (503, "max-age=60")
    );
    // A domain with a certificate may still say no.
    let routes = RouteTable::builder().host("web.test").https_only().rules(rules(json!({"https": false})));
    let routes = routes.to(Destination::Release(release(1, &[app.addr]))).build();
    proxy.handle.set_routes(routes.expect("one route"));
    assert_eq!(proxy.get("/").await.status(), 200);
}

#[tokio::test]
async fn a_password_is_asked_for_over_every_protocol_and_the_app_does_not_learn_it() {
    let app = App::start("web").await;
    let proxy = Proxy::start();
    let http2 = proxy.http2_client();
    let auth = json!({"users": [{"name": "ann", "password": "correct: horse"}], "realm": "Staging",
        "except": ["/slow", "/hooks/*"]});
    proxy.guard(app.addr, json!({"basic_auth": auth}));
    for (client, url) in [(proxy.client(), proxy.url("/headers")), (http2, proxy.https_url("/headers"))] {
        let asked = client.get(&url).send().await.expect("an answer");
        assert_eq!(asked.status(), 401);
        assert_eq!(asked.headers()["www-authenticate"], "Basic realm=\"Staging\", charset=\"UTF-8\"");
        assert_eq!(asked.headers()["x-berth-error"], "login_required");
        for (name, password) in [("ann", "wrong"), ("eve", "correct: horse"), ("", ""), ("ann", "")] {
            assert_eq!(status(client.get(&url).basic_auth(name, Some(password))).await, 401, "{name}");
        }
        let seen =
            client.get(&url).basic_auth("ann", Some("correct: horse")).send().await.expect("an answer");
        assert_eq!(seen.status(), 200);
        assert!(!seen.text().await.expect("a body").contains("authorization"));
    }
    assert_eq!(app.hits(), 2);
    // Open paths are open, as long as there is no doubt about what they are.
    let open = |path: &str| {
        proxy.raw_owned(format!("GET {path} HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\n\r\n"))
    };
    for (path, code) in [
        ("/slow?ms=1", "200"),
        ("/hooks/github", "200"),
        ("/hooks/../admin", "401"),
        ("/hooks/%2e%2e/admin", "401"),
        ("/hooks//../admin", "401"),
        ("/hooksy", "401"),
    ] {
        let answer = open(path).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_flood_of_wrong_passwords_delays_nobody_who_has_a_right_one() {
    let app = App::start("web").await;
    let proxy = Arc::new(Proxy::start());
    let auth = json!({"users": [{"name": "ann", "password": "correct horse"}]});
    proxy.guard(app.addr, json!({"basic_auth": auth}));
    let client = proxy.client();
    let right =
        |client: &reqwest::Client| client.get(proxy.url("/")).basic_auth("ann", Some("correct horse"));
    assert_eq!(status(right(&client)).await, 200);
    let flood = (0..200).map(|n| {
        let request = client.get(proxy.url("/")).basic_auth("ann", Some(format!("guess {n}")));
        async move { status(request).await }
    });
    let flood = tokio::spawn(futures_util::future::join_all(flood.collect::<Vec<_>>()));
    let begun = std::time::Instant::now();
    let mut asked = 0;
    while !flood.is_finished() {
        assert_eq!(status(right(&client)).await, 200);
        asked += 1;
    }
    let each = begun.elapsed() / asked;
    assert!(each < Duration::from_millis(250), "{each:?} per request, of {asked}");
    let answers = flood.await.expect("no panic");
    let (refused, later) =
        (answers.iter().filter(|s| **s == 401).count(), answers.iter().filter(|s| **s == 429).count());
    assert_eq!(refused + later, 200);
    assert!((20..=64).contains(&refused), "{refused} were checked");
}

#[tokio::test]
async fn paths_lead_elsewhere_or_are_another_to_the_app() {
    let (app, connections) = raw_app(|mut socket| async move {
        while let Some(head) = read_head(&mut socket).await {
            let line = head.lines().next().unwrap_or_default().to_owned();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{line}", line.len());
            if socket.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await;
    let proxy = Proxy::start();
    let http2 = proxy.http2_client();
    proxy.guard(
        app,
        json!({
            "redirects": [
                {"from": "/old", "to": "/new", "status": 301},
                {"from": "/blog/*", "to": "https://blog.example/*", "status": 302},
                {"from": "/go/*", "to": "/*", "keep_query": false},
            ],
            "rewrites": [{"from": "/api", "to": "/"}, {"from": "/v1", "to": "/internal/v1"}],
        }),
    );
    for (path, code, to) in [
        ("/old?a=b", 301, "/new?a=b"),
        ("/blog/2024/x?p=1", 302, "https://blog.example/2024/x?p=1"),
        ("/go//evil.example?x", 308, "/evil.example"),
    ] {
        for (client, url) in [(proxy.client(), proxy.url(path)), (http2.clone(), proxy.https_url(path))] {
            let moved = client.get(url).send().await.expect("an answer");
            assert_eq!(
                (moved.status().as_u16(), moved.headers()["location"].to_str().expect("text")),
                (code, to)
            );
        }
    }
    assert_eq!(connections.load(Ordering::SeqCst), 0);
    for (path, seen) in
        [("/api/users?q=1", "/users?q=1"), ("/api", "/"), ("/v1/a", "/internal/v1/a"), ("/apis", "/apis")]
    {
        let get = |client: &reqwest::Client, url| client.get(url).send();
        for answer in [get(&proxy.client(), proxy.url(path)), get(&http2, proxy.https_url(path))] {
            let text = answer.await.expect("an answer").text().await.expect("a body");
            assert_eq!(text, format!("GET {seen} HTTP/1.1"), "{path}");
        }
    }
    // By Pingora's general way, which upgrades and long uploads take.
    let upgrade =
        "GET /api/ws HTTP/1.1\r\nHost: web.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert!(proxy.raw(upgrade).await.contains("GET /ws HTTP/1.1"));
}

#[tokio::test]
async fn headers_are_changed_on_the_way_in_and_out() {
    let app = App::start("web").await;
    let proxy = Proxy::start();
    let http2 = proxy.http2_client();
    proxy.guard(
        app.addr,
        json!({
            "request_headers": {"remove": ["cookie"], "set": {"x-team": "shop"}, "add": {"x-seen": "berth"}},
            "response_headers": {"remove": ["content-type"], "set": {"x-frame-options": "DENY"}},
        }),
    );
    for (client, url) in [(proxy.client(), proxy.url("/headers")), (http2, proxy.https_url("/headers"))] {
        let request =
            client.get(&url).header("cookie", "a=b").header("x-team", "other").header("x-seen", "cdn");
        // A large body takes Pingora's general way.
        for request in [request.try_clone().expect("no body"), request.body(vec![b'u'; 1 << 20])] {
            let answer = request.send().await.expect("an answer");
            assert_eq!(answer.headers()["x-frame-options"], "DENY");
            assert!(!answer.headers().contains_key("content-type"));
            let seen = answer.text().await.expect("a body");
            assert!(
                !seen.contains("cookie")
                    && seen.contains("x-team: shop\n")
                    && !seen.contains("x-team: other"),
                "{seen}"
            );
            assert!(seen.contains("x-seen: cdn\n") && seen.contains("x-seen: berth\n"), "{seen}");
        }
    }
}

#[tokio::test]
async fn too_long_bodies_are_refused_before_the_app_or_cut() {
    let app = App::start("web").await;
    let proxy = Proxy::start();
    let http2 = proxy.http2_client();
    proxy.guard(app.addr, json!({"max_body_bytes": 100_000}));
    let streamed = |n: usize| {
        let pieces = (0..n / 10_000).map(|_| Ok::<_, std::io::Error>(vec![b'u'; 10_000]));
        reqwest::Body::wrap_stream(futures_util::stream::iter(pieces))
    };
    for (client, url) in [(proxy.client(), proxy.url("/upload")), (http2, proxy.https_url("/upload"))] {
        let before = app.hits();
        let fits = client.post(&url).body(vec![b'u'; 100_000]).send().await.expect("an answer");
        assert_eq!(fits.text().await.expect("a body"), "100000 bytes, 0 wrong");
        let fits = client.post(&url).body(streamed(100_000)).send().await.expect("an answer");
        assert_eq!(fits.text().await.expect("a body"), "100000 bytes, 0 wrong");
        assert_eq!(app.hits(), before + 2);
        let announced = client.post(&url).body(vec![b'u'; 100_001]).send().await.expect("an answer");
        assert_eq!(
            (announced.status().as_u16(), announced.headers()["x-berth-error"].to_str().expect("text")),
            (413, "body_too_large")
        );
        assert_eq!(app.hits(), before + 2, "refused before the app");
        let grown = client.post(&url).body(streamed(500_000)).send().await.expect("an answer");
        assert_eq!(
            (grown.status().as_u16(), grown.headers()["x-berth-error"].to_str().expect("text")),
            (413, "body_too_large")
        );
    }
}

#[tokio::test]
async fn static_releases_and_websockets_stand_behind_the_same_rules() {
    let site = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(site.path().join("public")).expect("made");
    std::fs::write(site.path().join("public/a.txt"), "file").expect("written");
    let label =
        ReleaseLabel { project: "p".into(), app: "web".into(), environment: "production".into(), release: 1 };
    let files = ReleaseTarget::static_files(label, StaticSite::new(site.path())).expect("a site");
    let proxy = Proxy::start();
    let http2 = proxy.http2_client();
    let json = json!({
        "basic_auth": {"users": [{"name": "ann", "password": "correct horse"}]},
        "rewrites": [{"from": "/", "to": "/public"}],
        "response_headers": {"set": {"cache-control": "no-store"}},
        "hsts": {},
    });
    proxy.guard_to(Destination::Release(files), json);
    for (client, url, tls) in
        [(proxy.client(), proxy.url("/a.txt"), false), (http2, proxy.https_url("/a.txt"), true)]
    {
        assert_eq!(status(client.get(&url)).await, 401);
        let answer =
            client.get(&url).basic_auth("ann", Some("correct horse")).send().await.expect("an answer");
        assert_eq!(answer.headers()["cache-control"], "no-store");
        assert_eq!(answer.headers().contains_key("strict-transport-security"), tls);
        assert_eq!(answer.text().await.expect("a body"), "file");
    }

    let (app, _) = raw_app(|socket| async move {
        let Ok(mut ws) = tokio_tungstenite::accept_async(socket).await else { return };
        while let Some(Ok(message)) = ws.next().await {
            if ws.send(message).await.is_err() {
                return;
            }
        }
    })
    .await;
    let auth = json!({"users": [{"name": "ann", "password": "correct horse"}]});
    proxy.guard(
        app,
        json!({"basic_auth": auth, "max_body_bytes": 10, "response_headers": {"set": {"x-a": "b"}}}),
    );
    let connect = |authorization: Option<&'static str>| {
        let mut request = tokio_tungstenite::tungstenite::client::IntoClientRequest::into_client_request(
            "ws://web.test/socket",
        )
        .expect("a request");
        if let Some(value) = authorization {
            request.headers_mut().insert("authorization", value.parse().expect("a header"));
        }
        let at = proxy.http;
        async move {
            let tcp = TcpStream::connect(at).await.expect("connects");
            tokio_tungstenite::client_async(request, tcp).await
        }
    };
    assert!(connect(None).await.is_err());
    let (mut ws, _) = connect(Some("Basic YW5uOmNvcnJlY3QgaG9yc2U=")).await.expect("let in");
    let long = "longer than the longest body";
    ws.send(tokio_tungstenite::tungstenite::Message::text(long)).await.expect("sent");
    let echo = ws.next().await.expect("an echo").expect("no error");
    assert_eq!(echo.to_text().expect("text"), long, "frames are no body");
}

#[tokio::test]
async fn answers_to_certificate_authorities_come_before_every_rule() {
    let proxy = Proxy::start();
    proxy.handle.set_challenges(ChallengeTable::new().with("token-1", "token-1.thumbprint"));
    let page = StatusPage::Maintenance { app: "web".into(), message: None, retry_after_s: None };
    proxy.guard_to(
        Destination::Page(page),
        json!({
            "https": true,
            "deny": ["127.0.0.0/8"],
            "rate_limit": {"requests": 1, "per_s": 3600},
            "basic_auth": {"users": [{"name": "ann", "password": "correct horse"}]},
            "redirects": [{"from": "/*", "to": "https://elsewhere.example/*"}],
        }),
    );
    for _ in 0..3 {
        let answer = proxy.get("/.well-known/acme-challenge/token-1").await;
        assert_eq!(
            (answer.status().as_u16(), answer.text().await.expect("a body")),
            (200, "token-1.thumbprint".into())
        );
    }
    assert_eq!(proxy.get("/.well-known/acme-challenge/token-2").await.status(), 403);
    assert_eq!(proxy.get("/").await.status(), 403);
}

#[tokio::test]
async fn a_sleeping_app_is_woken_by_the_first_request_and_none_is_lost() {
    let app = App::start("web").await;
    let proxy = Proxy::start();
    let woken = Arc::new(AtomicUsize::new(0));
    let count = woken.clone();
    let wake = move || {
        count.fetch_add(1, Ordering::SeqCst);
    };
    let hold = Hold::waking("web".into(), Duration::from_secs(10), 100, wake);
    proxy.guard_to(Destination::Hold(hold.clone()), json!({"rate_limit": {"requests": 5, "per_s": 3600}}));
    let client = proxy.client();
    let asked = (0..5).map(|_| client.get(proxy.url("/")).send()).collect::<Vec<_>>();
    let asked = tokio::spawn(futures_util::future::join_all(asked));
    until(|| hold.waiting() == 5).await;
    assert_eq!(woken.load(Ordering::SeqCst), 1);
    proxy.route(&release(1, &[app.addr]));
    hold.release();
    for answer in asked.await.expect("no panic") {
        assert_eq!(answer.expect("an answer").status(), 200);
    }
}

impl Proxy {
    async fn raw_owned(&self, request: String) -> String {
        let mut socket = TcpStream::connect(self.http).await.expect("connects");
        socket.write_all(request.as_bytes()).await.expect("writes");
        read_all(&mut socket).await
    }
}

/// A chunked body that grows too long over a raw connection: the app gets no complete one.
#[tokio::test]
async fn an_app_never_sees_a_cut_body_as_complete() {
    let complete = Arc::new(AtomicUsize::new(0));
    let seen = complete.clone();
    let (app, connections) = raw_app(move |mut socket| {
        let seen = seen.clone();
        async move {
            let mut all = Vec::new();
            let _ = socket.read_to_end(&mut all).await;
            if all.ends_with(b"0\r\n\r\n") {
                seen.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await;
    let proxy = Proxy::start();
    proxy.guard(app, json!({"max_body_bytes": 10}));
    let body = "5\r\naaaaa\r\n5\r\nbbbbb\r\n5\r\nccccc\r\n0\r\n\r\n";
    let request = format!("POST / HTTP/1.1\r\nHost: web.test\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
    let answer = proxy.raw_owned(request).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(connections.load(Ordering::SeqCst) <= 1);
    assert_eq!(complete.load(Ordering::SeqCst), 0);
}
