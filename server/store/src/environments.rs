//! Environments of apps: made by people, or as previews by branches and pull requests.
//!
//! That an app has one production, that a branch leads to one environment, and that a preview is found again by its
//! branch or its pull request: the database sees to it, so that two pushes at once make one.

use berth_schemas::{EnvironmentName, environment::EnvironmentKind};
use serde_json::json;
use sqlx::Row;

use crate::{
    apps::{self, SELECT, from_row, get_visible, of_environment, visible_in},
    database::{assembled, storable},
    error::{Result, StoreError},
    model::{
        AppId, AppRow, Ensured, EnvironmentId, NewEnvironment, NewEvent, NewPreview, PreviewRow, Principal,
    },
    row,
    store::Inner,
    write::Write,
};

/// Most environments that people make for one app.
const MOST_NAMED: i64 = 50;
/// Longest branch name that is kept, in bytes.
const MAX_BRANCH: usize = 255;

/// Environments of a [`crate::Store`].
#[derive(Clone, Copy)]
pub struct Environments<'a>(pub(crate) &'a Inner);

impl Environments<'_> {
    /// An app in all of its environments, production first, then in the order in which they were made.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn of(self, app: AppId) -> Result<Vec<AppRow>> {
        let sql = format!("{SELECT} WHERE a.id = $1 ORDER BY e.id");
        let rows = sqlx::query(assembled(sql)).bind(app.0).fetch_all(self.0.read()).await?;
        rows.iter().map(from_row).collect()
    }

    /// All previews of all apps.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn previews(self) -> Result<Vec<AppRow>> {
        let sql = format!("{SELECT} WHERE e.kind = 'preview' ORDER BY e.id");
        let rows = sqlx::query(assembled(sql)).fetch_all(self.0.read()).await?;
        rows.iter().map(from_row).collect()
    }

    /// An app in the environment of this name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn by_name(self, app: AppId, name: &EnvironmentName) -> Result<Option<AppRow>> {
        self.find("a.id = $1 AND e.name = $2", app, name.as_str()).await
    }

    /// An app in the environment that this branch deploys to: the one that somebody gave it, or its preview.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn by_branch(self, app: AppId, branch: &str) -> Result<Option<AppRow>> {
        self.find("a.id = $1 AND e.branch = $2", app, branch).await
    }

    /// An app in the preview of this pull request.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn by_pull(self, app: AppId, pull: i64) -> Result<Option<AppRow>> {
        let sql = format!("{SELECT} WHERE a.id = $1 AND v.pull = $2");
        let row = sqlx::query(assembled(sql)).bind(app.0).bind(pull).fetch_optional(self.0.read()).await?;
        row.as_ref().map(from_row).transpose()
    }

    async fn find(self, which: &str, app: AppId, text: &str) -> Result<Option<AppRow>> {
        let sql = format!("{SELECT} WHERE {which}");
        let row = sqlx::query(assembled(sql))
            .bind(app.0)
            .bind(storable(text, MAX_BRANCH))
            .fetch_optional(self.0.read())
            .await?;
        row.as_ref().map(from_row).transpose()
    }

    /// Makes a named environment.
    ///
    /// # Errors
    /// When the name or the branch is taken, there are 50 already, or the app is being deleted.
    pub async fn create(self, by: &Principal, app: AppId, new: NewEnvironment) -> Result<AppRow> {
        let mut write = Write::begin(self.0).await?;
        let of = get_visible(&mut write, by, app).await?;
        refuse_deleting(&of)?;
        if count(&mut write, app, EnvironmentKind::Named).await? >= MOST_NAMED {
            return Err(StoreError::conflict(
                format!("{} has {MOST_NAMED} environments already", of.slug),
                "Delete one with environment_delete first.",
            ));
        }
        let id = insert(&mut write, app, &new.name, EnvironmentKind::Named, new.branch.as_deref()).await?;
        sqlx::query("UPDATE environments SET replicas = $1 WHERE id = $2")
            .bind(new.replicas)
            .bind(id.0)
            .execute(write.conn())
            .await?;
        let row = of_environment(&mut write, id).await?;
        tell(&mut write, &row, &by.name, "environment.created", format!("{} was made.", row.title())).await?;
        write.commit().await?;
        Ok(row)
    }

    /// Sets the branch that deploys to an environment.
    ///
    /// # Errors
    /// When it leads elsewhere already, or the environment is a preview, whose branch is its own.
    pub async fn set_branch(
        self,
        by: &Principal,
        environment: EnvironmentId,
        branch: Option<&str>,
    ) -> Result<AppRow> {
        let mut write = Write::begin(self.0).await?;
        let app = visible_in(&mut write, by, environment).await?;
        refuse_deleting(&app)?;
        if app.environment.preview.is_some() {
            return Err(StoreError::conflict(
                format!("{} is a preview, which belongs to its branch", app.title()),
                "Make an environment with environment_create and give the branch to that.",
            ));
        }
        if app.environment.branch.as_deref() == branch {
            return Ok(app);
        }
        if let Some(branch) = branch {
            refuse_taken(&mut write, app.id, branch).await?;
        }
        sqlx::query("UPDATE environments SET branch = $1 WHERE id = $2")
            .bind(branch.map(|b| storable(b, MAX_BRANCH)))
            .bind(environment.0)
            .execute(write.conn())
            .await?;
        let row = of_environment(&mut write, environment).await?;
        let says = match branch {
            Some(branch) => format!("Pushes to {branch} are deployed to {}.", row.title()),
            None => format!("No branch is deployed to {} any more.", row.title()),
        };
        tell(&mut write, &row, &by.name, "environment.updated", says).await?;
        write.commit().await?;
        Ok(row)
    }

    /// Makes the preview of a branch or a pull request, or notes in the one that is there what is offered now. Where
    /// that would be one too many, the preview that was asleep for longest is marked as being deleted; what nobody
    /// has approved drives nothing away.
    ///
    /// # Errors
    /// `Conflict` when there are as many as there may be, or it is being removed at this moment.
    pub async fn ensure_preview(self, by: &str, app: AppId, new: NewPreview) -> Result<Ensured> {
        let mut write = Write::begin(self.0).await?;
        let of = apps::get(&mut write, app).await?;
        refuse_deleting(&of)?;
        if let Some(known) = find_preview(&mut write, app, &new).await? {
            refuse_deleting(&known)?;
            offer(&mut write, &known, &new).await?;
            let app = of_environment(&mut write, known.environment.id).await?;
            write.commit().await?;
            return Ok(Ensured { app, made: false, makes_room: None });
        }
        let makes_room = match count(&mut write, app, EnvironmentKind::Preview).await? >= new.limit {
            true => Some(make_room(&mut write, by, &of, &new).await?),
            false => None,
        };
        let branch = new.pull.is_none().then_some(new.head.as_str());
        let name = match taken(&mut write, app, &new.name).await? {
            true => &new.otherwise,
            false => &new.name,
        };
        let id = insert(&mut write, app, name, EnvironmentKind::Preview, branch).await?;
        sqlx::query(
            "INSERT INTO previews (environment_id, app_id, head, pull, fork, last_request_at)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(id.0)
        .bind(app.0)
        .bind(storable(&new.head, MAX_BRANCH))
        .bind(new.pull)
        .bind(i64::from(new.fork))
        .bind(write.now.0)
        .execute(write.conn())
        .await?;
        let row = of_environment(&mut write, id).await?;
        offer(&mut write, &row, &new).await?;
        let app = of_environment(&mut write, id).await?;
        let says = match new.pull {
            Some(pull) => format!("The preview {} of pull request {pull} was made.", app.title()),
            None => format!("The preview {} was made.", app.title()),
        };
        tell(&mut write, &app, by, "preview.created", says).await?;
        write.commit().await?;
        Ok(Ensured { app, made: true, makes_room })
    }

    /// Allows exactly this commit of a fork to run.
    ///
    /// # Errors
    /// `Conflict` when the preview is none of a fork, or offers another commit by now.
    pub async fn approve(self, by: &Principal, environment: EnvironmentId, commit: &str) -> Result<AppRow> {
        let mut write = Write::begin(self.0).await?;
        let app = visible_in(&mut write, by, environment).await?;
        refuse_deleting(&app)?;
        let offered = app.environment.preview.as_ref().filter(|p| p.fork).and_then(|p| p.offer.as_ref());
        if offered.is_none_or(|offer| offer.commit != commit) {
            return Err(StoreError::conflict(
                match offered {
                    Some(offer) => format!("{} offers commit {} by now", app.title(), offer.commit),
                    None => format!("nothing in {} waits for approval", app.title()),
                },
                "See environment_get; look at the commit that waits, then approve exactly that.",
            ));
        }
        sqlx::query("UPDATE previews SET approved = $1, last_request_at = $2 WHERE environment_id = $3")
            .bind(commit.to_owned())
            .bind(write.now.0)
            .bind(environment.0)
            .execute(write.conn())
            .await?;
        let row = of_environment(&mut write, environment).await?;
        let says = format!("{} approved commit {commit} for {}.", by.name, row.title());
        tell(&mut write, &row, &by.name, "preview.approved", says).await?;
        write.commit().await?;
        Ok(row)
    }

    /// Puts a preview to sleep, or wakes it.
    ///
    /// # Errors
    /// When the environment is no preview, or is gone.
    pub async fn set_sleeping(self, environment: EnvironmentId, sleeping: bool) -> Result<AppRow> {
        let mut write = Write::begin(self.0).await?;
        let before = of_environment(&mut write, environment).await?.environment.sleeping();
        let now = write.now.0;
        sqlx::query(
            "UPDATE previews SET sleeping = $1, last_request_at = CASE WHEN $1 = 0 THEN $2 ELSE last_request_at END
             WHERE environment_id = $3",
        )
        .bind(i64::from(sleeping))
        .bind(now)
        .bind(environment.0)
        .execute(write.conn())
        .await?;
        let app = of_environment(&mut write, environment).await?;
        if before == sleeping {
            write.commit().await?;
            return Ok(app);
        }
        let (kind, word) = match sleeping {
            true => ("preview.asleep", "sleeps: nobody used it"),
            false => ("preview.awake", "is awake"),
        };
        let says = format!("{} {word}.", app.title());
        tell(&mut write, &app, &Principal::daemon().name, kind, says).await?;
        write.commit().await?;
        Ok(app)
    }

    /// Notes when previews were last used.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn used(self, used: &[(EnvironmentId, berth_schemas::Timestamp)]) -> Result<()> {
        if used.is_empty() {
            return Ok(());
        }
        let mut write = Write::begin(self.0).await?;
        for (environment, at) in used {
            sqlx::query(
                "UPDATE previews SET last_request_at = $1 WHERE environment_id = $2 AND last_request_at < $1",
            )
            .bind(at.0)
            .bind(environment.0)
            .execute(write.conn())
            .await?;
        }
        write.commit().await
    }

    /// Marks an environment as being deleted, from when on it takes no new work.
    ///
    /// # Errors
    /// When it does not exist for the caller, or is production.
    pub async fn mark_deleting(self, by: &Principal, environment: EnvironmentId) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        let app = visible_in(&mut write, by, environment).await?;
        if app.is_production() {
            return Err(StoreError::conflict(
                "production cannot be deleted alone",
                "app_delete deletes the app.",
            ));
        }
        if !app.deleting {
            begin_deletion(&mut write, &by.name, &app).await?;
        }
        write.commit().await
    }

    /// Deletes an environment and everything below it; logs and requests first, in pieces. One that does not exist
    /// is no error.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete(self, environment: EnvironmentId, by: &str) -> Result<()> {
        crate::logs::Logs(self.0).remove_environment(environment).await?;
        crate::requests::Requests(self.0).remove_environment(environment).await?;
        let mut write = Write::begin(self.0).await?;
        let app = match of_environment(&mut write, environment).await {
            Err(StoreError::NotFound { .. }) => return Ok(()),
            app => app?,
        };
        sqlx::query("DELETE FROM environments WHERE id = $1 AND kind <> 'production'")
            .bind(environment.0)
            .execute(write.conn())
            .await?;
        tell(&mut write, &app, by, "environment.deleted", format!("{} was deleted.", app.title())).await?;
        write.commit().await
    }
}

