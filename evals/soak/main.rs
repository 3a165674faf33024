//! The soak: what visitors notice while an app is deployed again and again. They must notice nothing.
//!
//! A real daemon is started from a binary, spoken to by REST alone, and asked in every way that visitors come while it
//! switches releases. `README.md` beside this file says how to read what it prints.

mod berth;
mod certificate;
mod clients;
mod docker;
mod domains;
mod guests;
mod ledger;
mod load;
mod nginx;
/// The same authority as in the tests, which stands there.
#[path = "../../server/tests/blackbox/certificates/pebble.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "what the tests use besides; a soak without it cannot run")]
mod pebble;
mod report;
mod side;
mod socket;
mod switch;
mod tally;
mod upgrade;
mod wire;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};

use self::{
    berth::Berth,
    docker::Image,
    guests::Sizes,
    nginx::Nginx,
    side::Side,
    switch::{Plan, Run},
};

/// Deploy again and again under load, and tell every request that was not answered as it should be.
#[derive(Debug, Parser)]
#[command(name = "berth-soak")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Deployments of an app, alternating two versions.
    Switch(SwitchOptions),
    /// Upgrades of Berth itself, each to the same program.
    Upgrade(UpgradeOptions),
    /// Changes of domains and renewals of certificates, ordered from Pebble.
    Domains(DomainsOptions),
}

#[derive(Debug, Args)]
struct Common {
    /// The berth binary [default: the one beside this program].
    #[arg(long)]
    program: Option<PathBuf>,
    /// Requests a second, over all ways [default: 300, short: 120].
    #[arg(long)]
    rate: Option<u32>,
    /// Small sizes and times, for a run of less than a minute.
    #[arg(long)]
    short: bool,
    /// Seconds that a slow response or an upload takes [default: 20, short: 4].
    #[arg(long)]
    seconds: Option<u64>,
    /// Seconds for which an old release is drained, more than a slow response takes [default: 30, short: 7].
    #[arg(long)]
    drain: Option<u64>,
    /// MiB of an upload [default: 100, short: 8].
    #[arg(long)]
    upload_mb: Option<u64>,
    /// Write the result as JSON too.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct SwitchOptions {
    #[command(flatten)]
    common: Common,
    /// How many deployments [default: 50, short: 6].
    #[arg(long)]
    deployments: Option<usize>,
    /// Long visits (slow responses, uploads, events, WebSockets) at every so many deployments; they hold up its drain.
    #[arg(long)]
    guests_every: Option<usize>,
    /// Run the same beside another proxy.
    #[arg(long)]
    beside: Option<Peer>,
    /// Seconds between nginx's reload and the stop of the old container.
    #[arg(long, default_value_t = 10)]
    nginx_pause: u64,
}

#[derive(Debug, Args)]
struct UpgradeOptions {
    #[command(flatten)]
    common: Common,
    /// How many upgrades [default: 10, short: 3].
    #[arg(long)]
    upgrades: Option<usize>,
    /// Long visits at every so many upgrades.
    #[arg(long)]
    guests_every: Option<usize>,
}

#[derive(Debug, Args)]
struct DomainsOptions {
    #[command(flatten)]
    common: Common,
    /// Seconds under load [default: 60, short: 20].
    #[arg(long, value_parser = clap::value_parser!(u64).range(10..=3600))]
    span: Option<u64>,
    /// Seconds that a certificate is valid; it is renewed at two thirds of that.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(6..=3600))]
    validity: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Peer {
    /// nginx with reload, blue-green.
    Nginx,
}

impl Common {
    fn sizes(&self, new_release: bool) -> Result<Sizes> {
        let or = |given: Option<u64>, long: u64, short: u64| {
            given.unwrap_or(if self.short { short } else { long })
        };
        let sizes = Sizes {
            slow_s: or(self.seconds, 20, 4),
            upload_mb: or(self.upload_mb, 100, 8),
            drain_s: or(self.drain, 30, 7),
            new_release,
        };
        if sizes.drain_s <= sizes.slow_s {
            bail!("a drain of {} s cannot wait for responses of {} s", sizes.drain_s, sizes.slow_s);
        }
        Ok(sizes)
    }

    fn rate(&self) -> u32 {
        self.rate.unwrap_or(if self.short { 120 } else { 300 })
    }

