//! What the user of `git push` sees while Berth works: lines on the side-band, and the result of each ref.

use std::time::Duration;

use berth_schemas::{
    Problem,
    deployment::{BuildLineKind, DeploymentState},
    push::PushState,
};
use berth_store::model::{DeploymentId, DeploymentRow, PushId};
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::{
    fault::sentence,
    pipeline::Inner,
    repository::{Band, FLUSH, SideBand, Wanted, packet},
};

/// A client that takes nothing for this long is as good as gone.
const PATIENCE: Duration = Duration::from_secs(60);
/// Something is sent at least this often, so that nobody in between takes the connection for dead.
const ALIVE: Duration = Duration::from_secs(5);
/// New lines are gathered for this long.
const GATHER: Duration = Duration::from_millis(150);
/// Lines read at once.
const BATCH: i64 = 500;
/// Longest line that is shown, in characters.
const MAX_LINE: usize = 400;

/// The way to a client.
pub(super) struct Out {
    to: mpsc::Sender<Bytes>,
    band: SideBand,
}

impl Out {
    pub(super) fn new(to: mpsc::Sender<Bytes>, band: SideBand) -> Self {
        Self { to, band }
    }

    /// Whether nobody reads any more.
    fn is_gone(&self) -> bool {
        self.to.is_closed()
    }

    async fn send(&self, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            // Nobody listening is fine: the work does not depend on it.
            let _ = self.to.send_timeout(bytes.into(), PATIENCE).await;
        }
    }

    /// Shows a line to the user.
    pub(super) async fn say(&self, line: &str) {
        let clean: String = line.chars().filter(|c| !c.is_control()).take(MAX_LINE).collect();
        self.send(self.band.pack(Band::Progress, format!("{clean}\n").as_bytes())).await;
    }

    /// Tells the client's program what became of each ref.
    pub(super) async fn report(
        &self,
        wanted: &Wanted,
        unpacked: Result<(), &str>,
        verdicts: &[Result<(), String>],
    ) {
        if !wanted.report {
            return;
        }
        let line = |text: String| packet(text.replace(['\n', '\r', '\0'], " ").as_bytes());
        let mut report = line(format!("unpack {}", unpacked.err().unwrap_or("ok")));
        for (one, verdict) in wanted.moves.iter().zip(verdicts) {
            report.extend(line(match verdict {
                Ok(()) => format!("ok {}", one.name),
                Err(why) => format!("ng {} {}", one.name, why.chars().take(MAX_LINE).collect::<String>()),
            }));
        }
        report.extend_from_slice(FLUSH);
        self.send(self.band.pack(Band::Data, &report)).await;
    }

    /// Ends the answer.
    pub(super) async fn end(&self) {
        if self.band != SideBand::None {
            self.send(FLUSH.to_vec()).await;
        }
    }
}

impl Inner {
    /// Tells what a push leads to. With `follows` the deployments are shown to their end; one that is `held` is
    /// awaited in any case, and its result is returned.
    pub(super) async fn tell_push(
        &self,
        out: &Out,
        id: PushId,
        follows: bool,
        held: bool,
    ) -> Result<(), String> {
        let internal = |problem: Problem| problem.detail;
        let push = loop {
            let push = self.push(id).await.map_err(internal)?;
            if push.state != PushState::Received {
                break push;
            }
            if out.is_gone() && !held {
                return Ok(());
            }
            self.pause_for_news(out).await;
        };
        let what = push.moved();
        let what = what.trim_start_matches("refs/heads/").trim_start_matches("refs/");
        let outcome = push.outcome.clone().unwrap_or_default();
        match push.state {
            PushState::Handled => out.say(&format!("{what}: {outcome}")).await,
            state => out.say(&format!("{what} is not deployed ({}): {outcome}", state.as_str())).await,
        }
        let deployments = self.store.pushes().deployments(id).await.map_err(|e| Problem::from(e).detail)?;
        for deployment in deployments {
            if !follows {
                let name = deployment.reference();
                out.say(&format!("Follow it with: berth deployment get {name} --wait-s 50")).await;
                continue;
            }
            let row = self.tell_deployment(out, deployment.id).await.map_err(internal)?;
            self.tell_end(out, &row).await;
        }
        if !held {
            return Ok(());
        }
        loop {
            let push = self.push(id).await.map_err(internal)?;
            if push.state == PushState::Refused {
                return Err(push.outcome.unwrap_or_else(|| "the deployment failed".into()));
            }
            if push.held_before.is_none() {
                return Ok(());
            }
            self.pause_for_news(out).await;
        }
    }

    /// Waits a moment for something to happen.
    async fn pause_for_news(&self, out: &Out) {
        let mut settled = self.settled.subscribe();
        let _ = tokio::time::timeout(Duration::from_millis(300), settled.recv()).await;
        if !out.is_gone() {
            out.send(out.band.alive()).await;
        }
    }

    /// Shows a deployment's states and lines until it rests or nobody reads any more.
    async fn tell_deployment(&self, out: &Out, id: DeploymentId) -> Result<DeploymentRow, Problem> {
        // Subscribed before reading, so that nothing falls between.
        let mut updates = self.watchers.watch(id);
        let mut last = 0;
        let mut state = DeploymentState::Queued;
        loop {
            let row = self.deployment(id).await?;
            loop {
                let (lines, _) = self.store.deployments().lines(id, Some(last), None, BATCH).await?;
                let full = i64::try_from(lines.len()).is_ok_and(|n| n == BATCH);
                for line in lines {
                    last = line.line;
                    let mark = match line.kind {
                        BuildLineKind::Step => "=> ",
                        BuildLineKind::Warning => "warning: ",
                        _ => "   ",
                    };
                    out.say(&format!("{mark}{}", line.text.0)).await;
                }
                if !full {
                    break;
                }
            }
            if row.state != state && !row.state.is_settled() {
                out.say(&format!("-- {} {}", row.reference(), row.state.as_str())).await;
            }
            state = row.state;
            if row.rests() || out.is_gone() {
                return Ok(row);
            }
            if tokio::time::timeout(ALIVE, updates.recv()).await.is_err() {
                out.send(out.band.alive()).await;
            }
            // What comes together is shown together; a receiver that lags reads the store anyway.
            tokio::time::sleep(GATHER).await;
            while updates.try_recv().is_ok() {}
        }
    }

    async fn tell_end(&self, out: &Out, row: &DeploymentRow) {
        let name = row.reference();
        match (row.state, &row.problem) {
            (DeploymentState::Live, _) => {
                out.say(&format!(
                    "{name} is live at {}",
                    self.config.addresses.url(&row.app, &row.environment)
                ))
                .await;
            }
            (state, Some(problem)) => {
                out.say(&format!("{name} {}: {}", state.as_str().to_uppercase(), problem.detail)).await;
                if let Some(hint) = &problem.hint {
                    out.say(&sentence(hint)).await;
                }
            }
            (state, None) => out.say(&format!("{name} is {}", state.as_str())).await,
        }
    }
}
