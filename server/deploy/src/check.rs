//! Checking a started release: the daemon asks it itself, so that nothing is needed in the image.

use std::{future::ready, sync::Arc, time::Duration};

use berth_store::model::{AppRow, Artifact, ReleaseRow};
use futures_util::{StreamExt, future::try_join_all};
use tokio_util::sync::CancellationToken;

use crate::{
    attempt::Attempt,
    docker::{ContainerId, LogOptions},
    fault::{Halt, health_problem},
    pipeline::Inner,
    probe::{EngineReplica, HealthFailure, HealthFailureKind, HealthPolicy, Healthy, wait_healthy},
    start::Running,
};

/// Lines of a failing app's output that go into the problem.
const TAIL: u32 = 30;

impl Inner {
    /// Waits until every replica is healthy.
    pub(crate) async fn check_release(
        &self,
        attempt: &Attempt,
        release: &ReleaseRow,
        containers: &[Running],
    ) -> Result<(), Halt> {
        let policy = self.health_policy(release);
        let what = match &policy.path {
            Some(path) => format!("GET {path} on port {}", policy.port),
            None => format!("port {}", policy.port),
        };
        attempt.journal.note(format!("checking {what}, up to {} s", policy.total().as_secs())).await;
        let host = self.config.addresses.host(&attempt.app.slug, &attempt.app.environment.name);
        let checks = containers.iter().map(|container| {
            let (policy, host) = (&policy, &host);
            async move {
                match self.wait_replica(policy, host, container, &attempt.cancel).await {
                    Ok(healthy) => Ok(healthy),
                    Err(failure) => Err((container.id.clone(), failure)),
                }
            }
        });
        match try_join_all(checks).await {
            Ok(healthy) => {
                let slowest = healthy.iter().map(|h| h.waited).max().unwrap_or_default();
                attempt.journal.note(format!("healthy after {:.1} s", slowest.as_secs_f64())).await;
                Ok(())
            }
            Err((_, HealthFailure { kind: HealthFailureKind::Cancelled, .. })) => {
                Err(self.why_cancelled(&attempt.row))
            }
            Err((id, failure)) => {
                let tail = self.output_tail(&id).await;
                for line in &tail {
                    let kind = berth_schemas::deployment::BuildLineKind::Output;
                    attempt.journal.line(kind, None, line.clone()).await;
                }
                Err(health_problem(&failure, policy.path.as_deref(), tail).into())
            }
        }
    }

    /// Waits until one replica is healthy.
    pub(crate) async fn wait_replica(
        &self,
        policy: &HealthPolicy,
        host: &str,
        container: &Running,
        cancel: &CancellationToken,
    ) -> Result<Healthy, HealthFailure> {
        let policy = HealthPolicy { host: Some(host.to_owned()), ..policy.clone() };
        let replica = EngineReplica { engine: Arc::clone(&self.engine), id: container.id.clone() };
        wait_healthy(&policy, container.addr, &replica, cancel).await
    }

    /// How a release is checked.
    pub(crate) fn health_policy(&self, release: &ReleaseRow) -> HealthPolicy {
        let port = match release.artifact {
            Artifact::Image { port, .. } => port,
            Artifact::Static { .. } => 0,
        };
        let settings = &release.settings;
        let usual = HealthPolicy::of_port(port);
        let seconds = |s: u32| Duration::from_secs(u64::from(s));
        HealthPolicy {
            path: settings.health_path.clone(),
            interval: settings.health_interval_s.map_or(usual.interval, seconds),
            total: settings.health_timeout_s.map_or(usual.total, seconds),
            ..usual
        }
    }

    /// The last lines that a container printed.
    pub(crate) async fn output_tail(&self, id: &ContainerId) -> Vec<String> {
        let options = LogOptions { tail: Some(TAIL), ..LogOptions::default() };
        let lines =
            self.engine.logs(id, options).filter_map(|line| ready(line.ok().map(|l| l.text))).collect();
        tokio::time::timeout(Duration::from_secs(5), lines).await.unwrap_or_default()
    }

    /// Has the output of containers collected, if it is not already.
    pub(crate) fn collect_logs(&self, app: &AppRow, release: &ReleaseRow, containers: &[Running]) {
        for container in containers {
            self.collector.watch(berth_observe::Replica {
                container: container.id.as_str().to_owned(),
                app_id: app.id,
                release: release.number,
                replica: container.replica,
            });
        }
    }
}
