//! What apps are told, and which requests are refused.

use berth_proxy::{ProxyConfig, TrustedPeers};

use crate::support::{App, Proxy, release};

#[tokio::test]
async fn forged_forwarding_headers_never_reach_the_app() {
    let app = App::start("web").await;
    let proxy = Proxy::start();
    proxy.route(&release(1, &[app.addr]));
    let answer = proxy
        .client()
        .get(proxy.url("/headers"))
        .header("x-forwarded-for", "6.6.6.6")
        .header("x-forwarded-proto", "https")
        .header("x-forwarded-ssl", "on")
        .header("forwarded", "for=6.6.6.6")
        .header("x-real-ip", "6.6.6.6")
        .header("x-request-id", "forged")
        .header("cookie", "kept=1")
        .send()
        .await
        .expect("an answer");
    let id = answer.headers()["x-request-id"].to_str().expect("text").to_owned();
    let seen = answer.text().await.expect("a body");
    assert!(!seen.contains("6.6.6.6") && !seen.contains("forged") && !seen.contains("ssl"), "{seen}");
    for line in [
        "x-forwarded-for: 127.0.0.1\n",
        "x-forwarded-proto: http\n",
        "x-real-ip: 127.0.0.1\n",
        "forwarded: for=127.0.0.1;proto=http\n",
        "cookie: kept=1\n",
        &format!("host: web.test:{}\n", proxy.http.port()),
        &format!("x-forwarded-host: web.test:{}\n", proxy.http.port()),
        &format!("x-request-id: {id}\n"),
    ] {
        assert!(seen.contains(line), "{line} in {seen}");
    }
    assert_eq!(id.len(), 32);
}

#[tokio::test]
async fn a_trusted_peer_is_believed() {
    let app = App::start("web").await;
    let trusted = TrustedPeers::parse(["127.0.0.0/8"]).expect("a network");
    let mut proxy = Proxy::with(ProxyConfig { trusted_peers: trusted, ..ProxyConfig::default() });
    proxy.route(&release(1, &[app.addr]));
    let id = "0123456789abcdef0123456789abcdef";
    let answer = proxy
        .client()
        .get(proxy.url("/headers"))
        .header("x-forwarded-for", "198.51.100.7")
        .header("x-forwarded-proto", "https")
        .header("x-request-id", id)
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.headers()["x-request-id"], id);
    let seen = answer.text().await.expect("a body");
    assert!(
        seen.contains("x-forwarded-for: 198.51.100.7\n") && seen.contains("x-forwarded-proto: https\n"),
        "{seen}"
    );
    let record = proxy.record().await;
    assert_eq!(record.client_ip.to_string(), "198.51.100.7");
    assert!(record.tls);
}

#[tokio::test]
async fn ambiguous_and_malformed_requests_are_refused() {
    let app = App::start("web").await;
    let proxy = Proxy::start();
    proxy.route(&release(1, &[app.addr]));
    for (why, request) in [
        (
            "length and chunks",
            "POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "chunks and length",
            "POST / HTTP/1.1\r\nHost: web.test\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        ),
        (
            "two lengths",
            "POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        ),
        ("a length that is none", "POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: +1\r\n\r\na"),
        ("an odd coding", "POST / HTTP/1.1\r\nHost: web.test\r\nTransfer-Encoding: xchunked\r\n\r\n"),
        ("two hosts", "GET / HTTP/1.1\r\nHost: web.test\r\nHost: web.test\r\n\r\n"),
        ("no host", "GET / HTTP/1.1\r\n\r\n"),
        ("an empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n"),
        ("an odd host", "GET / HTTP/1.1\r\nHost: web.test/x\r\n\r\n"),
        ("a folded header", "GET / HTTP/1.1\r\nHost: web.test\r\nX: a\r\n b\r\n\r\n"),
        ("a space before the colon", "GET / HTTP/1.1\r\nHost : web.test\r\n\r\n"),
        ("another authority", "GET http://other.test/ HTTP/1.1\r\nHost: web.test\r\n\r\n"),
    ] {
        let answer = proxy.raw(request).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{why}: {answer}");
    }
    assert_eq!(app.hits(), 0);
    assert!(proxy.raw("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n").await.ends_with("web"));
}

#[tokio::test]
async fn the_apps_own_errors_are_its_own() {
    let app = App::start("web").await;
    let mut proxy = Proxy::start();
    proxy.route(&release(1, &[app.addr]));
    let answer = proxy.get("/broken").await;
    assert_eq!(answer.status(), 502);
    assert!(!answer.headers().contains_key("x-berth-error"));
    assert_eq!(answer.text().await.expect("a body"), "the app's own 502");
    assert_eq!(proxy.record().await.fault, None);
}

#[tokio::test]
async fn hop_by_hop_headers_stay_on_their_hop() {
    let app = App::start("web").await;
    let proxy = Proxy::start();
    proxy.route(&release(1, &[app.addr]));
    for connection in ["keep-alive", "close, X-Mine"] {
        let answer = proxy
            .raw(&format!(
                "GET /headers HTTP/1.1\r\nHost: web.test\r\nConnection: {connection}\r\nX-Mine: 1\r\n\
                 Keep-Alive: timeout=9\r\nTE: trailers\r\nProxy-Authorization: secret\r\nX-Kept: 1\r\n\r\n"
            ))
            .await;
        assert!(answer.contains("x-kept: 1\n"), "{answer}");
        for gone in ["timeout=9", "\nte: ", "secret"] {
            assert!(!answer.contains(gone), "{gone} in {answer}");
        }
        assert_eq!(answer.contains("x-mine"), !connection.contains("X-Mine"), "{answer}");
    }
}