fn refuse_deleting(app: &AppRow) -> Result<()> {
    match app.deleting {
        true => Err(StoreError::conflict(
            format!("{} is being deleted", app.title()),
            "Wait for its deletion to end.",
        )),
        false => Ok(()),
    }
}

async fn begin_deletion(write: &mut Write<'_>, by: &str, app: &AppRow) -> Result<()> {
    sqlx::query("UPDATE environments SET deleting = 1 WHERE id = $1")
        .bind(app.environment.id.0)
        .execute(write.conn())
        .await?;
    tell(write, app, by, "environment.deleting", format!("{} is being deleted.", app.title())).await
}

/// How many environments of a kind an app has that stay.
async fn count(write: &mut Write<'_>, app: AppId, kind: EnvironmentKind) -> Result<i64> {
    let sql = "SELECT COUNT(*) AS n FROM environments WHERE app_id = $1 AND kind = $2 AND deleting = 0";
    let row = sqlx::query(sql).bind(app.0).bind(kind.as_str()).fetch_one(write.conn()).await?;
    Ok(row.try_get("n")?)
}

async fn taken(write: &mut Write<'_>, app: AppId, name: &EnvironmentName) -> Result<bool> {
    let row = sqlx::query("SELECT id FROM environments WHERE app_id = $1 AND name = $2")
        .bind(app.0)
        .bind(name.as_str().to_owned())
        .fetch_optional(write.conn())
        .await?;
    Ok(row.is_some())
}

