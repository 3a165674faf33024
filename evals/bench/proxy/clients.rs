//! The clients: wrk for saturation, and three of our own for what wrk cannot do.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use berth_evals::process;
use futures_util::future::{join_all, try_join_all};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// The name of the one certificate that most measurements use.
pub(crate) const NAME: &str = "bench.localhost";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench.localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";

/// What a client saw in one round.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    /// Latency in microseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) failed: u64,
}

/// 64 keep-alive connections, as fast as they go.
pub(crate) fn saturate(addr: SocketAddr, tls: bool, time: Duration) -> anyhow::Result<Seen> {
    let scheme = if tls { "https" } else { "http" };
    let url = format!("{scheme}://{addr}/");
    let seconds = format!("{}s", time.as_secs());
    let args = ["-t1", "-c64", "-d", &seconds, "--latency", "-H", "Host: bench.localhost", &url];
    parse_wrk(&process::output("wrk", &args)?)
}

fn parse_wrk(text: &str) -> anyhow::Result<Seen> {
    let after = |label: &str| {
        let line = text.lines().map(str::trim).find(|line| line.starts_with(label))?;
        line[label.len()..].split_whitespace().next()
    };
    let summary =
        text.lines().find(|line| line.contains(" requests in ")).context("wrk printed no summary")?;
    let mut words = summary.split_whitespace();
    let requests = words.next().context("no count")?.parse()?;
    let seconds = micros(words.nth(2).context("no time")?.trim_end_matches(','))? / 1e6;
    let failed = text
        .lines()
        .filter(|line| line.contains("Non-2xx") || line.contains("Socket errors"))
        .flat_map(|line| line.split([' ', ',']))
        .filter_map(|word| word.parse::<u64>().ok())
        .sum();
    Ok(Seen {
        requests,
        seconds,
        p50: micros(after("50%").context("no median")?)?,
        p99: micros(after("99%").context("no p99")?)?,
        failed,
    })
}

/// `1.23ms`, `45us`, `3.00s` in microseconds.
fn micros(text: &str) -> anyhow::Result<f64> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let factor = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "m" => 6e7,
        _ => bail!("{text} is no time"),
    };
    Ok(number.parse::<f64>()? * factor)
}

/// Trusts the one certificate of this run, and resumes nothing.
pub(crate) fn connector(certificate_pem: &str) -> anyhow::Result<TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate_pem.as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn connect(addr: SocketAddr) -> anyhow::Result<TcpStream> {
    let socket = TcpStream::connect(addr).await?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

async fn connect_tls(
    addr: SocketAddr,
    tls: &TlsConnector,
    name: &str,
) -> anyhow::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned())?;
    Ok(tls.connect(name, connect(addr).await?).await?)
}

async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> anyhow::Result<()> {
    stream.write_all(REQUEST).await?;
    stream.flush().await?;
    let mut answer = [0; 4096];
    let mut filled = 0;
    loop {
        let n = stream.read(&mut answer[filled..]).await?;
        ensure!(n > 0, "closed within an answer");
        filled += n;
        let Some(head) = answer[..filled].windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..head]));
        // The upstream always answers 1 KiB; chunked framing adds a little.
        if filled >= head + 4 + 1024 {
            return Ok(());
        }
    }
}

/// A full handshake and one request per connection, 16 at a time, with one of the names after the other.
pub(crate) async fn handshakes(
    addr: SocketAddr,
    tls: &TlsConnector,
    names: &[String],
    time: Duration,
) -> anyhow::Result<Seen> {
    let begun = Instant::now();
    let next = AtomicUsize::new(0);
    let one = || async {
        let (mut latencies, mut failed) = (Vec::new(), 0);
        while begun.elapsed() < time {
            let from = Instant::now();
            // By a step that has no divisor in common with a thousand: neighbours in no list.
            let name = &names[next.fetch_add(617, Ordering::Relaxed) % names.len()];
            let done = async { exchange(&mut connect_tls(addr, tls, name).await?).await };
            match done.await {
                Ok(()) => latencies.push(from.elapsed()),
                Err(_) => failed += 1,
            }
        }
        (latencies, failed)
    };
    let parts = join_all((0..16).map(|_| one())).await;
    Ok(summary(parts, begun.elapsed()))
}

/// A fixed rate over 32 connections, whatever the answers do; latency counts from when a request was due.
pub(crate) async fn fixed_rate(addr: SocketAddr, rate: u32, time: Duration) -> anyhow::Result<Seen> {
    const CONNECTIONS: u32 = 32;
    let interval = Duration::from_secs(1) * CONNECTIONS / rate;
    let begun = tokio::time::Instant::now() + Duration::from_millis(50);
    let one = |offset: Duration| async move {
        let mut stream = connect(addr).await?;
        let (mut latencies, mut failed) = (Vec::new(), 0);
        let mut due = begun + offset;
        while due < begun + time {
            tokio::time::sleep_until(due).await;
            match exchange(&mut stream).await {
                Ok(()) => latencies.push(due.elapsed()),
                Err(_) => {
                    failed += 1;
                    stream = connect(addr).await?;
                }
            }
            due += interval;
        }
        anyhow::Ok((latencies, failed))
    };
    let parts = try_join_all((0..CONNECTIONS).map(|i| one(interval * i / CONNECTIONS))).await?;
    Ok(summary(parts, begun.elapsed()))
}

fn summary(parts: Vec<(Vec<Duration>, u64)>, took: Duration) -> Seen {
    let failed = parts.iter().map(|(_, failed)| failed).sum();
    let mut all: Vec<f64> = parts.into_iter().flat_map(|(l, _)| l).map(|l| l.as_secs_f64() * 1e6).collect();
    all.sort_unstable_by(f64::total_cmp);
    let at =
        |part: f64| all.get(((all.len() as f64 * part) as usize).min(all.len().saturating_sub(1))).copied();
    Seen {
        requests: all.len() as u64,
        seconds: took.as_secs_f64(),
        p50: at(0.5).unwrap_or_default(),
        p99: at(0.99).unwrap_or_default(),
        failed,
    }
}

/// Opens connections that did one request each and now idle, up to `n` in `held`.
pub(crate) async fn hold(held: &mut Vec<TcpStream>, addr: SocketAddr, n: usize) -> anyhow::Result<()> {
    while held.len() < n {
        let more = (n - held.len()).min(50);
        held.extend(try_join_all((0..more).map(|_| open(addr))).await?);
    }
    Ok(())
}

async fn open(addr: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut stream = connect(addr).await?;
    exchange(&mut stream).await?;
    Ok(stream)
}

/// As [`hold`], through TLS.
pub(crate) async fn hold_tls(
    held: &mut Vec<TlsStream<TcpStream>>,
    addr: SocketAddr,
    tls: &TlsConnector,
    n: usize,
) -> anyhow::Result<()> {
    while held.len() < n {
        let mut stream = connect_tls(addr, tls, NAME).await?;
        exchange(&mut stream).await?;
        held.push(stream);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrks_summary_is_read() {
        let text = "  Latency Distribution\n     50%  874.00us\n     99%    2.80ms\n  190012 requests in 3.00s, 230MB read\n\
                    \x20 Non-2xx or 3xx responses: 7\nRequests/sec:  63313.1\n";
        let seen = parse_wrk(text).expect("a summary");
        assert_eq!((seen.requests, seen.failed), (190_012, 7));
        assert_eq!((seen.seconds, seen.p50, seen.p99), (3.0, 874.0, 2800.0));
    }
}
