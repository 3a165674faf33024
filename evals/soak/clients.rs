//! HTTP clients that repeat nothing behind one's back: each request goes out once, and what becomes of it is told.

use std::{convert::Infallible, error::Error, io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response,
    body::Incoming,
    client::conn::{http1, http2},
    header,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{net::TcpStream, task::AbortHandle};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    tally::{Failure, Kind},
    wire,
};

/// Time for a connection with its handshake.
const CONNECT: Duration = Duration::from_secs(10);

/// A request's body.
pub(crate) type Upload = UnsyncBoxBody<Bytes, Infallible>;

/// How a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Protocol {
    Http1,
    Http1Tls,
    Http2,
}

impl Protocol {
    pub(crate) const ALL: [Self; 3] = [Self::Http1, Self::Http1Tls, Self::Http2];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http1Tls => "HTTP/1.1 TLS",
            Self::Http2 => "h2 TLS",
        }
    }
}

/// Where visitors come in: a proxy's addresses, and the host they ask for.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) host: String,
    tls: Arc<rustls::ClientConfig>,
}

impl Door {
    /// Trusts this one certificate.
    pub(crate) fn new(
        http: SocketAddr,
        https: SocketAddr,
        host: &str,
        certificate_pem: &str,
    ) -> Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(certificate_pem.as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { http, https, host: host.to_owned(), tls: Arc::new(tls) })
    }

    /// The same proxy, asked for another host.
    pub(crate) fn of(&self, host: &str) -> Self {
        Self { host: host.to_owned(), ..self.clone() }
    }

    pub(crate) async fn tcp(&self) -> Result<TcpStream, Failure> {
        open(self.http).await
    }

    pub(crate) async fn tls(&self, alpn: &[u8]) -> Result<TlsStream<TcpStream>, Failure> {
        let mut config = rustls::ClientConfig::clone(&self.tls);
        config.alpn_protocols = vec![alpn.to_vec()];
        let name = ServerName::try_from(self.host.clone())
            .map_err(|e| Failure::new(Kind::Protocol, format!("{}: {e}", self.host)))?;
        let stream = open(self.https).await?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|e| {
            Failure::new(io_kind(&e).unwrap_or(Kind::Protocol), format!("TLS handshake: {e}"))
        })?;
        match stream.get_ref().1.alpn_protocol() {
            Some(chosen) if chosen == alpn => Ok(stream),
            chosen => Err(Failure::new(Kind::Protocol, format!("ALPN chose {chosen:?}"))),
        }
    }

    /// Opens a connection.
    pub(crate) async fn connect(&self, protocol: Protocol) -> Result<Connection, Failure> {
        let opened = tokio::time::timeout(CONNECT, async {
            match protocol {
                Protocol::Http1 => Connection::http1(TokioIo::new(self.tcp().await?)).await,
                Protocol::Http1Tls => Connection::http1(TokioIo::new(self.tls(b"http/1.1").await?)).await,
                Protocol::Http2 => Connection::http2(TokioIo::new(self.tls(b"h2").await?)).await,
            }
        });
        opened.await.unwrap_or_else(|_| Err(Failure::new(Kind::Timeout, "connecting".to_owned())))
    }

    /// A request as this protocol writes it.
    pub(crate) fn request(
        &self,
        protocol: Protocol,
        method: Method,
        path: &str,
        id: &str,
        body: Upload,
    ) -> Result<Request<Upload>, Failure> {
        let builder = Request::builder().method(method).header(wire::ID, id);
        let builder = match protocol {
            Protocol::Http1 | Protocol::Http1Tls => builder.uri(path).header(header::HOST, &self.host),
            Protocol::Http2 => builder.uri(format!("https://{}{path}", self.host)),
        };
        builder.body(body).map_err(|e| Failure::new(Kind::Protocol, e.to_string()))
    }
}

async fn open(addr: SocketAddr) -> Result<TcpStream, Failure> {
    let failed =
        |e: io::Error| Failure::new(io_kind(&e).unwrap_or(Kind::Protocol), format!("connecting: {e}"));
    let stream = TcpStream::connect(addr).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}

/// A body that is there at once.
pub(crate) fn whole(bytes: Vec<u8>) -> Upload {
    Full::new(Bytes::from(bytes)).boxed_unsync()
}

