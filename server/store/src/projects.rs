//! Projects: the unit of isolation.

use berth_schemas::ProjectSlug;
use serde_json::json;
use sqlx::{Row, any::AnyRow};

use crate::{
    database::{assembled, visible},
    error::{Result, StoreError},
    model::{NewEvent, Principal, ProjectId, ProjectRow, Visible},
    row,
    store::Inner,
    write::Write,
};

const SELECT: &str = "SELECT p.id, p.slug, p.created_at,
    (SELECT COUNT(*) FROM apps a WHERE a.project_id = p.id) AS apps FROM projects p";

/// Projects of a [`crate::Store`].
#[derive(Clone, Copy)]
pub struct Projects<'a>(pub(crate) &'a Inner);

impl Projects<'_> {
    /// The projects that may be seen, by name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list(self, view: &Visible) -> Result<Vec<ProjectRow>> {
        let sql = format!("{SELECT} WHERE {} ORDER BY p.slug", visible(view, "p.id"));
        let rows = sqlx::query(assembled(sql)).fetch_all(self.0.read()).await?;
        rows.iter().map(from_row).collect()
    }

    /// Makes a project.
    ///
    /// # Errors
    /// When the name is taken, or the caller may see only certain projects: it could not see the new one.
    pub async fn create(self, by: &Principal, slug: ProjectSlug) -> Result<ProjectRow> {
        if by.visible != Visible::All {
            return Err(StoreError::Forbidden("this token is limited to certain projects".into()));
        }
        let mut write = Write::begin(self.0).await?;
        let now = write.now;
        let id = sqlx::query("INSERT INTO projects (slug, created_at) VALUES ($1, $2) RETURNING id")
            .bind(slug.as_str().to_owned())
            .bind(now.0)
            .fetch_one(write.conn())
            .await
            .map_err(|e| StoreError::taken(e, "project", slug.as_str()))?;
        let id = ProjectId(id.try_get("id")?);
        let event = NewEvent {
            kind: "project.created",
            by: by.name.clone(),
            app: None,
            summary: format!("Project {slug} was created."),
            data: json!({ "project": slug }),
        };
        write.event_in(id, None, event).await?;
        write.commit().await?;
        Ok(ProjectRow { id, slug, apps: 0, created_at: now })
    }

    /// The project with this name, if it may be seen.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn by_slug(self, view: &Visible, slug: &ProjectSlug) -> Result<Option<ProjectRow>> {
        let sql = format!("{SELECT} WHERE p.slug = $1 AND {}", visible(view, "p.id"));
        let row =
            sqlx::query(assembled(sql)).bind(slug.as_str().to_owned()).fetch_optional(self.0.read()).await?;
        row.as_ref().map(from_row).transpose()
    }

    /// Deletes a project without apps. Tokens that were limited to it alone are revoked: with no project
    /// left they would otherwise mean nothing, or worse, everything.
    ///
    /// # Errors
    /// When it has apps, is the default one, or does not exist for the caller.
    pub async fn delete(self, by: &Principal, id: ProjectId) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        let row = sqlx::query(assembled(format!("{SELECT} WHERE p.id = $1")))
            .bind(id.0)
            .fetch_optional(write.conn())
            .await?;
        let project = row.as_ref().map(from_row).transpose()?.filter(|p| by.visible.allows(p.id));
        let Some(project) = project else { return Err(StoreError::not_found("project", id.0)) };
        if project.slug == ProjectSlug::default_project() {
            return Err(StoreError::conflict(
                "the default project cannot be deleted",
                "Delete its apps instead.",
            ));
        }
        if project.apps > 0 {
            return Err(StoreError::conflict(
                format!("project {} still has {} app(s)", project.slug, project.apps),
                "Delete its apps first.",
            ));
        }
        let orphaned = sqlx::query(
            "DELETE FROM tokens WHERE restricted = 1 AND id IN (SELECT token_id FROM token_projects WHERE project_id = $1)
             AND id NOT IN (SELECT token_id FROM token_projects WHERE project_id <> $1) RETURNING name",
        )
        .bind(id.0)
        .fetch_all(write.conn())
        .await?;
        sqlx::query("DELETE FROM projects WHERE id = $1").bind(id.0).execute(write.conn()).await?;
        for row in &orphaned {
            let token: String = row.try_get("name")?;
            let event = NewEvent {
                kind: "token.revoked",
                by: by.name.clone(),
                app: None,
                summary: format!("Token {token} was revoked with its only project."),
                data: json!({ "token": token }),
            };
            write.event(event).await?;
        }
        let event = NewEvent {
            kind: "project.deleted",
            by: by.name.clone(),
            app: None,
            summary: format!("Project {} was deleted.", project.slug),
            data: json!({ "project": project.slug }),
        };
        write.event_in(id, None, event).await?;
        write.commit().await?;
        self.0.tokens.reload(self.0.read()).await
    }
}

fn from_row(r: &AnyRow) -> Result<ProjectRow> {
    Ok(ProjectRow {
        id: ProjectId(r.try_get("id")?),
        slug: row::name(r, "projects", "slug")?,
        apps: r.try_get("apps")?,
        created_at: row::time(r, "created_at")?,
    })
}
