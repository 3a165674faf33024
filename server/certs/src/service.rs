//! Certificates as the rest of the daemon uses them, and the loop that looks at which names want one.
//!
//! Which names do is not kept: it follows from domains, apps and the configuration. What happened to each is in the
//! store, and `decide` says from it what is to be done. The loop looks again whenever the event log tells of a change,
//! and when the next thing is due.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use berth_proxy::ProxyHandle;
use berth_schemas::{
    Code, DomainName, Problem, Timestamp,
    dns::DnsProviderKind,
    domain::{ChallengeKind, OrderState},
};
use berth_store::{
    CertificateRow, DomainRow, Fault, NewOrder, OrderRow, Store, StoreError,
    model::{AppId, Principal, Visible},
};
use tokio::sync::{Notify, Semaphore, broadcast, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    client,
    config::{AcmeConfig, CertsConfig, OwnNames, is_public},
    decide::{self, Offer, Past, later},
    dns::Dns,
    due::{Due, before, due, goes_on, next_try, past, placed_lately},
    lock::lock,
    on_demand::{Approver, Asked},
    shown::Shown,
};

/// Everything is looked at this often, whatever the event log says.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// Orders worked on at the same time.
const AT_ONCE: usize = 4;
/// What happened longer ago decides nothing any more.
const MEMORY: Duration = Duration::from_secs(8 * 24 * 3600);
/// Orders that ended are kept so long.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// Orders of a name that are looked at: more than all limits count.
pub(crate) const MANY: i64 = 50;
/// Orders at one authority within [`crate::due::PLACED_WINDOW`]; Let's Encrypt allows 300.
const PLACED: usize = 280;

/// A name that wants a certificate.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) name: DomainName,
    pub(crate) app: Option<AppId>,
    pub(crate) prefer: Option<ChallengeKind>,
    /// A certificate of its wildcard does for it, too: nobody added it as a domain of its own.
    pub(crate) shares_wildcard: bool,
}

/// Certificates of all names. Cheap to clone.
#[derive(Clone)]
pub struct Certs(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) config: CertsConfig,
    pub(crate) client: reqwest::Client,
    pub(crate) dns: Dns,
    pub(crate) shown: Arc<Shown>,
    /// One at a time makes an account.
    pub(crate) registering: tokio::sync::Mutex<()>,
    /// One at a time brings what is shown up to date.
    loading: tokio::sync::Mutex<()>,
    /// Names whose orders are being worked on.
    active: Mutex<HashSet<DomainName>>,
    /// Names whose authorities are being asked when to renew.
    asking: Mutex<HashSet<DomainName>>,
    slots: Arc<Semaphore>,
    /// Looks from outside that go on at once.
    pub(crate) reaching: Semaphore,
    /// Who asks apps about names.
    pub(crate) approver: OnceLock<Arc<dyn Approver>>,
    pub(crate) asked: Asked,
    pub(crate) wake: Notify,
    /// Something about a certificate or an order has changed.
    pub(crate) moved: watch::Sender<()>,
    tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

impl Certs {
    /// Shows the certificates that there are, then looks after them. Call before the data plane serves.
    ///
    /// # Errors
    /// When the store cannot be read, or the configuration's certificates cannot be used.
    pub async fn open(
        store: Store,
        proxy: ProxyHandle,
        dns: Dns,
        config: CertsConfig,
        shutdown: CancellationToken,
    ) -> Result<Self, Problem> {
        let root = config.acme.as_ref().and_then(|acme| acme.root.as_deref());
        let client = client::build(root).map_err(|e| {
            let detail = format!("The client for certificate authorities cannot be made: {e}.");
            Problem::new(Code::Internal, detail).hint("Look at acme_ca_root: it must be a PEM file.")
        })?;
        let inner = Arc::new(Inner {
            shown: Arc::new(Shown::new(proxy, config.fallback.clone())),
            store,
            config,
            client,
            dns,
            registering: tokio::sync::Mutex::default(),
            loading: tokio::sync::Mutex::default(),
            active: Mutex::default(),
            asking: Mutex::default(),
            slots: Arc::new(Semaphore::new(AT_ONCE)),
            reaching: Semaphore::new(crate::reach::AT_ONCE),
            approver: OnceLock::new(),
            asked: Asked::default(),
            wake: Notify::new(),
            moved: watch::channel(()).0,
            tasks: TaskTracker::new(),
            shutdown,
        });
        inner.load().await?;
        let events = inner.store.events().subscribe();
        inner.tasks.spawn(Arc::clone(&inner).follow(events));
        inner.tasks.spawn(Arc::clone(&inner).look_after());
        Ok(Self(inner))
    }

