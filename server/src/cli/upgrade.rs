//! `berth upgrade`: the daemon hands over to the program that is installed on its machine now, followed to the end.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use berth_schemas::{
    job::{JobDetail, JobState},
    platform::PlatformUpgrading,
};
use clap::Command;
use serde_json::{Map, Value};

use super::{
    Session, block_on,
    client::{Client, understood},
    failure::{Failure, print_problem},
};

/// How long to keep asking while neither process answers.
const PATIENCE: Duration = Duration::from_secs(330);
/// Between questions.
const PAUSE: Duration = Duration::from_millis(100);

/// The command.
#[must_use]
pub fn command() -> Command {
    Command::new("upgrade")
        .about("Replace the daemon by the Berth program that is installed on its machine now, without a gap")
        .long_about(
            "Replace the daemon by the Berth program that is installed on its machine now. Listening sockets stay \
             open and open requests finish in the old process. If the new one does not start, the old one goes on. \
             The installer (deploy.sh) installs a new version and does this by itself.",
        )
}

/// Runs the command.
///
/// # Errors
/// Whatever the daemon answers.
pub fn run(session: &Session) -> Result<ExitCode, Failure> {
    block_on(async {
        let client = session.client()?;
        let begun = Instant::now();
        let output = client.call(session.tool("platform_upgrade")?, Map::new()).await?;
        let begun_with: PlatformUpgrading = understood(output)?;
        if let Some(version) = begun_with.from.filter(|_| !session.json) {
            anstream::eprintln!("Berth {version} hands over …");
        }
        let job = ended(session, &client, begun_with.job.job.as_str()).await?;
        if session.json {
            let text = serde_json::to_string_pretty(&job).map_err(|e| Failure::local(e.to_string()))?;
            anstream::println!("{text}");
        } else if let (JobState::Succeeded, Some(said)) = (job.state, &job.message) {
            anstream::println!("{said} ({:.1} s)", begun.elapsed().as_secs_f64());
        }
        match (job.state, job.problem) {
            (JobState::Succeeded, _) => Ok(ExitCode::SUCCESS),
            (_, Some(problem)) if !session.json => {
                print_problem(&problem);
                Err(Failure::Said)
            }
            _ => Err(Failure::Said),
        }
    })
}

/// The job when it has ended: asked of whichever process answers.
async fn ended(session: &Session, client: &Client, id: &str) -> Result<JobDetail, Failure> {
    let tool = session.tool("job_get")?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut input = Map::new();
        input.insert("job".into(), id.into());
        input.insert("wait_s".into(), Value::from(20));
        let failure = match client.call(tool, input).await {
            Ok(output) => {
                let job: JobDetail = understood(output)?;
                if job.state.is_final() {
                    return Ok(job);
                }
                Failure::local("the upgrade takes unusually long")
                    .hint("The daemon's log says where it stands.")
            }
            // The call was under way when the old process let go of it.
            Err(failure @ (Failure::Unreachable { .. } | Failure::Local { .. })) => failure,
            Err(Failure::Problem(problem)) if problem.code == berth_schemas::Code::Internal => problem.into(),
            Err(failure) => return Err(failure),
        };
        if Instant::now() > deadline {
            return Err(failure);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl From<Box<berth_schemas::Problem>> for Failure {
    fn from(problem: Box<berth_schemas::Problem>) -> Self {
        Self::Problem(problem)
    }
}
