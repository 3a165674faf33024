//! Apps, as seen in their environments.

use berth_schemas::{
    AppSlug, EnvironmentName, Timestamp, app::AppSettings, environment::EnvironmentKind, traffic::TrafficMode,
};
use serde_json::json;
use sqlx::{Row, any::AnyRow};

use crate::{
    database::{assembled, visible},
    error::{Result, StoreError},
    model::{
        AppId, AppRow, EnvironmentId, EnvironmentRow, NewEvent, PreviewRow, Principal, ProjectId, ReleaseId,
        Visible,
    },
    row,
    store::Inner,
    write::Write,
};

/// Apps as seen in each of their environments.
pub(crate) const SELECT: &str = "SELECT a.id, a.uuid, a.project_id, p.slug AS project, a.slug, a.settings, a.deleting,
    a.created_at, a.configured_at, e.id AS environment_id, e.name AS environment, e.kind, e.branch, e.live_id,
    e.stopped, e.replicas, e.traffic, e.created_at AS made_at, e.configured_at AS own_configured_at,
    e.deleting AS going, v.environment_id AS preview, v.head, v.pull, v.fork, v.offer, v.approved, v.expires_at,
    v.last_request_at, v.sleeping
    FROM apps a JOIN projects p ON p.id = a.project_id
    JOIN environments e ON e.app_id = a.id LEFT JOIN previews v ON v.environment_id = e.id";

/// Narrows [`SELECT`] to production: each app once.
const PRODUCTION: &str = "e.kind = 'production'";

/// Most apps in a page.
const MAX_PAGE: i64 = 500;

/// Apps of a [`crate::Store`].
#[derive(Clone, Copy)]
pub struct Apps<'a>(pub(crate) &'a Inner);

