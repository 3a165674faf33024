//! Proposals: calls that a token may only propose. Their arguments are sealed, whatever they hold, and run once.

use berth_schemas::{
    Code, Problem, Timestamp,
    ids::UploadId,
    proposal::{Proposal, ProposalState as State},
};
use serde_json::{Value, json};
use sqlx::{Row, any::AnyRow};

use crate::{
    database::{assembled, storable},
    error::{Result, StoreError},
    model::{NewEvent, Principal},
    row,
    seal::Place,
    store::Inner,
    write::Write,
};

const SELECT: &str =
    "SELECT id, uuid, token_id, principal, client, tool, target, sealed, state, created_at, decided_by,
    decided_at, reason, problem FROM proposals";
/// How long a proposal waits, in microseconds.
const WAITS: i64 = 7 * 24 * 3600 * 1_000_000;
/// How long one is kept that was decided, in microseconds.
const KEPT: i64 = 90 * 24 * 3600 * 1_000_000;
/// Proposals of one token that may wait at the same time.
const MOST: i64 = 50;
/// Longest texts in bytes.
const MAX_TEXT: usize = 500;

/// A call to be proposed.
#[derive(Clone)]
pub struct NewProposal {
    /// The tool.
    pub tool: &'static str,
    /// Names of what it is about.
    pub target: Option<String>,
    /// What the proposing program says that it is.
    pub client: Option<String>,
    /// The exact arguments.
    pub arguments: Value,
    /// The upload that they name.
    pub upload: Option<UploadId>,
}

/// A proposal with its arguments.
#[derive(Clone)]
pub struct ProposalRow {
    /// The proposal as it is shown.
    pub proposal: Proposal,
    /// The exact arguments.
    pub arguments: Value,
}

/// Proposals of a [`crate::Store`].
#[derive(Clone, Copy)]
pub struct Proposals<'a>(pub(crate) &'a Inner);