    /// Waits until the work that goes on has ended. Call after the shutdown token was cancelled.
    pub async fn stopped(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Whether certificates are ordered here.
    #[must_use]
    pub fn orders(&self) -> bool {
        self.0.config.acme.is_some()
    }

    /// The names by which CAA records allow the authorities in use (RFC 8659), as far as they are known.
    #[must_use]
    pub fn issuers(&self) -> Vec<String> {
        const KNOWN: [(&str, &str); 3] = [
            ("letsencrypt.org", "letsencrypt.org"),
            ("zerossl.com", "sectigo.com"),
            ("pki.goog", "pki.goog"),
        ];
        let directories = self.0.config.acme.iter().flat_map(|acme| &acme.directories);
        let known = directories.filter_map(|directory| {
            let host = directory.split("://").nth(1)?.split(['/', ':']).next()?;
            let of = |domain: &str| {
                host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            };
            KNOWN.iter().find(|(domain, _)| of(domain)).map(|(_, issuer)| (*issuer).to_owned())
        });
        known.collect()
    }

    /// Whether HTTPS is served here.
    #[must_use]
    pub fn https(&self) -> bool {
        self.0.config.https
    }

    /// Whether a name is the control plane's own.
    #[must_use]
    pub fn is_control_host(&self, name: &DomainName) -> bool {
        self.0.config.control_host.as_ref().is_some_and(|host| name.covers(host.as_str()))
    }

    /// Attaches a certificate of somebody's own to a domain, after looking at it.
    ///
    /// # Errors
    /// `InvalidInput` when it cannot be used, says for which reason.
    pub async fn attach(
        &self,
        by: &Principal,
        app: AppId,
        name: &DomainName,
        chain: String,
        key: String,
    ) -> Result<(), Problem> {
        let certificate = crate::attached::checked(name, chain, key, self.0.now())?;
        self.0.store.certificates().attach(by, app, name, certificate).await?;
        Ok(self.0.load().await?)
    }

    /// Takes an attached certificate away; one is ordered again.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn detach(&self, by: &Principal, app: AppId, name: &DomainName) -> Result<(), Problem> {
        let own = self.0.store.certificates().by_name(name).await?.is_some_and(|c| c.own);
        if own {
            self.0.store.certificates().remove(by, Some(app), name).await?;
            self.0.load().await?;
            self.0.wake.notify_one();
        }
        Ok(())
    }

    /// What keeps names that Berth gives out itself from their certificates, and what expires soon, in words.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn attention(&self, visible: &Visible) -> Result<Vec<String>, Problem> {
        crate::attention::attention(&self.0, visible).await
    }
}

impl Inner {
    pub(crate) fn now(&self) -> Timestamp {
        self.store.clock().now()
    }

    /// Shows the certificates that the store has.
    pub(crate) async fn load(&self) -> Result<(), StoreError> {
        let _one = self.loading.lock().await;
        self.shown.set_certificates(self.store.certificates().with_keys().await?);
        self.moved.send_replace(());
        Ok(())
    }

