//! Variables and secrets. Every value is sealed, plain ones too: what is harmless today may hold a password
//! tomorrow. Names are in clear.
//!
//! An app's process gets what all environments share, over it what all previews have, over it what its environment has
//! of its own. Each change keeps the value as a version, with who and when.

use std::collections::BTreeMap;

use berth_schemas::{VariableName, variable::VariableScope};
use serde_json::json;
use sqlx::{Row, any::AnyRow};

use crate::{
    apps::{Configured, note_configured},
    database::assembled,
    error::{Result, StoreError},
    model::{AppRow, EnvironmentId, NewEvent, NewVariable, Principal, VariableRow, VariableVersion},
    row,
    seal::Place,
    store::Inner,
    write::Write,
};

/// Versions of a variable that are shown.
const MOST_VERSIONS: i64 = 200;

/// Variables of a [`crate::Store`].
#[derive(Clone, Copy)]
pub struct Variables<'a>(pub(crate) &'a Inner);

/// Who has a variable.
struct Holder<'a> {
    app: &'a AppRow,
    scope: VariableScope,
}

impl Holder<'_> {
    /// What its values are sealed for.
    fn key(&self) -> String {
        match self.scope {
            VariableScope::Environment => self.app.environment.id.0.to_string(),
            group => format!("{}:{}", group.as_str(), self.app.id.0),
        }
    }

    fn environment(&self) -> Option<EnvironmentId> {
        (self.scope == VariableScope::Environment).then_some(self.app.environment.id)
    }

    fn table(&self) -> &'static str {
        match self.scope {
            VariableScope::Environment => "variables",
            VariableScope::Previews | VariableScope::Shared => "group_variables",
        }
    }

    /// The table, and what of it is the holder's.
    fn rows(&self) -> String {
        let table = self.table();
        match self.scope {
            VariableScope::Environment => {
                format!("{table} WHERE environment_id = {}", self.app.environment.id.0)
            }
            group => {
                format!("{table} WHERE app_id = {} AND scope = '{}'", self.app.id.0, group.as_str())
            }
        }
    }

    fn select(&self) -> String {
        let (table, rows, key) = (self.table(), self.rows(), self.key());
        format!(
            "SELECT name, sealed, secret, build, refers, updated_at, updated_by,
                 (SELECT COALESCE(MAX(v.version), 0) FROM variable_versions v
                  WHERE v.holder = '{key}' AND v.name = {table}.name) AS version
             FROM {rows} ORDER BY name"
        )
    }

    /// For people.
    fn title(&self) -> String {
        match self.scope {
            VariableScope::Environment => self.app.title(),
            VariableScope::Previews => format!("all previews of {}", self.app.slug),
            VariableScope::Shared => format!("all environments of {}", self.app.slug),
        }
    }
}

