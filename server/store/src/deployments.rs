//! Deployments: the queue, the states and what is known of each attempt.
//!
//! A state changes only by [`Deployments::transition`] or the calls of `switch.rs`, all of which ask
//! `DeploymentState::can_become`, compare with the state that the caller believed in, and write the history
//! row and the event in the same transaction.

use berth_schemas::{
    DeploymentRef, Timestamp, Untrusted,
    deployment::{DeploymentState, Transition},
};
use serde_json::{Value, json};
use sqlx::{Row, any::AnyRow};

use crate::{
    database::{assembled, storable, visible},
    error::{Result, StoreError},
    model::{
        AppId, Change, DeploymentId, DeploymentRow, DeploymentSource, EnvironmentId, NewDeployment, NewEvent,
        Principal, ReleaseId, Visible,
    },
    row, sameness,
    store::Inner,
    write::Write,
};

const SELECT: &str = "SELECT d.id, d.app_id, a.slug AS app, d.environment_id, e.name AS environment, d.number,
    d.state, d.source, d.release_id, d.commit_sha, d.message, d.requested_by, d.no_cache, d.build_plan, d.problem,
    d.warnings, d.cancel_requested, d.rollout, d.promote_requested, d.attempt, d.created_at, d.finished_at
    FROM deployments d JOIN apps a ON a.id = d.app_id JOIN environments e ON e.id = d.environment_id";

/// Most deployments in a page.
const MAX_PAGE: i64 = 500;
/// Warnings kept for a deployment.
const MAX_WARNINGS: usize = 50;
/// Longest message, reason or warning in bytes.
const MAX_TEXT: usize = 1024;

/// Deployments of a [`crate::Store`].
#[derive(Clone, Copy)]
pub struct Deployments<'a>(pub(crate) &'a Inner);

