//! Error tracking as its users feel it, beside Bugsink in the same run: how fast events are accepted, how soon they can
//! be found, what they weigh, and how fast a full store answers.
//!
//! Everything is printed with its goal; nothing is asserted. Loads go to loopback only and end by count.

mod bugsink;
mod events;
mod load;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use berth_evals::{daemon::Daemon, process};
use clap::Parser;
use reqwest::Url;
use serde_json::{Value, json};

use crate::load::{Requests, Sink, ms};

/// Events of one burst while the store grows.
const CHUNK: u64 = 20_000;
/// How far digesting may lag behind while the store grows.
const LAG: u64 = 20_000;
/// Identity of the loads, so that no event of one is taken for another's.
const BURST: u64 = 1;
const GROW: u64 = 2;
const PROBE: u64 = 3;

/// Measure error tracking.
#[derive(Debug, Parser)]
struct Options {
    /// The binary; an optimised build for figures that mean something.
    #[arg(long, default_value = "target/release/berth")]
    berth: PathBuf,
    /// A Python environment with Bugsink (`python3 -m venv DIR; DIR/bin/pip install bugsink`); without it, no comparison.
    #[arg(long)]
    bugsink: Option<PathBuf>,
    /// Events of the burst.
    #[arg(long, default_value_t = 20_000)]
    events: u64,
    /// Events that Bugsink gets; it takes about half a minute for 1,000.
    #[arg(long, default_value_t = 800)]
    bugsink_events: u64,
    /// Events in the store when searches are measured.
    #[arg(long, default_value_t = 50_000)]
    store: u64,
    /// Connections.
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// Searches of each kind.
    #[arg(long, default_value_t = 40)]
    searches: usize,
    /// Where to leave the data for other runs; it must not be there.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Begin with a copy of what another run left, to measure a change on a grown store without growing it first.
    #[arg(long)]
    from: Option<PathBuf>,
    /// More flags of `berth serve`, such as a database's address.
    #[arg(long = "serve-flag", allow_hyphen_values = true)]
    flags: Vec<String>,
}

#[derive(Debug)]
struct Berth {
    daemon: Daemon,
    sink: Sink,
    /// Mixed into the identities of loads.
    run: u64,
    client: reqwest::Client,
}

impl Berth {
    async fn start(options: &Options) -> Result<Self> {
        let mut flags = vec!["--docker-host", "unix:///nonexistent/docker.sock"];
        flags.extend(options.flags.iter().map(String::as_str));
        let directory = tempfile::tempdir()?;
        if let Some(from) = &options.from {
            copy(from, directory.path()).with_context(|| format!("{} cannot be copied", from.display()))?;
        }
        let daemon = Daemon::start(&options.berth, directory, &flags).await?;
        if options.from.is_none() {
            daemon.call("POST", "/v1/apps", json!({ "name": "shop" })).await?;
            let most = json!({ "events_per_minute": 1_000_000 });
            daemon.call("PATCH", "/v1/apps/shop/errors/rules", most).await?;
        }
        let dsn = daemon.call("GET", "/v1/apps/shop/dsn", Value::Null).await?;
        let sink = Sink::of_dsn(dsn["dsn"].as_str().context("a DSN")?, daemon.control)?;
        // Events of an earlier run would be taken for the same.
        let run = match options.from {
            Some(_) => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs() << 8,
            None => 0,
        };
        Ok(Self { daemon, sink, run, client: reqwest::Client::builder().no_proxy().build()? })
    }

    async fn get(&self, path: &str, pairs: &[(&str, &str)]) -> Result<Value> {
        let url = Url::parse_with_params(&format!("http://{}{path}", self.daemon.control), pairs)?;
        let answer = self.client.get(url).bearer_auth(&self.daemon.token).send().await?;
        let (status, value) = (answer.status(), answer.json::<Value>().await?);
        ensure!(status.is_success(), "{path} {pairs:?} answered {status}: {value}");
        Ok(value)
    }

    /// Events that are digested.
    async fn digested(&self) -> Result<u64> {
        let dsn = self.get("/v1/apps/shop/dsn", &[]).await?;
        dsn["accepted_24h"].as_u64().context("a count")
    }

    async fn found(&self, id: &str) -> Result<bool> {
        let page = self.get("/v1/errors", &[("query", &format!("id:{id}"))]).await?;
        Ok(page["total"] == 1)
    }

