//! All tokens in memory by the SHA-256 of their secret, so that authentication asks no database.
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

use berth_schemas::Timestamp;
use sha2::{Digest, Sha256};
use sqlx::{AnyPool, Row};

use crate::{
    error::{Result, StoreError},
    model::{Principal, ProjectId, Visible},
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

    /// Uses that the database does not know, as (token name, time).
    pub(crate) fn unwritten(&self) -> Vec<(String, i64)> {
        let map = self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        map.values()
            .filter_map(|e| {
                let used = e.last_used.load(Ordering::Relaxed);
                (used > e.flushed.load(Ordering::Relaxed)).then(|| (e.principal.name.clone(), used))
            })
            .collect()
    }

    /// Notes which uses were written.
    pub(crate) fn written(&self, uses: &[(String, i64)]) {
        let map = self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        for entry in map.values() {
            if let Some((_, at)) = uses.iter().find(|(name, _)| *name == entry.principal.name) {
                entry.flushed.fetch_max(*at, Ordering::Relaxed);
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
    let rows = sqlx::query("SELECT id, name, hash, scopes, restricted, expires_at, last_used_at FROM tokens")
        .fetch_all(pool)
        .await?;
    let mut map = HashMap::with_capacity(rows.len());
    for row in rows {
        let text: String = row.try_get("hash")?;
        let mut hash = [0u8; 32];
        hex::decode_to_slice(&text, &mut hash).map_err(|_| StoreError::corrupt("tokens", "hash", &text))?;
        let visible = match row.try_get::<i64, _>("restricted")? {
            0 => Visible::All,
            _ => Visible::Projects(projects.remove(&row.try_get("id")?).unwrap_or_default()),
        };
        let used = row.try_get::<Option<i64>, _>("last_used_at")?.unwrap_or(0);
        let entry = Entry {
            principal: Principal {
                name: row.try_get("name")?,
                scopes: crate::row::json(&row, "tokens", "scopes")?,
                visible,
            },
            expires_at: crate::row::time_opt(&row, "expires_at")?,
            last_used: AtomicI64::new(used),
            flushed: AtomicI64::new(used),
        };
        map.insert(hash, entry);
    }
    Ok(map)
}
