//! Stopping, limits, and clients that dawdle.

use std::time::{Duration, Instant};

use berth_proxy::ProxyConfig;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{App, Proxy, read_all, release};

#[tokio::test]
async fn a_stop_lets_slow_requests_finish_and_closes_idle_connections() {
    let app = App::start("web").await;
    let mut proxy = Proxy::start();
    proxy.route(&release(1, &[app.addr]));
    let mut idle = TcpStream::connect(proxy.http).await.expect("connects");
    let slow = tokio::spawn(proxy.client().get(proxy.url("/slow?ms=1800")).send());
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begun = Instant::now();
    proxy.ask_to_stop();
    proxy.stopped().await;
    assert!((1300..4000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    let answer = slow.await.expect("no panic").expect("not cut");
    assert_eq!(answer.status(), 200);
    assert_eq!(read_all(&mut idle).await, "");
    assert!(TcpStream::connect(proxy.http).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn while_stopping_busy_clients_are_asked_to_leave() {
    let app = App::start("web").await;
    let mut proxy = Proxy::start();
    proxy.route(&release(1, &[app.addr]));
    let client = proxy.client();
    assert_eq!(
        client.get(proxy.url("/")).send().await.expect("an answer").headers()["connection"],
        "keep-alive"
    );
    proxy.ask_to_stop();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answer = client.get(proxy.url("/")).send().await.expect("still served on the open connection");
    assert_eq!(answer.headers()["connection"], "close");
    proxy.stopped().await;
}

#[tokio::test]
async fn a_stop_ends_what_outlasts_the_deadline() {
    let app = App::start("web").await;
    let config = ProxyConfig { shutdown_timeout: Duration::from_millis(1200), ..ProxyConfig::default() };
    let mut proxy = Proxy::with(config);
    proxy.route(&release(1, &[app.addr]));
    let _events = proxy.get("/events").await;
    let begun = Instant::now();
    proxy.ask_to_stop();
    proxy.stopped().await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn dawdling_clients_are_let_go() {
    let second = Duration::from_secs(1);
    let config = ProxyConfig {
        head_timeout: second,
        idle_timeout: second,
        handshake_timeout: second,
        ..ProxyConfig::default()
    };
    let proxy = Proxy::with(config);
    let mut silent = TcpStream::connect(proxy.http).await.expect("connects");
    let mut silent_tls = TcpStream::connect(proxy.https).await.expect("connects");
    let mut slow = TcpStream::connect(proxy.http).await.expect("connects");
    // One byte each 100 ms: no single read is slow.
    for byte in b"GET / HTTP/1.1\r\nHost: web.test\r\nX-Slow: aaaaaaaaaaaaaaaaaaa".iter() {
        if slow.write_all(&[*byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let begun = Instant::now();
    assert_eq!(read_all(&mut slow).await, "");
    assert_eq!(read_all(&mut silent).await, "");
    assert_eq!(read_all(&mut silent_tls).await, "");
    assert!(begun.elapsed() < Duration::from_millis(500), "all three were closed before");
    assert_eq!(proxy.handle.counters().connections, 0);
}

#[tokio::test]
async fn at_the_connection_limit_idle_connections_make_room() {
    let app = App::start("web").await;
    let proxy = Proxy::with(ProxyConfig { connection_limit: 20, ..ProxyConfig::default() });
    proxy.route(&release(1, &[app.addr]));
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(TcpStream::connect(proxy.http).await.expect("connects"));
    }
    for _ in 0..5 {
        assert_eq!(proxy.get("/").await.status(), 200);
    }
    let counters = proxy.handle.counters();
    assert!(counters.shed > 0 && counters.connections <= 20, "{counters:?}");
}
