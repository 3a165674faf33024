//! Keys of DSNs: what a client shows to send an environment's errors, and how one takes the place of another.
//!
//! A key is kept nowhere: it follows from its number and the installation's key, so that none can be read out of a copy of
//! the database, and none can be guessed.

use std::time::Duration;

use berth_schemas::Timestamp;
use serde_json::json;
use sha2::{Digest, Sha256};
use sqlx::{Row, any::AnyRow};

use super::Errors;
use crate::{
    apps::{Configured, note_configured},
    error::{Result, StoreError},
    model::{AppRow, EnvironmentId, NewEvent, Principal},
    row,
    store::Inner,
    write::Write,
};

/// For how long a key is shown after its end, in seconds: whoever still has it is to be found.
const REMEMBERED: i64 = 30 * 24 * 3600;

/// A key of an environment's DSN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DsnKey {
    /// Which of the environment's; later ones were made later.
    pub number: i64,
    /// What clients show: 32 hexadecimal digits.
    pub key: String,
    /// When it was made; none of the first one, which was always there.
    pub made_at: Option<Timestamp>,
    /// From when on it is refused; none of the one that counts.
    pub ends_at: Option<Timestamp>,
    /// When a client showed it last since it was replaced, noted about once a minute.
    pub shown_at: Option<Timestamp>,
}

impl DsnKey {
    /// Whether what is sent with it is taken.
    #[must_use]
    pub fn is_accepted(&self, now: Timestamp) -> bool {
        self.ends_at.is_none_or(|end| now < end)
    }
}

/// The keys of an environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DsnKeys {
    /// The one that clients are told.
    pub current: DsnKey,
    /// Those that were replaced, the newest first, until some time after their end.
    pub old: Vec<DsnKey>,
}

impl DsnKeys {
    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &DsnKey> {
        std::iter::once(&self.current).chain(&self.old)
    }
}

impl Errors<'_> {
    /// The keys of an environment.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn keys(self, environment: EnvironmentId) -> Result<DsnKeys> {
        let rows = sqlx::query(
            "SELECT number, made_at, ends_at, shown_at FROM error_keys WHERE environment_id = $1 ORDER BY number DESC",
        )
        .bind(environment.0)
        .fetch_all(self.0.read())
        .await?;
        let mut keys =
            rows.iter().map(|r| self.read_key(environment, r)).collect::<Result<Vec<_>>>()?.into_iter();
        let first = || DsnKey {
            number: 0,
            key: derived(self.0, environment, 0),
            made_at: None,
            ends_at: None,
            shown_at: None,
        };
        Ok(DsnKeys { current: keys.next().unwrap_or_else(first), old: keys.collect() })
    }

    fn read_key(self, environment: EnvironmentId, r: &AnyRow) -> Result<DsnKey> {
        let number = r.try_get("number")?;
        Ok(DsnKey {
            number,
            key: derived(self.0, environment, number),
            made_at: row::time_opt(r, "made_at")?,
            ends_at: row::time_opt(r, "ends_at")?,
            shown_at: row::time_opt(r, "shown_at")?,
        })
    }

    /// Makes a new key for an app's environment. The one before is accepted for `grace` from now on, and none that was
    /// replaced earlier for longer than that.
    ///
    /// # Errors
    /// When the environment is gone or the database fails.
    pub async fn rotate_key(self, by: &Principal, app: &AppRow, grace: Duration) -> Result<DsnKeys> {
        let environment = app.environment.id;
        let mut write = Write::begin(self.0).await?;
        let now = write.now;
        let grace = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let ends = now.plus_seconds(grace);
        sqlx::query(
            "INSERT INTO error_keys (environment_id, number) SELECT id, 0 FROM environments WHERE id = $1
             AND NOT EXISTS (SELECT 1 FROM error_keys k WHERE k.environment_id = $1)",
        )
        .bind(environment.0)
        .execute(write.conn())
        .await?;
        sqlx::query(
            "UPDATE error_keys SET ends_at = CASE WHEN ends_at < $2 THEN ends_at ELSE $2 END WHERE environment_id = $1",
        )
        .bind(environment.0)
        .bind(ends.0)
        .execute(write.conn())
        .await?;
        let newest: Option<i64> =
            sqlx::query("SELECT MAX(number) AS newest FROM error_keys WHERE environment_id = $1")
                .bind(environment.0)
                .fetch_one(write.conn())
                .await?
                .try_get("newest")?;
        let newest = newest.ok_or_else(|| StoreError::not_found("environment", app.title()))?;
        sqlx::query("INSERT INTO error_keys (environment_id, number, made_at) VALUES ($1, $2, $3)")
            .bind(environment.0)
            .bind(newest + 1)
            .bind(now.0)
            .execute(write.conn())
            .await?;
        sqlx::query("DELETE FROM error_keys WHERE environment_id = $1 AND ends_at < $2")
            .bind(environment.0)
            .bind(now.plus_seconds(-REMEMBERED).0)
            .execute(write.conn())
            .await?;
        note_configured(&mut write, app.id, Configured::Environment(environment)).await?;
        let then = match grace {
            0 => "the one before is refused from now on".to_owned(),
            _ => format!("the one before is accepted until {ends}"),
        };
        let event = NewEvent {
            kind: "error.key_rotated",
            by: by.name.clone(),
            app: Some(app.id),
            summary: format!("the DSN of {} has a new key; {then}", app.title()),
            data: json!({ "environment": app.environment.name, "old_key_until": ends }),
        };
        write.event(event).await?;
        write.commit().await?;
        self.keys(environment).await
    }

    /// Notes when clients showed keys that were replaced: environment, number, time.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn keys_shown(self, shown: &[(EnvironmentId, i64, Timestamp)]) -> Result<()> {
        if shown.is_empty() {
            return Ok(());
        }
        let mut write = Write::begin(self.0).await?;
        for (environment, number, at) in shown {
            sqlx::query(
                "UPDATE error_keys SET shown_at = $3 WHERE environment_id = $1 AND number = $2
                 AND (shown_at IS NULL OR shown_at < $3)",
            )
            .bind(environment.0)
            .bind(*number)
            .bind(at.0)
            .execute(write.conn())
            .await?;
        }
        write.commit().await
    }
}

/// The key with this number. That of the first one is of before there were others.
fn derived(inner: &Inner, environment: EnvironmentId, number: i64) -> String {
    let mut hash = Sha256::new();
    hash.update(inner.ingest_secret.as_slice());
    hash.update(environment.0.to_be_bytes());
    if number > 0 {
        hash.update(number.to_be_bytes());
    }
    hex::encode(&hash.finalize()[..16])
}
