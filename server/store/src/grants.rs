//! Grants: what a person allowed a client, out of what that person's token may. The client gets an access token for an
//! hour and a refresh token that is good once. Codes and tokens are kept as hashes.
//!
//! A grant goes with the token that it was approved with. What was used twice, a code or a refresh token, is in the
//! hands of two: then the grant ends, whoever came first.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use berth_schemas::{
    ProjectSlug, Scope,
    grant::Grant,
    ids::{GrantId, TokenName},
    token::TokenMode,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use sqlx::{Row, any::AnyRow};
use subtle::ConstantTimeEq as _;

use crate::{
    database::{assembled, storable},
    error::{Result, StoreError},
    key::KeyError,
    model::{NewEvent, Principal, ProjectId},
    row,
    store::Inner,
    token_cache::hash,
    tokens::random_secret,
    write::Write,
};

/// A second, in the unit of times.
const SECOND: i64 = 1_000_000;
/// How long a code is good.
const CODE: i64 = 120 * SECOND;
/// How long an access token is good.
const ACCESS: i64 = 3600 * SECOND;
/// How long a grant lasts that is not used.
const IDLE: i64 = 60 * 24 * 3600 * SECOND;
/// How long a used code is remembered, to notice that it is used again.
const REMEMBERED: i64 = 24 * 3600 * SECOND;
/// Grants that are kept at most.
const MOST: i64 = 500;

/// What a person approved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Approval {
    /// The client.
    pub client_id: String,
    /// What it calls itself.
    pub client_name: String,
    /// Where the code is sent.
    pub redirect_uri: String,
    /// The S256 challenge (RFC 7636) whose verifier the client must show.
    pub challenge: String,
    /// The URL that access tokens will be good for.
    pub resource: String,
    /// What the client may do.
    pub scopes: Vec<Scope>,
    /// The projects it may touch; empty means those of the token.
    pub projects: Vec<ProjectSlug>,
    /// How far it goes.
    pub mode: TokenMode,
}

/// What a client shows with a code.
#[derive(Debug, Clone, Copy)]
pub struct Presented<'a> {
    /// Its id.
    pub client_id: &'a str,
    /// Where it says that the code was sent to.
    pub redirect_uri: Option<&'a str>,
    /// What the challenge was made of.
    pub verifier: &'a str,
    /// The URL that it wants to use.
    pub resource: Option<&'a str>,
}

/// What a client gets.
#[derive(Clone)]
pub struct Issued {
    /// The access token.
    pub access: String,
    /// The refresh token, good once.
    pub refresh: String,
    /// Seconds for which the access token is good.
    pub expires_in: i64,
    /// What the client may do.
    pub scopes: Vec<Scope>,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("scopes", &self.scopes).finish_non_exhaustive()
    }
}

/// Grants of a [`crate::Store`].
#[derive(Clone, Copy)]
pub struct Grants<'a>(pub(crate) &'a Inner);

