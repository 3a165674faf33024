//! Jobs: durable units of work other than deployments. They outlive the app that they work on.

use berth_schemas::{
    Problem,
    ids::JobId,
    job::{JobKind, JobState},
};
use serde_json::{Value, json};
use sqlx::{Row, any::AnyRow};

use crate::{
    database::{assembled, storable, visible},
    error::{Result, StoreError},
    model::{AppId, EnvironmentId, JobRow, NewEvent, Principal, ProjectId, Visible},
    row,
    store::Inner,
    write::Write,
};

const SELECT: &str =
    "SELECT id, kind, app_id, app, project_id, environment_id, environment, input, state, message,
    problem, requested_by, created_at, started_at, finished_at FROM jobs";
const MAX_TEXT: usize = 1024;

/// Jobs of a [`crate::Store`].
#[derive(Clone, Copy)]
pub struct Jobs<'a>(pub(crate) &'a Inner);

impl Jobs<'_> {
    /// Puts a job in the queue: on an app in one environment, on an app as a whole, or on neither.
    ///
    /// # Errors
    /// When the app or the environment does not exist.
    pub async fn enqueue(
        self,
        kind: JobKind,
        app: Option<AppId>,
        environment: Option<EnvironmentId>,
        input: Value,
        by: &str,
    ) -> Result<JobRow> {
        let mut write = Write::begin(self.0).await?;
        let id = uuid::Uuid::now_v7().to_string();
        let of = match app {
            None => None,
            Some(app) => Some(
                sqlx::query("SELECT slug, project_id FROM apps WHERE id = $1")
                    .bind(app.0)
                    .fetch_optional(write.conn())
                    .await?
                    .ok_or_else(|| StoreError::not_found("app", app.0))?,
            ),
        };
        let place = match environment {
            None => None,
            Some(environment) => Some(crate::apps::of_environment(&mut write, environment).await?),
        };
        // Jobs are done in this order, so that it must hold even if the clock was set back.
        let waiting =
            "SELECT COALESCE(MAX(created_at), 0) AS newest FROM jobs WHERE state IN ('queued', 'running')";
        let at = write.later_than(waiting, None).await?;
        let slug: Option<String> = of.as_ref().map(|r| r.try_get("slug")).transpose()?;
        let project: Option<i64> = of.as_ref().map(|r| r.try_get("project_id")).transpose()?;
        sqlx::query(
            "INSERT INTO jobs (id, kind, app_id, app, project_id, input, state, requested_by, created_at,
                 environment_id, environment)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        )
        .bind(id.clone())
        .bind(kind.as_str())
        .bind(app.map(|a| a.0))
        .bind(slug)
        .bind(project)
        .bind(row::to_json("jobs", "input", &input)?)
        .bind(JobState::Queued.as_str())
        .bind(by.to_owned())
        .bind(at.0)
        .bind(environment.map(|e| e.0))
        .bind(place.map(|p| p.environment.name.to_string()))
        .execute(write.conn())
        .await?;
        let job = get(&mut write, &id).await?;
        record(&mut write, &job, by).await?;
        write.commit().await?;
        Ok(job)
    }

    /// The job with this id, if it may be seen.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn get(self, view: &Visible, id: &JobId) -> Result<Option<JobRow>> {
        let sql = format!("{SELECT} WHERE id = $1 AND {}", visible(view, "project_id"));
        let row =
            sqlx::query(assembled(sql)).bind(id.as_str().to_owned()).fetch_optional(self.0.read()).await?;
        row.as_ref().map(from_row).transpose()
    }

    /// Jobs that are queued or running, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn unfinished(self) -> Result<Vec<JobRow>> {
        let sql = format!("{SELECT} WHERE state IN ('queued', 'running') ORDER BY created_at, id");
        let rows = sqlx::query(assembled(sql)).fetch_all(self.0.read()).await?;
        rows.iter().map(from_row).collect()
    }

    /// Takes a job from one state to another. A message or problem of `None` leaves what is there.
    ///
    /// # Errors
    /// `IllegalJobTransition` when no job may take this step, `Stale` when it is no longer in `from`.
    pub async fn transition(
        self,
        id: &JobId,
        from: JobState,
        to: JobState,
        message: Option<String>,
        problem: Option<Problem>,
    ) -> Result<JobRow> {
        if !from.can_become(to) {
            return Err(StoreError::IllegalJobTransition { from, to });
        }
        let problem = problem.as_ref().map(|p| row::to_json("jobs", "problem", p)).transpose()?;
        let mut write = Write::begin(self.0).await?;
        let now = write.now.0;
        let done = sqlx::query(
            // What forgets a person does not remember who it was.
            "UPDATE jobs SET state = $1, message = COALESCE($2, message), problem = COALESCE($3, problem),
                 input = CASE WHEN kind = 'erase_user' AND $5 > 0 THEN 'null' ELSE input END,
                 started_at = COALESCE(started_at, $4), finished_at = $5 WHERE id = $6 AND state = $7",
        )
        .bind(to.as_str())
        .bind(message.map(|m| storable(&m, MAX_TEXT)))
        .bind(problem)
        .bind((to == JobState::Running).then_some(now))
        .bind(to.is_final().then_some(now))
        .bind(id.as_str().to_owned())
        .bind(from.as_str())
        .execute(write.conn())
        .await?
        .rows_affected();
        let job = get(&mut write, id.as_str()).await?;
        if done == 0 {
            return Err(StoreError::Stale {
                what: format!("job {id}"),
                expected: from.as_str().into(),
                found: job.state.as_str().into(),
            });
        }
        record(&mut write, &job, &Principal::daemon().name).await?;
        write.commit().await?;
        Ok(job)
    }

    /// Says what a job is doing.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_message(self, id: &JobId, message: &str) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        sqlx::query("UPDATE jobs SET message = $1 WHERE id = $2")
            .bind(storable(message, MAX_TEXT))
            .bind(id.as_str().to_owned())
            .execute(write.conn())
            .await?;
        write.commit().await
    }
}

