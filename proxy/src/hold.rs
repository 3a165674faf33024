//! Requests that wait: for a moment an app takes none, and nobody is to be turned away.
//!
//! A waiting request is counted on no release and reads nothing of its body: an upload waits in the client's
//! and the kernel's buffers. When the hold is released, each is routed anew by the table of that moment.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use pingora::{Error, ErrorType, Result, protocols::http::ServerSession};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{connection::Connection, place::Place};

/// Between two looks at the table, for a request that meets a hold that was released but is still routed to.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A place where requests wait until [`Self::release`], and are then routed by the newest table: set that table
/// first. Released once, it holds nobody any more; to pause again, make another.
pub struct Hold {
    app: String,
    limit: Duration,
    capacity: usize,
    waiting: AtomicUsize,
    released: watch::Sender<bool>,
    wake: Option<Box<dyn Fn() + Send + Sync>>,
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold")
            .field("app", &self.app)
            .field("waiting", &self.waiting())
            .finish_non_exhaustive()
    }
}

/// How waiting ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waited {
    /// The request is to be routed anew.
    Released,
    /// Its time is over, there is no room, or the server stops: it is told to come again.
    TurnedAway,
}

impl Hold {
    /// A hold for an app's requests: each waits for at most `limit`, and at most `capacity` wait at once. Those
    /// beyond get 503 with `Retry-After`.
    #[must_use]
    pub fn new(app: String, limit: Duration, capacity: usize) -> Arc<Self> {
        Self::make(app, limit, capacity, None)
    }

    /// As [`Self::new`], for an app that sleeps: `wake` is called whenever a request begins to wait where none did
    /// before, so again if those before gave up. It runs on the request's task, so it must not block: it tells
    /// somebody, and returns.
    #[must_use]
    pub fn waking(
        app: String,
        limit: Duration,
        capacity: usize,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Arc<Self> {
        Self::make(app, limit, capacity, Some(Box::new(wake)))
    }

    fn make(
        app: String,
        limit: Duration,
        capacity: usize,
        wake: Option<Box<dyn Fn() + Send + Sync>>,
    ) -> Arc<Self> {
        let released = watch::Sender::new(false);
        Arc::new(Self { app, limit, capacity, waiting: AtomicUsize::new(0), released, wake })
    }

    /// Lets all go that wait. Call it *after* a `set_routes` that leads elsewhere.
    pub fn release(&self) {
        self.released.send_replace(true);
    }

    /// Requests that wait now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    pub(crate) fn app(&self) -> &str {
        &self.app
    }

    /// A place to wait in. Whoever takes the first one wakes.
    fn take(&self) -> Option<Place<'_>> {
        let (place, before) = Place::take(&self.waiting, self.capacity)?;
        if before == 0
            && !*self.released.borrow()
            && let Some(wake) = &self.wake
        {
            wake();
        }
        Some(place)
    }

    /// Waits on behalf of a request that has waited since `since`.
    ///
    /// # Errors
    /// When the client left.
    pub(crate) async fn wait(
        &self,
        session: &mut ServerSession,
        since: Instant,
        stopping: &CancellationToken,
    ) -> Result<Waited> {
        let Some(_place) = self.take() else { return Ok(Waited::TurnedAway) };
        let mut released = self.released.subscribe();
        if *released.borrow() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        tokio::select! {
            biased;
            () = stopping.cancelled() => Ok(Waited::TurnedAway),
            () = tokio::time::sleep_until(since + self.limit) => Ok(Waited::TurnedAway),
            // Its sender is `self`.
            _ = released.wait_for(|released| *released) => Ok(Waited::Released),
            () = client_left(session) => {
                Err(Error::explain(ErrorType::ConnectionClosed, "the client left while it was held").into_down())
            }
        }
    }
}

/// Returns when the client has closed its connection or reset its stream. Takes nothing of what it sent.
async fn client_left(session: &mut ServerSession) {
    if let Some(closed) = session.watch_h2_stream_close() {
        // Reset, or the connection broke: both are an end.
        let _ = closed.await;
        return;
    }
    match session.stream().and_then(|stream| stream.as_any().downcast_ref::<Connection>()) {
        Some(connection) => connection.left().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back() {
        let hold = Hold::new("web".into(), Duration::from_secs(1), 1);
        let first = hold.take().expect("room for one");
        assert!(hold.take().is_none());
        assert_eq!(hold.waiting(), 1);
        drop(first);
        assert_eq!(hold.waiting(), 0);
        assert!(hold.take().is_some());
    }

    #[test]
    fn the_first_who_waits_wakes_and_so_does_the_first_after_all_left() {
        let woken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&woken);
        let wake = move || {
            count.fetch_add(1, Ordering::Relaxed);
        };
        let hold = Hold::waking("web".into(), Duration::from_secs(1), 8, wake);
        let (first, second) = (hold.take(), hold.take());
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        drop((first, second));
        drop(hold.take());
        assert_eq!(woken.load(Ordering::Relaxed), 2);
        hold.release();
        drop(hold.take());
        assert_eq!(woken.load(Ordering::Relaxed), 2, "released, it wakes nobody");
    }
}
