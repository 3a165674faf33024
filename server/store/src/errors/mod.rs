//! Errors of apps: what was accepted, issues, events.
//!
//! What a client sends is durable as soon as it is in the intake ([`Errors::accept`]), a file of its own;
//! [`Errors::digest`] makes issues and events of it, many at a time in one transaction. Bodies are JSON or bytes, compressed with Zstandard.

mod attached;
mod change;
mod decision;
mod digest;
mod erase;
mod intake;
mod join;
mod keys;
mod map_ages;
mod maps;
mod query;
mod releases;
mod settings;
mod telemetry;
mod title;

use std::cell::RefCell;

use berth_schemas::issue::{GroupingReason, IssueState, Level};
use berth_schemas::{AppSlug, IssueRef, Timestamp};
use zstd::bulk::{Compressor, Decompressor};

pub use attached::{AttachmentRow, FeedbackRow};
pub use change::{ErrorsKept, Until};
pub use digest::{Body, DigestedEvent, Filed};
pub use erase::{LookedTo, PersonNames};
pub use intake::{IntakeRow, NewIntake};
pub use join::Joined;
pub use keys::{DsnKey, DsnKeys};
pub use map_ages::MapsKept;
pub use maps::{DeployedMaps, NewMap, Remapped, WantedMap};
pub use query::{ErrorReleaseRow, IssueFilter, IssueOrder, ReleaseStats};
pub use releases::{IssueShare, PlacedRelease, Stretch};
pub use telemetry::{TelemetryFound, TelemetryQuery, TelemetryRow};
pub use title::IssueTitle;

use crate::{
    error::{Result, StoreError},
    model::{AppId, EnvironmentId},
    store::Inner,
};

/// Level of compression: the fastest that still halves again what the first gives.
const LEVEL: i32 = 3;
/// Largest body when inflated, in bytes.
const MAX_BODY: usize = 32 << 20;

/// Errors in a [`crate::Store`].
#[derive(Clone, Copy)]
pub struct Errors<'a>(pub(crate) &'a Inner);

/// What an item that a client sent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ItemKind {
    /// An error event.
    Event,
    /// A file that belongs to an event.
    Attachment,
    /// What a user wrote, as an event.
    Feedback,
    /// What a user wrote, in the older form.
    UserReport,
    /// Sessions, one or counted.
    Session,
    /// A sign of life of a scheduled task.
    CheckIn,
    /// A transaction with its spans.
    Transaction,
    /// Spans by themselves.
    Spans,
    /// Log records.
    Logs,
    /// Metrics of a trace.
    Metrics,
    /// What a replay is about.
    ReplayEvent,
    /// A part of a replay.
    ReplayRecording,
    /// A profile.
    Profile,
    /// Not an item, but how many were not kept and why.
    Dropped,
}

impl ItemKind {
    const ALL: [Self; 14] = [
        Self::Event,
        Self::Attachment,
        Self::Feedback,
        Self::UserReport,
        Self::Session,
        Self::CheckIn,
        Self::Transaction,
        Self::Spans,
        Self::Logs,
        Self::Metrics,
        Self::ReplayEvent,
        Self::ReplayRecording,
        Self::Profile,
        Self::Dropped,
    ];

    /// Its name in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Attachment => "attachment",
            Self::Feedback => "feedback",
            Self::UserReport => "user_report",
            Self::Session => "session",
            Self::CheckIn => "check_in",
            Self::Transaction => "transaction",
            Self::Spans => "spans",
            Self::Logs => "logs",
            Self::Metrics => "metrics",
            Self::ReplayEvent => "replay_event",
            Self::ReplayRecording => "replay_recording",
            Self::Profile => "profile",
            Self::Dropped => "dropped",
        }
    }

    /// The kind with this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.as_str() == text)
    }
}

/// An item that a client sent, scrubbed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorItem {
    /// What it is.
    pub kind: ItemKind,
    /// The event that it is or belongs to.
    pub event_id: Option<String>,
    /// Name of an attachment.
    pub name: Option<String>,
    /// Its bytes, not compressed.
    pub body: Vec<u8>,
}

