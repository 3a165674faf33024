//! Places where a test has the daemon stand still, so that it can be killed exactly there.
//!
//! `BERTH_TEST_PAUSE` names a file; while it holds `before:switching`, whoever comes to that place waits there for
//! ever, having made a second file `….reached` beside it. In a release build there are no such places.

/// Before something is committed.
pub async fn before(point: &str) {
    stand_still("before", point).await;
}

/// After something was committed, and before anything else is done.
pub async fn after(point: &str) {
    stand_still("after", point).await;
}

#[cfg(debug_assertions)]
async fn stand_still(side: &str, point: &str) {
    use std::{path::PathBuf, sync::OnceLock};
    static ORDERS: OnceLock<Option<PathBuf>> = OnceLock::new();
    let orders = ORDERS.get_or_init(|| std::env::var_os("BERTH_TEST_PAUSE").map(PathBuf::from));
    let Some(path) = orders else { return };
    let Ok(wanted) = tokio::fs::read_to_string(path).await else { return };
    if wanted.trim() == format!("{side}:{point}") {
        tracing::warn!(side, point, "standing still, as a test wants it");
        let _ = tokio::fs::write(path.with_extension("reached"), wanted).await;
        std::future::pending::<()>().await;
    }
}

#[cfg(not(debug_assertions))]
async fn stand_still(_side: &str, _point: &str) {}
