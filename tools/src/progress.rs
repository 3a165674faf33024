//! What a running call tells its caller before it answers.
//!
//! One mechanism for all surfaces: MCP turns it into progress notifications, REST into server-sent events,
//! the command line into what the terminal shows. A body that follows something (a deployment, a log) does so
//! as long as [`Progress::wanted`] says that somebody listens. One that only waits says for what; that no wait is silent is
//! seen to around every body ([`Progress::beside`]).

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use berth_schemas::{deployment::BuildLine, deployment::DeploymentState, log::LogLine};
use serde::Serialize;
use tokio::{sync::mpsc, time::Instant};

/// One thing told.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Update {
    /// A deployment entered a state.
    State {
        /// The deployment.
        deployment: berth_schemas::DeploymentRef,
        /// The state.
        state: DeploymentState,
        /// Why, where that needs saying.
        reason: Option<String>,
    },
    /// A line of a deployment's log.
    BuildLine(BuildLine),
    /// A line of an app's log.
    LogLine(LogLine),
    /// Anything else worth a sentence.
    Message {
        /// The sentence.
        text: String,
    },
}

/// How long a caller who listens hears nothing at most while it waits.
pub(crate) const BEAT: Duration = Duration::from_secs(3);

/// Where updates go.
#[derive(Debug, Clone, Default)]
pub struct Progress(Option<Arc<Listener>>);

#[derive(Debug)]
struct Listener {
    updates: mpsc::Sender<Update>,
    /// Whether the caller stays until it hangs up.
    follows: bool,
    heard: Mutex<Heard>,
}

/// What the caller knows.
#[derive(Debug)]
struct Heard {
    /// When it heard something last.
    at: Instant,
    /// What it waits for, and since when.
    waits: Option<(String, Instant)>,
}

impl Progress {
    /// Nobody listens.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// Updates go to `sender`, while a bounded wait lasts (MCP).
    #[must_use]
    pub fn to(sender: mpsc::Sender<Update>) -> Self {
        Self::with(sender, false)
    }

    /// Updates go to `sender`, and the caller stays until it hangs up (server-sent events, the command line):
    /// bodies that can follow do so without a limit of time.
    #[must_use]
    pub fn following(sender: mpsc::Sender<Update>) -> Self {
        Self::with(sender, true)
    }

    fn with(updates: mpsc::Sender<Update>, follows: bool) -> Self {
        let heard = Mutex::new(Heard { at: Instant::now(), waits: None });
        Self(Some(Arc::new(Listener { updates, follows, heard })))
    }

    /// Whether somebody listens.
    #[must_use]
    pub fn wanted(&self) -> bool {
        self.0.as_ref().is_some_and(|l| !l.updates.is_closed())
    }

    /// Whether the caller stays until it hangs up.
    #[must_use]
    pub fn follows(&self) -> bool {
        self.0.as_ref().is_some_and(|l| l.follows) && self.wanted()
    }

    /// Tells the caller; waits while the caller is slow; returns false when it is gone.
    pub async fn tell(&self, update: Update) -> bool {
        let Some(listener) = &self.0 else { return false };
        listener.heard().at = Instant::now();
        listener.updates.send(update).await.is_ok()
    }

    /// Tells the caller what the call waits for from now on, in the words that follow "Waiting for". As long as it lasts
    /// the caller hears it again every few seconds.
    pub(crate) async fn waits_for(&self, what: impl Into<String>) {
        let what = what.into();
        let text = format!("Waiting for {what}.");
        self.has_told(what);
        self.tell(Update::Message { text }).await;
    }

    /// The same, for what the caller was told in another form.
    pub(crate) fn has_told(&self, what: impl Into<String>) {
        if let Some(listener) = &self.0 {
            listener.heard().waits = Some((what.into(), Instant::now()));
        }
    }

    /// Runs `work`; whenever the caller heard nothing for a while, it hears that this goes on. One who follows hears
    /// only of waits, because nothing may be what it is there for: no line in a log.
    pub(crate) async fn beside<T>(&self, title: &str, work: impl Future<Output = T>) -> T {
        let Some(listener) = &self.0 else { return work.await };
        tokio::select! {
            biased;
            done = work => done,
            never = self.beat(listener, title) => match never {},
        }
    }

    async fn beat(&self, listener: &Listener, title: &str) -> std::convert::Infallible {
        let began = Instant::now();
        loop {
            let next = listener.heard().at + BEAT;
            if Instant::now() < next {
                tokio::time::sleep_until(next).await;
                continue;
            }
            let text = match &listener.heard().waits {
                Some((what, since)) => {
                    format!("Still waiting for {what}, {} s so far.", since.elapsed().as_secs())
                }
                None if listener.follows => String::new(),
                None => format!("{title}: not done yet, {} s so far.", began.elapsed().as_secs()),
            };
            if text.is_empty() {
                listener.heard().at = Instant::now();
            } else {
                self.tell(Update::Message { text }).await;
            }
        }
    }
}

impl Listener {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn told(progress: &Progress, mut updates: mpsc::Receiver<Update>, seconds: u64) -> Vec<String> {
        progress.beside("List apps", tokio::time::sleep(Duration::from_secs(seconds))).await;
        updates.close();
        let mut texts = Vec::new();
        while let Some(update) = updates.recv().await {
            let Update::Message { text } = update else { continue };
            texts.push(text);
        }
        texts
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_who_listens_hears_something_every_few_seconds() {
        let (sender, updates) = mpsc::channel(64);
        assert_eq!(told(&Progress::to(sender), updates, 2).await, [""; 0]);
        let (sender, updates) = mpsc::channel(64);
        let texts = told(&Progress::to(sender), updates, 10).await;
        assert_eq!(texts.len(), 3, "{texts:?}");
        assert_eq!(texts[1], "List apps: not done yet, 6 s so far.");
        let (sender, updates) = mpsc::channel(64);
        let progress = Progress::to(sender);
        progress.waits_for("the job 7").await;
        let texts = told(&progress, updates, 4).await;
        assert_eq!(texts, ["Waiting for the job 7.", "Still waiting for the job 7, 3 s so far."]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_follows_a_silent_log_is_left_alone() {
        let (sender, updates) = mpsc::channel(64);
        assert_eq!(told(&Progress::following(sender), updates, 60).await, [""; 0]);
        let (sender, updates) = mpsc::channel(64);
        let progress = Progress::following(sender);
        progress.waits_for("the job 7").await;
        assert_eq!(told(&progress, updates, 10).await.len(), 4);
    }
}
