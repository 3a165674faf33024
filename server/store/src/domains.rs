//! Domains: host names of one's own, each leading to an environment of an app. A name is unique in the
//! installation, and who has a wildcard has the names below it.

use std::time::Duration;

use berth_schemas::{
    DomainName, EnvironmentName, Timestamp,
    domain::{ChallengeKind, DomainOrigin},
    rules::DomainRules,
};
use serde_json::json;
use sqlx::{Row, any::AnyRow};

use crate::{
    database::{assembled, visible},
    error::{Result, StoreError},
    model::{AppId, AppRow, EnvironmentId, NewEvent, Principal, ProjectId, Visible},
    row,
    store::Inner,
    write::Write,
};

const SELECT: &str = "SELECT d.id, d.name, d.app_id, a.slug AS app, a.project_id, d.environment_id,
    e.name AS environment, d.redirect_to, d.challenge, d.rules, d.created_at, d.created_by, d.origin,
    d.asked_at, d.refused_at
    FROM domains d JOIN apps a ON a.id = d.app_id JOIN environments e ON e.id = d.environment_id";

/// Names that one app may have approved at the same time.
const MOST_ON_DEMAND: i64 = 10_000;
/// Over which approvals are counted.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Most domains in a page.
const MAX_PAGE: i64 = 500;

/// A domain.
#[derive(Debug, Clone, PartialEq)]
pub struct DomainRow {
    /// Row id.
    pub id: i64,
    /// The name.
    pub name: DomainName,
    /// The app.
    pub app_id: AppId,
    /// Name of the app.
    pub app: berth_schemas::AppSlug,
    /// Project of the app.
    pub project_id: ProjectId,
    /// The environment that answers.
    pub environment_id: EnvironmentId,
    /// Name of the environment.
    pub environment: EnvironmentName,
    /// Where visitors are sent instead.
    pub redirect_to: Option<DomainName>,
    /// How authorities are to be shown that the name is ours; none for what fits.
    pub challenge: Option<ChallengeKind>,
    /// What it enforces, with passwords as hashes.
    pub rules: DomainRules,
    /// When it was added.
    pub created_at: Timestamp,
    /// Who added it.
    pub created_by: String,
    /// How it came to be.
    pub origin: DomainOrigin,
    /// When its app was last asked whether it approves it.
    pub asked_at: Option<Timestamp>,
    /// Since when the app says no.
    pub refused_at: Option<Timestamp>,
}

/// What came of a name that an app approved.
#[derive(Debug, Clone, PartialEq)]
pub enum Approved {
    /// It is a domain of the app now.
    Taken(Box<DomainRow>),
    /// The app has had as many names in a day, or has as many in all, as it may.
    Exhausted,
}

/// What can be changed about a domain.
#[derive(Debug, Clone, PartialEq)]
pub struct DomainPlan {
    /// The app, in the environment that is to answer.
    pub app: AppRow,
    /// Where visitors are sent instead.
    pub redirect_to: Option<DomainName>,
    /// How authorities are to be shown that the name is ours.
    pub challenge: Option<ChallengeKind>,
    /// What it enforces, with passwords as hashes.
    pub rules: DomainRules,
}

/// Domains of a [`crate::Store`].
#[derive(Clone, Copy)]
pub struct Domains<'a>(pub(crate) &'a Inner);