    /// Follows the event log: domains and apps come and go.
    async fn follow(self: Arc<Self>, mut events: broadcast::Receiver<berth_store::model::EventRow>) {
        use broadcast::error::RecvError;
        // Which names there are and who proves them; and those by which also the certificates themselves change.
        const NAMES: [&str; 3] = ["app.", "environment.", "dns_provider."];
        const CERTIFICATES: [&str; 2] = ["domain.", "certificate."];
        let mut asked_for_providers = 0;
        loop {
            let next = tokio::select! {
                next = events.recv() => next,
                () = self.shutdown.cancelled() => return,
            };
            let is_of = |row: &berth_store::model::EventRow, kinds: &[&str]| {
                kinds.iter().any(|prefix| row.event.kind.starts_with(prefix))
            };
            let reload = match next {
                Ok(row) if is_of(&row, &CERTIFICATES) => true,
                Ok(row) if is_of(&row, &NAMES) => false,
                Ok(_) => continue,
                Err(RecvError::Lagged(_)) => true,
                Err(RecvError::Closed) => return,
            };
            if reload && let Err(error) = self.load().await {
                tracing::warn!(%error, "the certificates could not be read");
            }
            if let Err(error) = self.look_for_providers(&mut asked_for_providers).await {
                tracing::warn!(%error, "orders that wait for a DNS provider could not be looked at");
            }
            self.wake.notify_one();
        }
    }

    /// Orders that wait for a DNS provider go on when there are others than before.
    async fn look_for_providers(&self, known: &mut usize) -> Result<(), StoreError> {
        let count = self.store.dns_providers().list().await?.len();
        if std::mem::replace(known, count) == count {
            return Ok(());
        }
        for row in self.store.acme().recent(self.now()).await? {
            if row.state == OrderState::Pending && row.trouble.is_some_and(|t| t.kind == "no_dns_provider") {
                self.store.acme().hurry(&row.name, self.now()).await?;
            }
        }
        Ok(())
    }

