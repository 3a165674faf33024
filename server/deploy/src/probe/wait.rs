//! Waiting for a replica to become healthy: attempts, and an eye on the container meanwhile. A container that ends
//! is noticed at once and not when the time is over.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::attempt::ProbeOutcome;
use super::listening::Listening;
use super::policy::{HealthPolicy, Verdict};
use crate::docker::{ContainerExit, ContainerId, Engine};

/// Time for finding out where an app listens instead.
const LISTENING_LIMIT: Duration = Duration::from_secs(5);
/// Time between tries to watch the container, when the engine does not answer.
const WATCH_AGAIN: Duration = Duration::from_secs(1);

/// The container behind an address, as far as a health check wants to know.
#[async_trait]
pub trait Replica: Send + Sync {
    /// Resolves when the container has ended, or is gone.
    async fn exited(&self) -> ContainerExit;
    /// The sockets that listen inside it; empty where that cannot be seen.
    async fn listening(&self) -> Vec<Listening>;
}

/// A container of an engine.
pub struct EngineReplica {
    /// Its engine.
    pub engine: Arc<dyn Engine>,
    /// Its id.
    pub id: ContainerId,
}

#[async_trait]
impl Replica for EngineReplica {
    async fn exited(&self) -> ContainerExit {
        loop {
            match self.engine.wait_exit(&self.id).await {
                Ok(exit) => return exit,
                Err(error) if error.is_not_found() => {
                    let error = Some("the container was removed".to_owned());
                    return ContainerExit { code: -1, oom_killed: false, error };
                }
                // An engine that is away says nothing about the container: the attempts go on.
                Err(_) => sleep(WATCH_AGAIN).await,
            }
        }
    }

    async fn listening(&self) -> Vec<Listening> {
        let found = timeout(LISTENING_LIMIT, self.engine.listening(&self.id)).await;
        found.ok().and_then(Result::ok).unwrap_or_default()
    }
}

/// A replica became healthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Healthy {
    /// The outcome that passed.
    pub outcome: ProbeOutcome,
    /// Attempts, the passing one included.
    pub attempts: u32,
    /// Time since the wait began.
    pub waited: Duration,
}

/// A replica did not become healthy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} ({attempts} attempts in {:.1} s)", waited.as_secs_f64())]
pub struct HealthFailure {
    /// Why.
    pub kind: HealthFailureKind,
    /// Attempts made.
    pub attempts: u32,
    /// Time since the wait began.
    pub waited: Duration,
}

/// Why a replica did not become healthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthFailureKind {
    /// Its container ended.
    Exited {
        /// Exit code.
        code: i64,
        /// Whether it used more memory than it may.
        oom: bool,
        /// Why it could not be started, as the engine says.
        error: Option<String>,
    },
    /// Nothing accepted connections on the port.
    NeverOpened {
        /// The port.
        port: u16,
        /// Where the app listens instead.
        listening: Vec<Listening>,
    },
    /// It answered, but not well.
    BadStatus {
        /// The last status.
        code: u16,
        /// The first 2 KiB of that answer's body.
        body_head: String,
    },
    /// It accepted connections, but gave no answer that counts.
    TimedOut {
        /// What came of the last attempt.
        last: ProbeOutcome,
    },
    /// The caller gave up.
    Cancelled,
}

impl HealthFailureKind {
    /// Stable, public code of the kind.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Exited { oom: true, .. } => "container_out_of_memory",
            Self::Exited { .. } => "container_exited",
            Self::NeverOpened { .. } => "port_never_opened",
            Self::BadStatus { .. } => "health_bad_status",
            Self::TimedOut { .. } => "health_timed_out",
            Self::Cancelled => "cancelled",
        }
    }

    /// What to do next, where there is something to do.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Exited { oom: true, .. } => {
                "raise the app's memory limit, or find out what takes it".to_owned()
            }
            Self::Exited { .. } => "the last lines of the app's log say why it ended".to_owned(),
            Self::NeverOpened { port, listening } => elsewhere(*port, listening),
            Self::BadStatus { .. } => {
                "look at the app's log, or set another health path if this one is not meant to succeed"
                    .to_owned()
            }
            Self::TimedOut { .. } => {
                "give the app more time to start, or set a health path that answers quickly".to_owned()
            }
            Self::Cancelled => return None,
        })
    }
}

