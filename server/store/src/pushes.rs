//! Pushes: what moved in an app's repositories, and what that led to. How they come in and change is in
//! `push_intake.rs`.

use berth_schemas::{
    AppSlug, DeploymentRef, Timestamp, Untrusted,
    push::{GitChange, GitCommits, PushOrigin, PushRules, PushState, PushWishes},
};
use serde::{Deserialize, Serialize};
use sqlx::{Row, any::AnyRow};

use crate::{
    database::assembled,
    error::{Result, StoreError},
    model::{AppId, DeploymentId, DeploymentRow, NewEvent, Principal, PushId},
    row,
    store::Inner,
    write::Write,
};

pub(crate) const SELECT: &str =
    "SELECT p.id, p.app_id, a.slug AS app, p.origin, p.git_change, p.commits, p.source,
    p.wishes, p.default_branch, p.held_before, p.requested_by, p.state, p.outcome, p.attempts, p.try_at,
    p.received_at, p.settled_at FROM pushes p JOIN apps a ON a.id = p.app_id";

/// Most pushes in a page, and most that are looked at in one round of the worker.
const MAX_PAGE: i64 = 500;

/// Where a push can be fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PushSource {
    /// In Berth's own repository of the app.
    Own,
    /// In a repository somewhere else.
    Remote {
        /// Its URL, without credentials.
        url: String,
    },
}

/// A push to be kept.
#[derive(Debug, Clone)]
pub struct NewPush {
    /// The app.
    pub app: AppId,
    /// How Berth came to know of it.
    pub origin: PushOrigin,
    /// What the sender calls this message, so that it is taken once.
    pub delivery: Option<String>,
    /// What moved.
    pub change: GitChange,
    /// What is known of its commits.
    pub commits: GitCommits,
    /// Where it can be fetched.
    pub source: PushSource,
    /// The repository's default branch, where the sender tells it.
    pub default_branch: Option<String>,
    /// What the pusher asked for.
    pub wishes: PushWishes,
    /// Who caused it, as events and deployments name him: a token's name, "webhook", "poll".
    pub by: String,
    /// The branch waits at this commit (empty: does not exist) until the deployments are live.
    pub held_before: Option<String>,
}

impl NewPush {
    /// A push of which nothing more is known than what moved.
    #[must_use]
    pub fn new(app: AppId, origin: PushOrigin, change: GitChange, source: PushSource) -> Self {
        Self {
            app,
            origin,
            delivery: None,
            change,
            commits: GitCommits::default(),
            source,
            default_branch: None,
            wishes: PushWishes::default(),
            by: origin.as_str().to_owned(),
            held_before: None,
        }
    }
}

/// Where the newest push of something led.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The commit; "-" for what is gone.
    pub towards: String,
    /// When it came.
    pub received_at: Timestamp,
}

/// The newest push of everything that moved, by its full name.
pub type Heads = std::collections::BTreeMap<String, Head>;

/// What became of a push that came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// It is kept now.
    New(PushId),
    /// It was known already: the same message, or the same commit as the newest of that branch.
    Known(PushId),
}

impl Received {
    /// The push, new or known.
    #[must_use]
    pub fn id(self) -> PushId {
        match self {
            Self::New(id) | Self::Known(id) => id,
        }
    }
}

/// A push.
#[derive(Debug, Clone, PartialEq)]
pub struct PushRow {
    /// Row id, also the number that is shown.
    pub id: PushId,
    /// The app.
    pub app_id: AppId,
    /// Name of the app.
    pub app: AppSlug,
    /// How Berth came to know of it.
    pub origin: PushOrigin,
    /// What moved.
    pub change: GitChange,
    /// What is known of its commits.
    pub commits: GitCommits,
    /// Where it can be fetched.
    pub source: PushSource,
    /// What the pusher asked for.
    pub wishes: PushWishes,
    /// The repository's default branch, where the sender told it.
    pub default_branch: Option<String>,
    /// The branch waits at this commit (empty: does not exist) until the deployments are live.
    pub held_before: Option<String>,
    /// Who caused it.
    pub by: String,
    /// Where it stands.
    pub state: PushState,
    /// Why it did or did not deploy, or why that is not decided yet.
    pub outcome: Option<String>,
    /// How often deciding was tried in vain.
    pub attempts: i64,
    /// Not to be tried before this.
    pub try_at: Timestamp,
    /// When it came.
    pub received_at: Timestamp,
    /// When it was decided.
    pub settled_at: Option<Timestamp>,
}

