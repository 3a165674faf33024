//! Variables and secrets. Every value is sealed, plain ones too: what is harmless today may hold a password
//! tomorrow. Names are in clear.

use berth_schemas::VariableName;
use serde_json::json;
use sqlx::{Row, any::AnyRow};

use crate::{
    error::{Result, StoreError},
    model::{AppRow, EnvironmentId, NewEvent, Principal, VariableRow},
    row,
    seal::Place,
    store::Inner,
    write::Write,
};

const SELECT: &str =
    "SELECT environment_id, name, sealed, secret, build, updated_at, updated_by FROM variables
    WHERE environment_id = $1 ORDER BY name";

/// Variables of a [`crate::Store`].
#[derive(Clone, Copy)]
pub struct Variables<'a>(pub(crate) &'a Inner);

impl Variables<'_> {
    /// The variables of an environment with their values opened, by name.
    ///
    /// # Errors
    /// When the database fails, or a value was tampered with.
    pub async fn list(self, environment: EnvironmentId) -> Result<Vec<VariableRow>> {
        let rows = sqlx::query(SELECT).bind(environment.0).fetch_all(self.0.read()).await?;
        rows.iter().map(|r| from_row(self.0, r)).collect()
    }

    /// Sets variables, each as (name, value, secret, build), and returns the names of those that changed.
    ///
    /// # Errors
    /// When the app does not exist for the caller.
    pub async fn set(
        self,
        by: &Principal,
        app: &AppRow,
        variables: Vec<(VariableName, String, bool, bool)>,
    ) -> Result<Vec<VariableName>> {
        let mut write = begin_for(self.0, by, app).await?;
        let environment = app.environment.id;
        let rows = sqlx::query(SELECT).bind(environment.0).fetch_all(write.conn()).await?;
        // A value that does not open is replaced like any other: setting it anew is how one recovers.
        let old: Vec<VariableRow> = rows.iter().filter_map(|r| from_row(self.0, r).ok()).collect();
        let mut changed = Vec::new();
        for (name, value, secret, build) in variables {
            let same = old
                .iter()
                .any(|o| o.name == name && o.value == value && o.secret == secret && o.build == build);
            if same {
                continue;
            }
            let sealed =
                self.0.sealer.seal(&place(&row_key(environment, name.as_str())), value.as_bytes())?;
            sqlx::query(
                "INSERT INTO variables (environment_id, name, sealed, secret, build, updated_at, updated_by)
                 VALUES ($1, $2, $3, $4, $5, $6, $7)
                 ON CONFLICT (environment_id, name) DO UPDATE SET sealed = excluded.sealed,
                     secret = excluded.secret, build = excluded.build, updated_at = excluded.updated_at,
                     updated_by = excluded.updated_by",
            )
            .bind(environment.0)
            .bind(name.as_str().to_owned())
            .bind(sealed)
            .bind(i64::from(secret))
            .bind(i64::from(build))
            .bind(write.now.0)
            .bind(by.name.clone())
            .execute(write.conn())
            .await?;
            changed.push(name);
        }
        if !changed.is_empty() {
            finish(write, by, app, "variable.set", "set", &changed).await?;
        }
        Ok(changed)
    }

    /// Deletes a variable; false if there is none of that name.
    ///
    /// # Errors
    /// When the app does not exist for the caller.
    pub async fn delete(self, by: &Principal, app: &AppRow, name: &VariableName) -> Result<bool> {
        let mut write = begin_for(self.0, by, app).await?;
        let gone = sqlx::query("DELETE FROM variables WHERE environment_id = $1 AND name = $2")
            .bind(app.environment.id.0)
            .bind(name.as_str().to_owned())
            .execute(write.conn())
            .await?
            .rows_affected()
            > 0;
        if gone {
            finish(write, by, app, "variable.deleted", "deleted", std::slice::from_ref(name)).await?;
        }
        Ok(gone)
    }
}

/// Begins a write on an app that must still be there and visible.
async fn begin_for<'a>(inner: &'a Inner, by: &Principal, app: &AppRow) -> Result<Write<'a>> {
    let mut write = Write::begin(inner).await?;
    let there =
        sqlx::query("SELECT id FROM apps WHERE id = $1").bind(app.id.0).fetch_optional(write.conn()).await?;
    if there.is_none() || !by.visible.allows(app.project_id) {
        return Err(StoreError::not_found("app", &app.slug));
    }
    Ok(write)
}

/// Notes that the configuration changed, by names only, and commits.
async fn finish(
    mut write: Write<'_>,
    by: &Principal,
    app: &AppRow,
    kind: &'static str,
    verb: &str,
    names: &[VariableName],
) -> Result<()> {
    let at = crate::apps::configured_at(&mut write, app.id).await?;
    sqlx::query("UPDATE environments SET configured_at = $1 WHERE id = $2")
        .bind(at.0)
        .bind(app.environment.id.0)
        .execute(write.conn())
        .await?;
    let list: Vec<&str> = names.iter().map(VariableName::as_str).collect();
    let event = NewEvent {
        kind,
        by: by.name.clone(),
        app: Some(app.id),
        summary: format!("Variables of {} {verb}: {}.", app.title(), list.join(", ")),
        data: json!({ "names": list, "environment": app.environment.name }),
    };
    write.event_in(app.project_id, Some(app.slug.clone()), event).await?;
    write.commit().await
}

fn row_key(environment: EnvironmentId, name: &str) -> String {
    format!("{}/{name}", environment.0)
}

fn place(row: &str) -> Place<'_> {
    Place { column: "variables/sealed", row }
}

fn from_row(inner: &Inner, r: &AnyRow) -> Result<VariableRow> {
    let environment = EnvironmentId(r.try_get("environment_id")?);
    let name: VariableName = row::name(r, "variables", "name")?;
    let sealed: String = r.try_get("sealed")?;
    let value = inner.sealer.open_text(&place(&row_key(environment, name.as_str())), &sealed)?;
    Ok(VariableRow {
        name,
        value,
        secret: row::flag(r, "secret")?,
        build: row::flag(r, "build")?,
        updated_at: row::time(r, "updated_at")?,
        updated_by: r.try_get("updated_by")?,
    })
}
