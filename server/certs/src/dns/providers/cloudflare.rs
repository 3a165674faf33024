//! Cloudflare's API v4.
//!
//! Shapes: <https://developers.cloudflare.com/api/resources/zones/methods/list/> and
//! <https://developers.cloudflare.com/api/resources/dns/subresources/records/>. Answers are
//! `{success, errors: [{code, message}], result, result_info: {page, total_pages}}`; records have ids.

use async_trait::async_trait;
use reqwest::Method;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::http::{Api, MOST_PAGES, Reply};
use crate::dns::{
    fault::DnsFault,
    provider::{DnsProvider, TTL},
    record::{Record, Zone, unquoted},
};

const TITLE: &str = "Cloudflare";
const BASE: &str = "https://api.cloudflare.com/client/v4";
/// The record is there already.
const IDENTICAL: i64 = 81058;

/// Cloudflare.
pub(crate) struct Cloudflare(Api);

#[derive(Deserialize)]
struct Envelope<T> {
    #[serde(default = "Vec::new")]
    result: Vec<T>,
    result_info: Option<Info>,
}

#[derive(Deserialize)]
struct Info {
    #[serde(default)]
    total_pages: u32,
}

#[derive(Deserialize)]
struct ZoneItem {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct RecordItem {
    id: String,
    content: String,
}

impl Cloudflare {
    pub(crate) fn new(token: &str) -> Result<Self, DnsFault> {
        Self::at(BASE, token)
    }

    pub(super) fn at(base: &str, token: &str) -> Result<Self, DnsFault> {
        Ok(Self(Api::new(TITLE, base, Some(token))?))
    }

    /// All pages of a list.
    async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Vec<T>, DnsFault> {
        let mut all = Vec::new();
        for page in 1..=MOST_PAGES {
            let page_text = page.to_string();
            let query = [query, &[("page", page_text.as_str()), ("per_page", "50")]].concat();
            let reply = self.0.json(Method::GET, path, &query, None).await?;
            let envelope: Envelope<T> = reply.granted(said)?;
            all.extend(envelope.result);
            if envelope.result_info.is_none_or(|info| page >= info.total_pages) {
                break;
            }
        }
        Ok(all)
    }
}

#[async_trait]
impl DnsProvider for Cloudflare {
    fn title(&self) -> &'static str {
        TITLE
    }

    async fn zones(&self) -> Result<Vec<Zone>, DnsFault> {
        let zones: Vec<ZoneItem> = self.list("/zones", &[]).await?;
        Ok(zones.into_iter().map(|z| Zone { name: z.name.to_ascii_lowercase(), id: z.id }).collect())
    }

    async fn add(&self, zone: &Zone, record: &Record) -> Result<(), DnsFault> {
        let body = json!({
            "type": record.kind.as_str(), "name": record.name, "content": record.quoted(), "ttl": TTL,
            "comment": "Set by Berth to prove the name to a certificate authority",
        });
        let path = format!("/zones/{}/dns_records", zone.id);
        let reply = self.0.json(Method::POST, &path, &[], Some(&body)).await?;
        if is_identical(&reply) { Ok(()) } else { reply.check(said) }
    }

    async fn remove(&self, zone: &Zone, record: &Record) -> Result<(), DnsFault> {
        let path = format!("/zones/{}/dns_records", zone.id);
        let query = [("type", record.kind.as_str()), ("name", record.name.as_str())];
        let records: Vec<RecordItem> = self.list(&path, &query).await?;
        for item in records.iter().filter(|r| unquoted(record.kind, &r.content) == record.value) {
            let reply = self.0.json(Method::DELETE, &format!("{path}/{}", item.id), &[], None).await?;
            if !reply.is(404) {
                reply.check(said)?;
            }
        }
        Ok(())
    }
}

fn is_identical(reply: &Reply) -> bool {
    let value: Value = serde_json::from_str(&reply.text()).unwrap_or_default();
    let codes = value["errors"].as_array().into_iter().flatten();
    codes.filter_map(|e| e["code"].as_i64()).any(|code| code == IDENTICAL)
}

fn said(value: &Value) -> Option<String> {
    let errors = value["errors"].as_array()?.iter();
    let texts: Vec<String> =
        errors.filter_map(|e| Some(format!("{} ({})", e["message"].as_str()?, e["code"]))).collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}
