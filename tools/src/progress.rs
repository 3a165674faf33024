//! What a running call tells its caller before it answers.
//!
//! One mechanism for all surfaces: MCP turns it into progress notifications, REST into server-sent events,
//! the command line into what the terminal shows. A body that follows something (a deployment, a log) does so
//! as long as [`Progress::wanted`] says that somebody listens.

use berth_schemas::{deployment::BuildLine, deployment::DeploymentState, log::LogLine};
use serde::Serialize;
use tokio::sync::mpsc;

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

/// Where updates go.
#[derive(Debug, Clone, Default)]
pub struct Progress(Option<mpsc::Sender<Update>>, bool);

impl Progress {
    /// Nobody listens.
    #[must_use]
    pub fn none() -> Self {
        Self(None, false)
    }

    /// Updates go to `sender`, while a bounded wait lasts (MCP).
    #[must_use]
    pub fn to(sender: mpsc::Sender<Update>) -> Self {
        Self(Some(sender), false)
    }

    /// Updates go to `sender`, and the caller stays until it hangs up (server-sent events, the command line):
    /// bodies that can follow do so without a limit of time.
    #[must_use]
    pub fn following(sender: mpsc::Sender<Update>) -> Self {
        Self(Some(sender), true)
    }

    /// Whether somebody listens.
    #[must_use]
    pub fn wanted(&self) -> bool {
        self.0.as_ref().is_some_and(|s| !s.is_closed())
    }

    /// Whether the caller stays until it hangs up.
    #[must_use]
    pub fn follows(&self) -> bool {
        self.1 && self.wanted()
    }

    /// Tells the caller; waits while the caller is slow; returns false when it is gone.
    pub async fn tell(&self, update: Update) -> bool {
        match &self.0 {
            Some(sender) => sender.send(update).await.is_ok(),
            None => false,
        }
    }
}
