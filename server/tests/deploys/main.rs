//! Black-box tests: a real daemon, a real Docker Engine, real apps, reached as people reach them.
//!
//! Nothing here looks into the daemon: what is asserted is what the command line, REST, MCP, the proxy and Docker
//! show. Each test has its own daemon, and with it its own data directory, ports and Docker labels; what it
//! made is removed when it ends. Where Docker is missing the tests say so and pass, unless
//! `BERTH_TEST_REQUIRE_DOCKER` is set.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, missing_docs)]

#[macro_use]
mod support;

mod bad_apps;
mod bad_builds;
mod bad_sources;
mod cleaning;
mod crashes;
mod engine_trouble;
mod examples;
mod git;
mod kill_matrix;
mod load;
mod logs;
mod previews;
mod queueing;
mod releases;
mod traffic;
mod upgrades;
mod variables;
mod world_breaks;
