//! The HTTP providers against stand-ins on loopback that accept only what the documented interfaces accept: method,
//! path, query, Authorization header and body. Each keeps the values of one set of records, with somebody else's
//! value among them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    body::to_bytes,
    extract::Request,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
};
use serde_json::{Value, json};

use super::{Cloudflare, DigitalOcean, Gandi, Hetzner, Route53};
use crate::dns::{
    fault::DnsFault,
    provider::DnsProvider,
    record::{Record, Zone},
};

const NAME: &str = "_acme-challenge.shop.example.com";
const RELATIVE: &str = "_acme-challenge.shop";
const TOKEN: &str = "sesame";

/// A request as a stand-in sees it.
struct Asked {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    headers: HeaderMap,
    body: String,
}

impl Asked {
    fn is(&self, method: &str, path: &str) -> bool {
        self.method == method && self.path == path
    }

    fn json(&self) -> Value {
        assert_eq!(self.headers["content-type"], "application/json", "{} {}", self.method, self.path);
        serde_json::from_str(&self.body).unwrap()
    }

    fn authorization(&self) -> &str {
        self.headers.get("authorization").map_or("", |v| v.to_str().unwrap())
    }
}

/// Values by an id.
#[derive(Clone)]
struct Values(Arc<Mutex<BTreeMap<u64, String>>>);

impl Values {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(BTreeMap::from([(1, "theirs".to_owned())]))))
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().values().cloned().collect()
    }

    fn items(&self) -> Vec<(u64, String)> {
        self.0.lock().unwrap().iter().map(|(id, v)| (*id, v.clone())).collect()
    }

    fn add(&self, value: &str) -> u64 {
        let mut values = self.0.lock().unwrap();
        let id = values.keys().max().unwrap_or(&0) + 1;
        values.insert(id, value.to_owned());
        id
    }

    fn drop(&self, id: u64) -> bool {
        self.0.lock().unwrap().remove(&id).is_some()
    }

    fn replace(&self, all: impl IntoIterator<Item = String>) {
        *self.0.lock().unwrap() = (1..).zip(all).collect();
    }
}

/// Serves what `answer` says and returns the address.
async fn serve<F>(answer: F) -> String
where
    F: Fn(&Asked) -> Option<Response> + Clone + Send + Sync + 'static,
{
    let handle = move |request: Request| {
        let answer = answer.clone();
        async move {
            let (parts, body) = request.into_parts();
            let asked = Asked {
                method: parts.method.to_string(),
                path: parts.uri.path().to_owned(),
                query: parts
                    .uri
                    .query()
                    .into_iter()
                    .flat_map(|q| q.split('&'))
                    .filter_map(|pair| pair.split_once('='))
                    .map(|(k, v)| (k.to_owned(), v.to_owned()))
                    .collect(),
                headers: parts.headers,
                body: String::from_utf8(to_bytes(body, 1 << 20).await.unwrap().to_vec()).unwrap(),
            };
            answer(&asked).unwrap_or_else(|| {
                let text = format!("the stand-in knows no {} {} {:?}", asked.method, asked.path, asked.query);
                (StatusCode::IM_A_TEAPOT, text).into_response()
            })
        }
    };
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(handle)).await });
    format!("http://{address}")
}

fn answer(status: u16, body: &Value) -> Option<Response> {
    Some((StatusCode::from_u16(status).unwrap(), axum::Json(body.clone())).into_response())
}

fn empty(status: u16) -> Option<Response> {
    Some(StatusCode::from_u16(status).unwrap().into_response())
}

/// What every provider must do.
async fn behaves(provider: &dyn DnsProvider, values: &Values) {
    let zones = provider.zones().await.unwrap();
    let names: Vec<&str> = zones.iter().map(|z| z.name.as_str()).collect();
    assert_eq!(names, ["example.com", "example.org"], "from two pages");
    let zone = provider.zone_of(NAME).await.unwrap();
    assert_eq!(zone.name, "example.com");
    let nowhere = provider.zone_of("_acme-challenge.example.net").await;
    assert!(matches!(nowhere, Err(DnsFault::NoZone { .. })), "{nowhere:?}");
    let (one, two) = (Record::txt(NAME, "one"), Record::txt(NAME, "two"));
    for _ in 0..2 {
        provider.add(&zone, &one).await.unwrap();
        provider.add(&zone, &two).await.unwrap();
    }
    assert_eq!(values.all(), ["theirs", "one", "two"]);
    for _ in 0..2 {
        provider.remove(&zone, &one).await.unwrap();
    }
    assert_eq!(values.all(), ["theirs", "two"]);
    provider.remove(&zone, &two).await.unwrap();
    assert_eq!(values.all(), ["theirs"]);
    // A set that becomes empty goes.
    provider.remove(&zone, &Record::txt(NAME, "theirs")).await.unwrap();
    assert!(values.all().is_empty());
    provider.remove(&zone, &one).await.unwrap();
    provider.add(&zone, &one).await.unwrap();
    assert_eq!(values.all(), ["one"]);
}

