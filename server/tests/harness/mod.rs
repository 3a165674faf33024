//! A real daemon for a test: the built binary on free ports with a data directory of its own, and short words
//! for what people do with it.
//!
//! ```ignore
//! let berth = Berth::start().await;
//! let live = berth.deploy("express").await;
//! assert_eq!(berth.visit(&live.app, "/").await.status, 200);
//! ```
//!
//! Dropping a [`Berth`] kills the daemon and removes what it made in Docker, found by the label of its
//! installation and by nothing else.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::disallowed_methods, reason = "tests start the program under test")]

mod cli;
pub mod external;
mod rest;

use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::process::{Child, Command};

pub use cli::{Cli, CliOutput};
pub use rest::{Answer, Rest};

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_berth");
/// A Docker address where nothing answers.
const NO_DOCKER: &str = "unix:///nonexistent/docker.sock";

/// A running daemon.
pub struct Berth {
    home: tempfile::TempDir,
    child: Child,
    arguments: Vec<String>,
    roots: Option<PathBuf>,
    instance: String,
    uses_docker: bool,
    /// Base URL of the control plane.
    pub control_url: String,
    /// Base URL of the data plane.
    pub http_url: String,
    /// The admin token of the first start.
    pub token: String,
}

/// An app that was deployed.
#[derive(Debug, Clone)]
pub struct Live {
    /// Its name.
    pub app: String,
    /// The deployment, such as web#1.
    pub deployment: String,
    /// What `berth deploy --json` said.
    pub detail: Value,
}

impl Berth {
    /// A daemon that uses the machine's Docker, if there is one.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// A daemon that finds no Docker.
    pub async fn without_docker() -> Self {
        Self::without_docker_with(&[]).await
    }

    /// The same with more flags.
    pub async fn without_docker_with(flags: &[&str]) -> Self {
        Self::start_with(&[&["--docker-host", NO_DOCKER], flags].concat()).await
    }

    /// A daemon that finds no Docker, and trusts these certificates (PEM) where it fetches something, instead of those
    /// that the machine trusts.
    pub async fn trusting(roots: &Path, flags: &[&str]) -> Self {
        Self::begin(&[&["--docker-host", NO_DOCKER], flags].concat(), Some(roots)).await
    }

    /// A daemon with more flags.
    pub async fn start_with(flags: &[&str]) -> Self {
        Self::begin(flags, None).await
    }

