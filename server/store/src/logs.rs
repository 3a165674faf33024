//! What apps print. Lines come in batches and go by age and by bytes.
//!
//! With each batch goes the place in each container's output up to which it was read, in the same
//! transaction: after a restart, reading goes on there, without a line lost or stored twice.

use berth_schemas::{
    Timestamp, Untrusted,
    log::{Level, LogLine},
};
use sqlx::{Row, any::AnyRow};

use crate::{
    database::{assembled, contains_pattern, pieces, placeholders, storable},
    error::Result,
    model::{AppId, EnvironmentId},
    row,
    store::{Inner, Pruned, Volume, count, volume},
    write::Write,
};

/// Name of the table in the count of volumes.
const TABLE: &str = "log_lines";
/// What a row costs besides its text, index included, in bytes; measured.
const ROW_BYTES: i64 = 48;
/// Longest line in bytes.
const MAX_BYTES: usize = 16 * 1024;
/// Most lines in an answer.
const MAX_PAGE: i64 = 5_000;
/// Rows removed in one transaction.
const PRUNE_CHUNK: i64 = 5_000;

/// Which output of a container a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl OutputStream {
    /// Its name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    fn rank(self) -> i64 {
        self as i64
    }
}

/// A line to be kept.
#[derive(Debug, Clone)]
pub struct NewLogLine {
    /// The app.
    pub app_id: AppId,
    /// Number of the release.
    pub release: i64,
    /// Number of the replica within the release.
    pub replica: i64,
    /// Where it came from.
    pub stream: OutputStream,
    /// How grave it is.
    pub level: Level,
    /// When it was printed.
    pub at: Timestamp,
    /// The text, at most 16 KiB.
    pub text: String,
}

/// How far an output of a container was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPosition {
    /// Id of the container.
    pub container: String,
    /// Which output.
    pub stream: OutputStream,
    /// The app, with which the position goes.
    pub app_id: AppId,
    /// Time of the last line read, in nanoseconds since 1970 as the engine gives it.
    pub at_nanos: i64,
    /// How many lines with exactly this time were read.
    pub repeats: i64,
}

/// Which lines are wanted.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    /// Only lines that contain this, in any case of letters.
    pub contains: Option<String>,
    /// Only this level or graver.
    pub level: Option<Level>,
    /// Only of this release number.
    pub release: Option<i64>,
    /// Only of releases of this environment.
    pub environment: Option<EnvironmentId>,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Not after.
    pub until: Option<Timestamp>,
    /// Only after this id, oldest first; without it, the newest lines are returned.
    pub after: Option<i64>,
    /// At most so many.
    pub limit: i64,
}

/// Runtime logs of a [`crate::Store`].
#[derive(Clone, Copy)]
pub struct Logs<'a>(pub(crate) &'a Inner);

