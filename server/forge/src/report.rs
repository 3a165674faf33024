//! Telling forges how deployments go: statuses of commits, GitHub's deployments, one comment per pull request.
//!
//! Reads the event log behind a durable cursor and keeps what is to be told as rows (one per thing that is told about,
//! always the newest), which a second loop sends. A forge that is away is told later, and told the truth of then.

use std::{sync::Arc, time::Duration};

use berth_schemas::{
    Problem,
    deployment::DeploymentState,
    push::GitChange,
    repository::{ForgeKind, RepositoryAuth},
};
use berth_store::{
    ReportRow, RepositoryRow, StoreError, Visible,
    model::{DeploymentRow, EventRow},
};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{
        Api, ApiFailure,
        request::{self, CommitStatus, Standing},
    },
    forges::Forges,
};

/// By which name the place in the event log is kept.
const CURSOR: &str = "forge_reports";
/// Events read at once.
const BATCH: i64 = 200;
/// How often it is looked whether something is due, in case a wake-up was missed.
const IDLE: Duration = Duration::from_secs(2);
/// The longest pause between two tries.
const MOST_PAUSE_S: i64 = 3600;
/// Tries before a report is given up: about a day.
const MAX_ATTEMPTS: i64 = 30;

/// What is to be told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Report {
    /// The status of a commit.
    Status(CommitStatus),
    /// A deployment on GitHub.
    Deployment { status: CommitStatus, environment: String, production: bool },
    /// The comment on a pull request.
    Comment { pull: i64, text: String },
}

/// Tells the forges until `shutdown`. `url` says where the environment of a deployment is served.
pub async fn report(
    forges: Arc<Forges>,
    url: impl Fn(&DeploymentRow) -> String + Send + Sync,
    shutdown: CancellationToken,
) {
    let mut events = forges.store().events().subscribe();
    loop {
        if let Err(error) = collect(&forges, &url).await {
            tracing::warn!(%error, "what forges are to be told could not be read");
        }
        if let Err(error) = send_due(&forges, &shutdown).await {
            tracing::warn!(%error, "what forges are to be told could not be read");
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            // A receiver that fell behind is as good a reason to look.
            _ = events.recv() => {}
            () = tokio::time::sleep(IDLE) => {}
        }
    }
}

/// Reads what happened, and keeps what is to be told of it.
async fn collect(
    forges: &Forges,
    url: &(impl Fn(&DeploymentRow) -> String + Send + Sync),
) -> Result<(), StoreError> {
    let reports = forges.store().forge_reports();
    loop {
        let (events, upto) = reports.events(CURSOR, "deployment.", BATCH).await?;
        let mut wanted = Vec::new();
        for event in &events {
            wanted.extend(of_event(forges, event, url).await?);
        }
        let more = i64::try_from(events.len()).unwrap_or(0) >= BATCH;
        reports.want(CURSOR, upto, wanted).await?;
        if !more {
            return Ok(());
        }
    }
}

/// What one event leads to: repository, subject and body of each report.
async fn of_event(
    forges: &Forges,
    event: &EventRow,
    url: &(impl Fn(&DeploymentRow) -> String + Send + Sync),
) -> Result<Vec<(String, String, String)>, StoreError> {
    let store = forges.store();
    let Some(app) = event.app_id else { return Ok(Vec::new()) };
    let Some(repository) = store.repositories().of_app(app).await? else { return Ok(Vec::new()) };
    let told = repository.report
        && repository.forge != ForgeKind::Generic
        && matches!(repository.auth, RepositoryAuth::Token | RepositoryAuth::GithubApp);
    let name = event.event.data["deployment"].as_str().and_then(|n| n.parse().ok());
    let (true, Some(name)) = (told, name) else { return Ok(Vec::new()) };
    let Some(deployment) = store.deployments().by_ref(&Visible::All, &name).await? else {
        return Ok(Vec::new());
    };
    let pushes = store.pushes().of_deployment(deployment.id).await?;
    let commit = deployment.commit.clone().or_else(|| {
        pushes.iter().find_map(|push| match &push.change {
            GitChange::Branch { commit, .. }
            | GitChange::Tag { commit, .. }
            | GitChange::Pull { commit, .. } => Some(commit.clone()),
            _ => None,
        })
    });
    let Some(commit) = commit else { return Ok(Vec::new()) };
    let pull = pushes.iter().find_map(|push| match &push.change {
        GitChange::Pull { number, .. } => Some(*number),
        _ => None,
    });
    let reports = of_deployment(repository.forge, &deployment, commit, pull, url(&deployment));
    reports
        .into_iter()
        .map(|(subject, report)| {
            let body = serde_json::to_string(&report).map_err(|e| StoreError::Corrupt {
                table: "forge_reports",
                column: "body",
                value: e.to_string(),
            })?;
            Ok((repository.id.clone(), subject, body))
        })
        .collect()
}

/// What a deployment's state is to be told as. Pure.
fn of_deployment(
    forge: ForgeKind,
    deployment: &DeploymentRow,
    commit: String,
    pull: Option<i64>,
    url: String,
) -> Vec<(String, Report)> {
    let environment = deployment.environment.to_string();
    let status = CommitStatus {
        standing: standing(deployment.state),
        context: format!("berth/{}/{environment}", deployment.app),
        description: description(deployment),
        url,
        commit,
    };
    let mut reports = Vec::new();
    // A commit that was live stays good when the next one takes its place.
    if status.standing != Standing::Retired {
        reports
            .push((format!("status {} {}", status.commit, status.context), Report::Status(status.clone())));
    }
    if forge == ForgeKind::Github {
        let subject = format!("deployment {}", deployment.reference());
        let production = environment == "production";
        reports.push((subject, Report::Deployment { status: status.clone(), environment, production }));
    }
    if let (Some(pull), true) = (pull, status.standing != Standing::Retired) {
        let text = comment(deployment, &status);
        reports.push((format!("comment {pull}"), Report::Comment { pull, text }));
    }
    reports
}

