//! Waiting for a deployment, and telling what happens meanwhile.
//!
//! The store is the truth and the pipeline's broadcast only the wake-up: a follower that was too slow for the
//! broadcast reads what it missed from the store, so that nobody misses a line or waits for an end that has
//! come already.

use std::time::Duration;

use berth_deploy::DeploymentUpdate;
use berth_schemas::Problem;
use berth_store::model::DeploymentRow;
use tokio::{sync::broadcast::error::RecvError, time::Instant};

use crate::{progress::Update, registry::Call};

/// Longest wait that one call may ask for, in seconds: below the minute after which clients give up.
pub(crate) const MOST_WAIT_S: u32 = 50;

/// How often a follower looks into the store when nothing wakes it.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The wait asked for; refuses more than [`MOST_WAIT_S`].
pub(crate) fn wait(asked: Option<u32>, usual: u32) -> Result<Duration, Problem> {
    match asked {
        Some(s) if s > MOST_WAIT_S => Err(Problem::invalid(
            "wait_s",
            format!("wait_s is {s}; at most {MOST_WAIT_S} seconds are possible in one call."),
        )
        .hint("Call again with deployment_get(wait_s=50) until settled is true.")),
        asked => Ok(Duration::from_secs(asked.unwrap_or(usual).into())),
    }
}

/// Waits until the deployment has settled or the time is up, telling states and log lines to a caller who
/// listens. A caller that follows has all the time there is.
pub(crate) async fn deployment(
    call: &Call,
    row: DeploymentRow,
    at_most: Duration,
) -> Result<DeploymentRow, Problem> {
    let follows = call.progress.follows();
    if !follows && at_most.is_zero() {
        return Ok(row);
    }
    if !follows && row.rests() {
        // Whoever meant to wait hears that there is nothing to wait for.
        let (deployment, state) = (row.reference(), row.state);
        call.progress.tell(Update::State { deployment, state, reason: None }).await;
        return Ok(row);
    }
    if !call.progress.wanted() {
        return call.context.pipeline.wait(row.id, at_most).await;
    }
    // A follower hears the story from its beginning; who only waits a while hears what is new.
    let last_line = if follows {
        0
    } else {
        call.context.store.deployments().lines(row.id, Some(i64::MAX), None, 1).await?.1
    };
    let deadline = (!follows).then(|| Instant::now() + at_most);
    Follower { call, row, last_line, contains: None, states: true }.run(deadline).await
}

/// Tells the log lines after `last_line` until the deployment has settled or the caller is gone.
pub(crate) async fn log(
    call: &Call,
    row: DeploymentRow,
    last_line: i64,
    contains: Option<&str>,
) -> Result<DeploymentRow, Problem> {
    let contains = contains.map(str::to_lowercase);
    Follower { call, row, last_line, contains, states: false }.run(None).await
}

struct Follower<'a> {
    call: &'a Call,
    row: DeploymentRow,
    last_line: i64,
    /// Lower-case.
    contains: Option<String>,
    states: bool,
}

impl Follower<'_> {
    async fn run(mut self, deadline: Option<Instant>) -> Result<DeploymentRow, Problem> {
        // Subscribe before reading, so that nothing falls between.
        let mut updates = self.call.context.pipeline.watch(self.row.id);
        self.tell_state(None).await;
        self.catch_up().await?;
        while !self.row.rests() {
            let end = deadline.unwrap_or_else(|| Instant::now() + LOOK_AGAIN);
            tokio::select! {
                update = updates.recv() => match update {
                    Ok(DeploymentUpdate::Line(line)) => {
                        // A gap means that lines were written which this receiver was not sent.
                        if line.line > self.last_line + 1 {
                            self.tell_missed_lines().await?;
                        }
                        if line.line > self.last_line {
                            self.tell_line(line).await;
                        }
                    }
                    Ok(DeploymentUpdate::State { reason, .. }) => {
                        let before = self.row.state;
                        self.read_row().await?;
                        if self.row.state != before {
                            self.tell_missed_lines().await?;
                            self.tell_state(reason).await;
                        }
                    }
                    Err(RecvError::Lagged(_)) => self.catch_up().await?,
                    Err(RecvError::Closed) => {
                        tokio::time::sleep_until(end.min(Instant::now() + LOOK_AGAIN)).await;
                        self.catch_up().await?;
                    }
                },
                () = tokio::time::sleep_until(end.min(Instant::now() + LOOK_AGAIN)) => self.catch_up().await?,
                () = self.call.context.pipeline.stopping() => break,
            }
            let late = deadline.is_some_and(|d| Instant::now() >= d);
            if late || !self.call.progress.wanted() {
                break;
            }
        }
        Ok(self.row)
    }

    /// Reads the row and tells what changed without a broadcast.
    async fn catch_up(&mut self) -> Result<(), Problem> {
        let before = self.row.state;
        self.read_row().await?;
        self.tell_missed_lines().await?;
        if self.row.state != before {
            self.tell_state(None).await;
        }
        Ok(())
    }

    async fn read_row(&mut self) -> Result<(), Problem> {
        if let Some(row) = self.call.context.store.deployments().get(self.row.id).await? {
            self.row = row;
        }
        Ok(())
    }

    async fn tell_missed_lines(&mut self) -> Result<(), Problem> {
        const BATCH: i64 = 500;
        loop {
            let (lines, _) = self
                .call
                .context
                .store
                .deployments()
                .lines(self.row.id, Some(self.last_line), None, BATCH)
                .await?;
            let got = lines.len();
            for line in lines {
                self.tell_line(line).await;
            }
            if i64::try_from(got).unwrap_or(0) < BATCH || !self.call.progress.wanted() {
                return Ok(());
            }
        }
    }

    async fn tell_line(&mut self, line: berth_schemas::deployment::BuildLine) {
        self.last_line = line.line;
        let matches = self.contains.as_ref().is_none_or(|c| line.text.0.to_lowercase().contains(c.as_str()));
        if matches {
            self.call.progress.tell(Update::BuildLine(line)).await;
        }
    }

    async fn tell_state(&self, reason: Option<String>) {
        if self.states {
            let deployment = self.row.reference();
            // Whoever follows to the end sees in which step it is, and how long that takes.
            if !self.call.progress.follows() {
                let state = self.row.state.as_str();
                self.call.progress.has_told(format!("{deployment}, which is {state}"));
            }
            self.call.progress.tell(Update::State { deployment, state: self.row.state, reason }).await;
        }
    }
}
