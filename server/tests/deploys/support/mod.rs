//! What the stories are written with.

pub(crate) mod api;
pub(crate) mod apps;
pub(crate) mod archive;
pub(crate) mod before;
pub(crate) mod cli;
pub(crate) mod daemon;
pub(crate) mod disk;
pub(crate) mod docker;
pub(crate) mod mcp;
pub(crate) mod own_engine;
pub(crate) mod relay;
pub(crate) mod sse;
pub(crate) mod traffic;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

pub(crate) use daemon::{Berth, Options};
pub(crate) use serde_json::{Value, json};

/// Ends a test where Docker is missing: with a word, or with a failure where Docker is required.
macro_rules! needs_docker {
    () => {
        if !crate::support::docker::available() {
            return;
        }
    };
}

/// An example app of the repository.
pub(crate) fn example(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../evals/examples").join(name).canonicalize().unwrap()
}

/// Asks again until there is an answer; panics with `what` when it takes longer than `limit`.
pub(crate) async fn eventually<T>(what: &str, limit: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begun.elapsed() < limit, "{what} did not happen within {limit:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A number that the reader of a test run may want to know.
pub(crate) fn measured(what: &str, took: Duration) {
    println!("measured: {what}: {:.0} ms", took.as_secs_f64() * 1000.0);
}

/// Texts of an array of strings.
pub(crate) fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}
