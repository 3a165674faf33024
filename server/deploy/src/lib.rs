//! Berth's deploy pipeline: source → plan → build → start → check → switch → drain → retire.

pub mod command;
pub mod docker;
pub mod plan;
pub mod probe;
pub mod source;
