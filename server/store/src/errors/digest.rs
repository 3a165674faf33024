//! From accepted items to issues and events, many at a time in one transaction.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use berth_schemas::{
    IssueRef, Timestamp,
    issue::{GroupingReason, Level},
};
use serde_json::json;
use sqlx::Row;

use super::{
    Errors, IntakeRow, ItemKind, WantedMap,
    attached::{keep_attachment, keep_feedback},
    compress,
    decision::{Decision, Seen},
    intake::{HOUR, count_dropped, count_up, note_done},
    maps::wait_for,
    releases::{Places, keep_places, note_place},
    title::{UNTITLED, give},
};
use crate::{
    database::{assembled, pieces, placeholders, storable},
    error::Result,
    model::{AppId, EnvironmentId, NewEvent},
    row::{self, to_json},
    write::Write,
};

/// An event that says it comes from further in the future than this came now, in microseconds.
const FUTURE: i64 = 60_000_000;
/// An event that says it is older than this is taken to be that old, in microseconds: 30 days.
const PAST: i64 = 30 * 24 * HOUR;

/// An event as it was read and grouped.
#[derive(Debug, Clone, PartialEq)]
pub struct DigestedEvent {
    /// Its row in the intake.
    pub intake: i64,
    /// Its app.
    pub app: AppId,
    /// Its environment.
    pub environment: EnvironmentId,
    /// Its id.
    pub event_id: String,
    /// When it happened, as the client says.
    pub at: Option<Timestamp>,
    /// When it came.
    pub received_at: Timestamp,
    /// Type of the exception, or the beginning of the message.
    pub kind: String,
    /// What it says.
    pub value: String,
    /// Where.
    pub culprit: Option<String>,
    /// How bad.
    pub level: Level,
    /// Language.
    pub platform: String,
    /// Whether something caught it.
    pub handled: Option<bool>,
    /// Release.
    pub release: Option<String>,
    /// What tells its user from others.
    pub user_key: Option<String>,
    /// Key that decides on its issue.
    pub strict: String,
    /// Key that joins.
    pub loose: Option<String>,
    /// What went into the key.
    pub reasons: Vec<GroupingReason>,
    /// The JSON, compressed, as the intake has it; or a better one, not compressed.
    pub body: Body,
    /// Source maps that it wants and there are not.
    pub wanted: Vec<WantedMap>,
}

/// A body to be kept.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// As the intake has it.
    Compressed(Vec<u8>),
    /// A new one.
    Plain(Vec<u8>),
}

/// Where an event went.
#[derive(Debug, Clone, PartialEq)]
pub struct Filed {
    /// Which of the events.
    pub index: usize,
    /// Its row.
    pub event: i64,
    /// Row of its issue.
    pub issue: i64,
}

/// What a batch adds to one issue.
#[derive(Debug)]
struct Sum<'e> {
    app: AppId,
    /// The one that came last.
    newest: &'e DigestedEvent,
    first: Timestamp,
    last: Timestamp,
    level: Level,
    users: HashSet<String>,
    hours: BTreeMap<(EnvironmentId, i64), i64>,
    releases: BTreeMap<i64, i64>,
    count: i64,
    newest_release: Option<i64>,
    any_without_release: bool,
    new: bool,
}

impl Sum<'_> {
    /// What it says of a decision about the issue.
    fn seen(&self) -> Seen {
        Seen {
            last: self.last,
            newest_release: self.newest_release,
            any_without_release: self.any_without_release,
        }
    }
}

impl Errors<'_> {
    /// Files events under their issues, keeps what else was accepted, and takes all of it out of the intake: `events`
    /// are those that could be read, `others` all other rows, `broken` rows of events that could not be; together the
    /// oldest that wait.
    ///
    /// # Errors
    /// When the database fails; then all of it still waits.
    pub async fn digest(
        self,
        events: &[DigestedEvent],
        others: &[IntakeRow],
        broken: &[IntakeRow],
    ) -> Result<Vec<Filed>> {
        // Compressed before the turn is taken.
        let bodies: Vec<Vec<u8>> = events
            .iter()
            .map(|e| match &e.body {
                Body::Compressed(bytes) => Ok(bytes.clone()),
                Body::Plain(bytes) => compress(bytes),
            })
            .collect::<Result<_>>()?;
        let done = events.iter().map(|e| e.intake).chain(others.iter().chain(broken).map(|r| r.id));
        let (from, through) = done.fold((i64::MAX, 0), |(from, to), id| (from.min(id), to.max(id)));
        if through == 0 {
            return Ok(Vec::new());
        }
        let mut write = Write::begin(self.0).await?;
        if !note_done(&mut write, from, through).await? {
            // Committed before, though the answer was an error.
            drop(write);
            self.0.database.intake.removed(through).await?;
            return Ok(Vec::new());
        }
        let mut batch = Batch {
            write: &mut write,
            keys: HashMap::new(),
            releases: HashMap::new(),
            sums: BTreeMap::new(),
            release_users: BTreeSet::new(),
            places: Places::new(),
        };
        let alive = batch.alive(events, others).await?;
        let fresh = batch.fresh(events, &alive).await?;
        batch.learn_releases(&fresh).await?;
        batch.learn_keys(&fresh).await?;
        let mut placed = Vec::with_capacity(fresh.len());
        for &(index, event) in &fresh {
            let issue = batch.place(event).await?;
            placed.push((index, event, issue));
        }
        let filed = batch.insert_events(&placed, &bodies).await?;
        batch.sum_up().await?;
        batch.count(&fresh, events.len()).await?;
        for row in others.iter().filter(|r| alive.contains(&r.environment.0)) {
            keep_other(&mut write, row).await?;
        }
        for row in broken {
            count_up(&mut write, row.environment, row.received_at, "error", "invalid", 1).await?;
        }
        write.commit().await?;
        self.0.database.intake.removed(through).await?;
        Ok(filed)
    }
}

