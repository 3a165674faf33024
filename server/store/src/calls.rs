//! Calls of tools, each a row. What changes something is written before it begins and when it has ended; what only reads
//! is kept in memory for at most half a second and written with others.

use std::{
    sync::{Mutex, PoisonError, Weak},
    time::Duration,
};

use berth_schemas::{
    Timestamp,
    audit::{AuditedCall, Surface},
    ids::GrantId,
};
use sqlx::{Row, any::AnyRow};

use crate::{
    database::{assembled, contains_pattern, pieces, placeholders, storable},
    error::{Result, StoreError},
    row,
    store::{Inner, Pruned},
    write::Write,
};

/// How long a reader's call waits to be written.
const DELAY: Duration = Duration::from_millis(500);
/// Calls that wait at most; more are counted and lost, as when the database is away for long.
const WAITING: usize = 20_000;
/// Rows that one pruning removes at most.
const PRUNED: i64 = 20_000;
/// Longest texts in bytes.
const MAX_TEXT: usize = 200;

/// A call.
#[derive(Debug, Clone)]
pub struct NewCall {
    /// When it began.
    pub at: Timestamp,
    /// Who calls.
    pub principal: String,
    /// By which grant.
    pub grant: Option<GrantId>,
    /// What the calling program says that it is.
    pub client: Option<String>,
    /// How it came in.
    pub surface: Surface,
    /// The tool.
    pub tool: &'static str,
    /// Names of what it is about.
    pub target: Option<String>,
    /// The request's id.
    pub request_id: Option<String>,
}

/// How a call ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// ok, or the code of the problem.
    pub outcome: &'static str,
    /// How long it took.
    pub took: Duration,
}

/// Which calls are wanted.
#[derive(Debug, Clone, Default)]
pub struct CallQuery<'a> {
    /// Of this tool.
    pub tool: Option<&'a str>,
    /// By this token, by itself or by its grants.
    pub principal: Option<&'a str>,
    /// That ended so; `failed` for anything but ok.
    pub outcome: Option<&'a str>,
    /// About what contains this.
    pub target: Option<&'a str>,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Before.
    pub until: Option<Timestamp>,
    /// With a smaller number.
    pub before: Option<i64>,
    /// At most so many.
    pub limit: i64,
}

/// Calls that wait to be written.
#[derive(Default)]
pub(crate) struct Waiting(Mutex<Batch>);

#[derive(Default)]
struct Batch {
    calls: Vec<(NewCall, Ended)>,
    lost: u64,
}

impl Waiting {
    fn take(&self) -> Batch {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts back what could not be written, before what has come since.
    fn put_back(&self, mut calls: Vec<(NewCall, Ended)>) {
        let mut batch = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.append(&mut batch.calls);
        let room = calls.len().min(WAITING);
        batch.lost += (calls.len() - room) as u64;
        calls.truncate(room);
        batch.calls = calls;
    }
}

/// Calls that are being written. Whatever happens meanwhile, they are written or wait again.
struct Taken<'a> {
    waiting: &'a Waiting,
    calls: Vec<(NewCall, Ended)>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.calls.is_empty() {
            self.waiting.put_back(std::mem::take(&mut self.calls));
        }
    }
}

/// Calls of a [`crate::Store`].
#[derive(Clone, Copy)]
pub struct Calls<'a>(pub(crate) &'a Inner);