impl Domains<'_> {
    /// A page of the domains that may be seen, by name, beginning behind `after`; and how many there are in all.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list(
        self,
        view: &Visible,
        app: Option<AppId>,
        after: Option<&DomainName>,
        limit: i64,
    ) -> Result<(Vec<DomainRow>, i64)> {
        let mut scope = visible(view, "a.project_id");
        if let Some(app) = app {
            scope = format!("{scope} AND d.app_id = {}", app.0);
        }
        let sql = format!("{SELECT} WHERE {scope} AND d.name > $1 ORDER BY d.name LIMIT $2");
        let rows = sqlx::query(assembled(sql))
            .bind(after.map_or("", DomainName::as_str).to_owned())
            .bind(limit.clamp(1, MAX_PAGE))
            .fetch_all(self.0.read())
            .await?;
        let count =
            format!("SELECT COUNT(*) AS n FROM domains d JOIN apps a ON a.id = d.app_id WHERE {scope}");
        let total = sqlx::query(assembled(count)).fetch_one(self.0.read()).await?.try_get("n")?;
        Ok((rows.iter().map(from_row).collect::<Result<_>>()?, total))
    }

    /// All domains, for the daemon's own use.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn all(self) -> Result<Vec<DomainRow>> {
        let sql = format!("{SELECT} ORDER BY d.name");
        let rows = sqlx::query(assembled(sql)).fetch_all(self.0.read()).await?;
        rows.iter().map(from_row).collect()
    }

    /// The domain of this name, if it may be seen.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn by_name(self, view: &Visible, name: &DomainName) -> Result<Option<DomainRow>> {
        let sql = format!("{SELECT} WHERE d.name = $1 AND {}", visible(view, "a.project_id"));
        let row =
            sqlx::query(assembled(sql)).bind(name.as_str().to_owned()).fetch_optional(self.0.read()).await?;
        row.as_ref().map(from_row).transpose()
    }

    /// Names of the domains that may be seen, to suggest from.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn names(self, view: &Visible) -> Result<Vec<String>> {
        let sql = format!(
            "SELECT d.name FROM domains d JOIN apps a ON a.id = d.app_id WHERE {} ORDER BY d.name",
            visible(view, "a.project_id")
        );
        let rows = sqlx::query(assembled(sql)).fetch_all(self.0.read()).await?;
        rows.iter().map(|r| Ok(r.try_get("name")?)).collect()
    }

    /// Adds a domain.
    ///
    /// # Errors
    /// When the name is taken, by whichever project, or lies below a wildcard of another project.
    pub async fn create(self, by: &Principal, name: &DomainName, plan: DomainPlan) -> Result<DomainRow> {
        let mut write = Write::begin(self.0).await?;
        let app = &plan.app;
        still_there(&mut write, by, app).await?;
        free_of_others(&mut write, name, app.project_id).await?;
        // What an app of the project approved on demand is kept from now on, with its certificate.
        sqlx::query("DELETE FROM domains WHERE name = $1 AND origin = $2 AND app_id IN (SELECT id FROM apps WHERE project_id = $3)")
            .bind(name.as_str().to_owned())
            .bind(DomainOrigin::OnDemand.as_str())
            .bind(app.project_id.0)
            .execute(write.conn())
            .await?;
        sqlx::query(
            "INSERT INTO domains (name, app_id, environment_id, redirect_to, challenge, created_at, created_by, rules)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(name.as_str().to_owned())
        .bind(app.id.0)
        .bind(app.environment.id.0)
        .bind(plan.redirect_to.as_ref().map(|n| n.as_str().to_owned()))
        .bind(plan.challenge.map(|c| c.as_str().to_owned()))
        .bind(write.now.0)
        .bind(by.name.clone())
        .bind(row::to_json("domains", "rules", &plan.rules)?)
        .execute(write.conn())
        .await
        .map_err(|e| StoreError::taken(e, "domain", name.as_str()))?;
        let summary = match &plan.redirect_to {
            Some(to) => format!("The domain {name} of {} was added: it leads to {to}.", app.slug),
            None => format!("The domain {name} was added to {}, {}.", app.slug, app.environment.name),
        };
        tell(&mut write, by, app, "domain.added", summary, name).await?;
        let row = get(&mut write, name).await?;
        write.commit().await?;
        Ok(row)
    }

    /// Takes a name that its app approved. `limit` is how many it may approve in a day.
    ///
    /// # Errors
    /// When the name is taken, or lies below a wildcard of another project.
    pub async fn approve(self, app: &AppRow, name: &DomainName, limit: u32) -> Result<Approved> {
        let mut write = Write::begin(self.0).await?;
        let by = Principal::daemon();
        still_there(&mut write, &by, app).await?;
        free_of_others(&mut write, name, app.project_id).await?;
        let since = write.now.0.saturating_sub(i64::try_from(DAY.as_micros()).unwrap_or(i64::MAX));
        // By what was told, so that names which come and go count, too.
        let counts = sqlx::query(
            "SELECT (SELECT COUNT(*) FROM events WHERE app = $1 AND app_id = $2 AND kind = 'domain.approved' AND at > $3) AS today,
             (SELECT COUNT(*) FROM domains WHERE app_id = $2 AND origin = 'on_demand') AS now",
        )
        .bind(app.slug.as_str().to_owned())
        .bind(app.id.0)
        .bind(since)
        .fetch_one(write.conn())
        .await?;
        let (today, now): (i64, i64) = (counts.try_get("today")?, counts.try_get("now")?);
        if today >= i64::from(limit) || now >= MOST_ON_DEMAND {
            return Ok(Approved::Exhausted);
        }
        sqlx::query(
            "INSERT INTO domains (name, app_id, environment_id, created_at, created_by, origin, asked_at)
             VALUES ($1, $2, $3, $4, $5, $6, $4)",
        )
        .bind(name.as_str().to_owned())
        .bind(app.id.0)
        .bind(app.environment.id.0)
        .bind(write.now.0)
        .bind(by.name.clone())
        .bind(DomainOrigin::OnDemand.as_str())
        .execute(write.conn())
        .await
        .map_err(|e| StoreError::taken(e, "domain", name.as_str()))?;
        let summary = format!("{} approved the domain {name}, which somebody asked for.", app.slug);
        tell(&mut write, &by, app, "domain.approved", summary, name).await?;
        let row = get(&mut write, name).await?;
        write.commit().await?;
        Ok(Approved::Taken(Box::new(row)))
    }

    /// Notes that an app was asked about a name that it had approved, and since when it says no.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn asked(self, name: &DomainName, refused_at: Option<Timestamp>) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        sqlx::query("UPDATE domains SET asked_at = $1, refused_at = $2 WHERE name = $3 AND origin = $4")
            .bind(write.now.0)
            .bind(refused_at.map(|t| t.0))
            .bind(name.as_str().to_owned())
            .bind(DomainOrigin::OnDemand.as_str())
            .execute(write.conn())
            .await?;
        write.commit().await
    }

    /// Removes a name that came on demand, with its certificate and what is on order for it. `why` ends the sentence
    /// that tells of it. False if it is gone already, or somebody keeps it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn drop_approved(self, name: &DomainName, why: &str) -> Result<bool> {
        let mut write = Write::begin(self.0).await?;
        let sql = format!("{SELECT} WHERE d.name = $1 AND d.origin = 'on_demand'");
        let row =
            sqlx::query(assembled(sql)).bind(name.as_str().to_owned()).fetch_optional(write.conn()).await?;
        let Some(row) = row.as_ref().map(from_row).transpose()? else { return Ok(false) };
        sqlx::query("DELETE FROM domains WHERE id = $1").bind(row.id).execute(write.conn()).await?;
        crate::acme::forget(&mut write, name).await?;
        let event = NewEvent {
            kind: "domain.dropped",
            by: Principal::daemon().name,
            app: Some(row.app_id),
            summary: format!("The domain {name} was dropped from {}: {why}.", row.app),
            data: json!({ "domain": name, "why": why }),
        };
        write.event_in(row.project_id, Some(row.app.clone()), event).await?;
        write.commit().await?;
        Ok(true)
    }

    /// Changes where a domain leads and how. If nothing differs, nothing is written.
    ///
    /// # Errors
    /// When the domain or the app does not exist for the caller.
    pub async fn update(self, by: &Principal, name: &DomainName, plan: DomainPlan) -> Result<DomainRow> {
        let mut write = Write::begin(self.0).await?;
        let before = get_visible(&mut write, by, name).await?;
        let app = &plan.app;
        still_there(&mut write, by, app).await?;
        if before.environment_id == app.environment.id
            && before.redirect_to == plan.redirect_to
            && before.challenge == plan.challenge
            && before.rules == plan.rules
        {
            return Ok(before);
        }
        sqlx::query(
            "UPDATE domains SET app_id = $1, environment_id = $2, redirect_to = $3, challenge = $4, rules = $5 WHERE id = $6",
        )
        .bind(app.id.0)
        .bind(app.environment.id.0)
        .bind(plan.redirect_to.as_ref().map(|n| n.as_str().to_owned()))
        .bind(plan.challenge.map(|c| c.as_str().to_owned()))
        .bind(row::to_json("domains", "rules", &plan.rules)?)
        .bind(before.id)
        .execute(write.conn())
        .await?;
        let summary = format!("The domain {name} of {} was changed.", app.slug);
        tell(&mut write, by, app, "domain.updated", summary, name).await?;
        let row = get(&mut write, name).await?;
        write.commit().await?;
        Ok(row)
    }

    /// Removes a domain with its certificate, and ends the order for one.
    ///
    /// # Errors
    /// When the domain does not exist for the caller.
    pub async fn remove(self, by: &Principal, name: &DomainName) -> Result<DomainRow> {
        let mut write = Write::begin(self.0).await?;
        let row = get_visible(&mut write, by, name).await?;
        sqlx::query("DELETE FROM domains WHERE id = $1").bind(row.id).execute(write.conn()).await?;
        crate::acme::forget(&mut write, name).await?;
        let event = NewEvent {
            kind: "domain.removed",
            by: by.name.clone(),
            app: Some(row.app_id),
            summary: format!("The domain {name} was removed from {}.", row.app),
            data: json!({ "domain": name }),
        };
        write.event_in(row.project_id, Some(row.app.clone()), event).await?;
        write.commit().await?;
        Ok(row)
    }
}

