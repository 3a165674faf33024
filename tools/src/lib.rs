//! Every capability of Berth, each defined once.
//!
//! One file per noun holds that noun's tools; reading one teaches all others. What lives here: names, texts,
//! schemas and the glue between a typed input and the domain crates. What does not: SQL, Docker, HTTP.

mod apps;
mod confirm;
pub mod context;
mod deployments;
mod dns_providers;
mod domains;
mod dotenv;
mod environments;
mod error_events;
mod errors;
mod events;
mod find;
mod follow;
mod jobs;
mod logs;
mod once;
mod page;
mod platform;
pub mod progress;
mod projects;
mod pushes;
mod references;
pub mod registry;
mod releases;
mod repositories;
mod requests;
mod rollouts;
mod settings;
mod source;
pub mod text;
mod tidy;
mod tokens;
mod traffic;
mod variables;

pub use berth_deploy::Addresses;
pub use context::Context;
pub use page::Budget;
pub use progress::{Progress, Update};
pub use registry::{Answer, Brief, Call, Hints, Method, Registry, Spec, Tier, Tool};
pub use text::{Part, Text};

/// All tools of Berth.
#[must_use]
pub fn registry() -> Registry {
    let nouns = [
        apps::tools(),
        deployments::tools(),
        dns_providers::tools(),
        domains::tools(),
        environments::tools(),
        error_events::tools(),
        errors::tools(),
        events::tools(),
        jobs::tools(),
        logs::tools(),
        platform::tools(),
        projects::tools(),
        pushes::tools(),
        releases::tools(),
        repositories::tools(),
        requests::tools(),
        rollouts::tools(),
        tokens::tools(),
        traffic::tools(),
        variables::tools(),
    ];
    Registry::new(nouns.into_iter().flatten().collect())
}
