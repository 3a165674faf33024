//! The measurements: interleaved rounds, medians, ratios to every peer.

use std::time::Duration;

use tokio_rustls::TlsConnector;

use crate::{
    clients::{self, Seen},
    peers::{Peer, World},
};

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    pub(crate) time: Duration,
    pub(crate) rate: u32,
    pub(crate) idle: Vec<usize>,
    pub(crate) only: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    KeepAlive,
    KeepAliveTls,
    Handshakes,
    FixedRate,
}

/// One proxy's medians.
#[derive(Debug, Clone)]
struct Row {
    name: &'static str,
    rps: f64,
    p50: f64,
    p99: f64,
    /// CPU seconds per 100,000 requests.
    cpu: f64,
    failed: u64,
}

pub(crate) async fn run(world: &World, plan: &Plan) -> anyhow::Result<()> {
    let tls = clients::connector(&world.certificate_pem)?;
    let wanted = |name: &str| plan.only.is_empty() || plan.only.iter().any(|only| only == name);
    let rate = format!("Fixed {} requests/s, 32 connections", plan.rate);
    for (name, title, load) in [
        ("keepalive", "Keep-alive, 64 connections, saturated", Load::KeepAlive),
        ("tls", "TLS keep-alive, 64 connections, saturated", Load::KeepAliveTls),
        ("handshake", "New TLS handshake per request, 16 at a time", Load::Handshakes),
        ("rate", rate.as_str(), Load::FixedRate),
    ] {
        if wanted(name) {
            let rows = measure(world, plan, load, &tls).await?;
            print_rows(title, load, &rows);
        }
    }
    if wanted("memory") {
        memory(world, plan, &tls).await?;
    }
    Ok(())
}

async fn measure(world: &World, plan: &Plan, load: Load, tls: &TlsConnector) -> anyhow::Result<Vec<Row>> {
    let mut seen: Vec<Vec<(Seen, f64)>> = vec![Vec::new(); world.peers.len()];
    for _ in 0..plan.rounds {
        for (peer, seen) in world.peers.iter().zip(&mut seen) {
            let before = peer.program.cpu_seconds();
            let round = one_round(peer, load, plan, tls).await?;
            let cpu = peer.program.cpu_seconds() - before;
            seen.push((round, cpu * 1e5 / round.requests.max(1) as f64));
        }
    }
    Ok(world.peers.iter().zip(seen).map(|(peer, seen)| row(peer.name, &seen)).collect())
}

async fn one_round(peer: &Peer, load: Load, plan: &Plan, tls: &TlsConnector) -> anyhow::Result<Seen> {
    match load {
        Load::KeepAlive => clients::saturate(peer.http, false, plan.time),
        Load::KeepAliveTls => clients::saturate(peer.https, true, plan.time),
        Load::Handshakes => {
            clients::handshakes(peer.https, tls, &[clients::NAME.to_owned()], plan.time).await
        }
        Load::FixedRate => clients::fixed_rate(peer.http, plan.rate, plan.time).await,
    }
}

fn row(name: &'static str, seen: &[(Seen, f64)]) -> Row {
    let of = |value: fn(&(Seen, f64)) -> f64| median(seen.iter().map(value).collect());
    Row {
        name,
        rps: of(|(s, _)| s.requests as f64 / s.seconds),
        p50: of(|(s, _)| s.p50),
        p99: of(|(s, _)| s.p99),
        cpu: of(|(_, cpu)| *cpu),
        failed: seen.iter().map(|(s, _)| s.failed).sum(),
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn print_rows(title: &str, load: Load, rows: &[Row]) {
    println!("\n{title}");
    println!("{:<10}{:>10}{:>10}{:>10}{:>12}{:>8}", "", "req/s", "p50 us", "p99 us", "CPU s/100k", "failed");
    for row in rows {
        println!(
            "{:<10}{:>10.0}{:>10.0}{:>10.0}{:>12.2}{:>8}",
            row.name, row.rps, row.p50, row.p99, row.cpu, row.failed
        );
    }
    let Some(berth) = rows.iter().find(|row| row.name == "berth") else { return };
    for peer in rows.iter().filter(|row| row.name != "berth") {
        let rps = if load == Load::FixedRate {
            String::new()
        } else {
            format!("{:.2}x req/s, ", berth.rps / peer.rps)
        };
        println!(
            "berth is {rps}{:.2}x p99, {:.2}x CPU per request of {}",
            berth.p99 / peer.p99,
            berth.cpu / peer.cpu,
            peer.name
        );
    }
}

async fn memory(world: &World, plan: &Plan, tls: &TlsConnector) -> anyhow::Result<()> {
    println!("\nMemory: KiB per idle keep-alive connection after one request (resident MiB before)");
    for peer in &world.peers {
        let mut line = format!("{:<10}", peer.name);
        let before = peer.program.resident_kib();
        line += &format!("({:.1})", before as f64 / 1024.0);
        let mut held = Vec::new();
        for &n in &plan.idle {
            clients::hold(&mut held, peer.http, n).await?;
            line += &per_connection(peer, before, n, "plain").await;
        }
        drop(held);
        tokio::time::sleep(Duration::from_millis(500)).await;
        // What the plain connections left behind is reused, so the first size is compared with the start.
        let mut held = Vec::new();
        for &n in &plan.idle {
            clients::hold_tls(&mut held, peer.https, tls, n).await?;
            line += &per_connection(peer, before, n, "TLS").await;
        }
        println!("{line}");
    }
    Ok(())
}

async fn per_connection(peer: &Peer, before: u64, n: usize, kind: &str) -> String {
    tokio::time::sleep(Duration::from_millis(500)).await;
    let grown = peer.program.resident_kib().saturating_sub(before);
    format!("  {n} {kind}: {:.1}", grown as f64 / n.max(1) as f64)
}