impl Logs<'_> {
    /// Appends lines, and notes the positions reached with them, in one transaction. Returns the lines' ids
    /// in their order.
    ///
    /// # Errors
    /// When the database fails; nothing is kept then, neither lines nor positions.
    pub async fn append(self, lines: &[NewLogLine], positions: &[LogPosition]) -> Result<Vec<i64>> {
        if lines.is_empty() && positions.is_empty() {
            return Ok(Vec::new());
        }
        let mut write = Write::begin(self.0).await?;
        let mut ids = Vec::with_capacity(lines.len());
        let mut bytes = 0;
        for chunk in pieces(lines) {
            let sql = format!(
                "INSERT INTO log_lines (app_id, release_number, replica, stream, level, at, bytes, text)
                 VALUES {} RETURNING id",
                placeholders(chunk.len(), 8)
            );
            let mut query = sqlx::query(assembled(sql));
            for line in chunk {
                let text = storable(&line.text, MAX_BYTES);
                let size = ROW_BYTES + i64::try_from(text.len()).unwrap_or(0);
                bytes += size;
                query = query
                    .bind(line.app_id.0)
                    .bind(line.release)
                    .bind(line.replica)
                    .bind(line.stream.rank())
                    .bind(line.level.rank())
                    .bind(line.at.0)
                    .bind(size)
                    .bind(text);
            }
            for row in query.fetch_all(write.conn()).await? {
                ids.push(row.try_get("id")?);
            }
        }
        ids.sort_unstable();
        for position in positions {
            set_position(&mut write, position).await?;
        }
        count(&mut write, TABLE, i64::try_from(lines.len()).unwrap_or(0), bytes).await?;
        write.commit().await?;
        Ok(ids)
    }

    /// Lines of an app that match, oldest first; and whether there are more than were returned.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn search(self, app: AppId, query: &LogQuery) -> Result<(Vec<LogLine>, bool)> {
        let limit = query.limit.clamp(1, MAX_PAGE);
        let matches =
            if query.contains.is_some() { "LOWER(text) LIKE LOWER($6) ESCAPE '\\'" } else { "$6 = ''" };
        let release = if query.release.is_some() { "release_number = $7" } else { "$7 = 0" };
        let place = query.environment.map_or_else(String::new, |e| format!("AND {}", of_environment(e)));
        let order = if query.after.is_some() { "ASC" } else { "DESC" };
        let sql = format!(
            "SELECT id, release_number, replica, stream, level, at, text FROM log_lines
             WHERE app_id = $1 AND id > $2 AND level >= $3 AND at >= $4 AND at <= $5 AND {matches} AND {release} {place}
             ORDER BY id {order} LIMIT $8"
        );
        let rows = sqlx::query(assembled(sql))
            .bind(app.0)
            .bind(query.after.unwrap_or(0))
            .bind(query.level.map_or(0, Level::rank))
            .bind(query.since.map_or(i64::MIN, |t| t.0))
            .bind(query.until.map_or(i64::MAX, |t| t.0))
            .bind(query.contains.as_deref().map(contains_pattern).unwrap_or_default())
            .bind(query.release.unwrap_or(0))
            .bind(limit + 1)
            .fetch_all(self.0.read())
            .await?;
        let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
        let truncated = rows.len() > wanted;
        let mut lines = rows.iter().take(wanted).map(from_row).collect::<Result<Vec<_>>>()?;
        if query.after.is_none() {
            lines.reverse();
        }
        Ok((lines, truncated))
    }

    /// How far the outputs of a container were read.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn positions(self, container: &str) -> Result<Vec<LogPosition>> {
        let rows = sqlx::query(
            "SELECT container, stream, app_id, at_nanos, repeats FROM log_positions WHERE container = $1",
        )
        .bind(container.to_owned())
        .fetch_all(self.0.read())
        .await?;
        rows.iter()
            .map(|r| {
                Ok(LogPosition {
                    container: r.try_get("container")?,
                    stream: stream_of(r)?,
                    app_id: AppId(r.try_get("app_id")?),
                    at_nanos: r.try_get("at_nanos")?,
                    repeats: r.try_get("repeats")?,
                })
            })
            .collect()
    }

    /// Time of the last line that was kept of a container, to the microsecond.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn last_at(self, container: &str) -> Result<Option<Timestamp>> {
        let positions = self.positions(container).await?;
        Ok(positions.iter().map(|p| Timestamp(p.at_nanos / 1000)).max())
    }

    /// What the kept lines amount to.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn volume(self) -> Result<Volume> {
        volume(self.0.read(), TABLE).await
    }

    /// Removes the oldest lines: those printed before `before`, and as many as it takes to have at most
    /// `max_bytes` of all apps together. Works in pieces, between which others write.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn prune(self, before: Timestamp, max_bytes: i64) -> Result<Pruned> {
        let pruned = prune(self.0, TABLE, before, max_bytes).await?;
        let old = sqlx::query("SELECT COUNT(*) AS n FROM log_positions WHERE updated_at < $1")
            .bind(before.0)
            .fetch_one(self.0.read())
            .await?;
        if old.try_get::<i64, _>("n")? > 0 {
            let mut write = Write::begin(self.0).await?;
            sqlx::query("DELETE FROM log_positions WHERE updated_at < $1")
                .bind(before.0)
                .execute(write.conn())
                .await?;
            write.commit().await?;
        }
        Ok(pruned)
    }

    /// Removes all lines of the releases of an environment.
    pub(crate) async fn remove_environment(self, environment: EnvironmentId) -> Result<()> {
        remove_rows(self.0, TABLE, &of_environment(environment)).await
    }

    /// Removes all lines of an app.
    pub(crate) async fn remove_app(self, app: AppId) -> Result<()> {
        remove_rows(self.0, TABLE, &format!("app_id = {}", app.0)).await?;
        let mut write = Write::begin(self.0).await?;
        sqlx::query("DELETE FROM log_positions WHERE app_id = $1").bind(app.0).execute(write.conn()).await?;
        write.commit().await
    }
}