impl Apps<'_> {
    /// A page of the apps that may be seen, by name, beginning behind `after`; and how many there are in all.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list(
        self,
        view: &Visible,
        project: Option<ProjectId>,
        after: Option<&str>,
        limit: i64,
    ) -> Result<(Vec<AppRow>, i64)> {
        let mut scope = visible(view, "a.project_id");
        if let Some(project) = project {
            scope = format!("{scope} AND a.project_id = {}", project.0);
        }
        let sql = format!("{SELECT} WHERE {PRODUCTION} AND {scope} AND a.slug > $1 ORDER BY a.slug LIMIT $2");
        let rows = sqlx::query(assembled(sql))
            .bind(after.unwrap_or("").replace('\0', ""))
            .bind(limit.clamp(1, MAX_PAGE))
            .fetch_all(self.0.read())
            .await?;
        let total = sqlx::query(assembled(format!("SELECT COUNT(*) AS n FROM apps a WHERE {scope}")))
            .fetch_one(self.0.read())
            .await?
            .try_get("n")?;
        Ok((rows.iter().map(from_row).collect::<Result<_>>()?, total))
    }

    /// All apps that may be seen, by name, in production.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn all(self, view: &Visible) -> Result<Vec<AppRow>> {
        let scope = visible(view, "a.project_id");
        let sql = format!("{SELECT} WHERE {PRODUCTION} AND {scope} ORDER BY a.slug");
        let rows = sqlx::query(assembled(sql)).fetch_all(self.0.read()).await?;
        rows.iter().map(from_row).collect()
    }

    /// All apps that may be seen, by name, each in every environment that it has, production first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn all_environments(self, view: &Visible) -> Result<Vec<AppRow>> {
        let sql = format!("{SELECT} WHERE {} ORDER BY a.slug, e.id", visible(view, "a.project_id"));
        let rows = sqlx::query(assembled(sql)).fetch_all(self.0.read()).await?;
        rows.iter().map(from_row).collect()
    }

    /// The app with this name in production, if it may be seen.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn by_slug(self, view: &Visible, slug: &AppSlug) -> Result<Option<AppRow>> {
        let sql =
            format!("{SELECT} WHERE {PRODUCTION} AND a.slug = $1 AND {}", visible(view, "a.project_id"));
        let row =
            sqlx::query(assembled(sql)).bind(slug.as_str().to_owned()).fetch_optional(self.0.read()).await?;
        row.as_ref().map(from_row).transpose()
    }

    /// The app with this id in production, for the daemon's own use.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn by_id(self, id: AppId) -> Result<Option<AppRow>> {
        let sql = format!("{SELECT} WHERE {PRODUCTION} AND a.id = $1");
        let row = sqlx::query(assembled(sql)).bind(id.0).fetch_optional(self.0.read()).await?;
        row.as_ref().map(from_row).transpose()
    }

    /// The app as seen in this environment, for the daemon's own use.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn by_environment(&self, id: EnvironmentId) -> Result<Option<AppRow>> {
        let sql = format!("{SELECT} WHERE e.id = $1");
        let row = sqlx::query(assembled(sql)).bind(id.0).fetch_optional(self.0.read()).await?;
        row.as_ref().map(from_row).transpose()
    }

    /// Names of the apps that may be seen, to suggest from.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn slugs(self, view: &Visible) -> Result<Vec<String>> {
        let sql = format!("SELECT slug FROM apps WHERE {} ORDER BY slug", visible(view, "project_id"));
        let rows = sqlx::query(assembled(sql)).fetch_all(self.0.read()).await?;
        rows.iter().map(|r| Ok(r.try_get("slug")?)).collect()
    }

    /// Makes an app with its production environment.
    ///
    /// # Errors
    /// When the name is taken, by whichever project, or the project does not exist for the caller.
    pub async fn create(
        self,
        by: &Principal,
        project: ProjectId,
        slug: AppSlug,
        settings: AppSettings,
    ) -> Result<AppRow> {
        let mut write = Write::begin(self.0).await?;
        let known = sqlx::query("SELECT id FROM projects WHERE id = $1")
            .bind(project.0)
            .fetch_optional(write.conn())
            .await?;
        if known.is_none() || !by.visible.allows(project) {
            return Err(StoreError::not_found("project", project.0));
        }
        let id: i64 = sqlx::query(
            "INSERT INTO apps (uuid, project_id, slug, settings, created_at, configured_at)
             VALUES ($1, $2, $3, $4, $5, $5) RETURNING id",
        )
        .bind(uuid::Uuid::new_v4().to_string())
        .bind(project.0)
        .bind(slug.as_str().to_owned())
        .bind(row::to_json("apps", "settings", &settings)?)
        .bind(write.now.0)
        .fetch_one(write.conn())
        .await
        .map_err(|e| StoreError::taken(e, "app", slug.as_str()))?
        .try_get("id")?;
        sqlx::query("INSERT INTO environments (app_id, name, kind, created_at) VALUES ($1, $2, $3, $4)")
            .bind(id)
            .bind(EnvironmentName::production().as_str().to_owned())
            .bind(EnvironmentKind::Production.as_str())
            .bind(write.now.0)
            .execute(write.conn())
            .await?;
        let event = NewEvent {
            kind: "app.created",
            by: by.name.clone(),
            app: Some(AppId(id)),
            summary: format!("App {slug} was created."),
            data: json!({ "app": slug }),
        };
        write.event_in(project, Some(slug), event).await?;
        let app = get(&mut write, AppId(id)).await?;
        write.commit().await?;
        Ok(app)
    }

    /// Replaces the settings. If nothing differs, nothing is written.
    ///
    /// # Errors
    /// When the app does not exist for the caller.
    pub async fn update_settings(self, by: &Principal, id: AppId, settings: AppSettings) -> Result<AppRow> {
        let mut write = Write::begin(self.0).await?;
        let app = get_visible(&mut write, by, id).await?;
        if app.settings == settings {
            return Ok(app);
        }
        let changed = changed_fields(&app.settings, &settings)?;
        let at = configured_at(&mut write, id).await?;
        sqlx::query("UPDATE apps SET settings = $1, configured_at = $2 WHERE id = $3")
            .bind(row::to_json("apps", "settings", &settings)?)
            .bind(at.0)
            .bind(id.0)
            .execute(write.conn())
            .await?;
        let event = NewEvent {
            kind: "app.updated",
            by: by.name.clone(),
            app: Some(id),
            summary: format!("Settings of {} changed: {}.", app.slug, changed.join(", ")),
            data: json!({ "changed": changed }),
        };
        write.event_in(app.project_id, Some(app.slug), event).await?;
        let app = get(&mut write, id).await?;
        write.commit().await?;
        Ok(app)
    }

    /// Sets how many replicas there should be.
    ///
    /// # Errors
    /// When the environment does not exist.
    pub async fn set_replicas(self, environment: EnvironmentId, replicas: i64) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        let app = of_environment(&mut write, environment).await?;
        sqlx::query("UPDATE environments SET replicas = $1 WHERE id = $2")
            .bind(replicas)
            .bind(environment.0)
            .execute(write.conn())
            .await?;
        let event = NewEvent {
            kind: "app.scaled",
            by: Principal::daemon().name,
            app: Some(app.id),
            summary: format!("App {} is to have {replicas} replica(s).", app.title()),
            data: json!({ "replicas": replicas, "environment": app.environment.name }),
        };
        write.event_in(app.project_id, Some(app.slug), event).await?;
        write.commit().await
    }

    /// Marks an environment as stopped by request, or as no longer so.
    ///
    /// # Errors
    /// When the environment does not exist.
    pub async fn set_stopped(self, environment: EnvironmentId, stopped: bool, by: &str) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        let app = of_environment(&mut write, environment).await?;
        sqlx::query("UPDATE environments SET stopped = $1 WHERE id = $2")
            .bind(i64::from(stopped))
            .bind(environment.0)
            .execute(write.conn())
            .await?;
        let word = if stopped { "stopped" } else { "started" };
        let event = NewEvent {
            kind: if stopped { "app.stopped" } else { "app.started" },
            by: by.to_owned(),
            app: Some(app.id),
            summary: format!("App {} was {word}.", app.title()),
            data: json!({ "environment": app.environment.name }),
        };
        write.event_in(app.project_id, Some(app.slug), event).await?;
        write.commit().await
    }

    /// Sets what visitors of an app meet. The same mode again changes nothing.
    ///
    /// # Errors
    /// When the app does not exist for the caller.
    pub async fn set_traffic(
        self,
        by: &Principal,
        environment: EnvironmentId,
        traffic: TrafficMode,
    ) -> Result<AppRow> {
        let mut write = Write::begin(self.0).await?;
        let app = visible_in(&mut write, by, environment).await?;
        if app.environment.traffic == traffic {
            return Ok(app);
        }
        sqlx::query("UPDATE environments SET traffic = $1 WHERE id = $2")
            .bind(row::to_json("environments", "traffic", &traffic)?)
            .bind(environment.0)
            .execute(write.conn())
            .await?;
        let (kind, says) = match &traffic {
            TrafficMode::Open => ("app.resumed", "gets its traffic again".to_owned()),
            TrafficMode::Paused { hold_s, .. } => {
                ("app.paused", format!("is paused: requests wait up to {hold_s} s"))
            }
            TrafficMode::Maintenance { .. } => {
                ("app.maintenance", "is in maintenance: visitors get a page that says so".to_owned())
            }
        };
        let event = NewEvent {
            kind,
            by: by.name.clone(),
            app: Some(app.id),
            summary: format!("App {} {says}.", app.title()),
            data: json!({
                "traffic": traffic, "before": app.environment.traffic, "environment": app.environment.name,
            }),
        };
        write.event_in(app.project_id, Some(app.slug), event).await?;
        let app = of_environment(&mut write, environment).await?;
        write.commit().await?;
        Ok(app)
    }

    /// Marks an app as being deleted, from when on it takes no new work.
    ///
    /// # Errors
    /// When the app does not exist for the caller.
    pub async fn mark_deleting(self, by: &Principal, id: AppId) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        let app = get_visible(&mut write, by, id).await?;
        if app.deleting {
            return Ok(());
        }
        sqlx::query("UPDATE apps SET deleting = 1 WHERE id = $1").bind(id.0).execute(write.conn()).await?;
        let event = NewEvent {
            kind: "app.deleting",
            by: by.name.clone(),
            app: Some(id),
            summary: format!("App {} is being deleted.", app.slug),
            data: serde_json::Value::Null,
        };
        write.event_in(app.project_id, Some(app.slug), event).await?;
        write.commit().await
    }

    /// Deletes an app and everything below it. Logs and requests go first, in pieces, so that writers need
    /// not wait long; what is left if the daemon dies here is a marked app whose deletion can be repeated.
    ///
    /// # Errors
    /// When the database fails. An app that does not exist is no error.
    pub async fn delete(self, id: AppId, by: &str) -> Result<()> {
        crate::logs::Logs(self.0).remove_app(id).await?;
        crate::requests::Requests(self.0).remove_app(id).await?;
        let mut write = Write::begin(self.0).await?;
        let Some(app) = find(&mut write, id).await? else { return Ok(()) };
        sqlx::query("DELETE FROM apps WHERE id = $1").bind(id.0).execute(write.conn()).await?;
        let event = NewEvent {
            kind: "app.deleted",
            by: by.to_owned(),
            app: Some(id),
            summary: format!("App {} was deleted.", app.slug),
            data: json!({ "app": app.slug }),
        };
        write.event_in(app.project_id, Some(app.slug), event).await?;
        write.commit().await
    }
}

