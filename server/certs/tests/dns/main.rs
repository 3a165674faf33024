//! DNS against servers that we did not write.

#![allow(clippy::unwrap_used, reason = "a test may fail this way")]
#![allow(missing_docs, unreachable_pub)]

mod inspection;
mod servers;
mod updates;
