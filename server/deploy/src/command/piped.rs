//! Programs that the caller talks to, and the end of whatever a program started.

use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::{Command, CommandError, Finished, PIPE_GRACE};

/// A program whose pipes are in the caller's hands. Dropping it kills the whole process group.
#[derive(Debug)]
pub struct Piped {
    /// Its standard input. Drop it to end that.
    pub stdin: Option<tokio::process::ChildStdin>,
    /// Its standard output.
    pub stdout: Option<tokio::process::ChildStdout>,
    pub(super) child: tokio::process::Child,
    pub(super) group: Group,
    pub(super) said: tokio::task::JoinHandle<String>,
    pub(super) started: Instant,
    pub(super) command: Command,
}

impl Piped {
    /// Ends its input, drops what it still prints, and waits for its end. Returns also what it wrote to its
    /// standard error.
    ///
    /// # Errors
    /// [`CommandError`] when it took too long since its start, or was cancelled.
    pub async fn finish(mut self, cancel: &CancellationToken) -> Result<(Finished, String), CommandError> {
        drop(self.stdin.take());
        let stdout = self.stdout.take();
        let rest = async {
            if let Some(mut stdout) = stdout {
                let _ = tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await;
            }
        };
        let program = self.command.name();
        let limit = self.command.timeout;
        let ended = async {
            let ((), status) = tokio::join!(rest, self.child.wait());
            status
        };
        let status = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(CommandError::Cancelled { program }),
            () = tokio::time::sleep(limit.saturating_sub(self.started.elapsed())) => {
                return Err(CommandError::TimedOut { program, limit });
            }
            status = ended => status.map_err(|source| self.command.io(source))?,
        };
        let said = tokio::time::timeout(PIPE_GRACE, &mut self.said).await;
        if said.is_ok() {
            self.group.disarm();
        }
        let said = said.ok().and_then(Result::ok).unwrap_or_default();
        Ok((Finished { code: status.code(), took: self.started.elapsed() }, said))
    }
}

/// Kills the process group of a child on drop, unless disarmed.
#[derive(Debug)]
pub(super) struct Group(Option<rustix::process::Pid>);

impl Group {
    pub(super) fn of(child: &tokio::process::Child) -> Self {
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        Self(pid.and_then(rustix::process::Pid::from_raw))
    }

    /// The whole group has ended; its number may soon belong to somebody else.
    pub(super) fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // An error means that nobody is left in the group, which is what is wanted.
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}
