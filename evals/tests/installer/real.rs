//! The trial and an install with the real program, where it has been built.
//!
//! Cargo gives a test the path of its own package's programs only; the real one is looked for beside them.
//! `BERTH_TEST_REQUIRE_BERTH` makes its absence a failure (the project's test run builds it first).

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
};

use berth_evals::{program::program, release::Release};

use crate::world::{World, free_port, needs};

fn berth() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_BIN_EXE_berth-release")).with_file_name("berth");
    let output = program(&beside).arg("--version").output();
    let version = output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default();
    let current = format!("berth {}", env!("CARGO_PKG_VERSION"));
    if version.starts_with(&current) {
        return Some(beside);
    }
    let problem = format!("{} is not built, or is not {current}: cargo build -p berth", beside.display());
    assert!(std::env::var_os("BERTH_TEST_REQUIRE_BERTH").is_none(), "{problem}");
    println!("skipped: {problem}");
    None
}

fn get(port: u16, host: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the proxy");
    write!(stream, "GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").expect("request");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("answer");
    text
}

#[test]
fn the_trial_serves_the_example() {
    let Some(binary) = berth() else { return };
    if !needs("curl") {
        return;
    }
    let world = World::new();
    let data = world.path().join("trial");
    let (control, http) = (free_port(), free_port());
    let (control_text, http_text) = (control.to_string(), http.to_string());
    let arguments = ["--binary", binary.to_str().expect("path"), "--data-dir", data.to_str().expect("path")];
    let ports = ["--control-port", control_text.as_str(), "--http-port", http_text.as_str()];
    let outcome = world.try_run(&[&arguments[..], &ports].concat());
    let page = outcome.ok.then(|| get(http, &format!("hello.localhost:{http}")));
    // What has ended cannot say any more which containers were its.
    let stopped = world.try_run(&[&arguments[..], &["--stop"]].concat());
    let cleaned = world.try_run(&[&arguments[..], &["--clean"]].concat());
    assert!(outcome.ok && stopped.ok, "{outcome:#?}\n{stopped:#?}");
    assert!(!cleaned.stdout.contains("may be left in Docker"), "{cleaned:#?}");
    let page = page.unwrap_or_default();
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("Your app has a berth."), "{page}");
    assert!(cleaned.ok && !data.exists(), "{cleaned:#?}");
}

#[test]
fn the_real_program_installs_and_answers() {
    let Some(binary) = berth() else { return };
    if !needs("curl") {
        return;
    }
    let world = World::new();
    let files = [("berth".to_owned(), fs::read(binary).expect("program"))].into();
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let release = Release { version, arch: std::env::consts::ARCH.into(), epoch: 0, level: 0, files };
    let mut release = release;
    release.write(&world.releases()).expect("release");
    let installed = world.install(&["--start", "--domain", "localhost"]);
    assert_eq!(installed.status(), "installed", "{installed:#?}");
    assert!(world.answers(world.control_port, "/healthz"));
    assert!(
        installed.stdout.contains("claude mcp add"),
        "the first start gives a token: {}",
        installed.stdout
    );
    assert_eq!(world.install(&["--start"]).status(), "unchanged");
    // Another archive of the same program: the running daemon hands over to it.
    release.files.insert("README.md".into(), b"another".to_vec());
    release.write(&world.releases()).expect("release");
    let upgraded = world.install(&["--start"]);
    assert_eq!(upgraded.status(), "upgraded", "{upgraded:#?}");
    assert!(upgraded.stdout.contains("has taken over"), "{upgraded:#?}");
    assert!(world.answers(world.control_port, "/healthz"));
    assert_eq!(world.uninstall(&["--purge"]).status(), "purged");
    assert!(!world.data().exists());
}