impl Variables<'_> {
    /// The variables that count in an app's environment, with their values opened, by name.
    ///
    /// # Errors
    /// When the database fails, or a value was tampered with.
    pub async fn effective(self, app: &AppRow) -> Result<Vec<VariableRow>> {
        let mut all = BTreeMap::new();
        let previews = app.environment.preview.is_some().then_some(VariableScope::Previews);
        let scopes = [Some(VariableScope::Shared), previews, Some(VariableScope::Environment)];
        for scope in scopes.into_iter().flatten() {
            for row in self.of(app, scope).await? {
                all.insert(row.name.clone(), row);
            }
        }
        Ok(all.into_values().collect())
    }

    /// The variables that are set in one scope, with their values opened, by name.
    ///
    /// # Errors
    /// When the database fails, or a value was tampered with.
    pub async fn of(self, app: &AppRow, scope: VariableScope) -> Result<Vec<VariableRow>> {
        let holder = Holder { app, scope };
        let rows = sqlx::query(assembled(holder.select())).fetch_all(self.0.read()).await?;
        rows.iter().map(|r| from_row(self.0, &holder, r)).collect()
    }

    /// Sets variables of an environment, each as (name, value, secret, build), whose values stand for themselves, and
    /// returns the names of those that changed.
    ///
    /// # Errors
    /// When the app does not exist for the caller.
    pub async fn set(
        self,
        by: &Principal,
        app: &AppRow,
        variables: Vec<(VariableName, String, bool, bool)>,
    ) -> Result<Vec<VariableName>> {
        self.set_in(by, app, VariableScope::Environment, variables).await
    }

    /// The same of a scope.
    ///
    /// # Errors
    /// When the app does not exist for the caller.
    pub async fn set_in(
        self,
        by: &Principal,
        app: &AppRow,
        scope: VariableScope,
        variables: Vec<(VariableName, String, bool, bool)>,
    ) -> Result<Vec<VariableName>> {
        let plain = |(name, value, secret, build)| NewVariable { name, value, secret, build, refers: false };
        self.put(by, app, scope, variables.into_iter().map(plain).collect()).await
    }

    /// Sets variables of a scope, and returns the names of those that changed.
    ///
    /// # Errors
    /// When the app does not exist for the caller.
    pub async fn put(
        self,
        by: &Principal,
        app: &AppRow,
        scope: VariableScope,
        variables: Vec<NewVariable>,
    ) -> Result<Vec<VariableName>> {
        let holder = Holder { app, scope };
        let mut write = begin_for(self.0, by, app).await?;
        let rows = sqlx::query(assembled(holder.select())).fetch_all(write.conn()).await?;
        // A value that does not open is replaced like any other: setting it anew is how one recovers.
        let old: Vec<VariableRow> = rows.iter().filter_map(|r| from_row(self.0, &holder, r).ok()).collect();
        let mut changed = Vec::new();
        for new in variables {
            if old.iter().any(|o| new.is(o)) {
                continue;
            }
            let sealed = self.0.sealer.seal(&place(&row_key(&holder, &new.name)), new.value.as_bytes())?;
            let (table, columns, key, values) = match scope {
                VariableScope::Environment => ("variables", "environment_id", "environment_id", "$1"),
                VariableScope::Previews => {
                    ("group_variables", "app_id, scope", "app_id, scope", "$1, 'previews'")
                }
                VariableScope::Shared => {
                    ("group_variables", "app_id, scope", "app_id, scope", "$1, 'shared'")
                }
            };
            let sql = format!(
                "INSERT INTO {table} ({columns}, name, sealed, secret, build, refers, updated_at, updated_by)
                 VALUES ({values}, $2, $3, $4, $5, $6, $7, $8)
                 ON CONFLICT ({key}, name) DO UPDATE SET sealed = excluded.sealed,
                     secret = excluded.secret, build = excluded.build, refers = excluded.refers,
                     updated_at = excluded.updated_at, updated_by = excluded.updated_by"
            );
            sqlx::query(assembled(sql))
                .bind(holder.environment().map_or(app.id.0, |e| e.0))
                .bind(new.name.as_str().to_owned())
                .bind(sealed)
                .bind(i64::from(new.secret))
                .bind(i64::from(new.build))
                .bind(i64::from(new.refers))
                .bind(write.now.0)
                .bind(by.name.clone())
                .execute(write.conn())
                .await?;
            keep(self.0, &mut write, by, &holder, &new.name, Some(&new)).await?;
            changed.push(new.name);
        }
        if !changed.is_empty() {
            finish(write, by, &holder, "variable.set", "set", &changed).await?;
        }
        Ok(changed)
    }

    /// Deletes a variable of a scope; false if there is none of that name.
    ///
    /// # Errors
    /// When the app does not exist for the caller.
    pub async fn delete(
        self,
        by: &Principal,
        app: &AppRow,
        scope: VariableScope,
        name: &VariableName,
    ) -> Result<bool> {
        let holder = Holder { app, scope };
        let mut write = begin_for(self.0, by, app).await?;
        let gone = sqlx::query(assembled(format!("DELETE FROM {} AND name = $1", holder.rows())))
            .bind(name.as_str().to_owned())
            .execute(write.conn())
            .await?
            .rows_affected()
            > 0;
        if gone {
            keep(self.0, &mut write, by, &holder, name, None).await?;
            finish(write, by, &holder, "variable.deleted", "deleted", std::slice::from_ref(name)).await?;
        }
        Ok(gone)
    }

    /// The versions of the variables of a scope, or of one of them, newest first, without their values.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn history(
        self,
        app: &AppRow,
        scope: VariableScope,
        name: Option<&VariableName>,
    ) -> Result<Vec<VariableVersion>> {
        let which = if name.is_some() { "name = $2" } else { "name <> $2" };
        let sql = format!(
            "SELECT name, version, CAST(CASE WHEN sealed IS NULL THEN 1 ELSE 0 END AS BIGINT) AS gone, secret, build, at, by_whom
             FROM variable_versions WHERE holder = $1 AND {which}
             ORDER BY at DESC, name, version DESC LIMIT {MOST_VERSIONS}"
        );
        let rows = sqlx::query(assembled(sql))
            .bind(Holder { app, scope }.key())
            .bind(name.map_or("", VariableName::as_str).to_owned())
            .fetch_all(self.0.read())
            .await?;
        rows.iter()
            .map(|r| {
                Ok(VariableVersion {
                    name: row::name(r, "variable_versions", "name")?,
                    version: r.try_get("version")?,
                    deleted: row::flag(r, "gone")?,
                    secret: row::flag(r, "secret")?,
                    build: row::flag(r, "build")?,
                    at: row::time(r, "at")?,
                    by: r.try_get("by_whom")?,
                })
            })
            .collect()
    }

    /// A variable as it was in a version; none where that version is its deletion, or is not known.
    ///
    /// # Errors
    /// When the database fails, or the value was tampered with.
    pub async fn version(
        self,
        app: &AppRow,
        scope: VariableScope,
        name: &VariableName,
        version: i64,
    ) -> Result<Option<NewVariable>> {
        let holder = Holder { app, scope };
        let sql =
            "SELECT sealed, secret, build, refers FROM variable_versions WHERE holder = $1 AND name = $2
             AND version = $3 AND sealed IS NOT NULL";
        let row = sqlx::query(sql)
            .bind(holder.key())
            .bind(name.as_str().to_owned())
            .bind(version)
            .fetch_optional(self.0.read())
            .await?;
        let Some(row) = row else { return Ok(None) };
        let sealed: String = row.try_get("sealed")?;
        let key = version_key(&holder, name, version);
        let value = self.0.sealer.open_text(&version_place(&key), &sealed)?;
        Ok(Some(NewVariable {
            name: name.clone(),
            value,
            secret: row::flag(&row, "secret")?,
            build: row::flag(&row, "build")?,
            refers: row::flag(&row, "refers")?,
        }))
    }
}

