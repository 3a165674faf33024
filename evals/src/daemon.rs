//! A daemon of one's own, driven from outside: started from a binary with its own data and ports, spoken to by REST,
//! ended when dropped.

use std::{
    fs::File,
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    process::{self, Program},
    program::program,
};

/// Time in which a daemon must be ready.
const READY: Duration = Duration::from_secs(20);
/// Time in which a daemon that an upgrade started must be gone after SIGTERM.
const GONE: Duration = Duration::from_secs(10);

/// What `daemon.json` tells.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
struct Presence {
    pid: u32,
    control_url: String,
    http_url: String,
    instance: String,
}

/// What a daemon is started with besides its flags.
#[derive(Debug, Default)]
struct Setting {
    /// When its clock starts.
    clock: Option<&'static str>,
    /// Its process group.
    group: Option<i32>,
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    process: Program,
    directory: tempfile::TempDir,
    client: reqwest::Client,
    /// Address of the control plane.
    pub control: SocketAddr,
    /// Address of the data plane over HTTP.
    pub http: SocketAddr,
    /// UUID of the installation, as on the labels of what it made.
    pub instance: String,
    /// The admin token of the first start.
    pub token: String,
    /// From start to ready.
    pub ready: Duration,
}

impl Daemon {
    /// Starts a daemon on free loopback ports, with its data in `directory`, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start; the error ends with its log.
    pub async fn start(berth: &Path, directory: tempfile::TempDir, flags: &[&str]) -> Result<Self> {
        Self::start_in(berth, directory, flags, &Setting::default()).await
    }

    /// The same whose clock starts at `clock`, an RFC 3339 time; only debug builds can be told.
    ///
    /// # Errors
    /// When it does not start; the error ends with its log.
    pub async fn start_at(
        berth: &Path,
        directory: tempfile::TempDir,
        flags: &[&str],
        clock: Option<&'static str>,
    ) -> Result<Self> {
        Self::start_in(berth, directory, flags, &Setting { clock, group: None }).await
    }

    /// The same in a process group of its own, so that what ends its starter's group leaves it running; for one that
    /// [`Self::leave`] leaves behind.
    ///
    /// # Errors
    /// When it does not start; the error ends with its log.
    pub async fn start_apart(
        berth: &Path,
        directory: tempfile::TempDir,
        flags: &[&str],
        clock: Option<&'static str>,
    ) -> Result<Self> {
        Self::start_in(berth, directory, flags, &Setting { clock, group: Some(0) }).await
    }

    async fn start_in(
        berth: &Path,
        directory: tempfile::TempDir,
        flags: &[&str],
        setting: &Setting,
    ) -> Result<Self> {
        let log_file = directory.path().join("daemon.log");
        let started = Self::try_start(berth, directory, flags, setting).await;
        started.map_err(|error| match std::fs::read_to_string(log_file) {
            Ok(log) => error.context(format!("the daemon's log ends: {}", tail(&log))),
            Err(_) => error,
        })
    }