impl Proposals<'_> {
    /// Keeps a proposal; the same one again is the one that waits already.
    ///
    /// # Errors
    /// When too many of this token wait.
    pub async fn propose(self, by: &Principal, new: NewProposal) -> Result<i64> {
        let mut write = Write::begin(self.0).await?;
        let token = sqlx::query("SELECT id FROM tokens WHERE name = $1")
            .bind(by.token().to_owned())
            .fetch_optional(write.conn())
            .await?
            .ok_or_else(|| StoreError::not_found("token", by.token()))?;
        let token: i64 = token.try_get("id")?;
        let fresh = fresh_since(write.now);
        let waiting = sqlx::query(assembled(format!(
            "{SELECT} WHERE state = 'pending' AND token_id = $1 AND created_at > $2 ORDER BY id"
        )))
        .bind(token)
        .bind(fresh)
        .fetch_all(write.conn())
        .await?;
        for row in &waiting {
            let same_call = row.try_get::<String, _>("tool")? == new.tool
                && row.try_get::<String, _>("principal")? == by.name;
            if same_call && self.arguments(row)? == new.arguments {
                return Ok(row.try_get("id")?);
            }
        }
        if i64::try_from(waiting.len()).unwrap_or(MOST) >= MOST {
            return Err(StoreError::conflict(
                format!("{MOST} proposals of the token {:?} wait already", by.token()),
                "Wait until a person has decided on some.",
            ));
        }
        let uuid = uuid::Uuid::new_v4().to_string();
        let clear = serde_json::to_vec(&new.arguments).map(zeroize::Zeroizing::new);
        let clear = clear.map_err(|_| StoreError::corrupt("proposals", "sealed", ""))?;
        let sealed = self.0.sealer.seal(&place(&uuid), &clear)?;
        let target = new.target.map(|t| storable(&t, MAX_TEXT));
        let row = sqlx::query(
            "INSERT INTO proposals
                 (uuid, token_id, principal, client, tool, target, sealed, state, created_at, upload_id)
             VALUES ($1, $2, $3, $4, $5, $6, $7, 'pending', $8, $9) RETURNING id",
        )
        .bind(uuid)
        .bind(token)
        .bind(by.name.clone())
        .bind(new.client.map(|c| storable(&c, MAX_TEXT)))
        .bind(new.tool)
        .bind(target.clone())
        .bind(sealed)
        .bind(write.now.0)
        .bind(new.upload.map(|u| u.as_str().to_owned()))
        .fetch_one(write.conn())
        .await?;
        let id: i64 = row.try_get("id")?;
        told(&mut write, "proposal.made", &by.name, id, new.tool, "was made").await?;
        write.commit().await?;
        Ok(id)
    }

    /// Proposals in this state, newest first; those of one token only, if it is given.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list(
        self,
        state: State,
        of: Option<&str>,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<Proposal>> {
        let fresh = fresh_since(self.0.clock.now());
        let condition = match state {
            State::Pending => "state = 'pending' AND created_at > $1 AND token_id IS NOT NULL AND $2 <> ''",
            State::Expired => "state = 'pending' AND (created_at <= $1 OR token_id IS NULL) AND $2 <> ''",
            _ => "$1 <> 0 AND state = $2",
        };
        let whose =
            if of.is_some() { "(principal = $3 OR principal LIKE $4 ESCAPE '\\')" } else { "$3 = $4" };
        let of = of.map_or((String::new(), String::new()), |name| {
            (name.to_owned(), format!("{}/%", crate::database::escape_like(name)))
        });
        let sql = format!("{SELECT} WHERE {condition} AND {whose} AND id < $5 ORDER BY id DESC LIMIT $6");
        let rows = sqlx::query(assembled(sql))
            .bind(fresh)
            .bind(state.as_str())
            .bind(of.0)
            .bind(of.1)
            .bind(before.unwrap_or(i64::MAX))
            .bind(limit)
            .fetch_all(self.0.read())
            .await?;
        rows.iter().map(|r| from_row(r, self.0.clock.now())).collect()
    }

    /// The proposal of this number.
    ///
    /// # Errors
    /// When its arguments do not open.
    pub async fn get(self, id: i64) -> Result<Option<ProposalRow>> {
        let row = sqlx::query(assembled(format!("{SELECT} WHERE id = $1")))
            .bind(id)
            .fetch_optional(self.0.read())
            .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(ProposalRow {
            proposal: from_row(&row, self.0.clock.now())?,
            arguments: self.arguments(&row)?,
        }))
    }

    /// Approves a proposal. It runs once, so that whoever gets this must run it.
    ///
    /// # Errors
    /// `Stale` when it does not wait any more.
    pub async fn approve(self, by: &Principal, id: i64) -> Result<()> {
        self.decide(by, id, State::Running, None).await
    }

    /// Rejects a proposal.
    ///
    /// # Errors
    /// `Stale` when it does not wait any more.
    pub async fn reject(self, by: &Principal, id: i64, reason: Option<&str>) -> Result<()> {
        self.decide(by, id, State::Rejected, reason).await
    }

    async fn decide(self, by: &Principal, id: i64, to: State, reason: Option<&str>) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        let now = write.now;
        let row = sqlx::query(assembled(format!("{SELECT} WHERE id = $1")))
            .bind(id)
            .fetch_optional(write.conn())
            .await?
            .ok_or_else(|| StoreError::not_found("proposal", id))?;
        let found = from_row(&row, now)?;
        if found.state != State::Pending {
            return Err(StoreError::Stale {
                what: format!("proposal {id}"),
                expected: State::Pending.as_str().into(),
                found: found.state.as_str().into(),
            });
        }
        sqlx::query(
            "UPDATE proposals SET state = $1, decided_by = $2, decided_at = $3, reason = $4 WHERE id = $5",
        )
        .bind(to.as_str())
        .bind(by.name.clone())
        .bind(now.0)
        .bind(reason.map(|r| storable(r, MAX_TEXT)))
        .bind(id)
        .execute(write.conn())
        .await?;
        let (kind, how) = match to {
            State::Running => ("proposal.approved", "was approved"),
            _ => ("proposal.rejected", "was rejected"),
        };
        told(&mut write, kind, &by.name, id, &found.tool, how).await?;
        write.commit().await
    }

    /// Lets an approved proposal wait again, because the world did not allow its call: nobody decided it then.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn reopen(self, id: i64, problem: &Problem) -> Result<()> {
        let problem = row::to_json("proposals", "problem", problem)?;
        let mut write = Write::begin(self.0).await?;
        let sql = "UPDATE proposals SET state = 'pending', decided_by = NULL, decided_at = NULL, problem = $1
                   WHERE id = $2 AND state IN ('running', 'interrupted') RETURNING tool";
        let row = sqlx::query(sql).bind(problem).bind(id).fetch_optional(write.conn()).await?;
        if let Some(row) = row {
            let (tool, by): (String, _) = (row.try_get("tool")?, Principal::daemon().name);
            told(&mut write, "proposal.reopened", &by, id, &tool, "could not be done and waits again")
                .await?;
        }
        write.commit().await
    }

    /// Writes down how an approved proposal ended.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn ended(self, id: i64, problem: Option<&Problem>) -> Result<()> {
        let state = if problem.is_some() { State::Failed } else { State::Done };
        let problem = problem.map(|p| row::to_json("proposals", "problem", p)).transpose()?;
        let mut write = Write::begin(self.0).await?;
        // A daemon that has handed over still ends what it began, which its successor took for interrupted.
        let sql = "UPDATE proposals SET state = $1, problem = $2
                   WHERE id = $3 AND state IN ('running', 'interrupted')";
        sqlx::query(sql).bind(state.as_str()).bind(problem).bind(id).execute(write.conn()).await?;
        write.commit().await
    }

    /// Marks what ran when the daemon ended, with what to look at. To be done once at a start, before anything runs.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn interrupt(self) -> Result<()> {
        let running = assembled(format!("{SELECT} WHERE state = 'running' ORDER BY id"));
        let rows = sqlx::query(running).fetch_all(self.0.read()).await?;
        if rows.is_empty() {
            return Ok(());
        }
        let mut write = Write::begin(self.0).await?;
        for row in &rows {
            let found = from_row(row, write.now)?;
            let (id, tool) = (found.proposal, found.tool);
            let detail = format!("The daemon ended while {tool} ran, so that it may have been done or not.");
            let problem = Problem::new(Code::Interrupted, detail).hint(format!(
                "event_list and audit_search(tool={tool:?}, outcome=\"unfinished\") tell what was begun; a deployment or a job that was begun goes on. Propose it again if it was not done."
            ));
            sqlx::query("UPDATE proposals SET state = $1, problem = $2 WHERE id = $3 AND state = 'running'")
                .bind(State::Interrupted.as_str())
                .bind(row::to_json("proposals", "problem", &problem)?)
                .bind(id)
                .execute(write.conn())
                .await?;
            let by = Principal::daemon().name;
            told(&mut write, "proposal.interrupted", &by, id, &tool, "was interrupted").await?;
        }
        write.commit().await
    }

    /// Forgets proposals of long ago. The store does it by itself.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn remove_old(self) -> Result<()> {
        let before = self.0.clock.now().0 - KEPT;
        let old = sqlx::query("SELECT COUNT(*) AS n FROM proposals WHERE created_at < $1")
            .bind(before)
            .fetch_one(self.0.read())
            .await?;
        if old.try_get::<i64, _>("n")? == 0 {
            return Ok(());
        }
        let mut write = Write::begin(self.0).await?;
        sqlx::query("DELETE FROM proposals WHERE created_at < $1").bind(before).execute(write.conn()).await?;
        write.commit().await
    }

    fn arguments(self, row: &AnyRow) -> Result<Value> {
        let (uuid, sealed): (String, String) = (row.try_get("uuid")?, row.try_get("sealed")?);
        let clear = self.0.sealer.open(&place(&uuid), &sealed)?;
        serde_json::from_slice(&clear).map_err(|_| StoreError::corrupt("proposals", "sealed", ""))
    }
}