fn cloudflare(asked: &Asked, values: &Values) -> Option<Response> {
    let fault = |status, code: i64, message: &str| {
        answer(
            status,
            &json!({ "success": false, "errors": [{ "code": code, "message": message }], "messages": [], "result": null }),
        )
    };
    if asked.authorization() != format!("Bearer {TOKEN}") {
        return fault(403, 9109, "Invalid access token");
    }
    let records = "/zones/z1/dns_records";
    let page = |result: Value, page: &str, total: u32| {
        answer(
            200,
            &json!({ "success": true, "errors": [], "messages": [], "result": result,
            "result_info": { "page": page.parse::<u32>().unwrap(), "per_page": 50, "total_pages": total } }),
        )
    };
    if asked.is("GET", "/zones") {
        return match asked.query["page"].as_str() {
            "1" => page(json!([{ "id": "z1", "name": "example.com", "status": "active" }]), "1", 2),
            other => page(json!([{ "id": "z2", "name": "example.org", "status": "active" }]), other, 2),
        };
    }
    if asked.is("GET", records) {
        assert_eq!((asked.query["type"].as_str(), asked.query["name"].as_str()), ("TXT", NAME));
        let items: Vec<Value> = values.items().iter()
            .map(|(id, v)| json!({ "id": format!("r{id}"), "type": "TXT", "name": NAME, "content": format!("\"{v}\"") }))
            .collect();
        return page(json!(items), "1", 1);
    }
    if asked.is("POST", records) {
        let body = asked.json();
        assert_eq!((&body["type"], &body["name"], &body["ttl"]), (&json!("TXT"), &json!(NAME), &json!(60)));
        let value = body["content"].as_str().unwrap().trim_matches('"').to_owned();
        if values.all().contains(&value) {
            return fault(400, 81058, "An identical record already exists.");
        }
        let id = values.add(&value);
        return answer(
            200,
            &json!({ "success": true, "errors": [], "messages": [], "result": { "id": format!("r{id}") } }),
        );
    }
    let id = asked.path.strip_prefix(&format!("{records}/r"))?.parse().ok()?;
    (asked.method == "DELETE" && values.drop(id)).then(|| {
        answer(200, &json!({ "success": true, "errors": [], "result": { "id": format!("r{id}") } }))
    })?
}

fn digitalocean(asked: &Asked, values: &Values) -> Option<Response> {
    if asked.authorization() != format!("Bearer {TOKEN}") {
        return answer(401, &json!({ "id": "Unauthorized", "message": "Unable to authenticate you" }));
    }
    let records = "/domains/example.com/records";
    if asked.is("GET", "/domains") {
        let (name, next) = match asked.query["page"].as_str() {
            "1" => (
                "example.com",
                json!({ "pages": { "next": "https://api.digitalocean.com/v2/domains?page=2" } }),
            ),
            _ => ("example.org", json!({})),
        };
        return answer(
            200,
            &json!({ "domains": [{ "name": name, "ttl": 1800 }], "links": next, "meta": { "total": 2 } }),
        );
    }
    if asked.is("GET", records) {
        assert_eq!((asked.query["type"].as_str(), asked.query["name"].as_str()), ("TXT", NAME));
        let items: Vec<Value> = values
            .items()
            .iter()
            .map(|(id, v)| json!({ "id": id, "type": "TXT", "name": RELATIVE, "data": v, "ttl": 60 }))
            .collect();
        return answer(
            200,
            &json!({ "domain_records": items, "links": {}, "meta": { "total": items.len() } }),
        );
    }
    if asked.is("POST", records) {
        let body = asked.json();
        assert_eq!((&body["type"], &body["name"]), (&json!("TXT"), &json!(RELATIVE)));
        assert!(body["ttl"].as_u64().is_some_and(|ttl| ttl >= 30));
        let id = values.add(body["data"].as_str().unwrap());
        return answer(201, &json!({ "domain_record": { "id": id } }));
    }
    let id = asked.path.strip_prefix(&format!("{records}/"))?.parse().ok()?;
    (asked.method == "DELETE" && values.drop(id)).then(|| empty(204))?
}