fn standing(state: DeploymentState) -> Standing {
    use DeploymentState as S;
    match state {
        S::Queued => Standing::Waiting,
        S::Fetching | S::Building | S::Starting | S::Checking | S::RollingOut | S::Switching => {
            Standing::Working
        }
        S::Draining | S::Live => Standing::Live,
        S::Failed | S::RolledBack => Standing::Failed,
        S::Cancelled | S::Superseded => Standing::GivenUp,
        S::Retired => Standing::Retired,
    }
}

/// In a few words: which deployment, and why it failed, without what the app itself printed.
fn description(deployment: &DeploymentRow) -> String {
    let name = deployment.reference();
    match (standing(deployment.state), &deployment.problem) {
        (Standing::Waiting, _) => format!("{name} waits"),
        (Standing::Working, _) => format!("{name}: {}", deployment.state.as_str().replace('_', " ")),
        (Standing::Live, _) => format!("{name} is live"),
        (Standing::Failed, Some(problem)) => {
            format!("{name} failed: {}", problem.code.as_str().replace('_', " "))
        }
        (Standing::Failed, None) => format!("{name} failed"),
        (Standing::GivenUp, _) => format!("{name} was {}", deployment.state.as_str()),
        (Standing::Retired, _) => format!("{name} was replaced"),
    }
}

/// The comment on a pull request: a mark by which people know it, and a table of one line.
fn comment(deployment: &DeploymentRow, status: &CommitStatus) -> String {
    let link = match status.standing {
        Standing::Live => format!("[{0}]({0})", status.url),
        _ => "–".to_owned(),
    };
    let short: String = status.commit.chars().take(8).collect();
    format!(
        "**Berth** · {}\n\n| App | Environment | Deployment | Commit | URL |\n|---|---|---|---|---|\n| {} | {} | {} | {short} | {link} |\n",
        status.description,
        deployment.app,
        deployment.environment,
        deployment.reference(),
    )
}

/// Sends what is due.
async fn send_due(forges: &Forges, shutdown: &CancellationToken) -> Result<(), StoreError> {
    let reports = forges.store().forge_reports();
    for row in reports.due(forges.store().clock().now(), 50).await? {
        if shutdown.is_cancelled() {
            return Ok(());
        }
        let Some(repository) = forges.store().repositories().by_id(&row.repository_id).await? else {
            continue;
        };
        match send(forges, &repository, &row).await {
            Ok(remote) => reports.sent(&row, remote.as_deref()).await?,
            Err(failure) => put_off(forges, &row, failure).await?,
        }
    }
    Ok(())
}

async fn put_off(forges: &Forges, row: &ReportRow, failure: ApiFailure) -> Result<(), StoreError> {
    let reports = forges.store().forge_reports();
    if !failure.transient || row.attempts + 1 >= MAX_ATTEMPTS {
        return reports.given_up(row, &failure.problem).await;
    }
    let pause = (2_i64 << row.attempts.clamp(0, 12)).min(MOST_PAUSE_S);
    let asked = failure.after.and_then(|after| i64::try_from(after.as_secs()).ok()).unwrap_or(0);
    let at = forges.store().clock().now().plus_seconds(pause.max(asked));
    reports.put_off(row, at, &failure.problem).await
}

/// Sends one report. Returns what the forge calls what was made.
async fn send(
    forges: &Forges,
    repository: &RepositoryRow,
    row: &ReportRow,
) -> Result<Option<String>, ApiFailure> {
    let lost = |detail: &str| ApiFailure {
        problem: Problem::new(berth_schemas::Code::Internal, detail),
        transient: false,
        after: None,
    };
    let report: Report =
        serde_json::from_str(&row.body).map_err(|_| lost("A kept report cannot be read."))?;
    let Some(api) = forges.api(repository).await? else { return Ok(None) };
    let (kind, name) = (repository.forge, repository.full_name.as_str());
    match report {
        Report::Status(status) => {
            api.call(&request::status(kind, name, &status)).await?;
            Ok(None)
        }
        Report::Deployment { status, environment, production } => {
            let made = match &row.remote {
                Some(id) => id.clone(),
                None => {
                    made(&api, &request::github_deployment(name, &status.commit, &environment, production))
                        .await?
                }
            };
            // Kept even if the next request fails: there is one deployment on GitHub, not one per try.
            let kept = forges.store().forge_reports().note_remote(row, &made).await;
            kept.map_err(|_| lost("What GitHub calls the deployment could not be kept."))?;
            api.call(&request::github_deployment_status(name, &made, &status)).await?;
            Ok(Some(made))
        }
        Report::Comment { pull, text } => {
            let written = row.remote.as_deref();
            match api.call(&request::comment(kind, name, pull, written, &text)).await {
                Ok(answer) => Ok(request::id_of(&answer).or_else(|| row.remote.clone())),
                // Somebody deleted the comment: write it anew.
                Err(failure) if written.is_some() && !failure.transient => {
                    made(&api, &request::comment(kind, name, pull, None, &text)).await.map(Some)
                }
                Err(failure) => Err(failure),
            }
        }
    }
}

async fn made(api: &Api, asked: &request::ApiRequest) -> Result<String, ApiFailure> {
    let answer = api.call(asked).await?;
    request::id_of(&answer).ok_or_else(|| ApiFailure {
        problem: Problem::new(berth_schemas::Code::Unavailable, "The forge's answer has no id."),
        transient: false,
        after: None,
    })
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
