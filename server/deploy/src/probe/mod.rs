//! Health: whether a release's replica answers, and if not, why. Made by the daemon itself over the private
//! network, so that nothing is needed inside the image.
//!
//! [`HealthProbe`] makes one attempt and tells what came of it; [`HealthPolicy`] says what counts as healthy (pure);
//! [`wait_healthy`] repeats attempts until one passes, the container ends, or the time is over.

mod attempt;
mod listening;
mod policy;
mod wait;

pub use attempt::{HealthProbe, ProbeOutcome};
pub use listening::{Listening, listening_ports};
pub use policy::{HealthPolicy, Verdict};
pub use wait::{EngineReplica, HealthFailure, HealthFailureKind, Healthy, Replica, wait_healthy};
