//! The daemon and its command line from outside: the built binary, its sockets, its files.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

#[path = "../harness/mod.rs"]
mod harness;

mod audit;
mod authentication;
mod bridge;
mod canary;
mod certificates;
mod clients;
mod command_line;
mod configuration;
mod conformance;
mod deploying;
mod errors;
mod foreign;
mod forge_api;
mod git_environments;
mod git_https;
mod git_lfs;
mod git_push;
mod git_ssh;
mod install;
mod lifecycle;
mod missed_pulls;
mod oauth;
mod proposals;
mod rest;
mod surfaces;
mod tasks;
mod uploads;
mod webhooks;