/// Proposals that were made after this wait still, in microseconds.
pub(crate) fn fresh_since(now: Timestamp) -> i64 {
    now.0 - WAITS
}

/// The condition that a proposal can still be approved, or is just run; `fresh` is the parameter that is
/// [`fresh_since`].
pub(crate) fn open_condition(table: &str, fresh: &str) -> String {
    format!(
        "({table}.state = 'running'
          OR {table}.state = 'pending' AND {table}.created_at > {fresh} AND {table}.token_id IS NOT NULL)"
    )
}

fn place(uuid: &str) -> Place<'_> {
    Place { column: "proposals/sealed", row: uuid }
}

async fn told(
    write: &mut Write<'_>,
    kind: &'static str,
    by: &str,
    id: i64,
    tool: &str,
    how: &str,
) -> Result<()> {
    let event = NewEvent {
        kind,
        by: by.to_owned(),
        app: None,
        summary: format!("Proposal {id} ({tool}) {how}."),
        data: json!({ "proposal": id, "tool": tool }),
    };
    write.event(event).await.map(drop)
}

fn from_row(r: &AnyRow, now: Timestamp) -> Result<Proposal> {
    let at = row::time(r, "created_at")?;
    let state = match row::word(r, "proposals", "state", State::parse)? {
        State::Pending if at.0 <= fresh_since(now) || r.try_get::<Option<i64>, _>("token_id")?.is_none() => {
            State::Expired
        }
        state => state,
    };
    let text = |column: &str| r.try_get::<Option<String>, _>(column);
    Ok(Proposal {
        proposal: r.try_get("id")?,
        tool: r.try_get("tool")?,
        target: text("target")?.map(Into::into),
        proposed_by: r.try_get("principal")?,
        client: text("client")?.map(Into::into),
        proposed_at: at,
        state,
        decided_by: text("decided_by")?,
        decided_at: row::time_opt(r, "decided_at")?,
        reason: text("reason")?,
        problem: row::problem(r, "proposals", "problem")?,
    })
}
