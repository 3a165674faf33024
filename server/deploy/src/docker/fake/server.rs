//! The servers behind a fake container's ports.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use super::{Behaviour, Serve};

/// A port of a container: bound from its start, so that its address is known, and open when the app listens.
pub(super) struct Port {
    pub(super) inner: u16,
    pub(super) addr: SocketAddr,
    pub(super) socket: TcpSocket,
}

/// Binds a loopback port for the container's port `inner`.
pub(super) fn bind(inner: u16) -> io::Result<Port> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(([127, 0, 0, 1], 0).into())?;
    Ok(Port { inner, addr: socket.local_addr()?, socket })
}

/// Serves until dropped; connections end with it.
pub(super) async fn serve(ports: Vec<TcpSocket>, behaviour: Behaviour, image: String) {
    tokio::time::sleep(behaviour.listen_after).await;
    let mut listeners = JoinSet::new();
    for socket in ports {
        let Ok(listener) = socket.listen(1024) else { continue };
        let (serve, image) = (behaviour.serve.clone(), image.clone());
        listeners.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(connection(stream, serve.clone(), image.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
    }
    while listeners.join_next().await.is_some() {}
    std::future::pending().await
}

async fn connection(mut stream: TcpStream, serve: Serve, image: String) {
    match serve {
        Serve::Silent => std::future::pending().await,
        Serve::Banner(line) => drop(stream.write_all(format!("{line}\r\n").as_bytes()).await),
        Serve::Http { status, body, takes } => {
            let body = if body.is_empty() { image } else { body };
            while head(&mut stream).await.is_some() {
                tokio::time::sleep(takes).await;
                if answer(&mut stream, status, &body).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Reads up to the end of a request's head. Bodies are taken for part of the next one: tests send none.
async fn head(stream: &mut TcpStream) -> Option<()> {
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    while !seen.windows(4).any(|window| window == b"\r\n\r\n") && seen.len() < 64 << 10 {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(n) => seen.extend_from_slice(&buffer[..n]),
        }
    }
    Some(())
}

async fn answer(stream: &mut TcpStream, status: u16, body: &str) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status} Fake\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    tokio::time::timeout(Duration::from_secs(10), async {
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await
    })
    .await?
}
