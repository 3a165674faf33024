//! The end of a WebSocket whose app says none: it dies, or drops the connection in the middle of a drain.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::frame::coding::CloseCode},
};

use crate::{
    support::{Proxy, raw_app, read_head, release, until},
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
async fn an_app_that_answers_at_once_keeps_its_client() {
    // Before it has even read the request, so that its answer is there before anything else happens.
    let (addr, _) = raw_app(|mut socket| async move {
        let answer = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
        socket.write_all(answer.as_bytes()).await.expect("sent");
        let head = read_head(&mut socket).await.expect("a request").to_lowercase();
        assert!(head.contains("upgrade: websocket") && head.contains("connection: upgrade"), "{head}");
        tokio::time::sleep(Duration::from_millis(20)).await;
        socket.write_all(b"hello").await.expect("sent");
        let mut word = [0; 4];
        socket.read_exact(&mut word).await.expect("a word");
        socket.write_all(&word).await.expect("sent");
    })
    .await;
    let proxy = Proxy::start();
    proxy.route(&release(1, &[addr]));
    for round in 0..30 {
        let mut client = TcpStream::connect(proxy.http).await.expect("connects");
        let request = "GET / HTTP/1.1\r\nhost: web.test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
        client.write_all(request.as_bytes()).await.expect("sent");
        let head = read_head(&mut client).await.expect("an answer");
        assert!(head.starts_with("HTTP/1.1 101"), "round {round}: {head}");
        let mut hello = [0; 5];
        client.read_exact(&mut hello).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert_eq!(&hello, b"hello", "round {round}");
        client.write_all(b"word").await.expect("sent");
        let mut word = [0; 4];
        client.read_exact(&mut word).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert_eq!(&word, b"word", "round {round}");
    }
}

#[tokio::test]
async fn an_app_cannot_switch_to_what_nobody_asked_for() {
    let (addr, _) = raw_app(|mut socket| async move {
        read_head(&mut socket).await;
        let answer = "HTTP/1.1 101 Switching Protocols\r\nupgrade: tunnel\r\nconnection: upgrade\r\n\r\n";
        let _ = socket.write_all(answer.as_bytes()).await;
    })
    .await;
    let proxy = Proxy::start();
    proxy.route(&release(1, &[addr]));
    let mut client = TcpStream::connect(proxy.http).await.expect("connects");
    let request = "GET / HTTP/1.1\r\nhost: web.test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    client.write_all(request.as_bytes()).await.expect("sent");
    let head = read_head(&mut client).await.expect("an answer");
    assert!(head.starts_with("HTTP/1.1 502"), "{head}");
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
