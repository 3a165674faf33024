//! What Berth sees of running apps: what their containers print and what their visitors ask for.
//!
//! Here are the tasks between a source (containers' output, the data plane's access records) and the store:
//! batching, resuming, limits, live followers, retention. What does not live here: Docker (it is behind
//! [`ContainerLogs`]) and SQL. Every task ends when its token is cancelled and writes what it has first.

mod collector;
pub mod errors;
mod flood;
mod level;
mod log_writer;
mod recorder;
mod resume;
mod retention;
mod source;

pub use collector::{CollectorConfig, LogCollector, Replica};
pub use level::guess_level;
pub use recorder::{RecorderConfig, RequestRecorder};
pub use retention::{Retention, RetentionConfig};
pub use source::{ContainerLogs, RawLine, SourceError};
