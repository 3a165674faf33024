//! Uploaded archives: which there are. The bytes themselves are files.

use berth_schemas::{Timestamp, ids::UploadId};
use sqlx::{Row, any::AnyRow};

use crate::{
    database::assembled,
    deployments::unsettled_states,
    error::Result,
    model::UploadRow,
    proposals::{fresh_since, open_condition},
    row,
    store::Inner,
    write::Write,
};

const SELECT: &str = "SELECT id, bytes, sha256, sent_by, created_at FROM uploads";

/// Uploads of a [`crate::Store`].
#[derive(Clone, Copy)]
pub struct Uploads<'a>(pub(crate) &'a Inner);

impl Uploads<'_> {
    /// Records an archive that was received.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn create(self, id: UploadId, bytes: i64, sha256: &str, by: &str) -> Result<UploadRow> {
        let mut write = Write::begin(self.0).await?;
        sqlx::query(
            "INSERT INTO uploads (id, bytes, sha256, sent_by, created_at) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(id.as_str().to_owned())
        .bind(bytes)
        .bind(sha256.to_owned())
        .bind(by.to_owned())
        .bind(write.now.0)
        .execute(write.conn())
        .await?;
        let created_at = write.now;
        write.commit().await?;
        Ok(UploadRow { id, bytes, sha256: sha256.to_owned(), by: by.to_owned(), created_at })
    }

    /// The upload with this id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn get(self, id: &UploadId) -> Result<Option<UploadRow>> {
        let row = sqlx::query(assembled(format!("{SELECT} WHERE id = $1")))
            .bind(id.as_str().to_owned())
            .fetch_optional(self.0.read())
            .await?;
        row.as_ref().map(from_row).transpose()
    }

    /// Forgets an upload. False if there is none, or a deployment that is not over or a proposal that can still be
    /// approved needs it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete(self, id: &UploadId) -> Result<bool> {
        let mut write = Write::begin(self.0).await?;
        let sql = format!("DELETE FROM uploads WHERE id = $1 AND {}", unused("$2"));
        let fresh = fresh_since(write.now);
        let gone = sqlx::query(assembled(sql))
            .bind(id.as_str().to_owned())
            .bind(fresh)
            .execute(write.conn())
            .await?
            .rows_affected();
        write.commit().await?;
        Ok(gone > 0)
    }

    /// Uploads older than `before` that no deployment and no open proposal needs any more.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn expired(self, before: Timestamp) -> Result<Vec<UploadRow>> {
        let sql =
            format!("{SELECT} WHERE created_at < $1 AND {} ORDER BY created_at LIMIT 1000", unused("$2"));
        let fresh = fresh_since(self.0.clock.now());
        let rows = sqlx::query(assembled(sql)).bind(before.0).bind(fresh).fetch_all(self.0.read()).await?;
        rows.iter().map(from_row).collect()
    }
}

/// The condition that nobody needs an upload; `fresh` is the parameter that is [`fresh_since`].
fn unused(fresh: &str) -> String {
    format!(
        "NOT EXISTS (SELECT 1 FROM deployments d WHERE d.upload_id = uploads.id AND d.state IN ({}))
         AND NOT EXISTS (SELECT 1 FROM proposals p WHERE p.upload_id = uploads.id AND {})",
        unsettled_states(),
        open_condition("p", fresh),
    )
}

fn from_row(r: &AnyRow) -> Result<UploadRow> {
    Ok(UploadRow {
        id: row::name(r, "uploads", "id")?,
        bytes: r.try_get("bytes")?,
        sha256: r.try_get("sha256")?,
        by: r.try_get("sent_by")?,
        created_at: row::time(r, "created_at")?,
    })
}
