//! Berth's deploy pipeline.
//!
//! A source becomes a release, is started beside what runs, checked, given the traffic, and what it replaced is
//! drained and kept. The modules are the steps: `queue` picks, `attempt` carries through, `fetch`, `plan`,
//! `build`, `start`, `check`, `switch` do one step each; `reconcile` looks at the world, `heal` and `sweep` put it right,
//! `jobs` and `cleanup` do what is not a deployment; `gate` keeps them out of each other's way. `docker` is the engine behind one trait, `source` and `command` are what touches
//! files, git and programs.

mod access;
mod attempt;
mod build;
mod build_cache;
mod check;
mod cleanup;
pub mod command;
mod config;
mod crash_loop;
mod delete;
mod deployed_maps;
pub mod docker;
mod domains;
mod errors;
mod fault;
mod fetch;
mod gate;
mod heal;
mod image_maps;
mod jobs;
mod journal;
mod limits;
mod lock;
mod output;
mod pipeline;
pub mod plan;
mod pressure;
mod previews;
pub mod probe;
pub mod push;
mod queue;
mod reconcile;
pub mod references;
mod release;
mod repository;
mod rollout;
mod room;
mod routes;
mod sameness;
pub mod source;
mod start;
mod sweep;
mod switch;
mod traffic;
mod variables;
mod waits;
mod watch;
mod worse;

// Under the name that the whole crate knows it by.
use berth_store::stall;

pub use access::{GitAccess, GitAs, PrivateKey};
pub use cleanup::{CleanupFound, upload_expiry, upload_path};
pub use config::{Addresses, Arrival, ControlRoute, ErrorsRoute, PipelineConfig, Successor};
pub use errors::{TUNNEL_PATH, ToldKey, dsn, error_release};
pub use fetch::git_problem;
pub use journal::DeploymentUpdate;
pub use output::EngineOutput;
pub use pipeline::{EnqueueOptions, Pipeline};
pub use previews::{PreviewFor, PreviewOf};
pub use push::GitPush;
pub use repository::GitService;
pub use room::Room;
pub use traffic::TrafficWish;