struct Batch<'b, 'a, 'e> {
    write: &'b mut Write<'a>,
    /// Issue by key.
    keys: HashMap<String, i64>,
    /// Row of a release, by app and name.
    releases: HashMap<(AppId, String), i64>,
    sums: BTreeMap<i64, Sum<'e>>,
    /// Users by release.
    release_users: BTreeSet<(i64, String)>,
    /// When releases were seen where.
    places: Places,
}

impl<'e> Batch<'_, '_, 'e> {
    /// The environments that are still there: what an app sent before it was deleted goes with it.
    async fn alive(&mut self, events: &[DigestedEvent], others: &[IntakeRow]) -> Result<HashSet<i64>> {
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
    async fn fresh(
        &mut self,
        events: &'e [DigestedEvent],
        alive: &HashSet<i64>,
    ) -> Result<Vec<(usize, &'e DigestedEvent)>> {
        let mut seen: HashSet<(i64, String)> = HashSet::new();
        for chunk in pieces(events) {
            let sql = format!(
                "SELECT app_id, event_id FROM error_events WHERE event_id IN {}",
                placeholders(1, chunk.len())
            );
            let query = chunk.iter().fold(sqlx::query(assembled(sql)), |q, e| q.bind(e.event_id.clone()));
            for row in query.fetch_all(self.write.conn()).await? {
                seen.insert((row.try_get("app_id")?, row.try_get("event_id")?));
            }
        }
        let there = events.iter().enumerate().filter(|(_, e)| alive.contains(&e.environment.0));
        Ok(there.filter(|(_, e)| seen.insert((e.app.0, e.event_id.clone()))).collect())
    }

    async fn learn_releases(&mut self, fresh: &[(usize, &DigestedEvent)]) -> Result<()> {
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

    async fn learn_keys(&mut self, fresh: &[(usize, &DigestedEvent)]) -> Result<()> {
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
    async fn place(&mut self, event: &'e DigestedEvent) -> Result<i64> {
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
        let sum = self.sums.entry(issue).or_insert_with(|| Sum {
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
            new: false,
        });
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
        self.sums.insert(
            issue,
            Sum {
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
                new: true,
            },
        );
        Ok(issue)
    }

    async fn tell(
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

    async fn insert_events(
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

    /// Brings the issues up to date, and opens those again whose decision is undone.
    async fn sum_up(&mut self) -> Result<()> {
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

    /// Counts what was accepted, and what was sent twice.
    async fn count(&mut self, fresh: &[(usize, &DigestedEvent)], all: usize) -> Result<()> {
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

/// When an event happened: what the client says, if that can be.
fn happened(event: &DigestedEvent) -> Timestamp {
    let said = event.at.unwrap_or(event.received_at);
    match said.0 {
        t if t > event.received_at.0 + FUTURE => event.received_at,
        t => Timestamp(t.max(event.received_at.0 - PAST)),
    }
}

pub(super) async fn next_number(write: &mut Write<'_>, app: AppId) -> Result<i64> {
    let row = sqlx::query(
        "INSERT INTO error_numbers (app_id, last) VALUES ($1, 1)
         ON CONFLICT (app_id) DO UPDATE SET last = error_numbers.last + 1 RETURNING last",
    )
    .bind(app.0)
    .fetch_one(write.conn())
    .await?;
    Ok(row.try_get("last")?)
}

/// Keeps an item that is no event where it belongs.
async fn keep_other(write: &mut Write<'_>, row: &IntakeRow) -> Result<()> {
    match row.kind {
        ItemKind::Attachment => keep_attachment(write, row).await?,
        ItemKind::Feedback | ItemKind::UserReport => {
            if !keep_feedback(write, row).await? {
                return Ok(());
            }
        }
        ItemKind::Dropped => return count_dropped(write, row).await,
        kind => {
            sqlx::query("INSERT INTO telemetry (app_id, environment_id, at, kind, event_id, body) VALUES ($1, $2, $3, $4, $5, $6)")
                .bind(row.app.0)
                .bind(row.environment.0)
                .bind(row.received_at.0)
                .bind(kind.as_str())
                .bind(row.event_id.clone())
                .bind(row.body.clone())
                .execute(write.conn())
                .await?;
        }
    }
    let category = match row.kind {
        ItemKind::Feedback | ItemKind::UserReport => "feedback",
        kind => kind.as_str(),
    };
    count_up(write, row.environment, row.received_at, category, "", 1).await
}
