//! Results of writes that carried an idempotency key, for a day.
//!
//! A key is claimed before the work and gets its result after it. Two calls with one key at the same time
//! do not both work: the second is told to wait. A claim without a result that is older than ten minutes
//! belongs to a call that died, and may be claimed again.

use serde_json::Value;
use sqlx::Row;

use crate::{
    database::storable,
    error::{Result, StoreError},
    row,
    store::Inner,
    write::Write,
};

/// How long a result is kept, in microseconds.
const KEPT: i64 = 24 * 3600 * 1_000_000;
/// After which a claim without a result counts as abandoned, in microseconds.
const ABANDONED: i64 = 600 * 1_000_000;
/// Longest key in bytes; longer ones are cut, which callers prevent by their own limit.
const MAX_KEY: usize = 255;

/// Idempotency keys of a [`crate::Store`].
#[derive(Clone, Copy)]
pub struct Idempotency<'a>(pub(crate) &'a Inner);

impl Idempotency<'_> {
    /// Claims a key for a call: `None` means do the work, then [`Idempotency::store`] its result or
    /// [`Idempotency::release`] the key; a value is the result of the call that had it before.
    ///
    /// # Errors
    /// `InProgress` when that call is still running.
    pub async fn claim(self, principal: &str, tool: &str, key: &str) -> Result<Option<Value>> {
        let mut write = Write::begin(self.0).await?;
        let now = write.now.0;
        let claimed = sqlx::query(
            "INSERT INTO idempotency (principal, tool, call_key, result, created_at) VALUES ($1, $2, $3, NULL, $4)
             ON CONFLICT (principal, tool, call_key) DO UPDATE SET result = NULL, created_at = excluded.created_at
             WHERE idempotency.created_at < $5 OR (idempotency.result IS NULL AND idempotency.created_at < $6)",
        )
        .bind(principal.to_owned())
        .bind(tool.to_owned())
        .bind(storable(key, MAX_KEY))
        .bind(now)
        .bind(now - KEPT)
        .bind(now - ABANDONED)
        .execute(write.conn())
        .await?
        .rows_affected();
        if claimed > 0 {
            write.commit().await?;
            return Ok(None);
        }
        let row = sqlx::query(
            "SELECT result FROM idempotency WHERE principal = $1 AND tool = $2 AND call_key = $3",
        )
        .bind(principal.to_owned())
        .bind(tool.to_owned())
        .bind(storable(key, MAX_KEY))
        .fetch_one(write.conn())
        .await?;
        row::json_opt(&row, "idempotency", "result")?.map(Some).ok_or(StoreError::InProgress)
    }

    /// Keeps the result of a call whose key was claimed.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn store(self, principal: &str, tool: &str, key: &str, result: &Value) -> Result<()> {
        let result = row::to_json("idempotency", "result", result)?;
        let mut write = Write::begin(self.0).await?;
        sqlx::query(
            "UPDATE idempotency SET result = $4 WHERE principal = $1 AND tool = $2 AND call_key = $3",
        )
        .bind(principal.to_owned())
        .bind(tool.to_owned())
        .bind(storable(key, MAX_KEY))
        .bind(result)
        .execute(write.conn())
        .await?;
        write.commit().await
    }

    /// Gives a claimed key back after a call that failed, so that it can be tried again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn release(self, principal: &str, tool: &str, key: &str) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        sqlx::query(
            "DELETE FROM idempotency WHERE principal = $1 AND tool = $2 AND call_key = $3 AND result IS NULL",
        )
        .bind(principal.to_owned())
        .bind(tool.to_owned())
        .bind(storable(key, MAX_KEY))
        .execute(write.conn())
        .await?;
        write.commit().await
    }

    /// Forgets keys older than a day.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn remove_expired(self) -> Result<u64> {
        let before = self.0.clock.now().0 - KEPT;
        // Look first: a write that changes nothing would still wait for its turn and the disk.
        let old = sqlx::query("SELECT COUNT(*) AS n FROM idempotency WHERE created_at < $1")
            .bind(before)
            .fetch_one(self.0.read())
            .await?;
        if old.try_get::<i64, _>("n")? == 0 {
            return Ok(0);
        }
        let mut write = Write::begin(self.0).await?;
        let gone = sqlx::query("DELETE FROM idempotency WHERE created_at < $1")
            .bind(before)
            .execute(write.conn())
            .await?
            .rows_affected();
        write.commit().await?;
        Ok(gone)
    }
}
