//! What visitors asked for, as the data plane saw it. Records come in batches and go by age and by bytes.

use std::str::FromStr;

use berth_schemas::{Timestamp, Untrusted, request::RequestRecord};
use sqlx::{Row, any::AnyRow};

use crate::{
    database::{assembled, escape_like, pieces, placeholders, storable},
    error::Result,
    logs::{of_environment, prune, remove_rows},
    model::{AppId, EnvironmentId},
    row,
    store::{Inner, Pruned, Volume, count, volume},
    write::Write,
};

/// Name of the table in the count of volumes.
const TABLE: &str = "requests";
/// What a row costs besides its texts, index included, in bytes.
const ROW_BYTES: usize = 72;
/// Longest path in bytes; other texts are cut shorter.
const MAX_PATH: usize = 1024;
/// Most records in an answer.
const MAX_PAGE: i64 = 1_000;

/// A request to be kept.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct NewRequest {
    /// The app that it was for.
    pub app_id: AppId,
    /// When it began.
    pub at: Timestamp,
    /// Its id.
    pub request_id: String,
    /// Method.
    pub method: String,
    /// Host.
    pub host: String,
    /// Path without the query.
    pub path: String,
    /// Status that the visitor got; 0 if the visitor left first.
    pub status: i64,
    /// Bytes of the request's body.
    pub bytes_in: i64,
    /// Bytes of the response's body.
    pub bytes_out: i64,
    /// Microseconds in all.
    pub micros: i64,
    /// Microseconds until the app's response began.
    pub app_micros: Option<i64>,
    /// Number of the release that answered.
    pub release: Option<i64>,
    /// Why the data plane answered instead of the app.
    pub error: Option<String>,
}

/// Which statuses are wanted: one, or a class such as 4xx.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusFilter {
    from: i64,
    to: i64,
}

impl FromStr for StatusFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = text.as_bytes();
        let digit = |i: usize| bytes.get(i).filter(|b| b.is_ascii_digit()).map(|b| i64::from(b - b'0'));
        if text == "0" {
            return Ok(Self { from: 0, to: 0 });
        }
        match (bytes.len(), digit(0), digit(1), digit(2)) {
            (3, Some(class @ 1..=5), None, None) if bytes[1..].eq_ignore_ascii_case(b"xx") => {
                Ok(Self { from: class * 100, to: class * 100 + 99 })
            }
            (3, Some(a @ 1..=5), Some(b), Some(c)) => {
                let status = a * 100 + b * 10 + c;
                Ok(Self { from: status, to: status })
            }
            _ => Err(format!(
                "{:?} is no status; use one such as 404, a class such as 5xx, or 0 for visitors who left",
                text.chars().take(20).collect::<String>()
            )),
        }
    }
}

/// Which requests are wanted.
#[derive(Debug, Clone, Default)]
pub struct RequestQuery {
    /// Only these statuses.
    pub status: Option<StatusFilter>,
    /// Only paths that begin with this.
    pub path_prefix: Option<String>,
    /// Only what releases of this environment answered.
    pub environment: Option<EnvironmentId>,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Only those that took at least so many milliseconds.
    pub slower_than_ms: Option<i64>,
    /// Only records behind this place, which [`FoundRequests::places`] told; counts and percentiles are of all that match.
    pub before: Option<(Timestamp, i64)>,
    /// At most so many records; counts and percentiles are of all that match.
    pub limit: i64,
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct FoundRequests {
    /// The records, newest first.
    pub requests: Vec<RequestRecord>,
    /// Where each of them stands: many may have begun in the same moment.
    pub places: Vec<(Timestamp, i64)>,
    /// How many match in all.
    pub total: i64,
    /// Of these, how many had a status of 500 or more.
    pub errors: i64,
    /// Milliseconds within which half of them were answered.
    pub p50_ms: f64,
    /// Milliseconds within which 95 of 100 were answered.
    pub p95_ms: f64,
}

/// What visitors got, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AnswerCounts {
    /// All answers.
    pub total: u64,
    /// Those with a status of 5xx.
    pub server_errors: u64,
}

/// Request records of a [`crate::Store`].
#[derive(Clone, Copy)]
pub struct Requests<'a>(pub(crate) &'a Inner);

