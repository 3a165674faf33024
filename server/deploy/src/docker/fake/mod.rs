//! An engine in memory, for tests of what is built on [`Engine`](super::Engine).
//!
//! Its containers are TCP servers on loopback that behave as their image's [`Behaviour`] says, so that health
//! checks, the proxy and drains run for real against them. Builds give what the test scripted; any operation can be
//! made to fail, once, or all of them by taking the engine away. What happened is kept as a journal.

mod engine;
mod server;
mod state;

use std::time::Duration;

use super::build::BuildEvent;
use super::error::EngineError;
pub use state::FakeEngine;

/// What the containers of an image do.
#[derive(Debug, Clone, PartialEq)]
pub struct Behaviour {
    /// Ports that they listen on.
    pub ports: Vec<u16>,
    /// What they do with connections.
    pub serve: Serve,
    /// Time from start until they listen.
    pub listen_after: Duration,
    /// Time from start until they end by themselves, with which exit code, and whether for lack of memory.
    pub exit: Option<(Duration, i64, bool)>,
    /// Time from the stop signal until they end.
    pub stop_takes: Duration,
    /// Lines that they print when they start.
    pub output: Vec<String>,
    /// Whether they listen on the loopback address of their container only, where nobody reaches them.
    pub loopback_only: bool,
}

/// What a container does with connections.
#[derive(Debug, Clone, PartialEq)]
pub enum Serve {
    /// Answers every request so, after `takes`.
    Http {
        /// Status.
        status: u16,
        /// Body; the name of the container's image, if empty.
        body: String,
        /// Time from request to answer.
        takes: Duration,
    },
    /// Accepts, and stays silent.
    Silent,
    /// Sends a line that is not HTTP.
    Banner(String),
}

impl Default for Behaviour {
    /// Answers 200 on port 3000 at once, and for ever.
    fn default() -> Self {
        Self {
            ports: vec![3000],
            serve: Serve::Http { status: 200, body: String::new(), takes: Duration::ZERO },
            listen_after: Duration::ZERO,
            exit: None,
            stop_takes: Duration::ZERO,
            output: Vec::new(),
            loopback_only: false,
        }
    }
}

/// What a build gives.
#[derive(Debug, Clone)]
pub struct BuildScript {
    /// Time that it takes.
    pub takes: Duration,
    /// Events that it tells, at its beginning.
    pub events: Vec<BuildEvent>,
    /// What the containers of its image do, or why it fails.
    pub result: Result<Behaviour, EngineError>,
}

impl Default for BuildScript {
    fn default() -> Self {
        Self { takes: Duration::ZERO, events: Vec::new(), result: Ok(Behaviour::default()) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::StreamExt;
    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    use super::super::*;
    use super::*;
    use crate::probe::{EngineReplica, HealthFailureKind, HealthPolicy, wait_healthy};

    fn engine() -> FakeEngine {
        FakeEngine::new(InstanceId::new(uuid::Uuid::from_u128(7 << 96)))
    }

    async fn build(engine: &FakeEngine, number: i64) -> Result<BuiltImage, EngineError> {
        let tag = engine.instance().image_tag("web", number);
        let request = BuildRequest::new(tag, futures_util::stream::empty().boxed());
        let (sink, _events) = mpsc::channel(16);
        engine.build(request, sink, CancellationToken::new()).await
    }

    async fn run(engine: &FakeEngine, image: &str) -> ContainerId {
        engine.ensure_network("net", Labels::new()).await.unwrap();
        let name = format!("c{}", engine.list_containers().await.unwrap().len());
        let id = engine.create_container(ContainerSpec::new(name, image, "net")).await.unwrap();
        engine.start_container(&id).await.unwrap();
        id
    }

    #[tokio::test]
    async fn a_built_image_runs_answers_and_stops() {
        let engine = engine();
        let image = build(&engine, 1).await.unwrap();
        let id = run(&engine, &image.image_id).await;
        let addr = engine.address(&id, 3000).await.unwrap();
        let replica = EngineReplica { engine: Arc::new(engine.clone()), id: id.clone() };
        wait_healthy(&HealthPolicy::of_port(3000), addr, &replica, &CancellationToken::new()).await.unwrap();
        engine.stop_container(&id, Duration::from_secs(1)).await.unwrap();
        assert_eq!(engine.wait_exit(&id).await.unwrap().code, 143);
        assert!(engine.address(&id, 3000).await.is_err());
        engine.start_container(&id).await.unwrap();
        assert!(engine.inspect_container(&id).await.unwrap().running);
        assert!(engine.journal().iter().any(|line| line.starts_with("stop_container")));
    }

    #[tokio::test]
    async fn scripted_failures_happen_once() {
        let engine = engine();
        engine.fail_next("build", EngineError::OutOfDisk { what: "the build".into() });
        assert_eq!(build(&engine, 1).await.unwrap_err().code(), "out_of_disk");
        build(&engine, 2).await.unwrap();
        engine.go_away();
        assert_eq!(engine.ping().await.unwrap_err().code(), "docker_unavailable");
        engine.come_back();
        engine.ping().await.unwrap();
    }

    #[tokio::test]
    async fn a_container_that_crashes_fails_its_check_and_is_restarted_if_so_told() {
        let engine = engine();
        let crashing = Behaviour {
            listen_after: Duration::from_secs(60),
            exit: Some((Duration::from_millis(50), 3, false)),
            ..Behaviour::default()
        };
        engine.next_build(BuildScript { result: Ok(crashing), ..BuildScript::default() });
        let image = build(&engine, 1).await.unwrap();
        let mut events = engine.events(None);
        let id = run(&engine, &image.image_id).await;
        let addr = engine.address(&id, 3000).await.unwrap();
        let replica = EngineReplica { engine: Arc::new(engine.clone()), id: id.clone() };
        let failure =
            wait_healthy(&HealthPolicy::of_port(3000), addr, &replica, &CancellationToken::new()).await;
        assert!(matches!(failure.unwrap_err().kind, HealthFailureKind::Exited { code: 3, .. }));
        loop {
            if events.next().await.unwrap().unwrap().kind == (EngineEventKind::Die { exit_code: 3 }) {
                break;
            }
        }
        engine.set_restart_policy(&id, RestartPolicy::UnlessStopped).await.unwrap();
        engine.start_container(&id).await.unwrap();
        while engine.inspect_container(&id).await.unwrap().restart_count == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_build_can_be_cancelled() {
        let engine = engine();
        engine.next_build(BuildScript { takes: Duration::from_secs(600), ..BuildScript::default() });
        let cancel = CancellationToken::new();
        cancel.cancel();
        let tag = engine.instance().image_tag("web", 1);
        let request = BuildRequest::new(tag, futures_util::stream::empty().boxed());
        let (sink, _events) = mpsc::channel(16);
        assert_eq!(engine.build(request, sink, cancel).await.unwrap_err().code(), "cancelled");
        assert!(engine.list_images().await.unwrap().is_empty());
    }
}