/// Names of the settings that differ.
fn changed_fields(old: &AppSettings, new: &AppSettings) -> Result<Vec<String>> {
    let fields = |s: &AppSettings| {
        serde_json::to_value(s).map_err(|e| StoreError::corrupt("apps", "settings", &e.to_string()))
    };
    let (old, new) = (fields(old)?, fields(new)?);
    let keys = [&old, &new].into_iter().filter_map(|v| v.as_object()).flat_map(|o| o.keys());
    let changed: std::collections::BTreeSet<&String> = keys.filter(|k| old.get(k) != new.get(k)).collect();
    Ok(changed.into_iter().cloned().collect())
}

async fn find(write: &mut Write<'_>, id: AppId) -> Result<Option<AppRow>> {
    let sql = format!("{SELECT} WHERE {PRODUCTION} AND a.id = $1");
    let row = sqlx::query(assembled(sql)).bind(id.0).fetch_optional(write.conn()).await?;
    row.as_ref().map(from_row).transpose()
}

pub(crate) async fn get(write: &mut Write<'_>, id: AppId) -> Result<AppRow> {
    find(write, id).await?.ok_or_else(|| StoreError::not_found("app", id.0))
}

pub(crate) async fn get_visible(write: &mut Write<'_>, by: &Principal, id: AppId) -> Result<AppRow> {
    let app = find(write, id).await?.filter(|a| by.visible.allows(a.project_id));
    app.ok_or_else(|| StoreError::not_found("app", id.0))
}