impl Requests<'_> {
    /// Appends records in one transaction.
    ///
    /// # Errors
    /// When the database fails; nothing is kept then.
    pub async fn append(self, requests: &[NewRequest]) -> Result<()> {
        if requests.is_empty() {
            return Ok(());
        }
        let mut write = Write::begin(self.0).await?;
        let mut bytes = 0;
        for chunk in pieces(requests) {
            let sql = format!(
                "INSERT INTO requests (app_id, at, request_id, method, host, path, status, bytes_in, bytes_out,
                     micros, app_micros, release_number, error, bytes) VALUES {}",
                placeholders(chunk.len(), 14)
            );
            let mut query = sqlx::query(assembled(sql));
            for r in chunk {
                let (id, method) = (storable(&r.request_id, 64), storable(&r.method, 32));
                let (host, path) = (storable(&r.host, 255), storable(&r.path, MAX_PATH));
                let error = r.error.as_deref().map(|e| storable(e, 64));
                let size = ROW_BYTES
                    + id.len()
                    + method.len()
                    + host.len()
                    + path.len()
                    + error.as_ref().map_or(0, String::len);
                let size = i64::try_from(size).unwrap_or(0);
                bytes += size;
                query = query
                    .bind(r.app_id.0)
                    .bind(r.at.0)
                    .bind(id)
                    .bind(method)
                    .bind(host)
                    .bind(path)
                    .bind(r.status)
                    .bind(r.bytes_in)
                    .bind(r.bytes_out)
                    .bind(r.micros)
                    .bind(r.app_micros)
                    .bind(r.release)
                    .bind(error)
                    .bind(size);
            }
            query.execute(write.conn()).await?;
        }
        count(&mut write, TABLE, i64::try_from(requests.len()).unwrap_or(0), bytes).await?;
        write.commit().await
    }

    /// Requests for an app that match, newest first, with the counts and percentiles of all that match.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list(self, app: AppId, query: &RequestQuery) -> Result<FoundRequests> {
        let path = if query.path_prefix.is_some() { "path LIKE $6 ESCAPE '\\'" } else { "$6 = ''" };
        let place = query.environment.map_or_else(String::new, |e| format!("AND {}", of_environment(e)));
        let filter = format!(
            "FROM requests WHERE app_id = $1 AND at >= $2 AND status >= $3 AND status <= $4 AND micros >= $5
             AND {path} {place}"
        );
        let status = query.status.unwrap_or(StatusFilter { from: 0, to: 999 });
        let prefix = query.path_prefix.as_deref().map(|p| format!("{}%", escape_like(p))).unwrap_or_default();
        let bound = |sql: String| {
            sqlx::query(assembled(sql))
                .bind(app.0)
                .bind(query.since.map_or(i64::MIN, |t| t.0))
                .bind(status.from)
                .bind(status.to)
                .bind(query.slower_than_ms.unwrap_or(0).saturating_mul(1000))
                .bind(prefix.clone())
        };
        let counts = bound(format!(
            "SELECT COUNT(*) AS n, CAST(COALESCE(SUM(CASE WHEN status >= 500 THEN 1 ELSE 0 END), 0) AS BIGINT)
             AS errors {filter}"
        ))
        .fetch_one(self.0.read())
        .await?;
        let (total, errors): (i64, i64) = (counts.try_get("n")?, counts.try_get("errors")?);
        let (at, id) = query.before.map_or((i64::MAX, i64::MAX), |(at, id)| (at.0, id));
        let rows = bound(format!(
            "SELECT id, at, request_id, method, host, path, status, bytes_in, bytes_out, micros, app_micros,
                 release_number, error {filter} AND at <= $8 AND (at < $8 OR id < $9)
             ORDER BY at DESC, id DESC LIMIT $7"
        ))
        .bind(query.limit.clamp(1, MAX_PAGE))
        .bind(at)
        .bind(id)
        .fetch_all(self.0.read())
        .await?;
        let (mut p50_ms, mut p95_ms) = (0.0, 0.0);
        if total > 0 {
            // One sort for both. More may have come since they were counted, which moves them by a hair.
            let sql = format!(
                "SELECT micros FROM (SELECT micros, ROW_NUMBER() OVER (ORDER BY micros) AS place {filter}) ranked
                 WHERE place IN ($7, $8) ORDER BY place"
            );
            let ranked = bound(sql)
                .bind(nearest_rank(total, 50))
                .bind(nearest_rank(total, 95))
                .fetch_all(self.0.read())
                .await?;
            if let (Some(first), Some(last)) = (ranked.first(), ranked.last()) {
                p50_ms = millis(first.try_get("micros")?);
                p95_ms = millis(last.try_get("micros")?);
            }
        }
        let requests = rows.iter().map(from_row).collect::<Result<Vec<_>>>()?;
        let places = rows.iter().map(place_of).collect::<Result<Vec<_>>>()?;
        Ok(FoundRequests { requests, places, total, errors, p50_ms, p95_ms })
    }

    /// What visitors got of a release since a moment: how many answers, and how many of them with a status of 5xx.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn answers(self, app: AppId, release: i64, since: Timestamp) -> Result<AnswerCounts> {
        let row = sqlx::query(
            "SELECT COUNT(*) AS n, CAST(COALESCE(SUM(CASE WHEN status >= 500 THEN 1 ELSE 0 END), 0) AS BIGINT)
             AS errors FROM requests WHERE app_id = $1 AND at >= $2 AND release_number = $3 AND status > 0",
        )
        .bind(app.0)
        .bind(since.0)
        .bind(release)
        .fetch_one(self.0.read())
        .await?;
        counts(&row)
    }

    /// What visitors of an environment got in a time: of these releases, or of all.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn answers_between(
        self,
        app: AppId,
        environment: EnvironmentId,
        releases: Option<&[i64]>,
        (from, to): (Timestamp, Timestamp),
    ) -> Result<AnswerCounts> {
        let which = match releases {
            Some([]) => return Ok(AnswerCounts::default()),
            Some(numbers) => {
                let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
                format!("release_number IN ({})", numbers.join(", "))
            }
            None => of_environment(environment),
        };
        let sql = format!(
            "SELECT COUNT(*) AS n, CAST(COALESCE(SUM(CASE WHEN status >= 500 THEN 1 ELSE 0 END), 0) AS BIGINT)
             AS errors FROM requests WHERE app_id = $1 AND at >= $2 AND at < $3 AND status > 0 AND {which}"
        );
        let row =
            sqlx::query(assembled(sql)).bind(app.0).bind(from.0).bind(to.0).fetch_one(self.0.read()).await?;
        counts(&row)
    }

    /// When the oldest record is of that is kept; none if there is none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn oldest(self) -> Result<Option<Timestamp>> {
        let row =
            sqlx::query("SELECT at FROM requests ORDER BY id LIMIT 1").fetch_optional(self.0.read()).await?;
        row.map(|r| row::time(&r, "at")).transpose()
    }

    /// What the kept records amount to.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn volume(self) -> Result<Volume> {
        volume(self.0.read(), TABLE).await
    }

    /// Removes the oldest records, as [`crate::Logs::prune`] does lines.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn prune(self, before: Timestamp, max_bytes: i64) -> Result<Pruned> {
        prune(self.0, TABLE, before, max_bytes).await
    }

    /// Removes all records of the releases of an environment.
    pub(crate) async fn remove_environment(self, environment: EnvironmentId) -> Result<()> {
        remove_rows(self.0, TABLE, &of_environment(environment)).await
    }

    /// Removes all records of an app.
    pub(crate) async fn remove_app(self, app: AppId) -> Result<()> {
        remove_rows(self.0, TABLE, &format!("app_id = {}", app.0)).await
    }
}

