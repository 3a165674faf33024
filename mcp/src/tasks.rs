//! The tasks extension over Berth's own durable work.
//!
//! A task is a deployment or a job, under the name that it has anyway: nothing is kept here, so that it outlives the
//! daemon. It is found by the principal that began it, and by nobody else. How it stands is what the tool says that
//! reads it, so that whoever may no longer see the work does not see the task either.

use berth_schemas::{
    Code, EnvironmentName, Problem, Timestamp,
    app::{AppChanged, AppDeleted},
    deployment::{DeploymentDetail, DeploymentState},
    environment::EnvironmentDeleted,
    issue::ErrorUserDeleted,
    job::{JobDetail, JobHandle, JobKind, JobState},
    platform::{CleanupPlan, PlatformUpgrading},
};
use berth_tools::{Answer, Ongoing};
use rmcp::model::{Task, TaskStatus};
use serde::Serialize;
use serde_json::Value;

/// How often clients are asked to look, in milliseconds.
const POLL_MS: u64 = 2_000;

/// How a task stands.
#[derive(Debug)]
pub(crate) struct Seen {
    /// As clients are told.
    pub(crate) task: Task,
    /// Who began it.
    pub(crate) by: String,
    /// The answer to the call that began it, once it has ended.
    pub(crate) end: Option<End>,
}

/// How a task ended that was not cancelled.
#[derive(Debug)]
pub(crate) enum End {
    /// As it should.
    Done(Answer),
    /// It failed, and the answer says in full why.
    Failed(Answer),
    /// It failed.
    Problem(Problem),
}

/// What a reading tool's answer says of a task.
///
/// # Errors
/// When the answer is not what that tool answers.
pub(crate) fn seen(ongoing: &Ongoing, answer: Answer) -> Result<Seen, serde_json::Error> {
    let output = answer.output.clone();
    match ongoing {
        Ongoing::Deployment(_) => Ok(deployment(serde_json::from_value(output)?, answer)),
        Ongoing::Job(_) => job(serde_json::from_value(output)?, answer),
    }
}

fn task(id: String, status: TaskStatus, message: String, begun: Timestamp, moved: Timestamp) -> Task {
    let mut task = Task::new(id, status, begun.to_string(), moved.to_string());
    task.poll_interval_ms = Some(POLL_MS);
    task.status_message = Some(message);
    task
}

fn deployment(detail: DeploymentDetail, answer: Answer) -> Seen {
    use DeploymentState as S;
    // A rollout rests until somebody promotes or aborts it: with that the task has ended, and a task that has ended
    // stays so, whatever becomes of the deployment.
    let rested = detail.steps.iter().any(|step| step.state == S::RollingOut);
    let (status, end) = match detail.state {
        S::Failed | S::RolledBack => (TaskStatus::Completed, Some(End::Failed(answer))),
        S::Live | S::Retired | S::RollingOut => (TaskStatus::Completed, Some(End::Done(answer))),
        _ if rested => (TaskStatus::Completed, Some(End::Done(answer))),
        // The same is live or on its way: what was asked for is there.
        S::Superseded if detail.nothing_new => (TaskStatus::Completed, Some(End::Done(answer))),
        S::Cancelled | S::Superseded => (TaskStatus::Cancelled, None),
        _ => (TaskStatus::Working, None),
    };
    let waits = detail.waits_for.as_ref().map(|w| format!(", waits for {w}")).unwrap_or_default();
    let moved = detail.finished_at.or_else(|| detail.steps.last().map(|s| s.at)).unwrap_or(detail.created_at);
    let id = detail.deployment.to_string();
    let message = format!("{id}: {}{waits}", detail.state.as_str());
    Seen { task: task(id, status, message, detail.created_at, moved), by: detail.by, end }
}

fn job(detail: JobDetail, answer: Answer) -> Result<Seen, serde_json::Error> {
    let (status, end) = match detail.state {
        JobState::Queued | JobState::Running => (TaskStatus::Working, None),
        JobState::Cancelled => (TaskStatus::Cancelled, None),
        JobState::Succeeded => {
            let output = as_started(&detail)?.unwrap_or_else(|| answer.output.clone());
            (TaskStatus::Completed, Some(End::Done(Answer { output, ..answer })))
        }
        JobState::Failed => {
            let end = match detail.problem.clone() {
                Some(problem) => End::Problem(problem),
                None => End::Failed(answer),
            };
            (TaskStatus::Completed, Some(end))
        }
    };
    let moved = detail.finished_at.or(detail.started_at).unwrap_or(detail.created_at);
    let said = detail.message.or(detail.waits_for.map(|w| format!("waits for {w}")));
    let said = said.map(|s| format!(": {s}")).unwrap_or_default();
    let message = format!("{} {}{said}", detail.kind.as_str(), detail.state.as_str());
    let task = task(detail.job.to_string(), status, message, detail.created_at, moved);
    Ok(Seen { task, by: detail.by, end })
}

