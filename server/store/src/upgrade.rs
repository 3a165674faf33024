//! What another version of Berth means for the data: looking before opening, and putting back.
//!
//! An upgrade is tried by a new process while the old one still serves. [`preview`] lets the new one say no before
//! anything was changed. If it fails after it has brought the schema forward, [`put_back`] lets the old one go on
//! with the copy that was made before.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use sqlx::any::AnyPoolOptions;

use crate::{
    database::{SQLITE_FILE, lock_directory, percent_encode},
    error::{Result, StoreError},
    migration,
    store::StoreConfig,
};

/// Looks at the database without locking or changing it, beside a daemon that uses it. Returns the names of the
/// migrations that opening it with this version would apply.
///
/// # Errors
/// `Newer` and `MigrationChanged` as [`crate::Store::open`] would answer, or when it cannot be read.
pub async fn preview(config: &StoreConfig) -> Result<Vec<&'static str>> {
    sqlx::any::install_default_drivers();
    let url = match &config.database_url {
        Some(url) => url.clone(),
        None => {
            let file = config.data_dir.join(SQLITE_FILE);
            if !file.exists() {
                return Ok(migration::ALL.iter().map(|m| m.name).collect());
            }
            format!("sqlite://{}?mode=ro", percent_encode(&file))
        }
    };
    let pool = AnyPoolOptions::new().max_connections(1).connect(&url).await?;
    let found = migration::applied(&pool, migration::ALL).await;
    pool.close().await;
    let found = found?;
    Ok(migration::ALL.iter().filter(|m| m.version > found).map(|m| m.name).collect())
}

/// Puts the copy back that a newer version made before it changed the schema, unless it is older than `since`. What
/// the newer version made of the database stays beside it as `berth.db.refused`. Returns the copy that was used; none
/// where there is none, as with PostgreSQL.
///
/// # Errors
/// When another daemon uses the data, or a file cannot be moved.
pub fn put_back(data_dir: &Path, since: SystemTime) -> Result<Option<PathBuf>> {
    let _alone = lock_directory(data_dir)?;
    let file = data_dir.join(SQLITE_FILE);
    let copy = migration::copy_path(&file, migration::newest() + 1);
    let made = std::fs::metadata(&copy).and_then(|m| m.modified());
    if !made.is_ok_and(|made| made >= since) {
        return Ok(None);
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| StoreError::File { action: "put back", path, source }
    };
    // The journal belongs to the file that goes; it must not be applied to the one that comes.
    for companion in ["-wal", "-shm"] {
        let path = with_suffix(&file, companion);
        match std::fs::rename(&path, with_suffix(&path, ".refused")) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(&path)(e)),
            _ => {}
        }
    }
    std::fs::rename(&file, with_suffix(&file, ".refused")).map_err(failed(&file))?;
    // A copy of the copy, renamed into place: the copy itself stays for a person.
    let coming = with_suffix(&file, ".coming");
    std::fs::copy(&copy, &coming).map_err(failed(&coming))?;
    std::fs::File::open(&coming).and_then(|f| f.sync_all()).map_err(failed(&coming))?;
    std::fs::rename(&coming, &file).map_err(failed(&file))?;
    Ok(Some(copy))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{MasterKey, Store};

    async fn opened(dir: &Path) -> Result<Store> {
        let config = StoreConfig { data_dir: dir.to_owned(), database_url: None };
        Store::open(config, MasterKey::load_or_create(dir).unwrap()).await
    }

    /// What a newer version would do: a copy first, then a schema that this one does not know.
    async fn brought_forward(dir: &Path) {
        let file = dir.join(SQLITE_FILE);
        std::fs::copy(&file, migration::copy_path(&file, migration::newest() + 1)).unwrap();
        let url = format!("sqlite://{}?mode=rw", file.display());
        let pool = AnyPoolOptions::new().max_connections(1).connect(&url).await.unwrap();
        sqlx::query(
            "INSERT INTO migrations (version, name, checksum, applied_at) VALUES ($1, 'new', 'x', 0)",
        )
        .bind(migration::newest() + 1)
        .execute(&pool)
        .await
        .unwrap();
        pool.close().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_look_changes_nothing_and_works_beside_a_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let config = StoreConfig { data_dir: dir.path().to_owned(), database_url: None };
        assert_eq!(preview(&config).await.unwrap().len(), migration::ALL.len());
        assert!(!dir.path().join(SQLITE_FILE).exists());
        let store = opened(dir.path()).await.unwrap();
        assert!(preview(&config).await.unwrap().is_empty());
        store.close().await;
        brought_forward(dir.path()).await;
        assert!(matches!(preview(&config).await, Err(StoreError::Newer { .. })));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_a_failed_upgrade_brought_forward_is_put_back() {
        let dir = tempfile::tempdir().unwrap();
        let began = SystemTime::now() - Duration::from_secs(1);
        let store = opened(dir.path()).await.unwrap();
        let instance = store.instance().to_owned();
        assert!(matches!(put_back(dir.path(), began), Err(StoreError::Locked(_))), "it is in use");
        store.close().await;
        assert_eq!(put_back(dir.path(), began).unwrap(), None, "there is nothing to put back");
        brought_forward(dir.path()).await;
        assert!(matches!(opened(dir.path()).await, Err(StoreError::Newer { .. })));
        let later = SystemTime::now() + Duration::from_secs(60);
        assert_eq!(
            put_back(dir.path(), later).unwrap(),
            None,
            "a copy of an earlier upgrade is not this one's"
        );
        assert!(put_back(dir.path(), began).unwrap().is_some());
        let store = opened(dir.path()).await.unwrap();
        assert_eq!(store.instance(), instance);
        assert!(dir.path().join("berth.db.refused").exists());
        store.close().await;
    }
}