fn hetzner(asked: &Asked, values: &Values) -> Option<Response> {
    let fault = |status, code: &str| answer(status, &json!({ "error": { "code": code, "message": "no" } }));
    if asked.authorization() != format!("Bearer {TOKEN}") {
        return fault(401, "unauthorized");
    }
    let set = format!("/zones/11/rrsets/{RELATIVE}/TXT");
    if asked.is("GET", "/zones") {
        let (id, name, next) = match asked.query["page"].as_str() {
            "1" => (11, "example.com", json!(2)),
            _ => (12, "example.org", Value::Null),
        };
        let meta = json!({ "pagination": { "page": 1, "per_page": 50, "next_page": next } });
        return answer(
            200,
            &json!({ "zones": [{ "id": id, "name": name, "mode": "primary" }], "meta": meta }),
        );
    }
    if asked.is("GET", &set) {
        let records: Vec<Value> =
            values.all().iter().map(|v| json!({ "value": format!("\"{v}\"") })).collect();
        return match records.is_empty() {
            true => fault(404, "not_found"),
            false => answer(
                200,
                &json!({ "rrset": { "name": RELATIVE, "type": "TXT", "ttl": 3600, "records": records } }),
            ),
        };
    }
    let given = |asked: &Asked| {
        let value = asked.json()["records"][0]["value"].as_str().unwrap().to_owned();
        assert!(value.starts_with('"') && value.ends_with('"'), "{value}");
        value.trim_matches('"').to_owned()
    };
    if asked.is("POST", &format!("{set}/actions/add_records")) {
        // A TTL that differs from that of the set is a conflict.
        if !values.all().is_empty() && !asked.json()["ttl"].is_null() {
            return fault(409, "conflict");
        }
        if values.all().contains(&given(asked)) {
            return fault(422, "invalid_input");
        }
        values.add(&given(asked));
        return answer(
            201,
            &json!({ "action": { "id": 1, "command": "add_rrset_records", "status": "running" } }),
        );
    }
    if asked.is("POST", &format!("{set}/actions/remove_records")) {
        let (id, _) = values.items().into_iter().find(|(_, v)| *v == given(asked))?;
        values.drop(id);
        return answer(
            201,
            &json!({ "action": { "id": 2, "command": "remove_rrset_records", "status": "running" } }),
        );
    }
    None
}

fn gandi(asked: &Asked, values: &Values) -> Option<Response> {
    if asked.authorization() != format!("Bearer {TOKEN}") {
        return answer(
            403,
            &json!({ "code": 403, "message": "Access to this resource is denied.", "cause": "Forbidden" }),
        );
    }
    let set = format!("/domains/example.com/records/{RELATIVE}/TXT");
    if asked.is("GET", "/domains") {
        let names: Vec<Value> = match asked.query["page"].as_str() {
            "1" => std::iter::once("example.com".to_owned())
                .chain((1..100).map(|_| "example.com".to_owned()))
                .map(|n| json!({ "fqdn": n }))
                .collect(),
            _ => vec![json!({ "fqdn": "example.org" })],
        };
        return answer(200, &json!(names));
    }
    if asked.is("GET", &set) {
        let all: Vec<String> = values.all().iter().map(|v| format!("\"{v}\"")).collect();
        return match all.is_empty() {
            true => answer(
                404,
                &json!({ "code": 404, "message": "Can't find the DNS record", "cause": "Not Found" }),
            ),
            false => answer(
                200,
                &json!({ "rrset_name": RELATIVE, "rrset_type": "TXT", "rrset_ttl": 10_800, "rrset_values": all }),
            ),
        };
    }
    if asked.is("PUT", &set) {
        let body = asked.json();
        assert!(body["rrset_ttl"].as_u64().is_some_and(|ttl| ttl >= 300));
        let given: Vec<String> = serde_json::from_value(body["rrset_values"].clone()).unwrap();
        assert!(given.iter().all(|v| v.starts_with('"')));
        values.replace(given.iter().map(|v| v.trim_matches('"').to_owned()));
        return answer(201, &json!({ "message": "DNS Record Created" }));
    }
    asked.is("DELETE", &set).then(|| {
        values.replace([]);
        empty(204)
    })?
}

