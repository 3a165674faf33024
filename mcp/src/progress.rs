//! A running call's updates as progress notifications.
//!
//! A build prints faster than anybody reads: states are told at once, lines at most a few times a second, the
//! newest of those that came meanwhile.

use std::time::Duration;

use berth_tools::Update;
use rmcp::{
    Peer, RoleServer,
    model::{ProgressNotificationParam, ProgressToken},
};
use tokio::time::Instant;

use crate::frame::Frame;

/// Least time between two lines.
const PACE: Duration = Duration::from_millis(250);

/// Sends updates to a client that asked for them.
pub(crate) struct Notifier<'a> {
    peer: &'a Peer<RoleServer>,
    token: ProgressToken,
    frame: &'a Frame,
    sent: f64,
    last_line: Option<Instant>,
}

impl<'a> Notifier<'a> {
    pub(crate) fn new(peer: &'a Peer<RoleServer>, token: ProgressToken, frame: &'a Frame) -> Self {
        Self { peer, token, frame, sent: 0.0, last_line: None }
    }

    /// Tells one update, unless it is a line and another was told a moment ago.
    pub(crate) async fn tell(&mut self, update: &Update) {
        let is_line = matches!(update, Update::BuildLine(_) | Update::LogLine(_));
        if is_line && self.last_line.is_some_and(|at| at.elapsed() < PACE) {
            return;
        }
        if is_line {
            self.last_line = Some(Instant::now());
        }
        self.sent += 1.0;
        let progress = ProgressNotificationParam::new(self.token.clone(), self.sent);
        // A client that is gone is noticed by the transport, which then drops the call.
        let _ = self.peer.notify_progress(progress.with_message(message(update, self.frame))).await;
    }
}

fn message(update: &Update, frame: &Frame) -> String {
    match update {
        Update::State { deployment, state, reason } => {
            let reason = reason.as_ref().map(|r| format!(": {}", frame.quote(r))).unwrap_or_default();
            format!("{deployment}: {}{reason}", state.as_str())
        }
        Update::BuildLine(line) => {
            let step = line.step.as_ref().map(|s| format!("[{}] ", s.0)).unwrap_or_default();
            format!("{} {}", line.state.as_str(), frame.quote(&format!("{step}{}", line.text.0)))
        }
        Update::LogLine(line) => format!("{} {}", line.level.as_str(), frame.quote(&line.text.0)),
        Update::Message { text } => text.clone(),
    }
}
