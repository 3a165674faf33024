//! What belongs to events and is no part of them: files, and what users wrote.

use berth_schemas::{AppSlug, EnvironmentName, IssueRef, Timestamp};
use serde_json::json;
use sqlx::{Row, any::AnyRow};

use super::{Errors, IntakeRow, IssueRow, erase::remove_with, inflate, intake::count_up};
use crate::{
    database::{assembled, storable, visible},
    error::{Result, StoreError},
    model::{AppId, EnvironmentId, NewEvent, Principal, Visible},
    row,
    write::Write,
};

const ATTACHMENT: &str = "id, event_id, name, bytes, at, media_type";
const FEEDBACK: &str = "f.id, f.app_id, a.slug, n.name AS environment, f.event_id, f.at, f.name, f.email, f.message, f.url, f.own_id,
    i.number AS issue FROM error_feedback f JOIN apps a ON a.id = f.app_id
    LEFT JOIN environments n ON n.id = f.environment_id
    LEFT JOIN error_events e ON e.app_id = f.app_id AND e.event_id = f.event_id
    LEFT JOIN error_issues i ON i.id = e.issue_id";

/// A file that came with an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachmentRow {
    /// Row id.
    pub id: i64,
    /// The event that it came with.
    pub event_id: String,
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub bytes: i64,
    /// When it came.
    pub at: Timestamp,
    /// What it is by its bytes, such as image/png.
    pub media_type: &'static str,
}

/// What a user wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedbackRow {
    /// Row id; later ones came later.
    pub id: i64,
    /// Its app.
    pub app_id: AppId,
    /// Name of its app.
    pub app: AppSlug,
    /// Where it was given, if that is known.
    pub environment: Option<EnvironmentName>,
    /// The event that it is about.
    pub event_id: Option<String>,
    /// The issue of that event, if it is kept.
    pub issue: Option<IssueRef>,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub name: Option<String>,
    /// How to reach him.
    pub email: Option<String>,
    /// What.
    pub message: String,
    /// The page that it was given on.
    pub url: Option<String>,
    /// Its own id, which its files name.
    pub own_id: Option<String>,
}

