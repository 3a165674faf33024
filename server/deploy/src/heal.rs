//! Making one environment serve what it should: its live release, in as many healthy replicas as are wanted.
//!
//! It may be called at any time and does nothing where nothing is wrong. One task looks at an environment at a
//! time; who asks meanwhile has it look once more, so that no report is lost. After a failure it looks again by
//! itself, later each time, because a report of an app that keeps dying must not become a loop of starts.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, MutexGuard},
    time::Duration,
};

use berth_schemas::{Code, Problem};
use berth_store::model::{AppRow, Artifact, EnvironmentId, ReleaseRow};

use crate::{
    docker::{ContainerPhase, ContainerSummary, EngineError, Workload},
    fault::engine_problem,
    gate::{Gate, Turn},
    lock::lock,
    pipeline::Inner,
    probe::HealthPolicy,
    routes::replica_addrs,
    start::{Running, replica_of},
    switch::may_run,
};

/// Time that a container, started again, has to open its port before it is routed.
const REOPEN_LIMIT: Duration = Duration::from_secs(60);
/// Looks at containers that end while they are looked at.
const LOOKS: u32 = 3;
/// Pause after a look that failed; doubled up to the last.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

impl Inner {
    /// Has an environment looked at soon.
    pub(crate) fn look_at(self: &Arc<Self>, environment: EnvironmentId) {
        if let Some(turn) = self.looking.take(environment) {
            self.spawn(Arc::clone(self).keep_healing(environment, turn));
        }
    }

    async fn keep_healing(self: Arc<Self>, environment: EnvironmentId, mut turn: Turn<EnvironmentId>) {
        let gate = self.traffic.of(environment);
        let mut pause = AGAIN.0;
        loop {
            let healed = tokio::select! {
                () = self.shutdown.cancelled() => return,
                healed = async {
                    let _inside = gate.enter_patiently().await;
                    let _held = self.holds(environment, "its containers, which are being put right".to_owned());
                    self.heal(environment, &gate).await
                } => healed,
            };
            match healed {
                Ok(()) => {
                    self.trouble_over(environment).await;
                    self.crash_loop_over(environment).await;
                    if turn.end() {
                        return;
                    }
                }
                // Gave way to somebody in a hurry, behind whom it waits now.
                Err(problem) if problem.code == Code::Cancelled => {}
                Err(problem) => {
                    tracing::warn!(environment = environment.0, %problem, "an environment could not be put right; trying again");
                    self.note_trouble(environment, problem).await;
                    tokio::select! {
                        () = self.shutdown.cancelled() => return,
                        () = tokio::time::sleep(pause) => pause = (pause * 2).min(AGAIN.1),
                        () = self.engine_back.notified() => pause = AGAIN.0,
                    }
                }
            }
        }
    }

    /// Keeps what stands in the way of an app's repair, and writes it to the event log once.
    async fn note_trouble(&self, environment: EnvironmentId, problem: Problem) {
        // Of a Docker that is away everybody is told elsewhere, and it says nothing about the app.
        if problem.code == Code::DockerUnavailable {
            return;
        }
        let known = self.troubles().insert(environment, problem.clone());
        if known.is_some_and(|known| known.detail == problem.detail) {
            return;
        }
        if let Ok(Some(app)) = self.store.apps().by_environment(environment).await {
            let summary =
                format!("{} could not be put right and is tried again: {}", app.title(), problem.detail);
            let data = serde_json::json!({ "code": problem.code, "hint": problem.hint });
            self.tell("app.trouble", &app, summary, data);
        }
    }

    pub(crate) async fn trouble_over(&self, environment: EnvironmentId) {
        if self.troubles().remove(&environment).is_none() {
            return;
        }
        if let Ok(Some(app)) = self.store.apps().by_environment(environment).await {
            let summary = format!("{} is as it should be again", app.title());
            self.tell("app.recovered", &app, summary, serde_json::Value::Null);
        }
    }