    fn program(&self) -> Result<PathBuf> {
        let program = match &self.program {
            Some(program) => program.clone(),
            None => std::env::current_exe()?.with_file_name("berth"),
        };
        program.canonicalize().with_context(|| format!("{} is not built: cargo build", program.display()))
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    // Reqwest is built without a provider of its own.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let work = async {
        match Cli::parse().what {
            What::Switch(options) => switching(&options).await,
            What::Upgrade(options) => upgrading(&options).await,
            What::Domains(options) => changing_domains(&options).await,
        }
    };
    // An interrupted run still takes away what it made: its guards are dropped with it.
    let done = tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether nothing was lost at Berth.
async fn switching(options: &SwitchOptions) -> Result<bool> {
    let common = &options.common;
    let plan = Plan {
        deployments: options.deployments.unwrap_or(if common.short { 6 } else { 50 }),
        rate: common.rate(),
        guests_every: options.guests_every.unwrap_or(if common.short { 3 } else { 5 }).max(1),
        sizes: common.sizes(true)?,
    };
    if !docker::is_there().await {
        bail!("Docker does not answer; the soak deploys containers");
    }
    let image = Image::build().await?;
    let mut runs = Vec::new();
    {
        let berth = Berth::start(&common.program()?, &image, plan.sizes.drain_s).await?;
        runs.push(switch::run(&mut Side::Berth(Box::new(berth)), plan).await?);
    }
    if let Some(Peer::Nginx) = options.beside {
        match beside_nginx(&image, options, plan).await {
            Ok(run) => runs.push(run),
            Err(error) => println!("skipped: nginx ({error:#})"),
        }
    }
    report::print(&runs, &load_average());
    write_json(common, &runs)?;
    Ok(runs.first().is_some_and(|berth| berth.problems.is_empty()))
}

/// Whether nothing was lost while Berth itself was replaced.
async fn upgrading(options: &UpgradeOptions) -> Result<bool> {
    let common = &options.common;
    let plan = upgrade::Plan {
        upgrades: options.upgrades.unwrap_or(if common.short { 3 } else { 10 }),
        rate: common.rate(),
        guests_every: options.guests_every.unwrap_or(3).max(1),
        sizes: common.sizes(false)?,
    };
    if !docker::is_there().await {
        bail!("Docker does not answer; the soak deploys containers");
    }
    let image = Image::build().await?;
    let mut berth =
        Side::Berth(Box::new(Berth::start(&common.program()?, &image, plan.sizes.drain_s).await?));
    let run = upgrade::run(&mut berth, plan).await?;
    report::print_upgrades(&run, &load_average());
    write_json(common, &run)?;
    Ok(run.problems.is_empty())
}

/// Whether nothing was lost while domains changed and certificates were renewed.
async fn changing_domains(options: &DomainsOptions) -> Result<bool> {
    let common = &options.common;
    let plan = domains::Plan {
        span_s: options.span.unwrap_or(if common.short { 20 } else { 60 }),
        validity_s: options.validity,
        rate: common.rate(),
    };
    if !docker::is_there().await {
        bail!("Docker does not answer; the soak deploys containers");
    }
    if !pebble::pebble_or_skip() {
        bail!("pebble and pebble-challtestsrv are not installed (Debian package pebble)");
    }
    let image = Image::build().await?;
    let run = domains::run(&common.program()?, &image, plan).await?;
    report::print_domains(&run, &load_average());
    write_json(common, &run)?;
    Ok(run.problems.is_empty())
}

fn write_json(common: &Common, result: &impl serde::Serialize) -> Result<()> {
    let Some(path) = &common.json else { return Ok(()) };
    std::fs::write(path, serde_json::to_vec_pretty(result)?)
        .with_context(|| format!("writing {}", path.display()))
}

async fn beside_nginx(image: &Image, options: &SwitchOptions, plan: Plan) -> Result<Run> {
    if !Nginx::is_there().await {
        bail!("it is not there and cannot be installed: apt-get install nginx-light");
    }
    let nginx = Nginx::start(image, Duration::from_secs(options.nginx_pause)).await?;
    switch::run(&mut Side::Nginx(Box::new(nginx)), plan).await
}

/// Of the last 1, 5 and 15 minutes.
fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}