impl Grants<'_> {
    /// Keeps what the owner of a token approved, and returns the code for it.
    ///
    /// # Errors
    /// When the caller is no token's owner, lacks a scope that it would give away, or cannot see a project.
    pub async fn approve(self, by: &Principal, approval: Approval) -> Result<String> {
        if by.grant.is_some() {
            return Err(StoreError::Forbidden("a client cannot approve another one".into()));
        }
        if let Some(scope) = approval.scopes.iter().find(|s| !by.may(**s)) {
            return Err(StoreError::Forbidden(format!(
                "the scope {} can only be given by a token that has it",
                scope.as_str()
            )));
        }
        let code = random_secret("berth_ac_")?;
        let mut write = Write::begin(self.0).await?;
        let count = sqlx::query("SELECT COUNT(*) AS n FROM grants").fetch_one(write.conn()).await?;
        if count.try_get::<i64, _>("n")? >= MOST {
            return Err(StoreError::conflict(
                format!("there are {MOST} grants, which are as many as are kept"),
                "Revoke some with grant_revoke.",
            ));
        }
        let token = sqlx::query("SELECT id FROM tokens WHERE name = $1")
            .bind(by.name.clone())
            .fetch_optional(write.conn())
            .await?
            .ok_or_else(|| StoreError::not_found("token", &by.name))?;
        // Whether each project is there and may be seen; their ids are looked up when the code is used.
        project_ids(&mut write, Some(by), &approval.projects).await?;
        let now = write.now.0;
        sqlx::query("INSERT INTO grant_codes (hash, token_id, approved, expires_at) VALUES ($1, $2, $3, $4)")
            .bind(hashed(&code))
            .bind(token.try_get::<i64, _>("id")?)
            .bind(row::to_json("grant_codes", "approved", &approval)?)
            .bind(now + CODE)
            .execute(write.conn())
            .await?;
        sqlx::query("UPDATE oauth_clients SET used_at = $1 WHERE id = $2")
            .bind(now)
            .bind(approval.client_id)
            .execute(write.conn())
            .await?;
        write.commit().await?;
        Ok(code)
    }

    /// Turns a code into a grant. `None` when the code is unknown, expired, used or not for whoever shows it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn redeem(self, code: &str, shown: Presented<'_>) -> Result<Option<Issued>> {
        let mut write = Write::begin(self.0).await?;
        let found = sqlx::query(
            "SELECT c.approved, c.expires_at, c.grant_id, c.token_id, t.name, t.expires_at AS token_until
             FROM grant_codes c JOIN tokens t ON t.id = c.token_id WHERE c.hash = $1",
        )
        .bind(hashed(code))
        .fetch_optional(write.conn())
        .await?;
        let Some(found) = found else { return Ok(None) };
        let approved: Approval = row::json(&found, "grant_codes", "approved")?;
        if shown.client_id != approved.client_id {
            return Ok(None);
        }
        if let Some(grant) = found.try_get::<Option<String>, _>("grant_id")? {
            self.end_reused(write, &grant, "code").await?;
            return Ok(None);
        }
        let now = write.now;
        let over = |column| Ok::<_, StoreError>(row::time_opt(&found, column)?.is_some_and(|t| t <= now));
        let differs = |shown: Option<&str>, approved: &str| shown.is_some_and(|shown| shown != approved);
        if over("expires_at")?
            || over("token_until")?
            || differs(shown.redirect_uri, &approved.redirect_uri)
            || differs(shown.resource, &approved.resource)
            || !proves(shown.verifier, &approved.challenge)
        {
            return Ok(None);
        }
        let projects = match approved.projects.is_empty() {
            true => None,
            false => Some(project_ids(&mut write, None, &approved.projects).await?),
        };
        let id = random_id()?;
        sqlx::query(
            "INSERT INTO grants (id, token_id, client_id, client_name, redirect, resource, scopes, projects,
                 created_at, expires_at, mode) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        )
        .bind(id.clone())
        .bind(found.try_get::<i64, _>("token_id")?)
        .bind(approved.client_id)
        .bind(storable(&approved.client_name, 100))
        .bind(approved.redirect_uri)
        .bind(approved.resource)
        .bind(row::to_json("grants", "scopes", &approved.scopes)?)
        .bind(projects.map(|p| row::to_json("grants", "projects", &p)).transpose()?)
        .bind(now.0)
        .bind(now.0 + IDLE)
        .bind(approved.mode.as_str())
        .execute(write.conn())
        .await?;
        sqlx::query("UPDATE grant_codes SET grant_id = $1 WHERE hash = $2")
            .bind(id.clone())
            .bind(hashed(code))
            .execute(write.conn())
            .await?;
        let by: String = found.try_get("name")?;
        let event = NewEvent {
            kind: "grant.created",
            summary: format!("Grant {id} was made with the token {by}."),
            by,
            app: None,
            data: json!({ "grant": id, "scopes": approved.scopes, "projects": approved.projects }),
        };
        write.event(event).await?;
        let issued = issue(&mut write, &id, approved.scopes).await?;
        write.commit().await?;
        self.0.tokens.reload(self.0.read()).await?;
        Ok(Some(issued))
    }

    /// Takes a refresh token and gives new tokens. `None` when it is unknown, expired or another client's, or was used
    /// before: then its grant ends.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn refresh(
        self,
        refresh: &str,
        client_id: &str,
        resource: Option<&str>,
    ) -> Result<Option<Issued>> {
        let mut write = Write::begin(self.0).await?;
        let found = sqlx::query(
            "SELECT s.used_at, s.expires_at, g.id, g.client_id, g.resource, g.scopes, t.expires_at AS token_until
             FROM grant_secrets s JOIN grants g ON g.id = s.grant_id JOIN tokens t ON t.id = g.token_id
             WHERE s.hash = $1 AND s.kind = 'refresh'",
        )
        .bind(hashed(refresh))
        .fetch_optional(write.conn())
        .await?;
        let Some(found) = found else { return Ok(None) };
        if found.try_get::<String, _>("client_id")? != client_id {
            return Ok(None);
        }
        let id: String = found.try_get("id")?;
        if found.try_get::<Option<i64>, _>("used_at")?.is_some() {
            self.end_reused(write, &id, "refresh token").await?;
            return Ok(None);
        }
        let now = write.now;
        let of: String = found.try_get("resource")?;
        if row::time(&found, "expires_at")? <= now
            || row::time_opt(&found, "token_until")?.is_some_and(|t| t <= now)
            || resource.is_some_and(|r| r != of)
        {
            return Ok(None);
        }
        sqlx::query("UPDATE grant_secrets SET used_at = $1 WHERE hash = $2")
            .bind(now.0)
            .bind(hashed(refresh))
            .execute(write.conn())
            .await?;
        sqlx::query("UPDATE grants SET expires_at = $1 WHERE id = $2")
            .bind(now.0 + IDLE)
            .bind(id.clone())
            .execute(write.conn())
            .await?;
        let issued = issue(&mut write, &id, row::json(&found, "grants", "scopes")?).await?;
        write.commit().await?;
        self.0.tokens.reload(self.0.read()).await?;
        Ok(Some(issued))
    }

    /// All grants, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list(self) -> Result<Vec<Grant>> {
        let names =
            sqlx::query("SELECT id, slug FROM projects ORDER BY slug").fetch_all(self.0.read()).await?;
        let rows = sqlx::query(
            "SELECT g.id, g.client_id, g.client_name, g.redirect, g.resource, g.scopes, g.projects, g.mode, g.created_at,
                 g.expires_at, g.used_at, t.name
             FROM grants g JOIN tokens t ON t.id = g.token_id ORDER BY g.created_at DESC, g.id",
        )
        .fetch_all(self.0.read())
        .await?;
        let unwritten = self.0.tokens.unwritten();
        rows.iter()
            .map(|r| {
                let mut grant = from_row(r, &names)?;
                let used =
                    unwritten.iter().filter(|u| u.grant.as_ref() == Some(&grant.grant)).map(|u| u.at).max();
                grant.last_used_at = used.map(berth_schemas::Timestamp).or(grant.last_used_at);
                Ok(grant)
            })
            .collect()
    }

    /// Ends a grant, at once.
    ///
    /// # Errors
    /// When there is none of this id.
    pub async fn revoke(self, by: &Principal, id: &GrantId) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        if !end(&mut write, id.as_str(), &by.name, "was revoked").await? {
            return Err(StoreError::not_found("grant", id));
        }
        write.commit().await?;
        self.0.tokens.reload(self.0.read()).await
    }

    /// Takes back what a client does not need any more (RFC 7009): with a refresh token its grant ends, an access
    /// token stops working. What is unknown or another client's is left alone; true if something ended.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn give_back(self, secret: &str, client_id: &str) -> Result<bool> {
        let mut write = Write::begin(self.0).await?;
        let found = sqlx::query(
            "SELECT s.kind, g.id, g.client_id, t.name FROM grant_secrets s JOIN grants g ON g.id = s.grant_id
             JOIN tokens t ON t.id = g.token_id WHERE s.hash = $1",
        )
        .bind(hashed(secret))
        .fetch_optional(write.conn())
        .await?;
        let Some(found) = found else { return Ok(false) };
        if found.try_get::<String, _>("client_id")? != client_id {
            return Ok(false);
        }
        let id: String = found.try_get("id")?;
        if found.try_get::<String, _>("kind")? == "refresh" {
            let by: String = found.try_get("name")?;
            end(&mut write, &id, &format!("{by}/{id}"), "was given back by its client").await?;
        } else {
            sqlx::query("DELETE FROM grant_secrets WHERE hash = $1")
                .bind(hashed(secret))
                .execute(write.conn())
                .await?;
        }
        write.commit().await?;
        self.0.tokens.reload(self.0.read()).await?;
        Ok(true)
    }

    /// Forgets what has expired. The store does it by itself once a minute.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn remove_expired(self) -> Result<()> {
        let now = self.0.clock.now().0;
        // Look first: a write that changes nothing would still wait for its turn and the disk.
        let old = sqlx::query(
            "SELECT (SELECT COUNT(*) FROM grant_secrets WHERE expires_at < $1)
                  + (SELECT COUNT(*) FROM grant_codes WHERE expires_at < $2)
                  + (SELECT COUNT(*) FROM grants WHERE expires_at < $3) AS n",
        )
        .bind(now)
        .bind(now - REMEMBERED)
        .bind(now)
        .fetch_one(self.0.read())
        .await?;
        if old.try_get::<i64, _>("n")? == 0 {
            return Ok(());
        }
        let mut write = Write::begin(self.0).await?;
        for (sql, before) in [
            ("DELETE FROM grant_secrets WHERE expires_at < $1", now),
            ("DELETE FROM grant_codes WHERE expires_at < $1", now - REMEMBERED),
            ("DELETE FROM grants WHERE expires_at < $1", now),
        ] {
            sqlx::query(sql).bind(before).execute(write.conn()).await?;
        }
        write.commit().await?;
        self.0.tokens.reload(self.0.read()).await
    }

    async fn end_reused(self, mut write: Write<'_>, id: &str, what: &str) -> Result<()> {
        tracing::warn!(grant = id, "a {what} was used twice");
        let why = format!("ended, because a {what} was used twice: somebody else may have it");
        end(&mut write, id, &Principal::daemon().name, &why).await?;
        write.commit().await?;
        self.0.tokens.reload(self.0.read()).await
    }
}