/// An open connection to the proxy.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: Sender,
    driver: Arc<Driver>,
}

/// Moves the connection's bytes; ends with the last user of the connection.
#[derive(Debug)]
struct Driver(AbortHandle);

impl Driver {
    fn start(connection: impl Future<Output = hyper::Result<()>> + Send + 'static) -> Arc<Self> {
        Arc::new(Self(tokio::spawn(async move { drop(connection.await) }).abort_handle()))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Upload>),
    Http2(http2::SendRequest<Upload>),
}

/// What came of handing a request to a connection.
pub(crate) enum Sent {
    Answered(Response<Incoming>),
    /// The connection was given up before the request went out, or the server said that it did not touch it
    /// (GOAWAY, REFUSED_STREAM): sending it again is what every client does.
    Untouched,
    Failed(Failure),
}

impl Connection {
    async fn http1<I>(io: I) -> Result<Self, Failure>
    where
        I: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
    {
        let (sender, connection) = http1::handshake(io).await.map_err(|e| failure(&e, false))?;
        Ok(Self { sender: Sender::Http1(sender), driver: Driver::start(connection) })
    }

    async fn http2<I>(io: I) -> Result<Self, Failure>
    where
        I: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
    {
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), io).await.map_err(|e| failure(&e, false))?;
        Ok(Self { sender: Sender::Http2(sender), driver: Driver::start(connection) })
    }

    /// Whether another request can be sent on it. Waits until an earlier one is done with.
    pub(crate) async fn is_usable(&mut self) -> bool {
        match &mut self.sender {
            Sender::Http1(sender) => sender.ready().await.is_ok(),
            Sender::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    /// Another user of the same connection, where its protocol carries several requests at once.
    pub(crate) fn another(&self) -> Option<Self> {
        match &self.sender {
            Sender::Http1(_) => None,
            Sender::Http2(sender) => {
                Some(Self { sender: Sender::Http2(sender.clone()), driver: Arc::clone(&self.driver) })
            }
        }
    }

    /// Sends a request, once.
    pub(crate) async fn send(&mut self, request: Request<Upload>) -> Sent {
        let outcome = match &mut self.sender {
            Sender::Http1(sender) => sender.try_send_request(request).await,
            Sender::Http2(sender) => sender.try_send_request(request).await,
        };
        match outcome {
            Ok(response) => Sent::Answered(response),
            Err(mut error) => {
                let unsent = error.take_message().is_some();
                let error = error.into_error();
                if unsent || is_untouched(&error) {
                    Sent::Untouched
                } else {
                    Sent::Failed(failure(&error, false))
                }
            }
        }
    }
}

/// RFC 9113, 8.7: a stream above the last one of a GOAWAY, or one that was refused, was not processed.
fn is_untouched(error: &hyper::Error) -> bool {
    let text = chain(error);
    text.contains("refused stream") || text.contains("not a result of an error")
}

/// Reads a body to its proper end.
pub(crate) async fn read_all(body: Incoming) -> Result<Bytes, Failure> {
    body.collect().await.map(http_body_util::Collected::to_bytes).map_err(|e| failure(&e, true))
}

/// What an error of hyper is in terms of a connection.
pub(crate) fn failure(error: &hyper::Error, within_body: bool) -> Failure {
    let text = chain(error);
    let kind = match find_io(error).as_ref().and_then(|e| io_kind(e)) {
        _ if within_body => Kind::Truncated,
        Some(kind) => kind,
        None if error.is_incomplete_message() || error.is_canceled() => Kind::ClosedEarly,
        None => Kind::Protocol,
    };
    Failure::new(kind, text)
}

fn io_kind(error: &io::Error) -> Option<Kind> {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Some(Kind::Refused),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
            Some(Kind::Reset)
        }
        io::ErrorKind::UnexpectedEof => Some(Kind::ClosedEarly),
        io::ErrorKind::TimedOut => Some(Kind::Timeout),
        _ => None,
    }
}

fn find_io(error: &hyper::Error) -> Option<&io::Error> {
    let mut next: Option<&(dyn Error + 'static)> = error.source();
    while let Some(at) = next {
        if let Some(io) = at.downcast_ref::<io::Error>() {
            return Some(io);
        }
        next = at.source();
    }
    None
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(at) = next {
        text += &format!(": {at}");
        next = at.source();
    }
    text
}
