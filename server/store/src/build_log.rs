//! The log of a deployment: lines numbered from 1, bounded in length and number.

use berth_schemas::{
    Untrusted,
    deployment::{BuildLine, BuildLineKind, DeploymentState},
};
use sqlx::{Row, any::AnyRow};

use crate::{
    database::{assembled, contains_pattern, pieces, placeholders, storable},
    deployments::Deployments,
    error::{Result, StoreError},
    model::{DeploymentId, NewBuildLine},
    row,
    write::Write,
};

/// Lines kept per deployment; then a note says that the rest was left out.
pub(crate) const MAX_LINES: i64 = 20_000;
/// Longest line in bytes.
const MAX_BYTES: usize = 4096;
/// Most lines in an answer.
const MAX_PAGE: i64 = 5_000;

const COLUMNS: &str = "line, at, state, kind, step, text";

impl Deployments<'_> {
    /// Appends lines in one transaction and returns the number of the last line that the deployment has.
    /// From the 20,000th on, one note takes the place of all that would follow.
    ///
    /// # Errors
    /// When the deployment does not exist.
    pub async fn append_lines(self, id: DeploymentId, mut lines: Vec<NewBuildLine>) -> Result<i64> {
        let mut write = Write::begin(self.0).await?;
        let last: i64 = sqlx::query("SELECT last_line FROM deployments WHERE id = $1")
            .bind(id.0)
            .fetch_optional(write.conn())
            .await?
            .ok_or_else(|| StoreError::not_found("deployment", id.0))?
            .try_get("last_line")?;
        let room = usize::try_from(MAX_LINES - last).unwrap_or(0);
        if lines.is_empty() || room == 0 {
            return Ok(last);
        }
        if lines.len() >= room {
            lines.truncate(room);
            if let Some(note) = lines.last_mut() {
                note.kind = BuildLineKind::Note;
                note.step = None;
                note.text = format!("The log is longer than {MAX_LINES} lines; the rest is not kept.");
            }
        }
        let mut line = last;
        for chunk in pieces(&lines) {
            let sql = format!(
                "INSERT INTO build_lines (deployment_id, {COLUMNS}) VALUES {}",
                placeholders(chunk.len(), 7)
            );
            let mut query = sqlx::query(assembled(sql));
            for new in chunk {
                line += 1;
                query = query
                    .bind(id.0)
                    .bind(line)
                    .bind(new.at.0)
                    .bind(new.state.as_str())
                    .bind(new.kind.as_str())
                    .bind(new.step.as_deref().map(|s| storable(s, 64)))
                    .bind(storable(&new.text, MAX_BYTES));
            }
            query.execute(write.conn()).await?;
        }
        sqlx::query("UPDATE deployments SET last_line = $1 WHERE id = $2")
            .bind(line)
            .bind(id.0)
            .execute(write.conn())
            .await?;
        write.commit().await?;
        Ok(line)
    }

    /// Lines after number `after`, or, without it, the last `limit` ones, in both cases oldest first and only
    /// those that contain `contains` (in any case of letters); and how many lines the deployment has in all.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn lines(
        self,
        id: DeploymentId,
        after: Option<i64>,
        contains: Option<&str>,
        limit: i64,
    ) -> Result<(Vec<BuildLine>, i64)> {
        let matches = if contains.is_some() { "LOWER(text) LIKE LOWER($3) ESCAPE '\\'" } else { "$3 = ''" };
        let order = if after.is_some() { "ASC" } else { "DESC" };
        let sql = format!(
            "SELECT {COLUMNS} FROM build_lines WHERE deployment_id = $1 AND line > $2 AND {matches}
             ORDER BY line {order} LIMIT $4"
        );
        let rows = sqlx::query(assembled(sql))
            .bind(id.0)
            .bind(after.unwrap_or(0))
            .bind(contains.map(contains_pattern).unwrap_or_default())
            .bind(limit.clamp(1, MAX_PAGE))
            .fetch_all(self.0.read())
            .await?;
        let mut lines = rows.iter().map(from_row).collect::<Result<Vec<_>>>()?;
        if after.is_none() {
            lines.reverse();
        }
        let total = sqlx::query("SELECT last_line FROM deployments WHERE id = $1")
            .bind(id.0)
            .fetch_optional(self.0.read())
            .await?
            .map_or(Ok(0), |r| r.try_get("last_line"))?;
        Ok((lines, total))
    }
}

fn from_row(r: &AnyRow) -> Result<BuildLine> {
    Ok(BuildLine {
        line: r.try_get("line")?,
        at: row::time(r, "at")?,
        state: row::word(r, "build_lines", "state", DeploymentState::parse)?,
        kind: row::word(r, "build_lines", "kind", BuildLineKind::parse)?,
        step: Untrusted::maybe(r.try_get::<Option<String>, _>("step")?),
        text: Untrusted(r.try_get("text")?),
    })
}
