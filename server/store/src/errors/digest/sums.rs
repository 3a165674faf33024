//! What a batch adds to issues, written once for each.

use std::collections::{BTreeMap, HashMap, HashSet};

use berth_schemas::{Timestamp, issue::Level};
use sqlx::Row;

use super::{
    super::{
        decision::{Decision, Seen},
        releases::keep_places,
        title::{UNTITLED, give},
    },
    DigestedEvent,
    batch::Batch,
};
use crate::{
    database::{assembled, pieces, placeholders, storable},
    error::Result,
    model::{AppId, EnvironmentId},
    row,
};

/// What a batch adds to one issue.
#[derive(Debug)]
pub(super) struct Sum<'e> {
    pub(super) app: AppId,
    /// The one that came last.
    pub(super) newest: &'e DigestedEvent,
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
    pub(super) level: Level,
    pub(super) users: HashSet<String>,
    pub(super) hours: BTreeMap<(EnvironmentId, i64), i64>,
    pub(super) releases: BTreeMap<i64, i64>,
    pub(super) count: i64,
    pub(super) newest_release: Option<i64>,
    pub(super) any_without_release: bool,
    pub(super) new: bool,
}

impl<'e> Sum<'e> {
    /// That of an issue which is `new` or not, before its first event is added.
    pub(super) fn begin(event: &'e DigestedEvent, at: Timestamp, new: bool) -> Self {
        Self {
            app: event.app,
            newest: event,
            first: at,
            last: at,
            level: event.level,
            users: HashSet::new(),
            hours: BTreeMap::new(),
            releases: BTreeMap::new(),
            count: 0,
            newest_release: None,
            any_without_release: false,
            new,
        }
    }

    /// What it says of a decision about the issue.
    fn seen(&self) -> Seen {
        Seen {
            last: self.last,
            newest_release: self.newest_release,
            any_without_release: self.any_without_release,
        }
    }
}

impl Batch<'_, '_, '_> {
    /// Brings the issues up to date, and opens those again whose decision is undone.
    pub(super) async fn sum_up(&mut self) -> Result<()> {
        let sums = std::mem::take(&mut self.sums);
        let new_users = self.add_users(&sums).await?;
        self.add_hours(&sums).await?;
        self.add_releases(&sums).await?;
        for (issue, sum) in sums {
            let users = new_users.get(&issue).copied().unwrap_or(0);
            let sql = format!(
                "UPDATE error_issues SET events = events + $2, users = users + $3,
                     first_seen = CASE WHEN first_seen < $4 THEN first_seen ELSE $4 END,
                     last_seen = CASE WHEN last_seen > $5 THEN last_seen ELSE $5 END
                 WHERE id = $1 RETURNING number, kind, level, events, users, {}",
                Decision::COLUMNS
            );
            let row = sqlx::query(assembled(sql))
                .bind(issue)
                .bind(sum.count)
                .bind(users)
                .bind(sum.first.0)
                .bind(sum.last.0)
                .fetch_one(self.write.conn())
                .await?;
            let level = row::word(&row, "error_issues", "level", Level::parse)?;
            if sum.level > level {
                sqlx::query("UPDATE error_issues SET level = $2 WHERE id = $1")
                    .bind(issue)
                    .bind(sum.level.as_str())
                    .execute(self.write.conn())
                    .await?;
            }
            if row.try_get::<String, _>("kind")? == UNTITLED {
                give(self.write, issue, &sum.newest.into()).await?;
            }
            let decision = Decision::read(&row)?;
            let now = self.write.now;
            if sum.new || !decision.undone_by(&sum.seen(), now, row.try_get("events")?, row.try_get("users")?)
            {
                continue;
            }
            let environment = sum.hours.keys().next().map_or(EnvironmentId(0), |(e, _)| *e);
            let (kind, what) = decision.undo(self.write, issue).await?;
            self.tell(kind, what, sum.app, row.try_get("number")?, environment).await?;
        }
        Ok(())
    }

    /// Notes who had which issue; how many had one for the first time.
    async fn add_users(&mut self, sums: &BTreeMap<i64, Sum<'_>>) -> Result<HashMap<i64, i64>> {
        let users = sums.iter().flat_map(|(issue, sum)| sum.users.iter().map(move |user| (*issue, user)));
        let users: Vec<(i64, &String)> = users.collect();
        let mut new: HashMap<i64, i64> = HashMap::new();
        for chunk in pieces(&users) {
            let sql = format!(
                "INSERT INTO error_users (issue_id, user_key) VALUES {}
                 ON CONFLICT (issue_id, user_key) DO NOTHING RETURNING issue_id",
                placeholders(chunk.len(), 2)
            );
            let query = chunk.iter().fold(sqlx::query(assembled(sql)), |q, (issue, user)| {
                q.bind(*issue).bind(storable(user, 250))
            });
            for row in query.fetch_all(self.write.conn()).await? {
                *new.entry(row.try_get("issue_id")?).or_default() += 1;
            }
        }
        Ok(new)
    }

    async fn add_hours(&mut self, sums: &BTreeMap<i64, Sum<'_>>) -> Result<()> {
        let hours = sums.iter().flat_map(|(issue, sum)| sum.hours.iter().map(move |hour| (*issue, hour)));
        let hours: Vec<_> = hours.collect();
        for chunk in pieces(&hours) {
            let sql = format!(
                "INSERT INTO error_hours (issue_id, environment_id, hour, events) VALUES {}
                 ON CONFLICT (issue_id, environment_id, hour) DO UPDATE SET events = error_hours.events + excluded.events",
                placeholders(chunk.len(), 4)
            );
            let mut query = sqlx::query(assembled(sql));
            for (issue, ((environment, hour), count)) in chunk {
                query = query.bind(*issue).bind(environment.0).bind(*hour).bind(**count);
            }
            query.execute(self.write.conn()).await?;
        }
        Ok(())
    }

    /// Counts events of issues by release, and notes who had errors in which.
    async fn add_releases(&mut self, sums: &BTreeMap<i64, Sum<'_>>) -> Result<()> {
        let counts =
            sums.iter().flat_map(|(issue, sum)| sum.releases.iter().map(move |(r, n)| (*issue, *r, *n)));
        for chunk in pieces(&counts.collect::<Vec<_>>()) {
            let sql = format!(
                "INSERT INTO error_issue_releases (issue_id, release_id, events) VALUES {}
                 ON CONFLICT (issue_id, release_id) DO UPDATE SET events = error_issue_releases.events + excluded.events",
                placeholders(chunk.len(), 3)
            );
            let query = chunk.iter().fold(sqlx::query(assembled(sql)), |q, (issue, release, count)| {
                q.bind(*issue).bind(*release).bind(*count)
            });
            query.execute(self.write.conn()).await?;
        }
        let users = std::mem::take(&mut self.release_users);
        for chunk in pieces(&users.iter().collect::<Vec<_>>()) {
            let sql = format!(
                "INSERT INTO error_release_users (release_id, user_key) VALUES {}
                 ON CONFLICT (release_id, user_key) DO NOTHING",
                placeholders(chunk.len(), 2)
            );
            let query = chunk
                .iter()
                .fold(sqlx::query(assembled(sql)), |q, (release, user)| q.bind(*release).bind(user.clone()));
            query.execute(self.write.conn()).await?;
        }
        keep_places(self.write, std::mem::take(&mut self.places)).await
    }
}
