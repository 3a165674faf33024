//! DigitalOcean's API v2.
//!
//! Shapes: <https://docs.digitalocean.com/reference/api/reference/domains/> and
//! <https://docs.digitalocean.com/reference/api/reference/domain-records/>. Lists have `links.pages.next` while
//! there are more pages; names of new records are relative to the domain, names to filter by are full; errors are
//! `{id, message}`.

use async_trait::async_trait;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::http::{Api, MOST_PAGES, text_at};
use crate::dns::{
    fault::DnsFault,
    provider::{DnsProvider, TTL},
    record::{Record, Zone, unquoted},
};

const TITLE: &str = "DigitalOcean";
const BASE: &str = "https://api.digitalocean.com/v2";

/// DigitalOcean.
pub(crate) struct DigitalOcean(Api);

#[derive(Deserialize)]
struct Domain {
    name: String,
}

#[derive(Deserialize)]
struct RecordItem {
    id: u64,
    data: String,
}

impl DigitalOcean {
    pub(crate) fn new(token: &str) -> Result<Self, DnsFault> {
        Self::at(BASE, token)
    }

    pub(super) fn at(base: &str, token: &str) -> Result<Self, DnsFault> {
        Ok(Self(Api::new(TITLE, base, Some(token))?))
    }

    /// The items under `key` of all pages of a list.
    async fn list<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        key: &str,
        query: &[(&str, &str)],
    ) -> Result<Vec<T>, DnsFault> {
        let mut all = Vec::new();
        for page in 1..=MOST_PAGES {
            let page = page.to_string();
            let query = [query, &[("page", page.as_str()), ("per_page", "200")]].concat();
            let mut value: Value = self.0.json(Method::GET, path, &query, None).await?.granted(said)?;
            let items: Vec<T> = serde_json::from_value(value[key].take())
                .map_err(|e| DnsFault::Strange { provider: TITLE, reason: e.to_string() })?;
            all.extend(items);
            if value.pointer("/links/pages/next").is_none_or(Value::is_null) {
                break;
            }
        }
        Ok(all)
    }

    async fn same(&self, zone: &Zone, record: &Record) -> Result<Vec<RecordItem>, DnsFault> {
        let path = format!("/domains/{}/records", zone.id);
        let query = [("type", record.kind.as_str()), ("name", record.name.as_str())];
        let mut records: Vec<RecordItem> = self.list(&path, "domain_records", &query).await?;
        records.retain(|r| unquoted(record.kind, &r.data) == record.value);
        Ok(records)
    }
}

#[async_trait]
impl DnsProvider for DigitalOcean {
    fn title(&self) -> &'static str {
        TITLE
    }

    async fn zones(&self) -> Result<Vec<Zone>, DnsFault> {
        let domains: Vec<Domain> = self.list("/domains", "domains", &[]).await?;
        Ok(domains
            .into_iter()
            .map(|d| Zone { id: d.name.clone(), name: d.name.to_ascii_lowercase() })
            .collect())
    }

    async fn add(&self, zone: &Zone, record: &Record) -> Result<(), DnsFault> {
        // It would add the same record a second time.
        if !self.same(zone, record).await?.is_empty() {
            return Ok(());
        }
        let body = json!({
            "type": record.kind.as_str(), "name": zone.relative(&record.name), "data": record.value, "ttl": TTL,
        });
        let path = format!("/domains/{}/records", zone.id);
        self.0.json(Method::POST, &path, &[], Some(&body)).await?.check(said)
    }

    async fn remove(&self, zone: &Zone, record: &Record) -> Result<(), DnsFault> {
        for item in self.same(zone, record).await? {
            let path = format!("/domains/{}/records/{}", zone.id, item.id);
            let reply = self.0.json(Method::DELETE, &path, &[], None).await?;
            if !reply.is(404) {
                reply.check(said)?;
            }
        }
        Ok(())
    }
}

fn said(value: &Value) -> Option<String> {
    text_at(value, &["/message", "/id"])
}
