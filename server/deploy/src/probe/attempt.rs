//! One attempt: a GET over a fresh connection, and what came of it.
//!
//! Redirects are an answer and are not followed. A program that accepts connections but speaks something else than
//! HTTP is told from one that does not answer.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// How much of an error's body is kept.
const BODY_HEAD: usize = 2 << 10;

/// How an attempt is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthProbe {
    /// Path and query of the GET, beginning with `/`.
    pub path: String,
    /// `Host` header; the address, if `None`.
    pub host: Option<String>,
    /// Time for the whole attempt.
    pub timeout: Duration,
}

/// What came of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// An answer of 2xx or 3xx.
    Healthy {
        /// Its status.
        status: u16,
    },
    /// Any other answer.
    Status {
        /// Its status.
        code: u16,
        /// The first 2 KiB of its body.
        body_head: String,
    },
    /// Nothing listens there.
    Refused,
    /// No answer in time. `connected` tells whether a connection was made.
    Timeout {
        /// Whether the connection was accepted before the time was over.
        connected: bool,
    },
    /// The connection was accepted, and what came back is not HTTP.
    NotHttp,
    /// The connection was accepted, and closed before an answer.
    Reset,
}

impl fmt::Display for ProbeOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Healthy { status } => write!(f, "answered {status}"),
            Self::Status { code, .. } => write!(f, "answered {code}"),
            Self::Refused => f.write_str("connection refused"),
            Self::Timeout { connected: true } => {
                f.write_str("accepted the connection but did not answer in time")
            }
            Self::Timeout { connected: false } => f.write_str("did not accept the connection in time"),
            Self::NotHttp => f.write_str("answered something that is not HTTP"),
            Self::Reset => f.write_str("closed the connection without an answer"),
        }
    }
}

impl HealthProbe {
    /// Makes one attempt.
    pub async fn attempt(&self, addr: SocketAddr) -> ProbeOutcome {
        let mut connected = false;
        match timeout(self.timeout, self.exchange(addr, &mut connected)).await {
            Ok(outcome) => outcome,
            Err(_) => ProbeOutcome::Timeout { connected },
        }
    }

    async fn exchange(&self, addr: SocketAddr, connected: &mut bool) -> ProbeOutcome {
        let stream = match TcpStream::connect(addr).await {
            Ok(stream) => stream,
            Err(error) => return on_connect(&error),
        };
        *connected = true;
        let Ok((mut sender, connection)) = http1::handshake(TokioIo::new(stream)).await else {
            return ProbeOutcome::Reset;
        };
        let _driver = AbortOnDropHandle::new(tokio::spawn(async move {
            // Its failure reaches us as the failure of the request.
            let _ = connection.await;
        }));
        let host = self.host.clone().unwrap_or_else(|| addr.to_string());
        let request = Request::get(&self.path)
            .header(header::HOST, host)
            .header(header::USER_AGENT, "berth-health")
            .header(header::ACCEPT, "*/*")
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new());
        let Ok(request) = request else { return ProbeOutcome::NotHttp };
        match sender.send_request(request).await {
            Ok(response) => answered(response).await,
            Err(error) if error.is_parse() => ProbeOutcome::NotHttp,
            Err(_) => ProbeOutcome::Reset,
        }
    }
}

fn on_connect(error: &io::Error) -> ProbeOutcome {
    match error.kind() {
        // No route yet, or no more: the container's network comes and goes with it.
        ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
            ProbeOutcome::Timeout { connected: false }
        }
        ErrorKind::ConnectionReset => ProbeOutcome::Reset,
        _ => ProbeOutcome::Refused,
    }
}

async fn answered(response: http::Response<Incoming>) -> ProbeOutcome {
    let status = response.status();
    if is_success(status) {
        return ProbeOutcome::Healthy { status: status.as_u16() };
    }
    let mut body = response.into_body();
    let mut head = Vec::new();
    while head.len() < BODY_HEAD {
        match body.frame().await {
            Some(Ok(frame)) => head.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
            Some(Err(_)) | None => break,
        }
    }
    head.truncate(BODY_HEAD);
    ProbeOutcome::Status {
        code: status.as_u16(),
        body_head: String::from_utf8_lossy(&head).trim().to_owned(),
    }
}

fn is_success(status: StatusCode) -> bool {
    status.is_success() || status.is_redirection()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// A server that answers every connection with `answer` and closes it.
    async fn server(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    let _ = stream.read(&mut request).await;
                    let _ = stream.write_all(answer).await;
                });
            }
        });
        addr
    }

    fn probe() -> HealthProbe {
        HealthProbe {
            path: "/up".into(),
            host: Some("web.localhost".into()),
            timeout: Duration::from_millis(500),
        }
    }

    #[tokio::test]
    async fn answers_are_told_apart() {
        let ok = server(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(probe().attempt(ok).await, ProbeOutcome::Healthy { status: 204 });
        let moved =
            server(b"HTTP/1.1 302 Found\r\nlocation: http://elsewhere/\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(probe().attempt(moved).await, ProbeOutcome::Healthy { status: 302 });
        let broken = server(b"HTTP/1.1 500 Oops\r\ncontent-length: 5\r\n\r\nno db").await;
        let outcome = ProbeOutcome::Status { code: 500, body_head: "no db".into() };
        assert_eq!(probe().attempt(broken).await, outcome);
        assert_eq!(probe().attempt(server(b"-ERR unknown command\r\n").await).await, ProbeOutcome::NotHttp);
        assert_eq!(probe().attempt(server(b"").await).await, ProbeOutcome::Reset);
    }

    #[tokio::test]
    async fn no_answer_is_told_from_no_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut quick = probe();
        quick.timeout = Duration::from_millis(50);
        assert_eq!(quick.attempt(addr).await, ProbeOutcome::Timeout { connected: true });
        drop(listener);
        assert_eq!(probe().attempt(addr).await, ProbeOutcome::Refused);
    }

    #[tokio::test]
    async fn only_the_head_of_an_error_is_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 503 X\r\n\r\n").await;
            // An endless body: the probe must not wait for its end.
            while stream.write_all(&[b'x'; 1024]).await.is_ok() {}
        });
        let ProbeOutcome::Status { code: 503, body_head } = probe().attempt(addr).await else { panic!() };
        assert_eq!(body_head.len(), BODY_HEAD);
    }
}
