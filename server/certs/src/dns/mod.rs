//! What Berth does with DNS: sets the records that prove a name is ours, by providers behind one trait, and says what
//! DNS says of a name against what it should say.
//!
//! What comes from name servers and providers is theirs: quoted, never trusted.

mod ask;
pub mod fault;
mod inspect;
mod judge;
pub mod own;
mod propagation;
pub mod provider;
mod providers;
pub mod record;
mod resolvers;
pub mod trial;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use berth_schemas::{
    Code, DomainName, Problem,
    dns::{DnsProviderKind, DnsReport},
    ids::DnsProviderName,
};
use berth_store::{DnsProviderRow, Store};

pub use fault::DnsFault;
pub use propagation::Sighting;
pub use provider::{DnsProvider, connect};
pub use record::{Record, Zone, challenge_name};
use resolvers::Resolvers;
pub use resolvers::{Allowed, DNS_PORT, Resolver};

use crate::lock::lock;

/// How long a report is not asked for again.
const FRESH: Duration = Duration::from_secs(5);

/// How DNS is asked.
#[derive(Clone)]
pub struct DnsConfig {
    /// Resolvers to ask.
    pub resolvers: Vec<Resolver>,
    /// Port at which the servers of zones answer: 53, but in tests.
    pub authority_port: u16,
    /// Which addresses that DNS names may be talked to.
    pub allowed: Allowed,
    /// This machine's public addresses, as they are now.
    pub own: Arc<dyn Fn() -> Vec<IpAddr> + Send + Sync>,
}

impl DnsConfig {
    /// Asks these resolvers, and addresses on the internet only.
    #[must_use]
    pub fn new(resolvers: Vec<Resolver>, allowed: impl Fn(IpAddr) -> bool + Send + Sync + 'static) -> Self {
        Self { resolvers, authority_port: DNS_PORT, allowed: Arc::new(allowed), own: Arc::new(Vec::new) }
    }
}

/// DNS as the rest of Berth uses it. Cheap to clone.
#[derive(Clone)]
pub struct Dns {
    store: Store,
    resolvers: Resolvers,
    own: Arc<dyn Fn() -> Vec<IpAddr> + Send + Sync>,
    /// Reports of the last seconds, by name.
    reports: Arc<Mutex<HashMap<DomainName, (Instant, DnsReport)>>>,
    /// One change at a time per provider: most of them replace a whole set of records at once.
    turns: Arc<Mutex<HashMap<DnsProviderName, Arc<tokio::sync::Mutex<()>>>>>,
}

/// How far a proof by DNS is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presented {
    /// All of the zone's servers show the record: the authority may be told.
    Shown,
    /// Not all of them do. Ask again later, with the same value.
    Waiting {
        /// The record that is waited for.
        record: Record,
        /// Whether a person must set it.
        manual: bool,
        /// Who does not show it yet.
        sighting: Sighting,
    },
}

impl Presented {
    /// What is waited for, in a sentence; none when nothing is.
    #[must_use]
    pub fn waits_for(&self) -> Option<String> {
        let Self::Waiting { record, manual, sighting } = self else { return None };
        let trouble = sighting.trouble();
        Some(match manual {
            true => format!(
                "Set this record at your DNS provider: name {}, type TXT, value {}. Keep other TXT records of that name. Berth goes on when it is seen ({trouble}).",
                record.name, record.value
            ),
            false => format!("The TXT record {} is set, but not seen everywhere: {trouble}.", record.name),
        })
    }
}

impl Dns {
    /// Makes it; asks nobody yet.
    #[must_use]
    pub fn new(store: Store, config: DnsConfig) -> Self {
        let resolvers = Resolvers::new(config.resolvers, config.authority_port, config.allowed);
        Self { store, resolvers, own: config.own, reports: Arc::default(), turns: Arc::default() }
    }

    /// What DNS says of `name` now, against what it should say: within five seconds, and not asked again for as long
    /// after. `issuers` are the names by which CAA records allow the certificate authorities in use.
    pub async fn inspect(&self, name: &DomainName, issuers: &[String]) -> DnsReport {
        if let Some((_, report)) = self.reports().get(name).filter(|(at, _)| at.elapsed() < FRESH) {
            return report.clone();
        }
        let report = inspect::inspect(&self.resolvers, name, &(self.own)(), issuers).await;
        let mut reports = self.reports();
        reports.retain(|_, (at, _)| at.elapsed() < FRESH);
        reports.insert(name.clone(), (Instant::now(), report.clone()));
        report
    }

