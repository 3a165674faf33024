//! Looking at issues and events.

use berth_schemas::{
    IssueRef, Timestamp,
    issue::{HourCount, IssueState, Level},
};
use sqlx::{Row, any::AnyRow};

use super::{Ends, ErrorEventRow, Errors, IssueRow, inflate, intake::HOUR};
use crate::{
    database::{assembled, visible},
    error::Result,
    model::{AppId, EnvironmentId, Visible},
    row,
};

const ISSUE: &str = "i.id, i.app_id, a.slug, i.number, i.state, i.regressed, i.kind, i.value, i.culprit, i.level,
    i.platform, i.handled, i.events, i.users, i.first_seen, i.last_seen, i.first_release, i.assignee, i.reasons,
    i.in_next_release, i.ignored_until, i.ignored_events, i.ignored_users";
pub(super) const EVENT: &str = "id, app_id, environment_id, issue_id, event_id, at, grouping_key, body";

/// How issues are ordered; the largest and newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IssueOrder {
    /// By when it was last seen.
    LastSeen,
    /// By when it was first seen.
    FirstSeen,
    /// By events.
    Events,
    /// By users.
    Users,
}

impl IssueOrder {
    fn column(self) -> &'static str {
        match self {
            Self::LastSeen => "i.last_seen",
            Self::FirstSeen => "i.first_seen",
            Self::Events => "i.events",
            Self::Users => "i.users",
        }
    }
}

/// A condition on an issue's own columns.
#[derive(Debug, Clone, PartialEq)]
pub enum IssueFilter {
    /// One of these states.
    State(IssueState),
    /// It came back.
    Regressed,
    /// It was first seen since.
    New(Timestamp),
    /// Somebody, or exactly this person, looks after it.
    Assigned(Option<String>),
    /// A number of the issue: which, comparison, value.
    Number(&'static str, &'static str, i64),
    /// One of these issues.
    Ids(Vec<i64>),
    /// None of the conditions holds.
    Not(Box<Self>),
    /// All hold.
    All(Vec<Self>),
    /// One holds.
    Any(Vec<Self>),
}

impl IssueFilter {
    /// Columns that [`IssueFilter::Number`] takes.
    pub const NUMBERS: [&'static str; 4] = ["events", "users", "first_seen", "last_seen"];

    /// SQL, with texts as parameters.
    fn sql(&self, texts: &mut Vec<String>) -> String {
        match self {
            Self::State(state) => format!("i.state = '{}'", state.as_str()),
            Self::Regressed => "i.regressed = 1".into(),
            Self::New(since) => format!("i.first_seen >= {}", since.0),
            Self::Assigned(None) => "i.assignee IS NOT NULL".into(),
            Self::Assigned(Some(who)) => {
                texts.push(who.to_lowercase());
                format!("LOWER(COALESCE(i.assignee, '')) = ${}", texts.len())
            }
            Self::Number(column, compare, value) if Self::NUMBERS.contains(column) => {
                let compare = ["<", "<=", ">", ">=", "="].into_iter().find(|c| c == compare).unwrap_or("=");
                format!("i.{column} {compare} {value}")
            }
            Self::Number(..) => "1 = 0".into(),
            Self::Ids(ids) if ids.is_empty() => "1 = 0".into(),
            Self::Ids(ids) => {
                let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
                format!("i.id IN ({})", ids.join(", "))
            }
            Self::Not(inner) => format!("NOT ({})", inner.sql(texts)),
            Self::All(parts) => joined(parts, " AND ", "1 = 1", texts),
            Self::Any(parts) => joined(parts, " OR ", "1 = 0", texts),
        }
    }
}

fn joined(parts: &[IssueFilter], with: &str, empty: &str, texts: &mut Vec<String>) -> String {
    if parts.is_empty() {
        return empty.into();
    }
    let parts: Vec<String> = parts.iter().map(|p| format!("({})", p.sql(texts))).collect();
    parts.join(with)
}

/// A release as clients name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorReleaseRow {
    /// Row id; later ones were first seen later.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// When it was first seen.
    pub first_seen: Timestamp,
}

