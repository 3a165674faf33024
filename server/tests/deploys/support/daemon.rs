//! A daemon of its own for each test: started from the built program, killed and swept when the test ends.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use super::docker;

/// Time in which a daemon must be ready.
const READY: Duration = Duration::from_secs(20);

/// How a daemon is started.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    flags: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self { flags: Vec::new() }.with("log-level", "info,berth_deploy=debug").with("min-free-disk-mb", "64")
    }
}

impl Options {
    /// With this setting, named as its flag.
    pub(crate) fn with(mut self, flag: &str, value: &str) -> Self {
        self.flags.retain(|(name, _)| name != flag);
        self.flags.push((flag.to_owned(), value.to_owned()));
        self
    }
}

/// A daemon with everything that it made.
pub(crate) struct Berth {
    process: Option<Child>,
    /// Processes that took over from it, the present one last; they are not this process's children.
    successors: Vec<u32>,
    options: Options,
    dir: TempDir,
    pub(crate) token: String,
    /// Its id, as on its labels.
    pub(crate) instance: String,
    pub(crate) control: String,
    pub(crate) http: SocketAddr,
    pub(crate) client: reqwest::Client,
}

impl Berth {
    /// A daemon with the usual settings.
    pub(crate) async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    /// A daemon with these settings.
    pub(crate) async fn start_with(options: Options) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::Builder::new().prefix("berth-deploys-").tempdir().unwrap();
        keep_program(dir.path());
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        let mut berth = Self {
            process: None,
            successors: Vec::new(),
            options,
            dir,
            token: String::new(),
            instance: String::new(),
            control: String::new(),
            http: SocketAddr::from(([127, 0, 0, 1], 0)),
            client,
        };
        berth.run().await;
        berth.token = berth.first_token().await;
        berth.instance = instance(&berth.data()).await;
        berth
    }

    /// The admin token of the first start. It is written a moment after the daemon is ready.
    async fn first_token(&self) -> String {
        let file = self.dir.path().join("token");
        super::eventually("the token", READY, async || {
            let text = std::fs::read_to_string(&file).ok()?;
            text.ends_with('\n').then(|| text.trim().to_owned())
        })
        .await
    }

    /// Starts the process and waits until it is ready. Returns how long that took.
    pub(crate) async fn run(&mut self) -> Duration {
        assert!(self.process.is_none(), "the daemon runs already");
        let presence = self.data().join("daemon.json");
        let _ = std::fs::remove_file(&presence);
        let log = File::options().create(true).append(true).open(self.dir.path().join("daemon.log")).unwrap();
        let mut command = Command::new(self.program());
        command
            .arg("serve")
            .args(["--control-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"])
            .arg("--data-dir")
            .arg(self.data())
            .arg("--token-file")
            .arg(self.dir.path().join("token"))
            .env_remove("BERTH_TOKEN")
            .env("BERTH_TEST_PAUSE", self.dir.path().join("pause"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        for (flag, value) in self.options.flags.iter().filter(|(flag, _)| flag != "data-dir") {
            command.arg(format!("--{flag}")).arg(value);
        }
        let begun = Instant::now();
        self.process = Some(command.spawn().expect("the daemon could not be started"));
        loop {
            assert!(begun.elapsed() < READY, "the daemon is not ready:\n{}", self.log());
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the daemon ended at its start ({ended:?}):\n{}", self.log());
            if let Some((control, http)) = read_presence(&presence) {
                (self.control, self.http) = (control, http);
                let ready = self.client.get(format!("{}/readyz", self.control)).send().await;
                if ready.is_ok_and(|r| r.status().is_success()) {
                    return begun.elapsed();
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends the daemon as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.adopt();
        let mut process = self.process.take().expect("the daemon does not run");
        let _ = process.kill();
        process.wait().unwrap();
        self.successors.drain(..).for_each(end);
    }

    /// Asks the daemon to hand over to the program that is installed now, and waits for the job's end.
    pub(crate) async fn upgrade(&mut self) -> Value {
        let job = self.post("/v1/platform/upgrade", serde_json::json!({})).await;
        let path = format!("/v1/jobs/{}", job["job"]["job"].as_str().unwrap());
        let job = super::eventually("the end of the upgrade", Duration::from_secs(120), async || {
            // Neither process may answer in the moment of the hand-over itself.
            let answer = self.request(reqwest::Method::GET, &path).send().await.ok()?;
            let job: Value = answer.json().await.ok()?;
            ["succeeded", "failed"].contains(&job["state"].as_str()?).then_some(job)
        })
        .await;
        self.adopt();
        job
    }

    /// Remembers who has taken over, whoever asked for it, so that it ends with this.
    fn adopt(&mut self) {
        if let Some(pid) = self.present()
            && self.process.as_ref().map(Child::id) != Some(pid)
            && !self.successors.contains(&pid)
            // A file that nobody took away may name another process by now.
            && std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.contains(&*self.dir.path().to_string_lossy()))
        {
            self.successors.push(pid);
        }
    }

    /// The process that says of itself that it is the daemon.
    pub(crate) fn pid(&self) -> u32 {
        self.present().unwrap()
    }

    fn present(&self) -> Option<u32> {
        let presence = std::fs::read(self.data().join("daemon.json")).ok()?;
        let presence: Value = serde_json::from_slice(&presence).ok()?;
        presence["pid"].as_u64()?.try_into().ok()
    }

    /// Installs another program in place of the daemon's, as an installer does: by renaming.
    pub(crate) fn install(&self, program: &Path) {
        let coming = self.dir.path().join("berth.coming");
        std::fs::copy(program, &coming).unwrap();
        std::fs::rename(coming, self.program()).unwrap();
    }

    /// From now on, who comes to this place (`before:switching`) stands still there; see `stall` in berth-deploy.
    pub(crate) fn pause_at(&self, place: &str) {
        let _ = std::fs::remove_file(self.dir.path().join("pause.reached"));
        std::fs::write(self.dir.path().join("pause"), place).unwrap();
    }

    /// Whether somebody stands still there.
    pub(crate) fn is_paused(&self) -> bool {
        self.dir.path().join("pause.reached").exists()
    }

    /// Nobody stands still any more, from the next start on.
    pub(crate) fn pause_nowhere(&self) {
        let _ = std::fs::remove_file(self.dir.path().join("pause"));
    }

    /// Rows of its store, read beside it: one number or text each.
    pub(crate) async fn rows(&self, sql: &'static str) -> Vec<String> {
        use sqlx::{ConnectOptions as _, Row as _};
        let file = self.data().join("berth.db");
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file).read_only(true);
        let mut database = options.connect().await.unwrap();
        let rows = sqlx::query(sql).fetch_all(&mut database).await.unwrap();
        rows.iter().map(|row| row.get::<String, _>(0)).collect()
    }

    /// Changes its store while it does not run, as time does.
    pub(crate) async fn execute(&self, sql: &'static str) {
        use sqlx::ConnectOptions as _;
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(self.data().join("berth.db"));
        let mut database = options.connect().await.unwrap();
        let done = sqlx::query(sql).execute(&mut database).await.unwrap();
        assert!(done.rows_affected() > 0, "{sql} changed nothing");
    }

    /// Changes a setting for the next start.
    pub(crate) fn set(&mut self, flag: &str, value: &str) {
        self.options = self.options.clone().with(flag, value);
    }

    /// Its data directory.
    pub(crate) fn data(&self) -> PathBuf {
        let set = self.options.flags.iter().find(|(flag, _)| flag == "data-dir");
        set.map_or_else(|| self.dir.path().join("data"), |(_, path)| path.into())
    }

    /// The directory of this test, for whatever else it needs.
    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// The program under test.
    pub(crate) fn program(&self) -> PathBuf {
        self.dir.path().join("berth")
    }

    /// Everything the daemon wrote.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("daemon.log")).unwrap_or_default()
    }

    /// Files and directories directly below a directory of the data directory.
    pub(crate) fn entries(&self, below: &str) -> Vec<String> {
        let read = std::fs::read_dir(self.data().join(below));
        let mut names: Vec<String> = read
            .into_iter()
            .flatten()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(6000);
            eprintln!("--- the end of the daemon's log\n{}", log.get(from..).unwrap_or(&log));
        }
        if !self.instance.is_empty() {
            docker::sweep(&self.instance);
        }
    }
}

