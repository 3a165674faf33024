//! All SQL of Berth.
//!
//! One repository per table group; SQL in the subset that SQLite and PostgreSQL share; secrets sealed here
//! and opened only by the calls that say so. What does not live here: decisions about deployments, Docker.
//!
//! A change of state, its history row and its entry in the event log are one transaction. Queries for what
//! belongs to a project and is named by a caller take a [`model::Visible`], so that none forgets it.

mod acme;
mod alerts;
mod apps;
mod build_cache;
mod build_log;
mod calls;
mod certificates;
mod clock;
mod database;
mod deployments;
mod dns_providers;
mod domains;
mod environments;
mod error;
mod errors;
mod events;
mod forge_reports;
mod grants;
mod idempotency;
mod intake_file;
mod jobs;
mod key;
mod logs;
mod migration;
pub mod model;
mod oauth_clients;
mod projects;
mod proposals;
mod push_intake;
mod pushes;
mod releases;
mod repositories;
mod requests;
mod rollout;
mod row;
mod sameness;
mod seal;
#[doc(hidden)]
pub mod stall;
mod store;
mod switch;
mod token_cache;
mod tokens;
mod upgrade;
mod uploads;
mod variables;
mod write;

pub use acme::{Acme, Fault, NewOrder, OrderId, OrderRow};
pub use alerts::{Alerts, DeliveryRow, LastMessage, NewDelivery, NewMessage, Often};
pub use apps::Apps;
pub use build_cache::BuildCache;
pub use calls::{CallQuery, Calls, Ended, NewCall};
pub use certificates::{CertificateRow, Certificates, NewCertificate};
pub use clock::Clock;
pub use database::SQLITE_FILE;
pub use deployments::Deployments;
pub use dns_providers::{DnsProviderRow, DnsProviders, NewDnsProvider};
pub use domains::{Approved, DomainPlan, DomainRow, Domains};
pub use environments::Environments;
pub use error::{Result, StoreError};
pub use errors::{
    AttachmentRow, Body, DeployedMaps, DigestedEvent, DsnKey, DsnKeys, Ends, ErrorEventRow, ErrorItem,
    ErrorReleaseRow, Errors, ErrorsKept, FeedbackRow, Filed, IntakeRow, IssueFilter, IssueOrder, IssueRow,
    IssueShare, IssueTitle, ItemKind, Joined, LookedTo, MapsKept, NewIntake, NewMap, PackedItem, PersonNames,
    PlacedRelease, ReleaseStats, Remapped, Stretch, TelemetryFound, TelemetryQuery, TelemetryRow, Until,
    WantedMap,
};
pub use events::Events;
pub use forge_reports::{ForgeReports, ReportRow};
pub use grants::{Approval, Grants, Issued, Presented};
pub use idempotency::Idempotency;
pub use jobs::Jobs;
pub use key::{KEY_FILE, KeyError, MasterKey};
pub use logs::{LogPosition, LogQuery, Logs, NewLogLine, OutputStream};
pub use model::*;
pub use oauth_clients::{NewOauthClient, OauthClientRow, OauthClients};
pub use projects::Projects;
pub use proposals::{NewProposal, ProposalRow, Proposals};
pub use pushes::{Head, Heads, NewPush, OwnRef, PushRow, PushSource, Pushes, Received};
pub use releases::Releases;
pub use repositories::{
    Credentials, Learnt, NewRepository, Repositories, RepositoryRow, RepositorySecrets, WebhookSecret,
};
pub use requests::{FoundRequests, NewRequest, RequestQuery, Requests, StatusFilter};
pub use store::{Pruned, Store, StoreConfig, Volume};
pub use tokens::Tokens;
pub use upgrade::{preview, put_back};
pub use uploads::Uploads;
pub use variables::Variables;
