//! What benchmarks, soaks, releases, exams and black-box tests share.

pub mod daemon;
#[path = "../harness/mod.rs"]
pub mod harness;
pub mod process;
pub mod program;
pub mod release;
pub mod wire;
