//! The short form of the soak, with the real daemon where it has been built and Docker where it answers.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may fail this way")]

use std::{env, path::Path};

use berth_evals::program::program;

/// Whether what the soak needs is there; says so where it is not, and fails where it must be.
fn ready() -> bool {
    let beside = Path::new(env!("CARGO_BIN_EXE_berth-soak")).with_file_name("berth");
    let built = program(&beside).arg("--version").output().is_ok_and(|o| o.status.success());
    let docker = program("docker").arg("version").output().is_ok_and(|o| o.status.success());
    for (there, required, problem) in [
        (built, "BERTH_TEST_REQUIRE_BERTH", "berth is not built: cargo build -p berth"),
        (docker, "BERTH_TEST_REQUIRE_DOCKER", "Docker does not answer"),
    ] {
        if !there {
            assert!(env::var_os(required).is_none(), "{problem}");
            println!("skipped: {problem}");
            return false;
        }
    }
    true
}

fn soak(arguments: &[&str]) {
    let output = program(env!("CARGO_BIN_EXE_berth-soak")).args(arguments).output().expect("the soak starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{out}");
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
}

#[test]
fn a_few_deployments_lose_nothing() {
    if ready() {
        soak(&["switch", "--short"]);
    }
}

#[test]
fn a_few_upgrades_lose_nothing() {
    if ready() {
        soak(&["upgrade", "--short"]);
    }
}

#[test]
fn changes_of_domains_and_renewals_lose_nothing() {
    let pebble = ["pebble", "pebble-challtestsrv"].iter().all(|name| {
        env::split_paths(&env::var_os("PATH").unwrap_or_default()).any(|dir| dir.join(name).is_file())
    });
    if !pebble {
        assert!(env::var_os("BERTH_TEST_REQUIRE_PEBBLE").is_none(), "pebble is required, and not there");
        println!("skipped: pebble and pebble-challtestsrv are not installed (Debian package pebble)");
    } else if ready() {
        soak(&["domains", "--short"]);
    }
}