/// The app as seen in an environment, within a write.
pub(crate) async fn of_environment(write: &mut Write<'_>, id: EnvironmentId) -> Result<AppRow> {
    let sql = format!("{SELECT} WHERE e.id = $1");
    let row = sqlx::query(assembled(sql)).bind(id.0).fetch_optional(write.conn()).await?;
    row.as_ref().map(from_row).transpose()?.ok_or_else(|| StoreError::not_found("environment", id.0))
}

/// The same, if the caller may see it.
pub(crate) async fn visible_in(write: &mut Write<'_>, by: &Principal, id: EnvironmentId) -> Result<AppRow> {
    let app = of_environment(write, id).await?;
    match by.visible.allows(app.project_id) {
        true => Ok(app),
        false => Err(StoreError::not_found("environment", id.0)),
    }
}

/// The time of a change to settings or variables: now, but later than whatever was deployed before it, even if the
/// clock was set back since. Otherwise the change would count as deployed.
async fn configured_at(write: &mut Write<'_>, app: AppId) -> Result<Timestamp> {
    let deployments = "SELECT COALESCE(MAX(created_at), 0) AS newest FROM deployments WHERE app_id = $1";
    let releases = "SELECT COALESCE(MAX(created_at), 0) AS newest FROM releases WHERE app_id = $1";
    let deployed = write.later_than(deployments, Some(app.0)).await?;
    Ok(deployed.max(write.later_than(releases, Some(app.0)).await?))
}

