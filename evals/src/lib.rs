//! What benchmarks, soaks, releases and black-box tests share.

pub mod daemon;
pub mod process;
pub mod program;
pub mod release;
