//! The DNS providers.

mod manual;
mod rfc2136;

pub(super) use manual::Manual;
pub(super) use rfc2136::Rfc2136;
