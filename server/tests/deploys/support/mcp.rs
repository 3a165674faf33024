//! MCP by the unmodified Python client, from PyPI, in a virtual environment of the tests' own.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::Value;
use tokio::process::Command;

use super::daemon::Berth;

/// The client's version: one that speaks both eras of the protocol.
const CLIENT: &str = "mcp==2.3.0";
const DRIVER: &str = include_str!("mcp_driver.py");

/// A Python that has the client; none, after saying so, where it cannot be had. `BERTH_TEST_PYTHON` names one.
pub(crate) async fn python() -> Option<PathBuf> {
    if let Some(given) = std::env::var_os("BERTH_TEST_PYTHON") {
        return Some(given.into());
    }
    // Beside the test's own program, so that it is made once and goes with `cargo clean`.
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mcp-client-2.3.0");
    let python = home.join("bin/python");
    if home.join("complete").is_file() {
        return Some(python);
    }
    match make(&home, &python).await {
        Ok(()) => Some(python),
        Err(why) => {
            assert!(std::env::var_os("BERTH_TEST_REQUIRE_MCP_CLIENT").is_none(), "{why}");
            println!("skipped: the Python MCP client cannot be installed: {why}");
            None
        }
    }
}

async fn make(home: &Path, python: &Path) -> Result<(), String> {
    // Tests run in processes of their own: the first one makes it, the others wait.
    std::fs::create_dir_all(home.parent().unwrap()).map_err(|e| e.to_string())?;
    let lock = std::fs::File::create(home.with_extension("lock")).map_err(|e| e.to_string())?;
    tokio::task::spawn_blocking(move || lock.lock().map(|()| lock))
        .await
        .unwrap()
        .map_err(|e| e.to_string())?;
    if home.join("complete").is_file() {
        return Ok(());
    }
    succeed(Command::new("python3").args(["-m", "venv"]).arg(home)).await?;
    succeed(Command::new(python).args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        CLIENT,
    ]))
    .await?;
    std::fs::write(home.join("complete"), "").map_err(|e| e.to_string())
}

async fn succeed(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().await.map_err(|e| e.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or("no reason given").to_owned())
}

/// How the client reaches the daemon.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    /// Streamable HTTP, in the era that the client chooses.
    Http,
    /// Streamable HTTP, in the era with `initialize`.
    LegacyHttp,
    /// `berth mcp` on standard input and output.
    Bridge,
}

/// Runs a list of calls, one after the other; each step is `{"tool": …, "arguments": …}` or `{"method": …}`.
/// Returns what each step gave.
pub(crate) async fn run(berth: &Berth, python: &Path, way: Way, steps: &Value) -> Vec<Value> {
    let mut command = Command::new(python);
    command
        .args(["-c", DRIVER])
        .env("STEPS", steps.to_string())
        .env("BERTH_URL", &berth.control)
        .env("BERTH_TOKEN", &berth.token)
        .env("XDG_CONFIG_HOME", berth.scratch("config"))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    match way {
        Way::Http => command.env("WAY", "http"),
        Way::LegacyHttp => command.env("WAY", "legacy"),
        Way::Bridge => command.env("WAY", "stdio").env("PROGRAM", berth.program()),
    };
    let output = tokio::time::timeout(Duration::from_secs(300), command.output())
        .await
        .expect("the MCP client does not end")
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "the MCP client failed:\n{out}\n{err}");
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}\n{err}"))
}
