//! The data plane within the daemon: its listeners, its certificate, and the way of its access records into the
//! store.

use std::{collections::HashMap, net::SocketAddr};

use berth_observe::RequestRecorder;
use berth_proxy::{
    AccessRecord, AccessSink, CertificateTable, ListenOn, ProxyConfig, ProxyHandle, ProxyServer,
};
use berth_schemas::Timestamp;
use berth_store::{
    NewRequest, Store,
    model::{AppId, Visible},
};
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::failure::Failure,
    config::{Config, DefaultCertificate},
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

/// Binds the listeners and loads the default certificate.
///
/// # Errors
/// When an address is taken or the certificate is not valid.
pub fn bind(config: &Config) -> Result<DataPlane, Failure> {
    let (sink, records) = AccessSink::channel(RECORDS);
    let https = config.https.as_ref();
    let proxy = ProxyConfig {
        http: vec![ListenOn::Addr(config.http_addr)],
        https: https.map(|(addr, _)| ListenOn::Addr(*addr)).into_iter().collect(),
        public_https_port: https.map(|(addr, _)| addr.port()).filter(|port| *port != 443),
        connection_limit: config.visitors.max_connections,
        idle_timeout: config.visitors.idle_timeout,
        body_timeout: config.visitors.body_timeout,
        trusted_peers: config.visitors.trusted_proxies.clone(),
        shutdown_timeout: config.shutdown_timeout,
        ..ProxyConfig::default()
    };
    let (server, handle) = ProxyServer::bind(proxy, sink).map_err(|e| {
        Failure::local(format!("the data plane cannot listen: {e}")).hint(
            "Is something else listening there? Choose other addresses with --http-addr and --https-addr.",
        )
    })?;
    if let Some((_, certificate)) = https {
        handle.set_certificates(default_certificate(certificate)?);
    }
    let http = server.local_addrs().first().copied().unwrap_or(config.http_addr);
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

/// Hands access records to the recorder, with the app they belong to. Ends when `done` is cancelled and no
/// record waits.
pub async fn record(
    mut records: mpsc::Receiver<AccessRecord>,
    store: Store,
    recorder: RequestRecorder,
    done: CancellationToken,
) {
    let mut events = store.events().subscribe();
    let mut apps: HashMap<String, AppId> = HashMap::new();
    loop {
        let next = tokio::select! {
            biased;
            record = records.recv() => record,
            () = done.cancelled() => None,
        };
        let Some(record) = next else { return };
        // A name may have come to mean another app.
        loop {
            match events.try_recv() {
                Ok(event) if event.event.kind.starts_with("app.") => apps.clear(),
                Ok(_) => {}
                Err(broadcast::error::TryRecvError::Lagged(_)) => apps.clear(),
                Err(_) => break,
            }
        }
        let Some(label) = record.label.clone() else { continue };
        let app = match apps.get(&label.app) {
            Some(app) => *app,
            None => {
                let Ok(slug) = label.app.parse() else { continue };
                let Ok(Some(app)) = store.apps().by_slug(&Visible::All, &slug).await else { continue };
                apps.insert(label.app.clone(), app.id);
                app.id
            }
        };
        recorder.record(request(record, app, label.release));
    }
}

fn request(record: AccessRecord, app_id: AppId, release: i64) -> NewRequest {
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    NewRequest {
        app_id,
        at: Timestamp(record.at_micros),
        request_id: record.request_id.to_string(),
        method: record.method.to_string(),
        host: record.host,
        // What follows the question mark may be a password or a token.
        path: record.path.split_once('?').map_or(record.path.as_str(), |(path, _)| path).to_owned(),
        status: i64::from(record.status),
        bytes_in: signed(record.bytes_in),
        bytes_out: signed(record.bytes_out),
        micros: signed(record.duration_us),
        app_micros: record.upstream_us.map(signed),
        release: Some(release),
        error: record.fault.map(|f| f.code().to_owned()),
    }
}
