//! The way of access records from the data plane into the store.
//!
//! The data plane lives as long as the process; the store does not, when the daemon is upgraded. So records go through
//! one pump that never ends, into whatever takes them at the moment: the recorder of this process's control plane, or
//! the process that has taken over. In between they wait, bounded by the data plane's own queue.

use std::collections::HashMap;

use berth_observe::RequestRecorder;
use berth_proxy::AccessRecord;
use berth_schemas::Timestamp;
use berth_store::{
    NewRequest, Store,
    model::{AppId, Visible},
};
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Visits that may wait for the store to be asked which app they belong to.
pub const QUEUE: usize = 4096;

/// A request to an app, by the app's name: its id is known to the store alone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Visit {
    /// Slug of the app.
    app: String,
    /// The request; the app's id in it says nothing yet.
    request: NewRequest,
}

impl Visit {
    /// The visit of a record; none for a request that belongs to no app.
    fn of(record: AccessRecord) -> Option<Self> {
        let label = record.label.clone()?;
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        // What follows the question mark may be a password or a token.
        let path = record.path.split_once('?').map_or(record.path.as_str(), |(path, _)| path).to_owned();
        let request = NewRequest {
            app_id: AppId(0),
            at: Timestamp(record.at_micros),
            request_id: record.request_id.to_string(),
            method: record.method.to_string(),
            host: record.host,
            path,
            status: i64::from(record.status),
            bytes_in: signed(record.bytes_in),
            bytes_out: signed(record.bytes_out),
            micros: signed(record.duration_us),
            app_micros: record.upstream_us.map(signed),
            release: Some(label.release),
            error: record.fault.map(|f| f.code().to_owned()),
        };
        Some(Self { app: label.app.clone(), request })
    }
}

/// Where visits go at the moment.
pub type Outlet = watch::Sender<Option<mpsc::Sender<Visit>>>;

/// Carries records to the present outlet. Ends when `done` is cancelled and none waits.
pub async fn pump(
    mut records: mpsc::Receiver<AccessRecord>,
    mut outlet: watch::Receiver<Option<mpsc::Sender<Visit>>>,
    done: CancellationToken,
) {
    loop {
        let record = tokio::select! {
            biased;
            record = records.recv() => record,
            () = done.cancelled(), if !records.is_closed() => {
                records.close();
                continue;
            }
        };
        let Some(record) = record else { return };
        let Some(mut visit) = Visit::of(record) else { continue };
        loop {
            let present = outlet.borrow_and_update().clone();
            if let Some(present) = present {
                match present.send(visit).await {
                    Ok(()) => break,
                    // It has just been closed; another one comes, or none.
                    Err(mpsc::error::SendError(back)) => visit = back,
                }
            }
            if outlet.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Hands visits to the recorder, with the app that they belong to. Ends when `done` is cancelled and none waits.
pub async fn record(
    mut visits: mpsc::Receiver<Visit>,
    store: Store,
    recorder: RequestRecorder,
    done: CancellationToken,
) {
    let mut events = store.events().subscribe();
    let mut apps: HashMap<String, AppId> = HashMap::new();
    loop {
        let next = tokio::select! {
            biased;
            visit = visits.recv() => visit,
            () = done.cancelled(), if !visits.is_closed() => {
                // What waits is still taken; what comes later waits for the next outlet.
                visits.close();
                continue;
            }
        };
        let Some(visit) = next else { return };
        // A name may have come to mean another app.
        loop {
            match events.try_recv() {
                Ok(event) if event.event.kind.starts_with("app.") => apps.clear(),
                Ok(_) => {}
                Err(broadcast::error::TryRecvError::Lagged(_)) => apps.clear(),
                Err(_) => break,
            }
        }
        let app = match apps.get(&visit.app) {
            Some(app) => *app,
            None => {
                let Ok(slug) = visit.app.parse() else { continue };
                let Ok(Some(app)) = store.apps().by_slug(&Visible::All, &slug).await else { continue };
                apps.insert(visit.app, app.id);
                app.id
            }
        };
        recorder.record(NewRequest { app_id: app, ..visit.request });
    }
}
