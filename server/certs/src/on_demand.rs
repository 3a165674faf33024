//! Certificates on demand: a visitor asks for a name that nobody added, and an app says whether it is its own.
//!
//! What an app approves becomes a domain of it, so that it is routed, listed and renewed like any other; `origin` tells
//! it apart, and it goes when the app does not approve it any more. The data plane sees to it that a name is asked for
//! once at a time, and remembers refusals (`berth_proxy::CertificateSource`). Here stand the limits of apps: how often
//! each is asked, and how many names it may approve in a day. A name for which no certificate can be had is dropped
//! after both challenges failed, so that who asks for names at random costs no more than the day's share.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use berth_proxy::{CertificateSource, CertifiedKey};
use berth_schemas::{
    Code, DomainName, Problem, Timestamp,
    domain::{DomainOrigin, OrderState},
};
use berth_store::{
    Approved, CertificateRow, DomainRow, OrderRow, StoreError,
    model::{AppId, AppRow, Visible},
};
use futures_util::future::join_all;

use crate::{
    config::is_public,
    decide::later,
    lock::lock,
    service::{Certs, Inner},
};

/// Names that an app may approve in a day where its settings do not say.
const PER_DAY: u32 = 50;
/// Questions that an app is asked within a minute, whoever wants to know.
const ASKED_PER_MINUTE: u32 = 60;
/// How often an app is asked whether it still approves a name.
const AGAIN: Duration = Duration::from_secs(6 * 3600);
/// A no counts when it is said again after this: an app may say it by mistake while it starts or is deployed.
const CONFIRMED: Duration = Duration::from_secs(600);
/// Names that are asked about again at once.
const AT_ONCE: usize = 25;
/// Failed orders after which a name that never had a certificate is dropped: one by each challenge.
const FAILURES: usize = 2;
/// Longest wait for a next try that a handshake waits for.
const PATIENCE: Duration = Duration::from_secs(8);

/// What an app answers to the question whether a name is its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// 2xx.
    Yes,
    /// 4xx: the status.
    No(u16),
    /// It did not answer, or with something that says neither.
    Unknown(String),
}

impl Answer {
    /// What a status means.
    #[must_use]
    pub fn of_status(status: u16) -> Self {
        match status {
            200..=299 => Self::Yes,
            // It is too busy to say.
            408 | 425 | 429 => Self::Unknown(format!("it answered {status}")),
            400..=499 => Self::No(status),
            _ => Self::Unknown(format!("it answered {status}")),
        }
    }
}

/// Who can ask apps.
#[async_trait]
pub trait Approver: Send + Sync {
    /// Asks the live release of an app (in production) for this path with query.
    async fn ask(&self, app: &AppRow, path: &str) -> Answer;
}

/// How often apps were asked in this minute.
#[derive(Default)]
pub(crate) struct Asked(Mutex<HashMap<AppId, (Instant, u32)>>);

impl Asked {
    /// Whether an app may be asked now; counts it.
    fn admit(&self, app: AppId) -> bool {
        let mut asked = lock(&self.0);
        asked.retain(|_, (since, _)| since.elapsed() < Duration::from_secs(60));
        let (_, count) = asked.entry(app).or_insert_with(|| (Instant::now(), 0));
        *count += 1;
        *count <= ASKED_PER_MINUTE
    }
}

impl Certs {
    /// From now on names that apps approve get certificates while their visitors wait.
    pub fn approve_by(&self, approver: Arc<dyn Approver>) {
        let inner = &self.0;
        if inner.config.acme.is_none() || !inner.config.https {
            return;
        }
        // It is set once.
        let _ = inner.approver.set(approver);
        let source: Arc<dyn CertificateSource> = Arc::new(Source(Arc::downgrade(inner)));
        inner.shown.set_source(source);
        inner.wake.notify_one();
    }

    /// Asks the app of a name that came on demand whether it still approves it, and drops it if not. Does nothing
    /// about others.
    ///
    /// # Errors
    /// `NotFound` when the name was dropped.
    pub async fn ask_again(&self, row: &DomainRow) -> Result<(), Problem> {
        if row.origin != DomainOrigin::OnDemand {
            return Ok(());
        }
        match self.0.ask_about_name(row, true).await? {
            None => Ok(()),
            Some(why) => {
                Err(Problem::new(Code::NotFound, format!("{} was dropped: {why}.", row.name)).hint(format!(
                    "Have {} answer 2xx for it at its on_demand_ask path, or add it with domain_add.",
                    row.app
                )))
            }
        }
    }
}

