//! The pipeline against an engine in memory, a real store and a real data plane: what a caller and a visitor see,
//! whatever happens meanwhile.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "the whole crate is a test"
)]

mod deploying;
mod environments;
mod model;
mod operating;
mod previews;
mod pushing;
mod restarts;
mod traffic;
mod truth;
mod watching;
mod world;