impl Deployments<'_> {
    /// Puts a deployment in the queue, numbered next within its app.
    ///
    /// # Errors
    /// When the app or the environment does not exist, or the app is being deleted.
    pub async fn enqueue(self, new: NewDeployment) -> Result<DeploymentRow> {
        let mut write = Write::begin(self.0).await?;
        let deployment = insert(&mut write, &new).await?;
        write.commit().await?;
        Ok(deployment)
    }

    /// The deployment with this id, for the daemon's own use.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn get(self, id: DeploymentId) -> Result<Option<DeploymentRow>> {
        let sql = format!("{SELECT} WHERE d.id = $1");
        let row = sqlx::query(assembled(sql)).bind(id.0).fetch_optional(self.0.read()).await?;
        row.as_ref().map(from_row).transpose()
    }

    /// The deployment of this name, or the app's newest if no number is given, if it may be seen.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn by_ref(self, view: &Visible, name: &DeploymentRef) -> Result<Option<DeploymentRow>> {
        let which = if name.number.is_some() { "d.number = $2" } else { "d.number >= $2" };
        let sql = format!(
            "{SELECT} WHERE a.slug = $1 AND {which} AND {} ORDER BY d.number DESC LIMIT 1",
            visible(view, "a.project_id")
        );
        let row = sqlx::query(assembled(sql))
            .bind(name.app.as_str().to_owned())
            .bind(name.number.unwrap_or(0))
            .fetch_optional(self.0.read())
            .await?;
        row.as_ref().map(from_row).transpose()
    }

    /// Deployments of an app, newest first, with numbers below `before`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list(
        self,
        app: AppId,
        state: Option<DeploymentState>,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<DeploymentRow>> {
        self.list_in(app, None, state, before, limit).await
    }

    /// The same of one environment.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list_in(
        self,
        app: AppId,
        environment: Option<EnvironmentId>,
        state: Option<DeploymentState>,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<DeploymentRow>> {
        let which = if state.is_some() { "d.state = $3" } else { "d.state <> $3" };
        let place = environment.map_or_else(String::new, |e| format!("AND d.environment_id = {}", e.0));
        let sql = format!(
            "{SELECT} WHERE d.app_id = $1 AND d.number < $2 AND {which} {place}
             ORDER BY d.number DESC LIMIT $4"
        );
        let rows = sqlx::query(assembled(sql))
            .bind(app.0)
            .bind(before.unwrap_or(i64::MAX))
            .bind(state.map_or("", DeploymentState::as_str))
            .bind(limit.clamp(1, MAX_PAGE))
            .fetch_all(self.0.read())
            .await?;
        rows.iter().map(from_row).collect()
    }

    /// What waits for an environment, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn queued(self, environment: EnvironmentId) -> Result<Vec<DeploymentRow>> {
        let sql = format!("{SELECT} WHERE d.environment_id = $1 AND d.state = 'queued' ORDER BY d.id");
        let rows = sqlx::query(assembled(sql)).bind(environment.0).fetch_all(self.0.read()).await?;
        rows.iter().map(from_row).collect()
    }

    /// All deployments that are not over, of all apps, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn unsettled(self) -> Result<Vec<DeploymentRow>> {
        let sql = format!("{SELECT} WHERE d.state IN ({}) ORDER BY d.id", unsettled_states());
        let rows = sqlx::query(assembled(sql)).fetch_all(self.0.read()).await?;
        rows.iter().map(from_row).collect()
    }

    /// Takes a deployment from one state to another, with the reason and the problem of `change`.
    ///
    /// Going to `live`, `switching → draining` and rolling back also move what is live: use
    /// [`Deployments::finish_live`], [`Deployments::switch_live`] and [`Deployments::roll_back`] for them.
    ///
    /// # Errors
    /// `IllegalTransition` when no deployment may take this step, `Stale` when this one is no longer in
    /// `expected`.
    pub async fn transition(
        self,
        id: DeploymentId,
        expected: DeploymentState,
        to: DeploymentState,
        change: Change,
    ) -> Result<DeploymentRow> {
        let mut write = Write::begin(self.0).await?;
        let deployment = advance(&mut write, id, expected, to, &change, None).await?;
        write.commit().await?;
        Ok(deployment)
    }

    /// The states that a deployment went through, oldest first, and how long it stayed in each.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn transitions(self, id: DeploymentId) -> Result<Vec<Transition>> {
        let rows =
            sqlx::query("SELECT state, reason, at FROM transitions WHERE deployment_id = $1 ORDER BY id")
                .bind(id.0)
                .fetch_all(self.0.read())
                .await?;
        let mut steps: Vec<Transition> = Vec::with_capacity(rows.len());
        for r in &rows {
            let at = row::time(r, "at")?;
            if let Some(last) = steps.last_mut() {
                // A clock that was set back makes no negative durations.
                last.ms = Some(at.millis_since(last.at).max(0));
            }
            let state = row::word(r, "transitions", "state", DeploymentState::parse)?;
            steps.push(Transition {
                state,
                at,
                ms: None,
                reason: Untrusted::maybe(r.try_get::<Option<String>, _>("reason")?),
            });
        }
        Ok(steps)
    }

    /// Notes the commit that was fetched, and its message where the caller gave none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_commit(self, id: DeploymentId, sha: &str, message: Option<&str>) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        sqlx::query("UPDATE deployments SET commit_sha = $1, message = COALESCE(message, $2) WHERE id = $3")
            .bind(storable(sha, 64))
            .bind(message.map(|m| storable(m, MAX_TEXT)))
            .bind(id.0)
            .execute(write.conn())
            .await?;
        write.commit().await
    }

    /// Notes the build plan.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_plan(self, id: DeploymentId, plan: &Value) -> Result<()> {
        let plan = row::to_json("deployments", "build_plan", plan)?;
        let mut write = Write::begin(self.0).await?;
        sqlx::query("UPDATE deployments SET build_plan = $1 WHERE id = $2")
            .bind(plan)
            .bind(id.0)
            .execute(write.conn())
            .await?;
        write.commit().await
    }

    /// Adds a warning, unless it is there already or there are 50.
    ///
    /// # Errors
    /// When the deployment does not exist.
    pub async fn add_warning(self, id: DeploymentId, text: &str) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        let mut warnings = get(&mut write, id).await?.warnings;
        let text = storable(text, MAX_TEXT);
        if warnings.contains(&text) || warnings.len() >= MAX_WARNINGS {
            return Ok(());
        }
        warnings.push(text);
        sqlx::query("UPDATE deployments SET warnings = $1 WHERE id = $2")
            .bind(row::to_json("deployments", "warnings", &warnings)?)
            .bind(id.0)
            .execute(write.conn())
            .await?;
        write.commit().await
    }

    /// Asks for cancellation; whoever works on it sees that and stops. Asking twice is no error.
    ///
    /// # Errors
    /// `IllegalTransition` when it can no longer be cancelled.
    pub async fn request_cancel(self, id: DeploymentId, by: &str) -> Result<DeploymentRow> {
        let mut write = Write::begin(self.0).await?;
        let deployment = get(&mut write, id).await?;
        if !deployment.state.is_cancellable() {
            let to = DeploymentState::Cancelled;
            return Err(StoreError::IllegalTransition { from: deployment.state, to });
        }
        if deployment.cancel_requested {
            return Ok(deployment);
        }
        sqlx::query("UPDATE deployments SET cancel_requested = 1 WHERE id = $1")
            .bind(id.0)
            .execute(write.conn())
            .await?;
        let name = deployment.reference();
        let event = NewEvent {
            kind: "deployment.cancel_requested",
            by: by.to_owned(),
            app: Some(deployment.app_id),
            summary: format!("Cancellation of {name} was requested."),
            data: json!({ "deployment": name }),
        };
        write.event(event).await?;
        let deployment = get(&mut write, id).await?;
        write.commit().await?;
        Ok(deployment)
    }

    /// Notes the release that a deployment made or brings back.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_release(self, id: DeploymentId, release: ReleaseId) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        sqlx::query("UPDATE deployments SET release_id = $1 WHERE id = $2")
            .bind(release.0)
            .bind(id.0)
            .execute(write.conn())
            .await?;
        write.commit().await
    }

    /// Counts a beginning of the work and returns how many there were.
    ///
    /// # Errors
    /// When the deployment does not exist.
    pub async fn bump_attempt(self, id: DeploymentId) -> Result<i64> {
        let mut write = Write::begin(self.0).await?;
        let row = sqlx::query("UPDATE deployments SET attempt = attempt + 1 WHERE id = $1 RETURNING attempt")
            .bind(id.0)
            .fetch_optional(write.conn())
            .await?
            .ok_or_else(|| StoreError::not_found("deployment", id.0))?;
        let attempt = row.try_get("attempt")?;
        write.commit().await?;
        Ok(attempt)
    }

    /// Takes back a count of [`Deployments::bump_attempt`].
    ///
    /// # Errors
    /// When the database fails.
    pub async fn uncount_attempt(self, id: DeploymentId) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        sqlx::query("UPDATE deployments SET attempt = attempt - 1 WHERE id = $1 AND attempt > 0")
            .bind(id.0)
            .execute(write.conn())
            .await?;
        write.commit().await
    }
}

