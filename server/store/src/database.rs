//! The two databases behind one thin layer: connecting, settings, the single writer.
//!
//! All writes go through one connection, on SQLite because it has but one writer, on PostgreSQL so that ids
//! are committed in their order: who reads events or log lines after an id misses none. Writers wait for
//! each other in a fair queue and not in the database, where waiting means polling. What clients send in numbers waits
//! in a file of its own ([`crate::intake_file`]).

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sqlx::{Any, AnyPool, AssertSqlSafe, Connection as _, Row, any::AnyPoolOptions, pool::PoolConnection};

use crate::{
    error::{Result, StoreError},
    intake_file::IntakeFile,
    key::create_private_dir,
    model::Visible,
};

/// Name of the SQLite database in the data directory.
pub const SQLITE_FILE: &str = "berth.db";

/// Held for the daemon's life, so that no second one works on the same data.
const LOCK_FILE: &str = "berth.lock";

/// Advisory lock of a PostgreSQL database that a daemon uses: "berth" in ASCII.
const LOCK_ID: i64 = 0x62_65_72_74_68;

const READERS: u32 = 4;

/// Page cache of the writing connection in KiB: what it changes between two commits, and the inner pages of the indexes.
const WRITER_CACHE_KIB: u32 = 4 << 10;

/// Page cache of a reading connection in KiB. Each has one of its own; what they share, the operating system keeps.
const READER_CACHE_KIB: u32 = 1 << 10;

/// SQLite's number for the mode of auto_vacuum that is used.
const INCREMENTAL: i64 = 2;

/// Which database it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A file.
    Sqlite,
    /// A server.
    Postgresql,
}

/// Connections, and the locks that keep a second daemon away.
pub(crate) struct Database {
    pub(crate) kind: Kind,
    pub(crate) writer: AnyPool,
    pub(crate) readers: AnyPool,
    /// What waits to be read.
    pub(crate) intake: IntakeFile,
    /// Writers queue here.
    pub(crate) writing: Arc<tokio::sync::Mutex<()>>,
    /// Released when the database is closed.
    file_lock: std::sync::Mutex<Option<File>>,
    /// In a mutex only because connections cannot be shared between threads.
    server_lock: std::sync::Mutex<Option<PoolConnection<Any>>>,
}

impl Database {
    /// Connects to `url`, or to the SQLite file of `data_dir`.
    pub(crate) async fn connect(data_dir: &Path, url: Option<&str>) -> Result<Self> {
        sqlx::any::install_default_drivers();
        let dir = data_dir.to_owned();
        let locked = tokio::task::spawn_blocking(move || lock_directory(&dir)).await;
        let file_lock = locked.unwrap_or_else(|e| {
            Err(StoreError::File {
                action: "lock",
                path: data_dir.to_owned(),
                source: std::io::Error::other(e),
            })
        })?;
        match url {
            None => Self::sqlite(data_dir, file_lock).await,
            Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
                Self::postgresql(data_dir, url, file_lock).await
            }
            Some(_) => Err(StoreError::BadUrl(
                "it must begin with postgres:// or postgresql://; without one, SQLite in the data directory is \
                 used"
                    .into(),
            )),
        }
    }

    async fn sqlite(data_dir: &Path, file_lock: File) -> Result<Self> {
        let file = data_dir.join(SQLITE_FILE);
        create_private_file(&file)?;
        let url = format!("sqlite://{}?mode=rw", percent_encode(&file));
        let writer = sqlite_pool(1, &url, false, WRITER_CACHE_KIB).await?;
        let readers = sqlite_pool(READERS, &url, true, READER_CACHE_KIB).await?;
        Ok(Self {
            kind: Kind::Sqlite,
            writer,
            readers,
            intake: IntakeFile::open(data_dir).await?,
            writing: Arc::default(),
            file_lock: std::sync::Mutex::new(Some(file_lock)),
            server_lock: std::sync::Mutex::default(),
        })
    }

    async fn postgresql(data_dir: &Path, url: &str, file_lock: File) -> Result<Self> {
        let options =
            || AnyPoolOptions::new().acquire_timeout(Duration::from_secs(30)).test_before_acquire(true);
        let readers = options().max_connections(READERS + 1).connect(url).await.map_err(bad_server)?;
        let version: String = sqlx::query("SHOW server_version_num").fetch_one(&readers).await?.try_get(0)?;
        if version.parse::<i64>().unwrap_or(0) < 150_000 {
            return Err(StoreError::OldServer(version));
        }
        let mut server_lock = readers.acquire().await?;
        let free: bool = sqlx::query("SELECT pg_try_advisory_lock($1)")
            .bind(LOCK_ID)
            .fetch_one(&mut *server_lock)
            .await?
            .try_get(0)?;
        if !free {
            return Err(StoreError::Locked("this PostgreSQL database".into()));
        }
        let writer = options().max_connections(1).connect(url).await.map_err(bad_server)?;
        Ok(Self {
            kind: Kind::Postgresql,
            writer,
            readers,
            intake: IntakeFile::open(data_dir).await?,
            writing: Arc::default(),
            file_lock: std::sync::Mutex::new(Some(file_lock)),
            server_lock: std::sync::Mutex::new(Some(server_lock)),
        })
    }
}

