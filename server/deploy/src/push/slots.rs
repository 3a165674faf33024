//! How many may fetch and push at the same time: git takes memory and time for each.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use berth_schemas::{Code, Problem};
use berth_store::model::AppId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::lock::lock;

/// Pushes at once, of all apps.
const PUSHES: usize = 8;
/// Fetches at once, of all apps.
const FETCHES: usize = 16;
/// Pushes, and fetches, at once of one app.
const OF_ONE_APP: usize = 4;
/// Objects of Git LFS at once, of all apps: files that come or go.
const OBJECTS: usize = 64;
/// Objects at once of one app; git-lfs sends eight.
const OBJECTS_OF_ONE_APP: usize = 16;
/// Longest wait for a place.
const PATIENCE: Duration = Duration::from_secs(30);

/// A place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    _of_all: OwnedSemaphorePermit,
    _of_app: OwnedSemaphorePermit,
}

/// The places.
#[derive(Debug)]
pub(crate) struct GitSlots {
    pushes: Places,
    fetches: Places,
    objects: Places,
}

#[derive(Debug)]
struct Places {
    of_one_app: usize,
    of_all: Arc<Semaphore>,
    of_apps: Mutex<HashMap<AppId, Arc<Semaphore>>>,
}

impl Default for GitSlots {
    fn default() -> Self {
        Self {
            pushes: Places::new(PUSHES, OF_ONE_APP),
            fetches: Places::new(FETCHES, OF_ONE_APP),
            objects: Places::new(OBJECTS, OBJECTS_OF_ONE_APP),
        }
    }
}

impl GitSlots {
    /// Waits for a place to push.
    pub(crate) async fn push(&self, app: AppId) -> Result<Slot, Problem> {
        self.pushes.take(app).await
    }

    /// Waits for a place to fetch.
    pub(crate) async fn fetch(&self, app: AppId) -> Result<Slot, Problem> {
        self.fetches.take(app).await
    }

    /// Waits for a place for an object to come or go.
    pub(crate) async fn object(&self, app: AppId) -> Result<Slot, Problem> {
        self.objects.take(app).await
    }
}

impl Places {
    fn new(count: usize, of_one_app: usize) -> Self {
        Self { of_one_app, of_all: Arc::new(Semaphore::new(count)), of_apps: Mutex::default() }
    }

    /// One app's places first, so that its crowd does not hold those of all.
    async fn take(&self, app: AppId) -> Result<Slot, Problem> {
        let of_app = {
            let mut apps = lock(&self.of_apps);
            let most = self.of_one_app;
            apps.retain(|_, places| Arc::strong_count(places) > 1 || places.available_permits() < most);
            Arc::clone(apps.entry(app).or_insert_with(|| Arc::new(Semaphore::new(most))))
        };
        let both = async {
            let of_app = of_app.acquire_owned().await.ok()?;
            let of_all = Arc::clone(&self.of_all).acquire_owned().await.ok()?;
            Some(Slot { _of_all: of_all, _of_app: of_app })
        };
        tokio::time::timeout(PATIENCE, both).await.ok().flatten().ok_or_else(|| {
            Problem::new(Code::RateLimited, "Too many are pushing or fetching at the moment.")
                .hint("Try again in a minute.")
        })
    }
}
