//! The data plane alone, with one fixed upstream: what the benchmarks run beside other proxies.
//!
//! Request ids and access records are on, as in production; the records are read and counted.
//!
//! `data_plane HTTP HTTPS UPSTREAM CERT.pem KEY.pem [WORKERS [DIRECTORY of NAME.crt and NAME.key]]`, for example
//! `data_plane 127.0.0.1:8080 127.0.0.1:8443 127.0.0.1:9000 cert.pem key.pem 1`

use std::{error::Error, net::SocketAddr};

use berth_proxy::{
    AccessSink, CertificateTable, Destination, ProxyConfig, ProxyServer, ReleaseLabel, ReleaseTarget,
    ReplicaAddr, RouteTable, TargetOptions,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [http, https, upstream, chain, key, rest @ ..] = args.as_slice() else {
        return Err("usage: data_plane HTTP HTTPS UPSTREAM CERT.pem KEY.pem [WORKERS]".into());
    };
    let workers = rest.first().map_or(Ok(1), |n| n.parse())?;
    let (http, https): (SocketAddr, SocketAddr) = (http.parse()?, https.parse()?);
    let upstream = ReplicaAddr { id: "replica-0".into(), addr: upstream.parse()? };
    let mut certificates = CertificateTable::builder()
        .fallback_pem(&std::fs::read_to_string(chain)?, &std::fs::read_to_string(key)?)?;
    if let Some(directory) = rest.get(1) {
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|kind| kind == "crt")
                && let Some(name) = path.file_stem().and_then(|name| name.to_str())
            {
                let (chain, key) =
                    (std::fs::read_to_string(&path)?, std::fs::read_to_string(path.with_extension("key"))?);
                certificates = certificates.pem(name, &chain, &key)?;
            }
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    runtime.block_on(async {
        let config = ProxyConfig {
            http: vec![http.into()],
            https: vec![https.into()],
            connection_limit: 100_000,
            ..ProxyConfig::default()
        };
        let (sink, mut records) = AccessSink::channel(16_384);
        let (server, handle) = ProxyServer::bind(config, sink)?;
        let label = ReleaseLabel {
            project: "default".into(),
            app: "bench".into(),
            environment: "production".into(),
            release: 1,
        };
        let target = ReleaseTarget::containers(label, vec![upstream], TargetOptions::default());
        let routes = RouteTable::builder()
            .host("127.0.0.1")
            .to(Destination::Release(target.clone()))
            .host("bench.localhost")
            .to(Destination::Release(target))
            .build()
            .map_err(|conflicts| format!("{conflicts:?}"))?;
        handle.set_routes(routes);
        handle.set_certificates(certificates.build());
        let reader = tokio::spawn(async move {
            let (mut batch, mut bytes) = (Vec::with_capacity(512), 0_u64);
            while records.recv_many(&mut batch, 512).await > 0 {
                bytes += batch.drain(..).map(|record| record.bytes_out).sum::<u64>();
            }
            bytes
        });
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let running = tokio::spawn(server.run(stopped));
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        terminate.recv().await;
        stop.send(true)?;
        running.await?;
        let counters = handle.counters();
        drop(handle);
        eprintln!("{counters:?}, {} body bytes recorded", reader.await?);
        Ok(())
    })
}