async fn set_position(write: &mut Write<'_>, position: &LogPosition) -> Result<()> {
    sqlx::query(
        "INSERT INTO log_positions (container, stream, app_id, at_nanos, repeats, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (container, stream) DO UPDATE
         SET at_nanos = excluded.at_nanos, repeats = excluded.repeats, updated_at = excluded.updated_at",
    )
    .bind(position.container.clone())
    .bind(position.stream.rank())
    .bind(position.app_id.0)
    .bind(position.at_nanos)
    .bind(position.repeats)
    .bind(write.now.0)
    .execute(write.conn())
    .await?;
    Ok(())
}

fn stream_of(r: &AnyRow) -> Result<OutputStream> {
    Ok(match r.try_get::<i64, _>("stream")? {
        0 => OutputStream::Stdout,
        _ => OutputStream::Stderr,
    })
}

fn from_row(r: &AnyRow) -> Result<LogLine> {
    Ok(LogLine {
        id: r.try_get("id")?,
        at: row::time(r, "at")?,
        release: r.try_get("release_number")?,
        replica: r.try_get("replica")?,
        stream: stream_of(r)?.as_str().to_owned(),
        level: Level::from_rank(r.try_get("level")?),
        text: Untrusted(r.try_get("text")?),
    })
}

/// Removes the oldest rows of a limited table, in pieces: by age while the oldest are too old, then by size.
/// Rows are taken in the order of their ids, which is nearly that of their times and costs no other index.
pub(crate) async fn prune(
    inner: &Inner,
    table: &'static str,
    before: Timestamp,
    max_bytes: i64,
) -> Result<Pruned> {
    let mut pruned = Pruned::default();
    loop {
        let excess = volume(inner.read(), table).await?.bytes - max_bytes;
        let sql = format!("SELECT id, at, bytes FROM {table} ORDER BY id LIMIT $1");
        let rows = sqlx::query(assembled(sql)).bind(PRUNE_CHUNK).fetch_all(inner.read()).await?;
        let (mut last, mut piece) = (None, Pruned::default());
        for row in &rows {
            let at: i64 = row.try_get("at")?;
            if at >= before.0 && piece.bytes >= excess {
                break;
            }
            last = Some(row.try_get::<i64, _>("id")?);
            piece.rows += 1;
            piece.bytes += row.try_get::<i64, _>("bytes")?;
        }
        let Some(last) = last else { return Ok(pruned) };
        let mut write = Write::begin(inner).await?;
        let done = delete_returning(&mut write, format!("DELETE FROM {table} WHERE id <= {last}")).await?;
        count(&mut write, table, -done.rows, -done.bytes).await?;
        write.commit().await?;
        pruned.rows += done.rows;
        pruned.bytes += done.bytes;
        if i64::try_from(rows.len()).unwrap_or(0) > piece.rows {
            return Ok(pruned);
        }
        tokio::task::yield_now().await;
    }
}

/// Removes the rows that match from a limited table, in pieces.
pub(crate) async fn remove_rows(inner: &Inner, table: &'static str, which: &str) -> Result<()> {
    loop {
        let sql = format!(
            "DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE {which} LIMIT {PRUNE_CHUNK})"
        );
        let mut write = Write::begin(inner).await?;
        let done = delete_returning(&mut write, sql).await?;
        count(&mut write, table, -done.rows, -done.bytes).await?;
        write.commit().await?;
        if done.rows < PRUNE_CHUNK {
            return Ok(());
        }
    }
}

/// The rows of an environment's releases: those of an app are numbered together.
pub(crate) fn of_environment(environment: EnvironmentId) -> String {
    let of = format!("FROM deployments d WHERE d.environment_id = {}", environment.0);
    format!("app_id IN (SELECT d.app_id {of}) AND release_number IN (SELECT d.number {of})")
}

async fn delete_returning(write: &mut Write<'_>, sql: String) -> Result<Pruned> {
    let rows = sqlx::query(assembled(format!("{sql} RETURNING bytes"))).fetch_all(write.conn()).await?;
    let mut done = Pruned { rows: i64::try_from(rows.len()).unwrap_or(0), bytes: 0 };
    for row in &rows {
        done.bytes += row.try_get::<i64, _>("bytes")?;
    }
    Ok(done)
}