/// Kills a process that is not a child, and waits until it is gone.
fn end(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let begun = Instant::now();
    while rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok() {
        // One that nobody waits for stays as a zombie; it holds nothing any more.
        let state =
            std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        if state.contains(") Z ") {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "the daemon {pid:?} does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Builds of other checkouts may replace the program while tests run, so each test keeps the one it began with.
/// `BERTH_TEST_PROGRAM` names another one, such as a release build.
fn keep_program(dir: &Path) {
    let built = std::env::var_os("BERTH_TEST_PROGRAM")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_berth")), PathBuf::from);
    let kept = dir.join("berth");
    if std::fs::hard_link(&built, &kept).is_err() {
        std::fs::copy(&built, &kept).unwrap();
    }
}

fn read_presence(path: &Path) -> Option<(String, SocketAddr)> {
    let presence: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let http = presence["http_url"].as_str()?.strip_prefix("http://")?.parse().ok()?;
    Some((presence["control_url"].as_str()?.to_owned(), http))
}

/// The id of the installation; nothing shows it, so it is read where it is kept.
async fn instance(data: &Path) -> String {
    use sqlx::{ConnectOptions as _, Row as _};
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(data.join("berth.db")).read_only(true);
    let mut database = options.connect().await.unwrap();
    let row = sqlx::query("SELECT instance FROM installation").fetch_one(&mut database).await.unwrap();
    row.get("instance")
}
