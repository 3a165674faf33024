//! Worlds for the tests: a running data plane, apps to put behind it, and clients.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Query, Request},
    http::HeaderMap,
    response::{IntoResponse, Response, Sse, sse::Event},
    routing::{any, get},
};
use berth_proxy::{
    AccessRecord, AccessSink, Destination, ProxyConfig, ProxyHandle, ProxyServer, ReleaseLabel,
    ReleaseTarget, ReplicaAddr, RouteTable, TargetOptions,
};
use futures_util::StreamExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinHandle,
};

pub const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// A running data plane.
pub struct Proxy {
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub handle: ProxyHandle,
    pub records: mpsc::Receiver<AccessRecord>,
    stop: watch::Sender<bool>,
    running: Option<JoinHandle<()>>,
}

impl Proxy {
    pub fn start() -> Self {
        Self::with(ProxyConfig::default())
    }

    pub fn with(mut config: ProxyConfig) -> Self {
        config.http.push(LOOPBACK.into());
        config.https.push(LOOPBACK.into());
        let (sink, records) = AccessSink::channel(10_000);
        let (server, handle) = ProxyServer::bind(config, sink).expect("loopback can be bound");
        let addrs = server.local_addrs();
        let (stop, stopped) = watch::channel(false);
        let running = Some(tokio::spawn(server.run(stopped)));
        Self { http: addrs[0], https: addrs[1], handle, records, stop, running }
    }

    /// Routes `web.test` to a release.
    pub fn route(&self, target: &Arc<ReleaseTarget>) {
        self.lead_to(Destination::Release(target.clone()));
    }

    /// Routes `web.test` to whatever it is.
    pub fn lead_to(&self, destination: Destination) {
        let routes = RouteTable::builder().host("web.test").to(destination).build();
        self.handle.set_routes(routes.expect("one route"));
    }

    /// Gives the proxy a certificate, and makes a client that speaks HTTP/2 with it.
    pub fn http2_client(&self) -> reqwest::Client {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec!["web.test".to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("signed");
        let table = berth_proxy::CertificateTable::builder().pem(
            "web.test",
            &certificate.pem(),
            &key.serialize_pem(),
        );
        self.handle.set_certificates(table.expect("a good certificate").build());
        let root = reqwest::Certificate::from_der(certificate.der()).expect("a certificate");
        let builder = self.client_builder().resolve("web.test", self.https).tls_certs_only([root]);
        builder.build().expect("a client")
    }

    pub fn https_url(&self, path: &str) -> String {
        format!("https://web.test:{}{path}", self.https.port())
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://web.test:{}{path}", self.http.port())
    }

    pub async fn get(&self, path: &str) -> reqwest::Response {
        self.client().get(self.url(path)).send().await.expect("an answer")
    }

    /// A client for which `web.test` is this proxy.
    pub fn client(&self) -> reqwest::Client {
        self.client_builder().build().expect("a client")
    }

    pub fn client_builder(&self) -> reqwest::ClientBuilder {
        let _ = rustls::crypto::ring::default_provider().install_default();
        reqwest::Client::builder()
            .no_proxy()
            .resolve("web.test", self.http)
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(30))
    }

    pub fn ask_to_stop(&self) {
        self.stop.send(true).expect("the server runs");
    }

    pub async fn stopped(&mut self) {
        let running = self.running.take().expect("stopped once");
        tokio::time::timeout(Duration::from_secs(10), running)
            .await
            .expect("stops in time")
            .expect("no panic");
    }

    /// The next access record.
    pub async fn record(&mut self) -> AccessRecord {
        let next = tokio::time::timeout(Duration::from_secs(5), self.records.recv());
        next.await.expect("a record in time").expect("the sink is open")
    }

    /// Sends bytes as they are, and reads until the connection ends or nothing comes for a while.
    pub async fn raw(&self, request: &str) -> String {
        let mut socket = TcpStream::connect(self.http).await.expect("connects");
        socket.write_all(request.as_bytes()).await.expect("writes");
        read_all(&mut socket).await
    }
}

/// Waits until something is so, for at most five seconds.
pub async fn until(mut so: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never came to that");
}

