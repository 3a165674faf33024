//! A Docker Engine of a test's own, which it may restart: the shared one has other users.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::eventually;

/// A second dockerd with its own data, socket and bridge.
pub(crate) struct OwnEngine {
    dir: tempfile::TempDir,
    bridge: String,
    net: u32,
    live_restore: bool,
    process: Option<Child>,
}

fn quiet(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|o| o.status.success())
}

impl OwnEngine {
    /// Starts one; none where that is not possible (it takes root). With `live_restore` its containers run on while
    /// it is restarted.
    pub(crate) async fn start(live_restore: bool) -> Option<Self> {
        let net = std::process::id() % 250;
        // A bridge of its own: told to use none, a dockerd removes the one of its neighbour.
        let bridge = format!("brtest{net}");
        let address = format!("10.214.{net}.1/24");
        let made = quiet("ip", &["link", "add", &bridge, "type", "bridge"])
            && quiet("ip", &["addr", "add", &address, "dev", &bridge])
            && quiet("ip", &["link", "set", &bridge, "up"]);
        if !made || !quiet("dockerd", &["--version"]) {
            quiet("ip", &["link", "del", &bridge]);
            println!("skipped: no engine of the test's own can be started here");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("berth-engine-").tempdir().unwrap();
        let mut engine = Self { dir, bridge, net, live_restore, process: None };
        engine.run().await;
        Some(engine)
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// How a daemon is told of it.
    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.path("docker.sock"))
    }

    /// Starts the process and waits until it answers.
    pub(crate) async fn run(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("dockerd.log"))
            .unwrap();
        let mut command = Command::new("dockerd");
        command
            .args([
                "--data-root",
                &self.path("root"),
                "--exec-root",
                &self.path("exec"),
                "--host",
                &self.url(),
            ])
            .args(["--pidfile", &self.path("pid"), "--bridge", &self.bridge, "--iptables=false"])
            .args(["--default-address-pool", &format!("base=10.215.{}.0/24,size=28", self.net)])
            .arg(format!("--live-restore={}", self.live_restore))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.process = Some(command.spawn().unwrap());
        eventually("the engine's first answer", Duration::from_secs(40), async || {
            self.try_docker(&["version"]).is_some().then_some(())
        })
        .await;
    }

    /// Stops it as `systemctl stop docker` does.
    pub(crate) fn stop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        quiet("kill", &["-TERM", &process.id().to_string()]);
        let _ = process.wait();
    }

    /// Standard output of `docker …` with this engine.
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        self.try_docker(arguments).unwrap_or_else(|| panic!("docker {arguments:?} failed"))
    }

    fn try_docker(&self, arguments: &[&str]) -> Option<String> {
        let output = Command::new("docker").args(["--host", &self.url()]).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Brings an image of the shared engine here.
    pub(crate) fn load(&self, image: &str) {
        let file = self.path("image.tar");
        assert!(quiet("docker", &["save", "--output", &file, image]));
        self.docker(&["load", "--input", &file]);
        let _ = std::fs::remove_file(Path::new(&file));
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        if self.process.is_some() {
            for id in self.try_docker(&["ps", "--all", "--quiet"]).unwrap_or_default().lines() {
                self.try_docker(&["rm", "--force", "--volumes", id]);
            }
            for id in self
                .try_docker(&["network", "ls", "--quiet", "--filter", "type=custom"])
                .unwrap_or_default()
                .lines()
            {
                self.try_docker(&["network", "rm", id]);
            }
        }
        self.stop();
        quiet("ip", &["link", "del", &self.bridge]);
    }
}