/// Errors of a release in a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReleaseStats {
    /// Events.
    pub events: i64,
    /// Issues.
    pub issues: i64,
    /// Users.
    pub users: i64,
}

impl Errors<'_> {
    /// The issue of this name, if it may be seen.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn issue(self, view: &Visible, which: &IssueRef) -> Result<Option<IssueRow>> {
        let sql = format!(
            "SELECT {ISSUE} FROM error_issues i JOIN apps a ON a.id = i.app_id
             WHERE a.slug = $1 AND i.number = $2 AND {}",
            visible(view, "a.project_id")
        );
        let row = sqlx::query(assembled(sql))
            .bind(which.app.as_str().to_owned())
            .bind(which.number)
            .fetch_optional(self.0.read())
            .await?;
        row.as_ref().map(issue_row).transpose()
    }

    /// Issues that may be seen, of an app or of all, in order, from `offset` on; and how many there are in all.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn issues(
        self,
        view: &Visible,
        app: Option<AppId>,
        filter: &IssueFilter,
        order: IssueOrder,
        (offset, limit): (i64, i64),
    ) -> Result<(Vec<IssueRow>, i64)> {
        let mut texts = Vec::new();
        let filter = filter.sql(&mut texts);
        let app = app.map_or("1 = 1".into(), |a| format!("i.app_id = {}", a.0));
        let from = format!(
            "FROM error_issues i JOIN apps a ON a.id = i.app_id WHERE {app} AND ({filter}) AND {}",
            visible(view, "a.project_id")
        );
        let sql = format!(
            "SELECT {ISSUE} {from} ORDER BY {} DESC, i.id DESC LIMIT {limit} OFFSET {offset}",
            order.column()
        );
        let query = texts.iter().fold(sqlx::query(assembled(sql)), |q, t| q.bind(t.clone()));
        let rows = query.fetch_all(self.0.read()).await?;
        let count = format!("SELECT COUNT(*) AS n {from}");
        let query = texts.iter().fold(sqlx::query(assembled(count)), |q, t| q.bind(t.clone()));
        let total = query.fetch_one(self.0.read()).await?.try_get("n")?;
        Ok((rows.iter().map(issue_row).collect::<Result<_>>()?, total))
    }

    /// The event of an issue with this id, or its newest, of an environment or of all.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn event(self, issue: i64, event_id: Option<&str>) -> Result<Option<ErrorEventRow>> {
        let which = if event_id.is_some() { "event_id = $2" } else { "$2 = ''" };
        let sql = format!(
            "SELECT {EVENT} FROM error_events WHERE issue_id = $1 AND {which} ORDER BY id DESC LIMIT 1"
        );
        let row = sqlx::query(assembled(sql))
            .bind(issue)
            .bind(event_id.unwrap_or_default().to_owned())
            .fetch_optional(self.0.read())
            .await?;
        row.as_ref().map(event_row).transpose()
    }

    /// The issue of an event, if its app may be seen.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn issue_of_event(self, view: &Visible, event_id: &str) -> Result<Option<IssueRow>> {
        let sql = format!(
            "SELECT {ISSUE} FROM error_events e JOIN error_issues i ON i.id = e.issue_id JOIN apps a ON a.id = i.app_id
             WHERE e.event_id = $1 AND {} LIMIT 1",
            visible(view, "a.project_id")
        );
        let row = sqlx::query(assembled(sql)).bind(event_id.to_owned()).fetch_optional(self.0.read()).await?;
        row.as_ref().map(issue_row).transpose()
    }

    /// Events of an issue, newest first, with rows below `before`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn events_of(
        self,
        issue: i64,
        environment: Option<EnvironmentId>,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<ErrorEventRow>> {
        let environment = environment.map_or("1 = 1".into(), |e| format!("environment_id = {}", e.0));
        let sql = format!(
            "SELECT {EVENT} FROM error_events WHERE issue_id = $1 AND id < $2 AND {environment} ORDER BY id DESC LIMIT $3"
        );
        let rows = sqlx::query(assembled(sql))
            .bind(issue)
            .bind(before.unwrap_or(i64::MAX))
            .bind(limit)
            .fetch_all(self.0.read())
            .await?;
        rows.iter().map(event_row).collect()
    }

    /// Events of all apps in the order of their rows, from above `after`: what an index is built from.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn events_after(self, after: i64, limit: i64) -> Result<Vec<ErrorEventRow>> {
        let sql = format!("SELECT {EVENT} FROM error_events WHERE id > $1 ORDER BY id LIMIT $2");
        let rows = sqlx::query(assembled(sql)).bind(after).bind(limit).fetch_all(self.0.read()).await?;
        rows.iter().map(event_row).collect()
    }

    /// The newest events of an app's other issues: at most `each` of those `issues` that were seen last.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn events_beside(
        self,
        app: AppId,
        issue: i64,
        (issues, each): (i64, i64),
    ) -> Result<Vec<ErrorEventRow>> {
        let sql = format!(
            "SELECT {EVENT} FROM error_events WHERE id IN (
                 SELECT e.id FROM (SELECT id FROM error_issues WHERE app_id = $1 AND id <> $2
                     ORDER BY last_seen DESC LIMIT $3) i
                 JOIN error_events e ON e.issue_id = i.id AND e.id >= COALESCE(
                     (SELECT n.id FROM error_events n WHERE n.issue_id = i.id ORDER BY n.id DESC LIMIT 1 OFFSET $4), 0))"
        );
        let query = sqlx::query(assembled(sql)).bind(app.0).bind(issue).bind(issues).bind(each - 1);
        query.fetch_all(self.0.read()).await?.iter().map(event_row).collect()
    }

    /// Events of an issue by hour since a time, of all environments.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn hours(self, issue: i64, since: Timestamp) -> Result<Vec<HourCount>> {
        let rows = sqlx::query(
            "SELECT hour, CAST(SUM(events) AS BIGINT) AS n FROM error_hours WHERE issue_id = $1 AND hour >= $2
             GROUP BY hour ORDER BY hour",
        )
        .bind(issue)
        .bind(since.0 / HOUR * HOUR)
        .fetch_all(self.0.read())
        .await?;
        rows.iter().map(|r| Ok(HourCount { hour: row::time(r, "hour")?, events: r.try_get("n")? })).collect()
    }

    /// Releases that an issue was seen in, the newest first, with their events.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn releases_of(self, issue: i64) -> Result<Vec<(String, i64)>> {
        let rows = sqlx::query(
            "SELECT r.name, e.events AS n FROM error_issue_releases e JOIN error_releases r ON r.id = e.release_id
             WHERE e.issue_id = $1 ORDER BY r.id DESC LIMIT 10",
        )
        .bind(issue)
        .fetch_all(self.0.read())
        .await?;
        rows.iter().map(|r| Ok((r.try_get("name")?, r.try_get("n")?))).collect()
    }

    /// Releases of an app, the newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn releases(self, app: AppId, limit: i64) -> Result<Vec<ErrorReleaseRow>> {
        let rows = sqlx::query(
            "SELECT id, name, first_seen FROM error_releases WHERE app_id = $1 ORDER BY id DESC LIMIT $2",
        )
        .bind(app.0)
        .bind(limit)
        .fetch_all(self.0.read())
        .await?;
        rows.iter()
            .map(|r| {
                Ok(ErrorReleaseRow {
                    id: r.try_get("id")?,
                    name: r.try_get("name")?,
                    first_seen: row::time(r, "first_seen")?,
                })
            })
            .collect()
    }

    /// Errors of a release.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn release_stats(self, release: i64) -> Result<ReleaseStats> {
        let row = sqlx::query(
            "SELECT CAST(COALESCE(SUM(events), 0) AS BIGINT) AS events, COUNT(*) AS issues,
                 (SELECT COUNT(*) FROM error_release_users u WHERE u.release_id = $1) AS users
             FROM error_issue_releases WHERE release_id = $1",
        )
        .bind(release)
        .fetch_one(self.0.read())
        .await?;
        Ok(ReleaseStats {
            events: row.try_get("events")?,
            issues: row.try_get("issues")?,
            users: row.try_get("users")?,
        })
    }

    /// Events since `since` of issues that were first seen since then, by issue, the most frequent first. What comes from
    /// the release named `but` is not counted.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn new_since(
        self,
        app: AppId,
        environment: EnvironmentId,
        since: Timestamp,
        but: &str,
    ) -> Result<Vec<(i64, i64)>> {
        let rows = sqlx::query(
            "SELECT i.number AS number, COUNT(*) AS events FROM error_issues i
                 JOIN error_events e ON e.issue_id = i.id
                 LEFT JOIN error_releases r ON r.id = e.release_id
             WHERE i.app_id = $1 AND i.last_seen >= $2 AND i.first_seen >= $2 AND e.at >= $2
                 AND e.environment_id = $3 AND (r.name IS NULL OR r.name <> $4)
             GROUP BY i.number ORDER BY 2 DESC, 1",
        )
        .bind(app.0)
        .bind(since.0)
        .bind(environment.0)
        .bind(but)
        .fetch_all(self.0.read())
        .await?;
        rows.iter().map(|r| Ok((r.try_get("number")?, r.try_get("events")?))).collect()
    }

    /// Other issues of an app of the same kind, the newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn alike(self, issue: &IssueRow, limit: i64) -> Result<Vec<IssueRow>> {
        let sql = format!(
            "SELECT {ISSUE} FROM error_issues i JOIN apps a ON a.id = i.app_id
             WHERE i.app_id = $1 AND i.id <> $2 AND (i.kind = $3 OR (i.culprit IS NOT NULL AND i.culprit = $4))
             ORDER BY CASE WHEN i.culprit = $4 THEN 0 ELSE 1 END, i.last_seen DESC LIMIT $5"
        );
        let rows = sqlx::query(assembled(sql))
            .bind(issue.app_id.0)
            .bind(issue.id)
            .bind(issue.kind.clone())
            .bind(issue.culprit.clone().unwrap_or_default())
            .bind(limit)
            .fetch_all(self.0.read())
            .await?;
        rows.iter().map(issue_row).collect()
    }

    /// The newest row of an event; 0 if there is none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn highest_event(self) -> Result<i64> {
        let row = sqlx::query("SELECT COALESCE(MAX(id), 0) AS n FROM error_events")
            .fetch_one(self.0.read())
            .await?;
        Ok(row.try_get("n")?)
    }
}

