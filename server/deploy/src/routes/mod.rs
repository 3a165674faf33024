//! What the data plane is told: which host and path leads to which release.
//!
//! One entry per environment; any change builds a new table from all of them and swaps it in. Nothing here is
//! kept in the store: it follows from the store and the engine.

mod entry;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    mem,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use berth_proxy::{
    Answers, Destination, DrainReport, Hold, HostRules, ProxyHandle, ReleaseLabel, ReleaseTarget,
    RemovedReplicas, ReplicaAddr, RouteTable, RouteTableBuilder, StaticSite, TargetOptions,
};
use berth_schemas::{Code, EnvironmentName, Problem, ProjectSlug, app::AppState};
use berth_store::model::{AppRow, Artifact, EnvironmentId, ReleaseId, ReleaseRow};
use tokio_util::sync::CancellationToken;

pub(crate) use entry::Trial;
use entry::{Entry, Mode, Serving};

use crate::{
    config::{Addresses, PipelineConfig},
    errors::TUNNEL_PATH,
    lock::lock,
    repository::UNPACK_LIMIT,
    start::Running,
};

/// Requests of one app that wait at once while it is paused; those beyond are told to come again.
const HELD: usize = 1000;

/// Beyond the limit for the objects of a push: the control plane may be silent for so much longer.
const CONTROL_GRACE: Duration = Duration::from_secs(5 * 60);

/// Longest wait for an app that sleeps.
const WAKING: Duration = Duration::from_secs(120);

/// A domain that leads to an environment.
pub(crate) struct DomainRoute {
    pub(crate) host: String,
    /// The host that visitors are sent to instead.
    pub(crate) redirect_to: Option<String>,
    /// What it enforces.
    pub(crate) rules: Option<Arc<HostRules>>,
}

/// All domains, and which hosts have a certificate.
#[derive(Default)]
pub(crate) struct Domains {
    pub(crate) of: BTreeMap<EnvironmentId, Vec<DomainRoute>>,
    /// Hosts and wildcards with a certificate: plain HTTP leads to HTTPS there.
    pub(crate) certified: HashSet<String>,
}

impl Domains {
    pub(crate) fn is_certified(&self, host: &str) -> bool {
        let wildcard = || host.split_once('.').map(|(_, parent)| format!("*.{parent}"));
        self.certified.contains(host) || wildcard().is_some_and(|w| self.certified.contains(&w))
    }

    fn rules(&self) -> HashMap<&String, &Arc<HostRules>> {
        let all = self.of.values().flatten();
        all.filter_map(|d| Some((&d.host, d.rules.as_ref()?))).collect()
    }
}

/// The routes of all environments.
pub(crate) struct Routes {
    proxy: ProxyHandle,
    addresses: Addresses,
    entries: Mutex<BTreeMap<EnvironmentId, Entry>>,
    /// Locked after `entries`, never before.
    domains: Mutex<Domains>,
    /// Host and target of the control plane.
    control: Option<(String, Arc<ReleaseTarget>)>,
    /// Target of [`TUNNEL_PATH`] on every host of an app.
    errors: Option<Arc<ReleaseTarget>>,
    /// False until the first routes of all environments are known: a table of some would hide the others.
    published: AtomicBool,
    /// See [`crate::PipelineConfig::alone`].
    alone: CancellationToken,
}

impl Routes {
    pub(crate) fn new(proxy: ProxyHandle, config: &PipelineConfig) -> Self {
        let (addresses, alone) = (config.addresses.clone(), config.alone.clone());
        let control =
            config.control.as_ref().map(|c| (c.host.clone(), own_target(c.addr, control_options())));
        let errors = config.errors.as_ref().map(|e| own_target(e.addr, TargetOptions::default()));
        Self {
            proxy,
            addresses,
            entries: Mutex::default(),
            domains: Mutex::default(),
            control,
            errors,
            published: AtomicBool::new(false),
            alone,
        }
    }

    /// From now on every change is seen by visitors, beginning with what was set so far.
    pub(crate) fn begin(&self) {
        let entries = self.lock();
        self.published.store(true, Ordering::Release);
        self.publish(&entries);
    }

    /// Sends visitors of an app to a release. Returns what they were sent to before.
    pub(crate) fn serve(
        &self,
        app: &AppRow,
        release: &ReleaseRow,
        target: Arc<ReleaseTarget>,
    ) -> Option<Arc<ReleaseTarget>> {
        let serving = match release.artifact {
            Artifact::Image { .. } => Serving::Release(release.id, target),
            Artifact::Static { .. } => Serving::Files(release.id, target),
        };
        self.set(app, serving)
    }