/// Ends a grant; false if there is none of this id.
async fn end(write: &mut Write<'_>, id: &str, by: &str, how: &str) -> Result<bool> {
    let gone = sqlx::query("DELETE FROM grants WHERE id = $1")
        .bind(id.to_owned())
        .execute(write.conn())
        .await?
        .rows_affected();
    if gone == 0 {
        return Ok(false);
    }
    let event = NewEvent {
        kind: "grant.revoked",
        by: by.to_owned(),
        app: None,
        summary: format!("Grant {id} {how}."),
        data: json!({ "grant": id }),
    };
    write.event(event).await?;
    Ok(true)
}

/// Makes the next two tokens of a grant.
async fn issue(write: &mut Write<'_>, id: &str, scopes: Vec<Scope>) -> Result<Issued> {
    let (access, refresh) = (random_secret("berth_at_")?, random_secret("berth_rt_")?);
    let now = write.now.0;
    for (secret, kind, lasts) in [(&access, "access", ACCESS), (&refresh, "refresh", IDLE)] {
        sqlx::query("INSERT INTO grant_secrets (hash, grant_id, kind, expires_at) VALUES ($1, $2, $3, $4)")
            .bind(hashed(secret))
            .bind(id.to_owned())
            .bind(kind)
            .bind(now + lasts)
            .execute(write.conn())
            .await?;
    }
    Ok(Issued { access, refresh, expires_in: ACCESS / SECOND, scopes })
}

