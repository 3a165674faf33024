//! Domains: what DNS says of them, their certificates from ACME authorities, and renewal.
//!
//! What lives here: orders as durable work, challenges, DNS providers, what is wrong with a domain in words. What
//! does not: SQL, routing, the rules that the data plane enforces.
//!
//! `service` finds which names want a certificate, `decide` says what is to be ordered where and when, `order` carries
//! one order through, `shown` is what the data plane shows of it, `view` says how a name is, `on_demand` takes names
//! that apps approve while a visitor waits, `reach` looks whether the world comes here. Keys are ECDSA P-256.
//!
//! Left out on purpose: OCSP, and with it stapling. Let's Encrypt ended its OCSP service in 2025 in favour of short
//! lives and revocation lists; renewal information (`ari`) is how an authority asks for an early replacement.

mod account;
mod advice;
mod ari;
mod attached;
mod attention;
mod by_dns;
mod by_hand;
mod client;
mod config;
mod decide;
pub mod dns;
mod due;
mod fault;
mod lock;
mod on_demand;
mod order;
mod reach;
mod service;
mod shown;
mod view;
mod x509;

pub use config::{AcmeConfig, CertsConfig, ExternalAccount, Fallback, OwnNames, is_public};
pub use on_demand::{Answer, Approver};
pub use service::Certs;
pub use view::Seen;
