//! Starting the containers of a release, beside whatever runs already.

use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    sync::MutexGuard,
};

use berth_schemas::{Code, DeploymentRef, Problem, app::AppSettings};
use berth_store::model::{AppRow, Artifact, EnvironmentId, ReleaseId, ReleaseRow, Snapshot};
use futures_util::future::try_join_all;

use crate::{
    attempt::Attempt,
    docker::{
        ContainerId, ContainerPhase, ContainerSpec, ContainerSummary, EngineError, ResourceLimits,
        RestartPolicy, Workload, label,
    },
    errors::{DSN_VARIABLE, error_release},
    fault::{Halt, engine_problem, sentence},
    limits::{self, STOP_GRACE},
    lock::lock,
    pipeline::Inner,
    probe::HealthFailureKind,
    references::BuiltIns,
    stall,
};

/// Memory limit of a replica where none was set, in MiB.
const DEFAULT_MEMORY_MB: u32 = 512;

/// A running container of a release.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    pub(crate) id: ContainerId,
    /// Number within the release, from 1.
    pub(crate) replica: i64,
    /// Where the data plane reaches it.
    pub(crate) addr: SocketAddr,
}

impl Inner {
    /// Starts as many containers of the release as the app should have, taking stopped ones that were kept. When
    /// this fails, [`Inner::take_back`] is to be called.
    pub(crate) async fn start_release(
        &self,
        attempt: &Attempt,
        release: &ReleaseRow,
    ) -> Result<Vec<Running>, Halt> {
        self.note_use(attempt.row.id, |active| active.release = Some(release.id));
        let wanted = attempt.app.environment.replicas.max(1);
        let running = attempt
            .unless_cancelled(
                self,
                limits::step("starting the containers", limits::START, async {
                    // Somebody may be stopping what the release before this one left running.
                    let _inside = self.containers.enter(release.id).await;
                    self.prepare_containers(release).await?;
                    Ok(self.run_replicas(&attempt.app, release, 1..=wanted).await?)
                }),
            )
            .await?;
        let word = if running.len() == 1 { "container" } else { "containers" };
        attempt.journal.note(format!("{} {word} started", running.len())).await;
        Ok(running)
    }

    /// Makes what there is of a release's containers fit to be started and watched.
    async fn prepare_containers(&self, release: &ReleaseRow) -> Result<(), Problem> {
        if self.is_live(release).await? {
            return Ok(());
        }
        for container in self.containers_of(release.id).await.map_err(|e| engine_problem(&e))? {
            if release.live_at.is_none() {
                // Left by an earlier beginning of the same deployment, with another image perhaps.
                self.remove_container(&container.id).await.map_err(|e| engine_problem(&e))?;
            } else {
                // An engine that restarts a dying app would hide its death from the check and the watch.
                self.restartable().remove(&container.id);
                let set = self.engine.set_restart_policy(&container.id, RestartPolicy::No).await;
                set.map_err(|e| engine_problem(&e))?;
            }
        }
        Ok(())
    }