impl Database {
    /// Closes the connections, and with them the lock on a server's database.
    pub(crate) async fn close(&self) {
        // Taken out first, so that the guard is gone before the await.
        let lock = self.server_lock.lock().ok().and_then(|mut slot| slot.take());
        if let Some(mut connection) = lock {
            // Said, not left to the end of the connection: the server notices that a moment later, and whoever opens
            // the database next may be waiting.
            let unlocked =
                sqlx::query("SELECT pg_advisory_unlock($1)").bind(LOCK_ID).execute(&mut *connection);
            if let Err(error) = unlocked.await {
                tracing::debug!(%error, "the lock was not released");
            }
            if let Err(error) = connection.close().await {
                tracing::debug!(%error, "the lock's connection did not close cleanly");
            }
        }
        self.intake.close().await;
        self.readers.close().await;
        self.writer.close().await;
        if let Ok(mut slot) = self.file_lock.lock() {
            slot.take();
        }
    }
}

/// Connections to a SQLite file, each with a page cache of so many KiB.
pub(crate) async fn sqlite_pool(size: u32, url: &str, read_only: bool, cache_kib: u32) -> Result<AnyPool> {
    let pool = AnyPoolOptions::new()
        .max_connections(size)
        .min_connections(1)
        .acquire_timeout(Duration::from_secs(30))
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        // A full disk makes SQLite roll back by itself; the driver's own rollback then fails, and the
        // connection would refuse every later transaction. Such a one is closed, and a new one opened.
        .after_release(|conn, _| {
            Box::pin(async move {
                if conn.is_in_transaction() {
                    // A rollback may be under way: what is asked after it is answered after it.
                    conn.ping().await?;
                }
                Ok(!conn.is_in_transaction())
            })
        })
        .after_connect(move |conn, _| {
            Box::pin(async move {
                if read_only {
                    sqlx::raw_sql("PRAGMA query_only = ON").execute(&mut *conn).await?;
                } else {
                    // auto_vacuum counts only while the file is empty, so it comes first. The mode stays
                    // with the file; readers that set it, too, would get in the writer's way. Setting it again
                    // writes: a full disk would then keep the writer from ever coming back.
                    let mode = sqlx::query("PRAGMA auto_vacuum").fetch_one(&mut *conn).await?;
                    if mode.try_get::<i64, _>(0)? != INCREMENTAL {
                        sqlx::raw_sql("PRAGMA auto_vacuum = INCREMENTAL").execute(&mut *conn).await?;
                    }
                    let file = "PRAGMA journal_mode = WAL; PRAGMA journal_size_limit = 67108864;";
                    sqlx::raw_sql(file).execute(&mut *conn).await?;
                }
                // cache_size is in KiB when negative. Somebody else's backup or shell may lock the file for a while.
                let common = format!(
                    "PRAGMA busy_timeout = 30000; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
                    PRAGMA temp_store = MEMORY; PRAGMA cache_size = -{cache_kib};"
                );
                sqlx::raw_sql(assembled(common)).execute(&mut *conn).await?;
                Ok(())
            })
        })
        .connect(url)
        .await?;
    Ok(pool)
}

/// Hides the URL, which may hold a password, and says what to look at.
fn bad_server(error: sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::Configuration(e) => StoreError::BadUrl(e.to_string()),
        other => StoreError::Database(other),
    }
}

pub(crate) fn lock_directory(dir: &Path) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = dir.join(LOCK_FILE);
    let failed = |action, source| StoreError::File { action, path: path.clone(), source };
    create_private_dir(dir).map_err(|source| failed("create", source))?;
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|source| failed("create", source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StoreError::Locked(dir.display().to_string())),
        Err(std::fs::TryLockError::Error(source)) => Err(failed("lock", source)),
    }
}

