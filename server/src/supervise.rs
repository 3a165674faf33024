//! The daemon's tasks: each has a name, gets the shutdown signal, and has a stated rule for its end.
//!
//! A task that ends before the shutdown was not meant to. What serves requests or works on deployments is
//! [`Rule::Essential`]: without it the daemon would look alive and do nothing, so the daemon ends, and the
//! service manager starts it anew. What tends to something is [`Rule::Restarted`], after a pause that grows.

use std::{future::Future, pin::Pin, time::Duration};

use futures_util::FutureExt as _;
use tokio::{task::JoinSet, time};
use tokio_util::sync::CancellationToken;

/// What happens when a task ends before the shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The daemon ends.
    Essential,
    /// It is started again, after 1 s, 2 s, 4 s … at most a minute.
    Restarted,
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Starts tasks and waits for them.
#[derive(Debug)]
pub struct Supervisor {
    shutdown: CancellationToken,
    tasks: JoinSet<&'static str>,
    /// Set when an essential task ended by itself.
    failed: CancellationToken,
}

impl Supervisor {
    /// A supervisor whose tasks end after `shutdown`.
    #[must_use]
    pub fn new(shutdown: CancellationToken) -> Self {
        Self { shutdown, tasks: JoinSet::new(), failed: CancellationToken::new() }
    }

    /// Starts a task made by `make`, which gets the shutdown signal; called again for each restart.
    pub fn start<F, Fut>(&mut self, name: &'static str, rule: Rule, make: F)
    where
        F: Fn(CancellationToken) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let shutdown = self.shutdown.clone();
        let failed = self.failed.clone();
        self.tasks.spawn(async move {
            let make = |token| -> Task { Box::pin(make(token)) };
            keep(name, rule, &make, &shutdown, &failed).await;
            name
        });
    }

    /// Starts an essential task that can only be made once, such as one that owns a socket.
    pub fn start_once<Fut>(&mut self, name: &'static str, task: Fut)
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        let (shutdown, failed) = (self.shutdown.clone(), self.failed.clone());
        self.tasks.spawn(async move {
            ended(
                name,
                Rule::Essential,
                std::panic::AssertUnwindSafe(task).catch_unwind().await,
                &shutdown,
                &failed,
            );
            name
        });
    }

    /// Resolves when an essential task has ended by itself.
    pub async fn failure(&self) {
        self.failed.cancelled().await;
    }

    /// Gives the shutdown signal and waits for all tasks, at most `limit`; then ends those that are left.
    pub async fn stop(mut self, limit: Duration) {
        self.shutdown.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if time::timeout(limit, all).await.is_err() {
            tracing::warn!("{} tasks did not end within {} s and are cut", self.tasks.len(), limit.as_secs());
            self.tasks.shutdown().await;
        }
    }
}

async fn keep(
    name: &'static str,
    rule: Rule,
    make: &(dyn Fn(CancellationToken) -> Task + Send + Sync),
    shutdown: &CancellationToken,
    failed: &CancellationToken,
) {
    let mut pause = Duration::from_secs(1);
    loop {
        let begun = time::Instant::now();
        let outcome = std::panic::AssertUnwindSafe(make(shutdown.clone())).catch_unwind().await;
        if ended(name, rule, outcome, shutdown, failed) {
            return;
        }
        if begun.elapsed() > Duration::from_secs(300) {
            pause = Duration::from_secs(1);
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = time::sleep(pause) => {}
        }
        pause = (pause * 2).min(Duration::from_secs(60));
    }
}

/// Says what the end of a task means; true if it is not to be started again.
fn ended(
    name: &'static str,
    rule: Rule,
    outcome: Result<(), Box<dyn std::any::Any + Send>>,
    shutdown: &CancellationToken,
    failed: &CancellationToken,
) -> bool {
    let panicked = outcome.is_err();
    if shutdown.is_cancelled() && !panicked {
        return true;
    }
    match rule {
        Rule::Essential => {
            tracing::error!(task = name, panicked, "an essential task ended; the daemon ends");
            failed.cancel();
            true
        }
        Rule::Restarted => {
            tracing::warn!(task = name, panicked, "a task ended and is started again");
            shutdown.is_cancelled()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_tending_task_that_panics_is_started_again() {
        let runs = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&runs);
        let mut supervisor = Supervisor::new(CancellationToken::new());
        supervisor.start("tends", Rule::Restarted, move |shutdown| {
            let run = counted.fetch_add(1, Ordering::SeqCst);
            async move {
                assert!(run > 1, "the first two runs fail");
                shutdown.cancelled().await;
            }
        });
        time::sleep(Duration::from_secs(10)).await;
        assert_eq!(runs.load(Ordering::SeqCst), 3);
        supervisor.stop(Duration::from_secs(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_essential_task_that_ends_is_a_failure() {
        let mut supervisor = Supervisor::new(CancellationToken::new());
        supervisor.start_once("serves", async {});
        time::timeout(Duration::from_secs(1), supervisor.failure()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ignores_the_shutdown_is_cut() {
        let mut supervisor = Supervisor::new(CancellationToken::new());
        supervisor.start_once("deaf", std::future::pending());
        time::timeout(Duration::from_secs(5), supervisor.stop(Duration::from_secs(2))).await.unwrap();
    }
}
