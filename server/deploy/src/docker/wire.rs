//! Connections to the engine for the calls that the client library cannot make: a build whose session serves our
//! secrets, the session itself (an upgraded connection), and two requests whose form changed between API versions.
//!
//! One connection per call; it closes when its handle is dropped, and that is how a build is cut off for real.

use std::convert::Infallible;
use std::io;

use bytes::Bytes;
use futures_util::TryStreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio_util::task::AbortOnDropHandle;

use super::client::{Docker, from_status};
use super::engine::ContextStream;
use super::error::EngineError;
use super::host::EngineHost;

pub(super) type Body = BoxBody<Bytes, io::Error>;

/// Largest answer that is read as a whole.
const MAX_ANSWER: usize = 32 << 20;

/// One HTTP/1.1 connection.
pub(super) struct Connection {
    sender: SendRequest<Body>,
    _task: AbortOnDropHandle<()>,
}

impl Connection {
    pub(super) async fn open(host: &EngineHost) -> io::Result<Self> {
        match host {
            EngineHost::Unix(path) => Self::over(UnixStream::connect(path).await?).await,
            EngineHost::Tcp(address) => Self::over(TcpStream::connect(address).await?).await,
        }
    }

    async fn over<S>(stream: S) -> io::Result<Self>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let task = tokio::spawn(async move {
            // Its failure reaches the caller as the failure of the request.
            let _ = connection.with_upgrades().await;
        });
        Ok(Self { sender, _task: AbortOnDropHandle::new(task) })
    }

    pub(super) async fn send(&mut self, request: Request<Body>) -> io::Result<Response<Incoming>> {
        self.sender.send_request(request).await.map_err(io::Error::other)
    }
}

pub(super) fn empty() -> Body {
    Full::new(Bytes::new()).map_err(|never: Infallible| match never {}).boxed()
}

pub(super) fn streamed(context: ContextStream) -> Body {
    // A stream is Send but not Sync, which the boxed body wants: a lock that is never contended lends it.
    StreamBody::new(SyncStream::new(context).map_ok(Frame::data)).boxed()
}

/// A request to the engine; `path` begins after the version, as in `/build`.
pub(super) fn request(
    method: Method,
    version: &str,
    path: &str,
    query: &[(&str, String)],
) -> http::request::Builder {
    let mut uri = format!("/v{version}{path}");
    for (i, (name, value)) in query.iter().enumerate() {
        uri.push(if i == 0 { '?' } else { '&' });
        uri.push_str(name);
        uri.push('=');
        escape_into(&mut uri, value);
    }
    Request::builder().method(method).uri(uri).header(http::header::HOST, "docker")
}

/// Percent-encodes all but the characters that no parser of a query gives a meaning.
fn escape_into(out: &mut String, value: &str) {
    use std::fmt::Write;
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            other => {
                // Writing to a String cannot fail.
                let _ = write!(out, "%{other:02X}");
            }
        }
    }
}

/// The engine's message in an error answer: `{"message": "…"}`, or the body itself.
pub(super) async fn error_message(response: Response<Incoming>) -> String {
    let body = http_body_util::Limited::new(response.into_body(), 64 << 10);
    let bytes = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return "no reason given".to_owned(),
    };
    serde_json::from_slice::<serde_json::Value>(&bytes)
        .ok()
        .and_then(|v| v.get("message").and_then(|m| m.as_str()).map(str::to_owned))
        .unwrap_or_else(|| String::from_utf8_lossy(&bytes).trim().to_owned())
}

impl Docker {
    /// A short call with a JSON answer, for what the client library's models do not fit.
    pub(super) async fn raw_call(
        &self,
        what: &str,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        limit: std::time::Duration,
    ) -> Result<serde_json::Value, EngineError> {
        let version = self.client().await?.client_version().to_string();
        let request = request(method, &version, path, query)
            .body(empty())
            .map_err(|e| EngineError::invalid(what, e.to_string()))?;
        let exchange = async {
            let mut connection = Connection::open(self.host()?).await.map_err(|_| None)?;
            let response = connection.send(request).await.map_err(|_| None)?;
            let status = response.status();
            if !status.is_success() {
                let message = error_message(response).await;
                return Err(Some(from_status(what.to_owned(), status.as_u16(), &message)));
            }
            if status == StatusCode::NO_CONTENT {
                return Ok(serde_json::Value::Null);
            }
            let body = http_body_util::Limited::new(response.into_body(), MAX_ANSWER);
            let bytes = body.collect().await.map_err(|_| None)?.to_bytes();
            if bytes.is_empty() {
                return Ok(serde_json::Value::Null);
            }
            serde_json::from_slice(&bytes).map_err(|e| Some(EngineError::other(what, e)))
        };
        match tokio::time::timeout(limit, exchange).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Some(error))) => Err(error),
            Ok(Err(None)) => Err(self.unreachable().await),
            Err(_) => Err(EngineError::TimedOut { what: what.to_owned(), after: limit }),
        }
    }
}

struct SyncStream(std::sync::Mutex<ContextStream>);

impl SyncStream {
    fn new(stream: ContextStream) -> Self {
        Self(std::sync::Mutex::new(stream))
    }
}

impl futures_util::Stream for SyncStream {
    type Item = io::Result<Bytes>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        let stream = self.0.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        stream.as_mut().poll_next(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_query_cannot_leave_it() {
        let query = [("t", "berth/web:1".to_owned()), ("labels", r#"{"a":"b&c=d#?"}"#.to_owned())];
        let request = request(Method::POST, "1.41", "/build", &query).body(()).unwrap();
        assert_eq!(
            request.uri().to_string(),
            "/v1.41/build?t=berth%2Fweb%3A1&labels=%7B%22a%22%3A%22b%26c%3Dd%23%3F%22%7D"
        );
    }
}
