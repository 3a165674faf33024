//! Starting the containers of a release, beside whatever runs already.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use berth_schemas::{EnvironmentName, Problem, VariableName, app::AppSettings};
use berth_store::model::{AppRow, Artifact, ReleaseId, ReleaseRow};
use futures_util::future::try_join_all;

use crate::{
    attempt::Attempt,
    docker::{
        ContainerId, ContainerPhase, ContainerSpec, ContainerSummary, EngineError, ResourceLimits,
        RestartPolicy, Workload, label,
    },
    fault::{Halt, engine_problem},
    pipeline::Inner,
};

/// Memory limit of a replica where none was set, in MiB.
const DEFAULT_MEMORY_MB: u32 = 512;
/// Time that an app has between SIGTERM and SIGKILL.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(10);

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
    /// Starts as many containers of the release as the app should have, taking stopped ones that were kept. All
    /// of them run, or none that this call started is left.
    pub(crate) async fn start_release(
        &self,
        attempt: &Attempt,
        release: &ReleaseRow,
    ) -> Result<Vec<Running>, Halt> {
        let wanted = attempt.app.environment.replicas.max(1);
        let running = attempt
            .unless_cancelled(self, async { Ok(self.run_replicas(&attempt.app, release, 1..=wanted).await?) })
            .await;
        match running {
            Ok(running) => {
                let word = if running.len() == 1 { "container" } else { "containers" };
                attempt.journal.note(format!("{} {word} started", running.len())).await;
                Ok(running)
            }
            Err(halt) => {
                // A start that was cut off in the middle may have made some.
                self.discard_release_unless_live(attempt, release.id).await;
                Err(halt)
            }
        }
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
                let id = match own.first() {
                    Some(container) => container.id.clone(),
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
                        self.engine.create_container(spec).await?
                    }
                };
                self.engine.start_container(&id).await?;
                let addr = self.engine.address(&id, *port).await?;
                Ok::<_, EngineError>(Running { id, replica, addr })
            }
        });
        try_join_all(started).await.map_err(|e| engine_problem(&e))
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
        variables: &[(VariableName, String)],
    ) -> ContainerSpec {
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let name = format!(
            "berth-{}-{}-{}-{replica}-{}",
            self.instance.short(),
            app.slug,
            release.number,
            &unique[..6]
        );
        let mut spec = ContainerSpec::new(name, image_id, network);
        spec.env = self.container_env(app, release, port, variables);
        spec.command = command;
        spec.labels = workload(app, release, replica).labels();
        spec.aliases = vec![app.slug.to_string()];
        spec.limits = limits(&release.settings);
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
        variables: &[(VariableName, String)],
    ) -> BTreeMap<String, String> {
        let mut env: BTreeMap<String, String> = [
            ("PORT", port.to_string()),
            ("BERTH_APP", app.slug.to_string()),
            ("BERTH_ENVIRONMENT", EnvironmentName::production().to_string()),
            ("BERTH_RELEASE", release.number.to_string()),
            ("BERTH_URL", self.config.addresses.url(&app.slug)),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        // What a person set wins, but for the port that the data plane will call.
        for (name, value) in variables.iter().filter(|(name, _)| name.as_str() != "PORT") {
            env.insert(name.to_string(), value.clone());
        }
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

    /// Removes containers that were started for nothing.
    pub(crate) async fn discard(&self, containers: &[Running]) {
        for container in containers {
            if let Err(error) = self.engine.remove_container(&container.id).await {
                tracing::warn!(container = container.id.short(), %error, "a container could not be removed");
            }
        }
    }

    async fn discard_release_unless_live(&self, attempt: &Attempt, release: ReleaseId) {
        if attempt.app.environment.live == Some(release) {
            return;
        }
        match self.containers_of(release).await {
            Ok(containers) => {
                for container in containers {
                    if let Err(error) = self.engine.remove_container(&container.id).await {
                        tracing::warn!(container = container.id.short(), %error, "a container could not be removed");
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "containers that were started for nothing could not be listed")
            }
        }
    }
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

fn limits(settings: &AppSettings) -> ResourceLimits {
    ResourceLimits {
        memory_bytes: u64::from(settings.memory_mb.unwrap_or(DEFAULT_MEMORY_MB)) << 20,
        // The edge has checked the range; thousandths are as fine as the engine goes.
        cpu_millis: settings.cpus.map(|cpus| (cpus * 1000.0).clamp(1.0, 1e9) as u32),
        ..ResourceLimits::default()
    }
}
