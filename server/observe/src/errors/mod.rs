//! Errors of apps: from the bytes that Sentry's clients send to issues.
//!
//! Pure: [`envelope`], [`auth`], [`event`], [`grouping`], [`scrub`], [`accept`], [`person`], [`telemetry`]. Around them: [`Ingest`],
//! which makes what was accepted durable, [`Digester`], which makes issues of it, and [`Eraser`], which forgets a person.

pub mod accept;
mod agent;
pub mod auth;
mod demangle;
mod digester;
pub mod envelope;
mod eraser;
pub mod event;
pub mod grouping;
mod in_app;
mod ingest;
pub mod judge;
pub mod maps;
mod parameters;
pub mod person;
mod read;
pub mod rules;
pub mod scrub;
pub mod search;
pub mod sessions;
pub mod show;
pub mod telemetry;

pub use digester::Digester;
pub use eraser::{Eraser, Traces};
pub use ingest::{Ingest, Refused, Target};
pub use maps::Maps;
pub use search::ErrorIndex;
