//! The engine adapter against a real Docker: every test is its own instance, and leaves nothing behind.

mod build;
mod containers;
mod health;
mod support;
