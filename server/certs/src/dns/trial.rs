//! Trying credentials before they are kept: which zones they reach, and whether a record can be set and taken away.

use berth_schemas::{
    DomainName,
    dns::{DnsCredentials, DnsProviderKind},
};

use super::{
    fault::DnsFault,
    provider::{DnsProvider, connect},
    record::{Record, challenge_name, longest},
};

/// Zones in which a record is set to see whether that is allowed.
const MOST_TRIED: usize = 3;

/// What credentials turned out to be good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// Zones, as the provider names them.
    pub zones: Vec<String>,
}

impl Reach {
    /// Those of the zones that are domains.
    #[must_use]
    pub fn domains(&self) -> Vec<DomainName> {
        self.zones.iter().filter_map(|z| z.parse().ok()).collect()
    }

    /// The first of `zones` that is not reached.
    #[must_use]
    pub fn lacks<'a>(&self, zones: &'a [DomainName]) -> Option<&'a DomainName> {
        zones.iter().find(|z| longest(z.base(), &self.zones, |r| r.as_str()).is_none())
    }
}

/// Asks the provider which zones its credentials reach; changes nothing.
///
/// # Errors
/// When the provider does not take them.
pub async fn reach(credentials: &DnsCredentials, told: &[DomainName]) -> Result<Reach, DnsFault> {
    reach_by(connect(credentials, told)?.as_ref()).await
}

async fn reach_by(provider: &dyn DnsProvider) -> Result<Reach, DnsFault> {
    let zones = provider.zones().await?;
    Ok(Reach { zones: zones.into_iter().map(|z| z.name).collect() })
}

/// The same, and then sets a TXT record in the zones that were told, or else in the first one, and takes it away.
///
/// # Errors
/// When the provider does not take the credentials, they do not reach a zone that was told, or they may not change
/// records.
pub async fn try_out(credentials: &DnsCredentials, told: &[DomainName]) -> Result<Reach, DnsFault> {
    let provider = connect(credentials, told)?;
    let reach = reach_by(provider.as_ref()).await?;
    if let Some(zone) = reach.lacks(told) {
        return Err(DnsFault::NoZone { provider: provider.title(), name: zone.to_string() });
    }
    if credentials.kind() == DnsProviderKind::Manual {
        return Ok(reach);
    }
    let found = reach.domains();
    let tried = if told.is_empty() { found.get(..1).unwrap_or_default() } else { told };
    for zone in tried.iter().take(MOST_TRIED) {
        let record =
            Record::txt(challenge_name(zone), format!("berth-test-{}", uuid::Uuid::new_v4().simple()));
        let zone = provider.zone_of(&record.name).await?;
        provider.add(&zone, &record).await?;
        provider.remove(&zone, &record).await?;
    }
    Ok(reach)
}
