//! The daemon and its command line from outside: the built binary, its sockets, its files.

#[path = "../harness/mod.rs"]
mod harness;

mod authentication;
mod bridge;
mod command_line;
mod configuration;
mod deploying;
mod lifecycle;
mod rest;
mod surfaces;
mod uploads;