/// Refuses an app that has gone meanwhile, or that the caller may not see.
async fn still_there(write: &mut Write<'_>, by: &Principal, app: &AppRow) -> Result<()> {
    let there = sqlx::query("SELECT id FROM environments WHERE id = $1 AND app_id = $2")
        .bind(app.environment.id.0)
        .bind(app.id.0)
        .fetch_optional(write.conn())
        .await?;
    if there.is_none() || !by.visible.allows(app.project_id) {
        return Err(StoreError::not_found("app", &app.slug));
    }
    Ok(())
}

/// Refuses a name that a wildcard of another project stands for, or a wildcard for names of others.
async fn free_of_others(write: &mut Write<'_>, name: &DomainName, project: ProjectId) -> Result<()> {
    let sql = "SELECT d.name FROM domains d JOIN apps a ON a.id = d.app_id
        WHERE a.project_id <> $1 AND (d.name = $2 OR d.name LIKE $3 ESCAPE '\\')";
    let (exact, below) = match name.is_wildcard() {
        true => (String::new(), format!("%.{}", crate::database::escape_like(name.base()))),
        false => (name.wildcard().map(|w| w.to_string()).unwrap_or_default(), String::new()),
    };
    let rows = sqlx::query(sql).bind(project.0).bind(exact).bind(below).fetch_all(write.conn()).await?;
    for row in rows {
        let other: DomainName = row::name(&row, "domains", "name")?;
        if name.covers(other.as_str()) || other.covers(name.as_str()) {
            return Err(StoreError::conflict(
                format!("{name} overlaps with a domain of another project"),
                "Whoever has that domain must remove it first, or add this one.",
            ));
        }
    }
    Ok(())
}

