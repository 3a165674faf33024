//! The data plane within the daemon: its listeners and its certificate.

use std::net::{SocketAddr, TcpListener};

use berth_proxy::{
    AccessRecord, AccessSink, CertificateTable, ListenOn, ProxyConfig, ProxyHandle, ProxyServer,
};
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
    /// Where it listens for HTTP.
    pub http: SocketAddr,
}

/// Takes the listeners and loads the default certificate.
///
/// # Errors
/// When a listener cannot be used or the certificate is not valid.
pub fn open(config: &Config, sockets: &Sockets) -> Result<DataPlane, Failure> {
    let (sink, records) = AccessSink::channel(RECORDS);
    let https = config.https.as_ref();
    let listeners = |role| -> Result<Vec<ListenOn>, Failure> {
        let duplicate: Option<TcpListener> = sockets.duplicate(role)?;
        Ok(duplicate.map(ListenOn::Bound).into_iter().collect())
    };
    let proxy = ProxyConfig {
        http: listeners(Role::Http)?,
        https: listeners(Role::Https)?,
        public_https_port: https.map(|(addr, _)| addr.port()).filter(|port| *port != 443),
        connection_limit: config.visitors.max_connections,
        idle_timeout: config.visitors.idle_timeout,
        body_timeout: config.visitors.body_timeout,
        trusted_peers: config.visitors.trusted_proxies.clone(),
        shutdown_timeout: config.shutdown_timeout,
        ..ProxyConfig::default()
    };
    let (server, handle) = ProxyServer::bind(proxy, sink)
        .map_err(|e| Failure::local(format!("the data plane cannot listen: {e}")))?;
    if let Some((_, certificate)) = https {
        handle.set_certificates(default_certificate(certificate)?);
    }
    let http = sockets.addr(Role::Http).unwrap_or(config.http_addr);
    Ok(DataPlane { server, handle, records, http })
}

fn default_certificate(files: &DefaultCertificate) -> Result<CertificateTable, Failure> {
    let read = |path: &std::path::Path| {
        std::fs::read_to_string(path)
            .map_err(|e| Failure::local(format!("{} cannot be read: {e}", path.display())))
    };
    let (chain, key) = (read(&files.chain)?, read(&files.key)?);
    let table = CertificateTable::builder().fallback_pem(&chain, &key).map_err(|e| {
        Failure::local(format!("the certificate {} is not usable: {e}", files.chain.display()))
            .hint("tls_cert wants the PEM chain, tls_key its PEM private key.")
    })?;
    Ok(table.build())
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
