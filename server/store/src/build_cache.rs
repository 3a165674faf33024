//! Which records of the engine's build cache came from Berth's builds: the engine itself notes no owner.

use sqlx::Row;

use crate::{
    database::{assembled, pieces, placeholders},
    error::Result,
    store::Inner,
    write::Write,
};

/// Noted build cache records of a [`crate::Store`].
#[derive(Clone, Copy)]
pub struct BuildCache<'a>(pub(crate) &'a Inner);

impl BuildCache<'_> {
    /// Notes records as Berth's. Those that are known stay as they are.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note(self, records: &[String]) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let mut write = Write::begin(self.0).await?;
        let now = write.now.0;
        for batch in pieces(records) {
            let rows = placeholders(batch.len(), 2);
            let sql = format!(
                "INSERT INTO build_cache (record, seen_at) VALUES {rows} ON CONFLICT (record) DO NOTHING"
            );
            let mut query = sqlx::query(assembled(sql));
            for record in batch {
                query = query.bind(record.clone()).bind(now);
            }
            query.execute(write.conn()).await?;
        }
        write.commit().await
    }

    /// All that are noted.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn all(self) -> Result<Vec<String>> {
        let rows =
            sqlx::query("SELECT record FROM build_cache ORDER BY record").fetch_all(self.0.read()).await?;
        rows.iter().map(|row| Ok(row.try_get("record")?)).collect()
    }

    /// Forgets records that the engine no longer has.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget(self, records: &[String]) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let mut write = Write::begin(self.0).await?;
        for record in records {
            sqlx::query("DELETE FROM build_cache WHERE record = $1")
                .bind(record.clone())
                .execute(write.conn())
                .await?;
        }
        write.commit().await
    }
}
