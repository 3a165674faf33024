//! A batch: which of its events are new, and where each goes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use berth_schemas::{IssueRef, Timestamp};
use serde_json::json;
use sqlx::Row;

use super::{
    super::{
        IntakeRow,
        intake::{HOUR, count_up},
        maps::wait_for,
        releases::{Places, note_place},
    },
    DigestedEvent, Filed, happened, next_number,
    sums::Sum,
};
use crate::{
    database::{assembled, pieces, placeholders, storable},
    error::Result,
    model::{AppId, EnvironmentId, NewEvent},
    row::{self, to_json},
    write::Write,
};

/// A batch that is being filed, in one transaction.
pub(super) struct Batch<'b, 'a, 'e> {
    pub(super) write: &'b mut Write<'a>,
    /// Issue by key.
    pub(super) keys: HashMap<String, i64>,
    /// Row of a release, by app and name.
    pub(super) releases: HashMap<(AppId, String), i64>,
    pub(super) sums: BTreeMap<i64, Sum<'e>>,
    /// Users by release.
    pub(super) release_users: BTreeSet<(i64, String)>,
    /// When releases were seen where.
    pub(super) places: Places,
}

impl<'e> Batch<'_, '_, 'e> {
    /// The environments that are still there: what an app sent before it was deleted goes with it.
    pub(super) async fn alive(
        &mut self,
        events: &[DigestedEvent],
        others: &[IntakeRow],
    ) -> Result<HashSet<i64>> {
        let ids = events.iter().map(|e| e.environment.0).chain(others.iter().map(|r| r.environment.0));
        let ids: Vec<i64> = ids.collect::<HashSet<_>>().into_iter().collect();
        let mut alive = HashSet::new();
        for chunk in pieces(&ids) {
            let sql = format!("SELECT id FROM environments WHERE id IN {}", placeholders(1, chunk.len()));
            let query = chunk.iter().fold(sqlx::query(assembled(sql)), |q, id| q.bind(*id));
            for row in query.fetch_all(self.write.conn()).await? {
                alive.insert(row.try_get("id")?);
            }
        }
        Ok(alive)
    }

    /// The events that are not there already, each id once.
    pub(super) async fn fresh(
        &mut self,
        events: &'e [DigestedEvent],
        alive: &HashSet<i64>,
    ) -> Result<Vec<(usize, &'e DigestedEvent)>> {
        let mut seen: HashSet<(i64, String)> = HashSet::new();
        let mut by_app: BTreeMap<i64, Vec<&str>> = BTreeMap::new();
        for event in events {
            by_app.entry(event.app.0).or_default().push(&event.event_id);
        }
        for (app, ids) in by_app {
            for chunk in pieces(&ids) {
                // With the app, which comes first in the index: without it, all events there are would be looked through.
                let sql = format!(
                    "SELECT event_id FROM error_events WHERE event_id IN {} AND app_id = ${}",
                    placeholders(1, chunk.len()),
                    chunk.len() + 1
                );
                let query = chunk.iter().fold(sqlx::query(assembled(sql)), |q, id| q.bind((*id).to_owned()));
                for row in query.bind(app).fetch_all(self.write.conn()).await? {
                    seen.insert((app, row.try_get("event_id")?));
                }
            }
        }
        let there = events.iter().enumerate().filter(|(_, e)| alive.contains(&e.environment.0));
        Ok(there.filter(|(_, e)| seen.insert((e.app.0, e.event_id.clone()))).collect())
    }

    pub(super) async fn learn_releases(&mut self, fresh: &[(usize, &DigestedEvent)]) -> Result<()> {
        for (_, event) in fresh {
            let Some(name) = &event.release else { continue };
            let key = (event.app, name.clone());
            if self.releases.contains_key(&key) {
                continue;
            }
            let known = sqlx::query("SELECT id FROM error_releases WHERE app_id = $1 AND name = $2")
                .bind(event.app.0)
                .bind(storable(name, 400))
                .fetch_optional(self.write.conn())
                .await?;
            let id = match known {
                Some(row) => row.try_get("id")?,
                None => sqlx::query(
                    "INSERT INTO error_releases (app_id, name, first_seen) VALUES ($1, $2, $3) RETURNING id",
                )
                .bind(event.app.0)
                .bind(storable(name, 400))
                .bind(event.received_at.0)
                .fetch_one(self.write.conn())
                .await?
                .try_get("id")?,
            };
            self.releases.insert(key, id);
        }
        Ok(())
    }