/// Where the data plane gets certificates on demand.
struct Source(Weak<Inner>);

#[async_trait]
impl CertificateSource for Source {
    async fn certificate(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let inner = self.0.upgrade()?;
        let name: DomainName = name.parse().ok().filter(|_| is_public(name))?;
        match inner.take_up(&name).await {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => {
                tracing::warn!(%error, %name, "whether a name is approved could not be found out");
                return None;
            }
        }
        inner.wake.notify_one();
        inner.until_shown(&name).await
    }
}

impl Inner {
    /// Whether a name that has no certificate is to get one now: it is approved, or has just been.
    async fn take_up(&self, name: &DomainName) -> Result<bool, StoreError> {
        let now = self.now();
        if let Some(row) = self.store.domains().by_name(&Visible::All, name).await? {
            // What somebody added gets its certificate by itself, without anybody waiting.
            return Ok(row.origin == DomainOrigin::OnDemand);
        }
        let apps = self.store.apps().all(&Visible::All).await?;
        if self.is_spoken_for(name, &apps).await? {
            return Ok(false);
        }
        // Asked for lately and not to be had: its next time has not come.
        let newest = self.store.acme().of(name, 1).await?;
        if newest.first().is_some_and(|o| o.state == OrderState::Failed && o.next_try_at > Some(now)) {
            return Ok(false);
        }
        // All at once, as a visitor waits; the first by name has it.
        let askable = || apps.iter().filter(|app| app.settings.on_demand_ask.is_some());
        let answers = join_all(askable().map(|app| self.ask_app(app, name))).await;
        if let Some((app, _)) = askable().zip(answers).find(|(_, answer)| *answer == Answer::Yes) {
            let limit = app.settings.on_demand_limit.unwrap_or(PER_DAY);
            match self.store.domains().approve(app, name, limit).await {
                Ok(Approved::Taken(_)) => return Ok(true),
                Ok(Approved::Exhausted) => {
                    tracing::warn!(%name, app = %app.slug, limit, "an app has approved as many names as it may");
                }
                Err(StoreError::Conflict { .. } | StoreError::Taken { .. } | StoreError::NotFound { .. }) => {
                }
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Whether a name without a domain of its own is somebody's all the same: the platform's, one below a wildcard, or
    /// a route of an app.
    async fn is_spoken_for(&self, name: &DomainName, apps: &[AppRow]) -> Result<bool, StoreError> {
        let of_platform = self.config.own.as_ref().is_some_and(|own| {
            let below = name.as_str().strip_suffix(own.base.as_str());
            below.is_some_and(|rest| {
                rest.is_empty() || rest.strip_suffix('.').is_some_and(|l| !l.contains('.'))
            })
        });
        if of_platform
            || self.config.control_host.as_ref() == Some(name)
            || apps.iter().any(|app| app.settings.route_hosts().any(|host| host == *name))
        {
            return Ok(true);
        }
        match name.wildcard() {
            Some(wildcard) => Ok(self.store.domains().by_name(&Visible::All, &wildcard).await?.is_some()),
            None => Ok(false),
        }
    }

    async fn ask_app(&self, app: &AppRow, name: &DomainName) -> Answer {
        let Some(path) = app.settings.on_demand_ask.as_ref().filter(|_| !app.deleting) else {
            return Answer::No(404);
        };
        let Some(approver) = self.approver.get() else { return Answer::Unknown("nobody can ask it".into()) };
        if !self.asked.admit(app.id) {
            return Answer::Unknown("it was asked too often within a minute".into());
        }
        // A name needs no encoding.
        let join = if path.contains('?') { '&' } else { '?' };
        let answer = approver.ask(app, &format!("{path}{join}domain={name}")).await;
        tracing::debug!(%name, app = %app.slug, ?answer, "asked an app about a name");
        answer
    }

    /// Waits until a certificate of a name is shown; none when it is not to be had soon.
    async fn until_shown(&self, name: &DomainName) -> Option<Arc<CertifiedKey>> {
        let mut moved = self.moved.subscribe();
        loop {
            if let Some(key) = self.shown.certificate(name) {
                return Some(key);
            }
            let newest = self.store.acme().of(name, 1).await.ok()?;
            let hopeless =
                |row: &OrderRow| row.next_try_at.is_some_and(|at| at > later(self.now(), PATIENCE));
            if newest.first().is_some_and(hopeless) {
                return None;
            }
            tokio::select! {
                changed = moved.changed() => changed.ok()?,
                () = self.shutdown.cancelled() => return None,
            }
        }
    }

    /// Drops names that came on demand and are not to stay, and asks about those whose time has come. Returns the
    /// names that were dropped.
    pub(crate) async fn look_at_approved(
        self: &Arc<Self>,
        domains: &[DomainRow],
        certificates: &HashMap<DomainName, CertificateRow>,
        orders: &HashMap<DomainName, Vec<OrderRow>>,
    ) -> Result<Vec<DomainName>, StoreError> {
        let now = self.now();
        let mut on_demand: Vec<&DomainRow> =
            domains.iter().filter(|d| d.origin == DomainOrigin::OnDemand).collect();
        if on_demand.is_empty() {
            return Ok(Vec::new());
        }
        let asking: HashMap<AppId, bool> = self
            .store
            .apps()
            .all(&Visible::All)
            .await?
            .into_iter()
            .map(|app| (app.id, app.settings.on_demand_ask.is_some()))
            .collect();
        let mut dropped = Vec::new();
        for row in &on_demand {
            let approves = asking.get(&row.app_id).copied().unwrap_or_default();
            let orders = orders.get(&row.name).map_or(&[][..], Vec::as_slice);
            if let Some(why) = why_dropped(row, approves, certificates.get(&row.name), orders, now)
                && self.store.domains().drop_approved(&row.name, why).await?
            {
                dropped.push(row.name.clone());
            }
        }
        on_demand.retain(|row| !dropped.contains(&row.name) && asks_at(row) <= now);
        on_demand.sort_by_key(|row| row.asked_at);
        if self.approver.get().is_some() {
            for row in on_demand.into_iter().take(AT_ONCE) {
                let (inner, row) = (Arc::clone(self), row.clone());
                self.spawn_asking(row.name.clone(), async move {
                    if let Err(error) = inner.ask_about_name(&row, false).await {
                        tracing::warn!(%error, name = %row.name, "what an app says of a name could not be noted");
                    }
                });
            }
        }
        Ok(dropped)
    }

    /// Asks an app whether it still approves a name, and drops the name if it does not: by one no if somebody wants
    /// to know, else by two. Returns why it was dropped.
    async fn ask_about_name(&self, row: &DomainRow, at_once: bool) -> Result<Option<String>, StoreError> {
        let now = self.now();
        let Some(app) = self.store.apps().by_id(row.app_id).await? else { return Ok(None) };
        let domains = self.store.domains();
        match self.ask_app(&app, &row.name).await {
            Answer::Yes => domains.asked(&row.name, None).await?,
            // Whoever cannot be asked says nothing new.
            Answer::Unknown(why) => {
                tracing::info!(name = %row.name, app = %app.slug, why, "an app could not be asked about a name");
                domains.asked(&row.name, row.refused_at).await?;
            }
            Answer::No(status) => {
                let since = row.refused_at.unwrap_or(now);
                if at_once || later(since, CONFIRMED) <= now {
                    let why = format!("{} does not approve it any more (it answered {status})", app.slug);
                    domains.drop_approved(&row.name, &why).await?;
                    return Ok(Some(why));
                }
                domains.asked(&row.name, Some(since)).await?;
            }
        }
        Ok(None)
    }
}

/// When an app is to be asked about a name again.
fn asks_at(row: &DomainRow) -> Timestamp {
    let last = row.asked_at.unwrap_or(row.created_at);
    later(last, if row.refused_at.is_some() { CONFIRMED } else { AGAIN })
}

/// Why a name that came on demand is not to stay, whatever its app would say. `orders` are its own, oldest first.
fn why_dropped(
    row: &DomainRow,
    approves: bool,
    certificate: Option<&CertificateRow>,
    orders: &[OrderRow],
    now: Timestamp,
) -> Option<&'static str> {
    if !approves {
        return Some("its app approves none any more");
    }
    match certificate {
        Some(certificate) if certificate.not_after <= now => {
            Some("its certificate has expired and was not renewed")
        }
        Some(_) => None,
        None => {
            let failed = |o: &&OrderRow| o.state == OrderState::Failed && o.created_at >= row.created_at;
            let failures = orders.iter().filter(failed).count();
            (failures >= FAILURES).then_some("no certificate was to be had for it")
        }
    }
}

#[cfg(test)]
mod tests {
    use berth_schemas::{domain::ChallengeKind, rules::DomainRules};
    use berth_store::{
        OrderId,
        model::{EnvironmentId, ProjectId},
    };

    use super::*;

    fn row(refused_at: Option<i64>) -> DomainRow {
        DomainRow {
            id: 1,
            name: "shop.example.com".parse().unwrap(),
            app_id: AppId(1),
            app: "web".parse().unwrap(),
            project_id: ProjectId(1),
            environment_id: EnvironmentId(1),
            environment: "production".parse().unwrap(),
            redirect_to: None,
            challenge: None,
            rules: DomainRules::default(),
            created_at: Timestamp(10),
            created_by: "berth".into(),
            origin: DomainOrigin::OnDemand,
            asked_at: None,
            refused_at: refused_at.map(Timestamp),
        }
    }

    fn failed(created_at: i64) -> OrderRow {
        OrderRow {
            id: OrderId(1),
            name: "shop.example.com".parse().unwrap(),
            directory: "https://ca.example/dir".into(),
            challenge: ChallengeKind::Http01,
            renewal: false,
            state: OrderState::Failed,
            url: None,
            trouble: None,
            not_before: None,
            fault: None,
            next_try_at: None,
            created_at: Timestamp(created_at),
            updated_at: Timestamp(created_at),
        }
    }

    fn certificate(not_after: i64) -> CertificateRow {
        CertificateRow {
            name: "shop.example.com".parse().unwrap(),
            names: vec!["shop.example.com".into()],
            chain: String::new(),
            issuer: "CN=Test".into(),
            fingerprint: "ab".into(),
            own: false,
            directory: None,
            not_before: Timestamp(0),
            not_after: Timestamp(not_after),
            renew_at: None,
            asked_at: None,
            created_at: Timestamp(0),
        }
    }

    #[test]
    fn an_answer_is_yes_or_no_only_where_it_says_so() {
        for (status, wanted) in
            [(200, Answer::Yes), (204, Answer::Yes), (404, Answer::No(404)), (403, Answer::No(403))]
        {
            assert_eq!(Answer::of_status(status), wanted);
        }
        for neither in [302, 429, 500, 503, 101] {
            assert!(matches!(Answer::of_status(neither), Answer::Unknown(_)), "{neither}");
        }
    }

    #[test]
    fn a_name_goes_when_it_cannot_be_served_or_nobody_vouches_for_it() {
        let now = Timestamp(100);
        let why = |approves, c: Option<CertificateRow>, orders: &[OrderRow]| {
            why_dropped(&row(None), approves, c.as_ref(), orders, now)
        };
        assert_eq!(why(true, None, &[]), None);
        assert_eq!(why(true, None, &[failed(20)]), None, "the other challenge is left");
        assert!(why(true, None, &[failed(20), failed(30)]).is_some());
        assert_eq!(
            why(true, None, &[failed(5), failed(20)]),
            None,
            "what failed before it was approved is past"
        );
        assert_eq!(why(true, Some(certificate(200)), &[failed(20), failed(30)]), None, "renewals may fail");
        assert!(why(true, Some(certificate(100)), &[]).is_some());
        assert!(why(false, Some(certificate(200)), &[]).is_some());
    }

    #[test]
    fn an_app_that_says_no_is_soon_asked_again() {
        assert_eq!(asks_at(&row(None)), later(Timestamp(10), AGAIN));
        assert_eq!(asks_at(&row(Some(12))), later(Timestamp(10), CONFIRMED));
    }

    #[test]
    fn an_app_is_asked_so_often_and_no_more() {
        let asked = Asked::default();
        assert_eq!((0..200).filter(|_| asked.admit(AppId(1))).count(), ASKED_PER_MINUTE as usize);
        assert!(asked.admit(AppId(2)), "another app has its own share");
    }
}