    /// Shows that an app's containers are being brought up.
    pub(crate) fn starting(&self, app: &AppRow, release: ReleaseId) -> Option<Arc<ReleaseTarget>> {
        self.set(app, Serving::Starting(release))
    }

    /// Has visitors of an app that sleeps wait, and calls `wake` when they begin to. Returns what they were sent to
    /// before.
    pub(crate) fn asleep(
        &self,
        app: &AppRow,
        release: ReleaseId,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Option<Arc<ReleaseTarget>> {
        if self.sleeps(app.environment.id, release) {
            return None;
        }
        let hold = Hold::waking(app.title(), WAKING, HELD, wake);
        self.set(app, Serving::Asleep(release, hold))
    }

    fn sleeps(&self, environment: EnvironmentId, release: ReleaseId) -> bool {
        let entries = self.lock();
        let serving = entries.get(&environment).map(|e| &e.serving);
        matches!(serving, Some(Serving::Asleep(id, _)) if *id == release)
    }

    /// Shows that an app is stopped.
    pub(crate) fn stopped(&self, app: &AppRow) -> Option<Arc<ReleaseTarget>> {
        self.set(app, Serving::Stopped)
    }

    /// Shows that an app exists but was never deployed.
    pub(crate) fn nothing(&self, app: &AppRow) -> Option<Arc<ReleaseTarget>> {
        self.set(app, Serving::Nothing)
    }

    /// Forgets an app.
    pub(crate) fn remove(&self, environment: EnvironmentId) -> Option<Arc<ReleaseTarget>> {
        let mut entries = self.lock();
        let old = entries.remove(&environment);
        self.publish(&entries);
        let old = old?;
        old.mode.end();
        old.serving.end();
        old.target()
    }

    /// Sets what stands between an app's visitors and its release, from the next request on; those that wait go on.
    /// Whoever calls has one at a time do so, after it was committed.
    pub(crate) fn set_mode(&self, app: &AppRow) {
        let mut entries = self.lock();
        let entry = self.entry(&mut entries, app);
        let before = mem::replace(&mut entry.mode, Mode::of(app));
        self.publish(&entries);
        before.end();
    }

    /// Requests that wait because an environment is paused or asleep.
    pub(crate) fn waiting(&self, environment: EnvironmentId) -> usize {
        match self.lock().get(&environment).map(|e| (&e.mode, &e.serving)) {
            Some((Mode::Paused(hold), _) | (_, Serving::Asleep(_, hold))) => hold.waiting(),
            _ => 0,
        }
    }

    /// Gives a part of an app's traffic to a release, or another part than before.
    pub(crate) fn set_trial(&self, app: &AppRow, trial: Trial) {
        let mut entries = self.lock();
        let entry = self.entry(&mut entries, app);
        entry.trial = Some(trial);
        self.publish(&entries);
    }

    /// Gives a trial's part back to the release that serves. Returns what had it, for open requests.
    pub(crate) fn end_trial(&self, environment: EnvironmentId) -> Option<Arc<ReleaseTarget>> {
        let mut entries = self.lock();
        let trial = entries.get_mut(&environment)?.trial.take()?;
        self.publish(&entries);
        Some(trial.target)
    }

    /// The release on trial in an environment.
    pub(crate) fn trial(&self, environment: EnvironmentId) -> Option<Trial> {
        self.lock().get(&environment)?.trial.clone()
    }

    /// The app's hosts and prefixes may have changed.
    pub(crate) fn moved(&self, app: &AppRow) {
        let mut entries = self.lock();
        if let Some(entry) = entries.get_mut(&app.environment.id) {
            entry.places = places(app, &self.addresses);
            self.publish(&entries);
        }
    }

    /// The rules of each domain that has some.
    pub(crate) fn rules(&self) -> HashMap<String, Arc<HostRules>> {
        lock(&self.domains)
            .rules()
            .into_iter()
            .map(|(host, rules)| (host.clone(), Arc::clone(rules)))
            .collect()
    }

    /// Replaces all domains.
    pub(crate) fn set_domains(&self, domains: Domains) {
        let entries = self.lock();
        *lock(&self.domains) = domains;
        self.publish(&entries);
    }

    /// Which release an environment's visitors get.
    pub(crate) fn serves(&self, environment: EnvironmentId) -> Option<ReleaseId> {
        match self.lock().get(&environment)?.serving {
            Serving::Release(id, _) | Serving::Files(id, _) | Serving::Starting(id) => Some(id),
            Serving::Nothing | Serving::Stopped | Serving::Asleep(..) => None,
        }
    }

    /// Whether an environment's visitors are told that it is stopped.
    pub(crate) fn is_stopped(&self, environment: EnvironmentId) -> bool {
        matches!(self.lock().get(&environment), Some(Entry { serving: Serving::Stopped, .. }))
    }

    /// What an environment's visitors are sent to.
    pub(crate) fn serving_target(&self, environment: EnvironmentId) -> Option<Arc<ReleaseTarget>> {
        self.lock().get(&environment)?.target()
    }

    /// Whether an app that should run does.
    pub(crate) fn state(&self, environment: EnvironmentId, wanted: i64) -> AppState {
        match self.lock().get(&environment).map(|e| e.serving.clone()) {
            Some(Serving::Files(..)) => AppState::Running,
            Some(Serving::Release(_, target)) => {
                let answering = target.replicas().iter().filter(|(_, _, healthy)| *healthy).count();
                match (answering, usize::try_from(wanted).unwrap_or(1)) {
                    (0, _) => AppState::Down,
                    (some, wanted) if some < wanted => AppState::Degraded,
                    _ => AppState::Running,
                }
            }
            Some(Serving::Asleep(..)) => AppState::Sleeping,
            Some(Serving::Stopped) => AppState::Stopped,
            Some(Serving::Nothing) => AppState::Empty,
            Some(Serving::Starting(_)) | None => AppState::Down,
        }
    }

    /// Waits until requests to a target that no route leads to have ended.
    pub(crate) async fn drain(&self, target: &Arc<ReleaseTarget>, limit: Duration) -> DrainReport {
        tokio::join!(self.proxy.drain(target, limit), self.others_gone(limit)).0
    }

    /// Waits until requests to replicas that a target no longer has have ended.
    pub(crate) async fn drain_replicas(&self, removed: RemovedReplicas, limit: Duration) {
        tokio::join!(removed.idle(limit), self.others_gone(limit));
    }

    /// Requests in the same containers may have come through the process before this one.
    async fn others_gone(&self, limit: Duration) {
        let _ = tokio::time::timeout(limit, self.alone.cancelled()).await;
    }

    /// A target of containers.
    pub(crate) fn container_target(
        &self,
        app: &AppRow,
        release: &ReleaseRow,
        containers: &[Running],
    ) -> Arc<ReleaseTarget> {
        let private_maps = matches!(release.artifact, Artifact::Image { private_maps: true, .. });
        let options = TargetOptions { private_maps, ..TargetOptions::default() };
        ReleaseTarget::containers(label(app, release), replica_addrs(containers), options)
    }

    /// A target of files.
    ///
    /// # Errors
    /// When the directory of the release cannot be opened.
    pub(crate) fn static_target(
        &self,
        app: &AppRow,
        release: &ReleaseRow,
        root: &Path,
    ) -> Result<Arc<ReleaseTarget>, Problem> {
        let site = StaticSite {
            root: root.to_path_buf(),
            spa_fallback: release.settings.spa_fallback.unwrap_or(false),
        };
        ReleaseTarget::static_files(label(app, release), site).map_err(|e| {
            Problem::new(
                Code::ReleaseGone,
                format!("The files of release {} cannot be served: {e}.", release.number),
            )
            .hint("Deploy again, or roll back to another release.")
        })
    }

    fn set(&self, app: &AppRow, serving: Serving) -> Option<Arc<ReleaseTarget>> {
        let mut entries = self.lock();
        let entry = self.entry(&mut entries, app);
        let old = entry.target();
        entry.places = places(app, &self.addresses);
        let before = mem::replace(&mut entry.serving, serving);
        // Promoted: it is what serves now.
        if let Serving::Release(id, _) | Serving::Files(id, _) = entry.serving {
            entry.trial.take_if(|trial| trial.release == id);
        }
        self.publish(&entries);
        before.end();
        old
    }

    fn publish(&self, entries: &BTreeMap<EnvironmentId, Entry>) {
        if !self.published.load(Ordering::Acquire) {
            return;
        }
        let mut builder = RouteTable::builder();
        let mut taken = HashSet::new();
        let domains = lock(&self.domains);
        // They are the host's: whatever app answers below one of its paths is behind them, too.
        let rules = domains.rules();
        if let Some((host, target)) = &self.control {
            taken.insert((host, "/"));
            let route = builder.host(host.as_str());
            let route = if domains.is_certified(host) { route.https_only() } else { route };
            builder = route.to(Destination::Release(Arc::clone(target)));
        }
        // A domain says more than a bare host among the routes of an app: it comes first.
        let domain_places = entries.iter().flat_map(|(environment, entry)| {
            let of = domains.of.get(environment).into_iter().flatten();
            of.map(move |domain| (entry, &domain.host, "/", domain.redirect_to.as_ref()))
        });
        let own_places = entries.values().flat_map(|entry| {
            entry.places.iter().map(move |(host, prefix)| (entry, host, prefix.as_str(), None))
        });
        for (entry, host, prefix, redirect_to) in domain_places.chain(own_places) {
            // Checked when it was set; a clash that is there all the same must not take all routes down.
            if !taken.insert((host, prefix)) {
                continue;
            }
            let place = |builder: RouteTableBuilder, prefix: &str| {
                let mut route = builder.host(host.as_str()).prefix(prefix);
                if domains.is_certified(host) {
                    route = route.https_only();
                }
                if let Some(rules) = rules.get(host) {
                    route = route.rules(Arc::clone(rules));
                }
                route
            };
            if let Some(errors) = &self.errors
                && taken.insert((host, TUNNEL_PATH))
            {
                builder = place(builder, TUNNEL_PATH).to(Destination::Release(Arc::clone(errors)));
            }
            builder = place(builder, prefix).to(match redirect_to {
                Some(to) => Destination::Redirect { host: to.clone() },
                None => entry.destination(),
            });
        }
        drop(domains);
        match builder.build() {
            Ok(table) => self.proxy.set_routes(table),
            Err(conflicts) => tracing::error!(?conflicts, "the routes could not be set; those before stay"),
        }
    }

    /// What an app shows. The mode of one that has an entry changes by `set_mode` alone: what others know of the app
    /// may be older.
    fn entry<'e>(&self, entries: &'e mut BTreeMap<EnvironmentId, Entry>, app: &AppRow) -> &'e mut Entry {
        entries.entry(app.environment.id).or_insert_with(|| Entry {
            app: app.title(),
            places: places(app, &self.addresses),
            serving: Serving::Nothing,
            mode: Mode::of(app),
            trial: None,
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<EnvironmentId, Entry>> {
        lock(&self.entries)
    }
}

/// What a target answered since it had answered `before`.
pub(crate) fn since(target: &ReleaseTarget, before: Answers) -> Answers {
    let now = target.answers();
    Answers {
        total: now.total.saturating_sub(before.total),
        server_errors: now.server_errors.saturating_sub(before.server_errors),
    }
}

/// How the data plane finds a container.
pub(crate) fn replica_addrs(containers: &[Running]) -> Vec<ReplicaAddr> {
    containers.iter().map(|c| ReplicaAddr { id: c.id.short().to_owned(), addr: c.addr }).collect()
}

fn label(app: &AppRow, release: &ReleaseRow) -> ReleaseLabel {
    let project: &ProjectSlug = &app.project;
    let environment: &EnvironmentName = &app.environment.name;
    ReleaseLabel {
        project: project.to_string(),
        app: app.slug.to_string(),
        environment: environment.to_string(),
        release: release.number,
    }
}

/// Berth itself as the data plane sees it. Its label is no app's name, so its requests are recorded for none.
fn own_target(addr: std::net::SocketAddr, options: TargetOptions) -> Arc<ReleaseTarget> {
    let label = ReleaseLabel {
        project: String::new(),
        app: "(control plane)".into(),
        environment: String::new(),
        release: 0,
    };
    let replica = ReplicaAddr { id: "control".into(), addr };
    ReleaseTarget::containers(label, vec![replica], options)
}

/// How the data plane talks to the control plane: a `git push` hears nothing until all its objects are stored and checked.
fn control_options() -> TargetOptions {
    let response_timeout = UNPACK_LIMIT + CONTROL_GRACE;
    TargetOptions { response_timeout, ..TargetOptions::default() }
}

/// Host and path prefix of every place where an app answers.
fn places(app: &AppRow, addresses: &Addresses) -> Vec<(String, String)> {
    let own = (addresses.host(&app.slug, &app.environment.name), "/".to_owned());
    // What people name for the app is meant for its visitors, not for previews.
    let routes = app.settings.routes.iter().flatten().filter(|_| app.is_production());
    let more = routes.map(|route| split_route(route));
    std::iter::once(own).chain(more).collect()
}

/// Splits `host` or `host/prefix`; the edge has checked both when the setting was made.
fn split_route(route: &str) -> (String, String) {
    match route.split_once('/') {
        Some((host, path)) => (host.to_ascii_lowercase(), format!("/{}", path.trim_end_matches('/'))),
        None => (route.to_ascii_lowercase(), "/".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_is_not_given_up_while_its_objects_are_checked() {
        assert!(control_options().response_timeout > UNPACK_LIMIT);
    }
}
