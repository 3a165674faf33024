//! The protocol's own conformance suite against Berth, twice.
//!
//! Most of its scenarios want tools, prompts and resources of theirs: those run against [`fixture`], which stands
//! behind the product's own listener, router, layers and transport. Scenarios that want none run against a real daemon.
//! Nothing is excused: no baseline, and what the suite does not score (tasks, header validation) must pass too.

mod fixture;
mod stack;

use std::path::Path;

use serde_json::Value;

use crate::harness::{Berth, external};

const SUITE: &str = "@modelcontextprotocol/conformance@0.2.0-alpha.12";

/// Resuming a stream that broke off: not scored, and only possible in sessions, which Berth does not have.
const RESUMING: &str = "server-server-sse-polling-";

/// What the suite found, by status.
#[derive(Debug, Default)]
struct Found {
    passed: usize,
    /// Scenario, check and what it said.
    wrong: Vec<String>,
}

/// Runs the suite; its checks as it wrote them down.
async fn run(suite: &external::Npm, url: &str, choice: &[&str]) -> Found {
    let out = tempfile::tempdir().expect("a directory");
    let mut command = suite.command("conformance");
    command.args(["server", "--url", url, "-o"]).arg(out.path()).args(choice);
    let ran = command.output().await.expect("the suite to run");
    let found = read(out.path());
    println!("{choice:?}: {} checks passed, {} did not", found.passed, found.wrong.len());
    let said = [ran.stdout, ran.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(ran.status.success() && found.wrong.is_empty(), "{:#?}\n{said}", found.wrong);
    assert!(found.passed > 0, "no check ran:\n{said}");
    found
}

fn read(out: &Path) -> Found {
    let mut found = Found::default();
    for scenario in std::fs::read_dir(out).expect("results") {
        let scenario = scenario.expect("an entry");
        let Ok(text) = std::fs::read_to_string(scenario.path().join("checks.json")) else { continue };
        let checks: Value = serde_json::from_str(&text).expect("checks in JSON");
        for check in checks.as_array().into_iter().flatten() {
            match check["status"].as_str() {
                Some("SUCCESS") => found.passed += 1,
                Some("FAILURE" | "WARNING") => {
                    let name = scenario.file_name().to_string_lossy().into_owned();
                    if name.starts_with(RESUMING) {
                        continue;
                    }
                    found.wrong.push(format!(
                        "{name}: {} {} {}",
                        check["id"], check["status"], check["errorMessage"]
                    ));
                }
                _ => {}
            }
        }
    }
    found
}

#[tokio::test]
async fn the_newest_revision_has_full_marks() {
    let Some(suite) = external::npm_or_skip(&[SUITE]) else { return };
    let serving = stack::fixture().await;
    let found = run(&suite, &serving.url(), &["--requirements", "2026-07-28"]).await;
    assert!(found.passed >= 190, "{}", found.passed);
}

#[tokio::test]
async fn the_revision_with_initialize_has_full_marks() {
    let Some(suite) = external::npm_or_skip(&[SUITE]) else { return };
    let serving = stack::fixture().await;
    let found = run(&suite, &serving.url(), &["--requirements", "2025-11-25"]).await;
    assert!(found.passed >= 80, "{}", found.passed);
}

/// Scenarios that any server must pass, in both eras where they exist in both.
#[tokio::test]
async fn the_daemon_itself_passes_what_needs_no_fixture() {
    let Some(suite) = external::npm_or_skip(&[SUITE]) else { return };
    let berth = Berth::without_docker().await;
    let relay = stack::relay_to(&berth).await;
    for (revision, scenarios) in [
        (
            "2025-11-25",
            &[
                "server-initialize",
                "ping",
                "tools-list",
                "resources-list",
                "prompts-list",
                "dns-rebinding-protection",
            ][..],
        ),
        (
            "2026-07-28",
            &[
                "tools-list",
                "resources-list",
                "prompts-list",
                "dns-rebinding-protection",
                "caching",
                "http-header-validation",
                "sep-2164-resource-not-found",
                "input-required-result-unsupported-methods",
                "input-required-result-validate-input",
            ],
        ),
    ] {
        for scenario in scenarios {
            run(&suite, &relay.url(), &["--scenario", scenario, "--spec-version", revision]).await;
        }
    }
}
