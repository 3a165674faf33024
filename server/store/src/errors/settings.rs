//! The rules by which an app's errors are kept and told.

use berth_schemas::issue::ErrorRules;
use serde_json::json;
use sqlx::{Any, Executor};

use super::Errors;
use crate::{
    apps::{Configured, note_configured},
    error::Result,
    model::{AppId, NewEvent, Principal},
    row,
    write::Write,
};

impl Errors<'_> {
    /// What an app's errors are kept and told by; none if nothing was set.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn settings(self, app: AppId) -> Result<Option<ErrorRules>> {
        stored(self.0.read(), app).await
    }

    /// Sets what an app's errors are kept and told by. What containers are told comes with the next deployment, also with
    /// one of the same source.
    ///
    /// # Errors
    /// When the app is gone or the database fails.
    pub async fn set_settings(self, by: &Principal, app: AppId, settings: &ErrorRules) -> Result<()> {
        let text = row::to_json("error_settings", "settings", settings)?;
        let mut write = Write::begin(self.0).await?;
        let before = stored(write.conn(), app).await?;
        sqlx::query(
            "INSERT INTO error_settings (app_id, settings) VALUES ($1, $2)
             ON CONFLICT (app_id) DO UPDATE SET settings = excluded.settings",
        )
        .bind(app.0)
        .bind(text)
        .execute(write.conn())
        .await?;
        if before.unwrap_or_default().inject_dsn != settings.inject_dsn {
            note_configured(&mut write, app, Configured::App).await?;
        }
        let event = NewEvent {
            kind: "error.settings_changed",
            by: by.name.clone(),
            app: Some(app),
            summary: "the rules for errors were changed".into(),
            data: json!({}),
        };
        write.event(event).await?;
        write.commit().await
    }
}

async fn stored<'c>(from: impl Executor<'c, Database = Any>, app: AppId) -> Result<Option<ErrorRules>> {
    let row = sqlx::query("SELECT settings FROM error_settings WHERE app_id = $1")
        .bind(app.0)
        .fetch_optional(from)
        .await?;
    row.map(|r| row::json(&r, "error_settings", "settings")).transpose()
}