/// Puts a deployment in the queue within a write.
pub(crate) async fn insert(write: &mut Write<'_>, new: &NewDeployment) -> Result<DeploymentRow> {
    let app = sqlx::query(
        "UPDATE apps SET last_number = last_number + 1 WHERE id = $1 AND deleting = 0
         AND EXISTS (SELECT 1 FROM environments e WHERE e.id = $2 AND e.app_id = apps.id AND e.deleting = 0)
         RETURNING last_number",
    )
    .bind(new.app.0)
    .bind(new.environment.0)
    .fetch_optional(write.conn())
    .await?;
    let Some(app) = app else { return Err(cannot_enqueue(write, new).await?) };
    let upload = match &new.source {
        DeploymentSource::Upload { upload, .. } | DeploymentSource::Files { upload, .. } => {
            Some(upload.as_str().to_owned())
        }
        _ => None,
    };
    let id: i64 = sqlx::query(
        "INSERT INTO deployments (app_id, environment_id, number, state, source, upload_id, message,
             requested_by, no_cache, source_key, created_at, rollout, commit_sha)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) RETURNING id",
    )
    .bind(new.app.0)
    .bind(new.environment.0)
    .bind(app.try_get::<i64, _>("last_number")?)
    .bind(DeploymentState::Queued.as_str())
    .bind(row::to_json("deployments", "source", &new.source)?)
    .bind(upload)
    .bind(new.message.as_deref().map(|m| storable(m, MAX_TEXT)))
    .bind(new.by.clone())
    .bind(i64::from(new.no_cache))
    .bind(new.key.as_ref().map(sameness::text))
    .bind(write.now.0)
    .bind(new.rollout.as_ref().map(|r| row::to_json("deployments", "rollout", r)).transpose()?)
    .bind(new.source.commit().map(str::to_owned))
    .fetch_one(write.conn())
    .await?
    .try_get("id")?;
    let deployment = get(write, DeploymentId(id)).await?;
    record(write, &deployment, &new.by, None).await?;
    Ok(deployment)
}

