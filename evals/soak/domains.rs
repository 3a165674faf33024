//! The soak of domains: they come, change and go, and certificates of seconds are renewed, while visitors come to two
//! that stay.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use berth_evals::daemon::Daemon;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    berth::Berth,
    certificate::free_address,
    clients::Door,
    docker::Image,
    ledger::{Account, Ledgers},
    load::{Visit, Visitors},
    pebble::{Options, Pebble},
    side::{APP, PATIENT},
    switch::{STEADY, judge},
    tally::{Figures, Tally},
};

/// The domains that visitors come to.
const VISITED: [(&str, &str); 2] = [("soak.example.com", APP), ("patient.example.com", PATIENT)];
/// Domains that come and go: at most so many at once.
const PASSING: usize = 6;
/// Between two changes.
const PACE: Duration = Duration::from_millis(250);
/// Time for the first certificates.
const FIRST: Duration = Duration::from_secs(60);
/// Seconds for which a release is drained.
const DRAIN_S: u64 = 7;

/// What a run is to do.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Plan {
    /// Seconds under load.
    pub(crate) span_s: u64,
    /// Seconds that a certificate is valid.
    pub(crate) validity_s: u64,
    /// Requests a second.
    pub(crate) rate: u32,
}

/// What came of a run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Domains {
    pub(crate) plan: Plan,
    /// Changes that were made, by what they were.
    pub(crate) changes: BTreeMap<&'static str, usize>,
    pub(crate) issued: usize,
    pub(crate) renewed: usize,
    pub(crate) orders_failed: usize,
    /// Different certificates that one of the visited domains showed.
    pub(crate) shown: usize,
    pub(crate) load: Figures,
    pub(crate) ledger: Account,
    pub(crate) resident_before: u64,
    pub(crate) resident_after: u64,
    pub(crate) problems: Vec<String>,
}

/// Runs the soak.
pub(crate) async fn run(program: &Path, image: &Image, plan: Plan) -> Result<Domains> {
    let (http, https) = (free_address()?, free_address()?);
    let options = Options {
        http_port: http.port(),
        tls_port: https.port(),
        validity_s: plan.validity_s,
        nonce_reject: 5,
        ..Options::default()
    };
    let pebble = Pebble::start(&options).await;
    let (http, https_text, root) = (http.to_string(), https.to_string(), pebble.root().display().to_string());
    let flags = [
        ["--http-addr", &http],
        ["--https-addr", &https_text],
        ["--acme", "true"],
        ["--acme-directories", &pebble.directory],
        ["--acme-ca-root", &root],
        ["--min-free-disk-mb", "64"],
    ]
    .concat();
    let directory = tempfile::Builder::new().prefix("berth-soak-").tempdir()?;
    let daemon = Daemon::start(program, directory, &flags).await?;
    let door = Door::new(daemon.http, https, VISITED[0].0, &pebble.issuer().await)?;
    let berth = Berth::with_apps(daemon, door, image, DRAIN_S).await?;
    berth.deploy(APP, "a").await?;
    berth.deploy(PATIENT, "patient").await?;
    for (domain, app) in VISITED {
        // Visitors come by plain HTTP, too.
        let body = json!({ "domain": domain, "app": app, "rules": { "https": false } });
        berth.daemon.call("POST", "/v1/domains", body).await?;
    }
    for (domain, _) in VISITED {
        secure(&berth, domain).await?;
    }
    let visit = Visit {
        door: berth.door.clone(),
        tally: Arc::new(Tally::new()),
        ledgers: Arc::new(Ledgers::default()),
    };
    let patient = Visit { door: visit.door.of(VISITED[1].0), ..visit.clone() };
    let visitors = Visitors::start(&visit, &patient, plan.rate);
    tokio::time::sleep(STEADY).await;
    let resident_before = berth.daemon.resident()?;
    let mut changes = Changes::default();
    let (mut problems, mut shown) = (Vec::new(), HashSet::new());
    let begun = Instant::now();
    for n in 0_usize.. {
        if begun.elapsed() > Duration::from_secs(plan.span_s) {
            break;
        }
        if let Err(error) = changes.make(&berth, &visit.tally, n).await {
            problems.push(format!("change {n}: {error:#}"));
        }
        shown.insert(fingerprint(&berth, VISITED[0].0).await?);
        tokio::time::sleep(PACE).await;
    }
    visitors.stop().await;
    let (load, ledger) = (visit.tally.figures(), visit.ledgers.account());
    problems.extend(judge(&load, &[], &ledger, &["a"]));
    let (issued, renewed, orders_failed) = (
        events(&berth, "certificate.issued").await?,
        events(&berth, "certificate.renewed").await?,
        events(&berth, "certificate.failed").await?,
    );
    // Each of the two is renewed at three quarters of its life at the latest.
    let least = usize::try_from(plan.span_s * 4 / 3 / plan.validity_s.max(1))?.saturating_sub(1);
    if shown.len() < least {
        problems
            .push(format!("visitors were shown {} certificates, {least} were to be expected", shown.len()));
    }
    let resident_after = berth.daemon.resident()?;
    Ok(Domains {
        plan,
        changes: changes.made,
        issued,
        renewed,
        orders_failed,
        shown: shown.len(),
        load,
        ledger,
        resident_before,
        resident_after,
        problems,
    })
}

