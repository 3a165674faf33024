//! Connections to apps that are used again, and apps that close them at the worst moment.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use reqwest::Method;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

use crate::support::{Proxy, raw_app, read_request, release};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// How often the app has seen each path.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<HashMap<String, usize>>>);

impl Seen {
    fn note(&self, head: &str) {
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        *self.0.lock().expect("no panic").entry(path).or_default() += 1;
    }

    fn times(&self, path: &str) -> usize {
        self.0.lock().expect("no panic").get(path).copied().unwrap_or_default()
    }
}

/// Every kind of request that goes its own way through the proxy: without a body, with a small one, with a
/// large one, with one of unknown length.
async fn ask_in_every_way(proxy: &Proxy, client: &reqwest::Client, seen: &Seen, round: usize) {
    let chunked = || {
        reqwest::Body::wrap_stream(futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(
            b"chunk",
        ))]))
    };
    let requests = [
        ("get", Method::GET, None),
        ("post", Method::POST, Some(reqwest::Body::from(""))),
        ("delete", Method::DELETE, None),
        ("small", Method::POST, Some(reqwest::Body::from("order"))),
        ("head", Method::HEAD, None),
        ("put", Method::PUT, Some(reqwest::Body::from("thing"))),
        ("large", Method::POST, Some(reqwest::Body::from(vec![b'x'; 100 << 10]))),
        ("patch", Method::PATCH, Some(reqwest::Body::from("part"))),
        ("chunked", Method::POST, Some(chunked())),
    ];
    for (name, method, body) in requests {
        let path = format!("/{name}/{round}");
        let mut request = client.request(method.clone(), proxy.url(&path));
        if let Some(body) = body {
            request = request.body(body);
        }
        let answer = request.send().await.unwrap_or_else(|error| panic!("{path}: {error:?}"));
        assert_eq!(answer.status(), 200, "{path}");
        if !method.is_idempotent() || name == "put" {
            assert_eq!(seen.times(&path), 1, "{path}");
        }
    }
}

#[tokio::test]
async fn an_app_that_closes_when_a_second_request_arrives_causes_no_error() {
    let seen = Seen::default();
    let (addr, connections) = raw_app({
        let seen = seen.clone();
        move |mut socket: TcpStream| {
            let seen = seen.clone();
            async move {
                let Some(head) = read_request(&mut socket).await else { return };
                seen.note(&head);
                let _ = socket.write_all(OK).await;
                // Sees that something comes, and leaves.
                let _ = socket.peek(&mut [0]).await;
            }
        }
    })
    .await;
    let proxy = Proxy::start();
    let target = release(1, &[addr]);
    proxy.route(&target);
    let client = proxy.client();
    for round in 0..20 {
        ask_in_every_way(&proxy, &client, &seen, round).await;
    }
    assert_eq!((target.answers().total, target.answers().server_errors), (180, 0));
    assert!(proxy.handle.counters().retries >= 20, "connections were used again, and asked again");
    assert!(connections.load(std::sync::atomic::Ordering::SeqCst) >= 180);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_closes_idle_connections_after_a_second_causes_no_error() {
    let seen = Seen::default();
    let (addr, _) = raw_app({
        let seen = seen.clone();
        move |mut socket: TcpStream| {
            let seen = seen.clone();
            async move {
                let second = Duration::from_secs(1);
                while let Ok(Some(head)) = timeout(second, read_request(&mut socket)).await {
                    seen.note(&head);
                    let _ = socket.write_all(OK).await;
                    if head.to_ascii_lowercase().contains("connection: close") {
                        return;
                    }
                }
            }
        }
    })
    .await;
    let proxy = Arc::new(Proxy::start());
    proxy.route(&release(1, &[addr]));
    let mut clients = Vec::new();
    for who in 0..16 {
        let (proxy, seen) = (Arc::clone(&proxy), seen.clone());
        clients.push(tokio::spawn(async move {
            let client = proxy.client();
            for round in 0..4 {
                ask_in_every_way(&proxy, &client, &seen, who * 100 + round).await;
                // Around the moment at which the app closes.
                tokio::time::sleep(Duration::from_micros(996_000 + who as u64 * 500)).await;
            }
        }));
    }
    for client in clients {
        client.await.expect("no request failed");
    }
}

#[tokio::test]
async fn only_repeatable_requests_share_connections_and_clients_notice_nothing() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let (addr, connections) = raw_app({
        let heads = heads.clone();
        move |mut socket: TcpStream| {
            let heads = heads.clone();
            async move {
                while let Some(head) = read_request(&mut socket).await {
                    heads.lock().expect("no panic").push(head.to_ascii_lowercase());
                    let _ = socket
                        .write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok")
                        .await;
                }
            }
        }
    })
    .await;
    let proxy = Proxy::start();
    proxy.route(&release(1, &[addr]));
    let client = proxy.client();
    for body in [10, 100 << 10] {
        let answer = client.post(proxy.url("/")).body(vec![b'x'; body]).send().await.expect("an answer");
        assert_eq!(answer.headers()["connection"], "keep-alive", "the app's connection is not the client's");
    }
    assert_eq!(connections.load(std::sync::atomic::Ordering::SeqCst), 2);
    assert!(heads.lock().expect("no panic").iter().all(|head| head.contains("connection: close\r\n")));
    assert_eq!(proxy.handle.counters().accepted, 1);
}
