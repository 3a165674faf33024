//! Bugsink beside us: its single-server set-up with its limits lifted, as `bugsink-create-conf` makes it.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use berth_evals::{process::Program, program::program};

use crate::load::{self, Requests, Sink};

/// What its template lacks for a load on loopback: its quotas lifted, plain HTTP, no mail.
const SETTINGS: &str = r#"
SECURE_PROXY_SSL_HEADER = None
BUGSINK["BASE_URL"] = "http://127.0.0.1:PORT"
BUGSINK["PHONEHOME"] = False
for _name in ("PER_PROJECT_PER_5_MINUTES", "PER_PROJECT_PER_HOUR", "PER_5_MINUTES", "PER_HOUR",
              "PER_PROJECT_PER_MONTH", "PER_MONTH"):
    BUGSINK["MAX_EVENTS_" + _name] = 100_000_000
ALLOWED_HOSTS = ["*"]
"#;
const PROJECT: &str = "
import django; django.setup()
from projects.models import Project
p = Project.objects.create(name='bench', alert_on_new_issue=False, alert_on_regression=False, alert_on_unmute=False)
print(f'{p.sentry_key.hex} {p.id}')
";
const COUNT: &str = "
import sqlite3, sys
print(sqlite3.connect(f'file:{sys.argv[1]}?mode=ro', uri=True).execute('SELECT COUNT(*) FROM events_event').fetchone()[0])
";

/// Its figures.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) accepted_per_s: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) digested_per_s: f64,
    pub(crate) bytes_per_event: f64,
    pub(crate) resident: u64,
}

struct Bugsink {
    venv: PathBuf,
    dir: tempfile::TempDir,
}

impl Bugsink {
    fn command(&self, name: &str) -> Result<Command> {
        let log = File::options().create(true).append(true).open(self.dir.path().join("log"))?;
        let mut command = program(self.venv.join("bin").join(name));
        command
            .current_dir(self.dir.path())
            .env("DJANGO_SETTINGS_MODULE", "bugsink_conf")
            .env("PYTHONPATH", self.dir.path())
            .stdout(log.try_clone()?)
            .stderr(log);
        Ok(command)
    }

    /// Runs a program to its end; what it says.
    fn run(&self, name: &str, arguments: &[&str]) -> Result<String> {
        let output = self
            .command(name)?
            .args(arguments)
            .stdout(std::process::Stdio::piped())
            .output()
            .context("starting it")?;
        let log = || std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        ensure!(output.status.success(), "bugsink's {name} {arguments:?} failed: {}", log());
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn digested(&self) -> u64 {
        let database = self.dir.path().join("db.sqlite3");
        let count = self.run("python", &["-c", COUNT, &database.to_string_lossy()]);
        count.ok().and_then(|n| n.parse().ok()).unwrap_or(0)
    }

    fn bytes(&self) -> u64 {
        ["db.sqlite3", "db.sqlite3-wal"]
            .iter()
            .filter_map(|name| std::fs::metadata(self.dir.path().join(name)).ok())
            .map(|m| m.len())
            .sum()
    }
}

/// Runs the same load against it: `events` events over `connections` connections.
pub(crate) async fn measure(venv: &Path, events: u64, connections: usize, load_id: u64) -> Result<Figures> {
    let bugsink = Bugsink { venv: std::path::absolute(venv)?, dir: tempfile::tempdir()? };
    let dir = bugsink.dir.path();
    let port = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    bugsink.run(
        "bugsink-create-conf",
        &["--template=singleserver", "--host=127.0.0.1", "--base-dir", &dir.to_string_lossy()],
    )?;
    let conf = dir.join("bugsink_conf.py");
    let settings = std::fs::read_to_string(&conf)? + &SETTINGS.replace("PORT", &port.to_string());
    std::fs::write(&conf, settings)?;
    bugsink.run("bugsink-manage", &["migrate"])?;
    bugsink.run("bugsink-manage", &["migrate", "--database=snappea"])?;
    let made = bugsink.run("python", &["-c", PROJECT])?;
    let (key, project) = made.split_once(' ').context("a project")?;
    let sink = Sink { addr, project: project.to_owned(), key: key.to_owned() };
    let mut web = Program::start(bugsink.command("gunicorn")?.args([
        "--workers=2",
        "--bind",
        &addr.to_string(),
        "bugsink.wsgi",
    ]))?;
    web.wait_for(addr)?;
    let digester = Program::start(&mut bugsink.command("bugsink-runsnappea")?)?;
    // Both workers import everything with their first request.
    load::burst(&sink, &Requests::make(&sink, load_id ^ 7, (0, 20)), (0, 20), 4).await?;
    settle(&bugsink, 20).await?;
    let before = (bugsink.digested(), bugsink.bytes());
    let requests = Requests::make(&sink, load_id, (0, events));
    let begun = Instant::now();
    let told = load::burst(&sink, &requests, (0, events), connections).await?;
    ensure!(told.accepted() as u64 == events, "bugsink answered {:?}", told.statuses);
    settle(&bugsink, before.0 + events).await?;
    let took = begun.elapsed();
    let resident = (web.resident_kib() + digester.resident_kib()) * 1024;
    Ok(Figures {
        accepted_per_s: told.per_second(),
        p50_ms: told.ms(0.5),
        p99_ms: told.ms(0.99),
        digested_per_s: events as f64 / took.as_secs_f64(),
        bytes_per_event: bugsink.bytes().saturating_sub(before.1) as f64 / events as f64,
        resident,
    })
}

/// Waits until so many events are digested, as long as there is progress.
async fn settle(bugsink: &Bugsink, wanted: u64) -> Result<()> {
    let (mut last, mut since) = (0, Instant::now());
    loop {
        let now = bugsink.digested();
        if now >= wanted {
            return Ok(());
        }
        if now > last {
            (last, since) = (now, Instant::now());
        }
        ensure!(since.elapsed() < Duration::from_secs(60), "bugsink stands at {now} of {wanted} events");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
