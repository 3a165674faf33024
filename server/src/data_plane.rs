//! The data plane within the daemon: its listeners and its certificate.

use std::net::{SocketAddr, TcpListener};

use berth_certs::Fallback;
use berth_proxy::{AccessRecord, AccessSink, ListenOn, ProxyConfig, ProxyHandle, ProxyServer};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::failure::Failure,
    config::{Config, DefaultCertificate},
    sockets::Sockets,
    takeover::Role,
};

/// Access records that may wait to be sorted; more are dropped and counted.
const RECORDS: usize = 16_384;

/// The data plane, bound but not yet running.
pub struct DataPlane {
    /// Its running part.
    pub server: ProxyServer,
    /// Steers it.
    pub handle: ProxyHandle,
    /// The records of its requests.
    pub records: mpsc::Receiver<AccessRecord>,
    /// The certificate for names that have none, as it was read.
    pub fallback: Option<Fallback>,
    /// Where it listens for HTTP.
    pub http: SocketAddr,
}

/// Takes the listeners and reads the default certificate.
///
/// # Errors
/// When a listener cannot be used or the certificate is not valid.
pub fn open(config: &Config, sockets: &Sockets) -> Result<DataPlane, Failure> {
    let (sink, records) = AccessSink::channel(RECORDS);
    let listeners = |role| -> Result<Vec<ListenOn>, Failure> {
        let duplicate: Option<TcpListener> = sockets.duplicate(role)?;
        Ok(duplicate.map(ListenOn::Bound).into_iter().collect())
    };
    let proxy = ProxyConfig {
        http: listeners(Role::Http)?,
        https: listeners(Role::Https)?,
        public_https_port: config.https.map(|addr| addr.port()).filter(|port| *port != 443),
        connection_limit: config.visitors.max_connections,
        idle_timeout: config.visitors.idle_timeout,
        body_timeout: config.visitors.body_timeout,
        trusted_peers: config.visitors.trusted_proxies.clone(),
        shutdown_timeout: config.shutdown_timeout,
        ..ProxyConfig::default()
    };
    let (server, handle) = ProxyServer::bind(proxy, sink)
        .map_err(|e| Failure::local(format!("the data plane cannot listen: {e}")))?;
    let fallback = config.default_certificate.as_ref().map(default_certificate).transpose()?;
    let http = sockets.addr(Role::Http).unwrap_or(config.http_addr);
    Ok(DataPlane { server, handle, records, fallback, http })
}

fn default_certificate(files: &DefaultCertificate) -> Result<Fallback, Failure> {
    let read = |path: &std::path::Path| {
        std::fs::read_to_string(path)
            .map_err(|e| Failure::local(format!("{} cannot be read: {e}", path.display())))
    };
    let (chain, key) = (read(&files.chain)?, read(&files.key)?);
    berth_proxy::certified_key("names that have no other", &chain, &key).map_err(|e| {
        Failure::local(format!("the certificate {} is not usable: {e}", files.chain.display()))
            .hint("tls_cert wants the PEM chain, tls_key its PEM private key.")
    })?;
    Ok(Fallback { chain, key })
}

/// Serves until `shutdown` is cancelled and open requests have ended.
pub async fn run(server: ProxyServer, shutdown: CancellationToken) {
    let (stop, stopped) = watch::channel(false);
    let serving = server.run(stopped);
    tokio::pin!(serving);
    tokio::select! {
        () = &mut serving => return,
        () = shutdown.cancelled() => {}
    }
    let _ = stop.send(true);
    serving.await;
}