/// Makes the database file readable by its owner only; SQLite gives its companions the same mode.
pub(crate) fn create_private_file(path: &Path) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let made = File::options().write(true).create(true).truncate(false).mode(0o600).open(path);
    made.map(drop).map_err(|source| StoreError::File { action: "create", path: PathBuf::from(path), source })
}

/// A path for use in a URL.
pub(crate) fn percent_encode(path: &Path) -> String {
    use std::{fmt::Write, os::unix::ffi::OsStrExt};
    path.as_os_str().as_bytes().iter().fold(String::new(), |mut out, b| {
        match b {
            b'/' | b'.' | b'-' | b'_' | b'~' => out.push(char::from(*b)),
            b if b.is_ascii_alphanumeric() => out.push(char::from(*b)),
            b => {
                let _ = write!(out, "%{b:02X}");
            }
        }
        out
    })
}

/// SQL that was put together from constant parts and numbers, never from a caller's text.
pub(crate) fn assembled(sql: String) -> AssertSqlSafe<String> {
    AssertSqlSafe(sql)
}

/// A condition on a column with a project's id. Ids are numbers, so they may stand in the text.
pub(crate) fn visible(visible: &Visible, column: &str) -> String {
    match visible {
        Visible::All => "1 = 1".into(),
        Visible::Projects(ids) if ids.is_empty() => "1 = 0".into(),
        Visible::Projects(ids) => {
            let ids: Vec<String> = ids.iter().map(|id| id.0.to_string()).collect();
            format!("{column} IN ({})", ids.join(", "))
        }
    }
}

/// Cuts rows for statements that name each: into few different sizes, because a connection keeps every statement that it
/// was given, and each size is one.
pub(crate) fn pieces<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let size = [256, 64, 16, 4, 1].into_iter().find(|size| *size <= rows.len())?;
        let (piece, rest) = rows.split_at(size);
        rows = rest;
        Some(piece)
    })
}

/// `($1, $2), ($3, $4)` for two rows of two columns.
pub(crate) fn placeholders(rows: usize, columns: usize) -> String {
    let mut out = String::with_capacity(rows * columns * 6);
    for row in 0..rows {
        out.push_str(if row == 0 { "(" } else { ", (" });
        for column in 0..columns {
            if column > 0 {
                out.push_str(", ");
            }
            out.push('$');
            out.push_str(&(row * columns + column + 1).to_string());
        }
        out.push(')');
    }
    out
}

/// A LIKE pattern for texts that contain `text`, with `\` as the escape character.
pub(crate) fn contains_pattern(text: &str) -> String {
    format!("%{}%", escape_like(text))
}

/// Escapes what LIKE treats specially.
pub(crate) fn escape_like(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    for c in text.chars().filter(|c| *c != '\0') {
        if matches!(c, '%' | '_' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// Text from outside as both databases can hold it: PostgreSQL refuses NUL. Cut to `max` bytes.
pub(crate) fn storable(text: &str, max: usize) -> String {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut out = text[..end].replace('\0', "\u{fffd}");
    if end < text.len() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ProjectId;

    #[test]
    fn nobody_sees_nothing() {
        assert_eq!(visible(&Visible::Projects(vec![]), "p"), "1 = 0");
        assert_eq!(visible(&Visible::Projects(vec![ProjectId(1), ProjectId(7)]), "p"), "p IN (1, 7)");
    }

    #[test]
    fn patterns_mean_themselves() {
        assert_eq!(contains_pattern("50%_\\"), "%50\\%\\_\\\\%");
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(storable("aé", 2), "a…");
        assert_eq!(storable("a\0b", 10), "a\u{fffd}b");
    }

    #[test]
    fn pieces_are_of_few_sizes_and_all_there_is() {
        let rows: Vec<usize> = (0..1000).collect();
        for length in [0, 1, 5, 255, 256, 300, 1000] {
            let cut: Vec<&[usize]> = pieces(&rows[..length]).collect();
            assert_eq!(cut.concat(), &rows[..length]);
            assert!(cut.iter().all(|piece| [256, 64, 16, 4, 1].contains(&piece.len())));
        }
    }

    #[test]
    fn rows_count_their_placeholders_on() {
        assert_eq!(placeholders(2, 2), "($1, $2), ($3, $4)");
    }
}
