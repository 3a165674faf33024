//! Amazon Route 53, API of 2013-04-01: XML, signed with Signature Version 4.
//!
//! Shapes: <https://docs.aws.amazon.com/Route53/latest/APIReference/> (ListHostedZones, ListResourceRecordSets,
//! ChangeResourceRecordSets) and <https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html>. A set
//! is changed by deleting it exactly as it was and creating the new one, in one batch: if somebody else changed it
//! meanwhile, Amazon refuses both, and it is read again.

use async_trait::async_trait;
use quick_xml::escape::escape;
use reqwest::Method;
use ring::{digest, hmac};
use serde::{Deserialize, de::DeserializeOwned};

use super::http::{Api, MOST_PAGES, Reply};
use crate::dns::{
    fault::DnsFault,
    provider::{DnsProvider, TTL},
    record::{Record, Zone, plain, unquoted},
};

const TITLE: &str = "Route 53";
const BASE: &str = "https://route53.amazonaws.com";
const VERSION: &str = "/2013-04-01";
const NAMESPACE: &str = "https://route53.amazonaws.com/doc/2013-04-01/";
/// Route 53 is one service for the whole world, at home here.
const SCOPE: &str = "us-east-1/route53/aws4_request";
/// How often a change is tried again because somebody else changed the set meanwhile.
const TRIES: u32 = 4;

/// Route 53.
pub(crate) struct Route53 {
    api: Api,
    host: String,
    key_id: String,
    secret: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ZoneList {
    #[serde(default)]
    hosted_zones: Zones,
    is_truncated: bool,
    next_marker: Option<String>,
}

#[derive(Deserialize, Default)]
struct Zones {
    #[serde(rename = "HostedZone", default)]
    items: Vec<ZoneItem>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ZoneItem {
    id: String,
    name: String,
    config: Option<ZoneConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ZoneConfig {
    #[serde(default)]
    private_zone: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SetList {
    #[serde(default)]
    resource_record_sets: Sets,
}

#[derive(Deserialize, Default)]
struct Sets {
    #[serde(rename = "ResourceRecordSet", default)]
    items: Vec<Set>,
}

#[derive(Deserialize)]
struct Set {
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "Type")]
    kind: String,
    #[serde(rename = "TTL", default)]
    ttl: u32,
    #[serde(rename = "ResourceRecords", default)]
    records: Values,
}

#[derive(Deserialize, Default)]
struct Values {
    #[serde(rename = "ResourceRecord", default)]
    items: Vec<ValueItem>,
}

#[derive(Deserialize)]
struct ValueItem {
    #[serde(rename = "Value")]
    value: String,
}

#[derive(Deserialize)]
struct ErrorResponse {
    #[serde(rename = "Error")]
    error: Option<ErrorItem>,
    #[serde(rename = "Messages")]
    messages: Option<Messages>,
}

#[derive(Deserialize)]
struct ErrorItem {
    #[serde(rename = "Code", default)]
    code: String,
    #[serde(rename = "Message", default)]
    message: String,
}

#[derive(Deserialize)]
struct Messages {
    #[serde(rename = "Message", default)]
    items: Vec<String>,
}

impl Route53 {
    pub(crate) fn new(key_id: &str, secret: &str) -> Result<Self, DnsFault> {
        Self::at(BASE, key_id, secret)
    }

    pub(super) fn at(base: &str, key_id: &str, secret: &str) -> Result<Self, DnsFault> {
        let host = base.rsplit('/').next().unwrap_or_default().to_owned();
        let (key_id, secret) = (key_id.trim().to_owned(), secret.trim().to_owned());
        let good = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        if !good(&key_id) || !good(&secret) {
            return Err(DnsFault::Malformed("the access key holds characters that no key has".to_owned()));
        }
        Ok(Self { api: Api::new(TITLE, base, None)?, host, key_id, secret })
    }

