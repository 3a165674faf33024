//! The engine adapter against a real Docker: every test is its own instance, and leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "the whole crate is a test")]

mod build;
mod containers;
mod health;
mod outage;
mod support;