/// Why nothing could be enqueued.
async fn cannot_enqueue(write: &mut Write<'_>, new: &NewDeployment) -> Result<StoreError> {
    let row = sqlx::query("SELECT slug, deleting FROM apps WHERE id = $1")
        .bind(new.app.0)
        .fetch_optional(write.conn())
        .await?;
    Ok(match row {
        Some(row) if row::flag(&row, "deleting")? => StoreError::conflict(
            format!("app {} is being deleted", row.try_get::<String, _>("slug")?),
            "Wait for its deletion to end, then create it anew.",
        ),
        Some(_) => StoreError::not_found("environment", new.environment.0),
        None => StoreError::not_found("app", new.app.0),
    })
}

/// The unsettled states as an SQL list.
pub(crate) fn unsettled_states() -> String {
    let names: Vec<String> = DeploymentState::ALL
        .into_iter()
        .filter(|s| !s.is_settled())
        .map(|s| format!("'{}'", s.as_str()))
        .collect();
    names.join(", ")
}

/// Reads a deployment within a write.
pub(crate) async fn get(write: &mut Write<'_>, id: DeploymentId) -> Result<DeploymentRow> {
    let sql = format!("{SELECT} WHERE d.id = $1");
    let row = sqlx::query(assembled(sql)).bind(id.0).fetch_optional(write.conn()).await?;
    row.as_ref().map(from_row).transpose()?.ok_or_else(|| StoreError::not_found("deployment", id.0))
}

/// Changes a deployment's state within a write: the one place that does.
pub(crate) async fn advance(
    write: &mut Write<'_>,
    id: DeploymentId,
    expected: DeploymentState,
    to: DeploymentState,
    change: &Change,
    by: Option<&str>,
) -> Result<DeploymentRow> {
    if !expected.can_become(to) {
        return Err(StoreError::IllegalTransition { from: expected, to });
    }
    let problem = change.problem.as_ref().map(|p| row::to_json("deployments", "problem", p)).transpose()?;
    let settled: Option<Timestamp> = to.is_settled().then_some(write.now);
    // A deployment that was live is over already: what follows does not move its end.
    let done = sqlx::query(
        "UPDATE deployments SET state = $1, problem = COALESCE($2, problem),
             finished_at = COALESCE(finished_at, $3) WHERE id = $4 AND state = $5",
    )
    .bind(to.as_str())
    .bind(problem)
    .bind(settled.map(|t| t.0))
    .bind(id.0)
    .bind(expected.as_str())
    .execute(write.conn())
    .await?
    .rows_affected();
    let deployment = get(write, id).await?;
    if done == 0 {
        return Err(StoreError::Stale {
            what: deployment.reference().to_string(),
            expected: expected.as_str().into(),
            found: deployment.state.as_str().into(),
        });
    }
    let daemon = Principal::daemon().name;
    record(write, &deployment, by.unwrap_or(&daemon), change.reason.as_deref()).await?;
    Ok(deployment)
}

