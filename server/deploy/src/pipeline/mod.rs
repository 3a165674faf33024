//! The deploy pipeline as the rest of the daemon uses it: ask for work, watch it, see how apps are.
//!
//! Here lives the shared state; the calls of tools are in `calls`. How work is picked is in `queue`, how one deployment is
//! carried through in `attempt`, what traffic sees in `routes`, how the world is put right in `reconcile`.

mod calls;

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{Arc, Mutex},
};

use berth_observe::LogCollector;
use berth_proxy::ProxyHandle;
use berth_schemas::{Code, Problem, deployment::DeploymentState, ids::JobId, traffic::RolloutRule};
use berth_store::{
    Store,
    model::{
        AppId, AppRow, DeploymentId, DeploymentRow, DeploymentSource, Enqueued, EnvironmentId, NewDeployment,
        ReleaseId,
    },
};
use tokio::sync::{Notify, Semaphore, broadcast};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    build_cache::Steps,
    config::PipelineConfig,
    crash_loop::CrashLoops,
    docker::{ContainerId, Engine, InstanceId},
    gate::{Gates, Turns},
    jobs::Place,
    journal::{DeploymentUpdate, Watchers},
    previews::Sleepers,
    push::GitSlots,
    routes::Routes,
    stall,
    waits::{Holders, Wait},
    watch::Watches,
};

/// What a caller may say about a deployment.
#[derive(Debug, Clone, Default)]
pub struct EnqueueOptions {
    /// What it is, in a line.
    pub message: Option<String>,
    /// Build without the cache of earlier builds.
    pub no_cache: bool,
    /// Give it a part of the traffic first, by this rule.
    pub rollout: Option<RolloutRule>,
}

/// The deploy pipeline. Cheap to clone.
#[derive(Clone)]
pub struct Pipeline(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) instance: InstanceId,
    pub(crate) config: PipelineConfig,
    pub(crate) routes: Routes,
    pub(crate) collector: LogCollector,
    pub(crate) watchers: Watchers,
    /// Deployments being worked on.
    pub(crate) active: Mutex<HashMap<DeploymentId, Active>>,
    /// One at a time changes what serves in an environment.
    pub(crate) traffic: Gates<EnvironmentId>,
    /// One at a time changes what stands between an environment's visitors and its releases. Whoever is inside goes
    /// through none of the other gates.
    pub(crate) modes: Gates<EnvironmentId>,
    /// The end of a rollout was asked for.
    pub(crate) decided: Notify,
    /// What rollouts are compared with.
    pub(crate) baselines: Mutex<HashMap<DeploymentId, crate::rollout::Baseline>>,
    /// One at a time starts, stops or removes the containers of a release.
    pub(crate) containers: Gates<ReleaseId>,
    /// One at a time looks at an environment.
    pub(crate) looking: Turns<EnvironmentId>,
    /// One at a time works on the jobs of a place, in their order.
    pub(crate) working: Turns<Place>,
    /// Containers that the engine was told to restart by itself.
    pub(crate) restartable: Mutex<HashSet<ContainerId>>,
    /// Why an environment could not be put right at the last look.
    pub(crate) troubles: Mutex<HashMap<EnvironmentId, Problem>>,
    /// Steps of our builds, to tell their part of the build cache.
    pub(crate) steps: Mutex<Steps>,
    /// Previews that sleep and are wanted.
    pub(crate) sleepers: Sleepers,
    /// Releases that got the traffic a moment ago.
    pub(crate) watches: Watches,
    /// Apps that keep dying.
    pub(crate) crash_loops: CrashLoops,
    /// Who changes what serves, by environment.
    pub(crate) holders: Holders,
    /// Jobs that wait for the gate of their app's traffic.
    pub(crate) jobs_at_gate: Mutex<HashSet<JobId>>,
    /// The engine answers again after it was away.
    pub(crate) engine_back: Notify,
    /// What is left over should be looked for now.
    pub(crate) sweep_now: Notify,
    pub(crate) builds: Arc<Semaphore>,
    /// There may be something to pick.
    pub(crate) wake: Notify,
    /// There may be pushes to decide.
    pub(crate) pushed: Notify,
    /// One at a time moves the refs of an app's own repository. Whoever is inside goes through none of the other gates.
    pub(crate) repositories: Gates<AppId>,
    /// One at a time reads or removes an image.
    pub(crate) image_reads: Gates<String>,
    /// Names of the containers that images are read through now.
    pub(crate) copying: Mutex<HashSet<String>>,
    /// There may be images to be searched for source maps.
    pub(crate) maps_due: Notify,
    /// Refs may have moved of which no push was kept.
    pub(crate) refs_to_look_at: Notify,
    /// Places of those who fetch and push.
    pub(crate) git_slots: GitSlots,
    /// Ends of jobs and deployments, for those who wait.
    pub(crate) settled: broadcast::Sender<()>,
    /// Something happened to a container; the reconciler should look at this environment.
    pub(crate) look: tokio::sync::mpsc::Sender<EnvironmentId>,
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

