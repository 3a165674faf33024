//! Hetzner's Cloud API, which took the place of dns.hetzner.com.
//!
//! Shapes: <https://docs.hetzner.cloud/reference/cloud#zones> and
//! <https://docs.hetzner.cloud/reference/cloud#zone-rrset-actions>. Records are sets by name and type; `add_records`
//! makes the set if it is missing and `remove_records` takes single values out; pages say
//! `meta.pagination.next_page`; errors are `{error: {code, message}}`.

use async_trait::async_trait;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::http::{Api, MOST_PAGES, Reply, text_at};
use crate::dns::{
    fault::DnsFault,
    provider::{DnsProvider, TTL},
    record::{Record, Zone, unquoted},
};

const TITLE: &str = "Hetzner";
const BASE: &str = "https://api.hetzner.cloud/v1";

/// Hetzner.
pub(crate) struct Hetzner(Api);

#[derive(Deserialize)]
struct ZonePage {
    zones: Vec<ZoneItem>,
}

#[derive(Deserialize)]
struct ZoneItem {
    id: i64,
    name: String,
}

impl Hetzner {
    pub(crate) fn new(token: &str) -> Result<Self, DnsFault> {
        Self::at(BASE, token)
    }

    pub(super) fn at(base: &str, token: &str) -> Result<Self, DnsFault> {
        Ok(Self(Api::new(TITLE, base, Some(token))?))
    }

    fn set(zone: &Zone, record: &Record) -> String {
        format!("/zones/{}/rrsets/{}/{}", zone.id, zone.relative(&record.name), record.kind.as_str())
    }

    /// Whether the set of the record's name holds its value.
    async fn has(&self, zone: &Zone, record: &Record) -> Result<bool, DnsFault> {
        let reply = self.0.json(Method::GET, &Self::set(zone, record), &[], None).await?;
        if reply.is(404) {
            return Ok(false);
        }
        let value: Value = reply.granted(said)?;
        let records = value.pointer("/rrset/records").and_then(Value::as_array);
        let mut values = records.into_iter().flatten().filter_map(|r| r["value"].as_str());
        Ok(values.any(|v| unquoted(record.kind, v) == record.value))
    }

    async fn act(&self, zone: &Zone, record: &Record, action: &str, body: &Value) -> Result<Reply, DnsFault> {
        let path = format!("{}/actions/{action}", Self::set(zone, record));
        self.0.json(Method::POST, &path, &[], Some(body)).await
    }
}

#[async_trait]
impl DnsProvider for Hetzner {
    fn title(&self) -> &'static str {
        TITLE
    }

    async fn zones(&self) -> Result<Vec<Zone>, DnsFault> {
        let mut zones = Vec::new();
        let mut page = 1;
        for _ in 0..MOST_PAGES {
            let number = page.to_string();
            let query = [("page", number.as_str()), ("per_page", "50")];
            let value: Value = self.0.json(Method::GET, "/zones", &query, None).await?.granted(said)?;
            let next = value.pointer("/meta/pagination/next_page").and_then(Value::as_u64);
            let items: ZonePage = serde_json::from_value(value)
                .map_err(|e| DnsFault::Strange { provider: TITLE, reason: e.to_string() })?;
            zones.extend(
                items
                    .zones
                    .into_iter()
                    .map(|z| Zone { id: z.id.to_string(), name: z.name.to_ascii_lowercase() }),
            );
            match next {
                Some(next) => page = next,
                None => break,
            }
        }
        Ok(zones)
    }

    async fn add(&self, zone: &Zone, record: &Record) -> Result<(), DnsFault> {
        // A value that is there already is refused.
        if self.has(zone, record).await? {
            return Ok(());
        }
        let value = json!({ "value": record.quoted(), "comment": "Berth" });
        let mut body = json!({ "records": [value], "ttl": TTL });
        let mut reply = self.act(zone, record, "add_records", &body).await?;
        if reply.is(409) || reply.is(422) {
            // A set that is there keeps the TTL that it has.
            if let Some(body) = body.as_object_mut() {
                body.remove("ttl");
            }
            reply = self.act(zone, record, "add_records", &body).await?;
        }
        reply.check(said)
    }

    async fn remove(&self, zone: &Zone, record: &Record) -> Result<(), DnsFault> {
        if !self.has(zone, record).await? {
            return Ok(());
        }
        let body = json!({ "records": [{ "value": record.quoted() }] });
        let reply = self.act(zone, record, "remove_records", &body).await?;
        if reply.is(404) { Ok(()) } else { reply.check(said) }
    }
}

fn said(value: &Value) -> Option<String> {
    let message = text_at(value, &["/error/message"])?;
    Some(match text_at(value, &["/error/code"]) {
        Some(code) => format!("{message} ({code})"),
        None => message,
    })
}
