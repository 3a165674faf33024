//! What was decided about an issue, and when events undo it.

use berth_schemas::{Timestamp, issue::IssueState};
use sqlx::{Row, any::AnyRow};

use crate::{error::Result, row, write::Write};

/// What is seen of an issue, as far as a decision depends on it.
pub(super) struct Seen {
    /// Its newest event.
    pub(super) last: Timestamp,
    /// Row of its newest release.
    pub(super) newest_release: Option<i64>,
    /// Whether there are events that name none.
    pub(super) any_without_release: bool,
}

/// An issue's decision, as far as events can undo it.
pub(super) struct Decision {
    pub(super) state: IssueState,
    resolved_at: Option<i64>,
    resolved_release: Option<i64>,
    in_next_release: bool,
    until: Option<i64>,
    events: Option<i64>,
    users: Option<i64>,
}

impl Decision {
    /// The columns that [`Decision::read`] reads.
    pub(super) const COLUMNS: &'static str =
        "state, resolved_at, resolved_release, in_next_release, ignored_until, ignored_events,
        ignored_users";

    pub(super) fn read(row: &AnyRow) -> Result<Self> {
        Ok(Self {
            state: row::word(row, "error_issues", "state", IssueState::parse)?,
            resolved_at: row.try_get("resolved_at")?,
            resolved_release: row.try_get("resolved_release")?,
            in_next_release: row::flag(row, "in_next_release")?,
            until: row.try_get("ignored_until")?,
            events: row.try_get("ignored_events")?,
            users: row.try_get("ignored_users")?,
        })
    }

    /// Whether what is seen opens the issue again; `events` and `users` are what it has by now.
    pub(super) fn undone_by(&self, seen: &Seen, now: Timestamp, events: i64, users: i64) -> bool {
        match self.state {
            IssueState::Open => false,
            IssueState::Ignored => {
                self.until.is_some_and(|t| now.0 >= t)
                    || self.events.is_some_and(|n| events >= n)
                    || self.users.is_some_and(|n| users >= n)
            }
            IssueState::Resolved => {
                let after = self.resolved_at.is_none_or(|t| seen.last.0 > t);
                match (seen.newest_release, self.resolved_release) {
                    // Known on both sides: older releases still running prove nothing.
                    (Some(seen), Some(known)) if self.in_next_release => seen > known,
                    (Some(seen), Some(known)) => seen > known || (seen == known && after),
                    (Some(_), None) => after,
                    (None, _) => after && seen.any_without_release && !self.in_next_release,
                }
            }
        }
    }

    /// Opens the issue again; the kind of event that tells it, and what happened in words.
    pub(super) async fn undo(
        &self,
        write: &mut Write<'_>,
        issue: i64,
    ) -> Result<(&'static str, &'static str)> {
        let regressed = self.state == IssueState::Resolved;
        sqlx::query(
            "UPDATE error_issues SET state = 'open', regressed = $2, resolved_at = NULL, resolved_release = NULL,
                 in_next_release = 0, ignored_until = NULL, ignored_events = NULL, ignored_users = NULL
             WHERE id = $1",
        )
        .bind(issue)
        .bind(i64::from(regressed))
        .execute(write.conn())
        .await?;
        Ok(match regressed {
            true => ("error.regressed", "A resolved error came back"),
            false => ("error.reopened", "An ignored error reached its limit"),
        })
    }
}