/// The ids of these projects; those that a caller cannot see are not found.
async fn project_ids(
    write: &mut Write<'_>,
    by: Option<&Principal>,
    projects: &[ProjectSlug],
) -> Result<Vec<ProjectId>> {
    let condition = by.map_or_else(|| "1 = 1".into(), |by| crate::database::visible(&by.visible, "id"));
    let mut ids = Vec::with_capacity(projects.len());
    for project in projects {
        let found =
            sqlx::query(assembled(format!("SELECT id FROM projects WHERE slug = $1 AND {condition}")))
                .bind(project.as_str().to_owned())
                .fetch_optional(write.conn())
                .await?
                .ok_or_else(|| StoreError::not_found("project", project))?;
        ids.push(ProjectId(found.try_get("id")?));
    }
    Ok(ids)
}

/// Whether a challenge was made of this verifier (RFC 7636, S256).
fn proves(verifier: &str, challenge: &str) -> bool {
    let made = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
    made.as_bytes().ct_eq(challenge.as_bytes()).into()
}

fn hashed(secret: &str) -> String {
    hex::encode(hash(secret))
}

fn random_id() -> Result<String> {
    let mut bytes = [0u8; 6];
    getrandom::fill(&mut bytes).map_err(|e| KeyError::NoEntropy(e.to_string()))?;
    Ok(hex::encode(bytes))
}

fn from_row(r: &AnyRow, names: &[AnyRow]) -> Result<Grant> {
    let ids: Vec<ProjectId> = row::json_opt(r, "grants", "projects")?.unwrap_or_default();
    let mut projects = Vec::with_capacity(ids.len());
    for name in names {
        if ids.contains(&ProjectId(name.try_get("id")?)) {
            projects.push(row::name(name, "projects", "slug")?);
        }
    }
    Ok(Grant {
        grant: row::name(r, "grants", "id")?,
        client: r.try_get::<String, _>("client_name")?.into(),
        client_id: r.try_get::<String, _>("client_id")?.into(),
        redirect: r.try_get::<String, _>("redirect")?.into(),
        approved_by: row::name::<TokenName>(r, "tokens", "name")?,
        scopes: row::json(r, "grants", "scopes")?,
        projects,
        mode: row::word(r, "grants", "mode", TokenMode::parse)?,
        resource: r.try_get("resource")?,
        created_at: row::time(r, "created_at")?,
        expires_at: row::time(r, "expires_at")?,
        last_used_at: row::time_opt(r, "used_at")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_proves_its_own_challenge_only() {
        // The example of RFC 7636, appendix B.
        let (verifier, challenge) =
            ("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
        assert!(proves(verifier, challenge));
        assert!(!proves(challenge, challenge));
        assert!(!proves("", ""));
    }
}
