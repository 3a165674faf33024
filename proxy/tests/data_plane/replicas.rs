//! Balancing, dead replicas, and what is tried again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use berth_proxy::{AccessFault, TargetOptions};
use tokio::io::AsyncWriteExt;

use crate::support::{App, Proxy, dead_address, raw_app, read_head, release, release_with, replicas};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn replicas_share_the_work_and_a_scale_keeps_the_release() {
    let (one, two) = (App::start("one").await, App::start("two").await);
    let proxy = Proxy::start();
    let target = release(1, &[one.addr]);
    proxy.route(&target);
    for _ in 0..4 {
        proxy.get("/").await;
    }
    assert_eq!((one.hits(), two.hits()), (4, 0));
    let removed = target.set_replicas(replicas(&[one.addr, two.addr]));
    assert!(removed.idle(Duration::ZERO).await, "none was removed");
    for _ in 0..10 {
        proxy.get("/").await;
    }
    assert_eq!((one.hits(), two.hits()), (9, 5));
}

#[tokio::test]
async fn a_dead_replica_is_not_noticed_by_clients() {
    let app = App::start("web").await;
    let proxy = Proxy::start();
    let target = release(1, &[dead_address().await, app.addr]);
    proxy.route(&target);
    for i in 0..20 {
        let request = if i % 2 == 0 {
            proxy.client().get(proxy.url("/"))
        } else {
            proxy.client().post(proxy.url("/")).body("x")
        };
        assert_eq!(request.send().await.expect("an answer").status(), 200);
    }
    assert_eq!(app.hits(), 20);
    // Once at first, and perhaps once more as a probe after the back-off.
    assert!((1..=2).contains(&proxy.handle.counters().retries), "{:?}", proxy.handle.counters());
    assert_eq!(target.replicas().iter().map(|(_, _, healthy)| *healthy).collect::<Vec<_>>(), [false, true]);
}

#[tokio::test]
async fn a_replica_that_comes_back_is_used_again() {
    let back = dead_address().await;
    let app = App::start("web").await;
    let proxy = Proxy::start();
    let target = release(1, &[back, app.addr]);
    proxy.route(&target);
    proxy.get("/").await;
    let listener = tokio::net::TcpListener::bind(back).await.expect("the address is free");
    let _server = tokio::spawn(async move {
        axum::serve(listener, axum::Router::new().fallback(|| async { "back" })).await
    });
    tokio::time::sleep(Duration::from_millis(600)).await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(proxy.get("/").await.text().await.expect("a body"));
    }
    assert!(seen.iter().any(|name| name == "back"), "{seen:?}");
}

#[tokio::test]
async fn when_no_replica_can_be_reached_the_page_says_unhealthy() {
    let mut proxy = Proxy::start();
    proxy.route(&release(1, &[dead_address().await, dead_address().await]));
    let answer = proxy.get("/").await;
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["x-berth-error"], "app_unhealthy");
    assert!(answer.headers().contains_key("retry-after"));
    assert_eq!(proxy.record().await.fault, Some(AccessFault::Unhealthy));
    proxy.route(&release(2, &[]));
    assert_eq!(proxy.get("/").await.status(), 503);
}

#[tokio::test]
async fn a_post_that_the_app_may_have_seen_is_never_sent_twice() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    // Reads a request, and hangs up.
    let (addr, _) = raw_app(move |mut socket| {
        let seen = counted.clone();
        async move {
            while read_head(&mut socket).await.is_some_and(|head| head.starts_with("GET")) {
                let _ = socket.write_all(OK).await;
            }
            seen.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let mut proxy = Proxy::start();
    let target = release(1, &[addr]);
    proxy.route(&target);
    let client = proxy.client();
    for (n, body) in [0, 10, 100 << 10].into_iter().enumerate() {
        assert_eq!(client.get(proxy.url("/")).send().await.expect("an answer").status(), 200);
        assert_eq!(proxy.record().await.fault, None);
        let post = client.post(proxy.url("/")).body(vec![b'x'; body]).send().await.expect("an answer");
        assert_eq!(
            (post.status().as_u16(), &post.headers()["x-berth-error"]),
            (502, &"app_no_answer".parse().expect("a value"))
        );
        assert_eq!(seen.load(Ordering::SeqCst), n + 1, "each once");
        assert_eq!(proxy.record().await.fault, Some(AccessFault::NoAnswer));
    }
    assert_eq!((target.answers().total, target.answers().server_errors), (6, 3));
}

#[tokio::test]
async fn a_get_on_a_fresh_connection_is_not_sent_twice_either() {
    let (addr, connections) = raw_app(|mut socket| async move {
        read_head(&mut socket).await;
    })
    .await;
    let proxy = Proxy::start();
    proxy.route(&release(1, &[addr]));
    assert_eq!(proxy.get("/").await.status(), 502);
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_app_that_closes_idle_connections_is_outrun() {
    let (addr, connections) = raw_app(|mut socket| async move {
        while let Ok(Some(_)) = tokio::time::timeout(Duration::from_millis(300), read_head(&mut socket)).await
        {
            let _ = socket.write_all(OK).await;
        }
    })
    .await;
    let proxy = Proxy::start();
    proxy.route(&release(1, &[addr]));
    let client = proxy.client();
    for pause in [0, 100, 290, 299, 300, 301, 302, 305, 310, 400, 500] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let answer = client.get(proxy.url("/")).send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "after {pause} ms");
    }
    assert!(connections.load(Ordering::SeqCst) >= 3);
}

#[tokio::test]
async fn an_app_that_stays_silent_times_out() {
    let app = App::start("web").await;
    let mut proxy = Proxy::start();
    let options = TargetOptions { response_timeout: Duration::from_millis(300), ..TargetOptions::default() };
    proxy.route(&release_with(1, &[app.addr], options));
    let answer = proxy.get("/slow?ms=3000").await;
    assert_eq!(answer.status(), 504);
    assert_eq!(answer.headers()["x-berth-error"], "app_timeout");
    assert_eq!(proxy.record().await.fault, Some(AccessFault::Timeout));
}
