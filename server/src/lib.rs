//! The daemon and the command line of Berth.
//!
//! What lives here: configuration, wiring and supervision ([`serve`], [`supervise`]), the control plane over
//! HTTP ([`rest`]) and the command line ([`cli`]), both generated from the registry of tools. What does not:
//! anything that a tool does; that is in the domain crates.

pub mod certificates;
pub mod cli;
pub mod config;
pub mod control;
pub mod data_plane;
pub mod descriptors;
pub mod notify;
pub mod oauth;
pub mod presence;
pub mod rest;
pub mod route;
pub mod schema;
pub mod serve;
pub mod signals;
pub mod sockets;
pub mod supervise;
pub mod takeover;
pub mod visits;
