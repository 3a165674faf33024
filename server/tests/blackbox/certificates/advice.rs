//! Renewal information (RFC 9773) for a Pebble that has none: its directory with one entry more, and what that leads to.
//! Everything else goes to Pebble itself.

#![allow(unreachable_pub, reason = "a part of a test")]

use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::pebble::Pebble;

/// The authority's advice: the first certificate that it is asked of is to be renewed at once, all others in months.
pub struct Advice {
    /// The directory to order from.
    pub directory: String,
    asked: Arc<Mutex<Vec<String>>>,
    far: (Timestamp, Timestamp),
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Advice {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Advice {
    /// Starts beside a Pebble.
    pub async fn start(pebble: &Pebble) -> Self {
        let (chain, key) = pebble.identity();
        let chain = CertificateDer::pem_file_iter(chain).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap())
            .unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = format!("https://{}", listener.local_addr().unwrap());
        let mut directory = pebble.directory_object().await;
        directory["renewalInfo"] = json!(format!("{own}/advice"));
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let now = Timestamp::now();
        let days = |n: i64| now + SignedDuration::from_hours(24 * n);
        let (past, far) = ((days(-2), days(-1)), (days(100), days(101)));
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let noted = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => break,
                    }
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let path = head.split(' ').nth(1).unwrap_or_default();
                let body = match path.strip_prefix("/advice/") {
                    None => directory.clone(),
                    Some(id) => {
                        let mut asked = noted.lock().unwrap();
                        asked.push(id.to_owned());
                        window(if asked[0] == id { past } else { far })
                    }
                };
                let body = body.to_string();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nretry-after: 21600\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        Self { directory: format!("{own}/dir"), asked, far, task }
    }

    /// The certificates that it was asked of, in the order of the questions.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// When all but the first are to be renewed.
    pub fn window_of_others(&self) -> (String, String) {
        (self.far.0.to_string(), self.far.1.to_string())
    }
}

fn window((start, end): (Timestamp, Timestamp)) -> Value {
    json!({ "suggestedWindow": { "start": start.to_string(), "end": end.to_string() } })
}
