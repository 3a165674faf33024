//! A machine in a directory: a prefix to install below, a web server with releases, and free ports.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use berth_evals::{program::program, release::Release};
use serde_json::Value;
use tempfile::TempDir;

/// The checkout.
pub(crate) fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("evals is in the checkout").to_owned()
}

pub(crate) fn script() -> PathBuf {
    checkout().join("deploy.sh")
}

/// Whether a program that a test cannot do without is there; says so where it is not.
pub(crate) fn needs(name: &str) -> bool {
    let there = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .any(|dir| dir.join(name).is_file());
    if !there {
        println!("skipped: {name} is not installed");
    }
    there
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}

/// What one run of the script did.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) ok: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    pub(crate) fn new(output: Output) -> Self {
        Self {
            ok: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The line for programs, which must be the last.
    pub(crate) fn line(&self) -> Value {
        let last = self.stdout.lines().last().unwrap_or_default();
        let json = last.strip_prefix("BERTH_INSTALL ").unwrap_or_else(|| panic!("no last line: {self:#?}"));
        serde_json::from_str(json).unwrap_or_else(|e| panic!("{e}: {json}"))
    }

    pub(crate) fn status(&self) -> String {
        self.line()["status"].as_str().unwrap_or_default().to_owned()
    }
}

pub(crate) struct World {
    folder: TempDir,
    requests: Arc<AtomicUsize>,
    base_url: String,
    pub(crate) http_port: u16,
    pub(crate) control_port: u16,
}

impl World {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let releases = folder.path().join("releases");
        fs::create_dir(&releases).expect("releases");
        let requests = Arc::new(AtomicUsize::new(0));
        let base_url = serve(releases, Arc::clone(&requests));
        let world = Self { folder, requests, base_url, http_port: free_port(), control_port: free_port() };
        world.fact("etc/os-release", "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n");
        world.fact("proc/meminfo", "MemTotal:        4011512 kB\n");
        world
    }

    /// A file that tells the script about the machine.
    pub(crate) fn fact(&self, path: &str, text: &str) {
        let path = self.prefix().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
        fs::write(path, text).expect("fact");
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn prefix(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.prefix().join("var/lib/berth")
    }

    pub(crate) fn releases(&self) -> PathBuf {
        self.folder.path().join("releases")
    }

    /// Requests that the release server has seen.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Publishes a stand-in as the newest version. Modes: `good`, `mute`, `crash`, `cannot-run`.
    pub(crate) fn publish(&self, version: &str, mode: &str) -> PathBuf {
        let files = BTreeMap::from([
            ("berth".to_owned(), stand_in(version, mode)),
            ("LICENSE-MIT".to_owned(), b"MIT".to_vec()),
            ("README.md".to_owned(), b"Berth".to_vec()),
        ]);
        let release = Release {
            version: version.into(),
            arch: std::env::consts::ARCH.into(),
            epoch: 0,
            level: 1,
            files,
        };
        release.write(&self.releases()).expect("release").archive
    }

    /// The script with this world's prefix, ports and server.
    pub(crate) fn script(&self, arguments: &[&str]) -> Command {
        let mut command = self.bare_script(&script());
        command.arg("--prefix").arg(self.prefix()).args(arguments);
        command
    }

    fn bare_script(&self, path: &Path) -> Command {
        let mut command = program("sh");
        command.arg(path).stdin(Stdio::null()).current_dir(self.path());
        self.environment(&mut command);
        command
    }

    /// No engine, no settings of the person who runs the tests, and little patience.
    pub(crate) fn environment(&self, command: &mut Command) {
        command.env("BERTH_BASE_URL", &self.base_url).env("BERTH_INSTALL_WAIT_S", "10");
        command.env("DOCKER_HOST", "unix:///nonexistent/docker.sock").env("HOME", self.path());
        for name in ["XDG_DATA_HOME", "XDG_CONFIG_HOME", "BERTH_DATA_DIR", "BERTH_CONFIG"] {
            command.env_remove(name);
        }
    }

    pub(crate) fn install(&self, arguments: &[&str]) -> Outcome {
        let (http, control) = (self.http_port.to_string(), self.control_port.to_string());
        let https = free_port().to_string();
        let mut command = self.script(&["--no-docker", "--bind", "127.0.0.1"]);
        command.args(["--http-port", &http, "--https-port", &https, "--control-port", &control]);
        Outcome::new(command.args(arguments).output().expect("sh"))
    }

    pub(crate) fn uninstall(&self, arguments: &[&str]) -> Outcome {
        Outcome::new(self.script(&["--uninstall"]).args(arguments).output().expect("sh"))
    }

    pub(crate) fn try_run(&self, arguments: &[&str]) -> Outcome {
        Outcome::new(
            self.bare_script(&script()).args(["--try", "--no-docker"]).args(arguments).output().expect("sh"),
        )
    }

    /// Version that the installed program says it is.
    pub(crate) fn installed(&self) -> String {
        let output = program(self.prefix().join("usr/local/bin/berth")).arg("--version").output();
        output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> String {
        fs::read_to_string(self.prefix().join("run/berth/berth.pid")).unwrap_or_default().trim().to_owned()
    }

    /// Whether `GET path` on a port answers 200.
    pub(crate) fn answers(&self, port: u16, path: &str) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
        let _ = write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).is_ok() && line.contains(" 200")
    }

    /// Every file below the prefix with its content.
    pub(crate) fn tree(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut out = BTreeMap::new();
        let mut folders = vec![self.prefix()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path.clone());
                }
                out.insert(path.clone(), fs::read(&path).unwrap_or_default());
            }
        }
        out
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.prefix().join("run/berth/berth.pid").exists() {
            self.uninstall(&[]);
        }
        let trial = self.path().join("trial");
        if trial.join("berth.pid").exists() {
            self.try_run(&["--stop", "--data-dir", &trial.to_string_lossy()]);
        }
    }
}

/// The stand-in's bytes with version and mode at their end.
pub(crate) fn stand_in(version: &str, mode: &str) -> Vec<u8> {
    let mut bytes = fs::read(env!("CARGO_BIN_EXE_berth-stand-in")).expect("the stand-in");
    bytes.extend(format!("\n#stand-in {version} {mode}\n").bytes());
    bytes
}

/// Serves a folder's files from a thread that ends with the process; returns its URL.
fn serve(folder: PathBuf, requests: Arc<AtomicUsize>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            requests.fetch_add(1, Ordering::SeqCst);
            let _ = answer(stream, &folder);
        }
    });
    url
}

fn answer(mut stream: TcpStream, folder: &Path) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or("/").trim_start_matches('/').to_owned();
    while reader.read_line(&mut line)? > 2 {}
    let (status, body) = match fs::read(folder.join(path)) {
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", Vec::new()),
    };
    write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len())?;
    stream.write_all(&body)
}
