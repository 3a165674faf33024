//! Which name servers are asked: resolvers as configured, and the servers of a zone itself.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use hickory_proto::rr::{Name, RData, RecordType};

use super::{
    ask::{Answer, NoAnswer, ask, full_name},
    record::plain,
};

/// The port of DNS.
pub const DNS_PORT: u16 = 53;
/// How long one resolver may take for one question.
const LIMIT: Duration = Duration::from_millis(1500);
/// Aliases followed before a chain counts as a loop.
const LONGEST_CHAIN: usize = 8;
/// Name servers of a zone that are asked at most.
const MOST_SERVERS: usize = 8;

/// A resolver as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolver {
    /// Those of the machine, from `/etc/resolv.conf`.
    System,
    /// The one at this address.
    At(SocketAddr),
}

impl FromStr for Resolver {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("system") {
            return Ok(Self::System);
        }
        let address = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT));
        address.or_else(|_| text.parse()).map(Self::At).map_err(|_| {
            "use \"system\", an IP address, or an address with a port such as 127.0.0.1:5353".to_owned()
        })
    }
}

/// Whether addresses that DNS names may be talked to.
pub type Allowed = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// Where to ask.
#[derive(Clone)]
pub(crate) struct Resolvers {
    configured: Vec<Resolver>,
    /// Port at which the servers of zones answer.
    authority_port: u16,
    allowed: Allowed,
}

/// A name server that can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// What it is called: an address, or the name of a zone's server.
    pub(crate) label: String,
    /// Where it is; the first that answers counts.
    pub(crate) addresses: Vec<SocketAddr>,
}

/// A zone and its own servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Authority {
    /// The zone.
    pub(crate) zone: String,
    /// Its servers that have an address.
    pub(crate) servers: Vec<Server>,
}

impl Server {
    fn at(address: SocketAddr) -> Self {
        let label = match address.port() {
            DNS_PORT => address.ip().to_string(),
            _ => address.to_string(),
        };
        Self { label, addresses: vec![address] }
    }

    /// Asks it: at its addresses in turn, until one answers.
    pub(crate) async fn ask(
        &self,
        name: &Name,
        kind: RecordType,
        recursive: bool,
        limit: Duration,
    ) -> Result<Answer, NoAnswer> {
        let mut last = NoAnswer::Broken("it has no address".into());
        for address in &self.addresses {
            match ask(*address, name, kind, recursive, limit).await {
                Ok(answer) => return Ok(answer),
                Err(why) => last = why,
            }
        }
        Err(last)
    }
}

impl Resolvers {
    pub(crate) fn new(configured: Vec<Resolver>, authority_port: u16, allowed: Allowed) -> Self {
        Self { configured, authority_port, allowed }
    }

    /// The resolvers, each once.
    pub(crate) fn servers(&self) -> Vec<Server> {
        let mut servers: Vec<Server> = Vec::new();
        for resolver in &self.configured {
            match resolver {
                Resolver::At(address) => servers.push(Server::at(*address)),
                Resolver::System => servers.extend(system().into_iter().map(Server::at)),
            }
        }
        let mut seen = Vec::new();
        servers.retain(|s| {
            !seen.contains(&s.addresses) && {
                seen.push(s.addresses.clone());
                true
            }
        });
        servers
    }

    /// Asks all resolvers at once and takes the first answer that says something.
    pub(crate) async fn find(&self, name: &Name, kind: RecordType) -> Result<Answer, NoAnswer> {
        let servers = self.servers();
        let mut asked: FuturesUnordered<_> =
            servers.iter().map(|server| server.ask(name, kind, true, LIMIT)).collect();
        let mut trouble = NoAnswer::Broken("no resolver is configured".into());
        while let Some(said) = asked.next().await {
            match said {
                Ok(answer) if answer.is_final() => return Ok(answer),
                Ok(answer) => trouble = NoAnswer::Failed(answer.code.to_str().to_owned()),
                Err(why) => trouble = why,
            }
        }
        Err(trouble)
    }

    /// The addresses of a host, IPv4 first, each with whether it may be talked to.
    pub(crate) async fn addresses(&self, host: &str) -> Result<Vec<(IpAddr, bool)>, String> {
        let name = full_name(host).map_err(|e| e.to_string())?;
        let (v4, v6) = tokio::join!(self.find(&name, RecordType::A), self.find(&name, RecordType::AAAA));
        let mut found: Vec<IpAddr> = Vec::new();
        for answer in [&v4, &v6].into_iter().flatten() {
            found.extend(answer.values(address_of));
        }
        match (v4, v6) {
            _ if !found.is_empty() => Ok(found.into_iter().map(|ip| (ip, (self.allowed)(ip))).collect()),
            (Err(why), _) | (_, Err(why)) => Err(format!("No resolver says where {host} is: {why}.")),
            _ => Err(format!("{host} has no address in DNS.")),
        }
    }