fn issue_row(r: &AnyRow) -> Result<IssueRow> {
    Ok(IssueRow {
        id: r.try_get("id")?,
        app_id: AppId(r.try_get("app_id")?),
        app: row::name(r, "apps", "slug")?,
        number: r.try_get("number")?,
        state: row::word(r, "error_issues", "state", IssueState::parse)?,
        regressed: row::flag(r, "regressed")?,
        kind: r.try_get("kind")?,
        value: r.try_get("value")?,
        culprit: r.try_get("culprit")?,
        level: row::word(r, "error_issues", "level", Level::parse)?,
        platform: r.try_get("platform")?,
        handled: r.try_get::<Option<i64>, _>("handled")?.map(|h| h != 0),
        events: r.try_get("events")?,
        users: r.try_get("users")?,
        first_seen: row::time(r, "first_seen")?,
        last_seen: row::time(r, "last_seen")?,
        first_release: r.try_get("first_release")?,
        assignee: r.try_get("assignee")?,
        ends: Ends {
            in_next_release: row::flag(r, "in_next_release")?,
            until: r.try_get::<Option<i64>, _>("ignored_until")?.map(Timestamp),
            events: r.try_get("ignored_events")?,
            users: r.try_get("ignored_users")?,
        },
        reasons: row::json(r, "error_issues", "reasons")?,
    })
}

pub(super) fn event_row(r: &AnyRow) -> Result<ErrorEventRow> {
    let body: Vec<u8> = r.try_get("body")?;
    Ok(ErrorEventRow {
        id: r.try_get("id")?,
        app_id: AppId(r.try_get("app_id")?),
        environment_id: EnvironmentId(r.try_get("environment_id")?),
        issue_id: r.try_get("issue_id")?,
        event_id: r.try_get("event_id")?,
        at: row::time(r, "at")?,
        grouping_key: r.try_get("grouping_key")?,
        body: inflate("error_events", &body)?,
    })
}
