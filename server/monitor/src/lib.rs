//! Who is told when something happens: rules over the event log and over counts, messages that are durable until they
//! are sent, and the channels that they go by.
//!
//! The rules are a pure function ([`rules`]); around it one task reads, keeps and sends ([`alert`]).

mod alert;
mod message;
pub mod rules;
mod send;

pub use alert::alert;
pub use message::{shown, test_message};
pub use send::{SendError, Sender};