    /// Looks at all names, again and again.
    async fn look_after(self: Arc<Self>) {
        loop {
            let until = match self.look().await {
                Ok(next) => Duration::from_micros(u64::try_from(next.0 - self.now().0).unwrap_or(0)),
                Err(error) => {
                    tracing::warn!(%error, "the certificates could not be looked after");
                    Duration::from_secs(5)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(until.min(LOOK_INTERVAL)) => {}
                () = self.wake.notified() => {}
                () = self.shutdown.cancelled() => return,
            }
        }
    }

    /// Begins what is due; returns when the next thing is.
    async fn look(self: &Arc<Self>) -> Result<Timestamp, StoreError> {
        let now = self.now();
        let domains = self.store.domains().all().await?;
        let certificates: HashMap<DomainName, CertificateRow> =
            self.store.certificates().all().await?.into_iter().map(|c| (c.name.clone(), c)).collect();
        let recent = self.store.acme().recent(before(now, MEMORY)).await?;
        let mut of: HashMap<DomainName, Vec<OrderRow>> = HashMap::new();
        for row in &recent {
            of.entry(row.name.clone()).or_default().push(row.clone());
        }
        let dropped = self.look_at_approved(&domains, &certificates, &of).await?;
        let valid = |name: &DomainName| certificates.get(name).is_some_and(|c| c.not_after > now);
        let mut wanted = self.wanted(domains, valid).await?;
        wanted.retain(|name, _| !dropped.contains(name));
        self.tidy(&wanted, &certificates, &recent, now).await?;
        let Some(acme) = self.config.acme.clone() else { return Ok(later(now, LOOK_INTERVAL)) };
        let mut placed = placed_lately(&recent, now);
        let mut next = later(now, LOOK_INTERVAL);
        for wanted in wanted.into_values() {
            let orders = of.remove(&wanted.name).unwrap_or_default();
            let certificate = certificates.get(&wanted.name);
            if certificate.is_some_and(|c| c.own) {
                continue;
            }
            if let Some(certificate) = certificate {
                next = next.min(self.ask_about(&acme, certificate, now));
            }
            let at = match due(certificate, &orders, now) {
                Due::Open(row) if goes_on(&row).is_none_or(|at| at <= now) => {
                    self.begin(&acme, wanted, row);
                    continue;
                }
                Due::Open(row) => goes_on(&row).unwrap_or(now),
                Due::New => {
                    let Some((order, at)) = self.next_order(&acme, &wanted, certificate, &orders, now).await
                    else {
                        continue;
                    };
                    if at > now {
                        next = next.min(at);
                        continue;
                    }
                    let count = placed.entry(order.directory.clone()).or_default();
                    if *count >= PLACED {
                        tracing::warn!(directory = order.directory, "too many orders lately; the rest waits");
                        continue;
                    }
                    *count += 1;
                    let row = self.store.acme().begin(order).await?;
                    self.begin(&acme, wanted, row);
                    continue;
                }
                Due::Nothing(at) => at,
            };
            next = next.min(at);
        }
        Ok(next)
    }

    /// Ends orders that nobody wants, and removes certificates of names that are gone.
    async fn tidy(
        &self,
        wanted: &BTreeMap<DomainName, Wanted>,
        certificates: &HashMap<DomainName, CertificateRow>,
        orders: &[OrderRow],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        for row in orders {
            if !row.state.is_settled() && !wanted.contains_key(&row.name) {
                self.store.acme().cancel(row.id).await?;
            }
        }
        for name in certificates.keys().filter(|name| !wanted.contains_key(*name)) {
            self.store.certificates().remove(&Principal::daemon(), None, name).await?;
        }
        self.store.acme().prune(before(now, KEPT)).await?;
        Ok(())
    }

    /// Every name that wants a certificate of its own, whether one can be had or not. `valid` says which names have one
    /// that can be used: it does for all that share it.
    pub(crate) async fn wanted(
        &self,
        domains: Vec<DomainRow>,
        valid: impl Fn(&DomainName) -> bool,
    ) -> Result<BTreeMap<DomainName, Wanted>, StoreError> {
        let mut wanted = BTreeMap::new();
        let mut add = |name: DomainName, app, prefer, shares_wildcard| {
            let one = Wanted { name: name.clone(), app, prefer, shares_wildcard };
            wanted.entry(name).or_insert(one);
        };
        for row in domains {
            add(row.name, Some(row.app_id), row.challenge, false);
        }
        if let Some(host) = &self.config.control_host {
            add(host.clone(), None, None, false);
        }
        if let Some(own) = &self.config.own
            && self.has_own_wildcard(own).await?
            && let Ok(name) = format!("*.{}", own.base).parse()
        {
            add(name, None, None, false);
        }
        for app in self.store.apps().all_environments(&Visible::All).await? {
            let host = self.config.own.as_ref().and_then(|own| (own.host)(&app).parse().ok());
            // Routes are for an app's visitors, not for those of its previews.
            let routes =
                app.settings.route_hosts().filter(|host| app.is_production() && is_public(host.as_str()));
            for name in host.into_iter().chain(routes) {
                add(name, Some(app.id), None, true);
            }
        }
        let shared = |name: &DomainName| name.wildcard().is_some_and(|w| valid(&w));
        wanted.retain(|name, one| !(one.shares_wildcard && shared(name)));
        Ok(wanted)
    }

    /// The base domain, if names below it want certificates of their own for want of a DNS provider.
    pub(crate) async fn shareable(&self) -> Result<Option<DomainName>, StoreError> {
        match &self.config.own {
            Some(own) if !self.has_own_wildcard(own).await? => Ok(Some(own.base.clone())),
            _ => Ok(None),
        }
    }

    /// Whether one certificate for all names below the base domain can be had: a DNS provider serves it by itself.
    async fn has_own_wildcard(&self, own: &OwnNames) -> Result<bool, StoreError> {
        let providers = self.store.dns_providers().list().await?;
        let serves = |zone: &DomainName| {
            let (zone, base) = (zone.base(), own.base.as_str());
            base == zone || base.strip_suffix(zone).is_some_and(|rest| rest.ends_with('.'))
        };
        Ok(providers.iter().any(|p| p.kind != DnsProviderKind::Manual && p.zones.iter().any(serves)))
    }

    /// Works on an order in a task of its own, unless that is being done.
    fn begin(self: &Arc<Self>, acme: &AcmeConfig, wanted: Wanted, row: OrderRow) {
        if !lock(&self.active).insert(wanted.name.clone()) {
            return;
        }
        let (inner, acme) = (Arc::clone(self), acme.clone());
        self.tasks.spawn(async move {
            let work = async {
                let _slot = inner.slots.acquire().await;
                inner.work_on(&acme, &wanted, row).await;
            };
            // What was begun is in the store; the next start goes on with it.
            tokio::select! {
                () = work => {}
                () = inner.shutdown.cancelled() => {}
            }
            lock(&inner.active).remove(&wanted.name);
            inner.moved.send_replace(());
            inner.wake.notify_one();
        });
    }

    /// How past orders for a name ended, oldest first.
    async fn past(&self, name: &DomainName) -> Result<Vec<Past>, StoreError> {
        let mut orders = self.store.acme().of(name, MANY).await?;
        orders.reverse();
        Ok(past(&orders))
    }

    /// Until when the limits of authorities keep a name's next order back; `orders` are its newest, newest first.
    pub(crate) fn held(&self, orders: &[OrderRow], now: Timestamp) -> Option<Timestamp> {
        let oldest_first: Vec<OrderRow> = orders.iter().rev().cloned().collect();
        decide::held(&past(&oldest_first), &self.config.acme.as_ref()?.directories, now)
    }

    /// When the next order may be begun after one has failed.
    pub(crate) async fn after_failure(
        &self,
        wanted: &Wanted,
        row: &OrderRow,
        fault: Fault,
        not_before: Option<Timestamp>,
        now: Timestamp,
    ) -> Timestamp {
        let again = later(now, Duration::from_secs(60));
        let Some(acme) = &self.config.acme else { return again };
        let Ok(mut past) = self.past(&row.name).await else { return again };
        let (directory, challenge) = (row.directory.clone(), row.challenge);
        past.push(Past { directory, challenge, fault: Some(fault), at: now, not_before });
        let challenges = self.challenges(wanted).await;
        let offer = Offer { directories: &acme.directories, challenges: &challenges };
        decide::next(&past, &offer, now, spread()).map_or(again, |next| next.at)
    }

    /// The next order for a name, and when it may be begun.
    async fn next_order(
        &self,
        acme: &AcmeConfig,
        wanted: &Wanted,
        certificate: Option<&CertificateRow>,
        orders: &[OrderRow],
        now: Timestamp,
    ) -> Option<(NewOrder, Timestamp)> {
        let challenges = self.challenges(wanted).await;
        let offer = Offer { directories: &acme.directories, challenges: &challenges };
        let past = past(orders);
        let next = decide::next(&past, &offer, now, 0.5)?;
        // What was decided when it failed holds, and somebody may have hurried it since; the limits hold anyway.
        let at = match next_try(orders) {
            Some(at) => at.max(decide::floor(&past, &next.directory).unwrap_or(at)),
            None => next.at,
        };
        let order = NewOrder {
            name: wanted.name.clone(),
            directory: next.directory,
            challenge: next.challenge,
            renewal: certificate.is_some(),
        };
        Some((order, at))
    }

    /// Runs a question about a name in a task of its own, unless one is being asked.
    pub(crate) fn spawn_asking(
        self: &Arc<Self>,
        name: DomainName,
        question: impl Future<Output = ()> + Send + 'static,
    ) {
        if !lock(&self.asking).insert(name.clone()) {
            return;
        }
        let inner = Arc::clone(self);
        self.tasks.spawn(async move {
            tokio::select! {
                () = question => {}
                () = inner.shutdown.cancelled() => {}
            }
            lock(&inner.asking).remove(&name);
            inner.wake.notify_one();
        });
    }
}

/// A number from 0 to 1 that differs each time.
pub(crate) fn spread() -> f64 {
    let mut bytes = [0; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}
