//! The container engine: one trait ([`Engine`]), Docker behind it ([`Docker`]), and a fake for tests.
//!
//! No store and no decisions about releases live here; `probe` decides about health. The parts that only translate
//! (build progress, error messages, addresses) are pure and tested without Docker; the tests in `tests/docker`
//! run against a real engine.

mod adapter;
mod build;
mod cache;
mod client;
mod container;
mod engine;
mod error;
mod events;
#[cfg(any(test, feature = "fake-engine"))]
pub mod fake;
mod host;
mod image;
mod images;
mod labels;
mod logs;
mod network;
mod usage;
mod wire;

pub use build::{
    BuildEvent, BuildLimits, BuildRequest, BuildSecret, BuiltImage, StepId, StepState, context_from_reader,
};
pub use client::{Docker, DockerConfig};
pub use engine::*;
pub use error::{EngineError, Unavailability};
pub use host::EngineHost;
pub use image::{ImageInfo, ImageRef, ImageSummary, PullEvent, RegistryAuth};
pub use labels::{InstanceId, Labels, Workload};

/// Names of the labels.
pub mod label {
    pub use super::labels::{APP, DEPLOYMENT, ENVIRONMENT, INSTANCE, MANAGED, PROJECT, RELEASE, REPLICA};
}
