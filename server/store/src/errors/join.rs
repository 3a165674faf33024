//! Issues that source maps show to be one.
//!
//! The same error of two builds is two issues while its frames are minified. Once the maps of both are there, what its
//! events are grouped by is the same, and the two are joined as if somebody merged them. What people decided stays: an
//! issue that was split by hand is left alone, and one that others were merged into does not end.

use berth_schemas::{IssueRef, Timestamp, issue::IssueState};
use serde_json::json;
use sqlx::{Row, any::AnyRow};

use super::{
    change::join,
    decision::{Decision, Seen},
    maps::MAP_IS_THERE,
};
use crate::{
    database::assembled,
    error::Result,
    model::{AppId, NewEvent},
    row,
    write::Write,
};

/// Two issues that became one; their rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joined {
    /// The one that ended.
    pub gone: i64,
    /// The one that goes on.
    pub into: i64,
}

/// An issue, as far as joining depends on it.
struct Side {
    id: i64,
    app: AppId,
    name: IssueRef,
    events: i64,
    users: i64,
    last_seen: Timestamp,
    merged: bool,
    split: bool,
    decision: Decision,
}

/// Joins an issue with the one that all its events belong to by what their frames say now, if that is another one.
pub(super) async fn by_maps(write: &mut Write<'_>, issue: i64) -> Result<Option<Joined>> {
    let Some(owner) = owner_of_all(write, issue).await? else { return Ok(None) };
    let (Some(one), Some(other)) = (side(write, issue).await?, side(write, owner).await?) else {
        return Ok(None);
    };
    let Some((gone, into)) = direction(one, other) else { return Ok(None) };
    let seen = seen(write, &gone).await?;
    if !join(write, gone.id, into.id).await? {
        return Ok(None);
    }
    let summary = format!("{} was merged into {} by source maps", gone.name, into.name);
    tell(write, &into, "error.merged", summary).await?;
    let Some(joined) = side(write, into.id).await? else { return Ok(None) };
    // What was still open must not vanish into what somebody was done with before it happened.
    if gone.decision.state == IssueState::Open
        && joined.decision.undone_by(&seen, write.now, joined.events, joined.users)
    {
        let (kind, what) = joined.decision.undo(write, joined.id).await?;
        tell(write, &joined, kind, format!("{what}: {}.", joined.name)).await?;
    }
    Ok(Some(Joined { gone: gone.id, into: into.id }))
}

/// The other issue that all events of this one belong to. None while some of them are still to be put right by maps that
/// are there, and none if they do not agree: minified frames may have thrown together what is not the same. Events whose
/// maps are missing have no say, and go with the others.
async fn owner_of_all(write: &mut Write<'_>, issue: i64) -> Result<Option<i64>> {
    let sql = format!(
        "SELECT 1 FROM error_events e JOIN error_unmapped u ON u.event_row = e.id JOIN error_maps m ON {MAP_IS_THERE}
         WHERE e.issue_id = $1 LIMIT 1"
    );
    if sqlx::query(assembled(sql)).bind(issue).fetch_optional(write.conn()).await?.is_some() {
        return Ok(None);
    }
    let keys = sqlx::query(
        "SELECT DISTINCT e.grouping_key FROM error_events e WHERE e.issue_id = $1
         AND NOT EXISTS (SELECT 1 FROM error_unmapped u WHERE u.event_row = e.id) LIMIT 2",
    )
    .bind(issue)
    .fetch_all(write.conn())
    .await?;
    let [key] = keys.as_slice() else { return Ok(None) };
    let owner = owner_of(write, &key.try_get::<String, _>("grouping_key")?).await?;
    Ok(owner.filter(|owner| *owner != issue))
}

/// The issue that a key leads to.
pub(super) async fn owner_of(write: &mut Write<'_>, key: &str) -> Result<Option<i64>> {
    let row = sqlx::query("SELECT issue_id FROM error_groupings WHERE grouping_key = $1")
        .bind(key.to_owned())
        .fetch_optional(write.conn())
        .await?;
    row.map(|r| Ok(r.try_get("issue_id")?)).transpose()
}

/// Which of two issues ends, and which goes on: the older one, which people know longer, unless that may not be.
fn direction(one: Side, other: Side) -> Option<(Side, Side)> {
    if one.split || other.split || one.app != other.app {
        return None;
    }
    let (older, newer) = if one.id < other.id { (one, other) } else { (other, one) };
    match (older.merged, newer.merged) {
        (_, false) => Some((newer, older)),
        (false, true) => Some((older, newer)),
        (true, true) => None,
    }
}

async fn side(write: &mut Write<'_>, issue: i64) -> Result<Option<Side>> {
    let sql = format!(
        "SELECT i.id, i.app_id, a.slug, i.number, i.events, i.users, i.last_seen, i.merged_by_hand,
             i.split_by_hand, {} FROM error_issues i JOIN apps a ON a.id = i.app_id WHERE i.id = $1",
        Decision::COLUMNS
    );
    let row = sqlx::query(assembled(sql)).bind(issue).fetch_optional(write.conn()).await?;
    row.as_ref().map(read_side).transpose()
}

fn read_side(r: &AnyRow) -> Result<Side> {
    Ok(Side {
        id: r.try_get("id")?,
        app: AppId(r.try_get("app_id")?),
        name: IssueRef { app: row::name(r, "apps", "slug")?, number: r.try_get("number")? },
        events: r.try_get("events")?,
        users: r.try_get("users")?,
        last_seen: row::time(r, "last_seen")?,
        merged: row::flag(r, "merged_by_hand")?,
        split: row::flag(r, "split_by_hand")?,
        decision: Decision::read(r)?,
    })
}

async fn seen(write: &mut Write<'_>, side: &Side) -> Result<Seen> {
    let row = sqlx::query(
        "SELECT MAX(release_id) AS newest, CAST(COALESCE(SUM(events), 0) AS BIGINT) AS events
         FROM error_issue_releases WHERE issue_id = $1",
    )
    .bind(side.id)
    .fetch_one(write.conn())
    .await?;
    Ok(Seen {
        last: side.last_seen,
        newest_release: row.try_get("newest")?,
        any_without_release: row.try_get::<i64, _>("events")? < side.events,
    })
}

async fn tell(write: &mut Write<'_>, side: &Side, kind: &'static str, summary: String) -> Result<()> {
    let data =
        json!({ "issue": side.name.to_string(), "number": side.name.number, "reason": "by source maps" });
    let event = NewEvent { kind, by: "berth".into(), app: Some(side.app), summary, data };
    write.event(event).await.map(drop)
}
