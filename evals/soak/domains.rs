//! The domain soak: domains come, change and go, and certificates are renewed, while visitors come.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use berth_evals::daemon::Daemon;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::task::AbortHandle;

use crate::{
    berth::Berth,
    certificate::free_address,
    clients::Door,
    docker::Image,
    ledger::{Account, Ledgers},
    load::{Visit, Visitors},
    pebble::{self, Pebble},
    side::{APP, PATIENT},
    switch::{STEADY, judge},
    tally::{Figures, Tally},
};

/// The domain that visitors come by, that of the patient app, and one that leads to the first.
const SHOP: &str = "shop.example.com";
const LOUNGE: &str = "lounge.example.com";
const WWW: &str = "www.example.com";
/// Per cent of good nonces that the authority refuses.
const NONCES_REFUSED: u32 = 15;
/// Seconds for which an old release is drained.
const DRAIN_S: u64 = 7;
/// Time for a domain to get its certificate.
const SECURED: Duration = Duration::from_secs(60);
/// How often it is looked which certificate visitors are shown.
const LOOK: Duration = Duration::from_millis(200);

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
    /// What was changed, and how often.
    pub(crate) changes: BTreeMap<&'static str, usize>,
    pub(crate) issued: usize,
    pub(crate) renewed: usize,
    pub(crate) orders_failed: usize,
    /// Different certificates that visitors of the first domain were shown.
    pub(crate) shown: usize,
    pub(crate) load: Figures,
    pub(crate) ledger: Account,
    pub(crate) resident_before: u64,
    pub(crate) resident_after: u64,
    pub(crate) problems: Vec<String>,
}

/// The daemon with the authority that it orders from, and what was changed so far.
struct World {
    berth: Berth,
    _pebble: Pebble,
    changes: BTreeMap<&'static str, usize>,
}

/// Runs the soak.
pub(crate) async fn run(program: &Path, image: &Image, plan: Plan) -> Result<Domains> {
    let mut world = World::start(program, image, plan).await?;
    let visit = Visit {
        door: world.berth.door.clone(),
        tally: Arc::new(Tally::new()),
        ledgers: Arc::new(Ledgers::default()),
    };
    let patient = Visit { door: visit.door.of(LOUNGE), ..visit.clone() };
    let seen = Seen::look(visit.door.clone());
    let visitors = Visitors::start(&visit, &patient, plan.rate);
    tokio::time::sleep(STEADY).await;
    let resident_before = world.berth.daemon.resident()?;
    let until = Instant::now() + Duration::from_secs(plan.span_s);
    let mut problems = Vec::new();
    let mut rounds = 0;
    while Instant::now() < until {
        rounds += 1;
        if let Err(error) = world.round(rounds, &visit.tally).await {
            problems.push(format!("round {rounds}: {error:#}"));
        }
        eprintln!("round {rounds}: {} failed requests so far", visit.tally.failures());
    }
    tokio::time::sleep(STEADY).await;
    visitors.stop().await;
    let shown = seen.end();
    let (load, ledger) = (visit.tally.figures(), visit.ledgers.account());
    problems.extend(judge(&load, &[], &ledger, &["a"]));
    let renewed = world.events("certificate.renewed").await?;
    let lives = usize::try_from(plan.span_s / plan.validity_s).unwrap_or(usize::MAX);
    if renewed < lives || shown < lives {
        problems.push(format!(
            "in {lives} lives of a certificate there were {renewed} renewals, and visitors saw {shown} certificates"
        ));
    }
    Ok(Domains {
        plan,
        issued: world.events("certificate.issued").await?,
        orders_failed: world.events("certificate.failed").await?,
        resident_after: world.berth.daemon.resident()?,
        changes: world.changes,
        renewed,
        shown,
        load,
        ledger,
        resident_before,
        problems,
    })
}

impl World {
    async fn start(program: &Path, image: &Image, plan: Plan) -> Result<Self> {
        let (http, https) = (free_address()?, free_address()?);
        let pebble = Pebble::start(&pebble::Options {
            http_port: http.port(),
            tls_port: https.port(),
            validity_s: plan.validity_s,
            nonce_reject: NONCES_REFUSED,
            ..pebble::Options::default()
        })
        .await;
        let directory = tempfile::Builder::new().prefix("berth-soak-").tempdir()?;
        let (http_addr, https_addr) = (http.to_string(), https.to_string());
        let root = pebble.root().display().to_string();
        let flags = [
            ["--http-addr", &http_addr],
            ["--https-addr", &https_addr],
            ["--acme", "true"],
            ["--acme-ca-root", &root],
            ["--acme-email", "admin@example.com"],
            ["--acme-directories", &pebble.directory],
            ["--min-free-disk-mb", "64"],
            // Each round removes a domain.
            ["--destructive-per-minute", "1000"],
        ]
        .concat();
        let daemon = Daemon::start(program, directory, &flags).await?;
        let door = Door::new(http, https, SHOP, &pebble.issuer().await)?;
        let berth = Berth::with_apps(daemon, door, image, DRAIN_S).await?;
        berth.deploy(APP, "a").await?;
        berth.deploy(PATIENT, "patient").await?;
        let world = Self { berth, _pebble: pebble, changes: BTreeMap::new() };
        // Visitors come by plain HTTP, too: it is not to lead them away.
        for (domain, app) in [(SHOP, APP), (LOUNGE, PATIENT)] {
            let rules = json!({ "https": false });
            world
                .call("POST", "/v1/domains", json!({ "domain": domain, "app": app, "rules": rules }))
                .await?;
            world.secured(domain).await?;
        }
        Ok(world)
    }