/// Changes of domains, one after the other.
#[derive(Debug, Default)]
struct Changes {
    made: BTreeMap<&'static str, usize>,
    passing: Vec<String>,
}

impl Changes {
    async fn make(&mut self, berth: &Berth, tally: &Tally, n: usize) -> Result<()> {
        let (what, method, path, body) = match n % 4 {
            0 if self.passing.len() >= PASSING => {
                let domain = self.passing.remove(0);
                let path = format!("/v1/domains/{domain}?confirm={domain}");
                ("domains removed", "DELETE", path, json!({}))
            }
            0 | 2 if self.passing.len() < PASSING => {
                let domain = format!("d{n}.example.com");
                self.passing.push(domain.clone());
                ("domains added", "POST", "/v1/domains".to_owned(), json!({ "domain": domain, "app": APP }))
            }
            1 => {
                let (domain, _) = VISITED[n / 4 % 2];
                let set = json!({ "x-soak": n.to_string() });
                let rules = json!({ "https": false, "response_headers": { "set": set } });
                let rules = if n % 8 == 1 { rules } else { json!({ "https": false, "hsts": {} }) };
                ("rules changed", "PATCH", format!("/v1/domains/{domain}"), json!({ "rules": rules }))
            }
            3 if n % 16 == 3 => {
                let (domain, _) = VISITED[n / 16 % 2];
                ("renewals asked for", "POST", format!("/v1/domains/{domain}/renew"), json!({}))
            }
            _ => {
                let domain = self.passing.first().context("no domain passes")?;
                let to = VISITED[n % 2].0;
                (
                    "domains made to lead elsewhere",
                    "PATCH",
                    format!("/v1/domains/{domain}"),
                    json!({ "redirect_to": to }),
                )
            }
        };
        tally.step(format!("change {n}: {what}"));
        berth.daemon.call(method, &path, body).await?;
        *self.made.entry(what).or_default() += 1;
        Ok(())
    }
}

async fn domain(berth: &Berth, name: &str) -> Result<Value> {
    Ok(berth.daemon.raw("GET", &format!("/v1/domains/{name}"), None).await?.1)
}

async fn secure(berth: &Berth, name: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        let seen = domain(berth, name).await?;
        if seen["status"] == "secure" {
            return Ok(());
        }
        if begun.elapsed() > FIRST {
            bail!("{name} has no certificate after {FIRST:?}: {seen}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn fingerprint(berth: &Berth, name: &str) -> Result<String> {
    let seen = domain(berth, name).await?;
    Ok(seen["certificate"]["fingerprint"].as_str().context("there is no certificate")?.to_owned())
}

/// How many events of a kind there are.
async fn events(berth: &Berth, kind: &str) -> Result<usize> {
    let mut count = 0;
    let mut path = format!("/v1/events?kind={kind}&limit=100");
    loop {
        let (_, page) = berth.daemon.raw("GET", &path, None).await?;
        count += page["events"].as_array().context("no events")?.len();
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/v1/events?kind={kind}&limit=100&cursor={cursor}"),
            None => return Ok(count),
        }
    }
}
