//! Domains: what DNS says of them, their certificates from ACME authorities, and renewal.
//!
//! What lives here: orders as durable work, challenges, DNS providers, what is wrong with a domain in words. What
//! does not: SQL, routing, the rules that the data plane enforces.

pub mod dns;
