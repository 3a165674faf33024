//! The store as a whole: opening it, its identity, its parts, its housekeeping.

use std::{
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use sqlx::{AnyPool, Row};
use tokio::sync::broadcast;

use crate::{
    acme::Acme,
    alerts::Alerts,
    apps::Apps,
    build_cache::BuildCache,
    calls::{self, Calls},
    certificates::Certificates,
    clock::Clock,
    database::{Database, Kind, SQLITE_FILE},
    deployments::Deployments,
    dns_providers::DnsProviders,
    domains::Domains,
    environments::Environments,
    error::{Result, StoreError},
    errors::Errors,
    events::Events,
    forge_reports::ForgeReports,
    grants::Grants,
    idempotency::Idempotency,
    jobs::Jobs,
    key::{KeyError, MasterKey},
    logs::Logs,
    migration,
    model::EventRow,
    oauth_clients::OauthClients,
    projects::Projects,
    proposals::Proposals,
    pushes::Pushes,
    releases::Releases,
    repositories::Repositories,
    requests::Requests,
    seal::{Place, Sealer},
    token_cache::TokenCache,
    tokens::Tokens,
    uploads::Uploads,
    variables::Variables,
    write::Write,
};

/// Events that a slow listener may fall behind before it misses some; it can read the log then.
const EVENT_BACKLOG: usize = 1024;

/// How often last uses of tokens are written and expired idempotency keys removed.
const HOUSEKEEPING: Duration = Duration::from_secs(60);

/// Opens only with the key that the database was made with.
const CANARY: &[u8] = b"berth";
const CANARY_PLACE: Place<'static> = Place { column: "installation/canary", row: "1" };

/// Where the data is.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The data directory; made if it is missing.
    pub data_dir: PathBuf,
    /// A `postgres://` URL; without one, SQLite in the data directory.
    pub database_url: Option<String>,
}

/// What was removed to keep within limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Rows.
    pub rows: i64,
    /// What they counted for, in bytes.
    pub bytes: i64,
}

/// What a table that is limited by size holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Volume {
    /// Rows.
    pub rows: i64,
    /// What they count for, in bytes.
    pub bytes: i64,
}

/// All durable state of the daemon. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// What the repositories share.
pub(crate) struct Inner {
    pub(crate) database: Database,
    pub(crate) sealer: Sealer,
    pub(crate) clock: Clock,
    pub(crate) events: broadcast::Sender<EventRow>,
    pub(crate) tokens: TokenCache,
    pub(crate) calls: calls::Waiting,
    pub(crate) ingest_secret: zeroize::Zeroizing<Vec<u8>>,
    instance: String,
    housekeeping: std::sync::Mutex<Vec<tokio::task::AbortHandle>>,
}

impl Inner {
    /// Connections to read with.
    pub(crate) fn read(&self) -> &AnyPool {
        &self.database.readers
    }
}

impl Store {
    /// Opens the store: locks the data, migrates the schema, checks the key, loads the tokens.
    ///
    /// # Errors
    /// When another daemon uses the data, the schema is newer than this binary, the key does not fit, or
    /// the database cannot be reached.
    pub async fn open(config: StoreConfig, key: MasterKey) -> Result<Self> {
        Self::with_clock(config, key, Clock::system()).await
    }

