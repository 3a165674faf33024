//! Every capability of Berth, each defined once.
//!
//! One file per noun holds that noun's tools; reading one teaches all others. What lives here: names, texts,
//! schemas and the glue between a typed input and the domain crates. What does not: SQL, Docker, HTTP.

pub mod context;
pub mod progress;
pub mod registry;
mod tidy;

pub use context::{Addresses, Context};
pub use progress::{Progress, Update};
pub use registry::{Answer, Brief, Call, Hints, Method, Registry, Spec, Tier, Tool};
