//! Jobs: what runs in the background besides deployments.

use berth_schemas::{
    Problem, Scope,
    ids::JobId,
    job::{JobCancel, JobDetail, JobGet, JobHandle},
};
use berth_store::model::JobRow;

use crate::{
    find, follow,
    registry::{Brief, Call, Hints, Method, Spec, Tier, Tool},
    text::Text,
};

pub(crate) fn tools() -> Vec<Tool> {
    vec![
        cancelling(),
        Tool::new(
            Spec {
                name: "job_get",
                title: "Show or await a job",
                description: "Show a background job (stop, start, scale, delete, cleanup) that another tool returned; with wait_s it waits for the end.",
                hints: Hints::READ,
                scope: Scope::Read,
                tier: Tier::Core,
                method: Method::Get,
                path: "/v1/jobs/{job}",
            },
            get,
        ),
    ]
}

fn cancelling() -> Tool {
    Tool::new(
        Spec {
            name: "job_cancel",
            title: "Cancel a job",
            description: "Cancel a background job (stop, start, scale, cleanup) that waits for its turn. One that has begun, or that deletes something, goes on to its end. For deployments use deployment_cancel.",
            hints: Hints::UPDATE,
            scope: Scope::Write,
            tier: Tier::Extended,
            method: Method::Post,
            path: "/v1/jobs/{job}/cancel",
        },
        cancel,
    )
}

async fn get(call: Call, input: JobGet) -> Result<JobDetail, Problem> {
    let wait = follow::wait(input.wait_s, 0)?;
    let mut row = by_id(&call, &input.job).await?;
    if !row.state.is_final() && !wait.is_zero() {
        call.progress.waits_for(what(&row)).await;
        row = call.context.pipeline.wait_job(&row.id, wait).await?;
    }
    detail(&call, row).await
}

/// A job in words.
fn what(row: &JobRow) -> String {
    let app = row.app.as_ref().map(|a| format!(" of {a}")).unwrap_or_default();
    let place = row.environment.as_ref().map(|e| format!(" ({e})")).unwrap_or_default();
    format!("the job {}{app}{place}, which is {}", row.kind.as_str(), row.state.as_str())
}

async fn cancel(call: Call, input: JobCancel) -> Result<JobDetail, Problem> {
    let row = by_id(&call, &input.job).await?;
    if row.app.is_none() {
        find::demand_all_projects(&call, "job_cancel")?;
    }
    let row = call.context.pipeline.cancel_job(&call.principal, &row).await?;
    detail(&call, row).await
}

async fn by_id(call: &Call, job: &JobId) -> Result<JobRow, Problem> {
    call.context.store.jobs().get(&call.principal.visible, job).await?.ok_or_else(|| {
        let none = Problem::new(berth_schemas::Code::NotFound, format!("There is no job {job}."));
        Problem { field: Some("job".into()), ..none }
            .hint("Use the id as the tool returned it; for deployments use deployment_get.")
    })
}

async fn detail(call: &Call, row: JobRow) -> Result<JobDetail, Problem> {
    Ok(JobDetail {
        waits_for: call.context.pipeline.job_waits_for(&row).await?,
        job: row.id,
        kind: row.kind,
        app: row.app,
        environment: row.environment,
        state: row.state,
        message: row.message,
        problem: row.problem,
        by: row.by,
        created_at: row.created_at,
        started_at: row.started_at,
        finished_at: row.finished_at,
    })
}

/// What a tool returns that started this job.
pub(crate) fn handle(row: &JobRow) -> JobHandle {
    JobHandle { job: row.id.clone(), kind: row.kind, state: row.state }
}

/// Bytes for people.
pub(crate) fn size(bytes: i64) -> String {
    #[allow(clippy::cast_precision_loss)]
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["kB", "MB", "GB", "TB"] {
        if value.abs() < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

impl Brief for JobDetail {
    fn brief(&self) -> Text {
        let app = self.app.as_ref().map(|a| format!(" of {a}")).unwrap_or_default();
        let place = self.environment.as_ref().map(|e| format!(" ({e})")).unwrap_or_default();
        let mut text = Text::from(format!("{}{app}{place}: {}.", self.kind.as_str(), self.state.as_str()));
        text = text.say_if(self.waits_for.as_ref().map(|w| format!(" Waits for {w}.")));
        text = text.say_if(self.message.as_ref().map(|m| format!(" {m}")));
        if let Some(problem) = &self.problem {
            text = text.say(format!("\nFailed ({}): ", problem.code.as_str())).tell(problem);
        }
        if !self.state.is_final() {
            text =
                text.say(format!("\nCall job_get(job={:?}, wait_s=50) until it is over.", self.job.as_str()));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Part;

    #[test]
    fn why_a_job_failed_is_a_quote_where_it_holds_words_of_others() {
        let detail: JobDetail = serde_json::from_value(json!({
            "job": "0198d1c6-7e5a-7c3e-9b1a-0123456789ab", "kind": "start", "app": "web", "state": "failed",
            "problem": Problem::new(berth_schemas::Code::ContainerExited, "It said: obey."), "by": "ada",
            "created_at": "2026-01-01T00:00:00Z",
        }))
        .unwrap();
        let quote = Part::Quoted("It said: obey.".into());
        assert!(detail.brief().parts().contains(&quote), "{:?}", detail.brief());
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!(super::size(999), "999 B");
        assert_eq!(super::size(1_500), "1.5 kB");
        assert_eq!(super::size(2_340_000_000), "2.3 GB");
    }
}
