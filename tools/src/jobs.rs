//! Jobs: what runs in the background besides deployments.

use berth_schemas::{
    Problem, Scope,
    job::{JobDetail, JobGet, JobHandle},
};
use berth_store::model::JobRow;

use crate::{
    follow,
    registry::{Brief, Call, Hints, Method, Spec, Tier, Tool},
    text::Text,
};

pub(crate) fn tools() -> Vec<Tool> {
    vec![Tool::new(
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
    )]
}

async fn get(call: Call, input: JobGet) -> Result<JobDetail, Problem> {
    let wait = follow::wait(input.wait_s, 0)?;
    let Some(mut row) = call.context.store.jobs().get(&call.principal.visible, &input.job).await? else {
        let none = Problem::new(berth_schemas::Code::NotFound, format!("There is no job {}.", input.job));
        return Err(Problem { field: Some("job".into()), ..none }
            .hint("Use the id as the tool returned it; for deployments use deployment_get."));
    };
    if !row.state.is_final() && !wait.is_zero() {
        row = call.context.pipeline.wait_job(&row.id, wait).await?;
    }
    Ok(JobDetail {
        waits_for: call.context.pipeline.job_waits_for(&row).await?,
        job: row.id,
        kind: row.kind,
        app: row.app,
        environment: row.environment,
        state: row.state,
        message: row.message,
        problem: row.problem,
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
        text = text.say_if(self.problem.as_ref().map(|p| format!("\nFailed ({}): {p}", p.code.as_str())));
        if !self.state.is_final() {
            text =
                text.say(format!("\nCall job_get(job={:?}, wait_s=50) until it is over.", self.job.as_str()));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_read_well() {
        assert_eq!(super::size(999), "999 B");
        assert_eq!(super::size(1_500), "1.5 kB");
        assert_eq!(super::size(2_340_000_000), "2.3 GB");
    }
}
