//! Berth's deploy pipeline: source → plan → build → start → check → switch → drain → retire.

pub mod docker;
pub mod probe;