fn route53(asked: &Asked, values: &Values) -> Option<Response> {
    const SPACE: &str = "xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\"";
    let xml = |status: u16, body: String| Some((StatusCode::from_u16(status).unwrap(), body).into_response());
    let signed = asked.authorization();
    if !signed.starts_with("AWS4-HMAC-SHA256 Credential=AKID/") || asked.headers.get("x-amz-date").is_none() {
        let error = "<Error><Type>Sender</Type><Code>InvalidClientTokenId</Code><Message>The security token is invalid.</Message></Error>";
        return xml(403, format!("<ErrorResponse {SPACE}>{error}<RequestId>1</RequestId></ErrorResponse>"));
    }
    let zone = |id: &str, name: &str, private: bool| {
        format!(
            "<HostedZone><Id>/hostedzone/{id}</Id><Name>{name}.</Name><CallerReference>x</CallerReference><Config><PrivateZone>{private}</PrivateZone></Config><ResourceRecordSetCount>2</ResourceRecordSetCount></HostedZone>"
        )
    };
    if asked.is("GET", "/2013-04-01/hostedzone") {
        let (zones, more) = match asked.query.get("marker").map(String::as_str) {
            None => (
                zone("Z1", "example.com", false) + &zone("ZP", "example.com", true),
                "<IsTruncated>true</IsTruncated><NextMarker>Z2</NextMarker>",
            ),
            Some(_) => (zone("Z2", "example.org", false), "<IsTruncated>false</IsTruncated>"),
        };
        return xml(
            200,
            format!(
                "<?xml version=\"1.0\"?><ListHostedZonesResponse {SPACE}><HostedZones>{zones}</HostedZones>{more}<MaxItems>100</MaxItems></ListHostedZonesResponse>"
            ),
        );
    }
    let values_xml = |all: &[String]| -> String {
        all.iter().map(|v| format!("<ResourceRecord><Value>\"{v}\"</Value></ResourceRecord>")).collect()
    };
    if asked.is("GET", "/2013-04-01/hostedzone/Z1/rrset") {
        assert_eq!((asked.query["type"].as_str(), asked.query["name"].as_str()), ("TXT", NAME));
        // Without the set, the list begins with what comes next.
        let (name, all) = match values.all() {
            all if all.is_empty() => ("www.example.com", vec!["other".to_owned()]),
            all => (NAME, all),
        };
        let set = format!(
            "<ResourceRecordSet><Name>{name}.</Name><Type>TXT</Type><TTL>300</TTL><ResourceRecords>{}</ResourceRecords></ResourceRecordSet>",
            values_xml(&all)
        );
        return xml(
            200,
            format!(
                "<ListResourceRecordSetsResponse {SPACE}><ResourceRecordSets>{set}</ResourceRecordSets><IsTruncated>false</IsTruncated><MaxItems>1</MaxItems></ListResourceRecordSetsResponse>"
            ),
        );
    }
    if asked.is("POST", "/2013-04-01/hostedzone/Z1/rrset/") {
        let texts = |action: &str| -> Option<Vec<String>> {
            let from = asked.body.find(&format!(
                "<Action>{action}</Action><ResourceRecordSet><Name>{NAME}.</Name><Type>TXT</Type><TTL>"
            ))?;
            let part = &asked.body[from..from + asked.body[from..].find("</Change>")?];
            Some(
                part.split("<Value>")
                    .skip(1)
                    .map(|v| v[..v.find("</Value>").unwrap()].replace("&quot;", "").replace('"', ""))
                    .collect(),
            )
        };
        assert!(
            asked.body.contains(&format!(
                "<ChangeResourceRecordSetsRequest {SPACE}><ChangeBatch><Changes><Change>"
            )),
            "{}",
            asked.body
        );
        let before = texts("DELETE").unwrap_or_default();
        // Somebody else is quicker, once.
        static RACE: std::sync::Once = std::sync::Once::new();
        let mut raced = false;
        RACE.call_once(|| raced = true);
        if before != values.all() || raced {
            let message =
                "Tried to delete resource record set but the values provided do not match the current values";
            return xml(
                400,
                format!(
                    "<InvalidChangeBatch {SPACE}><Messages><Message>{message}</Message></Messages><RequestId>1</RequestId></InvalidChangeBatch>"
                ),
            );
        }
        values.replace(texts("CREATE").unwrap_or_default());
        return xml(
            200,
            format!(
                "<ChangeResourceRecordSetsResponse {SPACE}><ChangeInfo><Id>/change/C1</Id><Status>PENDING</Status></ChangeInfo></ChangeResourceRecordSetsResponse>"
            ),
        );
    }
    None
}

/// A stand-in and its values.
async fn stand_in(of: fn(&Asked, &Values) -> Option<Response>) -> (String, Values) {
    let values = Values::new();
    let kept = values.clone();
    (serve(move |asked| of(asked, &kept)).await, values)
}

