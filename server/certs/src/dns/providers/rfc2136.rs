//! Dynamic updates (RFC 2136), signed with a shared key (TSIG, RFC 8945), over TCP to a zone's primary server.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use berth_schemas::dns::TsigAlgorithm;
use hickory_proto::{
    op::{Message, ResponseCode, update_message},
    rr::{
        Name, RData, RecordSet, RecordType, TSigner,
        rdata::{TXT, tsig},
    },
};

use crate::dns::{
    ask::{self, NoAnswer},
    fault::DnsFault,
    provider::{DnsProvider, TTL},
    record::{Record, RecordKind, Zone, plain},
};

const TITLE: &str = "the name server";
/// How long one change may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How long a question may take.
const ASK_LIMIT: Duration = Duration::from_secs(4);
/// Seconds by which the clocks of both sides may differ (RFC 8945, 10).
const FUDGE: u16 = 300;
/// DNS.
const PORT: u16 = 53;

/// A name server that takes updates.
pub(crate) struct Rfc2136 {
    host: String,
    port: u16,
    signer: TSigner,
    zones: Vec<String>,
}

impl Rfc2136 {
    /// Checks the parts without asking anybody.
    pub(crate) fn new(
        server: &str,
        key_name: &str,
        key: &str,
        algorithm: TsigAlgorithm,
        zones: Vec<String>,
    ) -> Result<Self, DnsFault> {
        let malformed = |what: &str| DnsFault::Malformed(what.to_owned());
        let (host, port) = host_and_port(server)
            .ok_or_else(|| malformed("server must be an address or host name, such as 192.0.2.53, [2001:db8::53]:5353 or ns.example.com"))?;
        let name = Name::from_ascii(key_name.trim())
            .ok()
            .filter(|n| n.num_labels() > 0)
            .ok_or_else(|| malformed("tsig_name is no name of a key, such as berth-key"))?;
        let key = BASE64_STANDARD
            .decode(key.trim())
            .ok()
            .filter(|k| !k.is_empty())
            .ok_or_else(|| malformed("tsig_secret is not base 64, as `tsig-keygen` prints it"))?;
        let algorithm = match algorithm {
            TsigAlgorithm::HmacSha256 => tsig::TsigAlgorithm::HmacSha256,
            TsigAlgorithm::HmacSha384 => tsig::TsigAlgorithm::HmacSha384,
            TsigAlgorithm::HmacSha512 => tsig::TsigAlgorithm::HmacSha512,
        };
        let signer = TSigner::new(key, algorithm, name, FUDGE)
            .map_err(|e| DnsFault::Malformed(format!("the key cannot be used: {e}")))?;
        Ok(Self { host, port, signer, zones })
    }

    /// Where the server is. An administrator named it, so it may be anywhere.
    async fn address(&self) -> Result<SocketAddr, DnsFault> {
        let unreachable = |reason: String| DnsFault::Unreachable { provider: TITLE, reason };
        tokio::time::timeout(LIMIT, tokio::net::lookup_host((self.host.as_str(), self.port)))
            .await
            .map_err(|_| unreachable(format!("{} does not resolve in time", self.host)))?
            .map_err(|e| unreachable(format!("{} does not resolve: {e}", self.host)))?
            .next()
            .ok_or_else(|| unreachable(format!("{} has no address", self.host)))
    }

    /// The zone on the server that holds `name`, as its SOA record says.
    async fn apex(&self, server: SocketAddr, name: &str) -> Result<String, DnsFault> {
        let asked = full_name(name)?;
        let answer =
            ask::ask(server, &asked, RecordType::SOA, false, ASK_LIMIT).await.map_err(unreachable)?;
        if !answer.is_final() {
            return Err(rejected(answer.code, format!("asked for the SOA record of {name}")));
        }
        let owners = answer.answers.iter().chain(&answer.authorities);
        owners
            .filter(|r| r.record_type() == RecordType::SOA && r.name.zone_of(&asked))
            .map(|r| plain(&r.name.to_ascii()))
            .next()
            .ok_or_else(|| DnsFault::NoZone { provider: TITLE, name: name.to_owned() })
    }