    pub(super) async fn learn_keys(&mut self, fresh: &[(usize, &DigestedEvent)]) -> Result<()> {
        let keys: HashSet<&String> =
            fresh.iter().flat_map(|(_, e)| [Some(&e.strict), e.loose.as_ref()]).flatten().collect();
        let keys: Vec<&String> = keys.into_iter().collect();
        for chunk in pieces(&keys) {
            let sql = format!(
                "SELECT grouping_key, issue_id FROM error_groupings WHERE grouping_key IN {}",
                placeholders(1, chunk.len())
            );
            let query = chunk.iter().fold(sqlx::query(assembled(sql)), |q, k| q.bind((*k).clone()));
            for row in query.fetch_all(self.write.conn()).await? {
                self.keys.insert(row.try_get("grouping_key")?, row.try_get("issue_id")?);
            }
        }
        Ok(())
    }

    /// The issue of an event: by its strict key, else by its loose one, else a new one.
    pub(super) async fn place(&mut self, event: &'e DigestedEvent) -> Result<i64> {
        let issue = match self.keys.get(&event.strict) {
            Some(issue) => *issue,
            None => {
                let joined = event.loose.as_ref().and_then(|k| self.keys.get(k)).copied();
                let issue = match joined {
                    Some(issue) => issue,
                    None => self.open(event).await?,
                };
                self.learn(&event.strict, issue).await?;
                if let Some(loose) = event.loose.as_ref().filter(|k| !self.keys.contains_key(*k)) {
                    self.learn(loose, issue).await?;
                }
                issue
            }
        };
        let at = happened(event);
        let release =
            event.release.as_ref().and_then(|r| self.releases.get(&(event.app, r.clone())).copied());
        let sum = self.sums.entry(issue).or_insert_with(|| Sum::begin(event, at, false));
        sum.newest = event;
        sum.first = sum.first.min(at);
        sum.last = sum.last.max(at);
        sum.level = sum.level.max(event.level);
        sum.users.extend(event.user_key.clone());
        sum.count += 1;
        sum.newest_release = sum.newest_release.max(release);
        sum.any_without_release |= release.is_none();
        if let Some(release) = release {
            *sum.releases.entry(release).or_default() += 1;
            note_place(&mut self.places, release, event, at);
            self.release_users.extend(event.user_key.as_deref().map(|user| (release, storable(user, 250))));
        }
        *sum.hours.entry((event.environment, at.0 / HOUR * HOUR)).or_default() += 1;
        Ok(issue)
    }

    async fn learn(&mut self, key: &str, issue: i64) -> Result<()> {
        sqlx::query("INSERT INTO error_groupings (grouping_key, issue_id) VALUES ($1, $2)")
            .bind(key.to_owned())
            .bind(issue)
            .execute(self.write.conn())
            .await?;
        self.keys.insert(key.to_owned(), issue);
        Ok(())
    }