/// Credentials that are not accepted are told as such, in the provider's words.
async fn refuses(provider: Result<impl DnsProvider, DnsFault>, words: &str) {
    match provider.unwrap().zones().await {
        Err(DnsFault::Refused { said, .. }) => assert!(said.contains(words), "{said}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn cloudflare_sets_and_removes() {
    let (base, values) = stand_in(cloudflare).await;
    behaves(&Cloudflare::at(&base, TOKEN).unwrap(), &values).await;
    refuses(Cloudflare::at(&base, "wrong"), "Invalid access token (9109)").await;
}

#[tokio::test]
async fn digitalocean_sets_and_removes() {
    let (base, values) = stand_in(digitalocean).await;
    behaves(&DigitalOcean::at(&base, TOKEN).unwrap(), &values).await;
    refuses(DigitalOcean::at(&base, "wrong"), "Unable to authenticate you").await;
}

#[tokio::test]
async fn hetzner_sets_and_removes() {
    let (base, values) = stand_in(hetzner).await;
    behaves(&Hetzner::at(&base, TOKEN).unwrap(), &values).await;
    refuses(Hetzner::at(&base, "wrong"), "unauthorized").await;
}

#[tokio::test]
async fn gandi_sets_and_removes() {
    let (base, values) = stand_in(gandi).await;
    let provider = Gandi::at(&base, TOKEN).unwrap();
    let names: Vec<String> = provider.zones().await.unwrap().into_iter().map(|z| z.name).collect();
    assert_eq!((names.len(), names[100].as_str()), (101, "example.org"), "from two pages");
    let zone = Zone { name: "example.com".into(), id: "example.com".into() };
    let (one, two) = (Record::txt(NAME, "one"), Record::txt(NAME, "two"));
    for record in [&one, &two, &one] {
        provider.add(&zone, record).await.unwrap();
    }
    assert_eq!(values.all(), ["theirs", "one", "two"]);
    for record in [&one, &one, &Record::txt(NAME, "theirs"), &two, &two] {
        provider.remove(&zone, record).await.unwrap();
    }
    assert!(values.all().is_empty());
    provider.add(&zone, &one).await.unwrap();
    assert_eq!(values.all(), ["one"]);
    refuses(Gandi::at(&base, "wrong"), "Access to this resource is denied.").await;
}

#[tokio::test]
async fn route53_sets_and_removes() {
    let (base, values) = stand_in(route53).await;
    behaves(&Route53::at(&base, "AKID", "secret").unwrap(), &values).await;
    refuses(Route53::at(&base, "OTHER", "secret"), "The security token is invalid. (InvalidClientTokenId)")
        .await;
}

#[tokio::test]
async fn a_busy_provider_is_waited_for_but_not_long() {
    let busy = |asked_before_ok: usize, after: &'static str| {
        let count = Arc::new(Mutex::new(0_usize));
        serve(move |_| {
            let mut count = count.lock().unwrap();
            *count += 1;
            if *count <= asked_before_ok {
                return Some(
                    (StatusCode::TOO_MANY_REQUESTS, [("retry-after", after)], "slow down").into_response(),
                );
            }
            answer(200, &json!({ "domains": [], "links": {} }))
        })
    };
    let soon = DigitalOcean::at(&busy(1, "1").await, TOKEN).unwrap();
    assert_eq!(soon.zones().await.unwrap(), []);
    let late = DigitalOcean::at(&busy(9, "3600").await, TOKEN).unwrap();
    let fault = late.zones().await.unwrap_err();
    let wait = Some(Duration::from_secs(3600));
    assert!(
        matches!(&fault, DnsFault::Busy { retry_after, said, .. } if *retry_after == wait && said == "slow down")
    );
    assert!(fault.is_passing());
}

#[tokio::test]
async fn nonsense_redirects_and_silence_are_faults() {
    let nonsense = serve(|_| Some("<html>hello</html>".into_response())).await;
    let fault = Hetzner::at(&nonsense, TOKEN).unwrap().zones().await.unwrap_err();
    assert!(matches!(fault, DnsFault::Strange { .. }), "{fault:?}");
    // A redirect would take the token elsewhere.
    let away =
        serve(|_| Some((StatusCode::FOUND, [("location", "http://127.0.0.1:1/")]).into_response())).await;
    let fault = Hetzner::at(&away, TOKEN).unwrap().zones().await.unwrap_err();
    assert!(matches!(fault, DnsFault::Rejected { .. }), "{fault:?}");
    let fault = Hetzner::at("http://127.0.0.1:1", TOKEN).unwrap().zones().await.unwrap_err();
    assert!(
        matches!(&fault, DnsFault::Unreachable { reason, .. } if reason.contains("refused")),
        "{fault:?}"
    );
    assert!(Cloudflare::at("http://127.0.0.1:1", "se\nsame").is_err());
}
