//! The exam: worlds, tasks, agents that do them, and verdicts. `evals/README.md` tells how it is used.
//!
//! It is a black box: it knows the daemon by HTTP and MCP alone.

pub mod act;
pub mod adapters;
pub mod api;
pub mod arguments;
pub mod errors;
pub mod gate;
pub mod path;
pub mod qa;
pub mod report;
pub mod retrieval;
pub mod run;
pub mod session;
pub mod state;
pub mod task;
pub mod verify;
pub mod world;

/// Names who does the cryptography of HTTPS; the first caller's word holds for the process.
pub(crate) fn choose_cryptography() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}