    async fn open(&mut self, event: &'e DigestedEvent) -> Result<i64> {
        let number = next_number(self.write, event.app).await?;
        let at = happened(event);
        let issue: i64 = sqlx::query(
            "INSERT INTO error_issues (app_id, number, state, kind, value, culprit, level, platform, handled, events,
                 users, first_seen, last_seen, first_release, reasons)
             VALUES ($1, $2, 'open', $3, $4, $5, $6, $7, $8, 0, 0, $9, $9, $10, $11) RETURNING id",
        )
        .bind(event.app.0)
        .bind(number)
        .bind(storable(&event.kind, 400))
        .bind(storable(&event.value, 1000))
        .bind(event.culprit.as_deref().map(|c| storable(c, 400)))
        .bind(event.level.as_str())
        .bind(storable(&event.platform, 40))
        .bind(event.handled.map(i64::from))
        .bind(at.0)
        .bind(event.release.as_deref().map(|r| storable(r, 400)))
        .bind(to_json("error_issues", "reasons", &event.reasons)?)
        .fetch_one(self.write.conn())
        .await?
        .try_get("id")?;
        self.tell("error.new", "A new error", event.app, number, event.environment).await?;
        self.sums.insert(issue, Sum::begin(event, at, true));
        Ok(issue)
    }

    pub(super) async fn tell(
        &mut self,
        kind: &'static str,
        what: &str,
        app: AppId,
        number: i64,
        environment: EnvironmentId,
    ) -> Result<()> {
        let known = sqlx::query("SELECT slug FROM apps WHERE id = $1").bind(app.0);
        let Some(known) = known.fetch_optional(self.write.conn()).await? else { return Ok(()) };
        let name = IssueRef { app: row::name(&known, "apps", "slug")?, number }.to_string();
        // What the error says stays with the issue, where it is shown as the words of a stranger.
        let summary = format!("{what}: {name}.");
        let data = json!({ "issue": name, "number": number, "environment_id": environment.0 });
        let event = NewEvent { kind, by: "berth".into(), app: Some(app), summary, data };
        self.write.event(event).await.map(drop)
    }

    pub(super) async fn insert_events(
        &mut self,
        placed: &[(usize, &DigestedEvent, i64)],
        bodies: &[Vec<u8>],
    ) -> Result<Vec<Filed>> {
        let mut filed = Vec::with_capacity(placed.len());
        for chunk in pieces(placed) {
            let sql = format!(
                "INSERT INTO error_events (app_id, environment_id, issue_id, event_id, at, release_id, grouping_key,
                     user_key, body) VALUES {} RETURNING id, app_id, event_id",
                placeholders(chunk.len(), 9)
            );
            let mut query = sqlx::query(assembled(sql));
            for (index, event, issue) in chunk {
                let release =
                    event.release.as_ref().and_then(|r| self.releases.get(&(event.app, r.clone())).copied());
                query = query
                    .bind(event.app.0)
                    .bind(event.environment.0)
                    .bind(*issue)
                    .bind(event.event_id.clone())
                    .bind(happened(event).0)
                    .bind(release)
                    .bind(event.strict.clone())
                    .bind(event.user_key.as_deref().map(|u| storable(u, 250)))
                    .bind(bodies[*index].clone());
            }
            let mut ids = HashMap::new();
            for row in query.fetch_all(self.write.conn()).await? {
                let key: (i64, String) = (row.try_get("app_id")?, row.try_get("event_id")?);
                ids.insert(key, row.try_get::<i64, _>("id")?);
            }
            for (_, event, _) in chunk.iter().filter(|(_, e, _)| !e.wanted.is_empty()) {
                if let Some(id) = ids.get(&(event.app.0, event.event_id.clone())) {
                    wait_for(self.write, *id, &event.wanted).await?;
                }
            }
            filed.extend(chunk.iter().filter_map(|(index, event, issue)| {
                let id = ids.get(&(event.app.0, event.event_id.clone()))?;
                Some(Filed { index: *index, event: *id, issue: *issue })
            }));
        }
        Ok(filed)
    }

    /// Counts what was accepted, and what was sent twice.
    pub(super) async fn count(&mut self, fresh: &[(usize, &DigestedEvent)], all: usize) -> Result<()> {
        let mut accepted: HashMap<(EnvironmentId, i64), i64> = HashMap::new();
        for (_, event) in fresh {
            *accepted.entry((event.environment, event.received_at.0 / HOUR * HOUR)).or_default() += 1;
        }
        for ((environment, hour), count) in accepted {
            count_up(self.write, environment, Timestamp(hour), "error", "", count).await?;
        }
        let twice = all - fresh.len();
        if twice > 0 {
            tracing::debug!(twice, "events were sent more than once");
        }
        Ok(())
    }
}