    /// The addresses that resolvers give for a host, IPv4 first, each with whether it may be talked to.
    ///
    /// # Errors
    /// Says why there is none.
    pub(crate) async fn addresses(&self, host: &str) -> Result<Vec<(IpAddr, bool)>, String> {
        self.resolvers.addresses(host).await
    }

    fn reports(&self) -> MutexGuard<'_, HashMap<DomainName, (Instant, DnsReport)>> {
        lock(&self.reports)
    }

    /// The provider that serves `name`, if one does: the one with the longest zone.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn provider_of(&self, name: &str) -> Result<Option<DnsProviderRow>, Problem> {
        let rows = self.store.dns_providers().list().await?;
        let zones: Vec<(&str, &DnsProviderRow)> =
            rows.iter().flat_map(|row| row.zones.iter().map(move |z| (z.base(), row))).collect();
        Ok(record::longest(name, &zones, |z| z.0).map(|z| z.1.clone()))
    }

    /// Whether a proof by DNS is possible for `name`: which provider would set the record.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn prover(&self, name: &DomainName) -> Result<Option<DnsProviderRow>, Problem> {
        let record = challenge_name(name);
        let target = self.resolvers.follow(&record).await.unwrap_or(record);
        self.provider_of(&target).await
    }

    /// Sets the TXT record that proves `name` to be ours, and waits up to `limit` until all servers of its zone show
    /// it. May be called again with the same value, and is then a look. An alias (CNAME) at the record's name is
    /// followed, so that the zone of the proof may be another than the name's.
    ///
    /// # Errors
    /// When no provider serves the name, or the provider does not do it.
    pub async fn present(
        &self,
        name: &DomainName,
        value: &str,
        limit: Duration,
    ) -> Result<Presented, Problem> {
        let (row, record) = self.plan(name, value).await?;
        let manual = row.kind == DnsProviderKind::Manual;
        self.change(&row, &record, true).await?;
        let limit = if manual { Duration::ZERO } else { limit };
        let sighting = propagation::wait(limit, || propagation::look(&self.resolvers, &record)).await;
        tracing::debug!(record = %record.name, ?sighting, "looked");
        Ok(match sighting.is_complete() {
            true => Presented::Shown,
            false => Presented::Waiting { record, manual, sighting },
        })
    }

    /// Takes the record of [`Dns::present`] away again, and no other.
    ///
    /// # Errors
    /// As there.
    pub async fn withdraw(&self, name: &DomainName, value: &str) -> Result<(), Problem> {
        let (row, record) = self.plan(name, value).await?;
        self.change(&row, &record, false).await
    }

    /// Who sets which record.
    async fn plan(&self, name: &DomainName, value: &str) -> Result<(DnsProviderRow, Record), Problem> {
        let asked = challenge_name(name);
        // If nobody can be asked, the record is set where it stands most often, and the look says the rest.
        let target = self.resolvers.follow(&asked).await.unwrap_or_else(|_| asked.clone());
        match self.provider_of(&target).await? {
            Some(row) => Ok((row, Record::txt(target, value))),
            None => Err(no_provider(&asked, &target)),
        }
    }

    async fn change(&self, row: &DnsProviderRow, record: &Record, add: bool) -> Result<(), Problem> {
        let credentials = self.store.dns_providers().credentials(&row.name).await?;
        let told = if row.found { &[][..] } else { &row.zones };
        let provider = connect(&credentials, told)?;
        let turn = self.turn(&row.name);
        let _turn = turn.lock().await;
        let zone = provider.zone_of(&record.name).await?;
        match add {
            true => provider.add(&zone, record).await?,
            false => provider.remove(&zone, record).await?,
        }
        tracing::info!(provider = %row.name, record = %record.name, add, "changed DNS");
        Ok(())
    }

    fn turn(&self, name: &DnsProviderName) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = lock(&self.turns);
        Arc::clone(turns.entry(name.clone()).or_default())
    }
}

fn no_provider(asked: &str, target: &str) -> Problem {
    let alias = if asked == target { String::new() } else { format!(", which {asked} is an alias of") };
    Problem::new(Code::NotFound, format!("No DNS provider serves {target}{alias}.")).hint(
        "Add one with dns_provider_add: the zone's provider with its API token, or kind=manual to set the record yourself.",
    )
}

impl std::fmt::Debug for Dns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dns")
    }
}
