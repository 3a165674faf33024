//! The rules by which an app's errors are kept and told.

use berth_schemas::issue::ErrorRules;
use serde_json::json;

use super::Errors;
use crate::{
    apps::configured_at,
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
        let row = sqlx::query("SELECT settings FROM error_settings WHERE app_id = $1")
            .bind(app.0)
            .fetch_optional(self.0.read())
            .await?;
        row.map(|r| row::json(&r, "error_settings", "settings")).transpose()
    }

    /// Sets what an app's errors are kept and told by. What containers are told comes with the next deployment, also with
    /// one of the same source.
    ///
    /// # Errors
    /// When the app is gone or the database fails.
    pub async fn set_settings(self, by: &Principal, app: AppId, settings: &ErrorRules) -> Result<()> {
        let text = row::to_json("error_settings", "settings", settings)?;
        let mut write = Write::begin(self.0).await?;
        let before = sqlx::query("SELECT settings FROM error_settings WHERE app_id = $1")
            .bind(app.0)
            .fetch_optional(write.conn())
            .await?;
        let before: Option<ErrorRules> =
            before.map(|r| row::json(&r, "error_settings", "settings")).transpose()?;
        sqlx::query(
            "INSERT INTO error_settings (app_id, settings) VALUES ($1, $2)
             ON CONFLICT (app_id) DO UPDATE SET settings = excluded.settings",
        )
        .bind(app.0)
        .bind(text)
        .execute(write.conn())
        .await?;
        if before.unwrap_or_default().inject_dsn != settings.inject_dsn {
            let at = configured_at(&mut write, app).await?;
            sqlx::query("UPDATE apps SET configured_at = $2 WHERE id = $1")
                .bind(app.0)
                .bind(at.0)
                .execute(write.conn())
                .await?;
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
