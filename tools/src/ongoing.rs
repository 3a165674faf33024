//! What goes on after a tool has answered, under the name by which it can be asked for.

use std::{fmt, str::FromStr};

use berth_schemas::{DeploymentRef, ids::JobId, job::JobHandle};
use serde_json::{Value, json};

/// Durable work that a tool started. Its text form is the name that people and tools use: `web#42`, or a
/// job's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ongoing {
    /// A deployment.
    Deployment(DeploymentRef),
    /// A job.
    Job(JobId),
}

impl Ongoing {
    /// The job of a handle, unless it has ended.
    pub(crate) fn job(handle: Option<&JobHandle>) -> Option<Self> {
        handle.filter(|h| !h.state.is_final()).map(|h| Self::Job(h.job.clone()))
    }

    /// The tool that tells how it stands, with its input.
    #[must_use]
    pub fn reader(&self) -> (&'static str, Value) {
        match self {
            Self::Deployment(which) => ("deployment_get", json!({ "deployment": which })),
            Self::Job(job) => ("job_get", json!({ "job": job })),
        }
    }

    /// The tool that cancels it, with its input.
    #[must_use]
    pub fn canceller(&self) -> (&'static str, Value) {
        match self {
            Self::Deployment(which) => ("deployment_cancel", json!({ "deployment": which })),
            Self::Job(job) => ("job_cancel", json!({ "job": job })),
        }
    }
}

impl fmt::Display for Ongoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deployment(which) => which.fmt(f),
            Self::Job(job) => f.write_str(job.as_str()),
        }
    }
}

/// No name of something that goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is no deployment such as web#42 and no id of a job")]
pub struct NotOngoing;

impl FromStr for Ongoing {
    type Err = NotOngoing;

    /// A deployment has a `#`, and a job's id none.
    fn from_str(text: &str) -> Result<Self, NotOngoing> {
        if text.contains('#') {
            text.parse().map(Self::Deployment).map_err(|_| NotOngoing)
        } else {
            text.parse().map(Self::Job).map_err(|_| NotOngoing)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_to_what_it_names() {
        for name in ["web#42", "0198d1c6-7e5a-7c3e-9b1a-0123456789ab"] {
            let found: Ongoing = name.parse().unwrap();
            assert_eq!(found.to_string(), name);
        }
        for not in ["", "web", "web#", "web#x", "../..", "shop.example.com"] {
            assert!(not.parse::<Ongoing>().is_err(), "{not}");
        }
    }

    #[test]
    fn every_reader_and_canceller_is_a_tool() {
        let registry = crate::registry();
        for name in ["web#42", "0198d1c6-7e5a-7c3e-9b1a-0123456789ab"] {
            let ongoing: Ongoing = name.parse().unwrap();
            assert!(registry.get(ongoing.reader().0).unwrap().spec.hints.read_only);
            assert!(!registry.get(ongoing.canceller().0).unwrap().spec.hints.read_only);
        }
    }
}
