//! The end of a WebSocket whose app says none: it dies, or drops the connection in the middle of a drain.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::frame::coding::CloseCode},
};

use crate::{
    support::{Proxy, raw_app, release, until},
    tls::handshake,
};

/// How the app leaves.
#[derive(Clone, Copy, Debug)]
enum Leaves {
    /// As a process that ends: the kernel closes its side.
    Closes,
    /// As a process that is killed with data unread: the kernel resets.
    Resets,
}

/// An app that sends a message, waits for one and leaves without a close frame.
async fn leaving(how: Leaves) -> std::net::SocketAddr {
    let app = raw_app(move |socket| async move {
        let Ok(mut socket) = tokio_tungstenite::accept_async(socket).await else { return };
        let _ = socket.send(Message::text("hello")).await;
        let _ = socket.next().await;
        if let Leaves::Resets = how {
            socket2::SockRef::from(socket.get_ref()).set_linger(Some(Duration::ZERO)).expect("a socket");
        }
    });
    app.await.0
}

async fn last_words<S: AsyncRead + AsyncWrite + Unpin>(mut socket: WebSocketStream<S>) -> Option<Message> {
    assert_eq!(socket.next().await.expect("a message").expect("no error"), Message::text("hello"));
    socket.send(Message::text("go")).await.expect("sent");
    ended(socket).await
}

fn assert_restart(last: Option<Message>, how: Leaves) {
    let Some(Message::Close(Some(close))) = last else { panic!("{how:?}: no close frame, but {last:?}") };
    assert_eq!(close.code, CloseCode::Restart, "{how:?}");
}

#[tokio::test]
async fn a_client_is_told_when_its_app_leaves_without_a_word() {
    for how in [Leaves::Closes, Leaves::Resets] {
        let proxy = Proxy::start();
        proxy.route(&release(1, &[leaving(how).await]));
        assert_restart(last_words(plain(&proxy).await).await, how);
        assert_restart(last_words(secure(&proxy).await).await, how);
    }
}

#[tokio::test]
async fn every_client_is_told_however_the_app_takes_the_end_of_a_drain() {
    // The apps' sockets are dropped at about the moment of the deadline.
    for round in 0..20_u64 {
        let (addr, _) = raw_app(move |socket| async move {
            let Ok(mut socket) = tokio_tungstenite::accept_async(socket).await else { return };
            let ticks = async {
                while socket.send(Message::text("tick")).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
            };
            let _ = tokio::time::timeout(Duration::from_millis(40 + round), ticks).await;
        })
        .await;
        let proxy = Proxy::start();
        let target = release(1, &[addr]);
        proxy.route(&target);
        let (one, other) = (plain(&proxy).await, secure(&proxy).await);
        let clients = [tokio::spawn(ended(one)), tokio::spawn(ended(other))];
        until(|| target.in_flight() == 2).await;
        proxy.handle.drain(&target, Duration::from_millis(30)).await;
        for client in clients {
            let last = client.await.expect("no panic");
            assert!(
                matches!(last, Some(Message::Close(Some(_)))),
                "round {round}: no close frame, but {last:?}"
            );
        }
    }
}

async fn plain(proxy: &Proxy) -> WebSocketStream<TcpStream> {
    let tcp = TcpStream::connect(proxy.http).await.expect("connects");
    tokio_tungstenite::client_async("ws://web.test/", tcp).await.expect("an upgrade").0
}

async fn secure(proxy: &Proxy) -> WebSocketStream<TlsStream<TcpStream>> {
    let _with_a_certificate = proxy.http2_client();
    let tls = handshake(proxy, "web.test", &[b"http/1.1"]).await.expect("a handshake");
    tokio_tungstenite::client_async("wss://web.test/", tls).await.expect("an upgrade").0
}

/// The last message, when the connection has ended in good order.
async fn ended<S: AsyncRead + AsyncWrite + Unpin>(mut socket: WebSocketStream<S>) -> Option<Message> {
    let mut last = None;
    while let Some(message) = socket.next().await {
        last = Some(message.unwrap_or_else(|error| panic!("a broken stream: {error}")));
    }
    last
}
