//! The answers.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _, stream};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Frame, Incoming, SizeHint},
    header::{self, HeaderValue},
};
use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};

use crate::{App, Idle, wire};

/// Between two pieces of a slow response, two events, two ticks of a WebSocket.
const BEAT: Duration = Duration::from_millis(200);

type Bytestream = UnsyncBoxBody<Bytes, hyper::Error>;

/// An answer's body; the connection is idle from the moment it is done with.
pub(crate) struct Answer {
    body: Bytestream,
    idle: Arc<Idle>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.idle.set(Some(Instant::now()));
    }
}

pub(crate) fn answer(
    mut request: Request<Incoming>,
    app: &Arc<App>,
    ledger: SocketAddr,
    idle: Arc<Idle>,
) -> Response<Answer> {
    let header = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let id = header(wire::ID).to_owned();
    if *request.method() == Method::POST {
        app.ledger.seen(&id);
    }
    let number = |name: &str| {
        let pairs = request.uri().query().unwrap_or_default().split('&');
        pairs
            .filter_map(|pair| pair.split_once('='))
            .find(|(n, _)| *n == name)
            .and_then(|(_, v)| v.parse().ok())
    };
    let bytes: usize = number("bytes").unwrap_or(0);
    let response = match (request.method().clone(), request.uri().path()) {
        (Method::GET, "/page") => plain(Full::new(wire::fill(&id, bytes).into())),
        (Method::GET, "/pieces") => in_pieces(wire::fill(&id, bytes)),
        (Method::GET, "/slow") => slow(&app.release, number("seconds").unwrap_or(1) as u64),
        (Method::GET, "/events") => events(&app.release),
        (Method::GET, "/socket") => socket(&mut request, app),
        (Method::POST, "/echo") => Response::new(request.into_body().boxed_unsync()),
        (Method::POST, "/upload") => upload(request.into_body()),
        (Method::GET, "/health") => plain(Full::new(Bytes::from_static(b"well\n"))),
        _ => {
            let mut response = plain(Full::new(Bytes::from_static(b"no such page\n")));
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    };
    let mut response = response.map(|body| Answer { body, idle });
    for (name, value) in [(wire::RELEASE, app.release.clone()), (wire::LEDGER, ledger.to_string())] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn plain(body: Full<Bytes>) -> Response<Bytestream> {
    Response::new(body.map_err(|never: Infallible| match never {}).boxed_unsync())
}

fn streamed(pieces: impl stream::Stream<Item = Bytes> + Send + 'static) -> Response<Bytestream> {
    Response::new(StreamBody::new(pieces.map(|piece| Ok(Frame::data(piece)))).boxed_unsync())
}

/// Chunked, without a length to compare with.
fn in_pieces(bytes: Vec<u8>) -> Response<Bytestream> {
    let bytes = Bytes::from(bytes);
    let pieces: Vec<Bytes> =
        (0..bytes.len()).step_by(1500).map(|at| bytes.slice(at..bytes.len().min(at + 1500))).collect();
    streamed(stream::iter(pieces))
}

/// Begins at once, says every moment who it is, and ends after so many seconds.
fn slow(release: &str, seconds: u64) -> Response<Bytestream> {
    let line = Bytes::from(format!("{release}\n"));
    let until = Instant::now() + Duration::from_secs(seconds);
    streamed(stream::unfold(Some(line), move |line| async move {
        let line = line?;
        tokio::time::sleep(BEAT).await;
        if Instant::now() < until {
            Some((line.clone(), Some(line)))
        } else {
            Some((Bytes::from_static(wire::SLOW_END.as_bytes()), None))
        }
    }))
}

/// Server-sent events without an end.
fn events(release: &str) -> Response<Bytestream> {
    let event = Bytes::from(format!("data: {release}\n\n"));
    let mut response = streamed(stream::unfold(event, |event| async move {
        tokio::time::sleep(BEAT).await;
        Some((event.clone(), event))
    }));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

/// Answers with count and SHA-256 of what came, when all of it has come.
fn upload(mut body: Incoming) -> Response<Bytestream> {
    let hashed = async move {
        let (mut hash, mut bytes) = (Sha256::new(), 0);
        while let Some(frame) = body.frame().await {
            if let Some(data) = frame?.data_ref() {
                hash.update(data);
                bytes += data.len();
            }
        }
        Ok(Frame::data(Bytes::from(format!("{bytes} {}\n", hex::encode(hash.finalize())))))
    };
    Response::new(StreamBody::new(stream::once(hashed)).boxed_unsync())
}

/// Sends back what comes, and a tick every moment.
fn socket(request: &mut Request<Incoming>, app: &App) -> Response<Bytestream> {
    let mut response = plain(Full::default());
    let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY) else {
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return response;
    };
    let accept = derive_accept_key(key.as_bytes());
    let tick = Message::text(app.release.clone());
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        loop {
            let next = tokio::time::timeout(BEAT, socket.next()).await;
            let sent = match next {
                Ok(Some(Ok(Message::Close(_)) | Err(_)) | None) => return,
                Ok(Some(Ok(message @ Message::Text(_)))) => socket.send(message).await,
                Ok(Some(Ok(_))) => Ok(()),
                Err(_) => socket.send(tick.clone()).await,
            };
            if sent.is_err() {
                return;
            }
        }
    });
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}