/// Where an app that is not on `port` is instead.
fn elsewhere(port: u16, listening: &[Listening]) -> String {
    if let Some(here) = listening.iter().find(|l| l.port == port && l.is_loopback_only()) {
        return format!(
            "the app listens on {here} only, where nothing outside of its container reaches it: bind 0.0.0.0:{port}"
        );
    }
    let open: Vec<_> = listening.iter().filter(|l| !l.is_loopback_only()).collect();
    if let [first, ..] = open[..] {
        let all = open.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        return format!(
            "the app listens on {all}: make it use $PORT, or set the app's port to {}",
            first.port
        );
    }
    if let [first, ..] = listening {
        return format!("the app listens on {first} only: bind 0.0.0.0:{port}");
    }
    format!("nothing listens inside the container: make the app listen on 0.0.0.0:{port}")
}

impl fmt::Display for HealthFailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { error: Some(error), .. } => write!(f, "the container could not run: {error}"),
            Self::Exited { oom: true, code, .. } => {
                write!(f, "the container was killed for using more memory than it may (exit code {code})")
            }
            Self::Exited { code, .. } => {
                write!(f, "the container exited with code {code} before it was healthy")
            }
            Self::NeverOpened { port, .. } => write!(f, "nothing accepted connections on port {port}"),
            Self::BadStatus { code, .. } => write!(f, "the health check was answered with status {code}"),
            Self::TimedOut { last } => write!(f, "the app {last}"),
            Self::Cancelled => f.write_str("the health check was cancelled"),
        }
    }
}

/// What the attempts so far were.
#[derive(Default)]
struct Tally {
    attempts: u32,
    resets: u32,
    accepted: bool,
    last: Option<ProbeOutcome>,
}

impl Tally {
    fn add(&mut self, outcome: ProbeOutcome) {
        self.attempts += 1;
        self.resets = if outcome == ProbeOutcome::Reset { self.resets + 1 } else { 0 };
        self.accepted |=
            !matches!(outcome, ProbeOutcome::Refused | ProbeOutcome::Timeout { connected: false });
        self.last = Some(outcome);
    }
}

/// Repeats attempts until one passes, the container ends, `cancel` fires or the policy's time is over.
pub async fn wait_healthy(
    policy: &HealthPolicy,
    addr: SocketAddr,
    replica: &dyn Replica,
    cancel: &CancellationToken,
) -> Result<Healthy, HealthFailure> {
    let began = Instant::now();
    let mut tally = Tally::default();
    let end = tokio::select! {
        biased;
        () = cancel.cancelled() => End::Cancelled,
        exit = replica.exited() => End::Exited(exit),
        outcome = attempts(policy, addr, began + policy.total(), &mut tally) => {
            outcome.map_or(End::TimeOver, End::Healthy)
        }
    };
    let kind = match end {
        End::Healthy(outcome) => {
            return Ok(Healthy { outcome, attempts: tally.attempts, waited: began.elapsed() });
        }
        End::Cancelled => HealthFailureKind::Cancelled,
        End::Exited(exit) => {
            HealthFailureKind::Exited { code: exit.code, oom: exit.oom_killed, error: exit.error }
        }
        End::TimeOver => over(policy, &mut tally, replica).await,
    };
    Err(HealthFailure { kind, attempts: tally.attempts, waited: began.elapsed() })
}

enum End {
    Healthy(ProbeOutcome),
    Exited(ContainerExit),
    Cancelled,
    TimeOver,
}

/// Attempts until one passes (`None`: until `deadline`). The last one is cut short rather than dropped, because what
/// came of it is the reason of the failure.
async fn attempts(
    policy: &HealthPolicy,
    addr: SocketAddr,
    deadline: Instant,
    tally: &mut Tally,
) -> Option<ProbeOutcome> {
    loop {
        let mut probe = policy.probe();
        probe.timeout = probe.timeout.min(deadline.saturating_duration_since(Instant::now()));
        let outcome = probe.attempt(addr).await;
        tally.add(outcome.clone());
        if policy.judge(&outcome, tally.resets) == Verdict::Healthy {
            return Some(outcome);
        }
        let next = Instant::now() + policy.pause(tally.attempts);
        if next >= deadline {
            sleep_until(deadline).await;
            return None;
        }
        sleep_until(next).await;
    }
}