pub async fn read_all(socket: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(Ok(n)) = tokio::time::timeout(Duration::from_millis(700), socket.read(&mut piece)).await {
        if n == 0 {
            break;
        }
        answer.extend_from_slice(&piece[..n]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

pub fn label(release: i64) -> ReleaseLabel {
    ReleaseLabel { project: "default".into(), app: "web".into(), environment: "production".into(), release }
}

/// A release that runs at these addresses.
pub fn release(number: i64, at: &[SocketAddr]) -> Arc<ReleaseTarget> {
    release_with(number, at, TargetOptions::default())
}

pub fn release_with(number: i64, at: &[SocketAddr], options: TargetOptions) -> Arc<ReleaseTarget> {
    ReleaseTarget::containers(label(number), replicas(at), options)
}

pub fn replicas(at: &[SocketAddr]) -> Vec<ReplicaAddr> {
    at.iter().enumerate().map(|(i, addr)| ReplicaAddr { id: format!("replica-{i}"), addr: *addr }).collect()
}

/// An address where nobody listens.
pub async fn dead_address() -> SocketAddr {
    let listener = TcpListener::bind(LOOPBACK).await.expect("loopback can be bound");
    listener.local_addr().expect("bound")
}

/// An app: answers with its name, and counts what it was asked.
#[derive(Clone)]
pub struct App {
    pub addr: SocketAddr,
    hits: Arc<AtomicUsize>,
    tasks: Arc<TaskGuard>,
}

struct TaskGuard(JoinHandle<()>);

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(serde::Deserialize)]
struct Slow {
    ms: u64,
}

impl App {
    pub async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind(LOOPBACK).await.expect("loopback can be bound");
        let addr = listener.local_addr().expect("bound");
        let hits = Arc::new(AtomicUsize::new(0));
        let counted = hits.clone();
        let router = Router::new()
            .route("/slow", any(move |query: Query<Slow>| slow(query, name)))
            .route("/headers", any(headers))
            .route("/upload", any(upload))
            .route("/download", get(download))
            .route("/events", any(events))
            .route("/broken", get(|| async { (axum::http::StatusCode::BAD_GATEWAY, "the app's own 502") }))
            .fallback(any(move || async move { name }))
            .layer(axum::middleware::from_fn(move |request: Request, next: axum::middleware::Next| {
                counted.fetch_add(1, Ordering::SeqCst);
                next.run(request)
            }));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.expect("serves") });
        Self { addr, hits, tasks: Arc::new(TaskGuard(server)) }
    }

    pub fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }

    pub fn stop(self) {
        self.tasks.0.abort();
    }
}

async fn slow(Query(slow): Query<Slow>, name: &'static str) -> &'static str {
    tokio::time::sleep(Duration::from_millis(slow.ms)).await;
    name
}

/// The request's headers, one `name: value` a line.
async fn headers(headers: HeaderMap) -> String {
    headers.iter().map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap_or("?"))).collect()
}

/// How many bytes came, and whether each was right.
async fn upload(request: Request) -> Response {
    let mut body = request.into_body().into_data_stream();
    let (mut bytes, mut wrong) = (0_u64, 0);
    while let Some(piece) = body.next().await {
        let Ok(piece) = piece else { return "broken".into_response() };
        wrong += piece.iter().filter(|byte| **byte != b'u').count();
        bytes += piece.len() as u64;
    }
    format!("{bytes} bytes, {wrong} wrong").into_response()
}

/// 64 MiB.
async fn download() -> Response {
    let pieces = futures_util::stream::iter(
        (0..1024).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![b'd'; 64 << 10]))),
    );
    Body::from_stream(pieces).into_response()
}

/// Three events, 200 ms apart, and then silence.
async fn events() -> Response {
    let events = futures_util::stream::unfold(0, |n| async move {
        match n {
            0 => {}
            1..3 => tokio::time::sleep(Duration::from_millis(200)).await,
            _ => std::future::pending().await,
        }
        Some((Ok::<_, std::convert::Infallible>(Event::default().data(n.to_string())), n + 1))
    });
    Sse::new(events).into_response()
}

/// An app of raw bytes: each connection is handed to `serve`.
pub async fn raw_app<F, Fut>(serve: F) -> (SocketAddr, Arc<AtomicUsize>)
where
    F: Fn(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(LOOPBACK).await.expect("loopback can be bound");
    let addr = listener.local_addr().expect("bound");
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(serve(socket));
        }
    });
    (addr, connections)
}

/// Reads until the end of a request's head.
pub async fn read_head(socket: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.ok()?);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

/// Reads a request with its body, sent with a length or in chunks. Returns its head.
pub async fn read_request(socket: &mut TcpStream) -> Option<String> {
    let head = read_head(socket).await?;
    let lower = head.to_ascii_lowercase();
    if let Some((_, rest)) = lower.split_once("content-length: ") {
        let length = rest.split("\r\n").next()?.parse().ok()?;
        socket.read_exact(&mut vec![0; length]).await.ok()?;
    } else if lower.contains("transfer-encoding: chunked") {
        let mut end = Vec::new();
        while !end.ends_with(b"\r\n0\r\n\r\n") && end != b"0\r\n\r\n" {
            end.push(socket.read_u8().await.ok()?);
        }
    }
    Some(head)
}

/// An address where connecting takes for ever: its queue is full. Lives as long as what comes with it.
pub fn deaf_address() -> (SocketAddr, Vec<socket2::Socket>) {
    let socket =
        |()| socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let listener = socket(());
    listener.bind(&LOOPBACK.into()).expect("loopback can be bound");
    listener.listen(0).expect("listens");
    let addr = listener.local_addr().expect("bound");
    let mut open = vec![listener];
    for _ in 0..4 {
        let filler = socket(());
        filler.set_nonblocking(true).expect("a socket");
        // In progress, for ever.
        let _ = filler.connect(&addr);
        open.push(filler);
    }
    (addr.as_socket().expect("IPv4"), open)
}

/// Resident memory of this process in KiB.
pub fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}
