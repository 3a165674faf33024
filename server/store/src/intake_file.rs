//! What clients sent and waits to be read: a SQLite file of its own, whatever holds the rest.
//!
//! Whoever sends waits for the disk alone and never for a transaction of somebody else. The two databases cannot be
//! committed together, so the other one notes how far it has read, in the transaction that keeps what it read
//! (`error_intake_done`). What was read is removed here afterwards, and again at the next start if a crash came between.

use std::{
    path::Path,
    sync::atomic::{AtomicI64, Ordering},
};

use sqlx::{AnyPool, Row};

use crate::{
    database::{Database, create_private_file, percent_encode, sqlite_pool},
    error::{Result, StoreError},
};

/// Name of the file in the data directory.
pub(crate) const INTAKE_FILE: &str = "intake.db";
/// Version of the file's tables.
const VERSION: i64 = 1;
/// Page cache of a connection in KiB: rows come at the end, and go in their order.
const CACHE_KIB: u32 = 1 << 10;
/// Free pages that stay in the file for what comes next: 16 MiB.
const SPARE_PAGES: i64 = 4096;

/// The file, open.
pub(crate) struct IntakeFile {
    pub(crate) writer: AnyPool,
    pub(crate) readers: AnyPool,
    /// The newest row that was read.
    done: AtomicI64,
}

impl IntakeFile {
    /// Opens the file of `data_dir`, which the caller has locked, or makes it.
    pub(crate) async fn open(data_dir: &Path) -> Result<Self> {
        let file = data_dir.join(INTAKE_FILE);
        create_private_file(&file)?;
        let url = format!("sqlite://{}?mode=rw", percent_encode(&file));
        let writer = sqlite_pool(1, &url, false, CACHE_KIB).await?;
        let found: i64 = sqlx::query("PRAGMA user_version").fetch_one(&writer).await?.try_get(0)?;
        match found {
            0 => {
                sqlx::raw_sql(
                    "BEGIN IMMEDIATE;
                     CREATE TABLE intake (
                         id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, environment_id BIGINT NOT NULL,
                         app_id BIGINT NOT NULL, received_at BIGINT NOT NULL, kind TEXT NOT NULL, event_id TEXT,
                         name TEXT, body BLOB NOT NULL);
                     PRAGMA user_version = 1;
                     COMMIT;",
                )
                .execute(&writer)
                .await?;
            }
            VERSION => {}
            found => return Err(StoreError::Newer { found, known: VERSION }),
        }
        let readers = sqlite_pool(1, &url, true, CACHE_KIB).await?;
        Ok(Self { writer, readers, done: AtomicI64::new(0) })
    }

    /// Brings both databases together after they were opened: rows of earlier versions, which had them beside all else,
    /// move here, and numbers go on after the last one that was read, also in a file that is new because the old one was
    /// lost.
    pub(crate) async fn settle(&self, database: &Database) -> Result<()> {
        let row = sqlx::query("SELECT through FROM error_intake_done WHERE id = 1")
            .fetch_one(&database.readers)
            .await?;
        let done: i64 = row.try_get("through")?;
        self.removed(done).await?;
        self.adopt(database).await?;
        let mut tx = self.writer.begin().await?;
        sqlx::query(
            "INSERT INTO sqlite_sequence (name, seq) SELECT 'intake', 0
             WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'intake')",
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query("UPDATE sqlite_sequence SET seq = $1 WHERE name = 'intake' AND seq < $1")
            .bind(done)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Takes over what an earlier version accepted and did not read. A crash between the two commits leaves rows in both
    /// places; they are the same by their numbers, so that the next start brings none twice.
    async fn adopt(&self, database: &Database) -> Result<()> {
        const COLUMNS: &str = "id, environment_id, app_id, received_at, kind, event_id, name, body";
        loop {
            let sql = format!("SELECT {COLUMNS} FROM error_intake ORDER BY id LIMIT 20");
            let rows = sqlx::query(crate::database::assembled(sql)).fetch_all(&database.readers).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            let last: i64 = last.try_get("id")?;
            let mut tx = self.writer.begin().await?;
            for row in &rows {
                let sql = format!(
                    "INSERT INTO intake ({COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO NOTHING"
                );
                sqlx::query(crate::database::assembled(sql))
                    .bind(row.try_get::<i64, _>("id")?)
                    .bind(row.try_get::<i64, _>("environment_id")?)
                    .bind(row.try_get::<i64, _>("app_id")?)
                    .bind(row.try_get::<i64, _>("received_at")?)
                    .bind(row.try_get::<String, _>("kind")?)
                    .bind(row.try_get::<Option<String>, _>("event_id")?)
                    .bind(row.try_get::<Option<String>, _>("name")?)
                    .bind(row.try_get::<Vec<u8>, _>("body")?)
                    .execute(&mut *tx)
                    .await?;
            }
            tx.commit().await?;
            sqlx::query("DELETE FROM error_intake WHERE id <= $1")
                .bind(last)
                .execute(&database.writer)
                .await?;
        }
    }

    /// The newest row that was read.
    pub(crate) fn done(&self) -> i64 {
        self.done.load(Ordering::Acquire)
    }

    /// Removes what was read, now that the other database has it.
    pub(crate) async fn removed(&self, through: i64) -> Result<()> {
        self.done.fetch_max(through, Ordering::AcqRel);
        sqlx::query("DELETE FROM intake WHERE id <= $1").bind(through).execute(&self.writer).await?;
        Ok(())
    }

    /// Gives room of the file back that a flood took, a piece at a time.
    pub(crate) async fn shrink(&self) -> Result<()> {
        let free: i64 = sqlx::query("PRAGMA freelist_count").fetch_one(&self.readers).await?.try_get(0)?;
        if free > SPARE_PAGES {
            sqlx::raw_sql("PRAGMA incremental_vacuum(2048)").execute(&self.writer).await?;
        }
        Ok(())
    }

    /// Closes the connections.
    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}
