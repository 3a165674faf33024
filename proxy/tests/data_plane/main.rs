//! The data plane as the internet and the apps see it: real sockets on loopback, real clients, real upstreams.

#![allow(unreachable_pub, reason = "a test binary exports nothing")]
#![allow(clippy::expect_used, reason = "a helper that fails fails its test")]

mod drain;
mod event_streams;
mod farewell;
mod hand_over;
mod headers;
mod on_demand;
mod outside;
mod replicas;
mod reuse;
mod routing;
mod rules;
mod shutdown;
mod static_release;
mod streaming;
mod support;
mod swaps;
mod tls;
mod traffic;
