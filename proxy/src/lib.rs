//! Berth's data plane: what stands between the internet and the releases.
//!
//! It routes by host and path, terminates TLS, balances over replicas, serves static releases, counts what is
//! in flight on each release, drains, and tells one access record per request. It lives on the caller's Tokio
//! runtime, behind its own accept loop; the HTTP protocol work is Pingora's.
//!
//! What it does not know: databases, Docker, deployments. The control plane hands it complete route and
//! certificate tables through [`ProxyHandle`]; each is swapped with one atomic store, and a request never waits
//! for the control plane. What the control plane last said keeps being served, whatever happens to it.
//!
//! How a request goes: [`server`](self) accepts → `connection` wraps the socket, `connections` lists it → `gateway` admits, routes and
//! counts → `replica` picks an address (or `static_site` a file) → `access` tells.

mod access;
mod admission;
mod basic_auth;
mod challenge;
mod connection;
mod connections;
mod direct;
mod enforce;
mod error;
mod events;
mod exchange;
mod forwarded;
mod front;
mod gateway;
mod generations;
mod handle;
mod handshake;
mod header_rules;
mod hold;
mod ip_list;
mod listener;
mod lock;
mod maps;
mod on_demand;
mod page;
mod path_rules;
mod place;
mod rate_limit;
mod replica;
mod request_id;
mod router;
mod rules;
mod server;
mod split;
mod stamp;
mod static_site;
mod target;
mod tls;
mod tunnel;
mod upstream;
mod websocket;

pub use access::{AccessFault, AccessRecord, AccessSink, Protocol};
pub use basic_auth::hash_passwords;
pub use challenge::{ChallengeTable, PREFIX as CHALLENGE_PATH};
pub use error::ProxyError;
pub use forwarded::{ParseTrustedPeerError, TrustedPeers};
pub use handle::{DrainReport, ProxyCounters, ProxyHandle};
pub use hold::Hold;
pub use listener::{ListenOn, bind};
pub use on_demand::CertificateSource;
pub use page::StatusPage;
pub use replica::{RemovedReplicas, ReplicaAddr};
pub use request_id::RequestId;
pub use router::{Destination, HostRoute, RouteConflict, RouteTable, RouteTableBuilder};
pub use rules::HostRules;
pub use rustls::sign::CertifiedKey;
pub use server::{ProxyConfig, ProxyServer};
pub use split::{Match, Split, SplitRule};
pub use static_site::StaticSite;
pub use target::{Answers, ReleaseLabel, ReleaseTarget, TargetOptions};
pub use tls::{CertificateError, CertificateTable, CertificateTableBuilder, certified_key};