    /// Where a chain of aliases (CNAME) that begins at `name` leads; `name` itself if it is none.
    pub(crate) async fn follow(&self, name: &str) -> Result<String, NoAnswer> {
        let mut at = plain(name);
        for _ in 0..LONGEST_CHAIN {
            let asked = full_name(&at)?;
            let answer = self.find(&asked, RecordType::CNAME).await?;
            let next = answer.answers.iter().find_map(|r| match &r.data {
                RData::CNAME(to) if r.name == asked => Some(plain(&to.0.to_ascii())),
                _ => None,
            });
            match next {
                Some(next) => at = next,
                None => return Ok(at),
            }
        }
        Err(NoAnswer::Broken(format!("{name} is an alias of an alias of …, in a circle or too many times")))
    }

    /// The zone that holds `name`, and its servers.
    pub(crate) async fn authority(&self, name: &str) -> Result<Authority, NoAnswer> {
        let zone = self.zone(name).await?;
        let answer = self.find(&zone, RecordType::NS).await?;
        let mut names: Vec<Name> = answer
            .values(|data| match data {
                RData::NS(ns) => Some(ns.0.clone()),
                _ => None,
            })
            .collect();
        names.sort();
        names.dedup();
        names.truncate(MOST_SERVERS);
        let servers = join_all(names.iter().map(|name| self.locate(name))).await;
        let servers = servers.into_iter().filter(|s| !s.addresses.is_empty()).collect();
        Ok(Authority { zone: plain(&zone.to_ascii()), servers })
    }

    /// The nearest zone above `name`: where an SOA record is. Below an alias, answers speak of the alias's zone, so that
    /// it is looked for step by step.
    async fn zone(&self, name: &str) -> Result<Name, NoAnswer> {
        let asked = full_name(name)?;
        let mut at = asked.clone();
        while at.num_labels() > 0 {
            let answer = self.find(&at, RecordType::SOA).await?;
            let owners = answer.answers.iter().chain(&answer.authorities);
            let zone = owners.filter(|r| r.record_type() == RecordType::SOA).map(|r| &r.name);
            if let Some(zone) = zone.into_iter().find(|zone| zone.zone_of(&asked)) {
                return Ok(zone.clone());
            }
            at = at.base_name();
        }
        Err(NoAnswer::Broken(format!("no zone holds {name}")))
    }

    /// A zone's server, with those of its addresses that may be talked to.
    async fn locate(&self, name: &Name) -> Server {
        let (v4, v6) = tokio::join!(self.find(name, RecordType::A), self.find(name, RecordType::AAAA));
        let addresses = [v4, v6]
            .into_iter()
            .flatten()
            .flat_map(|answer| answer.values(address_of).collect::<Vec<_>>())
            .filter(|ip| (self.allowed)(*ip))
            .map(|ip| SocketAddr::new(ip, self.authority_port))
            .collect();
        Server { label: plain(&name.to_ascii()), addresses }
    }
}

/// The address that a record holds.
pub(crate) fn address_of(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    }
}

/// The machine's own resolvers.
fn system() -> Vec<SocketAddr> {
    let Ok(text) = std::fs::read("/etc/resolv.conf") else { return Vec::new() };
    let Ok(config) = resolv_conf::Config::parse(text) else { return Vec::new() };
    config.nameservers.iter().map(|ip| SocketAddr::new(IpAddr::from(ip), DNS_PORT)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_addresses_or_the_systems() {
        assert_eq!("System".parse(), Ok(Resolver::System));
        assert_eq!("9.9.9.9".parse(), Ok(Resolver::At(([9, 9, 9, 9], 53).into())));
        assert_eq!("127.0.0.1:5353".parse(), Ok(Resolver::At(([127, 0, 0, 1], 5353).into())));
        assert!("2620:fe::fe".parse::<Resolver>().is_ok());
        assert!("dns.example.com".parse::<Resolver>().is_err());
    }

    #[test]
    fn each_resolver_is_asked_once() {
        let at = Resolver::At(([127, 0, 0, 1], 53).into());
        let resolvers = Resolvers::new(vec![at, at], DNS_PORT, Arc::new(|_| true));
        assert_eq!(resolvers.servers().len(), 1);
    }
}