/// The time is over: what was it that the app did instead of being healthy?
async fn over(policy: &HealthPolicy, tally: &mut Tally, replica: &dyn Replica) -> HealthFailureKind {
    match tally.last.take() {
        Some(ProbeOutcome::Status { code, body_head }) => HealthFailureKind::BadStatus { code, body_head },
        Some(last) if tally.accepted => HealthFailureKind::TimedOut { last },
        _ => HealthFailureKind::NeverOpened { port: policy.port, listening: replica.listening().await },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A container that ends after a while, or never.
    struct Scripted {
        exit: Option<(Duration, ContainerExit)>,
        listening: Vec<Listening>,
    }

    #[async_trait]
    impl Replica for Scripted {
        async fn exited(&self) -> ContainerExit {
            match &self.exit {
                Some((after, exit)) => {
                    sleep(*after).await;
                    exit.clone()
                }
                None => std::future::pending().await,
            }
        }

        async fn listening(&self) -> Vec<Listening> {
            self.listening.clone()
        }
    }

    fn steady() -> Scripted {
        Scripted { exit: None, listening: Vec::new() }
    }

    fn policy(port: u16, total_ms: u64) -> HealthPolicy {
        HealthPolicy {
            interval: Duration::from_millis(30),
            timeout_per_try: Duration::from_millis(200),
            total: Duration::from_millis(total_ms),
            ..HealthPolicy::of_port(port)
        }
    }

    async fn closed_port() -> SocketAddr {
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
    }

    #[tokio::test]
    async fn an_app_that_opens_late_is_waited_for() {
        let addr = closed_port().await;
        tokio::spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            sleep(Duration::from_millis(150)).await;
            let listener = tokio::net::TcpListener::bind(addr).await.unwrap();
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            }
        });
        let healthy = wait_healthy(&policy(addr.port(), 5000), addr, &steady(), &CancellationToken::new())
            .await
            .unwrap();
        assert!(healthy.attempts > 1 && healthy.waited < Duration::from_secs(2), "{healthy:?}");
    }

    #[tokio::test]
    async fn the_end_of_the_container_is_noticed_at_once() {
        let addr = closed_port().await;
        let exit = ContainerExit { code: 137, oom_killed: true, error: None };
        let replica = Scripted { exit: Some((Duration::from_millis(50), exit)), listening: Vec::new() };
        let failure = wait_healthy(&policy(addr.port(), 60_000), addr, &replica, &CancellationToken::new())
            .await
            .unwrap_err();
        assert_eq!(failure.kind, HealthFailureKind::Exited { code: 137, oom: true, error: None });
        assert!(failure.waited < Duration::from_secs(2));
    }

    #[tokio::test]
    async fn an_app_on_loopback_only_is_told_to_bind_all_addresses() {
        let addr = closed_port().await;
        let here = Listening { addr: [127, 0, 0, 1].into(), port: addr.port() };
        let replica = Scripted { exit: None, listening: vec![here] };
        let failure = wait_healthy(&policy(addr.port(), 100), addr, &replica, &CancellationToken::new())
            .await
            .unwrap_err();
        assert_eq!(failure.kind.code(), "port_never_opened");
        let hint = failure.kind.hint().unwrap();
        assert!(hint.contains(&format!("listens on {here} only")) && hint.contains("0.0.0.0"), "{hint}");
    }

    #[tokio::test]
    async fn an_app_that_hangs_is_not_called_closed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let slow = HealthPolicy { timeout_per_try: Duration::from_secs(60), ..policy(addr.port(), 100) };
        let failure = wait_healthy(&slow, addr, &steady(), &CancellationToken::new()).await.unwrap_err();
        let last = ProbeOutcome::Timeout { connected: true };
        assert_eq!(failure.kind, HealthFailureKind::TimedOut { last });
        assert!(failure.waited < Duration::from_secs(2));
    }

    #[tokio::test]
    async fn cancelling_ends_the_wait() {
        let addr = closed_port().await;
        let cancel = CancellationToken::new();
        cancel.cancel();
        let failure = wait_healthy(&policy(addr.port(), 60_000), addr, &steady(), &cancel).await.unwrap_err();
        assert_eq!(failure.kind, HealthFailureKind::Cancelled);
    }

    #[test]
    fn an_app_on_another_port_is_found() {
        let there = Listening { addr: [0, 0, 0, 0].into(), port: 8000 };
        assert!(elsewhere(3000, &[there]).contains("set the app's port to 8000"));
        assert!(elsewhere(3000, &[]).contains("nothing listens"));
    }
}