    /// Undoes the start of a release that came to nothing: containers of a new one are removed, those of a kept one
    /// stopped. The live one is left alone.
    pub(crate) async fn take_back(&self, environment: EnvironmentId, release: &ReleaseRow) {
        if let Artifact::Static { .. } = release.artifact {
            return;
        }
        let _inside = self.containers.enter(release.id).await;
        let release = match self.store.releases().get(release.id).await {
            Ok(Some(release)) => release,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "a release could not be read; its containers are swept later");
                return;
            }
        };
        match self.is_live(&release).await {
            Ok(false) if self.routes.serves(environment) != Some(release.id) => {}
            Ok(_) => {
                self.let_engine_restart(release.id).await;
                return;
            }
            Err(problem) => {
                tracing::warn!(%problem, "what is live could not be read; containers are swept later");
                return;
            }
        }
        if release.live_at.is_some() {
            self.stop_release(release.id).await;
            return;
        }
        match self.containers_of(release.id).await {
            Ok(containers) => {
                for container in containers {
                    if let Err(error) = self.remove_container(&container.id).await {
                        tracing::warn!(container = container.id.short(), %error, "a container could not be removed");
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "containers that were started for nothing could not be listed")
            }
        }
    }

    async fn is_live(&self, release: &ReleaseRow) -> Result<bool, Problem> {
        let app = self.store.apps().by_environment(release.environment_id).await?;
        Ok(app.is_some_and(|app| app.environment.live == Some(release.id)))
    }

    /// Makes these replicas of a release run.
    pub(crate) async fn run_replicas(
        &self,
        app: &AppRow,
        release: &ReleaseRow,
        replicas: std::ops::RangeInclusive<i64>,
    ) -> Result<Vec<Running>, Problem> {
        let Artifact::Image { image_id, port, command, .. } = &release.artifact else {
            return Ok(Vec::new());
        };
        let network = self.instance.network_name(app.project.as_str());
        let labels = self.instance.labels();
        self.engine.ensure_network(&network, labels).await.map_err(|e| engine_problem(&e))?;
        let variables = self.store.releases().variables(release.id).await?;
        let kept = self.containers_of(release.id).await.map_err(|e| engine_problem(&e))?;
        let started = replicas.map(|replica| {
            let (kept, network, variables) = (&kept, &network, &variables);
            async move {
                let own: Vec<&ContainerSummary> =
                    kept.iter().filter(|c| replica_of(c) == Some(replica)).collect();
                let kept = match own.first() {
                    Some(container) => self
                        .start_kept(container, *port, network, app)
                        .await
                        .map_err(|e| engine_problem(&e))?,
                    None => None,
                };
                let id = match kept {
                    Some(id) => id,
                    None => {
                        let spec = self.container_spec(
                            app,
                            release,
                            replica,
                            image_id,
                            *port,
                            command.clone(),
                            network,
                            variables,
                        );
                        let id = match self.engine.create_container(spec).await {
                            Err(EngineError::NotFound { .. }) => return Err(image_gone(app, release)),
                            created => created.map_err(|e| engine_problem(&e))?,
                        };
                        stall::after("container").await;
                        self.engine.start_container(&id).await.map_err(|e| engine_problem(&e))?;
                        id
                    }
                };
                match self.engine.address(&id, *port).await {
                    Ok(addr) => Ok(Running { id, replica, addr }),
                    Err(error) => Err(self.no_address(&id, &error).await),
                }
            }
        });
        try_join_all(started).await
    }

    /// Why a container that was started has no address. Mostly it has ended already: then that is what matters.
    async fn no_address(&self, id: &ContainerId, error: &EngineError) -> Problem {
        match self.engine.inspect_container(id).await {
            Ok(state) if !state.running && state.exit_code.is_some() => {
                let kind = HealthFailureKind::Exited {
                    code: state.exit_code.unwrap_or(-1),
                    oom: state.oom_killed,
                    error: state.error.filter(|e| !e.is_empty()),
                };
                let hint = kind.hint().unwrap_or_default();
                Problem::new(Code::ContainerExited, sentence(&kind.to_string()))
                    .hint(sentence(&hint))
                    .log_tail(self.output_tail(id).await)
            }
            _ => engine_problem(error),
        }
    }

    /// Starts a container that is there already. None when it cannot be started any more, as when its network or
    /// its image was removed by hand: it is removed then, and a new one takes its place.
    async fn start_kept(
        &self,
        container: &ContainerSummary,
        port: u16,
        network: &str,
        app: &AppRow,
    ) -> Result<Option<ContainerId>, EngineError> {
        let started = async {
            self.engine.start_container(&container.id).await?;
            let without_address = match self.engine.address(&container.id, port).await {
                Err(EngineError::Conflict { .. }) => {
                    self.engine.inspect_container(&container.id).await?.running
                }
                _ => false,
            };
            if without_address {
                // Somebody took it off its network, or the network away.
                self.engine.connect_network(&container.id, network, vec![alias(app)]).await?;
            }
            Ok::<(), EngineError>(())
        };
        match started.await {
            Ok(()) => Ok(Some(container.id.clone())),
            Err(error) if error.is_transient() => Err(error),
            Err(error) => {
                tracing::warn!(container = container.name, %error, "a kept container does not start and is replaced");
                self.remove_container(&container.id).await?;
                Ok(None)
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one private call site; a struct would only rename them")]
    fn container_spec(
        &self,
        app: &AppRow,
        release: &ReleaseRow,
        replica: i64,
        image_id: &str,
        port: u16,
        command: Option<Vec<String>>,
        network: &str,
        variables: &Snapshot,
    ) -> ContainerSpec {
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let name = format!(
            "berth-{}-{}-{}-{replica}-{}",
            self.instance.short(),
            alias(app),
            release.number,
            &unique[..6]
        );
        let mut spec = ContainerSpec::new(name, image_id, network);
        spec.env = self.container_env(app, release, port, variables);
        spec.command = command;
        spec.labels = workload(app, release, replica).labels();
        spec.aliases = vec![alias(app)];
        spec.limits = resources(&release.settings);
        spec.restart = RestartPolicy::No;
        spec.stop_timeout = STOP_GRACE;
        spec
    }

    /// What the app finds in its environment: its variables, and what Berth tells it.
    fn container_env(
        &self,
        app: &AppRow,
        release: &ReleaseRow,
        port: u16,
        snapshot: &Snapshot,
    ) -> BTreeMap<String, String> {
        let made_by = DeploymentRef::new(app.slug.clone(), release.number);
        let given = BuiltIns::of(app, &self.config.addresses).deployed(
            &made_by,
            release.commit.as_deref(),
            snapshot.branch.as_deref(),
        );
        let mut env: BTreeMap<String, String> =
            given.known().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        if let Some(dsn) = &snapshot.dsn {
            env.insert(DSN_VARIABLE.to_owned(), dsn.clone());
            env.insert("SENTRY_RELEASE".to_owned(), error_release(&made_by, release.commit.as_deref()));
            env.insert("SENTRY_ENVIRONMENT".to_owned(), app.environment.name.to_string());
        }
        // What a person set wins, but for the port that the data plane will call.
        for variable in &snapshot.variables {
            env.insert(variable.name.to_string(), variable.value.clone());
        }
        env.insert("PORT".to_owned(), port.to_string());
        env
    }

    /// The containers of a release, running or not.
    pub(crate) async fn containers_of(
        &self,
        release: ReleaseId,
    ) -> Result<Vec<ContainerSummary>, EngineError> {
        let release = release.0.to_string();
        let mut all = self.engine.list_containers().await?;
        all.retain(|c| c.labels.get(label::RELEASE) == Some(&release) && c.phase != ContainerPhase::Dead);
        all.sort_by_key(|c| (replica_of(c), c.created_at));
        Ok(all)
    }

    /// Removes a container and forgets it.
    pub(crate) async fn remove_container(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.engine.remove_container(id).await?;
        self.forget_container(id);
        Ok(())
    }

    /// Forgets what is known of a container that is gone.
    pub(crate) fn forget_container(&self, id: &ContainerId) {
        self.collector.unwatch(id.as_str());
        self.restartable().remove(id);
    }

    /// Containers that the engine restarts by itself.
    pub(crate) fn restartable(&self) -> MutexGuard<'_, HashSet<ContainerId>> {
        lock(&self.restartable)
    }
}

/// What the containers of an app are called in their network. Production has the app's own name, so that others never
/// reach a preview by it.
fn alias(app: &AppRow) -> String {
    crate::config::label(&app.slug, &app.environment.name)
}

/// The image that containers are made of was removed by somebody else.
fn image_gone(app: &AppRow, release: &ReleaseRow) -> Problem {
    let detail = format!(
        "The image of release {} of {} is gone from Docker, so its containers cannot be made again.",
        release.number,
        app.title()
    );
    let hint =
        format!("Deploy {} again from its source with deployment_create; that makes a new image.", app.slug);
    Problem::new(Code::ReleaseGone, detail).hint(hint)
}

/// What the labels of a replica say.
fn workload(app: &AppRow, release: &ReleaseRow, replica: i64) -> Workload {
    Workload {
        project: app.project.to_string(),
        app: app.slug.to_string(),
        environment: app.environment.name.to_string(),
        release: release.id.0.to_string(),
        deployment: release.number,
        replica: u32::try_from(replica).unwrap_or(0),
    }
}

/// Number of a container within its release, from 1.
pub(crate) fn replica_of(container: &ContainerSummary) -> Option<i64> {
    container.labels.get(label::REPLICA)?.parse().ok()
}

fn resources(settings: &AppSettings) -> ResourceLimits {
    ResourceLimits {
        memory_bytes: u64::from(settings.memory_mb.unwrap_or(DEFAULT_MEMORY_MB)) << 20,
        // The edge has checked the range; thousandths are as fine as the engine goes.
        cpu_millis: settings.cpus.map(|cpus| (cpus * 1000.0).clamp(1.0, 1e9) as u32),
        ..ResourceLimits::default()
    }
}
