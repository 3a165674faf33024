//! Repositories on forges: which app has which, with sealed credentials, and how hearing of pushes goes. What forges
//! are told is in `forge_reports.rs`.

mod kept;

use std::collections::BTreeMap;

use berth_schemas::{Problem, Timestamp, Untrusted, repository::DeliveryShown};
use serde_json::json;

pub use self::kept::{Credentials, Learnt, NewRepository, RepositoryRow, RepositorySecrets, WebhookSecret};
use self::kept::{SELECT, from_row};

use crate::{
    database::{assembled, storable},
    error::{Result, StoreError},
    model::{AppId, AppRow, NewEvent, Principal},
    row,
    seal::Place,
    store::Inner,
    write::Write,
};

/// Webhooks remembered per repository.
const REMEMBERED: i64 = 2000;
/// Longest event name or outcome that is kept, in bytes.
const MAX_TEXT: usize = 300;

/// Repositories of a [`crate::Store`].
#[derive(Clone, Copy)]
pub struct Repositories<'a>(pub(crate) &'a Inner);

impl Repositories<'_> {
    /// Connects an app to a repository. If it is connected to that one already, credentials and settings become the
    /// new ones; id and webhook secret stay.
    ///
    /// # Errors
    /// When it is connected to another one, or the app does not exist for the caller.
    pub async fn connect(self, by: &Principal, app: &AppRow, new: NewRepository) -> Result<RepositoryRow> {
        let mut write = Write::begin(self.0).await?;
        let there = sqlx::query("SELECT id FROM apps WHERE id = $1 AND deleting = 0")
            .bind(app.id.0)
            .fetch_optional(write.conn())
            .await?;
        if there.is_none() || !by.visible.allows(app.project_id) {
            return Err(StoreError::not_found("app", &app.slug));
        }
        let old = find(&mut write, app.id).await?;
        let (id, known) = match &old {
            Some(old) if same_place(old, &new) => (old.id.clone(), true),
            Some(old) => {
                return Err(StoreError::conflict(
                    format!("the app {} is connected to {}", app.slug, old.url),
                    "Disconnect it with repository_disconnect first.",
                ));
            }
            None => (uuid::Uuid::new_v4().to_string(), false),
        };
        let text = row::to_json("repositories", "credentials", &new.credentials)?;
        let credentials = self.0.sealer.seal(&credentials_place(&id), text.as_bytes())?;
        let id_text = id.clone();
        if known {
            sqlx::query(
                "UPDATE repositories SET url = $1, auth = $2, credentials = $3, public_key = $4,
                     report = $5, poll_minutes = $6, poll_at = $7, branch = $8, poll_failures = 0,
                     poll_problem = NULL, report_problem = NULL WHERE id = $9",
            )
        } else {
            let secret = self.0.sealer.seal(&secret_place(&id), new.secret.as_bytes())?;
            sqlx::query(
                "INSERT INTO repositories (app_id, forge, full_name, secret, created_by, url, auth, credentials,
                     public_key, report, poll_minutes, poll_at, branch, id, created_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $12)",
            )
            .bind(app.id.0)
            .bind(new.forge.as_str())
            .bind(new.full_name.clone())
            .bind(secret)
            .bind(by.name.clone())
        }
        .bind(new.url.clone())
        .bind(new.credentials.auth().as_str())
        .bind(credentials)
        .bind(new.public_key)
        .bind(i64::from(new.report))
        .bind(new.poll_minutes)
        .bind(write.now.0)
        .bind(new.branch)
        .bind(id_text)
        .execute(write.conn())
        .await?;
        let event = NewEvent {
            kind: "repository.connected",
            by: by.name.clone(),
            app: Some(app.id),
            summary: format!("App {} is connected to {}.", app.slug, new.url),
            data: json!({ "url": new.url, "forge": new.forge, "auth": new.credentials.auth() }),
        };
        write.event_in(app.project_id, Some(app.slug.clone()), event).await?;
        let row = get(&mut write, &id).await?;
        write.commit().await?;
        Ok(row)
    }

    /// The repository with this id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn by_id(self, id: &str) -> Result<Option<RepositoryRow>> {
        let sql = format!("{SELECT} WHERE r.id = $1 AND a.deleting = 0");
        let row = sqlx::query(assembled(sql)).bind(id.to_owned()).fetch_optional(self.0.read()).await?;
        row.as_ref().map(from_row).transpose()
    }

    /// The repository of an app.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn of_app(self, app: AppId) -> Result<Option<RepositoryRow>> {
        let sql = format!("{SELECT} WHERE r.app_id = $1");
        let row = sqlx::query(assembled(sql)).bind(app.0).fetch_optional(self.0.read()).await?;
        row.as_ref().map(from_row).transpose()
    }

    /// Repositories whose time to be looked at has come, the longest waiting first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn due(self, now: Timestamp, limit: i64) -> Result<Vec<RepositoryRow>> {
        let sql = format!(
            "{SELECT} WHERE r.poll_minutes > 0 AND r.poll_at <= $1 AND a.deleting = 0 ORDER BY r.poll_at LIMIT $2"
        );
        let rows = sqlx::query(assembled(sql)).bind(now.0).bind(limit).fetch_all(self.0.read()).await?;
        rows.iter().map(from_row).collect()
    }

    /// Makes every repository that is looked at regularly due within `spread` from now: after a start, what was
    /// missed meanwhile is found soon.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn look_soon(self, spread: std::time::Duration) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        let until = write.now.0 + i64::try_from(spread.as_micros()).unwrap_or(0);
        sqlx::query("UPDATE repositories SET poll_at = $1 WHERE poll_at > $1")
            .bind(until)
            .execute(write.conn())
            .await?;
        write.commit().await
    }

    /// Opens the secrets of a repository.
    ///
    /// # Errors
    /// When they were tampered with.
    pub fn secrets(self, row: &RepositoryRow) -> Result<RepositorySecrets> {
        let text = self.0.sealer.open_text(&credentials_place(&row.id), &row.sealed.credentials)?;
        let credentials = serde_json::from_str(&text)
            .map_err(|_| StoreError::corrupt("repositories", "credentials", "(sealed)"))?;
        let secret = self.0.sealer.open_text(&secret_place(&row.id), &row.sealed.secret)?;
        Ok(RepositorySecrets { credentials, webhook: WebhookSecret(secret) })
    }

    /// Gives the webhook another secret; what is signed with the old one is refused from now on.
    ///
    /// # Errors
    /// When the repository is gone.
    pub async fn rotate(
        self,
        by: &Principal,
        repository: &RepositoryRow,
        secret: &str,
    ) -> Result<RepositoryRow> {
        let mut write = Write::begin(self.0).await?;
        let sealed = self.0.sealer.seal(&secret_place(&repository.id), secret.as_bytes())?;
        sqlx::query("UPDATE repositories SET secret = $1 WHERE id = $2")
            .bind(sealed)
            .bind(repository.id.clone())
            .execute(write.conn())
            .await?;
        let event = NewEvent {
            kind: "webhook.rotated",
            by: by.name.clone(),
            app: Some(repository.app_id),
            summary: format!("The webhook of {} has a new secret.", repository.app),
            data: serde_json::Value::Null,
        };
        write.event(event).await?;
        let row = get(&mut write, &repository.id).await?;
        write.commit().await?;
        Ok(row)
    }

    /// Disconnects an app from its repository. False if there was none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn disconnect(self, by: &Principal, repository: &RepositoryRow) -> Result<bool> {
        let mut write = Write::begin(self.0).await?;
        let gone = sqlx::query("DELETE FROM repositories WHERE id = $1")
            .bind(repository.id.clone())
            .execute(write.conn())
            .await?
            .rows_affected()
            > 0;
        if gone {
            let event = NewEvent {
                kind: "repository.disconnected",
                by: by.name.clone(),
                app: Some(repository.app_id),
                summary: format!("App {} is disconnected from {}.", repository.app, repository.url),
                data: json!({ "url": repository.url }),
            };
            write.event(event).await?;
        }
        write.commit().await?;
        Ok(gone)
    }

    /// Notes the webhook that Berth registered, or that it has none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_hook(self, id: &str, hook: Option<&str>) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        sqlx::query("UPDATE repositories SET forge_hook = $1 WHERE id = $2")
            .bind(hook.map(str::to_owned))
            .bind(id.to_owned())
            .execute(write.conn())
            .await?;
        write.commit().await
    }

    /// Whether a webhook was accepted before: by its id, or by its content where that is given.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delivered(self, id: &str, delivery: &str, digest: Option<&str>) -> Result<bool> {
        let row = sqlx::query(
            "SELECT delivery FROM hook_deliveries WHERE repository_id = $1 AND (delivery = $2 OR digest = $3) LIMIT 1",
        )
        .bind(id.to_owned())
        .bind(delivery.to_owned())
        .bind(digest.unwrap_or("none").to_owned())
        .fetch_optional(self.0.read())
        .await?;
        Ok(row.is_some())
    }

    /// Remembers a webhook that was accepted, with what it taught. Call when what it led to is durable.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn accept(
        self,
        id: &str,
        delivery: &str,
        digest: Option<&str>,
        learnt: Learnt,
        shown: (&str, &str),
    ) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        sqlx::query(
            "INSERT INTO hook_deliveries (repository_id, delivery, digest, received_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT DO NOTHING",
        )
        .bind(id.to_owned())
        .bind(delivery.to_owned())
        .bind(digest.map(str::to_owned))
        .bind(write.now.0)
        .execute(write.conn())
        .await?;
        sqlx::query(
            "DELETE FROM hook_deliveries WHERE repository_id = $1 AND received_at <
                 (SELECT MIN(received_at) FROM (SELECT received_at FROM hook_deliveries WHERE repository_id = $1
                  ORDER BY received_at DESC LIMIT $2) AS kept)",
        )
        .bind(id.to_owned())
        .bind(REMEMBERED)
        .execute(write.conn())
        .await?;
        let note = note(&write, shown)?;
        sqlx::query("UPDATE repositories SET last_delivery = $1 WHERE id = $2")
            .bind(note)
            .bind(id.to_owned())
            .execute(write.conn())
            .await?;
        learn(&mut write, id, learnt).await?;
        write.commit().await
    }

    /// Notes that a webhook was refused, and says so in the event log if `audit`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn refuse(self, repository: &RepositoryRow, shown: (&str, &str), audit: bool) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        let note = note(&write, shown)?;
        sqlx::query("UPDATE repositories SET last_refusal = $1 WHERE id = $2")
            .bind(note)
            .bind(repository.id.clone())
            .execute(write.conn())
            .await?;
        if audit {
            let event = NewEvent {
                kind: "webhook.refused",
                by: Principal::daemon().name,
                app: Some(repository.app_id),
                summary: format!("A webhook for {} was refused: {}.", repository.app, shown.1),
                data: serde_json::Value::Null,
            };
            write.event(event).await?;
        }
        write.commit().await
    }

    /// Notes what a look found, and when the next one is.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn looked(
        self,
        id: &str,
        seen: &BTreeMap<String, String>,
        next: Timestamp,
        learnt: Learnt,
    ) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        sqlx::query(
            "UPDATE repositories SET seen = $1, poll_at = $2, polled_at = $3, poll_failures = 0, poll_problem = NULL
             WHERE id = $4",
        )
        .bind(row::to_json("repositories", "seen", seen)?)
        .bind(next.0)
        .bind(write.now.0)
        .bind(id.to_owned())
        .execute(write.conn())
        .await?;
        learn(&mut write, id, learnt).await?;
        write.commit().await
    }

    /// Notes that a look failed, and when the next one is.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn look_failed(self, id: &str, problem: &Problem, next: Timestamp) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        sqlx::query(
            "UPDATE repositories SET poll_problem = $1, poll_at = $2, polled_at = $3,
                 poll_failures = poll_failures + 1 WHERE id = $4",
        )
        .bind(row::to_json("repositories", "poll_problem", problem)?)
        .bind(next.0)
        .bind(write.now.0)
        .bind(id.to_owned())
        .execute(write.conn())
        .await?;
        write.commit().await
    }

    /// Keeps what was learnt.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn learn(self, id: &str, learnt: Learnt) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        learn(&mut write, id, learnt).await?;
        write.commit().await
    }
}

