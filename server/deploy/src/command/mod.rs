//! Starting programs: the one module of Berth that may.
//!
//! A program is started by an argument vector, never by a command line, with an environment that is empty but
//! for a short allow-list and what the caller sets. It gets a process group of its own, so that a cancelled or
//! timed out `git fetch` takes its helpers (`git-remote-https`, `ssh`, `index-pack`) with it. What it prints
//! comes out line by line while it runs; a carriage return ends a line too, because progress meters use it.
//!
//! Not here: what to run and what its output means. Callers (git, and nothing else so far) decide that.

mod lines;
mod piped;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use lines::LineSplitter;
use lines::read_lines;
use piped::Group;
pub use piped::Piped;

/// Variables of the daemon's own environment that a started program may see: where programs are, how to
/// reach the outside through the operator's proxy, and which authorities to trust.
const INHERITED: &[&str] = &[
    "PATH",
    "TZ",
    "TMPDIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
];

/// How long to wait for the pipes to close after the program itself has ended, before what it left behind in
/// its process group is killed.
const PIPE_GRACE: Duration = Duration::from_secs(2);

/// Bytes of a piped program's standard error that are kept.
const MAX_SAID: usize = 64 << 10;

/// A program to start, with everything it gets.
#[derive(Clone)]
pub struct Command {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: Option<PathBuf>,
    input: Option<Vec<u8>>,
    timeout: Duration,
    max_line: usize,
}

/// One line of output, without its line end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputLine {
    /// From standard output.
    Stdout(String),
    /// From standard error.
    Stderr(String),
}

/// How a program ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// The exit code; `None` when a signal ended the program.
    pub code: Option<i32>,
    /// Wall-clock time from start to end.
    pub took: Duration,
}

impl Finished {
    /// True when the program ended with exit code 0.
    pub fn success(self) -> bool {
        self.code == Some(0)
    }
}

/// A program ended by itself; with all it printed, as [`Command::capture`] gathers it.
#[derive(Debug, Clone)]
pub struct Captured {
    /// How it ended.
    pub finished: Finished,
    /// Standard output; lines joined by `\n`.
    pub stdout: String,
    /// Standard error; lines joined by `\n`.
    pub stderr: String,
}

/// Why a program did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is no such program in `PATH`.
    #[error("the program {program:?} is not installed, or not in PATH")]
    NotInstalled {
        /// Its name as it was asked for.
        program: String,
    },
    /// The operating system refused to start or to wait for it.
    #[error("the program {program:?} could not be run: {source}")]
    Io {
        /// Its name as it was asked for.
        program: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It ran longer than it may and was killed with its process group.
    #[error("{program:?} was stopped after {} s, the longest it may take", limit.as_secs())]
    TimedOut {
        /// Its name as it was asked for.
        program: String,
        /// The limit it ran into.
        limit: Duration,
    },
    /// The caller cancelled; it was killed with its process group.
    #[error("{program:?} was cancelled")]
    Cancelled {
        /// Its name as it was asked for.
        program: String,
    },
}

