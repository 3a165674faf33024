//! A Docker Engine of a test's own, which it may restart: the shared one has other users.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::eventually;

/// A second dockerd with its own data and socket, and a network namespace of its own: beside another one it would
/// take that one's bridge away.
pub(crate) struct OwnEngine {
    dir: tempfile::TempDir,
    net: u32,
    live_restore: bool,
    process: Option<Child>,
}

fn quiet(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|o| o.status.success())
}

/// A network namespace that this machine reaches by a route, for an engine's containers.
fn make_namespace(net: u32) -> bool {
    let (space, link) = (format!("bt{net}"), format!("vbt{net}"));
    let ip = |arguments: &str| quiet("ip", &arguments.split(' ').collect::<Vec<_>>());
    ip(&format!("netns add {space}"))
        && ip(&format!("link add {link} type veth peer name eth0 netns {space}"))
        && ip(&format!("addr add 10.216.{net}.1/30 dev {link}"))
        && ip(&format!("link set {link} up"))
        && ip(&format!("-n {space} addr add 10.216.{net}.2/30 dev eth0"))
        && ip(&format!("-n {space} link set eth0 up"))
        && ip(&format!("-n {space} link set lo up"))
        && ip(&format!("route add 10.215.{net}.0/24 via 10.216.{net}.2"))
}

fn remove_namespace(net: u32) {
    quiet("ip", &["link", "del", &format!("vbt{net}")]);
    quiet("ip", &["netns", "del", &format!("bt{net}")]);
}

impl OwnEngine {
    /// Starts one; none where that is not possible (it takes root). With `live_restore` its containers run on while
    /// it is restarted.
    pub(crate) async fn start(live_restore: bool) -> Option<Self> {
        let net = std::process::id() % 250;
        if !quiet("dockerd", &["--version"]) || !make_namespace(net) {
            remove_namespace(net);
            println!("skipped: no engine of the test's own can be started here");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("berth-engine-").tempdir().unwrap();
        let mut engine = Self { dir, net, live_restore, process: None };
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
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/var/run/netns/bt{}", self.net))
            .args(["dockerd", "--data-root", &self.path("root"), "--exec-root", &self.path("exec")])
            .args(["--host", &self.url(), "--pidfile", &self.path("pid"), "--iptables=false"])
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
        remove_namespace(self.net);
    }
}
