//! Schema migrations: numbered, embedded, forward only.
//!
//! Each is applied in a transaction of its own and recorded with its checksum. A database that is newer
//! than the binary, or whose history differs, is refused rather than guessed at. Before a SQLite database
//! with data is changed, it is copied beside itself.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, Row};

use crate::{
    clock::Clock,
    database::{Database, Kind},
    error::{Result, StoreError},
};

pub(crate) struct Migration {
    pub(crate) version: i64,
    pub(crate) name: &'static str,
    pub(crate) sql: &'static str,
}

/// All migrations, oldest first.
pub(crate) const ALL: &[Migration] = &[
    Migration { version: 1, name: "first", sql: include_str!("../migrations/0001_first.sql") },
    Migration {
        version: 2,
        name: "zero_downtime",
        sql: include_str!("../migrations/0002_zero_downtime.sql"),
    },
    Migration { version: 3, name: "environments", sql: include_str!("../migrations/0003_environments.sql") },
    Migration { version: 4, name: "domains", sql: include_str!("../migrations/0004_domains.sql") },
    Migration { version: 5, name: "git", sql: include_str!("../migrations/0005_git.sql") },
    Migration { version: 6, name: "repositories", sql: include_str!("../migrations/0006_repositories.sql") },
    Migration { version: 7, name: "references", sql: include_str!("../migrations/0007_references.sql") },
    Migration { version: 8, name: "errors", sql: include_str!("../migrations/0008_errors.sql") },
    Migration { version: 9, name: "on_demand", sql: include_str!("../migrations/0009_on_demand.sql") },
    Migration { version: 10, name: "grants", sql: include_str!("../migrations/0010_grants.sql") },
    Migration { version: 11, name: "calls", sql: include_str!("../migrations/0011_calls.sql") },
    Migration { version: 12, name: "proposals", sql: include_str!("../migrations/0012_proposals.sql") },
    Migration { version: 13, name: "maps", sql: include_str!("../migrations/0013_maps.sql") },
    Migration { version: 14, name: "alerts", sql: include_str!("../migrations/0014_alerts.sql") },
    Migration { version: 15, name: "error_ages", sql: include_str!("../migrations/0015_error_ages.sql") },
    Migration {
        version: 16,
        name: "error_releases",
        sql: include_str!("../migrations/0016_error_releases.sql"),
    },
    Migration { version: 17, name: "intake", sql: include_str!("../migrations/0017_intake.sql") },
    Migration {
        version: 18,
        name: "proposed_uploads",
        sql: include_str!("../migrations/0018_proposed_uploads.sql"),
    },
    Migration { version: 19, name: "people", sql: include_str!("../migrations/0019_people.sql") },
    Migration { version: 20, name: "floods", sql: include_str!("../migrations/0020_floods.sql") },
    Migration { version: 21, name: "image_maps", sql: include_str!("../migrations/0021_image_maps.sql") },
    Migration { version: 22, name: "error_keys", sql: include_str!("../migrations/0022_error_keys.sql") },
];

/// Brings the database to the newest schema.
pub(crate) async fn run(
    database: &Database,
    migrations: &[Migration],
    clock: &Clock,
    sqlite_file: Option<&Path>,
) -> Result<()> {
    sqlx::raw_sql(
        "CREATE TABLE IF NOT EXISTS migrations (
            version BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL,
            applied_at BIGINT NOT NULL)",
    )
    .execute(&database.writer)
    .await?;
    let found = applied(&database.writer, migrations).await?;
    let pending = || migrations.iter().filter(|m| m.version > found);
    if let (Some(next), Some(file), true) = (pending().next(), sqlite_file, found > 0) {
        back_up(database, file, next.version).await?;
    }
    for migration in pending() {
        apply(database, migration, clock).await?;
        tracing::debug!(version = migration.version, name = migration.name, "changed the schema");
    }
    if let Some(newest) = migrations.last().filter(|m| m.version > found) {
        tracing::info!(from = found, to = newest.version, "migrated the database");
    }
    Ok(())
}

/// The newest migration that a database has; 0 for none. Refuses a history that is not a beginning of ours.
pub(crate) async fn applied(pool: &sqlx::AnyPool, migrations: &[Migration]) -> Result<i64> {
    let known = migrations.last().map_or(0, |m| m.version);
    let rows =
        sqlx::query("SELECT version, checksum FROM migrations ORDER BY version").fetch_all(pool).await?;
    let mut found = 0;
    for row in &rows {
        found = row.try_get::<i64, _>("version")?;
        match migrations.iter().find(|m| m.version == found) {
            None => return Err(StoreError::Newer { found, known }),
            Some(m) if checksum(m) != row.try_get::<String, _>("checksum")? => {
                return Err(StoreError::MigrationChanged { version: found });
            }
            Some(_) => {}
        }
    }
    Ok(found)
}

/// The newest schema that this version knows.
pub(crate) fn newest() -> i64 {
    ALL.last().map_or(0, |m| m.version)
}

