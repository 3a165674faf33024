//! Clients that registered themselves with the authorization server (RFC 7591). Anybody may register, so that they
//! are few: what was never approved goes first.

use berth_schemas::Timestamp;
use sqlx::{Row, any::AnyRow};

use crate::{
    database::storable,
    error::{Result, StoreError},
    row,
    store::Inner,
    tokens::random_secret,
    write::Write,
};

/// What the id of a registered client begins with: it is told apart from the URL of a document by it.
const PREFIX: &str = "client_";
/// Clients that are kept at most.
const MOST: i64 = 1000;
/// How long a client is kept that nobody approved, in microseconds.
const UNUSED: i64 = 24 * 3600 * 1_000_000;
/// Longest name of a client in bytes.
const MAX_NAME: usize = 100;

/// A client that wants to register.
#[derive(Debug, Clone)]
pub struct NewOauthClient {
    /// What it calls itself.
    pub name: String,
    /// Where it may be sent back to.
    pub redirects: Vec<String>,
}

/// A client that registered itself.
#[derive(Debug, Clone, PartialEq)]
pub struct OauthClientRow {
    /// Its id.
    pub id: String,
    /// What it calls itself.
    pub name: String,
    /// Where it may be sent back to.
    pub redirects: Vec<String>,
    /// When it registered.
    pub created_at: Timestamp,
}

/// Clients of a [`crate::Store`].
#[derive(Clone, Copy)]
pub struct OauthClients<'a>(pub(crate) &'a Inner);

impl OauthClients<'_> {
    /// Registers a client. Where there are too many, the oldest one goes that nobody approved.
    ///
    /// # Errors
    /// When all that there is room for have been approved.
    pub async fn register(self, new: NewOauthClient) -> Result<OauthClientRow> {
        let mut write = Write::begin(self.0).await?;
        sqlx::query(
            "DELETE FROM oauth_clients WHERE COALESCE(used_at, created_at) < $1
             AND NOT EXISTS (SELECT 1 FROM grants g WHERE g.client_id = oauth_clients.id)",
        )
        .bind(write.now.0 - UNUSED)
        .execute(write.conn())
        .await?;
        let count = sqlx::query("SELECT COUNT(*) AS n FROM oauth_clients").fetch_one(write.conn()).await?;
        if count.try_get::<i64, _>("n")? >= MOST {
            let gone = sqlx::query(
                "DELETE FROM oauth_clients WHERE id IN (SELECT c.id FROM oauth_clients c
                 WHERE NOT EXISTS (SELECT 1 FROM grants g WHERE g.client_id = c.id)
                 ORDER BY c.created_at, c.id LIMIT 1)",
            )
            .execute(write.conn())
            .await?
            .rows_affected();
            if gone == 0 {
                return Err(StoreError::conflict(
                    "there are as many clients as are kept",
                    "Revoke grants that are not needed any more with grant_revoke.",
                ));
            }
        }
        let client = OauthClientRow {
            id: random_secret(PREFIX)?,
            name: storable(&new.name, MAX_NAME),
            redirects: new.redirects,
            created_at: write.now,
        };
        sqlx::query("INSERT INTO oauth_clients (id, name, redirects, created_at) VALUES ($1, $2, $3, $4)")
            .bind(client.id.clone())
            .bind(client.name.clone())
            .bind(row::to_json("oauth_clients", "redirects", &client.redirects)?)
            .bind(client.created_at.0)
            .execute(write.conn())
            .await?;
        write.commit().await?;
        Ok(client)
    }

    /// The client of this id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn by_id(self, id: &str) -> Result<Option<OauthClientRow>> {
        let row = sqlx::query("SELECT id, name, redirects, created_at FROM oauth_clients WHERE id = $1")
            .bind(storable(id, 2048))
            .fetch_optional(self.0.read())
            .await?;
        row.as_ref().map(from_row).transpose()
    }
}

fn from_row(r: &AnyRow) -> Result<OauthClientRow> {
    Ok(OauthClientRow {
        id: r.try_get("id")?,
        name: r.try_get("name")?,
        redirects: row::json(r, "oauth_clients", "redirects")?,
        created_at: row::time(r, "created_at")?,
    })
}
