//! Something that stands in for a part of a Pebble: its directory with other entries, and what those lead to. Everything
//! else goes to Pebble itself.

#![allow(unreachable_pub, reason = "a part of a test")]

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};

use super::pebble::Pebble;

/// What it answers.
pub struct Says {
    /// Status line without the version.
    pub status: &'static str,
    /// Seconds after which to come again.
    pub retry_after_s: u32,
    pub body: Value,
}

/// A server beside a Pebble, known by the same certificate.
pub struct StandIn {
    /// The directory to order from.
    pub directory: String,
    task: JoinHandle<()>,
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl StandIn {
    /// Starts it. `entry` of the directory leads to `answer`, which is given what follows it in the path.
    pub async fn start(
        pebble: &Pebble,
        entry: &str,
        answer: impl Fn(&str) -> Says + Send + Sync + 'static,
    ) -> Self {
        let (chain, key) = pebble.identity();
        let chain = CertificateDer::pem_file_iter(chain).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = format!("https://{}", listener.local_addr().unwrap());
        let mut directory = pebble.directory_object().await;
        directory[entry] = json!(format!("{own}/own"));
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let path = read(&mut stream).await;
                let says = match path.strip_prefix("/own") {
                    None => Says { status: "200 OK", retry_after_s: 21_600, body: directory.clone() },
                    Some(rest) => answer(rest.trim_start_matches('/')),
                };
                let body = says.body.to_string();
                let kind = if says.status.starts_with('2') { "json" } else { "problem+json" };
                let answer = format!(
                    "HTTP/1.1 {}\r\ncontent-type: application/{kind}\r\nretry-after: {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    says.status,
                    says.retry_after_s,
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        Self { directory: format!("{own}/dir"), task }
    }
}

/// Reads a request with its body; its path.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    let _ = stream.read_exact(&mut body).await;
    head.split(' ').nth(1).unwrap_or_default().to_owned()
}
