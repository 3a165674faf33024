//! The DNS providers.
//!
//! Those with an HTTP interface are thin clients of our own: the one crate that has them all (`dns-update`) brings a
//! second TLS library with ring, lets nobody but its own tests say where an interface is, and cannot list zones.

mod cloudflare;
mod digitalocean;
mod gandi;
mod hetzner;
mod http;
mod manual;
mod rfc2136;
mod route53;

#[cfg(test)]
mod tests;

pub(super) use cloudflare::Cloudflare;
pub(super) use digitalocean::DigitalOcean;
pub(super) use gandi::Gandi;
pub(super) use hetzner::Hetzner;
pub(super) use manual::Manual;
pub(super) use rfc2136::Rfc2136;
pub(super) use route53::Route53;
