//! The rules of the tree that a compiler does not check.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may fail this way")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// Which crates of the workspace each may depend on. Nothing else may.
const ARROWS: &[(&str, &[&str])] = &[
    ("berth-schemas", &[]),
    ("berth-proxy", &["berth-schemas"]),
    ("berth-store", &["berth-schemas"]),
    ("berth-observe", &["berth-schemas", "berth-store"]),
    ("berth-deploy", &["berth-schemas", "berth-store", "berth-observe", "berth-proxy"]),
    ("berth-certs", &["berth-schemas", "berth-store", "berth-proxy"]),
    ("berth-forge", &["berth-schemas", "berth-store", "berth-deploy"]),
    ("berth-monitor", &["berth-schemas", "berth-store", "berth-deploy"]),
    (
        "berth-tools",
        &[
            "berth-schemas",
            "berth-store",
            "berth-observe",
            "berth-deploy",
            "berth-proxy",
            "berth-certs",
            "berth-forge",
            "berth-monitor",
        ],
    ),
    ("berth-mcp", &["berth-schemas", "berth-store", "berth-tools"]),
    (
        "berth",
        &[
            "berth-schemas",
            "berth-store",
            "berth-observe",
            "berth-deploy",
            "berth-proxy",
            "berth-certs",
            "berth-forge",
            "berth-monitor",
            "berth-tools",
            "berth-mcp",
        ],
    ),
    // Black box: it sees the wire types, and the data plane's library for its benchmark.
    ("berth-evals", &["berth-schemas", "berth-proxy"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}

#[expect(clippy::disallowed_methods, reason = "asks cargo, by argv, about the workspace it is testing")]
fn metadata() -> serde_json::Value {
    let output = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo prints JSON")
}

#[test]
fn dependencies_point_one_way() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        ARROWS.iter().map(|(name, to)| (*name, to.iter().copied().collect())).collect();
    let metadata = metadata();
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a name");
        let Some(allowed) = allowed.get(name) else {
            wrong.push(format!("{name} is not in the list of crates"));
            continue;
        };
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let to = dependency["name"].as_str().expect("a name");
            // What only tests need may point anywhere.
            let ours = to == "berth" || to.starts_with("berth-");
            if ours && dependency["kind"].is_null() && !allowed.contains(to) {
                wrong.push(format!("{name} → {to}"));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that the design does not have: {wrong:?}");
}

#[test]
fn nothing_starts_a_shell() {
    let mut found = Vec::new();
    for file in sources(&root()) {
        let text = std::fs::read_to_string(&file).expect("readable");
        for (number, line) in text.lines().enumerate() {
            let starts_one = (line.contains("Command::new(\"sh\")")
                || line.contains("Command::new(\"bash\")"))
                && !file.ends_with("evals/tests/structure.rs");
            // The installer is a shell script, and its tests run it as its users do.
            if starts_one && !file.ends_with("evals/tests/installer.rs") {
                found.push(format!("{}:{}", file.display(), number + 1));
            }
        }
    }
    assert!(found.is_empty(), "{found:?}");
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("readable").flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}
