//! What benchmarks, soaks, releases and black-box tests share.

pub mod program;
pub mod release;
