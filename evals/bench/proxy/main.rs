//! The data plane beside other proxies, in one run on one machine: ratios, not absolute numbers.
//!
//! Every proxy gets one core and one worker, the same upstream (nginx answering 1 KiB) and the same headers to
//! add. Clients and upstream share another core. Rounds are interleaved, so that a noisy moment hits all alike,
//! and medians are compared. A proxy that is not installed is skipped and named.
//!
//! `cargo build --profile bench -p berth-proxy --example data_plane && cargo run --profile bench -p berth-evals
//! --bin berth-bench-proxy`; it needs nginx (for the upstream too), wrk and taskset, and takes HAProxy and Caddy
//! along when they are on the PATH or named.

mod clients;
mod names;
mod peers;
mod rounds;

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CpuSet, sched_setaffinity},
};

use self::{peers::World, rounds::Plan};

#[derive(Debug, Parser)]
#[command(about = "Compare the data plane with nginx, HAProxy and Caddy")]
struct Args {
    /// The data plane's example binary [default: examples/data_plane beside this program].
    #[arg(long)]
    berth: Option<PathBuf>,
    /// Caddy's binary.
    #[arg(long, default_value = "caddy")]
    caddy: PathBuf,
    /// Rounds of each measurement.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds per round.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Requests per second of the fixed-rate measurement.
    #[arg(long, default_value_t = 4000)]
    rate: u32,
    /// Numbers of idle connections to measure memory at.
    #[arg(long, value_delimiter = ',', default_values_t = [1000, 9500])]
    idle: Vec<usize>,
    /// Only these measurements (keepalive, tls, handshake, rate, memory, names).
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// First of the nine ports used on loopback.
    #[arg(long, default_value_t = 19800)]
    port: u16,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    raise_open_files()?;
    pin_this_process(1).context("two cores are needed: one for the proxy, one for clients and upstream")?;
    let berth = match args.berth {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("examples").join("data_plane"),
    };
    let plan = Plan {
        rounds: args.rounds,
        time: Duration::from_secs(args.seconds),
        rate: args.rate,
        idle: args.idle,
        only: args.only,
    };
    // One thread: clients must not take more than their core.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let names = plan.only.iter().any(|only| only == "names");
    if plan.only.is_empty() || plan.only.len() > usize::from(names) {
        let world = World::start(&berth, &args.caddy, args.port)?;
        runtime.block_on(rounds::run(&world, &plan))?;
    }
    if plan.only.is_empty() || names {
        runtime.block_on(names::run(&berth, args.port, plan.rounds, plan.time))?;
    }
    Ok(())
}

/// As many open files as the system allows; inherited by the proxies.
fn raise_open_files() -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?)
}

fn pin_this_process(core: usize) -> anyhow::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(sched_setaffinity(None, &cores)?)
}