/// A deployment being worked on.
pub(crate) struct Active {
    pub(crate) environment: EnvironmentId,
    pub(crate) number: i64,
    /// Such as web#42.
    pub(crate) name: String,
    /// What it waits for, if it does.
    pub(crate) waits: Option<Wait>,
    /// It has a place to build.
    pub(crate) builds: bool,
    /// Stops the work.
    pub(crate) cancel: CancellationToken,
    /// Set when it is cancelled because a newer one takes its place.
    pub(crate) superseded_by: Option<String>,
    pub(crate) state: DeploymentState,
    /// The release that it starts, or takes something of: not to be stopped or removed by others.
    pub(crate) release: Option<ReleaseId>,
    /// The release that it took the traffic from, while open requests may finish there.
    pub(crate) draining: Option<ReleaseId>,
}

impl Pipeline {
    /// Starts the pipeline: brings store, engine and routes to one truth, then works on what is queued. Returns
    /// when what can serve is routed; healing goes on behind.
    ///
    /// # Errors
    /// When the store cannot be read, or the directories cannot be made.
    pub async fn open(
        store: Store,
        engine: Arc<dyn Engine>,
        instance: InstanceId,
        proxy: ProxyHandle,
        collector: LogCollector,
        config: PipelineConfig,
        shutdown: CancellationToken,
    ) -> Result<Self, Problem> {
        for directory in ["uploads", "releases", "work", "repos"] {
            let path = config.data_dir.join(directory);
            tokio::fs::create_dir_all(&path).await.map_err(|e| {
                Problem::new(Code::Internal, format!("The directory {} cannot be made: {e}.", path.display()))
            })?;
        }
        let (look, looks) = tokio::sync::mpsc::channel(256);
        let inner = Arc::new(Inner {
            routes: Routes::new(proxy, &config),
            builds: Arc::new(Semaphore::new(config.concurrent_builds.max(1))),
            store,
            engine,
            instance,
            config,
            collector,
            watchers: Watchers::default(),
            active: Mutex::default(),
            traffic: Gates::default(),
            modes: Gates::default(),
            decided: Notify::new(),
            baselines: Mutex::default(),
            containers: Gates::default(),
            looking: Turns::default(),
            working: Turns::default(),
            restartable: Mutex::default(),
            troubles: Mutex::default(),
            steps: Mutex::default(),
            sleepers: Sleepers::default(),
            watches: Watches::default(),
            crash_loops: CrashLoops::default(),
            holders: Holders::default(),
            jobs_at_gate: Mutex::default(),
            engine_back: Notify::new(),
            sweep_now: Notify::new(),
            wake: Notify::new(),
            pushed: Notify::new(),
            repositories: Gates::default(),
            image_reads: Gates::default(),
            copying: Mutex::default(),
            maps_due: Notify::new(),
            refs_to_look_at: Notify::new(),
            git_slots: GitSlots::default(),
            settled: broadcast::channel(256).0,
            look,
            tasks: TaskTracker::new(),
            shutdown,
        });
        inner.boot().await?;
        inner.spawn(Arc::clone(&inner).work_queue());
        inner.clear_quarantines().await?;
        inner.spawn(Arc::clone(&inner).work_pushes());
        inner.spawn(Arc::clone(&inner).work_refs());
        inner.spawn(Arc::clone(&inner).reconcile(looks));
        inner.spawn(Arc::clone(&inner).follow_engine());
        inner.spawn(Arc::clone(&inner).clean_regularly());
        inner.spawn(Arc::clone(&inner).watch_disks());
        inner.spawn(Arc::clone(&inner).take_image_maps());
        inner.spawn(Arc::clone(&inner).wake_sleepers());
        inner.spawn(Arc::clone(&inner).look_after_previews());
        inner.spawn(Arc::clone(&inner).follow_domains());
        Ok(Self(inner))
    }

