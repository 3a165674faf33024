//! Errors of apps: from the bytes that Sentry's clients send to issues.
//!
//! Pure: [`envelope`], [`auth`], [`event`], [`grouping`], [`scrub`], [`accept`]. Around them: [`Ingest`], which makes
//! what was accepted durable, and [`Digester`], which makes issues of it.

pub mod accept;
mod agent;
pub mod auth;
mod digester;
pub mod envelope;
pub mod event;
pub mod grouping;
mod in_app;
mod ingest;
pub mod maps;
mod parameters;
mod read;
pub mod rules;
pub mod scrub;
pub mod search;
pub mod show;

pub use digester::Digester;
pub use ingest::{Ingest, Refused, Target};
pub use maps::Maps;
pub use search::ErrorIndex;
