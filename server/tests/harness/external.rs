//! Programs and clients that Berth did not write, for tests against them: a Node that is new enough, npm packages
//! and Python packages, each at the version that a test names.
//!
//! They are installed once, outside the checkout, under `$XDG_CACHE_HOME/berth` (or `~/.cache/berth`): `npm/` and
//! `venv/`, one directory per set of packages. A file lock keeps test processes from installing the same set twice at
//! once, and a set counts only when it is complete. Where npm, Python or the registry is not there, a test says so and
//! returns, unless `BERTH_TEST_REQUIRE_EXTERNAL` is set, as `.ci/test` does where both registries answer: a client that
//! cannot be installed then has to be looked at. A browser comes from neither, and its tests say where there is none.
//!
//! ```ignore
//! let Some(suite) = external::npm_or_skip(&["@modelcontextprotocol/conformance@0.2.0-alpha.12"]) else { return };
//! let ran = suite.command("conformance").args(["server", "--url", &url]).output().await;
//! let Some(venv) = external::python_or_skip(&["mcp==2.3.0"]) else { return };
//! let ran = venv.command().args(["-c", SCRIPT, &url]).output().await;
//! ```

use std::{
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command as Blocking, Stdio},
};

use sha2::{Digest as _, Sha256};
use tokio::process::Command;

/// Oldest major version of Node that newer tools run on.
const NODE: u32 = 22;
/// Written into a set's directory last.
const COMPLETE: &str = ".complete";

/// A directory with npm packages, and the Node to run them with.
#[derive(Debug, Clone)]
pub struct Npm {
    /// The directory that holds `node_modules`.
    pub dir: PathBuf,
    /// The program `node`.
    pub node: PathBuf,
}

/// A Python environment of its own.
#[derive(Debug, Clone)]
pub struct Venv {
    /// Its directory.
    pub dir: PathBuf,
}

impl Npm {
    /// A program that one of the packages brings, such as `conformance`.
    pub fn command(&self, program: &str) -> Command {
        self.script(&self.dir.join("node_modules/.bin").join(program))
    }

    /// A script, run with this Node; it finds the packages if it lies below [`Self::dir`] or asks for them by path.
    pub fn script(&self, script: &Path) -> Command {
        let mut command = Command::new(&self.node);
        command
            .arg(script)
            .env("PATH", with_first(self.node.parent()))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// A module given as text: written beside the packages, so that it can import them by name.
    pub fn module(&self, text: &str) -> Command {
        let file = self.dir.join(format!("test-{}.mjs", digest(text.as_bytes())));
        write_whole(&file, text).expect("the module to be written");
        self.script(&file)
    }
}

impl Venv {
    /// Its `python`.
    pub fn command(&self) -> Command {
        self.program("python")
    }

    /// A program that one of the packages brings.
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.dir.join("bin").join(name));
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }
}

/// These npm packages, each with its version (`name@1.2.3`), or the word that they are skipped.
pub fn npm_or_skip(packages: &[&str]) -> Option<Npm> {
    or_skip(npm(packages), required())
}

/// These Python packages, each with its version (`name==1.2.3`), or the word that they are skipped.
pub fn python_or_skip(packages: &[&str]) -> Option<Venv> {
    or_skip(python(packages), required())
}

/// Chromium, or the word that the test is skipped.
pub fn chromium_or_skip() -> Option<Chromium> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = names.into_iter().find_map(on_path).map(Chromium);
    or_skip(found.ok_or_else(|| "there is no Chromium".into()), false)
}

/// A browser without a window.
#[derive(Debug, Clone)]
pub struct Chromium(PathBuf);

impl Chromium {
    /// Opens a page and stays on it until the child is dropped. `profile` is a folder of its own, and not there yet.
    pub fn open(&self, url: &str, profile: &Path) -> tokio::process::Child {
        let flags = [
            "--headless",
            // It would want a kernel's help that root in a container does not get.
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ];
        Command::new(&self.0)
            .args(flags)
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("Chromium to start")
    }
}

fn required() -> bool {
    std::env::var_os("BERTH_TEST_REQUIRE_EXTERNAL").is_some()
}

fn or_skip<T>(found: Result<T, String>, required: bool) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(why) if required => panic!("foreign programs are required: {why}"),
        Err(why) => {
            println!("skipped: {why}");
            None
        }
    }
}

