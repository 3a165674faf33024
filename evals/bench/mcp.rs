//! Measures what MCP costs: calls per second and latency of `tools/list` and of a cheap tool over MCP, beside the same
//! tool over REST and a bare axum route that answers with as many bytes, in the same run.
//!
//! Everything is printed; nothing is asserted. Loads go to loopback only and end by count.

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use axum::{Router, extract::Path, routing::get, serve::ListenerExt as _};
use berth_evals::{
    daemon::Daemon,
    wire::{Connection, MOST, quantile},
};
use clap::Parser;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Measure the MCP layer of a berth binary.
#[derive(Parser)]
struct Options {
    /// The binary; a release build for figures that mean something.
    #[arg(long, default_value = "target/release/berth")]
    berth: PathBuf,
    /// Requests of each load.
    #[arg(long, default_value_t = 10_000)]
    requests: usize,
    /// Connections of each load.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8])]
    connections: Vec<usize>,
    /// Times that each load is repeated, in turn with its bare route.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// A request that is sent over and over.
struct Subject {
    name: &'static str,
    request: Vec<u8>,
}

/// What one load came to.
#[derive(Clone, Copy)]
struct Figure {
    rate: f64,
    p50: Duration,
    p99: Duration,
}

/// The middle of some rounds, each figure by itself.
fn middle(rounds: &[Figure]) -> Figure {
    let mut rates: Vec<f64> = rounds.iter().map(|r| r.rate).collect();
    rates.sort_by(f64::total_cmp);
    let times = |of: fn(&Figure) -> Duration| {
        let mut times: Vec<Duration> = rounds.iter().map(of).collect();
        times.sort();
        times.get(times.len() / 2).copied().unwrap_or_default()
    };
    Figure {
        rate: rates.get(rates.len() / 2).copied().unwrap_or_default(),
        p50: times(|r| r.p50),
        p99: times(|r| r.p99),
    }
}

/// Sends `requests` copies of a request over so many keep-alive connections.
async fn load(addr: SocketAddr, request: &[u8], requests: usize, connections: usize) -> Result<Figure> {
    let each = requests / connections.max(1);
    let began = Instant::now();
    let workers = (0..connections).map(|_| {
        let request = request.to_vec();
        tokio::spawn(async move { one_connection(addr, &request, each).await })
    });
    let mut times = Vec::new();
    for worker in workers.collect::<Vec<_>>() {
        times.extend(worker.await??.0);
    }
    let rate = times.len() as f64 / began.elapsed().as_secs_f64();
    times.sort();
    Ok(Figure { rate, p50: quantile(&times, 0.5), p99: quantile(&times, 0.99) })
}

/// How long each answer took, and the last one's body.
async fn one_connection(addr: SocketAddr, request: &[u8], count: usize) -> Result<(Vec<Duration>, Vec<u8>)> {
    let mut connection = Connection::new(addr);
    let mut times = Vec::with_capacity(count);
    let mut body = Vec::new();
    for _ in 0..count {
        let began = Instant::now();
        let reply = connection.exchange(request).await?;
        times.push(began.elapsed());
        if reply.status != 200 {
            bail!("answered {}", reply.status);
        }
        if times.len() == count {
            body = reply.body.to_vec();
        }
    }
    Ok((times, body))
}

/// A route that does nothing but answer with so many bytes.
async fn bare() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let router = Router::new()
        .route("/{bytes}", get(|Path(bytes): Path<usize>| async move { vec![b'x'; bytes.min(MOST)] }));
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(addr)
}

fn subjects(daemon: &Daemon) -> Vec<Subject> {
    let authorized = format!("host: {}\r\nauthorization: Bearer {}\r\n", daemon.control, daemon.token);
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\n{authorized}\r\n").into_bytes();
    let post = |method: &str, params: Value, headers: &str| {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
        let length = body.len();
        format!(
            "POST /mcp HTTP/1.1\r\n{authorized}content-type: application/json\r\naccept: application/json, text/event-stream\r\n{headers}content-length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    };
    let old = |method: &str, params: Value| post(method, params, "mcp-protocol-version: 2025-11-25\r\n");
    let new = |method: &str, mut params: Value| {
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": { "name": "berth-bench-mcp", "version": "1" },
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        let name = params["name"].as_str().map(|n| format!("mcp-name: {n}\r\n")).unwrap_or_default();
        let headers = format!("mcp-protocol-version: 2026-07-28\r\nmcp-method: {method}\r\n{name}");
        post(method, params, &headers)
    };
    let call = || json!({ "name": "app_list", "arguments": {} });
    vec![
        Subject { name: "GET /healthz", request: get("/healthz") },
        Subject { name: "REST app_list", request: get("/v1/apps") },
        Subject { name: "MCP app_list, 2025-11-25", request: old("tools/call", call()) },
        Subject { name: "MCP app_list, 2026-07-28", request: new("tools/call", call()) },
        Subject { name: "MCP tools/list, 2025-11-25", request: old("tools/list", json!({})) },
        Subject { name: "MCP tools/list, 2026-07-28", request: new("tools/list", json!({})) },
    ]
}

async fn measure(daemon: &Daemon, options: &Options) -> Result<()> {
    let bare = bare().await?;
    for &connections in &options.connections {
        println!(
            "\n{connections} connection(s); the ratio is to a bare route with an answer of the same size"
        );
        println!(
            "| request | bytes | calls/s | p50 | p99 | bare calls/s | bare p50 | rate | p50 |\n|---|---|---|---|---|---|---|---|---|"
        );
        for subject in subjects(daemon) {
            let (_, body) = one_connection(daemon.control, &subject.request, 1)
                .await
                .with_context(|| format!("{} does not work", subject.name))?;
            if body.windows(14).any(|w| w == b"\"isError\":true") {
                bail!("{} is refused: {}", subject.name, String::from_utf8_lossy(&body));
            }
            let plain = format!("GET /{} HTTP/1.1\r\nhost: {bare}\r\n\r\n", body.len()).into_bytes();
            let (mut own, mut base) = (Vec::new(), Vec::new());
            for _ in 0..options.rounds.max(1) {
                base.push(load(bare, &plain, options.requests, connections).await?);
                own.push(load(daemon.control, &subject.request, options.requests, connections).await?);
            }
            let (own, base) = (middle(&own), middle(&base));
            println!(
                "| {} | {} | {:.0} | {} us | {} us | {:.0} | {} us | {:.2} | {:.1} |",
                subject.name,
                body.len(),
                own.rate,
                own.p50.as_micros(),
                own.p99.as_micros(),
                base.rate,
                base.p50.as_micros(),
                own.rate / base.rate,
                own.p50.as_secs_f64() / base.p50.as_secs_f64(),
            );
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let flags = ["--docker-host", "unix:///nonexistent/docker.sock", "--min-free-disk-mb", "0"];
    let daemon = Daemon::start(&options.berth, tempfile::tempdir()?, &flags).await?;
    for name in ["shop", "wiki", "landing"] {
        daemon.call("POST", "/v1/apps", json!({ "name": name })).await?;
    }
    println!("resident memory before {:.1} MB", daemon.resident()? as f64 / 1e6);
    measure(&daemon, &options).await?;
    println!("\nresident memory after {:.1} MB", daemon.resident()? as f64 / 1e6);
    Ok(())
}
