//! What there was before something failed: afterwards there must be no more and no less.

use std::time::Duration;

use serde_json::Value;

use super::{Berth, docker, eventually};

/// Things of a daemon in Docker and on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Before {
    containers: Vec<String>,
    images: Vec<String>,
    networks: Vec<String>,
    releases: Vec<String>,
    work: Vec<String>,
}

impl Before {
    /// As it is now, once nobody reads an image for source maps any more: that comes after a switch and ends by itself.
    pub(crate) async fn something(berth: &Berth) -> Self {
        eventually("the end of reading source maps", Duration::from_secs(30), async || {
            let now = Self::of(berth);
            let reads = now.work.iter().any(|name| name.starts_with("maps-"));
            (!reads).then_some(now)
        })
        .await
    }

    fn of(berth: &Berth) -> Self {
        let mut containers = docker::containers(&berth.instance);
        containers.sort();
        let releases = berth.entries("releases");
        let releases = releases.iter().flat_map(|app| {
            berth.entries(&format!("releases/{app}")).into_iter().map(move |n| format!("{app}/{n}"))
        });
        Self {
            containers,
            images: docker::images(&berth.instance),
            networks: docker::networks(&berth.instance),
            releases: releases.collect(),
            work: berth.entries("work"),
        }
    }

    /// Wants everything to be as it was, at the latest a few seconds later.
    pub(crate) async fn assert_same(&self, berth: &Berth) {
        let begun = std::time::Instant::now();
        loop {
            let now = Self::of(berth);
            if now == *self {
                return;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(15),
                "something was left:\n{now:#?}\nbefore:\n{self:#?}"
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Wants a problem to have this code and step, and its texts to say these things; none of them may be empty.
pub(crate) fn assert_problem(
    problem: &Value,
    code: &str,
    step: Option<&str>,
    detail: &[&str],
    hint: &[&str],
) {
    assert_eq!((problem["code"].as_str(), problem["step"].as_str()), (Some(code), step), "{problem:#}");
    for (field, wanted) in [("detail", detail), ("hint", hint)] {
        let said = problem[field].as_str().unwrap_or_default();
        assert!(said.len() > 8, "{field} says nothing: {problem:#}");
        for part in wanted {
            assert!(said.contains(part), "{field} does not say {part:?}: {problem:#}");
        }
    }
}

/// Waits until no process of the machine has `text` in its command line.
pub(crate) async fn no_process_with(text: &str) {
    eventually(&format!("the end of {text:?}"), Duration::from_secs(15), async || {
        docker::processes_with(text).is_empty().then_some(())
    })
    .await;
}

/// Waits until some process has `text` in its command line.
pub(crate) async fn a_process_with(text: &str) {
    eventually(&format!("the start of {text:?}"), Duration::from_secs(60), async || {
        (!docker::processes_with(text).is_empty()).then_some(())
    })
    .await;
}