    /// Sends an update and believes only an answer that is signed with the same key.
    async fn update(&self, mut message: Message) -> Result<(), DnsFault> {
        let server = self.address().await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let strange = |reason: String| DnsFault::Strange { provider: TITLE, reason };
        let verifier = message.finalize(&self.signer, now).map_err(|e| strange(e.to_string()))?;
        let sent = message.to_vec().map_err(|e| strange(e.to_string()))?;
        let received = tokio::time::timeout(LIMIT, ask::by_stream(server, &sent))
            .await
            .map_err(|_| unreachable(NoAnswer::Silent(LIMIT)))?
            .map_err(unreachable)?;
        let answer = Message::from_vec(&received).map_err(|e| strange(e.to_string()))?;
        // Errors about the key itself are not signed, as there is nothing that both sides have (RFC 8945, 5.3.2).
        if let Some(error) = answer.signature().and_then(|tsig| tsig.data.error.as_ref()) {
            return Err(DnsFault::Refused { provider: TITLE, said: format!("TSIG error {error:?}") });
        }
        if answer.response_code == ResponseCode::NotAuth && answer.signature().is_none() {
            return Err(rejected(answer.response_code, "it is not authoritative for the zone".into()));
        }
        let verified = verifier.is_none_or(|mut v| v.verify(&received).is_ok());
        match answer.response_code {
            ResponseCode::NoError if verified => Ok(()),
            ResponseCode::NoError => Err(strange("the answer is not signed with the key".into())),
            ResponseCode::Refused => Err(DnsFault::Refused {
                provider: TITLE,
                said: "REFUSED: its policy does not let this key make this change".into(),
            }),
            code => Err(rejected(code, String::new())),
        }
    }
}

#[async_trait]
impl DnsProvider for Rfc2136 {
    fn title(&self) -> &'static str {
        TITLE
    }

    async fn zones(&self) -> Result<Vec<Zone>, DnsFault> {
        let server = self.address().await?;
        let mut zones = Vec::new();
        for name in &self.zones {
            let id = self.apex(server, name).await?;
            zones.push(Zone { name: name.clone(), id });
        }
        Ok(zones)
    }

    async fn add(&self, zone: &Zone, record: &Record) -> Result<(), DnsFault> {
        self.update(update_message::append(set_of(record)?, full_name(&zone.id)?, false, true)).await
    }

    async fn remove(&self, zone: &Zone, record: &Record) -> Result<(), DnsFault> {
        self.update(update_message::delete_by_rdata(set_of(record)?, full_name(&zone.id)?, true)).await
    }
}

fn set_of(record: &Record) -> Result<RecordSet, DnsFault> {
    let (kind, data) = match record.kind {
        RecordKind::Txt => (RecordType::TXT, RData::TXT(TXT::new(vec![record.value.clone()]))),
    };
    let mut set = RecordSet::with_ttl(full_name(&record.name)?, kind, TTL);
    set.add_rdata(data);
    Ok(set)
}

fn full_name(name: &str) -> Result<Name, DnsFault> {
    ask::full_name(name).map_err(|e| DnsFault::Malformed(format!("{name:?} is no name: {e}")))
}

fn unreachable(why: NoAnswer) -> DnsFault {
    DnsFault::Unreachable { provider: TITLE, reason: why.to_string() }
}

fn rejected(code: ResponseCode, said: String) -> DnsFault {
    DnsFault::Rejected { provider: TITLE, status: code.to_str().to_owned(), said }
}

/// Host and port of `host`, `host:port`, an IP address, or an IPv6 address in brackets with a port.
fn host_and_port(text: &str) -> Option<(String, u16)> {
    let text = text.trim();
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some((address.ip().to_string(), address.port()));
    }
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Some((address.to_string(), PORT));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok().filter(|p| *p != 0)?),
        None => (text, PORT),
    };
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let good = host.len() <= 253 && host.trim_end_matches('.').split('.').all(label);
    good.then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_an_address_or_a_name() {
        let of = |text: &str| host_and_port(text).map(|(h, p)| format!("{h} {p}"));
        assert_eq!(of("192.0.2.1").as_deref(), Some("192.0.2.1 53"));
        assert_eq!(of("192.0.2.1:5353").as_deref(), Some("192.0.2.1 5353"));
        assert_eq!(of("[2001:db8::1]:5353").as_deref(), Some("2001:db8::1 5353"));
        assert_eq!(of("2001:db8::1").as_deref(), Some("2001:db8::1 53"));
        assert_eq!(of("ns.example.com:54").as_deref(), Some("ns.example.com 54"));
        for bad in ["", ":53", "ns.example.com:0", "ns.example.com:x", "http://ns", "a b", "ns..com"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_key_that_cannot_be_right_is_named() {
        let with = |name: &str, secret: &str| {
            Rfc2136::new("192.0.2.1", name, secret, TsigAlgorithm::HmacSha256, Vec::new()).err()
        };
        assert!(with("key", "c2VzYW1l").is_none());
        assert!(
            matches!(with("key", "not base 64!"), Some(DnsFault::Malformed(t)) if t.contains("tsig_secret"))
        );
        assert!(matches!(with("", "c2VzYW1l"), Some(DnsFault::Malformed(t)) if t.contains("tsig_name")));
    }
}