async fn get(write: &mut Write<'_>, id: &str) -> Result<JobRow> {
    let row = sqlx::query(assembled(format!("{SELECT} WHERE id = $1")))
        .bind(id.to_owned())
        .fetch_optional(write.conn())
        .await?;
    row.as_ref().map(from_row).transpose()?.ok_or_else(|| StoreError::not_found("job", id))
}

async fn record(write: &mut Write<'_>, job: &JobRow, by: &str) -> Result<()> {
    let kind = match job.state {
        JobState::Queued => "job.queued",
        JobState::Running => "job.running",
        JobState::Succeeded => "job.succeeded",
        JobState::Failed => "job.failed",
        JobState::Cancelled => "job.cancelled",
    };
    let of = job.title().map(|title| format!(" of {title}")).unwrap_or_default();
    let why = job.problem.as_ref().filter(|_| job.state == JobState::Failed);
    let why = why.map(|p| format!(": {}", p.detail)).unwrap_or_else(|| ".".into());
    let event = NewEvent {
        kind,
        by: by.to_owned(),
        app: job.app_id,
        summary: format!("Job {}{of} is {}{why}", job.kind.as_str(), job.state.as_str()),
        data: json!({ "job": job.id, "kind": job.kind, "environment": job.environment }),
    };
    match job.project_id {
        Some(project) => write.event_in(project, job.app.clone(), event).await?,
        None => write.event(event).await?,
    };
    Ok(())
}

fn from_row(r: &AnyRow) -> Result<JobRow> {
    let app: Option<String> = r.try_get("app")?;
    let app = app.map(|a| a.parse().map_err(|_| StoreError::corrupt("jobs", "app", &a))).transpose()?;
    let environment: Option<String> = r.try_get("environment")?;
    Ok(JobRow {
        id: row::name(r, "jobs", "id")?,
        kind: row::word(r, "jobs", "kind", JobKind::parse)?,
        app_id: r.try_get::<Option<i64>, _>("app_id")?.map(AppId),
        app,
        project_id: r.try_get::<Option<i64>, _>("project_id")?.map(ProjectId),
        environment_id: r.try_get::<Option<i64>, _>("environment_id")?.map(EnvironmentId),
        environment: environment
            .map(|e| e.parse().map_err(|_| StoreError::corrupt("jobs", "environment", &e)))
            .transpose()?,
        input: row::json(r, "jobs", "input")?,
        state: row::word(r, "jobs", "state", JobState::parse)?,
        message: r.try_get("message")?,
        problem: row::problem(r, "jobs", "problem")?,
        by: r.try_get("requested_by")?,
        created_at: row::time(r, "created_at")?,
        started_at: row::time_opt(r, "started_at")?,
        finished_at: row::time_opt(r, "finished_at")?,
    })
}
