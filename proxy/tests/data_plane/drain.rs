//! Drain: what is counted, what may finish, what is ended at the deadline and how.

use std::time::{Duration, Instant};

use berth_proxy::AccessFault;
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::{Message, protocol::frame::coding::CloseCode};

use crate::support::{App, Proxy, raw_app, release, until};

#[tokio::test]
async fn what_is_in_flight_finishes_and_is_counted() {
    let (old, new) = (App::start("old").await, App::start("new").await);
    let proxy = Proxy::start();
    let (old_release, new_release) = (release(1, &[old.addr]), release(2, &[new.addr]));
    proxy.route(&old_release);
    let slow = tokio::spawn(proxy.client().get(proxy.url("/slow?ms=400")).send());
    while old_release.in_flight() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    proxy.route(&new_release);
    let drain = tokio::spawn({
        let (handle, target) = (proxy.handle.clone(), old_release.clone());
        async move { handle.drain(&target, Duration::from_secs(5)).await }
    });
    assert_eq!(proxy.get("/").await.text().await.expect("a body"), "new");
    let report = drain.await.expect("no panic");
    assert_eq!((report.finished, report.cut), (1, 0));
    assert!((200..3000).contains(&report.waited.as_millis()), "{report:?}");
    assert_eq!(slow.await.expect("no panic").expect("an answer").text().await.expect("a body"), "old");
    assert_eq!(old_release.in_flight(), 0);
}

#[tokio::test]
async fn what_outlasts_the_deadline_is_cut_and_recorded() {
    let app = App::start("web").await;
    let mut proxy = Proxy::start();
    let target = release(1, &[app.addr]);
    proxy.route(&target);
    let slow = tokio::spawn(proxy.client().get(proxy.url("/slow?ms=20000")).send());
    until(|| target.in_flight() == 1).await;
    proxy.route(&release(2, &[app.addr]));
    let report = proxy.handle.drain(&target, Duration::from_millis(300)).await;
    assert_eq!((report.finished, report.cut), (0, 1));
    assert!(report.waited < Duration::from_millis(1500), "{report:?}");
    let begun = Instant::now();
    assert!(slow.await.expect("no panic").is_err());
    assert!(begun.elapsed() < Duration::from_secs(1), "the client sees the end at once");
    assert_eq!(proxy.record().await.fault, Some(AccessFault::Cut));
}

#[tokio::test]
async fn a_websocket_gets_a_close_frame_between_two_messages() {
    // Talks all the time, so that the deadline falls into its frames.
    let (addr, _) = raw_app(|socket| async move {
        let Ok(mut socket) = tokio_tungstenite::accept_async(socket).await else { return };
        while socket.send(Message::text("tick".repeat(500))).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let mut proxy = Proxy::start();
    let target = release(1, &[addr]);
    proxy.route(&target);
    let tcp = tokio::net::TcpStream::connect(proxy.http).await.expect("connects");
    let (mut socket, _) = tokio_tungstenite::client_async("ws://web.test/", tcp).await.expect("an upgrade");
    assert_eq!(socket.next().await.expect("a message").expect("no error"), Message::text("tick".repeat(500)));
    let drain = tokio::spawn({
        let (handle, target) = (proxy.handle.clone(), target.clone());
        async move { handle.drain(&target, Duration::from_millis(200)).await }
    });
    let mut last = None;
    while let Some(message) = socket.next().await {
        match message {
            Ok(Message::Text(text)) => assert_eq!(text.len(), 2000, "whole messages only"),
            Ok(message) => last = Some(message),
            Err(error) => panic!("a broken stream: {error}"),
        }
    }
    let Some(Message::Close(Some(close))) = last else { panic!("no close frame, but {last:?}") };
    assert_eq!(close.code, CloseCode::Restart);
    let report = drain.await.expect("no panic");
    assert_eq!(report.cut, 1);
    assert!(report.waited < Duration::from_secs(2), "{report:?}");
    let record = proxy.record().await;
    assert_eq!((record.status, record.fault), (101, Some(AccessFault::Cut)));
}

#[tokio::test]
async fn a_silent_websocket_is_closed_too() {
    let (addr, _) = raw_app(|socket| async move {
        let Ok(mut socket) = tokio_tungstenite::accept_async(socket).await else { return };
        while socket.next().await.is_some_and(|message| message.is_ok()) {}
    })
    .await;
    let proxy = Proxy::start();
    let target = release(1, &[addr]);
    proxy.route(&target);
    let tcp = tokio::net::TcpStream::connect(proxy.http).await.expect("connects");
    let (mut socket, _) = tokio_tungstenite::client_async("ws://web.test/", tcp).await.expect("an upgrade");
    let reading = tokio::spawn(async move { socket.next().await });
    let report = proxy.handle.drain(&target, Duration::from_millis(50)).await;
    assert_eq!(report.cut, 1);
    assert!(matches!(reading.await.expect("no panic"), Some(Ok(Message::Close(Some(_))))));
}
