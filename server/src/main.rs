//! The `berth` binary: the daemon and its command line in one.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    berth::cli::run(std::env::args_os())
}