/// A branch leads to one environment.
async fn refuse_taken(write: &mut Write<'_>, app: AppId, branch: &str) -> Result<()> {
    let row = sqlx::query("SELECT name FROM environments WHERE app_id = $1 AND branch = $2")
        .bind(app.0)
        .bind(storable(branch, MAX_BRANCH))
        .fetch_optional(write.conn())
        .await?;
    let Some(row) = row else { return Ok(()) };
    let name: String = row.try_get("name")?;
    Err(StoreError::conflict(
        format!("the branch is deployed to {name} already"),
        "Give that environment another branch, or delete it, first.",
    ))
}

async fn insert(
    write: &mut Write<'_>,
    app: AppId,
    name: &EnvironmentName,
    kind: EnvironmentKind,
    branch: Option<&str>,
) -> Result<EnvironmentId> {
    if let Some(branch) = branch {
        refuse_taken(write, app, branch).await?;
    }
    let id: i64 = sqlx::query(
        "INSERT INTO environments (app_id, name, kind, branch, created_at) VALUES ($1, $2, $3, $4, $5)
         RETURNING id",
    )
    .bind(app.0)
    .bind(name.as_str().to_owned())
    .bind(kind.as_str())
    .bind(branch.map(|b| storable(b, MAX_BRANCH)))
    .bind(write.now.0)
    .fetch_one(write.conn())
    .await
    .map_err(|e| StoreError::taken(e, "environment", name.as_str()))?
    .try_get("id")?;
    Ok(EnvironmentId(id))
}