    /// Sends a signed request. `query` is sorted by name, and its values need no escaping.
    async fn send(&self, method: Method, path: &str, query: &str, body: &str) -> Result<Reply, DnsFault> {
        let mark = if query.is_empty() { "" } else { "?" };
        let url = format!("{}{path}{mark}{query}", self.api.base());
        self.api
            .send(|| {
                let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
                let signature = self.authorization(method.as_str(), path, query, body, &now);
                self.api
                    .request(method.clone(), &url)
                    .header("x-amz-date", now)
                    .header("authorization", signature)
                    .header("content-type", "application/xml")
                    .body(body.to_owned())
            })
            .await
    }

    /// The Authorization header of a request at `now`, in the basic form of ISO 8601.
    fn authorization(&self, method: &str, path: &str, query: &str, body: &str, now: &str) -> String {
        let hash = |text: &str| hex::encode(digest::digest(&digest::SHA256, text.as_bytes()));
        let canonical = format!(
            "{method}\n{path}\n{query}\nhost:{}\nx-amz-date:{now}\n\nhost;x-amz-date\n{}",
            self.host,
            hash(body)
        );
        let day = now.get(..8).unwrap_or_default();
        let to_sign = format!("AWS4-HMAC-SHA256\n{now}\n{day}/{SCOPE}\n{}", hash(&canonical));
        let first = format!("AWS4{}", self.secret).into_bytes();
        let key =
            std::iter::once(day).chain(SCOPE.split('/')).fold(first, |key, part| mac(&key, part.as_bytes()));
        let signature = hex::encode(mac(&key, to_sign.as_bytes()));
        format!(
            "AWS4-HMAC-SHA256 Credential={}/{day}/{SCOPE}, SignedHeaders=host;x-amz-date, Signature={signature}",
            self.key_id
        )
    }

    /// The set of the record's name and type, if there is one.
    async fn set(&self, zone: &Zone, record: &Record) -> Result<Option<Set>, DnsFault> {
        let query = format!("maxitems=1&name={}&type={}", record.name, record.kind.as_str());
        let path = format!("{VERSION}/hostedzone/{}/rrset", zone.id);
        let list: SetList = read(&self.send(Method::GET, &path, &query, "").await?)?;
        // The list begins at the name, so that the first set may be another one.
        let first = list.resource_record_sets.items.into_iter().next();
        Ok(first.filter(|s| plain(&s.name) == record.name && s.kind == record.kind.as_str()))
    }

    /// Makes the set hold what `change` makes of its values; none means that nothing is to be done.
    async fn change(
        &self,
        zone: &Zone,
        record: &Record,
        change: impl Fn(&[String]) -> Option<Vec<String>> + Send + Sync,
    ) -> Result<(), DnsFault> {
        let mut last = None;
        for _ in 0..TRIES {
            let old = self.set(zone, record).await?;
            let (ttl, before) = match old {
                Some(set) => (set.ttl, set.records.items.into_iter().map(|v| v.value).collect()),
                None => (TTL, Vec::new()),
            };
            let Some(after) = change(&before) else { return Ok(()) };
            let changes =
                [change_of("DELETE", record, ttl, &before), change_of("CREATE", record, ttl, &after)]
                    .concat();
            let body = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ChangeResourceRecordSetsRequest xmlns=\"{NAMESPACE}\"><ChangeBatch><Changes>{changes}</Changes></ChangeBatch></ChangeResourceRecordSetsRequest>"
            );
            let path = format!("{VERSION}/hostedzone/{}/rrset/", zone.id);
            let reply = self.send(Method::POST, &path, "", &body).await?;
            if reply.is(200) {
                return Ok(());
            }
            let (code, fault) = fault(&reply);
            if !matches!(code.as_str(), "InvalidChangeBatch" | "PriorRequestNotComplete" | "Throttling") {
                return Err(fault);
            }
            last = Some(fault);
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
        Err(last.unwrap_or_else(|| DnsFault::Strange { provider: TITLE, reason: "no try was made".into() }))
    }
}

#[async_trait]
impl DnsProvider for Route53 {
    fn title(&self) -> &'static str {
        TITLE
    }