impl Errors<'_> {
    /// The files that came with an event.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn attachments(self, app: AppId, event_id: &str) -> Result<Vec<AttachmentRow>> {
        let sql = format!(
            "SELECT {ATTACHMENT} FROM error_attachments WHERE app_id = $1 AND event_id = $2 ORDER BY id LIMIT 50"
        );
        let query = sqlx::query(assembled(sql)).bind(app.0).bind(event_id.to_owned());
        query.fetch_all(self.0.read()).await?.iter().map(attachment_row).collect()
    }

    /// A file that an app's client sent, and its bytes.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn attachment(self, app: AppId, id: i64) -> Result<Option<(AttachmentRow, Vec<u8>)>> {
        let sql = format!("SELECT {ATTACHMENT}, body FROM error_attachments WHERE app_id = $1 AND id = $2");
        let query = sqlx::query(assembled(sql)).bind(app.0).bind(id);
        let row = query.fetch_optional(self.0.read()).await?;
        row.map(|row| {
            let body: Vec<u8> = row.try_get("body")?;
            Ok((attachment_row(&row)?, inflate("error_attachments", &body)?))
        })
        .transpose()
    }

    /// What users wrote about events of an issue, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn feedback(self, issue: &IssueRow, limit: i64) -> Result<Vec<FeedbackRow>> {
        let sql =
            format!("SELECT {FEEDBACK} WHERE f.app_id = $1 AND e.issue_id = $2 ORDER BY f.id DESC LIMIT $3");
        let query = sqlx::query(assembled(sql)).bind(issue.app_id.0).bind(issue.id).bind(limit);
        query.fetch_all(self.0.read()).await?.iter().map(feedback_row).collect()
    }

    /// How many messages users wrote about events of an issue that are kept.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn feedback_count(self, issue: &IssueRow) -> Result<i64> {
        let row = sqlx::query(
            "SELECT COUNT(*) AS n FROM error_feedback f JOIN error_events e
                 ON e.app_id = f.app_id AND e.event_id = f.event_id WHERE f.app_id = $1 AND e.issue_id = $2",
        )
        .bind(issue.app_id.0)
        .bind(issue.id)
        .fetch_one(self.0.read())
        .await?;
        Ok(row.try_get("n")?)
    }

    /// What users wrote, of an app or of all that may be seen, newest first, with rows below `before`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn all_feedback(
        self,
        view: &Visible,
        app: Option<AppId>,
        environment: Option<EnvironmentId>,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<FeedbackRow>> {
        let app = app.map_or("1 = 1".into(), |a| format!("f.app_id = {}", a.0));
        let environment = environment.map_or("1 = 1".into(), |e| format!("f.environment_id = {}", e.0));
        let sql = format!(
            "SELECT {FEEDBACK} WHERE {app} AND {environment} AND f.id < $1 AND {} ORDER BY f.id DESC LIMIT $2",
            visible(view, "a.project_id")
        );
        let query = sqlx::query(assembled(sql)).bind(before.unwrap_or(i64::MAX)).bind(limit);
        query.fetch_all(self.0.read()).await?.iter().map(feedback_row).collect()
    }

    /// What a user wrote, by its row.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn feedback_by_id(self, app: AppId, id: i64) -> Result<Option<FeedbackRow>> {
        let sql = format!("SELECT {FEEDBACK} WHERE f.app_id = $1 AND f.id = $2");
        let row = sqlx::query(assembled(sql)).bind(app.0).bind(id).fetch_optional(self.0.read()).await?;
        row.as_ref().map(feedback_row).transpose()
    }

    /// Removes what a user wrote.
    ///
    /// # Errors
    /// When it is gone or the database fails.
    pub async fn delete_feedback(self, by: &Principal, feedback: &FeedbackRow) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        let gone = sqlx::query("DELETE FROM error_feedback WHERE id = $1 AND app_id = $2")
            .bind(feedback.id)
            .bind(feedback.app_id.0)
            .execute(write.conn())
            .await?;
        if gone.rows_affected() == 0 {
            return Err(StoreError::not_found("feedback", feedback.id));
        }
        if let Some(own) = &feedback.own_id {
            remove_with(&mut write, "error_attachments", feedback.app_id, std::slice::from_ref(own)).await?;
        }
        let event = NewEvent {
            kind: "feedback.deleted",
            by: by.name.clone(),
            app: Some(feedback.app_id),
            summary: format!("feedback {} was deleted", feedback.id),
            data: json!({ "feedback": feedback.id }),
        };
        write.event(event).await?;
        write.commit().await
    }
}

fn attachment_row(r: &AnyRow) -> Result<AttachmentRow> {
    let name: String = r.try_get("name")?;
    let kept: Option<String> = r.try_get("media_type")?;
    Ok(AttachmentRow {
        id: r.try_get("id")?,
        event_id: r.try_get("event_id")?,
        bytes: r.try_get("bytes")?,
        at: row::time(r, "at")?,
        media_type: kept.and_then(|kept| known_type(&kept)).unwrap_or_else(|| type_by_name(&name)),
        name,
    })
}

fn feedback_row(r: &AnyRow) -> Result<FeedbackRow> {
    let app: AppSlug = row::name(r, "apps", "slug")?;
    let environment: Option<String> = r.try_get("environment")?;
    let environment = environment
        .map(|e| e.parse().map_err(|_| StoreError::corrupt("environments", "name", &e)))
        .transpose()?;
    let number: Option<i64> = r.try_get("issue")?;
    Ok(FeedbackRow {
        id: r.try_get("id")?,
        app_id: AppId(r.try_get("app_id")?),
        environment,
        event_id: r.try_get("event_id")?,
        issue: number.map(|number| IssueRef { app: app.clone(), number }),
        at: row::time(r, "at")?,
        name: r.try_get("name")?,
        email: r.try_get("email")?,
        message: r.try_get("message")?,
        url: r.try_get("url")?,
        own_id: r.try_get("own_id")?,
        app,
    })
}

/// Types of files that are told apart, with the endings of names that stand for them where the bytes were not looked at.
const TYPES: [(&str, &[&str]); 8] = [
    ("image/png", &["png"]),
    ("image/jpeg", &["jpg", "jpeg"]),
    ("image/gif", &["gif"]),
    ("image/webp", &["webp"]),
    ("application/x-dmp", &["dmp", "mdmp"]),
    ("application/json", &["json"]),
    ("text/plain", &["txt", "log"]),
    (BYTES, &[]),
];
/// What is none of them.
const BYTES: &str = "application/octet-stream";