impl PushRow {
    /// The full name of what moved.
    #[must_use]
    pub fn moved(&self) -> String {
        self.change.moved()
    }

    /// First line of the head commit's message.
    #[must_use]
    pub fn first_line(&self) -> Option<String> {
        let line = self.commits.message.as_ref()?.0.lines().find(|line| !line.trim().is_empty())?;
        Some(line.trim().to_owned())
    }

    /// Who pushed.
    #[must_use]
    pub fn pusher(&self) -> Untrusted {
        self.commits.pusher.clone().unwrap_or_else(|| Untrusted(self.by.clone()))
    }
}

/// What the newest push of a ref says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnRef {
    /// Full name of the ref.
    pub moved: String,
    /// The commit that it should be at; "-" if it is gone.
    pub towards: String,
    /// It waits for its deployment where it was.
    pub held: bool,
}

/// Pushes of a [`crate::Store`].
#[derive(Clone, Copy)]
pub struct Pushes<'a>(pub(crate) &'a Inner);

impl Pushes<'_> {
    /// The push with this id, for the daemon's own use.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn get(self, id: PushId) -> Result<Option<PushRow>> {
        let sql = format!("{SELECT} WHERE p.id = $1");
        let row = sqlx::query(assembled(sql)).bind(id.0).fetch_optional(self.0.read()).await?;
        row.as_ref().map(from_row).transpose()
    }

    /// Pushes of an app, newest first, with ids below `before`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list(
        self,
        app: AppId,
        state: Option<PushState>,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<PushRow>> {
        let which = if state.is_some() { "p.state = $3" } else { "p.state <> $3" };
        let sql =
            format!("{SELECT} WHERE p.app_id = $1 AND p.id < $2 AND {which} ORDER BY p.id DESC LIMIT $4");
        let rows = sqlx::query(assembled(sql))
            .bind(app.0)
            .bind(before.unwrap_or(i64::MAX))
            .bind(state.map_or("", PushState::as_str))
            .bind(limit.clamp(1, MAX_PAGE))
            .fetch_all(self.0.read())
            .await?;
        rows.iter().map(from_row).collect()
    }

    /// The newest push of everything that moved in an app's repositories. Refused ones did not move anything.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn heads(self, app: AppId) -> Result<Heads> {
        let rows = sqlx::query(
            "SELECT moved, towards, received_at FROM pushes WHERE id IN
                 (SELECT MAX(id) FROM pushes WHERE app_id = $1 AND state <> 'refused' GROUP BY moved)",
        )
        .bind(app.0)
        .fetch_all(self.0.read())
        .await?;
        let head = |r: &AnyRow| {
            let head = Head { towards: r.try_get("towards")?, received_at: row::time(r, "received_at")? };
            Ok((r.try_get("moved")?, head))
        };
        rows.iter().map(head).collect()
    }

    /// What is not decided yet, of all apps, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn undecided(self) -> Result<Vec<PushRow>> {
        let sql = format!("{SELECT} WHERE p.state = 'received' ORDER BY p.id LIMIT {MAX_PAGE}");
        let rows = sqlx::query(assembled(sql)).fetch_all(self.0.read()).await?;
        rows.iter().map(from_row).collect()
    }

    /// The deployments that a push led to, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn deployments(self, id: PushId) -> Result<Vec<DeploymentRow>> {
        let rows = sqlx::query(
            "SELECT deployment_id FROM push_deployments WHERE push_id = $1 ORDER BY deployment_id",
        )
        .bind(id.0)
        .fetch_all(self.0.read())
        .await?;
        let mut found = Vec::with_capacity(rows.len());
        for r in &rows {
            let id = DeploymentId(r.try_get("deployment_id")?);
            found.extend(crate::deployments::Deployments(self.0).get(id).await?);
        }
        Ok(found)
    }

    /// The names of the deployments that these pushes led to, each with its push.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn deployment_names(self, pushes: &[PushRow]) -> Result<Vec<(PushId, DeploymentRef)>> {
        if pushes.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<String> = pushes.iter().map(|p| p.id.0.to_string()).collect();
        let sql = format!(
            "SELECT l.push_id, d.number, a.slug AS app FROM push_deployments l
                 JOIN deployments d ON d.id = l.deployment_id JOIN apps a ON a.id = d.app_id
             WHERE l.push_id IN ({}) ORDER BY d.id",
            ids.join(", ")
        );
        let rows = sqlx::query(assembled(sql)).fetch_all(self.0.read()).await?;
        let name = |r: &AnyRow| {
            let app = row::name(r, "apps", "app")?;
            Ok((PushId(r.try_get("push_id")?), DeploymentRef::new(app, r.try_get("number")?)))
        };
        rows.iter().map(name).collect()
    }

    /// Pushes whose branches wait for their deployments, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn held(self) -> Result<Vec<PushRow>> {
        let sql = format!(
            "{SELECT} WHERE p.held_before IS NOT NULL AND p.state IN ('received', 'handled', 'ignored') ORDER BY p.id"
        );
        let rows = sqlx::query(assembled(sql)).fetch_all(self.0.read()).await?;
        rows.iter().map(from_row).collect()
    }

    /// Of each ref of Berth's own repository of an app, what its newest push says. What was refused does not count.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn newest_own(self, app: AppId) -> Result<Vec<OwnRef>> {
        let rows = sqlx::query(
            "SELECT moved, towards, held_before FROM pushes WHERE id IN (
                 SELECT MAX(id) FROM pushes WHERE app_id = $1 AND origin = 'berth' AND state <> 'refused' GROUP BY moved)",
        )
        .bind(app.0)
        .fetch_all(self.0.read())
        .await?;
        let own = |r: &AnyRow| {
            let held = r.try_get::<Option<String>, _>("held_before")?.is_some();
            Ok(OwnRef { moved: r.try_get("moved")?, towards: r.try_get("towards")?, held })
        };
        rows.iter().map(own).collect()
    }

    /// Which pushes to an app deploy.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn rules(self, app: AppId) -> Result<PushRules> {
        let row = sqlx::query("SELECT rules FROM push_rules WHERE app_id = $1")
            .bind(app.0)
            .fetch_optional(self.0.read())
            .await?;
        row.map_or_else(|| Ok(PushRules::default()), |row| row::json(&row, "push_rules", "rules"))
    }

    /// Sets which pushes to an app deploy.
    ///
    /// # Errors
    /// When the app does not exist.
    pub async fn set_rules(self, by: &Principal, app: AppId, rules: &PushRules) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        let known =
            sqlx::query("SELECT slug FROM apps WHERE id = $1").bind(app.0).fetch_optional(write.conn());
        let Some(known) = known.await? else { return Err(StoreError::not_found("app", app.0)) };
        let slug: String = known.try_get("slug")?;
        sqlx::query(
            "INSERT INTO push_rules (app_id, rules) VALUES ($1, $2)
             ON CONFLICT (app_id) DO UPDATE SET rules = excluded.rules",
        )
        .bind(app.0)
        .bind(row::to_json("push_rules", "rules", rules)?)
        .execute(write.conn())
        .await?;
        let event = NewEvent {
            kind: "push.rules_changed",
            by: by.name.clone(),
            app: Some(app),
            summary: format!("The rules for pushes to {slug} changed."),
            data: serde_json::json!({ "rules": rules }),
        };
        write.event(event).await?;
        write.commit().await
    }

    /// The pushes that led to a deployment, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn of_deployment(self, id: DeploymentId) -> Result<Vec<PushRow>> {
        let sql = format!(
            "{SELECT} JOIN push_deployments l ON l.push_id = p.id WHERE l.deployment_id = $1 ORDER BY p.id DESC"
        );
        let rows = sqlx::query(assembled(sql)).bind(id.0).fetch_all(self.0.read()).await?;
        rows.iter().map(from_row).collect()
    }
}

pub(crate) fn from_row(r: &AnyRow) -> Result<PushRow> {
    Ok(PushRow {
        id: PushId(r.try_get("id")?),
        app_id: AppId(r.try_get("app_id")?),
        app: row::name(r, "apps", "app")?,
        origin: row::word(r, "pushes", "origin", PushOrigin::parse)?,
        change: row::json(r, "pushes", "git_change")?,
        commits: row::json(r, "pushes", "commits")?,
        source: row::json(r, "pushes", "source")?,
        wishes: row::json(r, "pushes", "wishes")?,
        default_branch: r.try_get("default_branch")?,
        held_before: r.try_get("held_before")?,
        by: r.try_get("requested_by")?,
        state: row::word(r, "pushes", "state", PushState::parse)?,
        outcome: r.try_get("outcome")?,
        attempts: r.try_get("attempts")?,
        try_at: row::time(r, "try_at")?,
        received_at: row::time(r, "received_at")?,
        settled_at: row::time_opt(r, "settled_at")?,
    })
}