/// Begins a write on an app that must still be there and visible.
async fn begin_for<'a>(inner: &'a Inner, by: &Principal, app: &AppRow) -> Result<Write<'a>> {
    let mut write = Write::begin(inner).await?;
    let there = sqlx::query("SELECT id FROM environments WHERE id = $1")
        .bind(app.environment.id.0)
        .fetch_optional(write.conn())
        .await?;
    if there.is_none() || !by.visible.allows(app.project_id) {
        return Err(StoreError::not_found("app", &app.slug));
    }
    Ok(write)
}

/// Keeps a value as the newest version of a variable.
async fn keep(
    inner: &Inner,
    write: &mut Write<'_>,
    by: &Principal,
    holder: &Holder<'_>,
    name: &VariableName,
    new: Option<&NewVariable>,
) -> Result<()> {
    let newest =
        "SELECT COALESCE(MAX(version), 0) AS newest FROM variable_versions WHERE holder = $1 AND name = $2";
    let newest: i64 = sqlx::query(newest)
        .bind(holder.key())
        .bind(name.as_str().to_owned())
        .fetch_one(write.conn())
        .await?
        .try_get("newest")?;
    let version = newest + 1;
    let key = version_key(holder, name, version);
    let sealed = new.map(|n| inner.sealer.seal(&version_place(&key), n.value.as_bytes())).transpose()?;
    let flag = |which: fn(&NewVariable) -> bool| i64::from(new.is_some_and(which));
    sqlx::query(
        "INSERT INTO variable_versions (app_id, environment_id, holder, name, version, sealed, secret, build, refers,
             at, by_whom) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(holder.app.id.0)
    .bind(holder.environment().map(|e| e.0))
    .bind(holder.key())
    .bind(name.as_str().to_owned())
    .bind(version)
    .bind(sealed)
    .bind(flag(|n| n.secret))
    .bind(flag(|n| n.build))
    .bind(flag(|n| n.refers))
    .bind(write.now.0)
    .bind(by.name.clone())
    .execute(write.conn())
    .await?;
    Ok(())
}

/// Notes that the configuration changed, by names only, and commits.
async fn finish(
    mut write: Write<'_>,
    by: &Principal,
    holder: &Holder<'_>,
    kind: &'static str,
    verb: &str,
    names: &[VariableName],
) -> Result<()> {
    let app = holder.app;
    let changed = match holder.scope {
        VariableScope::Environment => Configured::Environment(app.environment.id),
        VariableScope::Previews => Configured::Previews,
        VariableScope::Shared => Configured::App,
    };
    note_configured(&mut write, app.id, changed).await?;
    let list: Vec<&str> = names.iter().map(VariableName::as_str).collect();
    let environment = holder.environment().map(|_| &app.environment.name);
    let event = NewEvent {
        kind,
        by: by.name.clone(),
        app: Some(app.id),
        summary: format!("Variables of {} {verb}: {}.", holder.title(), list.join(", ")),
        data: json!({ "names": list, "environment": environment, "scope": holder.scope }),
    };
    write.event_in(app.project_id, Some(app.slug.clone()), event).await?;
    write.commit().await
}

fn row_key(holder: &Holder<'_>, name: &VariableName) -> String {
    format!("{}/{name}", holder.key())
}

fn version_key(holder: &Holder<'_>, name: &VariableName, version: i64) -> String {
    format!("{}/{name}/{version}", holder.key())
}

fn place(row: &str) -> Place<'_> {
    Place { column: "variables/sealed", row }
}

fn version_place(row: &str) -> Place<'_> {
    Place { column: "variable_versions/sealed", row }
}

fn from_row(inner: &Inner, holder: &Holder<'_>, r: &AnyRow) -> Result<VariableRow> {
    let name: VariableName = row::name(r, "variables", "name")?;
    let sealed: String = r.try_get("sealed")?;
    let value = inner.sealer.open_text(&place(&row_key(holder, &name)), &sealed)?;
    Ok(VariableRow {
        name,
        value,
        scope: holder.scope,
        secret: row::flag(r, "secret")?,
        build: row::flag(r, "build")?,
        refers: row::flag(r, "refers")?,
        version: r.try_get("version")?,
        updated_at: row::time(r, "updated_at")?,
        updated_by: r.try_get("updated_by")?,
    })
}