    /// Opens the store with a clock of the caller's.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn with_clock(config: StoreConfig, key: MasterKey, clock: Clock) -> Result<Self> {
        let database = Database::connect(&config.data_dir, config.database_url.as_deref()).await?;
        let file = config.data_dir.join(SQLITE_FILE);
        let file = (database.kind == Kind::Sqlite).then_some(file.as_path());
        migration::run(&database, migration::ALL, &clock, file).await?;
        database.intake.settle(&database).await?;
        let sealer = Sealer::new(&key);
        let instance = identify(&database, &sealer, &clock).await?;
        let tokens = TokenCache::load(&database.readers).await?;
        let (events, _) = broadcast::channel(EVENT_BACKLOG);
        let inner = Arc::new(Inner {
            database,
            sealer,
            clock,
            events,
            tokens,
            calls: calls::Waiting::default(),
            ingest_secret: key.derived("ingest"),
            instance,
            housekeeping: std::sync::Mutex::default(),
        });
        let keeping = tokio::spawn(keep_house(Arc::downgrade(&inner)));
        let writing = tokio::spawn(calls::keep_writing(Arc::downgrade(&inner)));
        if let Ok(mut tasks) = inner.housekeeping.lock() {
            tasks.extend([keeping.abort_handle(), writing.abort_handle()]);
        }
        Ok(Self { inner })
    }

    /// Writes what was kept in memory and closes the connections. Calls after this fail.
    pub async fn close(&self) {
        let tasks = self.inner.housekeeping.lock().map(|mut tasks| std::mem::take(&mut *tasks));
        tasks.unwrap_or_default().iter().for_each(tokio::task::AbortHandle::abort);
        if let Err(error) = self.calls().flush().await {
            tracing::warn!(%error, "the last calls were not written to the audit log");
        }
        if let Err(error) = self.tokens().flush_last_used().await {
            tracing::warn!(%error, "the last uses of tokens were not written");
        }
        // Wait for a write that has begun.
        let _turn = self.inner.database.writing.lock().await;
        self.inner.database.close().await;
    }

    /// Which database it is: "sqlite" or "postgresql".
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.inner.database.kind {
            Kind::Sqlite => "sqlite",
            Kind::Postgresql => "postgresql",
        }
    }

    /// UUID of this installation, made at its first start; what it makes in Docker is labelled with it.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.inner.instance
    }

    /// The clock that the store uses.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// Projects.
    #[must_use]
    pub fn projects(&self) -> Projects<'_> {
        Projects(&self.inner)
    }

    /// Apps, as seen in their environments.
    #[must_use]
    pub fn apps(&self) -> Apps<'_> {
        Apps(&self.inner)
    }

    /// Domains.
    #[must_use]
    pub fn domains(&self) -> Domains<'_> {
        Domains(&self.inner)
    }

    /// Certificates.
    #[must_use]
    pub fn certificates(&self) -> Certificates<'_> {
        Certificates(&self.inner)
    }

    /// What is asked of certificate authorities.
    #[must_use]
    pub fn acme(&self) -> Acme<'_> {
        Acme(&self.inner)
    }

    /// Environments of apps.
    #[must_use]
    pub fn environments(&self) -> Environments<'_> {
        Environments(&self.inner)
    }

    /// Variables and secrets.
    #[must_use]
    pub fn variables(&self) -> Variables<'_> {
        Variables(&self.inner)
    }

    /// Deployments, their states and their logs.
    #[must_use]
    pub fn deployments(&self) -> Deployments<'_> {
        Deployments(&self.inner)
    }

    /// Releases.
    #[must_use]
    pub fn releases(&self) -> Releases<'_> {
        Releases(&self.inner)
    }

    /// What was pushed.
    #[must_use]
    pub fn pushes(&self) -> Pushes<'_> {
        Pushes(&self.inner)
    }

    /// Repositories on forges.
    #[must_use]
    pub fn repositories(&self) -> Repositories<'_> {
        Repositories(&self.inner)
    }

    /// What forges are to be told.
    #[must_use]
    pub fn forge_reports(&self) -> ForgeReports<'_> {
        ForgeReports(&self.inner)
    }

    /// Jobs other than deployments.
    #[must_use]
    pub fn jobs(&self) -> Jobs<'_> {
        Jobs(&self.inner)
    }

    /// DNS providers and their credentials.
    #[must_use]
    pub fn dns_providers(&self) -> DnsProviders<'_> {
        DnsProviders(&self.inner)
    }

    /// Alerts.
    #[must_use]
    pub fn alerts(&self) -> Alerts<'_> {
        Alerts(&self.inner)
    }

    /// Errors of apps.
    #[must_use]
    pub fn errors(&self) -> Errors<'_> {
        Errors(&self.inner)
    }

    /// The event log.
    #[must_use]
    pub fn events(&self) -> Events<'_> {
        Events(&self.inner)
    }

    /// Access tokens.
    #[must_use]
    pub fn tokens(&self) -> Tokens<'_> {
        Tokens(&self.inner)
    }

    /// What people allowed clients that act for them.
    #[must_use]
    pub fn grants(&self) -> Grants<'_> {
        Grants(&self.inner)
    }

    /// Calls of tools.
    #[must_use]
    pub fn calls(&self) -> Calls<'_> {
        Calls(&self.inner)
    }

    /// Calls that wait for a person.
    #[must_use]
    pub fn proposals(&self) -> Proposals<'_> {
        Proposals(&self.inner)
    }

    /// Clients that registered themselves.
    #[must_use]
    pub fn oauth_clients(&self) -> OauthClients<'_> {
        OauthClients(&self.inner)
    }

    /// Which records of the engine's build cache are Berth's.
    #[must_use]
    pub fn build_cache(&self) -> BuildCache<'_> {
        BuildCache(&self.inner)
    }

    /// Uploaded archives.
    #[must_use]
    pub fn uploads(&self) -> Uploads<'_> {
        Uploads(&self.inner)
    }

    /// What apps printed.
    #[must_use]
    pub fn logs(&self) -> Logs<'_> {
        Logs(&self.inner)
    }

    /// What visitors asked for.
    #[must_use]
    pub fn requests(&self) -> Requests<'_> {
        Requests(&self.inner)
    }

    /// Results of calls that carry an idempotency key.
    #[must_use]
    pub fn idempotency(&self) -> Idempotency<'_> {
        Idempotency(&self.inner)
    }

    /// Gives freed pages of a SQLite file back to the file system, at most `pages` of them; PostgreSQL does
    /// that by itself.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn shrink(&self, pages: u32) -> Result<()> {
        if self.inner.database.kind == Kind::Sqlite {
            let _turn = self.inner.database.writing.lock().await;
            let sql = format!("PRAGMA incremental_vacuum({pages})");
            sqlx::raw_sql(crate::database::assembled(sql)).execute(&self.inner.database.writer).await?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("kind", &self.kind()).field("instance", &self.instance()).finish()
    }
}