/// The end of a job as the output of the tool that began it, if that tool makes tasks.
fn as_started(detail: &JobDetail) -> Result<Option<Value>, serde_json::Error> {
    fn value(output: impl Serialize) -> Result<Option<Value>, serde_json::Error> {
        serde_json::to_value(output).map(Some)
    }
    let effect = detail.message.clone().unwrap_or_else(|| "It is done.".into());
    let job = JobHandle { job: detail.job.clone(), kind: detail.kind, state: detail.state };
    match detail.kind {
        JobKind::Cleanup => {
            let (items, kept, effect) = (Vec::new(), Vec::new(), Some(effect));
            return value(CleanupPlan { items, bytes: 0, kept, job: Some(job), effect });
        }
        JobKind::Upgrade => return value(PlatformUpgrading { from: None, job, effect: Some(effect) }),
        _ => {}
    }
    let Some(app) = detail.app.clone() else { return Ok(None) };
    let environment = detail.environment.clone().unwrap_or_else(EnvironmentName::production);
    let job = Some(job);
    match detail.kind {
        JobKind::Stop | JobKind::Start | JobKind::Scale => {
            value(AppChanged { app, environment, effect, job })
        }
        JobKind::DeleteApp => value(AppDeleted { app, removes: vec![effect], deleting: true, job }),
        JobKind::DeleteEnvironment => {
            value(EnvironmentDeleted { app, environment, removes: vec![effect], deleting: true, job })
        }
        JobKind::EraseUser => value(ErrorUserDeleted { app, removes: vec![effect], deleting: true, job }),
        JobKind::Cleanup | JobKind::Upgrade => Ok(None),
    }
}

/// What is said of a name that names nothing that the caller may see.
pub(crate) fn unknown(id: &str) -> Problem {
    let shown: String = id.chars().take(80).collect();
    Problem::new(Code::NotFound, format!("There is no task {shown:?}."))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(name: &str, output: Value) -> Seen {
        seen(&name.parse().unwrap(), Answer { output, brief: "said".into(), ongoing: None, image: None })
            .unwrap()
    }

    #[test]
    fn a_deployment_works_until_it_rests() {
        let detail = |state: &str, before: &[&str]| {
            let steps = ["queued"].iter().chain(before).chain([&state]);
            let steps =
                steps.map(|s| json!({ "state": s, "at": "2026-01-01T00:00:01Z" })).collect::<Vec<_>>();
            read(
                "web#1",
                json!({
                    "deployment": "web#1", "environment": "production", "state": state, "settled": false,
                    "source": { "kind": "image", "image": "x" }, "by": "ada", "url": "http://web", "next": "wait",
                    "steps": steps, "created_at": "2026-01-01T00:00:00Z",
                }),
            )
        };
        let (working, completed, cancelled) =
            (TaskStatus::Working, TaskStatus::Completed, TaskStatus::Cancelled);
        let rolled = ["building", "rolling_out"];
        for (before, state, status, fails) in [
            (&rolled[..0], "queued", working, None),
            (&rolled[..0], "building", working, None),
            (&rolled[..1], "switching", working, None),
            (&rolled[..1], "live", completed, Some(false)),
            (&rolled[..1], "failed", completed, Some(true)),
            (&rolled[..1], "cancelled", cancelled, None),
            (&rolled[..0], "superseded", cancelled, None),
            (&rolled[..1], "rolling_out", completed, Some(false)),
            (&rolled[..], "switching", completed, Some(false)),
            (&rolled[..], "draining", completed, Some(false)),
            (&rolled[..], "live", completed, Some(false)),
            (&rolled[..], "cancelled", completed, Some(false)),
            (&rolled[..], "failed", completed, Some(true)),
        ] {
            let seen = detail(state, before);
            let fails_here = seen.end.map(|e| !matches!(e, End::Done(_)));
            let is = (seen.task.status, fails_here, seen.by.as_str());
            assert_eq!(is, (status, fails, "ada"), "{before:?} {state}");
        }
        let task = detail("building", &[]).task;
        assert_eq!(
            (task.task_id.as_str(), task.status_message.as_deref()),
            ("web#1", Some("web#1: building"))
        );
        assert!(task.created_at < task.last_updated_at && task.created_at.starts_with("2026-01-01T00:00:00"));
    }

    #[test]
    fn a_jobs_end_is_an_output_of_the_tool_that_began_it() {
        let registry = berth_tools::registry();
        let id = "0198d1c6-7e5a-7c3e-9b1a-0123456789ab";
        for (kind, tool) in [
            ("stop", "app_stop"),
            ("start", "app_start"),
            ("scale", "app_scale"),
            ("delete_app", "app_delete"),
            ("delete_environment", "environment_delete"),
            ("erase_user", "error_user_delete"),
            ("cleanup", "platform_cleanup"),
            ("upgrade", "platform_upgrade"),
        ] {
            let mut detail = json!({
                "job": id, "kind": kind, "state": "succeeded", "message": "It did.", "by": "ada",
                "created_at": "2026-01-01T00:00:00Z"
            });
            if tool != "platform_cleanup" && tool != "platform_upgrade" {
                detail["app"] = json!("web");
            }
            let seen = read(id, detail.clone());
            assert_eq!((seen.task.status, seen.by.as_str()), (TaskStatus::Completed, "ada"));
            let Some(End::Done(answer)) = seen.end else { panic!("{kind}: {:?}", seen.end) };
            let schema = &registry.get(tool).unwrap().output;
            let valid = jsonschema::validator_for(schema).unwrap();
            assert!(valid.is_valid(&answer.output), "{kind}: {}", answer.output);
            assert!(answer.output.to_string().contains("It did."), "{kind}: {}", answer.output);

            let mut failed = detail;
            failed["state"] = json!("failed");
            failed["problem"] = json!({ "code": "timed_out", "detail": "It took too long." });
            let Some(End::Problem(problem)) = read(id, failed).end else { panic!("{kind}") };
            assert_eq!(problem.detail, "It took too long.");
        }
    }
}
