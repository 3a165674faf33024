//! How long each step may take: the one place that says so. What takes longer ends with the code `timed_out` and the
//! name of the step. Only waiting for one's turn has no limit; it can be seen and cancelled.

use std::{future::Future, time::Duration};

use berth_schemas::{Code, Problem, job::JobKind};
use berth_store::model::AppRow;

use crate::fault::Halt;

/// Unpacking an archive.
pub(crate) const UNPACK: Duration = Duration::from_secs(10 * 60);
/// Fetching a repository; git has the same limit of its own, which says more.
pub(crate) const GIT: Duration = Duration::from_secs(11 * 60);
/// Pulling an image; the engine's own limit is a little less.
pub(crate) const PULL: Duration = Duration::from_secs(31 * 60);
/// Looking at a source, and putting finished files in place.
pub(crate) const FILES: Duration = Duration::from_secs(10 * 60);
/// A build, where none was set.
pub(crate) const BUILD: Duration = Duration::from_secs(30 * 60);
/// Beyond the limit of a build: the engine ends it within this time, and says which step it was.
pub(crate) const BUILD_GRACE: Duration = Duration::from_secs(60);
/// Creating and starting the containers of a release.
pub(crate) const START: Duration = Duration::from_secs(5 * 60);
/// Beyond the limit of a health check.
pub(crate) const CHECK_GRACE: Duration = Duration::from_secs(30);
/// Waiting for whoever else changes what serves: a job, or containers that are being put right.
pub(crate) const GATE: Duration = Duration::from_secs(15 * 60);
/// Looking for source maps in an image, which nothing waits for.
pub(crate) const IMAGE_MAPS: Duration = Duration::from_secs(10 * 60);
/// A question to a release that serves.
pub(crate) const ASK: Duration = Duration::from_secs(5);
/// Open requests to a release that gets no new ones, where none was set.
const DRAIN: Duration = Duration::from_secs(30);
/// Longest drain that can be set.
pub(crate) const MOST_DRAIN: Duration = Duration::from_secs(3600);
/// An app between SIGTERM and SIGKILL.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(10);

/// Time for open requests of a release that no longer gets new ones.
pub(crate) fn drain(app: &AppRow) -> Duration {
    app.settings.drain_timeout_s.map_or(DRAIN, |s| Duration::from_secs(u64::from(s)))
}

/// Time for a build.
pub(crate) fn build(app: &AppRow) -> Duration {
    app.settings.build_timeout_s.map_or(BUILD, |s| Duration::from_secs(u64::from(s)))
}

/// Time for a job's own work, once it is its turn, besides the drain that belongs to some.
pub(crate) fn job(kind: JobKind) -> Duration {
    match kind {
        JobKind::Stop => Duration::from_secs(5 * 60),
        JobKind::Start | JobKind::Scale => Duration::from_secs(10 * 60),
        // What it waits for may be a deployment that is just draining.
        JobKind::DeleteApp | JobKind::DeleteEnvironment => Duration::from_secs(30 * 60),
        JobKind::Cleanup => Duration::from_secs(60 * 60),
        // It reads all that an app's clients ever sent.
        JobKind::EraseUser => Duration::from_secs(6 * 60 * 60),
        // The hand-over has limits of its own; what they leave out is the calls that are let end.
        JobKind::Upgrade => Duration::from_secs(15 * 60),
    }
}

/// Runs a step of a deployment, at most so long.
pub(crate) async fn step<T>(
    name: &str,
    limit: Duration,
    work: impl Future<Output = Result<T, Halt>>,
) -> Result<T, Halt> {
    match tokio::time::timeout(limit, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(timed_out(name, limit).into()),
    }
}

/// What is said of a step that took too long.
pub(crate) fn timed_out(name: &str, limit: Duration) -> Problem {
    let minutes = limit.as_secs() / 60;
    let time = if minutes >= 2 { format!("{minutes} minutes") } else { format!("{} s", limit.as_secs()) };
    Problem::new(Code::TimedOut, format!("It took longer than {time}: {name}."))
        .hint("Look at deployment_log, platform_status and Docker's own log; then try again.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_step_that_hangs_ends_with_its_name() {
        let halt = step("starting the containers", START, std::future::pending::<Result<(), Halt>>()).await;
        let Err(Halt::Failed(problem)) = halt else { panic!("{halt:?}") };
        assert_eq!(problem.code, Code::TimedOut);
        assert_eq!(problem.detail, "It took longer than 5 minutes: starting the containers.");
    }
}