/// Installs npm packages, if they are not yet.
fn npm(packages: &[&str]) -> Result<Npm, String> {
    let node = node()?;
    let path = with_first(node.parent());
    let dir = installed("npm", packages, |dir| {
        // Packages of tests have nothing to run at installation, and should not.
        let arguments = ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--save-exact"];
        let mut command = Blocking::new("npm");
        command.args(arguments).arg("--prefix").arg(dir).args(packages).env("PATH", &path);
        run(command)
    })?;
    Ok(Npm { dir, node })
}

/// Makes a Python environment, if it is not there yet.
fn python(packages: &[&str]) -> Result<Venv, String> {
    let dir = installed("venv", packages, |dir| {
        let mut venv = Blocking::new("python3");
        venv.args(["-m", "venv"]).arg(dir);
        run(venv)?;
        let mut pip = Blocking::new(dir.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(packages);
        run(pip)
    })?;
    Ok(Venv { dir })
}

/// A Node that is new enough: the machine's, or one from npm, which packs Node itself as a package.
fn node() -> Result<PathBuf, String> {
    if let Some(own) = on_path("node").filter(|n| major(n).is_some_and(|v| v >= NODE)) {
        return Ok(own);
    }
    let system = match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    };
    let machine = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => return Err(format!("npm has no Node for {other}")),
    };
    let package = format!("node-{system}-{machine}");
    let wanted = format!("{package}@{NODE}");
    let dir = installed("npm", &[&wanted], |dir| {
        let mut command = Blocking::new("npm");
        command
            .args(["install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix"])
            .arg(dir)
            .arg(&wanted);
        run(command)
    })?;
    let node = dir.join("node_modules").join(package).join("bin/node");
    major(&node).filter(|v| *v >= NODE).map(|_| node).ok_or_else(|| format!("{wanted} from npm does not run"))
}

/// The directory of a set of packages; `install` fills it if it is not complete.
fn installed(
    kind: &str,
    packages: &[&str],
    install: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<PathBuf, String> {
    let said = |what: &str, path: &Path, e: &std::io::Error| format!("{what} {}: {e}", path.display());
    let root = cache().ok_or("neither XDG_CACHE_HOME nor HOME is set")?.join("berth").join(kind);
    fs::create_dir_all(&root).map_err(|e| said("cannot make", &root, &e))?;
    let mut set = packages.to_vec();
    set.sort_unstable();
    let name = digest(set.join(" ").as_bytes());
    let dir = root.join(&name);
    let path = root.join(format!("{name}.lock"));
    let lock = File::create(&path).map_err(|e| said("cannot open", &path, &e))?;
    // Held until the end of this function; whoever waited finds the set complete.
    lock.lock().map_err(|e| said("cannot lock", &path, &e))?;
    let mark = dir.join(COMPLETE);
    if mark.exists() {
        return Ok(dir);
    }
    if dir.exists() {
        fs::remove_dir_all(&dir).map_err(|e| said("cannot remove", &dir, &e))?;
    }
    fs::create_dir_all(&dir).map_err(|e| said("cannot make", &dir, &e))?;
    install(&dir).map_err(|why| format!("{} could not be installed: {why}", set.join(", ")))?;
    fs::write(&mark, set.join("\n")).map_err(|e| said("cannot write", &mark, &e))?;
    Ok(dir)
}

/// Runs an installer to its end.
fn run(mut command: Blocking) -> Result<(), String> {
    let program = command.get_program().display().to_string();
    let output =
        command.stdin(Stdio::null()).output().map_err(|e| format!("{program} cannot be started: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    Err(format!(
        "{program} ended with {}: {}",
        output.status,
        lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
    ))
}

fn major(node: &Path) -> Option<u32> {
    let output = Blocking::new(node).arg("--version").stdin(Stdio::null()).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().strip_prefix('v')?.split('.').next()?.parse().ok()
}

fn on_path(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// The search path with a directory before all others.
fn with_first(dir: Option<&Path>) -> OsString {
    let old = std::env::var_os("PATH").unwrap_or_default();
    let dirs = dir.map(Path::to_owned).into_iter().chain(std::env::split_paths(&old));
    std::env::join_paths(dirs).unwrap_or(old)
}

fn cache() -> Option<PathBuf> {
    let named = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    named.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
}

/// Writes a file so that nobody sees half of it: other test processes may write the same.
fn write_whole(file: &Path, text: &str) -> std::io::Result<()> {
    let mut new = tempfile::NamedTempFile::new_in(file.parent().unwrap_or(Path::new(".")))?;
    std::io::Write::write_all(&mut new, text.as_bytes())?;
    new.persist(file)?;
    Ok(())
}

/// A short name for these bytes.
fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).map(|b| format!("{b:02x}")).collect()
}
