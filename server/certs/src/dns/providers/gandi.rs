//! Gandi LiveDNS, API v5.
//!
//! Shapes: <https://api.gandi.net/docs/livedns/> and <https://api.gandi.net/docs/authentication/>. Records are sets
//! by name and type: `GET` and `PUT /domains/{fqdn}/records/{name}/{type}` with `{rrset_ttl, rrset_values}`; a set
//! is replaced as a whole; lists take `page` and `per_page`; errors are `{code, message, cause}`.

use async_trait::async_trait;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::http::{Api, MOST_PAGES, text_at};
use crate::dns::{
    fault::DnsFault,
    provider::DnsProvider,
    record::{Record, Zone, unquoted},
};

const TITLE: &str = "Gandi";
const BASE: &str = "https://api.gandi.net/v5/livedns";
/// The least that Gandi takes, in seconds.
const TTL: u32 = 300;
/// Domains in a page.
const PER_PAGE: usize = 100;

/// Gandi.
pub(crate) struct Gandi(Api);

#[derive(Deserialize)]
struct Domain {
    fqdn: String,
}

#[derive(Deserialize)]
struct Set {
    rrset_ttl: u32,
    rrset_values: Vec<String>,
}

impl Gandi {
    pub(crate) fn new(token: &str) -> Result<Self, DnsFault> {
        Self::at(BASE, token)
    }

    pub(super) fn at(base: &str, token: &str) -> Result<Self, DnsFault> {
        Ok(Self(Api::new(TITLE, base, Some(token))?))
    }

    fn path(zone: &Zone, record: &Record) -> String {
        format!("/domains/{}/records/{}/{}", zone.id, zone.relative(&record.name), record.kind.as_str())
    }

    async fn set(&self, path: &str) -> Result<Set, DnsFault> {
        let reply = self.0.json(Method::GET, path, &[], None).await?;
        if reply.is(404) {
            return Ok(Set { rrset_ttl: TTL, rrset_values: Vec::new() });
        }
        reply.granted(said)
    }

    async fn put(&self, path: &str, set: &Set) -> Result<(), DnsFault> {
        let body = json!({ "rrset_ttl": set.rrset_ttl, "rrset_values": set.rrset_values });
        self.0.json(Method::PUT, path, &[], Some(&body)).await?.check(said)
    }
}

#[async_trait]
impl DnsProvider for Gandi {
    fn title(&self) -> &'static str {
        TITLE
    }

    async fn zones(&self) -> Result<Vec<Zone>, DnsFault> {
        let mut zones = Vec::new();
        for page in 1..=MOST_PAGES {
            let (page, per_page) = (page.to_string(), PER_PAGE.to_string());
            let query = [("page", page.as_str()), ("per_page", per_page.as_str())];
            let domains: Vec<Domain> =
                self.0.json(Method::GET, "/domains", &query, None).await?.granted(said)?;
            let full = domains.len() == PER_PAGE;
            zones.extend(
                domains.into_iter().map(|d| Zone { id: d.fqdn.clone(), name: d.fqdn.to_ascii_lowercase() }),
            );
            if !full {
                break;
            }
        }
        Ok(zones)
    }

    async fn add(&self, zone: &Zone, record: &Record) -> Result<(), DnsFault> {
        let path = Self::path(zone, record);
        let mut set = self.set(&path).await?;
        if set.rrset_values.iter().any(|v| unquoted(record.kind, v) == record.value) {
            return Ok(());
        }
        set.rrset_values.push(record.quoted());
        self.put(&path, &set).await
    }

    async fn remove(&self, zone: &Zone, record: &Record) -> Result<(), DnsFault> {
        let path = Self::path(zone, record);
        let mut set = self.set(&path).await?;
        let before = set.rrset_values.len();
        set.rrset_values.retain(|v| unquoted(record.kind, v) != record.value);
        if set.rrset_values.len() == before {
            return Ok(());
        }
        if !set.rrset_values.is_empty() {
            return self.put(&path, &set).await;
        }
        let reply = self.0.json(Method::DELETE, &path, &[], None).await?;
        if reply.is(404) { Ok(()) } else { reply.check(said) }
    }
}

fn said(value: &Value) -> Option<String> {
    text_at(value, &["/message", "/cause"])
}
