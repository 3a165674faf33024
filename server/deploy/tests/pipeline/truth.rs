//! What must hold once nothing is going on any more, whatever happened before.

use std::time::Duration;

use berth_deploy::docker::{ContainerPhase, Workload};
use berth_schemas::{
    Timestamp,
    deployment::{DeploymentState, Transition},
};
use berth_store::model::{Artifact, DeploymentRow};

use crate::world::World;

/// Time that everything has to come to rest: a little more than the time between two sweeps.
const PATIENCE: Duration = Duration::from_secs(40);

impl World {
    /// Waits until all is at rest and true; panics with what is not.
    pub(crate) async fn is_true(&self) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut rest = 0;
        loop {
            match self.untruth().await {
                // Twice, so that it was no moment in passing.
                None if rest > 0 => return,
                None => rest += 1,
                Some(untruth) if tokio::time::Instant::now() > deadline => {
                    let app = self.app().await;
                    let rows = self.store.deployments().list(app.id, None, None, 100).await.unwrap();
                    let rows: Vec<_> =
                        rows.iter().map(|r| (r.number, r.state, &r.release, &r.problem)).collect();
                    let tail: Vec<_> = self.engine.journal().into_iter().rev().take(25).rev().collect();
                    panic!(
                        "{untruth}\n{:?}\n{rows:#?}\n{:#?}\n{tail:#?}",
                        app.environment,
                        self.containers().await
                    );
                }
                Some(_) => rest = 0,
            }
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
    }

    async fn untruth(&self) -> Option<String> {
        let app = self.app().await;
        let mut rows = self.store.deployments().list(app.id, None, None, 500).await.unwrap();
        rows.reverse();
        if let Some(untruth) = self.queue_untruth(&rows).await {
            return Some(untruth);
        }
        let unfinished = self.store.jobs().unfinished().await.unwrap();
        if let Some(job) = unfinished.first() {
            return Some(format!("the job {} is {:?}", job.kind.as_str(), job.state));
        }
        if let Some(untruth) = self.container_untruth(&rows).await {
            return Some(untruth);
        }
        let left = std::fs::read_dir(self.dir.path().join("work")).unwrap().count();
        if left > 0 {
            return Some(format!("{left} work directories are left"));
        }
        self.traffic_untruth().await
    }

    async fn queue_untruth(&self, rows: &[DeploymentRow]) -> Option<String> {
        for (row, number) in rows.iter().zip(1..) {
            if row.number != number {
                return Some(format!("the number {number} is missing"));
            }
            if !row.state.is_settled() {
                return Some(format!("{} is {}", row.reference(), row.state.as_str()));
            }
        }
        let live: Vec<_> = rows.iter().filter(|r| r.state == DeploymentState::Live).collect();
        if live.len() > 1 {
            return Some(format!("{} deployments are live", live.len()));
        }
        let pointer = self.app().await.environment.live;
        if let Some(live) = live.first().filter(|live| live.release != pointer) {
            return Some(format!("{} is live and the pointer says {pointer:?}", live.reference()));
        }
        // Each took the traffic after those before it, and only steps that there are.
        let mut switched: Option<(i64, Timestamp)> = None;
        for row in rows {
            let steps = self.store.deployments().transitions(row.id).await.unwrap();
            if let Some(untruth) = illegal(&steps) {
                return Some(format!("{}: {untruth}", row.reference()));
            }
            let got_traffic = steps.iter().find(|s| s.state == DeploymentState::Draining).map(|s| s.at);
            if let Some(at) = got_traffic {
                if let Some((number, before)) = switched.filter(|(_, before)| *before > at) {
                    return Some(format!(
                        "{} got the traffic at {at:?}, {number} at {before:?}",
                        row.reference()
                    ));
                }
                switched = Some((row.number, at));
            }
        }
        // The last accepted one is never given up for another.
        let last = rows.last()?;
        (last.state == DeploymentState::Superseded || last.state == DeploymentState::Retired)
            .then(|| format!("the newest, {}, is {}", last.reference(), last.state.as_str()))
    }

    async fn container_untruth(&self, rows: &[DeploymentRow]) -> Option<String> {
        let app = self.app().await;
        let kept = self.store.releases().list(app.environment.id, false).await.unwrap();
        if let Some(unused) = kept.iter().find(|r| r.live_at.is_none()) {
            return Some(format!("release {} never served and is kept", unused.number));
        }
        let settings = app.settings.keep_releases.unwrap_or(3) as usize;
        if kept.len() > settings + 1 {
            return Some(format!("{} releases are kept", kept.len()));
        }
        for container in self.containers().await {
            let workload = Workload::from_labels(&container.labels)?;
            let Some(release) = kept.iter().find(|r| r.id.0.to_string() == workload.release) else {
                return Some(format!("no kept release explains {}", container.name));
            };
            let runs = container.phase != ContainerPhase::Exited;
            let serves = app.environment.live == Some(release.id) && !app.environment.stopped;
            if runs && !serves {
                return Some(format!("{} is {:?} and does not serve", container.name, container.phase));
            }
            if i64::from(workload.replica) > app.environment.replicas && serves {
                return Some(format!("{} is one too many", container.name));
            }
        }
        let tags: Vec<_> = self.engine_images().await;
        for tag in tags {
            let explained = kept
                .iter()
                .any(|r| matches!(&r.artifact, Artifact::Image { reference, .. } if *reference == tag));
            if !explained {
                return Some(format!("no release explains the image {tag}, of {} deployments", rows.len()));
            }
        }
        None
    }

    /// Tags of images that Berth built.
    async fn engine_images(&self) -> Vec<String> {
        use berth_deploy::docker::Engine;
        self.engine.list_images().await.unwrap_or_default().into_iter().flat_map(|i| i.tags).collect()
    }

    async fn traffic_untruth(&self) -> Option<String> {
        let app = self.app().await;
        let (status, body) = self.visit().await;
        let Some(live) = app.environment.live.filter(|_| !app.environment.stopped) else {
            return (status == 200).then(|| format!("nothing should serve, and {body:?} does"));
        };
        let release = self.store.releases().get(live).await.unwrap().unwrap();
        let Artifact::Image { reference, .. } = &release.artifact else { return None };
        let running =
            self.running().await.into_iter().filter(|(_, number)| *number == release.number).count();
        if i64::try_from(running).unwrap() != app.environment.replicas {
            return Some(format!("{running} of {} replicas of {reference} run", app.environment.replicas));
        }
        ((status, body.as_str()) != (200, name(reference)))
            .then(|| format!("{reference} should serve, and {status} {body:?} does"))
    }
}

/// What an image answers with in these tests: its name without the tag.
fn name(reference: &str) -> &str {
    let short = reference.rsplit('/').next().unwrap_or(reference);
    short.split(':').next().unwrap_or(short)
}

/// A step that no deployment may take.
fn illegal(steps: &[Transition]) -> Option<String> {
    let first = steps.first()?;
    if first.state != DeploymentState::Queued {
        return Some(format!("it began as {}", first.state.as_str()));
    }
    steps
        .windows(2)
        .find(|pair| !pair[0].state.can_become(pair[1].state))
        .map(|pair| format!("it went from {} to {}", pair[0].state.as_str(), pair[1].state.as_str()))
}