async fn tell(
    write: &mut Write<'_>,
    by: &Principal,
    app: &AppRow,
    kind: &'static str,
    summary: String,
    name: &DomainName,
) -> Result<()> {
    let event = NewEvent {
        kind,
        by: by.name.clone(),
        app: Some(app.id),
        summary,
        data: json!({ "domain": name, "environment": app.environment.name }),
    };
    write.event_in(app.project_id, Some(app.slug.clone()), event).await?;
    Ok(())
}

async fn get(write: &mut Write<'_>, name: &DomainName) -> Result<DomainRow> {
    let sql = format!("{SELECT} WHERE d.name = $1");
    let row = sqlx::query(assembled(sql)).bind(name.as_str().to_owned()).fetch_optional(write.conn()).await?;
    row.as_ref().map(from_row).transpose()?.ok_or_else(|| StoreError::not_found("domain", name))
}

async fn get_visible(write: &mut Write<'_>, by: &Principal, name: &DomainName) -> Result<DomainRow> {
    let row = get(write, name).await?;
    if by.visible.allows(row.project_id) { Ok(row) } else { Err(StoreError::not_found("domain", name)) }
}

fn from_row(r: &AnyRow) -> Result<DomainRow> {
    let redirect: Option<String> = r.try_get("redirect_to")?;
    let challenge: Option<String> = r.try_get("challenge")?;
    Ok(DomainRow {
        id: r.try_get("id")?,
        name: row::name(r, "domains", "name")?,
        app_id: AppId(r.try_get("app_id")?),
        app: row::name(r, "apps", "app")?,
        project_id: ProjectId(r.try_get("project_id")?),
        environment_id: EnvironmentId(r.try_get("environment_id")?),
        environment: row::name(r, "environments", "environment")?,
        redirect_to: redirect
            .map(|t| t.parse().map_err(|_| StoreError::corrupt("domains", "redirect_to", &t)))
            .transpose()?,
        challenge: challenge
            .map(|t| ChallengeKind::parse(&t).ok_or_else(|| StoreError::corrupt("domains", "challenge", &t)))
            .transpose()?,
        rules: row::json(r, "domains", "rules")?,
        created_at: row::time(r, "created_at")?,
        created_by: r.try_get("created_by")?,
        origin: row::word(r, "domains", "origin", DomainOrigin::parse)?,
        asked_at: row::time_opt(r, "asked_at")?,
        refused_at: row::time_opt(r, "refused_at")?,
    })
}