    async fn begin(flags: &[&str], roots: Option<&Path>) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let data = home.path().join("data");
        let token_file = home.path().join("token");
        let mut arguments: Vec<String> =
            ["serve", "--control-addr", "127.0.0.1:0", "--min-free-disk-mb", "0"].map(String::from).into();
        if !flags.contains(&"--http-addr") {
            arguments.extend(["--http-addr", "127.0.0.1:0"].map(String::from));
        }
        arguments.extend(["--data-dir".into(), data.display().to_string()]);
        arguments.extend(["--token-file".into(), token_file.display().to_string()]);
        arguments.extend(flags.iter().map(|f| (*f).to_owned()));
        let roots = roots.map(Path::to_owned);
        let child = spawn(home.path(), &arguments, roots.as_deref());
        let mut berth = Self {
            home,
            child,
            arguments,
            roots,
            instance: String::new(),
            uses_docker: !flags.contains(&NO_DOCKER),
            control_url: String::new(),
            http_url: String::new(),
            token: String::new(),
        };
        berth.wait_until_ready().await;
        berth.token = std::fs::read_to_string(token_file).expect("the admin token").trim().to_owned();
        berth
    }

    async fn wait_until_ready(&mut self) {
        let file = self.data_dir().join("daemon.json");
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.child.try_wait().expect("the daemon's state") {
                panic!("the daemon ended with {status}:\n{}", self.log());
            }
            let told: Option<Value> = std::fs::read(&file).ok().and_then(|t| serde_json::from_slice(&t).ok());
            // A file of the process before may still be there.
            if let Some(told) = told.filter(|t| t["pid"].as_u64() == self.child.id().map(u64::from)) {
                let text = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
                self.control_url = text("control_url");
                self.http_url = text("http_url");
                self.instance = text("instance");
                if self.anonymous().get("/readyz").await.status == 200 {
                    return;
                }
            }
            assert!(Instant::now() < deadline, "the daemon is not ready:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// A directory for the test's own files.
    pub fn scratch(&self) -> &Path {
        self.home.path()
    }

    /// What the daemon wrote to its standard error.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("daemon.log")).unwrap_or_default()
    }

    /// Has the daemon stand still for ever at this place, such as `after:order_ready`, when it comes there.
    pub fn pause_at(&self, place: &str) {
        std::fs::write(self.home.path().join("pause"), place).expect("the order to stand still");
    }

    /// Waits until it stands still, and takes the order back for the daemon that comes next.
    pub async fn paused(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while std::fs::remove_file(self.home.path().join("pause.reached")).is_err() {
            assert!(Instant::now() < deadline, "the daemon never came there:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        std::fs::remove_file(self.home.path().join("pause")).expect("the order to stand still");
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("the daemon runs")
    }

    /// REST as the admin.
    pub fn rest(&self) -> Rest {
        self.rest_as(&self.token)
    }

    /// REST with this token.
    pub fn rest_as(&self, token: &str) -> Rest {
        Rest::new(&self.control_url, Some(token))
    }

    /// REST without a token.
    pub fn anonymous(&self) -> Rest {
        Rest::new(&self.control_url, None)
    }

    /// Makes a token with these scopes, limited to `projects` unless that is empty.
    pub async fn token(&self, name: &str, scopes: &[&str], projects: &[&str]) -> String {
        let body = json!({ "name": name, "scopes": scopes, "projects": projects });
        let answer = self.rest().post("/v1/tokens", body).await.ok();
        answer["secret"].as_str().expect("a secret").to_owned()
    }

    /// The command line as the admin: `berth.cli(["app", "list"]).await`.
    pub async fn cli<I, S>(&self, arguments: I) -> CliOutput
    where
        I: IntoIterator<Item = S>,
        S: AsRef<str>,
    {
        self.command().run(arguments).await
    }

    /// The command line, to be set up further.
    pub fn command(&self) -> Cli {
        Cli::new(self.home.path(), &self.control_url, &self.token)
    }

    /// Deploys one of the examples under its own name by the command line, and expects it to be live.
    pub async fn deploy(&self, example: &str) -> Live {
        self.deploy_folder(&example_dir(example), example).await
    }

    /// Deploys a folder as `app`, and expects it to be live.
    pub async fn deploy_folder(&self, folder: &Path, app: &str) -> Live {
        let folder = folder.display().to_string();
        let done = self.cli(["deploy", &folder, "--app", app, "--json"]).await;
        assert!(done.code == 0, "{app} is not live:\n{}\n{}\n{}", done.stdout, done.stderr, self.log());
        let detail = done.json();
        let deployment = detail["deployment"].as_str().expect("a deployment").to_owned();
        Live { app: app.to_owned(), deployment, detail }
    }

    /// Requests a path of an app, by its host name, through the data plane.
    pub async fn visit(&self, app: &str, path: &str) -> Answer {
        self.visitor(app).get(path).await
    }

    /// A visitor of an app, by its host name, through the data plane.
    pub fn visitor(&self, app: &str) -> Rest {
        Rest::new(&self.http_url, None).host(&format!("{app}.localhost"))
    }

    /// Sends SIGTERM and waits for the end.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.ended().await
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
        rustix::process::kill_process(pid, signal).expect("the signal to arrive");
    }

    /// Waits for the daemon's end.
    pub async fn ended(&mut self) -> ExitStatus {
        let ended = tokio::time::timeout(Duration::from_secs(60), self.child.wait()).await;
        ended.unwrap_or_else(|_| panic!("the daemon does not end:\n{}", self.log())).expect("its exit status")
    }

    /// Kills the daemon as a power cut would, and waits until it is gone.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("the daemon to be killed");
    }

    /// Starts the daemon again on the same data, after [`Self::kill`] or [`Self::terminate`].
    pub async fn start_again(&mut self) {
        self.child = spawn(self.home.path(), &self.arguments, self.roots.as_deref());
        self.wait_until_ready().await;
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        let _ = self.child.start_kill();
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        if std::thread::panicking() {
            eprintln!("--- the daemon's log ---\n{}", self.log());
        }
        if self.uses_docker && !self.instance.is_empty() {
            remove_from_docker(&self.instance);
        }
    }
}

fn spawn(home: &Path, arguments: &[String], roots: Option<&Path>) -> Child {
    let log =
        std::fs::File::options().create(true).append(true).open(home.join("daemon.log")).expect("a log file");
    Command::new(BINARY)
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("RUST_BACKTRACE", "1")
        .env("BERTH_TEST_PAUSE", home.join("pause"))
        .envs(roots.map(|roots| ("SSL_CERT_FILE", roots)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .expect("the daemon to start")
}

/// Folder of an example app.
pub fn example_dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../evals/examples").join(name)
}

/// Whether Docker answers. Without it a test says so and returns, unless `BERTH_TEST_REQUIRE_DOCKER` is set.
pub fn docker_or_skip() -> bool {
    let answers = std::process::Command::new("docker")
        .args(["version", "--format", "{{.Server.Version}}"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success());
    assert!(
        answers || std::env::var_os("BERTH_TEST_REQUIRE_DOCKER").is_none(),
        "Docker is required, and does not answer"
    );
    if !answers {
        println!("skipped: Docker does not answer");
    }
    answers
}

/// Removes containers, images and networks that carry the installation's label.
fn remove_from_docker(instance: &str) {
    let docker = |arguments: &[&str]| {
        let output = std::process::Command::new("docker").args(arguments).stderr(Stdio::null()).output();
        output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
    };
    let filter = format!("label=berth.instance={instance}");
    for (list, remove) in [
        (&["ps", "-aq"][..], &["rm", "-f", "-v"][..]),
        (&["images", "-q"], &["rmi", "-f"]),
        (&["network", "ls", "-q"], &["network", "rm"]),
    ] {
        let found = docker(&[list, &["--filter", &filter]].concat());
        let mut ids: Vec<&str> = found.split_whitespace().collect();
        ids.sort_unstable();
        ids.dedup();
        if !ids.is_empty() {
            docker(&[remove, &ids].concat());
        }
    }
}