    /// Each change once.
    async fn round(&mut self, n: usize, tally: &Tally) -> Result<()> {
        let extra = format!("extra{n}.example.com");
        let place = format!("/v1/domains/{extra}");
        self.step(tally, "domains added", "POST", "/v1/domains", json!({ "domain": extra, "app": APP }))
            .await?;
        self.secured(&extra).await?;
        let rules = json!({ "rules": {
            "https": false,
            "hsts": if n.is_multiple_of(2) { json!({ "max_age_s": 60 }) } else { Value::Null },
            "response_headers": { "set": { "x-round": n.to_string() } },
            "rate_limit": { "requests": 100_000, "per_s": 1 },
        } });
        self.step(tally, "rules changed", "PATCH", &format!("/v1/domains/{SHOP}"), rules).await?;
        if n == 1 {
            let www = json!({ "domain": WWW, "app": APP, "redirect_to": SHOP });
            self.step(tally, "domains added", "POST", "/v1/domains", www).await?;
        } else {
            let to = if n.is_multiple_of(2) { LOUNGE } else { SHOP };
            let body = json!({ "redirect_to": to });
            self.step(tally, "redirects changed", "PATCH", &format!("/v1/domains/{WWW}"), body).await?;
        }
        self.step(tally, "certificates set by hand", "PUT", &format!("{place}/certificate"), own(&extra)?)
            .await?;
        self.step(tally, "renewals asked for", "POST", &format!("/v1/domains/{SHOP}/renew"), json!({}))
            .await?;
        if n.is_multiple_of(2) {
            let version = if n.is_multiple_of(4) { "a" } else { "b" };
            tally.step(format!("the deployment of round {n}"));
            self.berth.deploy(APP, version).await?;
            self.count("deployments");
        }
        self.step(tally, "domains removed", "DELETE", &format!("{place}?confirm={extra}"), json!({})).await
    }

    async fn step(
        &mut self,
        tally: &Tally,
        what: &'static str,
        method: &str,
        path: &str,
        body: Value,
    ) -> Result<()> {
        tally.step(format!("{method} {path}"));
        self.call(method, path, body).await.with_context(|| format!("{method} {path}"))?;
        self.count(what);
        Ok(())
    }

    fn count(&mut self, what: &'static str) {
        *self.changes.entry(what).or_default() += 1;
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> Result<Value> {
        self.berth.daemon.call(method, path, body).await
    }

    async fn secured(&self, domain: &str) -> Result<()> {
        let begun = Instant::now();
        loop {
            let now = self.call("GET", &format!("/v1/domains/{domain}"), json!({})).await?;
            if now["status"] == "secure" {
                return Ok(());
            }
            if begun.elapsed() > SECURED {
                bail!("{domain} has no certificate after {SECURED:?}: {now:#}");
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// How many events of a kind there are.
    async fn events(&self, kind: &str) -> Result<usize> {
        let mut count = 0;
        let mut cursor = String::new();
        loop {
            let path = format!("/v1/events?kind={kind}&limit=100{cursor}");
            let page = self.call("GET", &path, json!({})).await?;
            count += page["events"].as_array().context("no events in the answer")?.len();
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(count),
            }
        }
    }
}

/// A certificate that nobody has to trust: its domain has no visitors.
fn own(domain: &str) -> Result<Value> {
    let key = rcgen::KeyPair::generate()?;
    let certificate = rcgen::CertificateParams::new(vec![domain.to_owned()])?.self_signed(&key)?;
    Ok(json!({ "chain": certificate.pem(), "key": key.serialize_pem() }))
}

/// Which certificates visitors are shown.
struct Seen {
    certificates: Arc<Mutex<BTreeSet<Vec<u8>>>>,
    task: AbortHandle,
}

impl Seen {
    fn look(door: Door) -> Self {
        let certificates = Arc::<Mutex<BTreeSet<Vec<u8>>>>::default();
        let found = Arc::clone(&certificates);
        let task = tokio::spawn(async move {
            loop {
                // A handshake that fails is a failed request of the load, which does the same.
                if let Ok(stream) = door.tls(b"http/1.1").await
                    && let Some([leaf, ..]) = stream.get_ref().1.peer_certificates()
                {
                    found.lock().unwrap_or_else(PoisonError::into_inner).insert(leaf.to_vec());
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        Self { certificates, task: task.abort_handle() }
    }

    fn end(self) -> usize {
        self.task.abort();
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}
