//! All tokens, and the access tokens of all grants, in memory by the SHA-256 of their secret, so that authentication
//! asks no database.
//!
//! A secret has some 238 bits, so a plain hash cannot be guessed back, and looking it up in a map leaks
//! nothing of use.

use std::{
    collections::HashMap,
    sync::{
        RwLock,
        atomic::{AtomicI64, Ordering},
    },
};

use berth_schemas::{Scope, Timestamp, ids::GrantId, token::TokenMode};
use sha2::{Digest, Sha256};
use sqlx::{AnyPool, Row};

use crate::{
    error::{Result, StoreError},
    model::{ByGrant, Principal, ProjectId, Visible},
};

type Hash = [u8; 32];

/// A token as authentication needs it.
struct Entry {
    principal: Principal,
    expires_at: Option<Timestamp>,
    /// Microseconds; 0 means never.
    last_used: AtomicI64,
    /// The last use that the database knows.
    flushed: AtomicI64,
}

impl Entry {
    fn new(principal: Principal, expires_at: Option<Timestamp>, used: i64) -> Self {
        Self { principal, expires_at, last_used: AtomicI64::new(used), flushed: AtomicI64::new(used) }
    }
}

/// A use that the database does not know yet.
#[derive(Debug, Clone)]
pub(crate) struct Used {
    /// The principal's name.
    pub(crate) name: String,
    /// Its grant.
    pub(crate) grant: Option<GrantId>,
    /// When, in microseconds.
    pub(crate) at: i64,
}

/// The tokens in memory.
pub(crate) struct TokenCache(RwLock<HashMap<Hash, Entry>>);

impl TokenCache {
    /// Reads all tokens.
    pub(crate) async fn load(pool: &AnyPool) -> Result<Self> {
        Ok(Self(RwLock::new(read(pool).await?)))
    }