/// Writes the history row and the event for the state that a deployment has entered.
async fn record(write: &mut Write<'_>, d: &DeploymentRow, by: &str, reason: Option<&str>) -> Result<()> {
    let reason = reason.map(|r| storable(r, MAX_TEXT));
    sqlx::query("INSERT INTO transitions (deployment_id, state, reason, at) VALUES ($1, $2, $3, $4)")
        .bind(d.id.0)
        .bind(d.state.as_str())
        .bind(reason.clone())
        .bind(write.now.0)
        .execute(write.conn())
        .await?;
    let name = d.reference();
    let problem = d.problem.as_ref().filter(|_| d.state == DeploymentState::Failed);
    let because = reason.as_deref().or(problem.map(|p| p.detail.as_str()));
    let summary = match because {
        Some(because) => format!("{name} {}: {because}", phrase(d.state)),
        None => format!("{name} {}.", phrase(d.state)),
    };
    let event = NewEvent {
        kind: event_kind(d.state),
        by: by.to_owned(),
        app: Some(d.app_id),
        summary,
        data: json!({
            "deployment": name, "environment": d.environment, "state": d.state,
            "reason": reason, "code": problem.map(|p| p.code),
        }),
    };
    write.event(event).await?;
    Ok(())
}

fn event_kind(state: DeploymentState) -> &'static str {
    use DeploymentState as S;
    match state {
        S::Queued => "deployment.queued",
        S::Fetching => "deployment.fetching",
        S::Building => "deployment.building",
        S::Starting => "deployment.starting",
        S::Checking => "deployment.checking",
        S::RollingOut => "deployment.rolling_out",
        S::Switching => "deployment.switching",
        S::Draining => "deployment.draining",
        S::Live => "deployment.live",
        S::Failed => "deployment.failed",
        S::Cancelled => "deployment.cancelled",
        S::Superseded => "deployment.superseded",
        S::RolledBack => "deployment.rolled_back",
        S::Retired => "deployment.retired",
    }
}

fn phrase(state: DeploymentState) -> &'static str {
    use DeploymentState as S;
    match state {
        S::Queued => "is queued",
        S::Fetching => "is fetching its source",
        S::Building => "is building",
        S::Starting => "is starting",
        S::Checking => "is being checked",
        S::RollingOut => "gets a part of the traffic",
        S::Switching => "is getting the traffic",
        S::Draining => "has the traffic; earlier requests are finishing",
        S::Live => "is live",
        S::Failed => "failed",
        S::Cancelled => "was cancelled",
        S::Superseded => "was superseded",
        S::RolledBack => "was rolled back",
        S::Retired => "was retired",
    }
}

fn from_row(r: &AnyRow) -> Result<DeploymentRow> {
    Ok(DeploymentRow {
        id: DeploymentId(r.try_get("id")?),
        app_id: AppId(r.try_get("app_id")?),
        app: row::name(r, "apps", "app")?,
        environment_id: EnvironmentId(r.try_get("environment_id")?),
        environment: row::name(r, "environments", "environment")?,
        number: r.try_get("number")?,
        state: row::word(r, "deployments", "state", DeploymentState::parse)?,
        source: row::json(r, "deployments", "source")?,
        release: r.try_get::<Option<i64>, _>("release_id")?.map(ReleaseId),
        commit: r.try_get("commit_sha")?,
        message: r.try_get("message")?,
        by: r.try_get("requested_by")?,
        no_cache: row::flag(r, "no_cache")?,
        plan: row::json_opt(r, "deployments", "build_plan")?,
        problem: row::problem(r, "deployments", "problem")?,
        warnings: row::json(r, "deployments", "warnings")?,
        cancel_requested: row::flag(r, "cancel_requested")?,
        rollout: row::json_opt(r, "deployments", "rollout")?,
        promote_requested: row::flag(r, "promote_requested")?,
        attempt: r.try_get("attempt")?,
        created_at: row::time(r, "created_at")?,
        finished_at: row::time_opt(r, "finished_at")?,
    })
}
