//! Measures the daemon as its users feel it: how fast it is ready, what it weighs, how long a deployment takes
//! beyond its build, and how fast a rollback is.
//!
//! Everything is printed; nothing is asserted.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use berth_evals::daemon::Daemon;
use clap::Parser;
use serde_json::{Value, json};

/// Measure a berth binary.
#[derive(Parser)]
struct Options {
    /// The binary; a release build for figures that mean something.
    #[arg(long, default_value = "target/release/berth")]
    berth: PathBuf,
    /// Image for the container figures; it must be in the local engine and have `node`.
    #[arg(long, default_value = "node:22-slim")]
    image: String,
    /// Repetitions of each deployment figure.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn ms(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1e3)
}

/// Milliseconds that a deployment spent in the states that are Berth's own work.
fn overhead(detail: &Value) -> (i64, i64) {
    let steps = detail["steps"].as_array().cloned().unwrap_or_default();
    let spent = |names: &[&str]| {
        steps
            .iter()
            .filter(|s| names.iter().any(|n| s["state"] == *n))
            .filter_map(|s| s["ms"].as_i64())
            .sum::<i64>()
    };
    (spent(&["queued", "starting", "switching", "draining"]), spent(&["fetching", "building", "checking"]))
}

fn archive() -> Result<Vec<u8>> {
    let mut packed = Vec::new();
    {
        let gz = flate2::write::GzEncoder::new(&mut packed, flate2::Compression::fast());
        let mut tar = tar::Builder::new(gz);
        let page = b"<!doctype html><title>hi</title><h1>hi</h1>".as_slice();
        let mut header = tar::Header::new_gnu();
        header.set_size(page.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, "index.html", page)?;
        tar.into_inner()?.finish()?;
    }
    Ok(packed)
}

async fn deploy_figures(daemon: &Daemon, options: &Options) -> Result<()> {
    let packed = archive()?;
    let mut whole = Vec::new();
    for _ in 0..options.rounds {
        let began = Instant::now();
        let (_, upload) = daemon.raw("POST", "/v1/uploads", Some(("application/gzip", &packed))).await?;
        let made = daemon
            .call(
                "POST",
                "/v1/apps/page/deployments",
                json!({ "upload": upload["upload"], "create_app": true, "wait_s": 50 }),
            )
            .await?;
        whole.push(began.elapsed());
        if made["state"] != "live" {
            bail!("a static deployment is {}: {}", made["state"], made["problem"]);
        }
    }
    println!("static: upload to live                    {}", ms(median(whole)));

    let start = "node -e \"require('http').createServer((q,r)=>r.end('hi')).listen(process.env.PORT)\"";
    let create = json!({ "name": "web", "settings": { "start_command": start, "drain_timeout_s": 5 } });
    daemon.call("POST", "/v1/apps", create).await?;
    let (mut own, mut rollbacks) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        let body = json!({ "image": options.image, "wait_s": 50 });
        let made = match daemon.call("POST", "/v1/apps/web/deployments", body).await {
            Ok(made) => made,
            Err(error) if round == 0 => {
                println!("container figures skipped: {error:#}");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let name = made["deployment"].as_str().context("a deployment")?;
        let detail = daemon.settled(name).await?;
        let (ours, rest) = overhead(&detail);
        own.push(Duration::from_millis(u64::try_from(ours)?));
        if round == 0 {
            println!(
                "container: first deployment, states        {ours} ms Berth's own, {rest} ms fetch and health"
            );
            continue;
        }
        let began = Instant::now();
        let back = daemon.call("POST", "/v1/apps/web/rollback", json!({ "wait_s": 50 })).await?;
        rollbacks.push(began.elapsed());
        if back["state"] != "live" {
            bail!("a rollback is {}: {}", back["state"], back["problem"]);
        }
    }
    println!("container: overhead beyond fetch and health {}   (goal: at most 1 s)", ms(median(own)));
    println!("rollback, asked to live                     {}   (goal: at most 1 s)", ms(median(rollbacks)));
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    // An error means that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let size = std::fs::metadata(&options.berth)
        .with_context(|| format!("no binary at {}", options.berth.display()))?
        .len();
    println!(
        "binary size                                 {:.1} MB   (goal: at most 40 MB)",
        size as f64 / 1e6
    );
    let mut daemon = Daemon::start(&options.berth, tempfile::tempdir()?, &[]).await?;
    println!("ready after the very first start            {}", ms(daemon.ready));
    tokio::time::sleep(Duration::from_secs(5)).await;
    println!(
        "idle resident memory after 5 s              {:.1} MB   (goal: at most 50 MB)",
        daemon.resident()? as f64 / 1e6
    );
    deploy_figures(&daemon, &options).await?;
    println!("resident memory after these deployments     {:.1} MB", daemon.resident()? as f64 / 1e6);
    daemon = daemon.crash_and_restart(&options.berth, &[]).await?;
    println!("ready after SIGKILL with two apps           {}   (goal: at most 0.5 s)", ms(daemon.ready));
    let began = Instant::now();
    let client = reqwest::Client::new();
    loop {
        let url = format!("http://{}/", daemon.http);
        let answer = client.get(&url).header("host", "web.localhost").send().await;
        if answer.is_ok_and(|a| a.status() == 200) {
            println!("the container app answers after             {} more", ms(began.elapsed()));
            break;
        }
        if began.elapsed() > Duration::from_secs(10) {
            println!("the container app did not answer within 10 s");
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for app in ["page", "web"] {
        let _ = daemon.call("DELETE", &format!("/v1/apps/{app}?confirm={app}"), Value::Null).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    Ok(())
}
