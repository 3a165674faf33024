//! Every capability of Berth, each defined once.
//!
//! One file per noun holds that noun's tools; reading one teaches all others. What lives here: names, texts,
//! schemas and the glue between a typed input and the domain crates. What does not: SQL, Docker, HTTP.

mod alerts;
mod apps;
mod audit;
pub mod audited;
pub mod brake;
mod confirm;
pub mod context;
mod deployments;
mod dns_providers;
mod domains;
mod dotenv;
mod dsn;
mod environments;
pub mod error_attachments;
mod error_events;
mod error_releases;
mod error_search;
mod errors;
mod events;
mod feedback;
mod find;
pub mod first_push;
mod follow;
mod grants;
mod group;
mod input;
mod jobs;
mod logs;
mod once;
mod ongoing;
mod page;
mod platform;
pub mod progress;
mod projects;
mod proposals;
mod pushes;
mod references;
pub mod registry;
mod releases;
mod repositories;
mod requests;
mod rollouts;
mod settings;
mod source;
mod telemetry;
pub mod text;
mod tidy;
mod tokens;
mod traffic;
mod variables;

pub use audited::{Outside, RequestId, Via};
pub use berth_deploy::Addresses;
pub use brake::Brake;
pub use context::Context;
pub use group::Group;
pub use ongoing::{NotOngoing, Ongoing};
pub use page::Budget;
pub use progress::{Progress, Update};
pub use registry::{Answer, Brief, Call, Hints, Image, Method, Registry, Spec, Tier, Tool};
pub use text::{Part, Text};

/// All tools of Berth.
#[must_use]
pub fn registry() -> Registry {
    Registry::new([
        (Group::Errors, alerts::tools()),
        (Group::Apps, apps::tools()),
        (Group::Access, audit::tools()),
        (Group::Deploy, deployments::tools()),
        (Group::Domains, dns_providers::tools()),
        (Group::Domains, domains::tools()),
        (Group::Errors, dsn::tools()),
        (Group::Apps, environments::tools()),
        (Group::Errors, error_attachments::tools()),
        (Group::Errors, error_events::tools()),
        (Group::Errors, error_releases::tools()),
        (Group::Errors, error_search::tools()),
        (Group::Errors, errors::tools()),
        (Group::Platform, events::tools()),
        (Group::Errors, telemetry::tools()),
        (Group::Errors, feedback::tools()),
        (Group::Access, grants::tools()),
        (Group::Deploy, jobs::tools()),
        (Group::Logs, logs::tools()),
        (Group::Platform, platform::tools()),
        (Group::Access, projects::tools()),
        (Group::Access, proposals::tools()),
        (Group::Git, pushes::tools()),
        (Group::Deploy, releases::tools()),
        (Group::Git, repositories::tools()),
        (Group::Logs, requests::tools()),
        (Group::Deploy, rollouts::tools()),
        (Group::Access, tokens::tools()),
        (Group::Traffic, traffic::tools()),
        (Group::Variables, variables::tools()),
    ])
}