async fn learn(write: &mut Write<'_>, id: &str, learnt: Learnt) -> Result<()> {
    sqlx::query(
        "UPDATE repositories SET remote_id = COALESCE(remote_id, $1), branch = COALESCE(branch, $2)
         WHERE id = $3",
    )
    .bind(learnt.remote_id)
    .bind(learnt.branch)
    .bind(id.to_owned())
    .execute(write.conn())
    .await?;
    Ok(())
}

fn note(write: &Write<'_>, (event, outcome): (&str, &str)) -> Result<String> {
    let shown = DeliveryShown {
        at: write.now,
        event: Untrusted(storable(event, MAX_TEXT)),
        outcome: Untrusted(storable(outcome, MAX_TEXT)),
    };
    row::to_json("repositories", "last_delivery", &shown)
}

/// Whether it is the repository that is connected already, whichever way it is reached.
fn same_place(old: &RepositoryRow, new: &NewRepository) -> bool {
    let host = |url: &str| {
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let rest = rest.split('/').next().unwrap_or_default();
        let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
        rest.split(':').next().unwrap_or_default().to_ascii_lowercase()
    };
    old.forge == new.forge
        && old.full_name.eq_ignore_ascii_case(&new.full_name)
        && host(&old.url) == host(&new.url)
}

async fn find(write: &mut Write<'_>, app: AppId) -> Result<Option<RepositoryRow>> {
    let sql = format!("{SELECT} WHERE r.app_id = $1");
    let row = sqlx::query(assembled(sql)).bind(app.0).fetch_optional(write.conn()).await?;
    row.as_ref().map(from_row).transpose()
}

async fn get(write: &mut Write<'_>, id: &str) -> Result<RepositoryRow> {
    let sql = format!("{SELECT} WHERE r.id = $1");
    let row = sqlx::query(assembled(sql)).bind(id.to_owned()).fetch_optional(write.conn()).await?;
    row.as_ref().map(from_row).transpose()?.ok_or_else(|| StoreError::not_found("repository", id))
}

fn credentials_place(id: &str) -> Place<'_> {
    Place { column: "repositories/credentials", row: id }
}

fn secret_place(id: &str) -> Place<'_> {
    Place { column: "repositories/secret", row: id }
}