/// An item as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedItem {
    pub(super) kind: ItemKind,
    pub(super) event_id: Option<String>,
    pub(super) name: Option<String>,
    /// Compressed.
    pub(super) body: Vec<u8>,
}

impl ErrorItem {
    /// Compresses it: work for the caller's thread, not for the one writer.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn pack(self) -> Result<PackedItem> {
        let Self { kind, event_id, name, body } = self;
        Ok(PackedItem { kind, event_id, name, body: compress(&body)? })
    }
}

/// An issue.
#[derive(Debug, Clone, PartialEq)]
pub struct IssueRow {
    /// Row id.
    pub id: i64,
    /// Its app.
    pub app_id: AppId,
    /// Name of its app.
    pub app: AppSlug,
    /// Number within the app.
    pub number: i64,
    /// What was decided.
    pub state: IssueState,
    /// Whether it came back.
    pub regressed: bool,
    /// Type of the exception, or the beginning of the message.
    pub kind: String,
    /// What it says.
    pub value: String,
    /// Where.
    pub culprit: Option<String>,
    /// The worst level.
    pub level: Level,
    /// Language.
    pub platform: String,
    /// Whether something caught it.
    pub handled: Option<bool>,
    /// How often.
    pub events: i64,
    /// By how many users.
    pub users: i64,
    /// When first.
    pub first_seen: Timestamp,
    /// When last.
    pub last_seen: Timestamp,
    /// In which release first.
    pub first_release: Option<String>,
    /// Who looks after it.
    pub assignee: Option<String>,
    /// What opens it again, if it is not open.
    pub ends: Ends,
    /// Why its first event was grouped so.
    pub reasons: Vec<GroupingReason>,
}

/// What ends an issue's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ends {
    /// It is resolved, and only a release that is not known yet can open it.
    pub in_next_release: bool,
    /// It is ignored until then,
    pub until: Option<Timestamp>,
    /// or until it has so many events,
    pub events: Option<i64>,
    /// or so many users.
    pub users: Option<i64>,
}

impl IssueRow {
    /// Its short id.
    #[must_use]
    pub fn reference(&self) -> IssueRef {
        IssueRef { app: self.app.clone(), number: self.number }
    }
}

/// An event with its body.
#[derive(Debug, Clone, PartialEq)]
pub struct ErrorEventRow {
    /// Row id; later ones came later.
    pub id: i64,
    /// Its app.
    pub app_id: AppId,
    /// Its environment.
    pub environment_id: EnvironmentId,
    /// Its issue.
    pub issue_id: i64,
    /// Its id.
    pub event_id: String,
    /// When it happened.
    pub at: Timestamp,
    /// What it was grouped by.
    pub grouping_key: String,
    /// The JSON as kept.
    pub body: Vec<u8>,
}

thread_local! {
    // Their tables are larger than most bodies: made anew for each, they would cost more than the work.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

pub(crate) fn compress(body: &[u8]) -> Result<Vec<u8>> {
    let done = COMPRESSOR.with_borrow_mut(|kept| {
        let compressor = match kept {
            Some(compressor) => compressor,
            None => kept.insert(Compressor::new(LEVEL)?),
        };
        compressor.compress(body)
    });
    done.map_err(|e| StoreError::corrupt("intake", "body", &e.to_string()))
}

pub(crate) fn inflate(table: &'static str, body: &[u8]) -> Result<Vec<u8>> {
    // What was compressed whole says how large it was; without it, room for the largest would be made.
    let said = zstd::zstd_safe::get_frame_content_size(body).ok().flatten();
    let size = said.and_then(|n| usize::try_from(n).ok()).unwrap_or(MAX_BODY);
    if size > MAX_BODY {
        return Err(StoreError::corrupt(table, "body", "it is too large when inflated"));
    }
    let done = DECOMPRESSOR.with_borrow_mut(|kept| {
        let decompressor = match kept {
            Some(decompressor) => decompressor,
            None => kept.insert(Decompressor::new()?),
        };
        decompressor.decompress(body, size)
    });
    done.map_err(|e| StoreError::corrupt(table, "body", &e.to_string()))
}