    async fn try_start(
        berth: &Path,
        directory: tempfile::TempDir,
        flags: &[&str],
        setting: &Setting,
    ) -> Result<Self> {
        let path = directory.path();
        let log = File::options().create(true).append(true).open(path.join("daemon.log"))?;
        let presence = path.join("data/daemon.json");
        let _ = std::fs::remove_file(&presence);
        let mut command = program(berth);
        command
            .args(["serve", "--control-addr", "127.0.0.1:0", "--data-dir"])
            .arg(path.join("data"))
            .arg("--token-file")
            .arg(path.join("token"))
            .args(flags)
            .env_remove("BERTH_TOKEN")
            .stdout(log.try_clone()?)
            .stderr(log);
        // A caller may want it at an address that others know.
        if !flags.contains(&"--http-addr") {
            command.args(["--http-addr", "127.0.0.1:0"]);
        }
        if let Some(group) = setting.group {
            command.process_group(group);
        }
        if let Some(clock) = setting.clock {
            command.env("BERTH_TEST_CLOCK", clock);
        }
        let began = Instant::now();
        let mut process = Program::start(&mut command)?;
        let client = reqwest::Client::builder().no_proxy().build()?;
        let found = loop {
            process.still_runs().context("the daemon did not start")?;
            if began.elapsed() > READY {
                bail!("the daemon was not ready within {READY:?}");
            }
            if let Some(found) = read_presence(&presence)
                && let Ok(answer) = client.get(format!("{}/readyz", found.control_url)).send().await
                && answer.status().is_success()
            {
                break found;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        let ready = began.elapsed();
        let address =
            |url: &str| url.trim_start_matches("http://").parse().context("an address in daemon.json");
        let (control, http) = (address(&found.control_url)?, address(&found.http_url)?);
        let instance = found.instance;
        let mut daemon =
            Self { process, directory, client, control, http, instance, token: String::new(), ready };
        daemon.token = daemon.first_token().await?;
        Ok(daemon)
    }

    /// It is written a moment after the daemon is ready.
    async fn first_token(&self) -> Result<String> {
        let file = self.directory.path().join("token");
        let begun = Instant::now();
        loop {
            match std::fs::read_to_string(&file) {
                Ok(text) if text.ends_with('\n') => return Ok(text.trim().to_owned()),
                _ if begun.elapsed() > READY => bail!("{} has no token", file.display()),
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// Kills it as a power cut would, and starts it again on the same data.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn crash_and_restart(mut self, berth: &Path, flags: &[&str]) -> Result<Self> {
        self.process.kill()?;
        let directory = std::mem::replace(&mut self.directory, tempfile::tempdir()?);
        Self::start(berth, directory, flags).await
    }

    /// Ends it in peace and keeps what it wrote.
    ///
    /// # Errors
    /// When no temporary folder can be made.
    pub fn stop(mut self) -> Result<tempfile::TempDir> {
        Ok(std::mem::replace(&mut self.directory, tempfile::tempdir()?))
    }

    /// Leaves it running and its files in place; whoever takes them ends the process and removes the folder.
    #[must_use]
    pub fn leave(mut self) -> PathBuf {
        self.directory.disable_cleanup(true);
        let folder = self.directory.path().to_path_buf();
        std::mem::forget(self);
        folder
    }

    /// Where its data lies.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The process that serves now: another one after an upgrade.
    #[must_use]
    pub fn pid(&self) -> u32 {
        read_presence(&self.data().join("daemon.json")).map_or(self.process.id(), |found| found.pid)
    }

    /// Resident memory of the process that serves now, in bytes.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resident(&self) -> Result<u64> {
        Ok(process::resident_kib(self.pid()).context("the daemon does not run")? * 1024)
    }

    /// The end of what it wrote.
    #[must_use]
    pub fn log_tail(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("daemon.log"))
            .map(|log| tail(&log))
            .unwrap_or_default()
    }

    /// A request to the control plane with the admin token: status and answer.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn raw(&self, method: &str, path: &str, body: Option<(&str, &[u8])>) -> Result<(u16, Value)> {
        let url = format!("http://{}{path}", self.control);
        let mut request = self.client.request(method.parse()?, url).bearer_auth(&self.token);
        if let Some((kind, bytes)) = body {
            request = request.header("content-type", kind).body(bytes.to_vec());
        }
        let answer = request.send().await.with_context(|| format!("{method} {path}"))?;
        let status = answer.status().as_u16();
        Ok((status, answer.json().await.unwrap_or(Value::Null)))
    }

    /// A call with a JSON body that must succeed.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn call(&self, method: &str, path: &str, body: Value) -> Result<Value> {
        let bytes = serde_json::to_vec(&body)?;
        let (status, answer) = self.raw(method, path, Some(("application/json", &bytes))).await?;
        if status >= 300 {
            bail!("{method} {path} answered {status}: {answer}");
        }
        Ok(answer)
    }

    /// Waits until a deployment is over; an error if it is not live then.
    ///
    /// # Errors
    /// When it ends otherwise, or not within 10 minutes.
    pub async fn settled(&self, deployment: &str) -> Result<Value> {
        let path = format!("/v1/deployments/{}?wait_s=50", deployment.replace('#', "%23"));
        let begun = Instant::now();
        loop {
            let (status, detail) = self.raw("GET", &path, None).await?;
            match (detail["state"].as_str(), detail["settled"].as_bool()) {
                (Some("live"), Some(true)) => return Ok(detail),
                (Some(_), Some(false)) if begun.elapsed() < Duration::from_secs(600) => {}
                (state, _) => bail!("{deployment} is {state:?} ({status}): {}", detail["problem"]),
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The first process ends with its own guard; one that an upgrade started is nobody's child here.
        let pid = self.pid();
        let Some(other) =
            i32::try_from(pid).ok().filter(|_| pid != self.process.id()).and_then(Pid::from_raw)
        else {
            return;
        };
        let _ = kill_process(other, Signal::TERM);
        let begun = Instant::now();
        while Path::new(&format!("/proc/{pid}")).exists() {
            if begun.elapsed() > GONE {
                let _ = kill_process(other, Signal::KILL);
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn read_presence(path: &Path) -> Option<Presence> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn tail(log: &str) -> String {
    let from = log.len().saturating_sub(4000);
    log.get(from..).unwrap_or(log).to_owned()
}