impl Calls<'_> {
    /// Writes down a call that is about to change something; it must not begin before this is done.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn begin(self, call: NewCall) -> Result<i64> {
        let mut write = Write::begin(self.0).await?;
        let row = sqlx::query(
            "INSERT INTO calls (at, principal, grant_id, client, surface, tool, target, request_id)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id",
        )
        .bind(call.at.0)
        .bind(storable(&call.principal, MAX_TEXT))
        .bind(call.grant.map(|g| g.to_string()))
        .bind(call.client.map(|c| storable(&c, MAX_TEXT)))
        .bind(call.surface.as_str())
        .bind(call.tool)
        .bind(call.target.map(|t| storable(&t, MAX_TEXT)))
        .bind(call.request_id.map(|r| storable(&r, MAX_TEXT)))
        .fetch_one(write.conn())
        .await?;
        write.commit().await?;
        Ok(row.try_get("id")?)
    }

    /// Writes down how it ended.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn end(self, id: i64, ended: Ended) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        sqlx::query("UPDATE calls SET outcome = $1, duration = $2 WHERE id = $3")
            .bind(ended.outcome)
            .bind(micros(ended.took))
            .bind(id)
            .execute(write.conn())
            .await?;
        write.commit().await
    }

    /// Notes a call that changed nothing. It is written soon.
    pub fn note(self, call: NewCall, ended: Ended) {
        let mut batch = self.0.calls.0.lock().unwrap_or_else(PoisonError::into_inner);
        match batch.calls.len() < WAITING {
            true => batch.calls.push((call, ended)),
            false => batch.lost += 1,
        }
    }

    /// Writes what was noted. The store does it by itself.
    ///
    /// # Errors
    /// When the database fails; nothing is lost then.
    pub async fn flush(self) -> Result<()> {
        let batch = self.0.calls.take();
        if batch.lost > 0 {
            tracing::error!(
                lost = batch.lost,
                "calls are missing in the audit log, because the database was away"
            );
        }
        if batch.calls.is_empty() {
            return Ok(());
        }
        let mut taken = Taken { waiting: &self.0.calls, calls: batch.calls };
        self.write(&taken.calls).await?;
        taken.calls.clear();
        Ok(())
    }

    async fn write(self, calls: &[(NewCall, Ended)]) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        for part in pieces(calls) {
            let sql = format!(
                "INSERT INTO calls (at, principal, grant_id, client, surface, tool, target, request_id, outcome, duration)
                 VALUES {}",
                placeholders(part.len(), 10)
            );
            let mut query = sqlx::query(assembled(sql));
            for (call, ended) in part {
                query = query
                    .bind(call.at.0)
                    .bind(storable(&call.principal, MAX_TEXT))
                    .bind(call.grant.as_ref().map(ToString::to_string))
                    .bind(call.client.as_ref().map(|c| storable(c, MAX_TEXT)))
                    .bind(call.surface.as_str())
                    .bind(call.tool)
                    .bind(call.target.as_ref().map(|t| storable(t, MAX_TEXT)))
                    .bind(call.request_id.as_ref().map(|r| storable(r, MAX_TEXT)))
                    .bind(ended.outcome)
                    .bind(micros(ended.took));
            }
            query.execute(write.conn()).await?;
        }
        write.commit().await
    }

    /// The calls that are wanted, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn search(self, query: CallQuery<'_>) -> Result<Vec<AuditedCall>> {
        // What was noted a moment ago belongs to the answer.
        self.flush().await?;
        let one = |wanted: Option<&str>, condition: &str, n: u8| match wanted {
            Some(_) => condition.to_owned(),
            None => format!("${n} = ''"),
        };
        let outcome = match query.outcome {
            Some("failed") => "COALESCE(outcome, $3) <> 'ok'",
            Some("unfinished") => "outcome IS NULL AND $3 <> ''",
            _ => "outcome = $3",
        };
        let sql = format!(
            "SELECT id, at, principal, grant_id, client, surface, tool, target, outcome, duration, request_id FROM calls
             WHERE {} AND {} AND {} AND {} AND at >= $6 AND at < $7 AND id < $8 ORDER BY id DESC LIMIT $9",
            one(query.tool, "tool = $1", 1),
            // PostgreSQL wants each parameter to be used.
            match query.principal {
                Some(_) => "(principal = $2 OR principal LIKE $5 ESCAPE '\\')",
                None => "$2 = $5",
            },
            one(query.outcome, outcome, 3),
            one(query.target, "target LIKE $4 ESCAPE '\\'", 4),
        );
        let below =
            query.principal.map(|p| format!("{}/%", crate::database::escape_like(p))).unwrap_or_default();
        let rows = sqlx::query(assembled(sql))
            .bind(query.tool.unwrap_or_default().to_owned())
            .bind(query.principal.unwrap_or_default().to_owned())
            .bind(query.outcome.unwrap_or_default().to_owned())
            .bind(query.target.map(contains_pattern).unwrap_or_default())
            .bind(below)
            .bind(query.since.map_or(i64::MIN, |t| t.0))
            .bind(query.until.map_or(i64::MAX, |t| t.0))
            .bind(query.before.unwrap_or(i64::MAX))
            .bind(query.limit)
            .fetch_all(self.0.read())
            .await?;
        rows.iter().map(from_row).collect()
    }

    /// Removes calls from before `before`, and the oldest beyond `most`; at most some thousands at once.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn prune(self, before: Timestamp, most: i64) -> Result<Pruned> {
        // Numbers have no gaps but those of pruning, which removes the oldest: the newest less `most` is a bound.
        let newest =
            sqlx::query("SELECT COALESCE(MAX(id), 0) AS newest FROM calls").fetch_one(self.0.read()).await?;
        let bound = newest.try_get::<i64, _>("newest")?.saturating_sub(most);
        let old = sqlx::query("SELECT COUNT(*) AS n FROM calls WHERE at < $1 OR id <= $2")
            .bind(before.0)
            .bind(bound)
            .fetch_one(self.0.read())
            .await?;
        if old.try_get::<i64, _>("n")? == 0 {
            return Ok(Pruned::default());
        }
        let mut write = Write::begin(self.0).await?;
        let gone = sqlx::query(
            "DELETE FROM calls WHERE id IN (SELECT id FROM calls WHERE at < $1 OR id <= $2 ORDER BY id LIMIT $3)",
        )
        .bind(before.0)
        .bind(bound)
        .bind(PRUNED)
        .execute(write.conn())
        .await?
        .rows_affected();
        write.commit().await?;
        Ok(Pruned { rows: i64::try_from(gone).unwrap_or(i64::MAX), bytes: 0 })
    }
}

/// Writes what was noted, twice a second, until the store is dropped.
pub(crate) async fn keep_writing(store: Weak<Inner>) {
    loop {
        tokio::time::sleep(DELAY).await;
        let Some(inner) = store.upgrade() else { return };
        if let Err(error) = Calls(&inner).flush().await {
            tracing::warn!(%error, "calls could not be written to the audit log yet");
        }
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn from_row(r: &AnyRow) -> Result<AuditedCall> {
    let grant: Option<String> = r.try_get("grant_id")?;
    let grant =
        grant.map(|g| g.parse().map_err(|_| StoreError::corrupt("calls", "grant_id", &g))).transpose()?;
    let text = |column: &str| r.try_get::<Option<String>, _>(column);
    Ok(AuditedCall {
        id: r.try_get("id")?,
        at: row::time(r, "at")?,
        principal: r.try_get("principal")?,
        grant,
        client: text("client")?.map(Into::into),
        surface: row::word(r, "calls", "surface", Surface::parse)?,
        tool: r.try_get("tool")?,
        target: text("target")?.map(Into::into),
        outcome: text("outcome")?.unwrap_or_else(|| "unfinished".into()),
        duration_ms: r.try_get::<Option<i64>, _>("duration")?.map(|us| us / 1000),
        request_id: text("request_id")?,
    })
}