/// The preview that a branch or pull request has already.
async fn find_preview(write: &mut Write<'_>, app: AppId, new: &NewPreview) -> Result<Option<AppRow>> {
    let row = match new.pull {
        Some(pull) => {
            let sql = format!("{SELECT} WHERE a.id = $1 AND v.pull = $2");
            sqlx::query(assembled(sql)).bind(app.0).bind(pull).fetch_optional(write.conn()).await?
        }
        None => {
            let sql = format!("{SELECT} WHERE a.id = $1 AND e.kind = 'preview' AND e.branch = $2");
            let branch = storable(&new.head, MAX_BRANCH);
            sqlx::query(assembled(sql)).bind(app.0).bind(branch).fetch_optional(write.conn()).await?
        }
    };
    row.as_ref().map(from_row).transpose()
}

/// Notes what a preview is offered. One that was a fork's once stays so.
async fn offer(write: &mut Write<'_>, app: &AppRow, new: &NewPreview) -> Result<()> {
    let offer = new.offer.as_ref().map(|o| row::to_json("previews", "offer", o)).transpose()?;
    sqlx::query(
        "UPDATE previews SET head = $1, fork = CASE WHEN fork = 1 THEN 1 ELSE $2 END, offer = COALESCE($3, offer),
             expires_at = $4, last_request_at = $5 WHERE environment_id = $6",
    )
    .bind(storable(&new.head, MAX_BRANCH))
    .bind(i64::from(new.fork))
    .bind(offer)
    .bind(new.expires_at.map(|t| t.0))
    .bind(write.now.0)
    .bind(app.environment.id.0)
    .execute(write.conn())
    .await?;
    Ok(())
}

/// Marks the preview that can be spared best as being deleted, for another to take its place.
async fn make_room(write: &mut Write<'_>, by: &str, app: &AppRow, new: &NewPreview) -> Result<AppRow> {
    let full = |hint: &str| {
        let detail = format!("{} has {} previews, which is as many as it may have", app.slug, new.limit);
        Err(StoreError::conflict(detail, hint))
    };
    if new.fork {
        return full("Delete one with environment_delete, or raise settings.preview_limit with app_update.");
    }
    let sql = format!(
        "{SELECT} WHERE a.id = $1 AND e.kind = 'preview' AND e.deleting = 0 AND (v.sleeping = 1 OR e.live_id IS NULL)
             AND NOT EXISTS (SELECT 1 FROM deployments d WHERE d.environment_id = e.id AND d.state IN ({}))
         ORDER BY v.last_request_at LIMIT 1",
        crate::deployments::unsettled_states()
    );
    let row = sqlx::query(assembled(sql)).bind(app.id.0).fetch_optional(write.conn()).await?;
    match row.as_ref().map(from_row).transpose()? {
        Some(spare) => {
            begin_deletion(write, by, &spare).await?;
            Ok(spare)
        }
        None => full(
            "All of them are in use. Delete one with environment_delete, or raise settings.preview_limit with app_update.",
        ),
    }
}

async fn tell(write: &mut Write<'_>, app: &AppRow, by: &str, kind: &'static str, says: String) -> Result<()> {
    let preview = app.environment.preview.as_ref();
    let event = NewEvent {
        kind,
        by: by.to_owned(),
        app: Some(app.id),
        summary: says,
        data: json!({
            "environment": app.environment.name, "kind": app.environment.kind, "branch": app.environment.branch,
            "pull": preview.and_then(|p: &PreviewRow| p.pull),
            "commit": preview.and_then(|p| p.offer.as_ref()).map(|o| o.commit.as_str()),
        }),
    };
    write.event_in(app.project_id, Some(app.slug.clone()), event).await?;
    Ok(())
}
