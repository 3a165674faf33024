//! Programs that run for a while: ended when dropped, read by `/proc`.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::program::program;

/// A program's time to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(3);

/// A running program. Dropped, it is asked to end, and killed if it does not.
#[derive(Debug)]
pub struct Program(Child);

impl Program {
    /// Starts it without input. Where its output goes is the caller's choice.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        Ok(Self(child))
    }

    /// Waits until it accepts connections.
    ///
    /// # Errors
    /// When it ended, or does not listen within 10 s.
    pub fn wait_for(&mut self, addr: SocketAddr) -> anyhow::Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(10) {
            self.still_runs()?;
            if TcpStream::connect_timeout(&addr, Duration::from_millis(200)).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("does not listen on {addr}")
    }

    /// Fails when it has ended.
    ///
    /// # Errors
    /// When it has ended; the error says how.
    pub fn still_runs(&mut self) -> anyhow::Result<()> {
        match self.0.try_wait()? {
            Some(status) => bail!("it ended by itself: {status}"),
            None => Ok(()),
        }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Ends it as a power cut would.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }

    /// CPU time of the program and its children, in seconds.
    #[must_use]
    pub fn cpu_seconds(&self) -> f64 {
        tree(self.id()).into_iter().filter_map(cpu_seconds).sum()
    }

    /// Resident memory of the program and its children, in KiB.
    #[must_use]
    pub fn resident_kib(&self) -> u64 {
        tree(self.id()).into_iter().filter_map(resident_kib).sum()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.id()).ok().and_then(Pid::from_raw) {
            // Already ended, or ends now.
            let _ = kill_process(pid, Signal::TERM);
        }
        let begun = Instant::now();
        while begun.elapsed() < GRACE {
            if matches!(self.0.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Resident memory of one process, in KiB; none if there is no such process.
#[must_use]
pub fn resident_kib(pid: u32) -> Option<u64> {
    status_kib(pid, "VmRSS")
}

/// What of [`resident_kib`] are pages of files, which the system takes back when memory is short.
#[must_use]
pub fn resident_files_kib(pid: u32) -> Option<u64> {
    status_kib(pid, "RssFile")
}

/// The most memory that one process ever had, in KiB.
#[must_use]
pub fn peak_kib(pid: u32) -> Option<u64> {
    status_kib(pid, "VmHWM")
}

/// A size of proc_pid_status(5), in KiB.
fn status_kib(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}

/// Processor time that one process took, in seconds.
#[must_use]
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    // Fields 14 and 15 of proc_pid_stat(5), in ticks of 10 ms, counted after the name in parentheses.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(ticks as f64 / 100.0)
}

fn tree(root: u32) -> Vec<u32> {
    let mut pids = vec![root];
    let mut at = 0;
    while let Some(pid) = pids.get(at).copied() {
        at += 1;
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        pids.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
    }
    pids
}

/// The output of a program that ends by itself.
///
/// # Errors
/// When it cannot be started or fails; the error has what it wrote to standard error.
pub fn output(name: &str, args: &[&str]) -> anyhow::Result<String> {
    let output = program(name)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {name}; is it installed?"))?;
    if !output.status.success() {
        let arguments = args.join(" ");
        bail!("{name} {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
