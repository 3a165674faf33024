//! One server hands its listening sockets to another, as an upgrade does: nobody is turned away.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use berth_proxy::{AccessSink, Destination, ListenOn, ProxyConfig, ProxyServer, RouteTable};

use crate::support::{App, LOOPBACK, release};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_over_under_load_loses_no_request() {
    let app = App::start("web").await;
    let target = release(1, &[app.addr]);
    let table = || {
        let routes = RouteTable::builder().host("web.test").to(Destination::Release(target.clone())).build();
        routes.expect("one route")
    };
    // As the daemon does: the socket is kept, and each server gets a duplicate.
    let socket = berth_proxy::bind(LOOPBACK).expect("loopback can be bound");
    let at = socket.local_addr().expect("it is bound");
    let serve = || {
        let duplicate = socket.try_clone().expect("file descriptors");
        let config = ProxyConfig { http: vec![ListenOn::Bound(duplicate)], ..ProxyConfig::default() };
        let (server, handle) = ProxyServer::bind(config, AccessSink::discard()).expect("takes it over");
        handle.set_routes(table());
        server
    };
    let mut server = serve();
    let over = Arc::new(AtomicBool::new(false));
    let (mut clients, mut stopping) = (Vec::new(), Vec::new());
    let _ = rustls::crypto::ring::default_provider().install_default();
    for who in 0..16 {
        let over = Arc::clone(&over);
        clients.push(tokio::spawn(async move {
            let mut slowest = (Duration::ZERO, 0_u32);
            let builder = reqwest::Client::builder().no_proxy().resolve("web.test", at);
            // Half of them come anew for each request.
            let builder = if who % 2 == 0 { builder } else { builder.pool_max_idle_per_host(0) };
            let client = builder.build().expect("a client");
            while !over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let url = format!("http://web.test:{}/", at.port());
                let answer = if who % 4 < 2 { client.get(url) } else { client.post(url).body("order") };
                let answer = answer.send().await.expect("an answer");
                assert_eq!(answer.text().await.expect("a body"), "web");
                slowest = (slowest.0.max(begun.elapsed()), slowest.1 + 1);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            slowest
        }));
    }
    for _ in 0..3 {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let old = tokio::spawn(server.run(stopped));
        tokio::time::sleep(Duration::from_millis(300)).await;
        // The next round runs it: until then connections wait in the queue that both share.
        server = serve();
        stop.send(true).expect("it runs");
        stopping.push(old);
    }
    let (_keep, forever) = tokio::sync::watch::channel(false);
    tokio::spawn(server.run(forever));
    for old in stopping {
        let stopped = tokio::time::timeout(Duration::from_secs(10), old).await;
        stopped.expect("stops in time").expect("no panic");
    }
    over.store(true, Ordering::Relaxed);
    let mut slowest = Duration::ZERO;
    let mut asked = 0;
    for client in clients {
        let (most, n) = client.await.expect("no request failed");
        slowest = slowest.max(most);
        asked += n;
    }
    eprintln!("{asked} requests, the slowest took {slowest:?}");
    assert!(asked > 100, "{asked}");
}