/// What of an app is deployed with a changed configuration.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Configured {
    /// One environment.
    Environment(EnvironmentId),
    /// All previews.
    Previews,
    /// All of it.
    App,
}

/// Notes that a configuration changed: the next deployment brings it, also one of the same source.
pub(crate) async fn note_configured(write: &mut Write<'_>, app: AppId, what: Configured) -> Result<()> {
    let at = configured_at(write, app).await?;
    let changed = match what {
        Configured::Environment(id) => format!("environments SET configured_at = $1 WHERE id = {}", id.0),
        Configured::Previews => {
            format!("environments SET configured_at = $1 WHERE app_id = {} AND kind = 'preview'", app.0)
        }
        Configured::App => format!("apps SET configured_at = $1 WHERE id = {}", app.0),
    };
    sqlx::query(assembled(format!("UPDATE {changed}"))).bind(at.0).execute(write.conn()).await?;
    Ok(())
}

pub(crate) fn from_row(r: &AnyRow) -> Result<AppRow> {
    let deleting = row::flag(r, "deleting")? || row::flag(r, "going")?;
    Ok(AppRow {
        id: AppId(r.try_get("id")?),
        uuid: r.try_get("uuid")?,
        project_id: ProjectId(r.try_get("project_id")?),
        project: row::name(r, "projects", "project")?,
        slug: row::name(r, "apps", "slug")?,
        settings: row::json(r, "apps", "settings")?,
        deleting,
        environment: EnvironmentRow {
            id: EnvironmentId(r.try_get("environment_id")?),
            name: row::name(r, "environments", "environment")?,
            kind: row::word(r, "environments", "kind", EnvironmentKind::parse)?,
            branch: r.try_get("branch")?,
            live: r.try_get::<Option<i64>, _>("live_id")?.map(ReleaseId),
            stopped: row::flag(r, "stopped")?,
            replicas: r.try_get("replicas")?,
            traffic: row::json(r, "environments", "traffic")?,
            created_at: row::time(r, "made_at")?,
            deleting,
            preview: preview(r)?,
        },
        created_at: row::time(r, "created_at")?,
        configured_at: row::time(r, "configured_at")?.max(row::time(r, "own_configured_at")?),
    })
}

/// What only a preview has.
fn preview(r: &AnyRow) -> Result<Option<PreviewRow>> {
    if r.try_get::<Option<i64>, _>("preview")?.is_none() {
        return Ok(None);
    }
    Ok(Some(PreviewRow {
        head: r.try_get("head")?,
        pull: r.try_get("pull")?,
        fork: row::flag(r, "fork")?,
        offer: row::json_opt(r, "previews", "offer")?,
        approved: r.try_get("approved")?,
        expires_at: row::time_opt(r, "expires_at")?,
        last_request_at: row::time(r, "last_request_at")?,
        sleeping: row::flag(r, "sleeping")?,
    }))
}
