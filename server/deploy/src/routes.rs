//! What the data plane is told: which host and path leads to which release.
//!
//! One entry per environment; any change builds a new table from all of them and swaps it in. Nothing here is
//! kept in the store: it follows from the store and the engine.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use berth_proxy::{
    Destination, DrainReport, ProxyHandle, ReleaseLabel, ReleaseTarget, ReplicaAddr, RouteTable, StaticSite,
    StatusPage, TargetOptions,
};
use berth_schemas::{AppSlug, Code, EnvironmentName, Problem, ProjectSlug, app::AppState};
use berth_store::model::{AppRow, Artifact, EnvironmentId, ReleaseId, ReleaseRow};
use tokio_util::sync::CancellationToken;

use crate::{config::Addresses, start::Running};

/// What an environment shows to visitors.
#[derive(Clone)]
enum Serving {
    /// Nothing was deployed yet.
    Nothing,
    /// It is stopped by request.
    Stopped,
    /// Its containers are being brought up.
    Starting(ReleaseId),
    /// A release in containers.
    Release(ReleaseId, Arc<ReleaseTarget>),
    /// A release of files.
    Files(ReleaseId, Arc<ReleaseTarget>),
}

struct Entry {
    app: AppSlug,
    places: Vec<(String, String)>,
    serving: Serving,
}

/// The routes of all environments.
pub(crate) struct Routes {
    proxy: ProxyHandle,
    addresses: Addresses,
    entries: Mutex<BTreeMap<EnvironmentId, Entry>>,
    /// False until the first routes of all environments are known: a table of some would hide the others.
    published: AtomicBool,
    /// See [`crate::PipelineConfig::alone`].
    alone: CancellationToken,
}

impl Routes {
    pub(crate) fn new(proxy: ProxyHandle, addresses: Addresses, alone: CancellationToken) -> Self {
        Self { proxy, addresses, entries: Mutex::default(), published: AtomicBool::new(false), alone }
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
        old.and_then(|e| e.target())
    }

    /// The app's hosts and prefixes may have changed.
    pub(crate) fn moved(&self, app: &AppRow) {
        let mut entries = self.lock();
        if let Some(entry) = entries.get_mut(&app.environment.id) {
            entry.places = places(app, &self.addresses);
            self.publish(&entries);
        }
    }

    /// Which release an environment's visitors get.
    pub(crate) fn serves(&self, environment: EnvironmentId) -> Option<ReleaseId> {
        match self.lock().get(&environment)?.serving {
            Serving::Release(id, _) | Serving::Files(id, _) | Serving::Starting(id) => Some(id),
            Serving::Nothing | Serving::Stopped => None,
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
            Some(Serving::Stopped) => AppState::Stopped,
            Some(Serving::Nothing) => AppState::Empty,
            Some(Serving::Starting(_)) | None => AppState::Down,
        }
    }

    /// Waits until requests to a target that no route leads to have ended.
    pub(crate) async fn drain(&self, target: &Arc<ReleaseTarget>, limit: Duration) -> DrainReport {
        // Requests in the same containers may have come through the process before this one.
        let others = tokio::time::timeout(limit, self.alone.cancelled());
        tokio::join!(self.proxy.drain(target, limit), others).0
    }

    /// A target of containers.
    pub(crate) fn container_target(
        &self,
        app: &AppRow,
        release: &ReleaseRow,
        containers: &[Running],
    ) -> Arc<ReleaseTarget> {
        ReleaseTarget::containers(label(app, release), replica_addrs(containers), TargetOptions::default())
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
        let entry = Entry { app: app.slug.clone(), places: places(app, &self.addresses), serving };
        let old = entries.insert(app.environment.id, entry);
        self.publish(&entries);
        old.and_then(|e| e.target())
    }

    fn publish(&self, entries: &BTreeMap<EnvironmentId, Entry>) {
        if !self.published.load(Ordering::Acquire) {
            return;
        }
        let mut builder = RouteTable::builder();
        let mut taken = std::collections::HashSet::new();
        for entry in entries.values() {
            for (host, prefix) in &entry.places {
                // Checked when it was set; a clash that is there all the same must not take all routes down.
                if taken.insert((host.clone(), prefix.clone())) {
                    builder = builder.host(host.as_str()).prefix(prefix.as_str()).to(entry.destination());
                }
            }
        }
        match builder.build() {
            Ok(table) => self.proxy.set_routes(table),
            Err(conflicts) => tracing::error!(?conflicts, "the routes could not be set; those before stay"),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<EnvironmentId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn target(&self) -> Option<Arc<ReleaseTarget>> {
        match &self.serving {
            Serving::Release(_, target) | Serving::Files(_, target) => Some(Arc::clone(target)),
            _ => None,
        }
    }

    fn destination(&self) -> Destination {
        let app = self.app.to_string();
        match &self.serving {
            Serving::Release(_, target) | Serving::Files(_, target) => {
                Destination::Release(Arc::clone(target))
            }
            Serving::Starting(_) => Destination::Page(StatusPage::Starting { app }),
            Serving::Stopped => Destination::Page(StatusPage::Stopped { app }),
            Serving::Nothing => Destination::Page(StatusPage::NotDeployed { app }),
        }
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

/// Host and path prefix of every place where an app answers.
fn places(app: &AppRow, addresses: &Addresses) -> Vec<(String, String)> {
    let own = (addresses.host(&app.slug), "/".to_owned());
    let more = app.settings.routes.iter().flatten().map(|route| split_route(route));
    std::iter::once(own).chain(more).collect()
}

/// Splits `host` or `host/prefix`; the edge has checked both when the setting was made.
fn split_route(route: &str) -> (String, String) {
    match route.split_once('/') {
        Some((host, path)) => (host.to_ascii_lowercase(), format!("/{}", path.trim_end_matches('/'))),
        None => (route.to_ascii_lowercase(), "/".to_owned()),
    }
}
