//! `berth`, as a person or a script types it.

use std::{ffi::OsStr, process::Stdio};

use serde_json::Value;

use super::daemon::Berth;

/// What a command printed and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// The one JSON value that it printed.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:#?}"))
    }

    /// Itself, if the command succeeded.
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:#?}");
        self
    }
}

impl Berth {
    /// A command of `berth` against this daemon, not yet started.
    pub(crate) fn command(&self) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(self.program());
        command
            .env("BERTH_URL", &self.control)
            .env("BERTH_TOKEN", &self.token)
            // Stored logins of whoever runs the tests play no part.
            .env("XDG_CONFIG_HOME", self.scratch("config"))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs a command to its end.
    pub(crate) async fn cli<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Ran {
        let output = self.command().args(arguments).output().await.unwrap();
        Ran {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