    async fn until_found(&self, id: &str, pause: Duration) -> Result<()> {
        let begun = Instant::now();
        while !self.found(id).await? {
            ensure!(
                begun.elapsed() < Duration::from_secs(900),
                "{id} cannot be found: {}",
                self.daemon.log_tail()
            );
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    async fn until_digested(&self, wanted: u64) -> Result<()> {
        let begun = Instant::now();
        while self.digested().await? < wanted {
            ensure!(
                begun.elapsed() < Duration::from_secs(900),
                "digesting stands still: {}",
                self.daemon.log_tail()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Bytes of the database and of the index.
    fn bytes(&self) -> (u64, u64) {
        (size(&self.daemon.data(), &["index"]), size(&self.daemon.data().join("index"), &[]))
    }
}

/// Copies a folder with all that is in it.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?
        } else {
            std::fs::copy(entry.path(), &to).map(drop)?
        }
    }
    Ok(())
}

fn size(path: &Path, without: &[&str]) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    let of = |entry: std::fs::DirEntry| {
        let name = entry.file_name();
        match entry.metadata() {
            _ if without.iter().any(|w| name == *w) => 0,
            Ok(meta) if meta.is_dir() => size(&entry.path(), &[]),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        }
    };
    entries.flatten().map(of).sum()
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Processor time that a process took, in seconds.
fn cpu_seconds(pid: u32) -> f64 {
    process::cpu_seconds(pid).unwrap_or(0.0)
}

fn say(what: &str, value: impl std::fmt::Display, goal: &str) {
    println!("{what:<46} {value:>16}   {goal}");
}

/// What is compared with the peer.
#[derive(Debug)]
struct Burst {
    accepted_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    digested_per_s: f64,
    /// Memory before, and what of it are pages of files.
    idle: (u64, u64),
}

async fn burst(berth: &Berth, options: &Options) -> Result<Burst> {
    // What is done once after a start is not the tracker's.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let files = process::resident_files_kib(berth.daemon.pid()).context("the daemon does not run")? * 1024;
    let idle = (berth.daemon.resident()?, files);
    load::burst(&berth.sink, &Requests::make(&berth.sink, berth.run ^ BURST ^ 77, (0, 50)), (0, 50), 4)
        .await?;
    berth.until_found(&events::id(berth.run ^ BURST ^ 77, 49), Duration::from_millis(50)).await?;
    let before = berth.digested().await?;
    let requests = Requests::make(&berth.sink, berth.run ^ BURST, (0, options.events));
    let cpu = cpu_seconds(berth.daemon.pid());
    let told = load::burst(&berth.sink, &requests, (0, options.events), options.connections).await?;
    let sent = Instant::now();
    let accepted = told.accepted() as u64;
    berth.until_digested(before + accepted).await?;
    let digested = sent.elapsed() + told.took;
    berth.until_found(&events::id(berth.run ^ BURST, options.events - 1), Duration::from_millis(20)).await?;
    let found = sent.elapsed() + told.took;
    let cpu = (cpu_seconds(berth.daemon.pid()) - cpu) / accepted.max(1) as f64;
    println!("\nA burst of {} events over {} connections", options.events, options.connections);
    say("accepted per second, durable", format!("{:.0}", told.per_second()), "goal: at least 2,000");
    say("answer, median", format!("{:.2} ms", told.ms(0.5)), "");
    say("answer, 99th percentile", format!("{:.2} ms", told.ms(0.99)), "goal: below 20 ms");
    say("answer, slowest", format!("{:.2} ms", told.ms(1.0)), "");
    let rate = |took: Duration| format!("{:.0}", accepted as f64 / took.as_secs_f64());
    say("digested per second, first sent to last", rate(digested), "");
    say("digested and indexed per second", rate(found), "goal: at least 1,000");
    say("processor time per event, accepted to indexed", format!("{:.2} ms", cpu * 1e3), "");
    if accepted != options.events {
        println!("not all were accepted: {:?}", told.statuses);
    }
    Ok(Burst {
        accepted_per_s: told.per_second(),
        p50_ms: told.ms(0.5),
        p99_ms: told.ms(0.99),
        digested_per_s: accepted as f64 / found.as_secs_f64(),
        idle,
    })
}

/// How long after its answer an event can be found, one at a time.
async fn delays(berth: &Berth) -> Result<()> {
    let mut times = Vec::new();
    for n in 0..20 {
        ensure!(load::one(&berth.sink, berth.run ^ PROBE, n).await? == 200, "a probe was refused");
        let begun = Instant::now();
        berth.until_found(&events::id(berth.run ^ PROBE, n), Duration::from_millis(5)).await?;
        times.push(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(50 + n * 13)).await;
    }
    times.sort();
    say("accepted to found, quiet, median", format!("{:.0} ms", ms(&times, 0.5)), "goal: below 2 s");
    say("accepted to found, quiet, slowest", format!("{:.0} ms", ms(&times, 1.0)), "goal: below 2 s");
    Ok(())
}

async fn grow(berth: &Berth, options: &Options, (idle, idle_files): (u64, u64)) -> Result<()> {
    let there = berth.digested().await?;
    let wanted = options.store.saturating_sub(there);
    let (mut sent, mut slowest) = (0, Duration::ZERO);
    let mut times = Vec::new();
    let requests = Requests::make(&berth.sink, berth.run ^ GROW, (0, wanted));
    let cpu = cpu_seconds(berth.daemon.pid());
    let begun = Instant::now();
    while sent < wanted {
        let to = (sent + CHUNK).min(wanted);
        let told = load::burst(&berth.sink, &requests, (sent, to), options.connections).await?;
        ensure!(told.accepted() as u64 == to - sent, "answers were {:?}", told.statuses);
        slowest = slowest.max(told.times.last().copied().unwrap_or_default());
        times.extend(told.times);
        sent = to;
        berth.until_digested((there + sent).saturating_sub(LAG)).await?;
    }
    if wanted > 0 {
        berth.until_found(&events::id(berth.run ^ GROW, wanted - 1), Duration::from_millis(50)).await?;
    }
    let took = begun.elapsed();
    let events = berth.digested().await?;
    // Merges of the index and the checkpoint of the database end by themselves.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (database, index) = berth.bytes();
    times.sort();
    println!("\nThe store grown to {events} events");
    if wanted > 0 {
        let rate = wanted as f64 / took.as_secs_f64();
        say("digested and indexed per second, sustained", format!("{rate:.0}"), "goal: at least 1,000");
        say("answer meanwhile, 99th percentile", format!("{:.2} ms", ms(&times, 0.99)), "goal: below 20 ms");
        say("answer meanwhile, slowest", format!("{:.0} ms", slowest.as_secs_f64() * 1e3), "");
        let cpu = (cpu_seconds(berth.daemon.pid()) - cpu) / wanted as f64;
        say("processor time per event, accepted to indexed", format!("{:.2} ms", cpu * 1e3), "");
    }
    let each = (database + index) as f64 / events as f64;
    say("disk per event", format!("{each:.0} B"), "goal: at most 4,096 B");
    say("  of it database and index", format!("{:.0} + {:.0} MiB", mib(database), mib(index)), "");
    let now = berth.daemon.resident()?;
    say("memory before the first event", format!("{:.1} MiB", mib(idle)), "");
    say("memory now", format!("{:.1} MiB", mib(now)), "");
    say(
        "memory, the tracker's share",
        format!("{:.1} MiB", mib(now.saturating_sub(idle))),
        "goal: at most 60 MB",
    );
    let pid = berth.daemon.pid();
    let files = process::resident_files_kib(pid).context("the daemon does not run")? * 1024;
    say(
        "  of it pages of files, now and before",
        format!("{:.1}, {:.1} MiB", mib(files), mib(idle_files)),
        "",
    );
    let most = process::peak_kib(pid).context("the daemon does not run")? * 1024;
    say("memory, most ever", format!("{:.1} MiB", mib(most)), "");
    Ok(())
}

/// What a kind of search is called, its query, and the rest of its input.
type Question<'q> = (&'q str, &'q str, &'q [(&'q str, &'q str)]);

async fn questions(berth: &Berth, options: &Options) -> Result<()> {
    let kinds: &[Question<'_>] = &[
        ("all that is open", "is:open", &[]),
        ("a word", "voucher", &[]),
        ("words as a phrase", "\"could not charge invoice\"", &[]),
        ("a type", "type:TimeoutError", &[]),
        ("one user", "user.email:u{}@shop.example", &[]),
        ("a release and a browser", "release:shop@1.4.7 browser:firefox", &[]),
        ("a tag, within an hour", "tenant:tenant-{} age:<1h", &[]),
        ("a wildcard", "file:*cart.py", &[]),
        ("words by relevance", "refund parcel", &[("sort", "relevance")]),
        ("what issues are like", "is:open events:>100 users:>10", &[("sort", "users")]),
        ("with a facet", "type:KeyError", &[("facets", "release")]),
        ("one event", "id:{}", &[]),
    ];
    println!("\nSearches, {} of each kind, one after another", options.searches);
    let mut all = Vec::new();
    for (name, query, more) in kinds {
        let mut times = Vec::new();
        for n in 0..options.searches as u64 {
            let number = match *name {
                "one user" => (events::spread(n) % 5000).to_string(),
                "one event" => events::id(berth.run ^ BURST, events::spread(n) % options.events),
                _ => (events::spread(n) % 40).to_string(),
            };
            let query = query.replace("{}", &number);
            let pairs: Vec<(&str, &str)> =
                [("query", query.as_str())].into_iter().chain(more.iter().copied()).collect();
            let begun = Instant::now();
            let page = berth.get("/v1/errors", &pairs).await?;
            times.push(begun.elapsed());
            ensure!(*name == "one user" || page["total"].as_u64() > Some(0), "{query} finds nothing: {page}");
        }
        times.sort();
        let both = format!("{:.1} / {:.1} ms", ms(&times, 0.5), ms(&times, 0.95));
        say(&format!("  {name}, median / 95th"), both, "");
        all.extend(times);
    }
    all.sort();
    say("search, 95th percentile of all", format!("{:.1} ms", ms(&all, 0.95)), "goal: at most 50 ms");
    let page = berth.get("/v1/errors", &[("query", "is:open"), ("sort", "events"), ("limit", "100")]).await?;
    let names: Vec<&str> =
        page["issues"].as_array().into_iter().flatten().filter_map(|i| i["issue"].as_str()).collect();
    let mut times = Vec::new();
    for name in names.iter().cycle().take(options.searches * 5) {
        let begun = Instant::now();
        berth.get(&format!("/v1/errors/{name}"), &[]).await?;
        times.push(begun.elapsed());
    }
    times.sort();
    say("error_get, median", format!("{:.1} ms", ms(&times, 0.5)), "");
    say("error_get, 95th percentile", format!("{:.1} ms", ms(&times, 0.95)), "goal: at most 20 ms");
    Ok(())
}

fn compare(ours: &Burst, resident: u64, each: f64, theirs: &bugsink::Figures) {
    println!("\nBeside Bugsink, the same events over the same connections: ours, its, ratio");
    let line = |what: &str, ours: f64, theirs: f64, unit: &str| {
        let ratio = if ours > theirs { ours / theirs } else { theirs / ours };
        println!("{what:<46} {ours:>10.1} {theirs:>10.1} {unit:<4} {ratio:>7.1}");
    };
    line("accepted per second", ours.accepted_per_s, theirs.accepted_per_s, "");
    line("digested (ours: and indexed) per second", ours.digested_per_s, theirs.digested_per_s, "");
    line("answer, median", ours.p50_ms, theirs.p50_ms, "ms");
    line("answer, 99th percentile", ours.p99_ms, theirs.p99_ms, "ms");
    line("disk per event", each, theirs.bytes_per_event, "B");
    line("memory, whole daemon", mib(resident), mib(theirs.resident), "MiB");
}

#[tokio::main]
async fn main() -> Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let options = Options::parse();
    ensure!(options.events > 0 && options.connections > 0, "a load wants events and connections");
    let theirs = match &options.bugsink {
        Some(venv) => Some(bugsink::measure(venv, options.bugsink_events, options.connections, BURST).await?),
        None => {
            println!("no comparison: --bugsink names no Python environment with Bugsink");
            None
        }
    };
    let berth = Berth::start(&options).await?;
    let ours = burst(&berth, &options).await?;
    delays(&berth).await?;
    grow(&berth, &options, ours.idle).await?;
    questions(&berth, &options).await?;
    if let Some(theirs) = &theirs {
        let (database, index) = berth.bytes();
        let each = (database + index) as f64 / berth.digested().await? as f64;
        compare(&ours, berth.daemon.resident()?, each, theirs);
    }
    if let Some(keep) = &options.keep {
        let ended = berth.daemon.stop()?;
        copy(ended.path(), keep).with_context(|| format!("{} cannot be written", keep.display()))?;
        println!("\nleft in {}", keep.display());
    }
    Ok(())
}
