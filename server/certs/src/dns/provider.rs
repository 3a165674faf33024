//! What every DNS provider can do, and making one from its credentials.

use async_trait::async_trait;
use berth_schemas::{DomainName, dns::DnsCredentials};

use super::{
    fault::DnsFault,
    providers::{Cloudflare, DigitalOcean, Gandi, Hetzner, Manual, Rfc2136, Route53},
    record::{Record, Zone, longest},
};

/// How long records of ours may be kept by resolvers, in seconds. Short, because they are needed for minutes; not
/// shorter, because most providers refuse less.
pub(crate) const TTL: u32 = 60;

/// Somebody who sets records. Every call may be made again: what is there is not added twice, and what is gone is
/// not missed.
#[async_trait]
pub trait DnsProvider: Send + Sync {
    /// What it is called in errors.
    fn title(&self) -> &'static str;

    /// The zones that the credentials reach. This is how they are tested.
    async fn zones(&self) -> Result<Vec<Zone>, DnsFault>;

    /// Adds a record beside those that are there under the same name.
    async fn add(&self, zone: &Zone, record: &Record) -> Result<(), DnsFault>;

    /// Removes exactly this record and leaves others of the same name.
    async fn remove(&self, zone: &Zone, record: &Record) -> Result<(), DnsFault>;

    /// The zone that holds `name`.
    async fn zone_of(&self, name: &str) -> Result<Zone, DnsFault> {
        let zones = self.zones().await?;
        longest(name, &zones, |z| z.name.as_str())
            .cloned()
            .ok_or_else(|| DnsFault::NoZone { provider: self.title(), name: name.to_owned() })
    }
}

/// The provider that these credentials are for. `zones` are those that the administrator told.
///
/// # Errors
/// When the credentials cannot be right.
pub fn connect(credentials: &DnsCredentials, zones: &[DomainName]) -> Result<Box<dyn DnsProvider>, DnsFault> {
    let told = || zones.iter().map(|z| z.base().to_owned()).collect::<Vec<_>>();
    Ok(match credentials {
        DnsCredentials::Rfc2136 { server, tsig_name, tsig_secret, tsig_algorithm } => {
            Box::new(Rfc2136::new(server, tsig_name, tsig_secret, *tsig_algorithm, told())?)
        }
        DnsCredentials::Manual {} => Box::new(Manual::new(told())),
        DnsCredentials::Cloudflare { api_token } => Box::new(Cloudflare::new(api_token)?),
        DnsCredentials::Route53 { access_key_id, secret_access_key } => {
            Box::new(Route53::new(access_key_id, secret_access_key)?)
        }
        DnsCredentials::Digitalocean { api_token } => Box::new(DigitalOcean::new(api_token)?),
        DnsCredentials::Hetzner { api_token } => Box::new(Hetzner::new(api_token)?),
        DnsCredentials::Gandi { api_token } => Box::new(Gandi::new(api_token)?),
    })
}
