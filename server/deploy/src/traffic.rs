//! What visitors meet besides the live release: pause and maintenance. Orthogonal to deployments, which go on behind.

use berth_schemas::{Problem, Timestamp, traffic::TrafficMode};
use berth_store::model::{AppRow, Principal};

use crate::pipeline::{Pipeline, being_deleted};

/// What a caller wants visitors to meet.
#[derive(Debug, Clone)]
pub enum TrafficWish {
    /// The app.
    Open,
    /// Nothing for now: new requests wait up to so many seconds.
    Pause {
        /// Seconds.
        hold_s: u32,
    },
    /// A page.
    Maintenance {
        /// What it says.
        message: Option<String>,
        /// After how many seconds visitors are told to come again.
        retry_after_s: Option<u32>,
    },
}

impl Pipeline {
    /// Sets what visitors of an app meet, durably and at once.
    ///
    /// # Errors
    /// `Conflict` when the app is being deleted.
    pub async fn set_traffic(
        &self,
        who: &Principal,
        app: &AppRow,
        wish: TrafficWish,
    ) -> Result<AppRow, Problem> {
        let inner = &self.0;
        // What is committed last is also what the data plane is told last.
        let _inside = inner.modes.enter(app.environment.id).await;
        let before = inner.app_in(app.environment.id).await?;
        if before.deleting {
            return Err(being_deleted(&before));
        }
        let (by, since) = (who.name.clone(), Timestamp::now());
        let mode = match wish {
            TrafficWish::Open => TrafficMode::Open,
            TrafficWish::Pause { hold_s } => TrafficMode::Paused { hold_s, by, since },
            TrafficWish::Maintenance { message, retry_after_s } => {
                TrafficMode::Maintenance { message, retry_after_s, by, since }
            }
        };
        let app = inner.store.apps().set_traffic(who, app.environment.id, mode).await?;
        if app.environment.traffic != before.environment.traffic {
            inner.routes.set_mode(&app);
        }
        Ok(app)
    }

    /// Requests of an app that wait now because it is paused.
    #[must_use]
    pub fn waiting(&self, app: &AppRow) -> usize {
        self.0.routes.waiting(app.environment.id)
    }
}