async fn apply(database: &Database, migration: &Migration, clock: &Clock) -> Result<()> {
    let failed =
        |source| StoreError::MigrationFailed { version: migration.version, name: migration.name, source };
    // KEYED: rows lie in the tree of their primary key, which SQLite does only when told.
    let (row_id, bytes, keyed) = match database.kind {
        Kind::Sqlite => ("INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT", "BLOB", "WITHOUT ROWID"),
        Kind::Postgresql => ("BIGINT NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY", "BYTEA", ""),
    };
    let sql: Vec<&str> = migration.sql.lines().filter(|l| !l.starts_with("--")).collect();
    let sql = sql
        .join("\n")
        .replace("ROW_ID", row_id)
        .replace("BYTES", bytes)
        .replace(") KEYED;", &format!(") {keyed};"));
    let mut tx = database.writer.begin().await?;
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *tx).await.map_err(failed)?;
    sqlx::query("INSERT INTO migrations (version, name, checksum, applied_at) VALUES ($1, $2, $3, $4)")
        .bind(migration.version)
        .bind(migration.name)
        .bind(checksum(migration))
        .bind(clock.now().0)
        .execute(&mut *tx)
        .await?;
    tx.commit().await.map_err(failed)
}

/// Where a SQLite database is copied to before migration `version` is applied: `berth.db.before-NNNN` beside it.
pub(crate) fn copy_path(file: &Path, version: i64) -> PathBuf {
    let mut copy = file.as_os_str().to_owned();
    copy.push(format!(".before-{version:04}"));
    PathBuf::from(copy)
}

/// Copies a SQLite database beside itself.
async fn back_up(database: &Database, file: &Path, version: i64) -> Result<PathBuf> {
    let copy = copy_path(file, version);
    let path = copy.clone();
    let at = copy.clone();
    let prepared = tokio::task::spawn_blocking(move || prepare_copy(&path)).await;
    prepared.unwrap_or_else(|e| Err(std::io::Error::other(e))).map_err(|source| StoreError::File {
        action: "create",
        path: at,
        source,
    })?;
    sqlx::query("VACUUM INTO $1").bind(copy.to_string_lossy().into_owned()).execute(&database.writer).await?;
    tracing::info!(copy = %copy.display(), "copied the database before migrating it");
    Ok(copy)
}

/// Makes an empty private file, replacing what an earlier, failed attempt may have left.
fn prepare_copy(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.sync_all()
}

fn checksum(migration: &Migration) -> String {
    hex::encode(Sha256::digest(migration.sql.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEXT: Migration = Migration {
        version: 2,
        name: "colour",
        sql: "ALTER TABLE projects ADD COLUMN colour TEXT;\nUPDATE projects SET colour = 'blue';",
    };
    const BROKEN: Migration = Migration {
        version: 2,
        name: "broken",
        sql: "ALTER TABLE projects ADD COLUMN colour TEXT;\nUPDATE nothing SET x = 1;",
    };

    const FIRST: &[Migration] = &[Migration { version: 1, name: "first", sql: ALL[0].sql }];

    fn both(second: Migration) -> Vec<Migration> {
        vec![Migration { version: 1, name: "first", sql: ALL[0].sql }, second]
    }

    async fn colours(pool: &sqlx::AnyPool) -> sqlx::Result<Vec<sqlx::any::AnyRow>> {
        sqlx::query("SELECT colour FROM projects").fetch_all(pool).await
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_migration_of_existing_data_leaves_a_copy_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let (file, clock) = (dir.path().join("berth.db"), Clock::system());
        let database = Database::connect(dir.path(), None).await.unwrap();
        run(&database, FIRST, &clock, Some(&file)).await.unwrap();
        sqlx::query("INSERT INTO projects (slug, created_at) VALUES ('old', 0)")
            .execute(&database.writer)
            .await
            .unwrap();
        let copy = dir.path().join("berth.db.before-0002");
        assert!(!copy.exists(), "a first start has nothing to copy");

        let failed = run(&database, &both(BROKEN), &clock, Some(&file)).await;
        assert!(matches!(failed, Err(StoreError::MigrationFailed { version: 2, .. })), "{failed:?}");
        assert!(colours(&database.writer).await.is_err(), "half a migration is none");

        run(&database, &both(NEXT), &clock, Some(&file)).await.unwrap();
        assert_eq!(colours(&database.writer).await.unwrap().len(), 1);
        run(&database, &both(NEXT), &clock, Some(&file)).await.unwrap();
        database.close().await;

        let url = format!("sqlite://{}", copy.display());
        let copy = sqlx::any::AnyPoolOptions::new().connect(&url).await.unwrap();
        assert!(colours(&copy).await.is_err());
        let rows = sqlx::query("SELECT slug FROM projects").fetch_all(&copy).await.unwrap();
        assert_eq!(rows.len(), 1);
    }
}
