//! Event streams: they may be silent for long, and end whole.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use berth_proxy::{AccessFault, ProxyConfig, ReleaseTarget, TargetOptions};
use futures_util::StreamExt;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{App, Proxy, raw_app, read_all, read_request, release, release_with, until};

const CHUNKED: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const UNTIL_CLOSED: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

/// An app that tells these pieces of events, one each few milliseconds, over and over.
async fn teller(head: &'static str, pieces: &'static [&'static str], pause: Duration) -> SocketAddr {
    let app = raw_app(move |mut socket: TcpStream| async move {
        let Some(_) = read_request(&mut socket).await else { return };
        let _ = socket.write_all(head.as_bytes()).await;
        for piece in pieces.iter().cycle() {
            let piece = if head == CHUNKED {
                format!("{:x}\r\n{piece}\r\n", piece.len())
            } else {
                (*piece).to_owned()
            };
            if socket.write_all(piece.as_bytes()).await.is_err() {
                return;
            }
            tokio::time::sleep(pause).await;
        }
    });
    app.await.0
}

/// Drains the release while its stream is read to the end, and returns what came.
async fn ended(
    proxy: &mut Proxy,
    target: &Arc<ReleaseTarget>,
    new: &App,
    answer: reqwest::Response,
) -> String {
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut stream = answer.bytes_stream();
    let mut told = stream.next().await.expect("an event").expect("no error").to_vec();
    proxy.route(&release(2, &[new.addr]));
    let drain = tokio::spawn({
        let (handle, target) = (proxy.handle.clone(), target.clone());
        async move { handle.drain(&target, Duration::from_millis(200)).await }
    });
    while let Some(piece) = stream.next().await {
        told.extend_from_slice(&piece.expect("a whole answer"));
    }
    let report = drain.await.expect("no panic");
    assert_eq!(report.cut, 1);
    assert!(report.waited < Duration::from_millis(1700), "{report:?}");
    let record = proxy.record().await;
    assert_eq!((record.status, record.fault), (200, Some(AccessFault::Cut)));
    String::from_utf8(told).expect("text")
}

fn assert_whole(told: &str) {
    assert!(told.ends_with("data: b\n\n") || told.ends_with("data: a\n\n"), "{told:?}");
}

#[tokio::test]
async fn a_stream_ends_between_two_events_however_the_app_cuts_them() {
    let new = App::start("new").await;
    for head in [CHUNKED, UNTIL_CLOSED] {
        for pieces in [
            &["data: a\n\n", "data: b\n\n"][..],
            // No piece ends where an event does.
            &["data: a\n\nda", "ta: b\n\nda", "ta: a\n\nd", "ata: b\n\ndata: a\n\nda", "ta: b\n", "\n"][..],
            &["data: a", "\n", "\ndata: b\n", "\n"][..],
        ] {
            let mut proxy = Proxy::start();
            let target = release(1, &[teller(head, pieces, Duration::from_millis(3)).await]);
            proxy.route(&target);
            let client = proxy.client();
            let answer = client.get(proxy.url("/")).send().await.expect("an answer");
            assert_whole(&ended(&mut proxy, &target, &new, answer).await);
            // The connection lives on, and leads to the new release.
            let again = client.get(proxy.url("/")).send().await.expect("an answer");
            assert_eq!(again.text().await.expect("a body"), "new");
            assert_eq!(proxy.record().await.fault, None);
            assert_eq!(proxy.handle.counters().accepted, 1);
        }
    }
}

#[tokio::test]
async fn an_event_that_is_half_told_is_waited_for_but_not_for_ever() {
    let mut proxy = Proxy::start();
    let new = App::start("new").await;
    let slow = teller(CHUNKED, &["data: a", "\n\n"], Duration::from_millis(350)).await;
    let target = release(1, &[slow]);
    proxy.route(&target);
    let answer = proxy.get("/").await;
    assert_eq!(ended(&mut proxy, &target, &new, answer).await, "data: a\n\n");

    let never = teller(CHUNKED, &["data: a", "\n\n"], Duration::from_secs(60)).await;
    let target = release(3, &[never]);
    proxy.route(&target);
    let answer = proxy.get("/").await;
    assert_eq!(ended(&mut proxy, &target, &new, answer).await, "data: a");
}

#[tokio::test]
async fn a_silent_stream_ends_at_once_over_every_protocol_and_for_posts() {
    let (app, new) = (App::start("web").await, App::start("new").await);
    let mut proxy = Proxy::start();
    let http2 = proxy.http2_client();
    let (http, https) = (proxy.url("/events"), proxy.https_url("/events"));
    for request in [
        proxy.client().get(&http),
        http2.get(&https),
        proxy.client().post(&http).body("a question"),
        http2.post(&https).body("a question"),
    ] {
        let target = release(1, &[app.addr]);
        proxy.route(&target);
        let answer = request.send().await.expect("an answer");
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(ended(&mut proxy, &target, &new, answer).await, "data: 0\n\ndata: 1\n\ndata: 2\n\n");
    }
}

#[tokio::test]
async fn a_client_without_chunks_sees_an_orderly_end_too() {
    let app = App::start("web").await;
    let proxy = Proxy::start();
    let target = release(1, &[app.addr]);
    proxy.route(&target);
    let mut old = TcpStream::connect(proxy.http).await.expect("connects");
    old.write_all(b"GET /events HTTP/1.0\r\nHost: web.test\r\n\r\n").await.expect("writes");
    until(|| target.answers().total == 1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let _ = proxy.handle.drain(&target, Duration::ZERO).await;
    let told = read_all(&mut old).await;
    assert!(told.ends_with("\r\n\r\ndata: 0\n\ndata: 1\n\ndata: 2\n\n"), "{told:?}");
}

#[tokio::test]
async fn at_a_stop_streams_end_whole_at_the_deadline() {
    let app = App::start("web").await;
    let config = ProxyConfig { shutdown_timeout: Duration::from_millis(1300), ..ProxyConfig::default() };
    let mut proxy = Proxy::with(config);
    proxy.route(&release(1, &[app.addr]));
    let http2 = proxy.http2_client();
    let one = proxy.get("/events").await;
    let two = http2.get(proxy.https_url("/events")).send().await.expect("an answer");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let begun = std::time::Instant::now();
    proxy.ask_to_stop();
    for answer in [one, two] {
        assert_eq!(answer.text().await.expect("a whole answer"), "data: 0\n\ndata: 1\n\ndata: 2\n\n");
        assert!(begun.elapsed() > Duration::from_millis(1200), "{:?}", begun.elapsed());
    }
    proxy.stopped().await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_stream_may_be_silent_for_longer_than_an_answer() {
    let seldom = teller(CHUNKED, &["data: a\n\n", "data: b\n\n"], Duration::from_millis(900)).await;
    let proxy = Proxy::start();
    let options = TargetOptions { response_timeout: Duration::from_millis(200), ..TargetOptions::default() };
    proxy.route(&release_with(1, &[seldom], options));
    let upload = |size: usize| {
        proxy.client().post(proxy.url("/")).header("accept", "text/event-stream").body(vec![b'x'; size])
    };
    for request in [proxy.client().get(proxy.url("/")), upload(10), upload(100 << 10)] {
        let mut stream = request.send().await.expect("an answer").bytes_stream();
        for event in ["data: a\n\n", "data: b\n\n"] {
            assert_eq!(stream.next().await.expect("an event").expect("no error"), event);
        }
    }
}
