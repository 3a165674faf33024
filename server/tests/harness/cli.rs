//! The command line in a word: `berth.cli(["app", "list"]).await`.

use std::{path::Path, process::Stdio, time::Duration};

use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, process::Command};

use super::BINARY;

/// A command line, to be run.
pub struct Cli {
    command: Command,
    input: Option<String>,
}

/// What it did.
#[derive(Debug)]
pub struct CliOutput {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Cli {
    pub(super) fn new(home: &Path, url: &str, token: &str) -> Self {
        let cli = Self::bare(home);
        cli.env("BERTH_URL", url).env("BERTH_TOKEN", token)
    }

    /// A command line of somebody who never logged in.
    pub fn bare(home: &Path) -> Self {
        let mut command = Command::new(BINARY);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", home)
            .env("XDG_CONFIG_HOME", home.join("config"))
            .env("XDG_DATA_HOME", home.join("share"))
            .current_dir(home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        Self { command, input: None }
    }

    /// With an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Without an environment variable.
    pub fn without(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// In this directory.
    pub fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// With this standard input.
    pub fn input(mut self, text: &str) -> Self {
        self.input = Some(text.to_owned());
        self
    }

    /// Runs it.
    pub async fn run<I, S>(mut self, arguments: I) -> CliOutput
    where
        I: IntoIterator<Item = S>,
        S: AsRef<str>,
    {
        self.command.args(arguments.into_iter().map(|a| a.as_ref().to_owned()));
        let mut child = self.command.spawn().expect("the command to start");
        let mut stdin = child.stdin.take().expect("its input");
        let text = self.input.unwrap_or_default();
        let feed = async move {
            let _ = stdin.write_all(text.as_bytes()).await;
        };
        let wait = async { tokio::join!(feed, child.wait_with_output()).1 };
        let output = tokio::time::timeout(Duration::from_secs(600), wait).await.expect("the command to end");
        let output = output.expect("its output");
        CliOutput {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl CliOutput {
    /// Itself, if the command worked.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Standard output as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("not JSON ({e}): {}", self.stdout))
    }
}
