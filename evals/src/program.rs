//! Starting programs: the one place in this crate that does.
//!
//! Benchmarks, releases and black-box tests drive real programs. They are started by argument vector only, never
//! through a shell that would have to parse anything.

use std::{ffi::OsStr, process::Command};

/// A command for `program`, found on the PATH or by its path; arguments are added one by one.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "this module is the one that starts programs here")]
pub fn program(program: impl AsRef<OsStr>) -> Command {
    Command::new(program)
}