impl Command {
    /// A program by name (looked up in `PATH`) or path, with no arguments, a limit of 10 minutes and lines cut
    /// at 4096 bytes.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            dir: None,
            input: None,
            timeout: Duration::from_secs(600),
            max_line: 4096,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets one variable of its environment, over an inherited one of that name.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The directory it starts in.
    #[must_use]
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = Some(dir.as_ref().to_owned());
        self
    }

    /// What it reads from its standard input, instead of nothing.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// The longest it may run, wall-clock.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The longest line handed on, in bytes; the rest of a longer one is dropped and `…` says so.
    #[must_use]
    pub fn max_line(mut self, bytes: usize) -> Self {
        self.max_line = bytes.max(1);
        self
    }

    /// Starts it as a process that outlives this one: with this one's whole environment, its output where this
    /// one's goes, and `stdin` as its standard input. Nothing ends it but itself and the caller.
    ///
    /// # Errors
    /// [`CommandError`] when it could not start.
    pub fn release(&self, stdin: std::os::fd::OwnedFd) -> Result<tokio::process::Child, CommandError> {
        #[expect(clippy::disallowed_methods, reason = "this is the module that may")]
        let mut command = tokio::process::Command::new(&self.program);
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value))).stdin(stdin);
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command.kill_on_drop(false).spawn().map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => CommandError::NotInstalled { program: self.name() },
            _ => self.io(source),
        })
    }

    /// Runs it to its end and hands each line to `sink` as it comes. An exit code other than 0 is no error here.
    ///
    /// Dropping the future kills the whole process group, as cancelling and running out of time do.
    ///
    /// # Errors
    /// [`CommandError`] when it could not start, took too long, or was cancelled.
    pub async fn run(
        &self,
        cancel: &CancellationToken,
        sink: &mut (dyn FnMut(OutputLine) + Send),
    ) -> Result<Finished, CommandError> {
        let started = Instant::now();
        let mut child = self.spawn(self.input.is_some())?;
        let mut group = Group::of(&child);
        // The readers' handles end with the pipes, or are aborted with the set when this future is dropped.
        let mut readers = tokio::task::JoinSet::new();
        let (sender, mut lines) = mpsc::channel(64);
        if let Some(out) = child.stdout.take() {
            readers.spawn(read_lines(out, self.max_line, OutputLine::Stdout, sender.clone()));
        }
        if let Some(err) = child.stderr.take() {
            readers.spawn(read_lines(err, self.max_line, OutputLine::Stderr, sender.clone()));
        }
        drop(sender);
        if let (Some(mut to), Some(input)) = (child.stdin.take(), self.input.clone()) {
            readers.spawn(async move {
                // A program that wants no more says so by its end.
                let _ = to.write_all(&input).await;
            });
        }

        let deadline = tokio::time::sleep(self.timeout);
        tokio::pin!(deadline);
        let mut open = true;
        let status = loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(CommandError::Cancelled { program: self.name() }),
                () = &mut deadline => {
                    return Err(CommandError::TimedOut { program: self.name(), limit: self.timeout });
                }
                line = lines.recv(), if open => match line {
                    Some(line) => sink(line),
                    None => open = false,
                },
                status = child.wait() => break status.map_err(|source| self.io(source))?,
            }
        };
        // The program is gone. Once its pipes are closed nobody of its group can be talking to us; a helper that
        // still holds one after the grace is what the armed `group` is there to kill.
        let rest = async {
            while let Some(line) = lines.recv().await {
                sink(line);
            }
        };
        tokio::select! {
            () = rest => group.disarm(),
            () = tokio::time::sleep(PIPE_GRACE) => {}
            () = cancel.cancelled() => return Err(CommandError::Cancelled { program: self.name() }),
        }
        Ok(Finished { code: status.code(), took: started.elapsed() })
    }

    /// Runs it to its end and keeps what it printed, at most `max_bytes` of each stream.
    ///
    /// # Errors
    /// As [`Command::run`].
    pub async fn capture(
        &self,
        cancel: &CancellationToken,
        max_bytes: usize,
    ) -> Result<Captured, CommandError> {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        let mut keep = |line: OutputLine| {
            let (text, line) = match &line {
                OutputLine::Stdout(line) => (&mut stdout, line),
                OutputLine::Stderr(line) => (&mut stderr, line),
            };
            if text.len() + line.len() < max_bytes {
                if !text.is_empty() {
                    text.push('\n');
                }
                text.push_str(line);
            }
        };
        let finished = self.run(cancel, &mut keep).await?;
        Ok(Captured { finished, stdout, stderr })
    }

    /// Starts it with its pipes in the caller's hands: for programs that take or give more than lines.
    ///
    /// # Errors
    /// [`CommandError`] when it could not start.
    pub fn pipe(&self) -> Result<Piped, CommandError> {
        let mut child = self.spawn(true)?;
        let group = Group::of(&child);
        let stderr = child.stderr.take();
        let max_line = self.max_line;
        let said = tokio::spawn(async move {
            let Some(stderr) = stderr else { return String::new() };
            let (sender, mut lines) = mpsc::channel(64);
            let mut said = String::new();
            let gather = async {
                while let Some(OutputLine::Stderr(line) | OutputLine::Stdout(line)) = lines.recv().await {
                    if said.len() + line.len() < MAX_SAID {
                        said.push_str(&line);
                        said.push('\n');
                    }
                }
            };
            tokio::join!(read_lines(stderr, max_line, OutputLine::Stderr, sender), gather);
            said
        });
        Ok(Piped {
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            child,
            group,
            said,
            started: Instant::now(),
            command: self.clone(),
        })
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "this is the one module that may start programs: by argv, in a group of their own"
    )]
    fn spawn(&self, takes_input: bool) -> Result<tokio::process::Child, CommandError> {
        let mut command = tokio::process::Command::new(&self.program);
        command
            .args(&self.args)
            .env_clear()
            .envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .env("LC_ALL", "C.UTF-8")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(if takes_input { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command.spawn().map_err(|source| match source.kind() {
            // A missing working directory reports the same kind: only blame the program when the directory is there.
            std::io::ErrorKind::NotFound if self.dir.as_deref().is_none_or(Path::is_dir) => {
                CommandError::NotInstalled { program: self.name() }
            }
            _ => self.io(source),
        })
    }

    fn name(&self) -> String {
        self.program.to_string_lossy().into_owned()
    }

    fn io(&self, source: std::io::Error) -> CommandError {
        CommandError::Io { program: self.name(), source }
    }
}

/// The values of the environment may be secrets: only names are shown.
impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.env.iter().map(|(name, _)| name).collect();
        f.debug_struct("Command")
            .field("program", &self.program)
            .field("args", &self.args)
            .field("env", &names)
            .field("dir", &self.dir)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
