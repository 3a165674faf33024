//! The wire types of Berth: everything that a program, an assistant or a person sends to the daemon or
//! gets from it, as plain data.
//!
//! What lives here: ids and names with their grammar, the states of things with their legal transitions,
//! the inputs and outputs of every tool, and the error that leaves the daemon. What does not: I/O, SQL,
//! decisions. A type that appears in an answer is defined here once; the JSON Schema files beside this
//! crate are generated from it.

pub mod alert;
pub mod app;
pub mod audit;
pub mod deployment;
pub mod dns;
pub mod domain;
pub mod environment;
pub mod error;
pub mod event;
pub mod grant;
pub mod ids;
pub mod issue;
pub mod job;
pub mod log;
pub mod platform;
pub mod project;
pub mod proposal;
pub mod push;
pub mod reach;
pub mod release;
pub mod repository;
pub mod request;
pub mod rules;
pub mod scope;
pub mod text;
pub mod time;
pub mod token;
pub mod traffic;
pub mod upload;
pub mod variable;

pub use domain::DomainName;
pub use error::{Code, Problem};
pub use ids::{AppSlug, DeploymentRef, EnvironmentName, ProjectSlug, VariableName};
pub use issue::IssueRef;
pub use scope::Scope;
pub use text::Untrusted;
pub use time::Timestamp;