    /// Waits until the work that goes on has ended. Call after the shutdown token was cancelled.
    pub async fn stopped(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

/// What comes from a fork runs once somebody has approved exactly that commit; what has run may run again.
fn refuse_unapproved(app: &AppRow, source: &DeploymentSource) -> Result<(), Problem> {
    let Some(preview) = app.environment.preview.as_ref().filter(|p| p.fork) else { return Ok(()) };
    if !source.is_new() {
        return Ok(());
    }
    let offer = preview.offer.as_ref().filter(|o| o.source == *source);
    if offer.is_some_and(|offer| preview.may_deploy(&offer.commit)) {
        return Ok(());
    }
    let detail = format!("{} is a fork's: only a commit that was approved is deployed there.", app.title());
    Err(Problem::new(Code::Conflict, detail)
        .hint("See environment_get for the commit that waits; preview_approve lets it run."))
}

/// What is said of work on an app that goes away.
pub(crate) fn being_deleted(app: &AppRow) -> Problem {
    Problem::new(Code::Conflict, format!("{} is being deleted.", app.title()))
}

impl Inner {
    /// Checks a wish to deploy, and completes it with what its source is compared by.
    pub(crate) async fn wanted(
        &self,
        by: &str,
        app: &AppRow,
        source: DeploymentSource,
        options: EnqueueOptions,
    ) -> Result<NewDeployment, Problem> {
        if app.deleting {
            return Err(being_deleted(app));
        }
        refuse_unapproved(app, &source)?;
        self.check_variables(app, &source).await?;
        if let DeploymentSource::Rollback { release, .. }
        | DeploymentSource::Promote { release, .. }
        | DeploymentSource::Redeploy { release, .. } = &source
        {
            let row = self.store.releases().get(*release).await?;
            if row.is_none_or(|r| r.removed) {
                return Err(Problem::new(Code::ReleaseGone, "That release is no longer kept.")
                    .hint("See release_list for those that are."));
            }
        }
        Ok(NewDeployment {
            app: app.id,
            environment: app.environment.id,
            key: self.source_key(app.id, &source).await?,
            source,
            by: by.to_owned(),
            message: options.message,
            no_cache: options.no_cache,
            rollout: options.rollout,
        })
    }

    /// Does what follows when a deployment was put in the queue.
    pub(crate) async fn enqueued(&self, outcome: &Enqueued) {
        let Enqueued::New(row) = outcome else { return };
        // It is accepted: what it supersedes is also found when the queue is looked at.
        if let Err(problem) = self.supersede_older(row).await {
            tracing::warn!(%problem, deployment = %row.reference(), "older deployments were not superseded yet");
        }
        self.wake.notify_one();
    }

    /// Starts a task that belongs to the pipeline.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    pub(crate) async fn deployment(&self, id: DeploymentId) -> Result<DeploymentRow, Problem> {
        self.store
            .deployments()
            .get(id)
            .await?
            .ok_or_else(|| Problem::new(Code::NotFound, "That deployment is gone, with its app."))
    }

    /// The app in production, as it is now.
    pub(crate) async fn app(&self, id: AppId) -> Result<AppRow, Problem> {
        self.store.apps().by_id(id).await?.ok_or_else(|| Problem::new(Code::NotFound, "That app is gone."))
    }

    /// The app as seen in this environment, as it is now.
    pub(crate) async fn app_in(&self, id: EnvironmentId) -> Result<AppRow, Problem> {
        let gone = || Problem::new(Code::NotFound, "That environment is gone.");
        self.store.apps().by_environment(id).await?.ok_or_else(gone)
    }

    /// Moves a deployment on, and tells those who watch.
    pub(crate) async fn transition(
        &self,
        row: &mut DeploymentRow,
        to: DeploymentState,
        change: berth_store::model::Change,
    ) -> Result<(), Problem> {
        let reason = change.reason.clone();
        stall::before(to.as_str()).await;
        *row = self.store.deployments().transition(row.id, row.state, to, change).await?;
        stall::after(to.as_str()).await;
        self.moved(row.id, to, reason);
        Ok(())
    }

    /// Tells those who watch that a deployment has moved.
    pub(crate) fn moved(&self, id: DeploymentId, state: DeploymentState, reason: Option<String>) {
        if let Some(active) = self.active().get_mut(&id) {
            active.state = state;
        }
        self.watchers.tell(id, DeploymentUpdate::State { state, reason });
        if state.is_settled() {
            let _ = self.settled.send(());
        }
    }

    /// Cancels the work on a deployment. Returns whether there was any.
    pub(crate) fn cancel_active(&self, id: DeploymentId, superseded_by: Option<String>) -> bool {
        let mut active = self.active();
        let Some(entry) = active.get_mut(&id) else { return false };
        // The first reason counts.
        if !entry.cancel.is_cancelled() {
            entry.superseded_by = superseded_by;
            entry.cancel.cancel();
        }
        true
    }

    /// Notes what a deployment that is worked on needs, so that nobody stops or removes it.
    pub(crate) fn note_use(&self, id: DeploymentId, note: impl FnOnce(&mut Active)) {
        if let Some(active) = self.active().get_mut(&id) {
            note(active);
        }
    }

    /// Whether a deployment that is worked on needs this release.
    pub(crate) fn is_used(&self, release: ReleaseId) -> bool {
        let active = self.active();
        active.values().any(|a| a.release == Some(release) || a.draining == Some(release))
    }

    /// Where a deployment's source is unpacked while it is worked on.
    pub(crate) fn work_dir(&self, id: DeploymentId) -> PathBuf {
        self.config.data_dir.join("work").join(id.0.to_string())
    }
}