    /// Reads all tokens again, keeping the uses that were not written yet.
    pub(crate) async fn reload(&self, pool: &AnyPool) -> Result<()> {
        let fresh = read(pool).await?;
        let mut map = self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let old = std::mem::replace(&mut *map, fresh);
        for (hash, entry) in old {
            if let Some(new) = map.get(&hash) {
                new.last_used.fetch_max(entry.last_used.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Whose secret it is, if its token has not expired; notes the use.
    pub(crate) fn find(&self, secret: &str, now: Timestamp) -> Option<Principal> {
        let map = self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let entry = map.get(&hash(secret))?;
        if entry.expires_at.is_some_and(|e| e <= now) {
            return None;
        }
        entry.last_used.fetch_max(now.0, Ordering::Relaxed);
        Some(entry.principal.clone())
    }

    /// Uses that the database does not know.
    pub(crate) fn unwritten(&self) -> Vec<Used> {
        let map = self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        map.values()
            .filter_map(|e| {
                let used = e.last_used.load(Ordering::Relaxed);
                (used > e.flushed.load(Ordering::Relaxed)).then(|| Used {
                    name: e.principal.name.clone(),
                    grant: e.principal.grant.as_ref().map(|g| g.id.clone()),
                    at: used,
                })
            })
            .collect()
    }

    /// Notes which uses were written.
    pub(crate) fn written(&self, uses: &[Used]) {
        let map = self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        for entry in map.values() {
            if let Some(used) = uses.iter().find(|u| u.name == entry.principal.name) {
                entry.flushed.fetch_max(used.at, Ordering::Relaxed);
            }
        }
    }
}

/// What stands for a secret in the database and in memory.
pub(crate) fn hash(secret: &str) -> Hash {
    Sha256::digest(secret.as_bytes()).into()
}

async fn read(pool: &AnyPool) -> Result<HashMap<Hash, Entry>> {
    let mut projects: HashMap<i64, Vec<ProjectId>> = HashMap::new();
    let links = sqlx::query("SELECT token_id, project_id FROM token_projects").fetch_all(pool).await?;
    for link in links {
        projects.entry(link.try_get("token_id")?).or_default().push(ProjectId(link.try_get("project_id")?));
    }
    let rows = sqlx::query(
        "SELECT id, name, hash, scopes, restricted, mode, tools, expires_at, last_used_at FROM tokens",
    )
    .fetch_all(pool)
    .await?;
    let mut map = HashMap::with_capacity(rows.len());
    let mut owners: HashMap<i64, (Principal, Option<Timestamp>)> = HashMap::with_capacity(rows.len());
    for row in rows {
        let hash = hash_of(&row, "tokens")?;
        let id: i64 = row.try_get("id")?;
        let visible = match row.try_get::<i64, _>("restricted")? {
            0 => Visible::All,
            _ => Visible::Projects(projects.remove(&id).unwrap_or_default()),
        };
        let used = row.try_get::<Option<i64>, _>("last_used_at")?.unwrap_or(0);
        let scopes = crate::row::json(&row, "tokens", "scopes")?;
        let principal = Principal {
            mode: crate::row::word(&row, "tokens", "mode", TokenMode::parse)?,
            tools: crate::row::json(&row, "tokens", "tools")?,
            ..Principal::new(row.try_get::<String, _>("name")?, scopes, visible)
        };
        let expires_at = crate::row::time_opt(&row, "expires_at")?;
        owners.insert(id, (principal.clone(), expires_at));
        map.insert(hash, Entry::new(principal, expires_at, used));
    }
    let rows = sqlx::query(
        "SELECT s.hash, s.expires_at, g.id, g.token_id, g.scopes, g.projects, g.mode, g.resource, g.client_name, g.used_at
         FROM grant_secrets s JOIN grants g ON g.id = s.grant_id WHERE s.kind = 'access'",
    )
    .fetch_all(pool)
    .await?;
    for row in rows {
        // A token that was revoked between the two queries takes its grants along.
        let Some((owner, until)) = owners.get(&row.try_get("token_id")?) else { continue };
        let id: GrantId = crate::row::name(&row, "grants", "id")?;
        let scopes: Vec<Scope> = crate::row::json(&row, "grants", "scopes")?;
        let projects: Option<Vec<ProjectId>> = crate::row::json_opt(&row, "grants", "projects")?;
        // Whatever is written in the grant: never more than the token may.
        let principal = Principal {
            name: format!("{}/{id}", owner.name),
            scopes: scopes.into_iter().filter(|s| owner.may(*s)).collect(),
            visible: within(&owner.visible, projects),
            mode: owner.mode.max(crate::row::word(&row, "grants", "mode", TokenMode::parse)?),
            tools: owner.tools.clone(),
            grant: Some(ByGrant {
                id,
                client: row.try_get("client_name")?,
                resource: row.try_get("resource")?,
            }),
        };
        let expires_at = crate::row::time(&row, "expires_at")?;
        let expires_at = until.map_or(expires_at, |until| until.min(expires_at));
        let used = row.try_get::<Option<i64>, _>("used_at")?.unwrap_or(0);
        map.insert(hash_of(&row, "grant_secrets")?, Entry::new(principal, Some(expires_at), used));
    }
    Ok(map)
}

/// What is in both.
fn within(owner: &Visible, projects: Option<Vec<ProjectId>>) -> Visible {
    match (owner, projects) {
        (owner, None) => owner.clone(),
        (owner, Some(ids)) => Visible::Projects(ids.into_iter().filter(|id| owner.allows(*id)).collect()),
    }
}

fn hash_of(row: &sqlx::any::AnyRow, table: &'static str) -> Result<Hash> {
    let text: String = row.try_get("hash")?;
    let mut hash = [0u8; 32];
    hex::decode_to_slice(&text, &mut hash).map_err(|_| StoreError::corrupt(table, "hash", &text))?;
    Ok(hash)
}