fn counts(row: &AnyRow) -> Result<AnswerCounts> {
    let count = |name| row.try_get::<i64, _>(name).map(|n| n.max(0).unsigned_abs());
    Ok(AnswerCounts { total: count("n")?, server_errors: count("errors")? })
}

/// Place, from 1, of a percentile among `total` sorted values.
fn nearest_rank(total: i64, percent: i64) -> i64 {
    ((total * percent + 99) / 100).max(1)
}

/// Microseconds as milliseconds.
#[expect(clippy::cast_precision_loss, reason = "durations are far below 2^53 microseconds")]
fn millis(micros: i64) -> f64 {
    micros as f64 / 1000.0
}

fn place_of(r: &AnyRow) -> Result<(Timestamp, i64)> {
    Ok((row::time(r, "at")?, r.try_get("id")?))
}

fn from_row(r: &AnyRow) -> Result<RequestRecord> {
    Ok(RequestRecord {
        at: row::time(r, "at")?,
        request_id: r.try_get("request_id")?,
        method: Untrusted(r.try_get("method")?),
        host: Untrusted(r.try_get("host")?),
        path: Untrusted(r.try_get("path")?),
        status: r.try_get("status")?,
        bytes_in: r.try_get("bytes_in")?,
        bytes_out: r.try_get("bytes_out")?,
        ms: millis(r.try_get("micros")?),
        app_ms: r.try_get::<Option<i64>, _>("app_micros")?.map(millis),
        release: r.try_get("release_number")?,
        error: r.try_get("error")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_given_as_people_write_them() {
        assert_eq!("404".parse(), Ok(StatusFilter { from: 404, to: 404 }));
        assert_eq!("5xx".parse(), Ok(StatusFilter { from: 500, to: 599 }));
        assert_eq!("0".parse(), Ok(StatusFilter { from: 0, to: 0 }));
        for bad in ["", "x", "6xx", "40", "4x4", "4044", "ä4"] {
            assert!(bad.parse::<StatusFilter>().is_err(), "{bad}");
        }
    }

    #[test]
    fn percentiles_take_the_nearest_rank() {
        assert_eq!((nearest_rank(1, 50), nearest_rank(1, 95)), (1, 1));
        assert_eq!((nearest_rank(100, 50), nearest_rank(100, 95)), (50, 95));
        assert_eq!(nearest_rank(10, 95), 10);
    }
}