    async fn zones(&self) -> Result<Vec<Zone>, DnsFault> {
        let mut zones = Vec::new();
        let mut query = "maxitems=100".to_owned();
        for _ in 0..MOST_PAGES {
            let path = format!("{VERSION}/hostedzone");
            let list: ZoneList = read(&self.send(Method::GET, &path, &query, "").await?)?;
            // Private zones answer within Amazon's networks only, where no authority looks.
            let public = list
                .hosted_zones
                .items
                .into_iter()
                .filter(|z| z.config.as_ref().is_none_or(|c| !c.private_zone));
            zones.extend(public.map(|z| Zone {
                name: plain(&z.name),
                id: z.id.rsplit('/').next().unwrap_or_default().to_owned(),
            }));
            match list.next_marker.filter(|_| list.is_truncated) {
                Some(marker) if marker.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                    query = format!("marker={marker}&maxitems=100");
                }
                _ => break,
            }
        }
        Ok(zones)
    }

    async fn add(&self, zone: &Zone, record: &Record) -> Result<(), DnsFault> {
        self.change(zone, record, |values| {
            let there = values.iter().any(|v| unquoted(record.kind, v) == record.value);
            (!there).then(|| [values, &[record.quoted()]].concat())
        })
        .await
    }

    async fn remove(&self, zone: &Zone, record: &Record) -> Result<(), DnsFault> {
        self.change(zone, record, |values| {
            let left: Vec<String> =
                values.iter().filter(|v| unquoted(record.kind, v) != record.value).cloned().collect();
            (left.len() < values.len()).then_some(left)
        })
        .await
    }
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
}

/// One change of a batch; nothing for a set without values.
fn change_of(action: &str, record: &Record, ttl: u32, values: &[String]) -> String {
    if values.is_empty() {
        return String::new();
    }
    let values: String = values
        .iter()
        .map(|v| format!("<ResourceRecord><Value>{}</Value></ResourceRecord>", escape(v.as_str())))
        .collect();
    format!(
        "<Change><Action>{action}</Action><ResourceRecordSet><Name>{}.</Name><Type>{}</Type><TTL>{ttl}</TTL><ResourceRecords>{values}</ResourceRecords></ResourceRecordSet></Change>",
        escape(record.name.as_str()),
        record.kind.as_str()
    )
}

fn read<T: DeserializeOwned>(reply: &Reply) -> Result<T, DnsFault> {
    if !reply.is(200) {
        return Err(fault(reply).1);
    }
    quick_xml::de::from_str(&reply.text())
        .map_err(|e| DnsFault::Strange { provider: TITLE, reason: e.to_string() })
}

/// The code of an error, and the fault that it is.
fn fault(reply: &Reply) -> (String, DnsFault) {
    let text = reply.text();
    let Ok(response) = quick_xml::de::from_str::<ErrorResponse>(&text) else {
        return (String::new(), reply.fault(text));
    };
    match (response.error, response.messages) {
        (Some(error), _) => {
            let said = format!("{} ({})", error.message, error.code);
            (error.code, reply.fault(said))
        }
        (None, Some(messages)) => ("InvalidChangeBatch".to_owned(), reply.fault(messages.items.join("; "))),
        (None, None) => (String::new(), reply.fault(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The signatures were made by botocore 1.x (`botocore.auth.SigV4Auth`) for the same requests and time.
    #[test]
    fn requests_are_signed_as_amazons_own_library_does() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let route53 = Route53::new("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY").unwrap();
        let now = "20260102T030405Z";
        let query = "maxitems=1&name=_acme-challenge.example.com&type=TXT";
        let get = route53.authorization("GET", "/2013-04-01/hostedzone/Z1/rrset", query, "", now);
        assert_eq!(
            get,
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260102/us-east-1/route53/aws4_request, SignedHeaders=host;x-amz-date, Signature=7b54bda0cd8edcbbeed25d5b1f67996ee62c349dad9e1e78903b326f21e70e58"
        );
        let post = route53.authorization("POST", "/2013-04-01/hostedzone/Z1/rrset/", "", "<x/>", now);
        assert!(post.ends_with("8d60098979f54859294927aa1662383a330bc3e9a567eeec99f83c0ea79bb99d"), "{post}");
    }
}