/// Checks the key against the canary, or, at the first start, seals the canary and makes the first rows.
async fn identify(database: &Database, sealer: &Sealer, clock: &Clock) -> Result<String> {
    let mut tx = database.writer.begin().await?;
    let found = sqlx::query("SELECT instance, canary FROM installation WHERE id = 1")
        .fetch_optional(&mut *tx)
        .await?;
    if let Some(row) = found {
        let canary: String = row.try_get("canary")?;
        return match sealer.open(&CANARY_PLACE, &canary) {
            Ok(clear) if clear.as_slice() == CANARY => Ok(row.try_get("instance")?),
            _ => Err(StoreError::Key(KeyError::Wrong)),
        };
    }
    let instance = uuid::Uuid::new_v4().to_string();
    sqlx::query("INSERT INTO installation (id, instance, canary, created_at) VALUES (1, $1, $2, $3)")
        .bind(instance.clone())
        .bind(sealer.seal(&CANARY_PLACE, CANARY)?)
        .bind(clock.now().0)
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "INSERT INTO projects (slug, created_at) VALUES ('default', $1) ON CONFLICT (slug) DO NOTHING",
    )
    .bind(clock.now().0)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(instance)
}

/// Does what is due once a minute, until the store is closed or dropped.
async fn keep_house(store: Weak<Inner>) {
    loop {
        tokio::time::sleep(HOUSEKEEPING).await;
        let Some(inner) = store.upgrade() else { return };
        if let Err(error) = Tokens(&inner).flush_last_used().await {
            tracing::warn!(%error, "the last uses of tokens were not written");
        }
        if let Err(error) = inner.database.intake.shrink().await {
            tracing::warn!(%error, "the intake's file was not made smaller");
        }
        if let Err(error) = Grants(&inner).remove_expired().await {
            tracing::warn!(%error, "expired grants were not removed");
        }
        if let Err(error) = Proposals(&inner).remove_old().await {
            tracing::warn!(%error, "old proposals were not removed");
        }
        if let Err(error) = Idempotency(&inner).remove_expired().await {
            tracing::warn!(%error, "expired idempotency keys were not removed");
        }
    }
}

/// Reads how much a limited table holds.
pub(crate) async fn volume(pool: &AnyPool, name: &'static str) -> Result<Volume> {
    let row =
        sqlx::query("SELECT entries, bytes FROM volumes WHERE name = $1").bind(name).fetch_one(pool).await?;
    Ok(Volume { rows: row.try_get("entries")?, bytes: row.try_get("bytes")? })
}

/// Counts what was added to or removed from a limited table, in the same transaction.
pub(crate) async fn count(write: &mut Write<'_>, name: &'static str, rows: i64, bytes: i64) -> Result<()> {
    sqlx::query("UPDATE volumes SET entries = entries + $1, bytes = bytes + $2 WHERE name = $3")
        .bind(rows)
        .bind(bytes)
        .bind(name)
        .execute(write.conn())
        .await?;
    Ok(())
}
