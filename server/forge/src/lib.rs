//! Git forges (GitHub, GitLab, Gitea and Forgejo, Bitbucket): what they tell by webhook or when asked, and what they
//! are told about deployments.
//!
//! The pure part: `webhook` (signatures and payloads), `remote` (addresses), `api::request` (what is asked of each API),
//! the comparing in `poll`. The shell: `intake` takes webhooks in, `poll` looks for what was missed, `report` tells the
//! forges, `forges` knows who Berth is at each. What does not live here: what a push leads to; that is the pipeline's.

mod api;
mod forges;
mod intake;
mod key;
mod poll;
mod remote;
mod report;
pub mod webhook;

pub use api::{Api, ApiAuth, ApiFailure, request};
pub use forges::{ForgeConfig, Forges};
pub use intake::{Accepted, Intake};
pub use key::{DeployKey, fingerprint, webhook_secret};
pub use poll::poll;
pub use remote::RemoteName;
pub use report::report;
pub use webhook::MAX_BODY;