fn known_type(name: &str) -> Option<&'static str> {
    TYPES.iter().map(|(known, _)| *known).find(|known| *known == name)
}

fn type_by_name(name: &str) -> &'static str {
    let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase()).unwrap_or_default();
    TYPES.iter().find(|(_, endings)| endings.contains(&ending.as_str())).map_or(BYTES, |(name, _)| name)
}

/// What a file is, by its bytes.
fn type_of(body: &[u8]) -> &'static str {
    match body {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => "image/png",
        [0xff, 0xd8, 0xff, ..] => "image/jpeg",
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => "image/gif",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "image/webp",
        [b'M', b'D', b'M', b'P', ..] => "application/x-dmp",
        _ if serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok() => "application/json",
        _ if std::str::from_utf8(body).is_ok_and(is_text) => "text/plain",
        _ => BYTES,
    }
}

fn is_text(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t' | '\u{1b}'))
}

/// Keeps a file that came with an event.
pub(super) async fn keep_attachment(write: &mut Write<'_>, item: &IntakeRow) -> Result<()> {
    let body = item.inflated()?;
    sqlx::query(
        "INSERT INTO error_attachments (app_id, event_id, name, bytes, at, body, media_type)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(item.app.0)
    .bind(item.event_id.clone().unwrap_or_default())
    .bind(item.name.clone().unwrap_or_else(|| "attachment".into()))
    .bind(i64::try_from(body.len()).unwrap_or(i64::MAX))
    .bind(item.received_at.0)
    .bind(item.body.clone())
    .bind(type_of(&body))
    .execute(write.conn())
    .await?;
    Ok(())
}

/// Keeps what a user wrote, in either form; false if nothing is there to keep.
pub(super) async fn keep_feedback(write: &mut Write<'_>, item: &IntakeRow) -> Result<bool> {
    let body: serde_json::Value = serde_json::from_slice(&item.inflated()?).unwrap_or_default();
    let at = |paths: &[&str]| paths.iter().find_map(|p| body.pointer(p)?.as_str()).map(|t| storable(t, 4096));
    let Some(message) = at(&["/contexts/feedback/message", "/comments"]) else {
        count_up(write, item.environment, item.received_at, "feedback", "invalid", 1).await?;
        return Ok(false);
    };
    // An older report's id is that of the event that it is about, a newer one's is its own.
    let event = at(&["/contexts/feedback/associated_event_id"]);
    let event = event.or_else(|| at(&["/event_id"]).filter(|_| body.get("comments").is_some()));
    let event = event.map(|e| e.replace('-', "").to_ascii_lowercase());
    let own = item.event_id.clone().filter(|own| Some(own) != event.as_ref());
    sqlx::query(
        "INSERT INTO error_feedback (app_id, event_id, at, name, email, message, environment_id, url, own_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(item.app.0)
    .bind(event)
    .bind(item.received_at.0)
    .bind(at(&["/contexts/feedback/name", "/user/name", "/user/username", "/name"]))
    .bind(at(&["/contexts/feedback/contact_email", "/user/email", "/email"]))
    .bind(message)
    .bind(item.environment.0)
    .bind(at(&["/contexts/feedback/url", "/request/url"]))
    .bind(own)
    .execute(write.conn())
    .await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_what_its_bytes_are() {
        for (body, kind) in [
            (&b"\x89PNG\r\n\x1a\nrest"[..], "image/png"),
            (b"\xff\xd8\xff\xe0", "image/jpeg"),
            (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
            (b"MDMP\x93\xa7", "application/x-dmp"),
            (b"{\"a\": [1]}", "application/json"),
            (b"<html><script>alert(1)</script>", "text/plain"),
            ("größer\n\x1b[31mrot".as_bytes(), "text/plain"),
            (b"\0\x01", BYTES),
            (b"\xff\xfe", BYTES),
        ] {
            assert_eq!(type_of(body), kind, "{body:?}");
        }
        assert_eq!(
            (type_by_name("Shot.PNG"), type_by_name("a.exe"), type_by_name("x")),
            ("image/png", BYTES, BYTES)
        );
    }
}