    /// What stands in the way of repairing environments.
    pub(crate) fn troubles(&self) -> MutexGuard<'_, HashMap<EnvironmentId, Problem>> {
        lock(&self.troubles)
    }

    /// Makes the containers of an environment's live release what they should be. The caller is inside its gate.
    async fn heal(self: &Arc<Self>, environment: EnvironmentId, gate: &Gate) -> Result<(), Problem> {
        let Some(app) = self.store.apps().by_environment(environment).await? else { return Ok(()) };
        let (Some(live), false) = (app.environment.live, app.deleting) else { return Ok(()) };
        if app.environment.stopped {
            if !self.routes.is_stopped(environment) {
                self.routes.stopped(&app);
            }
            let _inside = self.containers.enter(live).await;
            self.stop_release(live).await;
            return Ok(());
        }
        let Some(release) = self.store.releases().get(live).await? else { return Ok(()) };
        if app.environment.sleeping() {
            return self.fall_asleep(&app, &release).await;
        }
        let Artifact::Image { .. } = release.artifact else {
            if self.routes.serves(environment) != Some(release.id) {
                self.routes.serve(&app, &release, self.target(&app, &release, None)?);
            }
            return Ok(());
        };
        self.heal_containers(&app, &release, gate).await
    }

    async fn heal_containers(
        self: &Arc<Self>,
        app: &AppRow,
        release: &ReleaseRow,
        gate: &Gate,
    ) -> Result<(), Problem> {
        let wanted = app.environment.replicas.max(1);
        let mut found = self.find_containers(release, wanted).await.map_err(|e| engine_problem(&e))?;
        if self.thaw(app, release, &found.own).await? {
            found = self.find_containers(release, wanted).await.map_err(|e| engine_problem(&e))?;
        }
        let Found { own, surplus, mut up } = found;
        if up.is_empty()
            && !own.iter().any(|c| may_run(c.phase))
            && let Some(dead) = own.iter().find(|c| c.phase == ContainerPhase::Exited)
        {
            let state = self.engine.inspect_container(&dead.id).await.ok();
            let exit = state.and_then(|s| s.exit_code);
            if self.roll_back_dead(app, release, exit, gate).await? {
                return Ok(());
            }
        }
        // Those that run are routed before the slow part.
        self.route_running(app, release, &up)?;
        for replica in missing(&own, &up, wanted) {
            let started = self.run_replicas(app, release, replica..=replica).await?;
            self.wait_open(app, release, &started, Some(gate)).await?;
            tracing::info!(app = %app.slug, replica, "a container that should run was started");
            let why = match own.iter().find(|c| replica_of(c) == Some(replica)).map(|c| c.phase) {
                None => "its container was gone",
                Some(ContainerPhase::Running) => "its container had no network",
                Some(_) => "its container had stopped",
            };
            self.tell_repaired(app, release, replica, why);
            up.extend(started);
            self.route_running(app, release, &up)?;
        }
        if !self.watches.watches(app.environment.id, release.id) {
            self.let_engine_restart(release.id).await;
        }
        for container in surplus {
            tracing::info!(
                container = container.name,
                "removing a container beyond the replicas that are wanted"
            );
            self.remove_container(&container.id).await.map_err(|e| engine_problem(&e))?;
        }
        Ok(())
    }

    /// Lets containers run on that somebody froze: their visitors wait for nothing. Returns whether there were any.
    async fn thaw(
        &self,
        app: &AppRow,
        release: &ReleaseRow,
        own: &[ContainerSummary],
    ) -> Result<bool, Problem> {
        let mut any = false;
        for frozen in own.iter().filter(|c| c.phase == ContainerPhase::Paused) {
            self.engine.unpause_container(&frozen.id).await.map_err(|e| engine_problem(&e))?;
            any = true;
            let replica = replica_of(frozen).unwrap_or_default();
            self.tell_repaired(app, release, replica, "its container was paused");
        }
        Ok(any)
    }

    fn tell_repaired(&self, app: &AppRow, release: &ReleaseRow, replica: i64, why: &str) {
        let summary =
            format!("replica {replica} of {} (release {}) runs again: {why}", app.title(), release.number);
        let data = serde_json::json!({ "release": release.number, "replica": replica, "why": why });
        self.tell("container.repaired", app, summary, data);
    }

    /// What there is of a release. A container that ends between the list and the look at it is listed again as
    /// ended: taken for missing, it would be started instead of counting as a death.
    async fn find_containers(&self, release: &ReleaseRow, wanted: i64) -> Result<Found, EngineError> {
        let mut tries = 0;
        loop {
            let (own, surplus) = sort_out(self.containers_of(release.id).await?, wanted);
            let listed = own.iter().filter(|c| c.phase == ContainerPhase::Running);
            let mut up = Vec::new();
            for container in listed.clone() {
                up.extend(self.running(release, container).await?);
            }
            tries += 1;
            if up.len() == listed.count() || tries == LOOKS {
                return Ok(Found { own, surplus, up });
            }
        }
    }

    /// Points the route at the containers that run, without a new generation where the release stays the same.
    fn route_running(&self, app: &AppRow, release: &ReleaseRow, up: &[Running]) -> Result<(), Problem> {
        if up.is_empty() {
            match self.routes.serving_target(app.environment.id) {
                // The data plane says that no replica answers.
                Some(target) if self.routes.serves(app.environment.id) == Some(release.id) => {
                    drop(target.set_replicas(Vec::new()));
                }
                _ => drop(self.routes.starting(app, release.id)),
            }
            return Ok(());
        }
        match self.routes.serving_target(app.environment.id) {
            Some(target) if self.routes.serves(app.environment.id) == Some(release.id) => {
                drop(target.set_replicas(replica_addrs(up)));
            }
            _ => {
                self.routes.serve(app, release, self.target(app, release, Some(up))?);
            }
        }
        self.collect_logs(app, release, up);
        Ok(())
    }

    /// A running container with its address; none if it does not run any more.
    ///
    /// # Errors
    /// When the engine does not answer, which says nothing about the container.
    pub(crate) async fn running(
        &self,
        release: &ReleaseRow,
        container: &ContainerSummary,
    ) -> Result<Option<Running>, EngineError> {
        let (Artifact::Image { port, .. }, Some(replica)) = (&release.artifact, replica_of(container)) else {
            return Ok(None);
        };
        match self.engine.address(&container.id, *port).await {
            Ok(addr) => Ok(Some(Running { id: container.id.clone(), replica, addr })),
            Err(EngineError::NotFound { .. } | EngineError::Conflict { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Those of a list that run and belong to a release. Of an engine that stopped answering meanwhile there are
    /// fewer: the rest is healed.
    pub(crate) async fn running_among(
        &self,
        release: &ReleaseRow,
        containers: &[ContainerSummary],
    ) -> Vec<Running> {
        let id = release.id.0.to_string();
        let mut up = Vec::new();
        for container in containers.iter().filter(|c| c.phase == ContainerPhase::Running) {
            if Workload::from_labels(&container.labels).is_some_and(|w| w.release == id) {
                up.extend(self.running(release, container).await.ok().flatten());
            }
        }
        up
    }

    /// Waits until containers that were started again answer as their health check wants. With `gate`, gives up
    /// with the code `cancelled` when somebody is in a hurry to enter it.
    pub(crate) async fn wait_open(
        &self,
        app: &AppRow,
        release: &ReleaseRow,
        started: &[Running],
        gate: Option<&Gate>,
    ) -> Result<(), Problem> {
        let usual = self.health_policy(release);
        let policy = HealthPolicy { total: usual.total.max(REOPEN_LIMIT), ..usual };
        let host = self.config.addresses.host(&app.slug, &app.environment.name);
        let all = started.iter().map(|container| async {
            self.wait_replica(&policy, &host, container, &self.shutdown)
                .await
                .map_err(|failure| crate::fault::health_problem(&failure, policy.path.as_deref(), Vec::new()))
        });
        let hurried = async {
            match gate {
                Some(gate) => gate.wanted().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            open = futures_util::future::try_join_all(all) => open.map(drop),
            () = hurried => Err(Problem::new(Code::Cancelled, "Something else wants to change the app first.")),
        }
    }
}

/// The containers of a release.
struct Found {
    /// One for each wanted replica, as far as there are.
    own: Vec<ContainerSummary>,
    /// Those that nobody wants.
    surplus: Vec<ContainerSummary>,
    /// Those of `own` that run.
    up: Vec<Running>,
}

/// The one container of each wanted replica, a running one if there is one, and those that nobody wants.
fn sort_out(
    mut containers: Vec<ContainerSummary>,
    wanted: i64,
) -> (Vec<ContainerSummary>, Vec<ContainerSummary>) {
    containers.sort_by_key(|c| (c.phase != ContainerPhase::Running, c.created_at));
    let mut seen = HashSet::new();
    containers
        .into_iter()
        .partition(|c| replica_of(c).is_some_and(|n| (1..=wanted).contains(&n) && seen.insert(n)))
}

/// Numbers of the replicas that are to be started. The engine is about to start those that restart, and frozen ones
/// are let run on.
fn missing(own: &[ContainerSummary], up: &[Running], wanted: i64) -> Vec<i64> {
    let waits = |n: i64| {
        own.iter().any(|c| {
            replica_of(c) == Some(n) && matches!(c.phase, ContainerPhase::Restarting | ContainerPhase::Paused)
        })
    };
    (1..=wanted).filter(|n| !up.iter().any(|u| u.replica == *n) && !waits(*n)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::{ContainerId, label};

    fn container(id: u64, replica: i64, phase: ContainerPhase) -> ContainerSummary {
        ContainerSummary {
            id: ContainerId::parse(&format!("{id:064x}")).unwrap(),
            name: format!("c{id}"),
            image_id: "sha256:0".into(),
            phase,
            created_at: i64::try_from(id).unwrap(),
            labels: [(label::REPLICA.to_owned(), replica.to_string())].into(),
        }
    }

    #[test]
    fn each_replica_has_one_container_and_the_running_one_is_kept() {
        use ContainerPhase::{Exited, Paused, Restarting, Running};
        let (own, surplus) = sort_out(
            vec![
                container(1, 1, Exited),
                container(2, 1, Running),
                container(3, 2, Restarting),
                container(4, 3, Running),
                container(5, 4, Running),
                container(6, 5, Paused),
            ],
            3,
        );
        let names = |list: &[ContainerSummary]| list.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&own), ["c2", "c4", "c3"]);
        assert_eq!(names(&surplus), ["c5", "c1", "c6"]);
        let up = [1, 3].map(|n| crate::start::Running {
            id: own[0].id.clone(),
            replica: n,
            addr: ([127, 0, 0, 1], 1).into(),
        });
        assert_eq!(missing(&own, &up, 4), [4], "the engine restarts the second one");
    }
}
