//! Bodies pass through as they come, and memory stays flat.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{App, Proxy, raw_app, read_head, release, resident_kib};

#[tokio::test]
async fn events_arrive_when_they_are_sent() {
    let app = App::start("web").await;
    let proxy = Proxy::start();
    proxy.route(&release(1, &[app.addr]));
    let mut events = proxy.get("/events").await.bytes_stream();
    let begun = Instant::now();
    for n in 0..3 {
        let event = events.next().await.expect("an event").expect("no error");
        assert_eq!(event, format!("data: {n}\n\n"));
        let late = begun.elapsed().saturating_sub(Duration::from_millis(200) * n);
        assert!(late < Duration::from_millis(150), "event {n} was {late:?} late");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_upload_and_download_keep_memory_flat() {
    let app = App::start("web").await;
    let proxy = Proxy::start();
    proxy.route(&release(1, &[app.addr]));
    proxy.get("/").await;
    let before = resident_kib();
    let mut most = before;
    // Memory is looked at while the body is under way, by the stream itself.
    const PIECES: usize = 1600;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let body = futures_util::stream::iter((0..PIECES).map(move |n| {
        if n % 100 == 0 {
            let _ = tell.send(resident_kib());
        }
        Ok::<_, std::io::Error>(Bytes::from(vec![b'u'; 64 << 10]))
    }));
    let answer =
        proxy.client().post(proxy.url("/upload")).body(reqwest::Body::wrap_stream(body)).send().await;
    let text = answer.expect("an answer").text().await.expect("a body");
    assert_eq!(text, format!("{} bytes, 0 wrong", PIECES * (64 << 10)));
    while let Some(kib) = told.recv().await {
        most = most.max(kib);
    }
    let mut download = proxy.get("/download").await.bytes_stream();
    let mut bytes = 0;
    while let Some(piece) = download.next().await {
        bytes += piece.expect("no error").len();
        most = most.max(resident_kib());
    }
    assert_eq!(bytes, 64 << 20);
    // App, proxy and client share the process, so a few pieces of each are held.
    assert!(most < before + (24 << 10), "grew from {before} to {most} KiB");
}

#[tokio::test]
async fn a_client_may_ask_before_it_uploads() {
    let app = App::start("web").await;
    let proxy = Proxy::start();
    proxy.route(&release(1, &[app.addr]));
    let answer = proxy
        .raw("POST /upload HTTP/1.1\r\nHost: web.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\nuuuu")
        .await;
    assert!(answer.ends_with("4 bytes, 0 wrong"), "{answer}");
}

#[tokio::test]
async fn a_body_without_a_length_is_passed_in_the_clients_own_framing() {
    let (addr, _) = raw_app(|mut socket| async move {
        read_head(&mut socket).await;
        let _ = socket
            .write_all(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\r\nuntil")
            .await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let _ = socket.write_all(b" the end").await;
    })
    .await;
    let proxy = Proxy::start();
    proxy.route(&release(1, &[addr]));
    let modern = proxy.raw("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n").await.to_ascii_lowercase();
    assert!(modern.starts_with("http/1.1 103 ") && modern.contains("transfer-encoding: chunked"), "{modern}");
    assert!(modern.contains("connection: keep-alive") && modern.ends_with("0\r\n\r\n"), "{modern}");
    let old = proxy.raw("GET / HTTP/1.0\r\nHost: web.test\r\n\r\n").await.to_ascii_lowercase();
    assert!(!old.contains("transfer-encoding") && old.ends_with("\r\n\r\nuntil the end"), "{old}");
}

#[tokio::test]
async fn a_head_request_gets_no_body_and_its_connection_lives_on() {
    let app = App::start("web").await;
    let proxy = Proxy::start();
    proxy.route(&release(1, &[app.addr]));
    let pair = "HEAD / HTTP/1.1\r\nHost: web.test\r\n\r\n";
    let answer = proxy.raw(pair).await;
    assert!(answer.contains("content-length: 3") || answer.contains("Content-Length: 3"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_at_once() {
    let app = App::start("web").await;
    let mut proxy = Proxy::start();
    let target = release(1, &[app.addr]);
    proxy.route(&target);
    let mut socket = tokio::net::TcpStream::connect(proxy.http).await.expect("connects");
    socket.write_all(b"GET /slow?ms=20000 HTTP/1.1\r\nHost: web.test\r\n\r\n").await.expect("writes");
    while target.in_flight() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(socket);
    assert_eq!(proxy.record().await.fault, Some(berth_proxy::AccessFault::ClientGone));
    assert_eq!(target.in_flight(), 0);
}

#[tokio::test]
async fn websockets_pass_both_ways() {
    let (addr, _) = raw_app(|socket| async move {
        let Ok(mut socket) = tokio_tungstenite::accept_async(socket).await else { return };
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() && socket.send(message).await.is_err() {
                return;
            }
        }
    })
    .await;
    let mut proxy = Proxy::start();
    proxy.route(&release(1, &[addr]));
    let (mut socket, _) = tokio_tungstenite::client_async(
        "ws://web.test/chat",
        tokio::net::TcpStream::connect(proxy.http).await.expect("connects"),
    )
    .await
    .expect("an upgrade");
    for n in 0..3 {
        socket.send(Message::text(format!("hello {n}"))).await.expect("sent");
        let echo = socket.next().await.expect("an echo").expect("no error");
        assert_eq!(echo, Message::text(format!("hello {n}")));
    }
    let large = "x".repeat(300_000);
    socket.send(Message::text(large.clone())).await.expect("sent");
    assert_eq!(socket.next().await.expect("an echo").expect("no error"), Message::text(large));
    socket.close(None).await.expect("closed");
    while socket.next().await.is_some() {}
    let record = proxy.record().await;
    assert_eq!((record.status, record.protocol), (101, berth_proxy::Protocol::WebSocket));
}
